//! Packets of kernel tracks in the clear, for those whom the kernel cannot serve.

use std::sync::PoisonError;

use aya::maps::{MapData, RingBuf};
use forwarder_common::ExtendedSeq;

use super::{KernelEngine, install::refused, state::State, wire};
use crate::{EngineError, PublisherTrackId, slots::Slots};

/// The mark of tap numbers, which are never 0.
const TAP: u32 = 1 << 31;

/// The number in the records of a track.
pub(super) fn number(handle: u32) -> u32 {
    handle | TAP
}

impl KernelEngine {
    /// Each packet of this track also goes to the reader of [`take_taps`](Self::take_taps), or no more.
    ///
    /// # Errors
    /// [`EngineError::Unknown`], [`EngineError::Kernel`].
    pub fn set_tap(&self, track: PublisherTrackId, on: bool) -> Result<(), EngineError> {
        let mut state = self.shared.lock();
        let State { tables, publishers, .. } = &mut *state;
        let publisher = publishers.get_mut(track.0).ok_or(EngineError::Unknown("publisher track"))?;
        publisher.tap = if on { number(track.0) } else { 0 };
        let slot = Slots::<()>::slot(track.0);
        let entry = wire::publisher_track(slot, publisher);
        tables.publisher_tracks.set(slot, entry, 0).map_err(refused("tapping a track"))
    }

    /// The buffer in which the packets of tapped tracks arrive, as [`forwarder_common::maps::TapRecord`]. Once.
    pub fn take_taps(&self) -> Option<RingBuf<MapData>> {
        self.taps.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// The track whose packets have this number in their records.
    pub fn tapped(tap: u32) -> PublisherTrackId {
        PublisherTrackId(tap & !TAP)
    }

    /// RTP clock in Hz of a track, and the highest index that it has accepted.
    pub fn source(&self, track: PublisherTrackId) -> Option<(u32, ExtendedSeq)> {
        let state = self.shared.lock();
        let clock_rate = state.publishers.get(track.0)?.track.clock_rate;
        let seen = state.tables.publisher_state(Slots::<()>::slot(track.0)).ok()?;
        Some((clock_rate, seen.replay.highest_accepted()))
    }
}
