//! What a connection to a source brings.

use std::{
    task::{Context, Poll},
    time::Instant,
};

use penstock_rtp::Unfit;

use crate::ingest::error::SourceError;

/// RTP or RTCP of a track, by its place in the description.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::ingest) enum Packet<'a> {
    Rtp(usize, &'a [u8]),
    Rtcp(usize, &'a [u8]),
    /// One that is not even looked at.
    Unfit(usize, Unfit),
}

/// What a connection has brought that is nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::ingest) struct Skipped {
    /// Bytes that are neither a frame nor a message.
    pub(in crate::ingest) bytes: u64,
    /// Frames of a channel that no track has.
    pub(in crate::ingest) frames: u64,
}

/// A connection that brings packets.
pub(in crate::ingest) trait Packets {
    /// Reads once, and hands out what came. `Ready`: there may be more.
    fn poll_packets(
        &mut self,
        context: &mut Context<'_>,
        take: &mut dyn FnMut(Packet<'_>),
    ) -> Poll<Result<(), SourceError>>;

    /// When [`attend`](Self::attend) shall be called; a time that has passed means at once.
    fn attend_at(&self) -> Option<Instant> {
        None
    }

    /// Says what keeps packets coming: signs of life, answers.
    async fn attend(&mut self) -> Result<(), SourceError> {
        Ok(())
    }

    /// What was skipped since this was asked last.
    fn take_skipped(&mut self) -> Skipped {
        Skipped::default()
    }

    /// Whether packets of a track may overtake each other on their way.
    fn is_unordered(&self, track: usize) -> bool;
}
