//! Publishers whose packets XDP does not see, or not all: another interface, a rule of this host that translates them,
//! fragments, IP options. The userspace engine opens everything that the stack delivers, so their tracks move there,
//! and back when XDP has seen every packet for a while.
//!
//! **No packet twice, no index twice.** An incoming SSRC has one replay list at any time, that of the engine which has
//! its track, and the list is handed over as one number. The control task removes the track here; the engine says
//! `PublisherTrackStopped` when nothing of it is in flight any more, with the highest index that it has ever accepted
//! (the kernel engine: after a grace period, in which the last XDP run that held the track has ended). Only then is the
//! SSRC learnt again, from an authentic packet above that index, and the other engine's list begins there: everything
//! at or below is refused. So the sets of indices that the two engines accept are disjoint, in both directions and
//! under any load: what the network still holds of the old side is lost, never forwarded twice. Towards viewers the
//! same holds by `SubscriberTrackStopped`: a viewer's track goes on above every outgoing index that was used.
//!
//! While a track is diverted the kernel has an entry for its flow that only counts (`PublisherTrack::diverted`): ingress
//! reads no key and changes no replay list for it.

use std::time::{Duration, Instant};

use super::{AutoEngine, Session, State};
use crate::{Engine as _, EngineError, NewPublisherTrack, PublisherTrackId, SessionId};

/// XDP must have seen everything for so long before a track goes back the first time; each time after, twice as long.
const PATIENCE: Duration = Duration::from_secs(5);
const MOST_PATIENCE: Duration = Duration::from_secs(320);

/// Packets that the two ways of counting may differ by: XDP counts before the socket is read.
const SLACK: u64 = 3;

/// That a publisher's tracks are opened in userspace, and what tells that they need not be any more.
pub(super) struct Diverted {
    why: String,
    /// Since when XDP has seen every packet.
    since: Instant,
}

impl Diverted {
    pub(super) fn why(&self) -> &str {
        &self.why
    }
}

/// A track in userspace, and the kernel's entry that counts its packets.
pub(super) struct Counted {
    session: SessionId,
    in_kernel: PublisherTrackId,
    /// Packets seen by XDP, and accepted in userspace, when the count began anew.
    from: (u64, u64),
}

impl AutoEngine {
    pub(super) fn begin_to_divert(&self, session: SessionId, why: &str) -> bool {
        let mut state = self.lock();
        let Some(entry) = state.sessions.get_mut(session.0).filter(|_| self.kernel.is_some()) else { return false };
        entry.patience = Some(entry.patience.map_or(PATIENCE, |patience| (2 * patience).min(MOST_PATIENCE)));
        entry.diverted = Some(Diverted { why: why.to_owned(), since: Instant::now() });
        true
    }

    /// Adds a track of a diverted publisher.
    pub(super) fn add_diverted(
        &self,
        state: &mut State,
        session: SessionId,
        track: NewPublisherTrack,
    ) -> Result<PublisherTrackId, EngineError> {
        let entry = state.sessions.get_mut(session.0).ok_or(EngineError::Unknown("session"))?;
        let id = self.in_userspace(entry)?;
        let added = self.userspace.add_publisher_track(id, track)?;
        let counted = match (&self.kernel, self.in_kernel(entry)) {
            (Some(kernel), Ok(Some(id))) => kernel.count_diverted(id, track).ok(),
            _ => None,
        };
        if let Some(in_kernel) = counted {
            state.counted.insert(added, Counted { session, in_kernel, from: (0, 0) });
        }
        Ok(added)
    }

    /// A track of the userspace engine is over.
    pub(super) fn stop_counting(&self, track: PublisherTrackId) {
        let counted = self.lock().counted.remove(&track);
        if let (Some(kernel), Some(counted)) = (&self.kernel, counted) {
            kernel.remove_publisher_track(counted.in_kernel);
        }
    }

    /// See [`Engine::is_back`](crate::Engine::is_back).
    pub(super) fn has_come_back(&self, session: SessionId) -> bool {
        let mut state = self.lock();
        let State { sessions, counted, .. } = &mut *state;
        let Some(entry) = sessions.get_mut(session.0) else { return false };
        let Some(diverted) = &mut entry.diverted else { return false };
        let (mut progress, mut all) = (false, true);
        for (track, counted) in counted.iter_mut().filter(|(_, counted)| counted.is_of(session)) {
            let now = self.counts(*track, counted.in_kernel);
            let (seen, accepted) = (now.0 - counted.from.0.min(now.0), now.1 - counted.from.1.min(now.1));
            progress |= accepted > SLACK;
            if accepted > seen + SLACK {
                counted.from = now;
                all = false;
            }
        }
        if !all {
            diverted.since = Instant::now();
        }
        let back = all && progress && entry.patience.is_some_and(|patience| diverted.since.elapsed() >= patience);
        if back {
            entry.diverted = None;
        }
        back
    }

    /// Packets of a track that XDP has seen, and that userspace has accepted.
    fn counts(&self, track: PublisherTrackId, in_kernel: PublisherTrackId) -> (u64, u64) {
        let seen = self.kernel.as_ref().and_then(|kernel| kernel.publisher_stats(in_kernel));
        let accepted = self.userspace.publisher_stats(track);
        (seen.map_or(0, |stats| stats.packets), accepted.map_or(0, |stats| stats.packets))
    }
}

impl Counted {
    pub(super) fn is_of(&self, session: SessionId) -> bool {
        self.session == session
    }
}

impl Session {
    /// Why its publisher's packets are opened in userspace, if the way they come is the reason.
    pub(super) fn why_diverted(&self) -> Option<&str> {
        self.diverted.as_ref().map(Diverted::why)
    }
}
