//! What a player by RTSP asks of the control task, and what it is told.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use penstock_engine::Ear;
use penstock_media::codec::Format;
use tokio::sync::oneshot;

/// Number of a player, never used again.
pub type PlayerId = u64;

/// Why a stream cannot be played, in words.
#[derive(Debug)]
pub enum Unplayable {
    /// There is no such stream now.
    NotFound(String),
    /// Try again later.
    Unavailable(String),
}

/// The answer to a player that wants to watch.
#[derive(Debug)]
pub struct Watching {
    /// What the stream has, in the order of its tracks.
    pub formats: Vec<Format>,
    /// Says, or is dropped, when the player cannot go on.
    pub ended: oneshot::Receiver<&'static str>,
}

/// Whom the answer goes to.
pub type Reply = oneshot::Sender<Result<Watching, Unplayable>>;

/// A track that is to be played.
#[derive(Debug)]
pub struct Listening {
    /// Its place in [`Watching::formats`].
    pub track: usize,
    /// Where its packets go.
    pub ear: Ear,
    /// What sender reports are made of.
    pub reference: Reference,
}

/// What a player asks.
#[derive(Debug)]
pub enum Asked {
    /// It wants to watch: counts as a viewer from now on.
    Watch {
        /// The name that it wants.
        stream: String,
        /// For the log.
        peer: SocketAddr,
        /// Answered when it is known what the stream has.
        reply: Reply,
    },
    /// These tracks are to flow.
    Listen(Vec<Listening>),
    /// It has gone.
    Leave,
}

/// The same moment by two clocks, as the control task told it last.
#[derive(Clone, Debug, Default)]
pub struct Reference(Arc<Mutex<Option<Moment>>>);

/// See [`Reference`].
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    /// Of the publisher whose timestamps these are: as in `Heard`.
    pub turn: u32,
    /// By our clock.
    pub at: Instant,
    /// The same as wall clock: seconds since 1900 in the upper 32 bits, their fraction in the lower.
    pub ntp: u64,
    /// The publisher's RTP timestamp.
    pub rtp: u32,
}

impl Reference {
    /// Replaces the last one.
    pub fn set(&self, moment: Moment) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(moment);
    }

    /// The last one.
    pub fn get(&self) -> Option<Moment> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
