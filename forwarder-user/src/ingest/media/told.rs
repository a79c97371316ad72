//! Why viewers may see nothing: looked for, and told to log, API and metrics.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use super::{Heard, Media};
use crate::ingest::{lookout, reason::Reasons};

/// Why viewers may see nothing, as it was told.
#[derive(Default)]
pub(super) struct Told {
    /// What follows from the description.
    pub(super) described: Reasons,
    now: Reasons,
    /// When each was logged last.
    logged: BTreeMap<&'static str, Instant>,
}

/// A reason that comes and goes is logged no more often than so.
const LOG_AGAIN: Duration = Duration::from_secs(600);

impl Media {
    /// How long nothing need come: a source's frames may be far apart.
    pub(super) fn patience(&self) -> Duration {
        let heard = self.tracks.iter().filter(|track| track.watch.any);
        heard.map(|track| track.watch.patience()).max().unwrap_or(lookout::STALLED)
    }

    /// Looks at each track, and says what is wrong.
    pub(super) fn look(&mut self, heard: &Heard, now: Instant) {
        let mut reasons = self.told.described.join(heard.drops);
        for at in 0..self.tracks.len() {
            let others = self.tracks.iter().enumerate().filter(|(other, _)| *other != at);
            let others = others.map(|(_, track)| track.watch.heard).max();
            let Some(track) = self.tracks.get_mut(at) else { continue };
            let seen = track.pipeline.seen();
            reasons = reasons.join(track.watch.look(track.format.codec, &seen, others, now));
        }
        if let Some(bad) = self.bad_sound() {
            reasons.insert(bad);
        }
        self.tell_reasons(reasons, now);
    }

    pub(super) fn tell_reasons(&mut self, reasons: Reasons, now: Instant) {
        let before = std::mem::replace(&mut self.told.now, reasons);
        if before == reasons {
            return;
        }
        self.status.lock().explain(before, reasons);
        for reason in reasons.iter().filter(|reason| !before.contains(*reason)) {
            self.place.totals.explained(reason);
            let last = self.told.logged.get(reason.name());
            if last.is_none_or(|last| now.saturating_duration_since(*last) >= LOG_AGAIN) {
                self.told.logged.insert(reason.name(), now);
                tracing::warn!(stream = self.name, source = self.origin, reason = reason.name(), "{}", reason.text());
            }
        }
    }
}
