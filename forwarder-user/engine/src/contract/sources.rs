//! What only sources need of an engine: tracks whose packets arise in this process, in the clear.

use std::{future::Future, pin::Pin, time::Instant};

use forwarder_common::{ExtendedSeq, RtpHeader};

use super::types::{EngineError, PublisherTrackId};

/// A publisher track whose packets come from this process: opened by the kernel engine, or made by a
/// source of our own.
#[derive(Clone, Copy, Debug)]
pub struct NewSource {
    /// RTP clock in Hz.
    pub clock_rate: u32,
    /// The last index that is not forwarded; 0 for a new source, whose first packet has index 1.
    pub last: ExtendedSeq,
    /// What it keeps of its packets.
    pub keep: Keep,
    /// Its indices come in order, so that little memory tells which have come.
    pub ordered: bool,
}

/// What is to be kept, in bytes; 0: nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Keep {
    /// Of the group of pictures that goes on, if it is not longer.
    pub group: usize,
    /// Of the last packets.
    pub recent: usize,
}

/// What a track keeps, for API and metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct KeptStats {
    /// Memory that the packets take, and the most that they may.
    pub bytes: usize,
    /// The most that `bytes` may reach: the larger one of [`Keep`]'s two.
    pub limit: usize,
    /// Packets that a new subscriber would get.
    pub packets: usize,
    /// Groups of pictures that were longer than the limit and were let go.
    pub overflows: u64,
    /// Subscribers that began with a kept keyframe, and those for which there was none.
    pub hits: u64,
    /// Subscribers that found no kept keyframe and wait for the next one.
    pub misses: u64,
}

/// An engine that takes sources.
pub trait Sources: Send + Sync {
    /// A publisher track whose packets come by [`feeder`](Self::feeder). It ends by
    /// [`Engine::remove_publisher_track`](crate::Engine::remove_publisher_track).
    ///
    /// # Errors
    /// [`EngineError::Full`].
    fn add_source(&self, source: NewSource) -> Result<PublisherTrackId, EngineError>;

    /// The way in for a thread that has packets of sources. `None`: the engine has no sockets yet.
    fn feeder(&self) -> Option<Box<dyn Feeder>>;

    /// What a track keeps for new subscribers; `None` if nothing.
    fn kept_stats(&self, track: PublisherTrackId) -> Option<KeptStats>;
}

/// One thread's way in. Only one of an engine may feed the tracks that keep packets, or packets overtake each other.
pub trait Feeder: Send {
    /// Takes a packet: its plaintext, with the index that its holder gives it. Each index of a source is taken once,
    /// and none too far behind the highest. `key`: it is of a frame at which decoding can start.
    fn push(&mut self, track: PublisherTrackId, index: ExtendedSeq, header: &RtpHeader, payload: &[u8], key: bool);

    /// Asks for the memory of a track that will be pushed to soon.
    fn prefetch(&self, track: PublisherTrackId);

    /// Sends what was pushed to all subscribers.
    fn flush(&mut self);

    /// Waits until new subscribers are to get the next part of what was kept for them. `last`: when they got the
    /// part before.
    fn behind(&self, last: Instant) -> Pin<Box<dyn Future<Output = ()>>>;

    /// Sends the next part, if it is time. `last` is when it did so before.
    fn catch_up(&mut self, last: &mut Instant);

    /// Lets go what a track has kept: its source has gone.
    fn forget(&self, track: PublisherTrackId);
}
