//! What all sources have met together, by name: for the metrics, whose counters must not fall when a source goes.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use serde::Serialize;

use penstock_rtp::Unfit;

use super::{error::SourceError, reason::Reason};

/// Reason for what is dropped by its interleaved channel, which no track has.
pub(super) const OTHER_CHANNEL: &str = "other_channel";

/// As they are now.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Figures {
    /// Connections that failed, by the name of the error.
    pub failures: BTreeMap<&'static str, u64>,
    /// Packets that were dropped, by reason.
    pub dropped: BTreeMap<&'static str, u64>,
    /// Times that viewers of a source began to see nothing, or less than they should, by reason.
    pub reasons: BTreeMap<&'static str, u64>,
    /// Bytes of RTSP connections that were neither a frame nor a message.
    pub stray_bytes: u64,
}

/// Written by the thread of the sources, read by the control task.
#[derive(Clone, Debug, Default)]
pub struct Totals(Arc<Mutex<Figures>>);

impl Totals {
    pub(super) fn failed(&self, error: &SourceError) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner).failures.entry(error.name()).or_default() += 1;
    }

    pub(super) fn dropped(&self, why: Unfit, count: u64) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner).dropped.entry(why.name()).or_default() += count;
    }

    /// A reason has begun to hold for some source.
    pub(super) fn explained(&self, reason: Reason) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner).reasons.entry(reason.name()).or_default() += 1;
    }

    pub(super) fn skipped(&self, bytes: u64, frames: u64) {
        let mut figures = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        figures.stray_bytes += bytes;
        if frames > 0 {
            *figures.dropped.entry(OTHER_CHANNEL).or_default() += frames;
        }
    }

    /// A copy; counters never fall.
    pub fn get(&self) -> Figures {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
