//! Publishers that send more than they may are not passed on for a while: their tracks leave the engine, and are learnt
//! again when what they have sent too much is made up for. The keys stay, and so does the session.

use std::time::Instant;

use super::Task;
use super::silence::TOO_FAST;
use crate::stream::ids::Key;
use crate::stream::session::{Session, Tracks};

impl Task {
    /// Charges a publisher for what has come of it since the last time.
    pub(super) fn charge(&mut self, key: Key, now: Instant) {
        let Some(session) = self.sessions.get_mut(key) else { return };
        let Session { tracks: Tracks::Publisher(tracks), media: Some(media), .. } = session else { return };
        if !media.allowance.is_due(now) {
            return;
        }
        let mut bytes = 0u64;
        for source in tracks.iter_mut().filter_map(|track| track.source.as_mut()) {
            let octets = self.engine.publisher_stats(source.id).unwrap_or_default().octets;
            bytes = bytes.saturating_add(octets.saturating_sub(source.charged));
            source.charged = octets;
        }
        let Some(pause) = media.allowance.charge(bytes, self.config.publisher_max / 8, now) else { return };
        self.counters.publishers_muted += 1;
        tracing::warn!(session = session.name, stream = session.stream, pause_ms = pause.as_millis(), "{TOO_FAST}");
        for track in 0..session.publisher_tracks().len() {
            self.learn_anew(key, track);
        }
    }
}
