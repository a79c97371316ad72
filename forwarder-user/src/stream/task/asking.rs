//! What publishers' packets lack, asked for (NACK). When and how often: `penstock_webrtc::gaps`.
//!
//! Engines count, for all SSRCs together, how often a packet came before others. While that stands still and nothing is
//! waited for, a look costs one counter, however many publishers there are.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use super::Task;
use crate::stream::ids::Key;
use crate::stream::session::Attachment;
use penstock_engine::Kind;
use penstock_webrtc::gaps::{Figures, Gaps, Received, TOLERANCE};
use penstock_webrtc::rtcp::{self, Feedback};

/// Time between two looks.
const LOOK: Duration = TOLERANCE;

/// Whom to ask, and when to look next.
#[derive(Default)]
pub(super) struct Asking {
    /// Publishers that send again what they are asked for.
    publishers: BTreeSet<Key>,
    next: Option<Instant>,
    /// The engine's count at the last look.
    gaps: u64,
    /// Something is waited for, or an SSRC is new.
    waiting: bool,
}

impl Asking {
    /// A publisher has an SSRC of which packets may be asked for.
    pub(super) fn begin(&mut self, publisher: Key, now: Instant) {
        self.publishers.insert(publisher);
        self.waiting = true;
        self.next.get_or_insert(now + LOOK);
    }

    /// When to look.
    pub(super) fn due(&self) -> Option<Instant> {
        self.next
    }
}

impl Task {
    /// Looks for what is missing, if it is time, and asks for it.
    pub(super) fn ask_publishers(&mut self, now: Instant) {
        if self.asking.next.is_none_or(|next| next > now) {
            return;
        }
        self.asking.next = (!self.asking.publishers.is_empty()).then(|| now + LOOK);
        let gaps = self.engine.gaps();
        if gaps == self.asking.gaps && !self.asking.waiting {
            return;
        }
        (self.asking.gaps, self.asking.waiting) = (gaps, false);
        let publishers: Vec<Key> = self.asking.publishers.iter().copied().collect();
        for publisher in publishers {
            match self.ask(publisher, now) {
                Some(waiting) => self.asking.waiting |= waiting,
                None => drop(self.asking.publishers.remove(&publisher)),
            }
        }
    }

    /// Asks one. Says whether anything is waited for; `None`: it has gone.
    fn ask(&mut self, publisher: Key, now: Instant) -> Option<bool> {
        let session = self.sessions.get_mut(publisher)?;
        let our_ssrc = session.media.as_ref()?.ssrc;
        let (mut feedback, mut waiting, mut keyframe) = (vec![], false, false);
        for track in session.publisher_tracks_mut().iter_mut().filter(|track| track.nack && track.is_forwarded()) {
            let is_video = track.kind() == Kind::Video;
            let Some(source) = track.source.as_mut() else { continue };
            let from = source.gaps.as_ref().map_or(u64::MAX, Gaps::from);
            // What came up to us while the SSRC was learnt is in no list, and not missing.
            let began = || self.engine.publisher_stats(source.id).is_some_and(|stats| stats.packets > 0);
            if source.gaps.is_none() && !began() {
                waiting = true;
                continue;
            }
            let Some(received) = self.engine.received(source.id, from) else { continue };
            let gaps = source.gaps.get_or_insert_with(|| Gaps::new(received.highest));
            let before = gaps.figures();
            let penstock_engine::Received { floor, highest, missing } = received;
            let look = gaps.look(now, &Received { floor, highest, missing });
            waiting |= gaps.is_waiting();
            let Figures { asked, repaired, given_up, .. } = gaps.figures();
            self.counters.packets_asked_for += asked - before.asked;
            self.counters.packets_repaired += repaired - before.repaired;
            self.counters.packets_given_up += given_up - before.given_up;
            if !look.ask.is_empty() {
                let missing = look.ask.iter().map(|index| *index as u16).collect();
                feedback.push(Feedback::Nack { ssrc: source.ssrc, missing });
            }
            if look.given_up > 0 && is_video {
                track.keyframes.want();
                keyframe = true;
            }
        }
        let plain = rtcp::to_publisher(our_ssrc, &session.cname, &[], &feedback).ok().filter(|_| !feedback.is_empty());
        if let (Some(plain), Some(media)) = (plain, session.media.as_mut())
            && let Some(sealed) = media.sealer.seal(&plain)
        {
            let pair = media.pair;
            self.send(pair.socket, pair.peer, &sealed);
        }
        if keyframe {
            self.report(publisher, now);
            self.arm(publisher, now);
        }
        Some(waiting)
    }

    /// Has the publisher that feeds a viewer's track been asked for the packet with this index?
    pub(super) fn is_awaited(&self, viewer: Key, track: usize, index: u64) -> bool {
        let Some(session) = self.sessions.get(viewer) else { return false };
        let attachment = session.viewer_tracks().get(track).map(|track| track.attachment);
        let Some(Attachment::Attached { from, .. }) = attachment else { return false };
        let sent = self.streams.sent(&session.stream, &self.sessions);
        let source = sent.iter().filter_map(|track| track.source.as_ref()).find(|source| source.id == from);
        source.and_then(|source| source.gaps.as_ref()).is_some_and(|gaps| gaps.waits_for(index))
    }
}
