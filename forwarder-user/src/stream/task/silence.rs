//! Sessions that are connected while nothing arrives: named once, with the likely cause. ICE and DTLS say that a peer is
//! there; that media passes is another matter, and nobody but us can see both.

use std::time::{Duration, Instant};

use super::Task;
use crate::stream::ids::Key;
use crate::stream::session::{Attachment, Session};
use penstock_engine::{Engine, Role};

/// A publisher is silent, or a viewer left out, after this time.
const PATIENCE: Duration = Duration::from_secs(5);
/// A viewer's receiver reports come within some seconds (RFC 3550 §6.2), and may be lost.
const REPORTS: Duration = Duration::from_secs(15);

const SILENT_PUBLISHER: &str = "connected, and for 5 s no media of it has arrived: it sends none (muted, no camera), a \
                                firewall passes its checks but not its media, or it sends what was not negotiated \
                                (rtp_other_payload_type, rtp_auth_failed)";
const LEFT_OUT: &str = "connected, and for 5 s nothing was sent to it though its publisher sends: see the drops by reason \
                        (penstock_drops_total, penstock sessions)";
/// Of a publisher that sends more than it may.
pub(super) const TOO_FAST: &str = "it sends more than `limits.publisher_max_kbps` allows: not passed on for as long as \
                                   the excess takes";
pub(super) const UNHEARD: &str = "copies leave for it, and its receiver reports tell of none: a firewall, a translation of addresses \
                       (NAT) on this host, or a path that is too narrow for its packets (MTU) is in the way";

/// What a session was seen to do.
#[derive(Debug, Default)]
pub(in crate::stream) struct Silence {
    /// Packets received or sent, and when that number changed last, and for the first time.
    packets: u64,
    changed: Option<Instant>,
    began: Option<Instant>,
    looked: Option<Instant>,
    told: bool,
    /// What is wrong at the moment.
    pub(in crate::stream) warning: Option<&'static str>,
}

impl Silence {
    /// So many packets by now. How long the number has not changed, from `connected` on.
    fn count(&mut self, packets: u64, connected: Instant, now: Instant) -> Duration {
        if packets != self.packets {
            (self.packets, self.changed) = (packets, Some(now));
            self.began.get_or_insert(now);
        }
        now.saturating_duration_since(self.changed.unwrap_or(connected))
    }

    /// Does anything pass?
    pub(super) fn moves(&self, now: Instant) -> bool {
        self.changed.is_some_and(|changed| now.saturating_duration_since(changed) < PATIENCE / 2)
    }
}

impl Task {
    /// At most once a second of each session.
    pub(super) fn look_for_silence(&mut self, key: Key, now: Instant) {
        let Some(session) = self.sessions.get(key) else { return };
        if session.silence.looked.is_some_and(|at| now.saturating_duration_since(at) < Duration::from_secs(1)) {
            return;
        }
        let sends = match session.role {
            Role::Publisher => true,
            Role::Subscriber => {
                let publisher = self.streams.publisher(&session.stream).and_then(|key| self.sessions.get(key));
                publisher.is_some_and(|publisher| publisher.silence.moves(now))
            }
        };
        let Some(session) = self.sessions.get_mut(key) else { return };
        let packets = packets(session, &*self.engine);
        let Some(connected) = session.media.as_ref().map(|media| media.connected + session.stood_still) else { return };
        session.silence.looked = Some(now);
        let silent = session.silence.count(packets, connected, now);
        let is_muted = session.media.as_ref().is_some_and(|media| media.allowance.is_spent(now));
        let warning = match session.role {
            Role::Publisher if is_muted => Some(TOO_FAST),
            Role::Publisher => (silent >= PATIENCE).then_some(SILENT_PUBLISHER),
            Role::Subscriber if silent >= PATIENCE => sends.then_some(LEFT_OUT),
            Role::Subscriber => is_unheard(session, now).then_some(UNHEARD),
        };
        session.silence.warning = warning;
        // Whoever mutes says so.
        let Some(warning) = warning
            .filter(|warning| *warning != TOO_FAST)
            .filter(|_| !std::mem::replace(&mut session.silence.told, true))
        else {
            return;
        };
        match session.role {
            Role::Publisher => self.counters.silent_publishers += 1,
            Role::Subscriber => self.counters.silent_viewers += 1,
        }
        tracing::warn!(session = session.name, stream = session.stream, role = ?session.role, "{warning}");
    }
}

/// Has it been sent something for long, and never reported to have received any?
fn is_unheard(session: &Session, now: Instant) -> bool {
    let reported = session.viewer_tracks().iter().any(|track| track.report.last.is_some());
    let began = session.silence.began;
    !reported && began.is_some_and(|began| now.saturating_duration_since(began + session.stood_still) >= REPORTS)
}

/// Packets of a session that the engine has received or sent.
fn packets(session: &Session, engine: &dyn Engine) -> u64 {
    let sources = session.publisher_tracks().iter().filter_map(|track| track.source.as_ref());
    let received = sources.filter_map(|source| Some(engine.publisher_stats(source.id)?.packets + source.passed_up));
    let sent = session.viewer_tracks().iter().map(|track| {
        let now = match track.attachment {
            Attachment::Attached { track, .. } => engine.subscriber_stats(track).unwrap_or_default().packets,
            Attachment::Idle | Attachment::Stopping { .. } => 0,
        };
        track.sent_before.0 + now
    });
    received.sum::<u64>() + sent.sum::<u64>()
}
