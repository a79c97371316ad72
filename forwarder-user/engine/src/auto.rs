//! Both engines behind one contract: the kernel engine for each session that it can serve, the
//! userspace engine for the others.
//!
//! A publisher decides for its stream. Opened in the kernel: subscribers are sealed in the kernel, and
//! those that it cannot serve in userspace, which gets one copy of each plaintext packet for all of
//! them (a *tap*). Opened in userspace: all subscribers are sealed in userspace.
//!
//! A session is in the engines that its tracks need, and in one while it has none: a viewer of a camera never
//! costs the kernel engine a key, a lease and looks at routes.
//!
//! A publisher whose packets come up to the sockets although the kernel engine has them is *diverted*: see `divert`.
//!
//! A session's key may be in both engines, but an SSRC under it has one owner at a time: a track is
//! added to one engine, and to another one only after the first has reported that it stopped, with
//! indices from where that report says. The control task keeps that rule for every change of publisher
//! already, and it is all that a change of engine needs.

mod divert;
mod taps;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use forwarder_common::ExtendedSeq;

use self::{
    divert::{Counted, Diverted},
    taps::{Reader, Taps},
};
use crate::{
    Ear, Engine, EngineError, Figures, NewPublisherTrack, NewRepairTrack, NewSession, NewSubscriberTrack,
    PublisherStats, PublisherTrackId, Received, RtxSource, SessionId, SubscriberStats, SubscriberTrackId, Transport,
    Unrepaired,
    contract::Sources,
    io::{MediaSockets, Worker},
    kernel::KernelEngine,
    slots::{MAX_SLOTS, Slots, USERSPACE},
    tier::{Level, Tier},
    userspace::UserspaceEngine,
};

/// See the module.
pub struct AutoEngine {
    kernel: Option<KernelEngine>,
    userspace: UserspaceEngine,
    /// Why there is no kernel engine.
    why: String,
    state: Mutex<State>,
    taps: Arc<Taps>,
    reader: Mutex<Option<Reader>>,
}

struct State {
    sessions: Slots<Session>,
    /// Userspace subscriber tracks of kernel publishers, and which one that is.
    tapping: HashMap<SubscriberTrackId, PublisherTrackId>,
    /// Tracks of diverted publishers, by their userspace track.
    counted: HashMap<PublisherTrackId, Counted>,
}

/// A session and what each engine knows it by.
struct Session {
    /// For the engine that may need it later.
    new: NewSession,
    kernel: Option<SessionId>,
    userspace: Option<SessionId>,
    /// Why not the kernel engine, if it could not be.
    reason: Option<String>,
    /// A viewer that copies of the kernel engine do not reach. It stays there, without tracks, to be told when they do.
    lost: bool,
    /// A publisher that XDP does not see, or not all of.
    diverted: Option<Diverted>,
    /// How long it waits before it goes back, once it was diverted.
    patience: Option<Duration>,
    /// When its right to be here ends, in whichever engine.
    ends_ns: Option<u64>,
}

impl AutoEngine {
    /// Joins the engines; without `kernel`, `why` says why there is none.
    pub fn new(kernel: Option<KernelEngine>, userspace: UserspaceEngine, why: String) -> Self {
        Self {
            kernel,
            userspace,
            why,
            state: Mutex::new(State {
                sessions: Slots::new(MAX_SLOTS),
                tapping: HashMap::new(),
                counted: HashMap::new(),
            }),
            taps: Arc::default(),
            reader: Mutex::new(None),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The kernel engine's id of a session; it is added there at the first need. `None`: that engine cannot
    /// serve it.
    fn in_kernel(&self, session: &mut Session) -> Result<Option<SessionId>, EngineError> {
        if session.kernel.is_some() {
            return Ok(session.kernel);
        }
        match self.kernel.as_ref().map(|kernel| kernel.add_session(session.new.clone())) {
            Some(Ok(id)) => {
                (session.kernel, session.reason) = (Some(id), None);
                if let (Some(kernel), Some(at)) = (&self.kernel, session.ends_ns) {
                    kernel.end_session_at(id, at);
                }
            }
            Some(Err(EngineError::Profile { profile })) => {
                session.reason = Some(format!("the peer offered only {profile}"));
            }
            Some(Err(EngineError::Unreachable { reason, .. })) => session.reason = Some(reason),
            Some(Err(error)) => return Err(error),
            None => session.reason = Some(self.why.clone()),
        }
        Ok(session.kernel)
    }

    /// Copies of the kernel engine reach a viewer again that had moved to the other one.
    fn is_found(&self, session: SessionId) -> bool {
        let mut state = self.lock();
        let Some(entry) = state.sessions.get_mut(session.0).filter(|entry| entry.lost) else { return false };
        let (Some(kernel), Some(id)) = (&self.kernel, entry.kernel) else { return false };
        let found = kernel.why_lost(id).is_none();
        entry.lost = !found;
        found
    }

    /// The userspace engine's id of a session; it is added there at the first need.
    fn in_userspace(&self, session: &mut Session) -> Result<SessionId, EngineError> {
        if let Some(id) = session.userspace {
            return Ok(id);
        }
        let id = self.userspace.add_session(session.new.clone())?;
        if let Some(at) = session.ends_ns {
            self.userspace.end_session_at(id, at);
        }
        session.userspace = Some(id);
        Ok(id)
    }

    /// Takes a session out of the kernel engine, if only the other one carries tracks of it. Those that stop
    /// here are over when that engine has reported it, and until then it stays.
    fn leave_kernel(&self, session: &mut Session) {
        if let Some(kernel) = &self.kernel
            && let Some(id) = session.kernel.take_if(|id| !kernel.has_tracks(*id))
        {
            kernel.remove_session(id);
            session.reason = None;
        }
    }

    /// The same of the userspace engine.
    fn leave_userspace(&self, session: &mut Session) {
        if let Some(id) = session.userspace.take_if(|id| !self.userspace.has_tracks(*id)) {
            self.userspace.remove_session(id);
        }
    }
}

fn is_userspace(handle: u32) -> bool {
    handle & USERSPACE != 0
}

impl Engine for AutoEngine {
    fn describe(&self) -> String {
        match &self.kernel {
            Some(kernel) => format!("{}; {} where it cannot serve", kernel.describe(), self.userspace.describe()),
            None => format!("{}: {}", self.userspace.describe(), self.why),
        }
    }

    fn describe_session(&self, session: SessionId) -> String {
        let state = self.lock();
        let Some(entry) = state.sessions.get(session.0) else { return "closed".into() };
        match (&self.kernel, entry.kernel, entry.userspace) {
            (_, _, Some(id)) if entry.kernel.is_none() || self.userspace.has_tracks(id) => {
                let why = entry.why_diverted().or(entry.reason.as_deref());
                let why = why.unwrap_or("its publisher is served in userspace");
                let socket = self.userspace.why_socket(id).filter(|reason| !why.contains(reason.as_str()));
                let socket = socket.map(|reason| format!("; no xdp: {reason}")).unwrap_or_default();
                format!("{}: {why}{socket}", self.userspace.describe_session(id))
            }
            (Some(kernel), Some(id), _) => kernel.describe_session(id),
            _ => "closed".into(),
        }
    }

    fn tier(&self) -> Option<Tier> {
        if let Some(kernel) = &self.kernel {
            return kernel.tier();
        }
        let why = |more: Option<String>| {
            Some([Some(self.why.clone()), more].into_iter().flatten().collect::<Vec<_>>().join("; "))
        };
        Some(match self.userspace.sends_by_xdp() {
            Ok(()) => Tier { level: Level::UserspaceXdp, why: why(None) },
            Err(reason) => {
                let more = (!self.why.contains(&reason)).then(|| format!("no xdp transmitter: {reason}"));
                Tier { level: Level::UserspaceSockets, why: why(more) }
            }
        })
    }

    fn add_session(&self, new: NewSession) -> Result<SessionId, EngineError> {
        // A source's packets arise in userspace. If its stream ever gets another publisher, see `add_subscriber_track`.
        let of_source = new.of_source;
        let mut session = Session {
            new,
            kernel: None,
            userspace: None,
            reason: None,
            lost: false,
            diverted: None,
            patience: None,
            ends_ns: None,
        };
        if of_source || self.in_kernel(&mut session)?.is_none() {
            self.in_userspace(&mut session)?;
        }
        let mut state = self.lock();
        let limit = state.sessions.limit();
        let full = |_| EngineError::Full { table: "the table of sessions", limit, key: "sessions" };
        state.sessions.insert(session).map(SessionId).map_err(full)
    }

    fn move_session(&self, session: SessionId, transport: Transport) -> Result<(), EngineError> {
        let mut state = self.lock();
        let entry = state.sessions.get_mut(session.0).ok_or(EngineError::Unknown("session"))?;
        if let (Some(kernel), Some(id)) = (&self.kernel, entry.kernel) {
            match transport.tcp {
                true => kernel.lose_to_tcp(id, transport),
                false => kernel.move_session(id, transport)?,
            }
        }
        if let Some(id) = entry.userspace {
            self.userspace.move_session(id, transport)?;
        }
        entry.new.transport = transport;
        Ok(())
    }

    fn refresh_session(&self, session: SessionId) {
        let state = self.lock();
        let Some(entry) = state.sessions.get(session.0) else { return };
        if let (Some(kernel), Some(id)) = (&self.kernel, entry.kernel) {
            kernel.refresh_session(id);
        }
        if let Some(id) = entry.userspace {
            self.userspace.refresh_session(id);
        }
    }

    fn end_session_at(&self, session: SessionId, at_ns: u64) {
        let mut state = self.lock();
        let Some(entry) = state.sessions.get_mut(session.0) else { return };
        entry.ends_ns = Some(at_ns);
        if let (Some(kernel), Some(id)) = (&self.kernel, entry.kernel) {
            kernel.end_session_at(id, at_ns);
        }
        if let Some(id) = entry.userspace {
            self.userspace.end_session_at(id, at_ns);
        }
    }

    fn remove_session(&self, session: SessionId) {
        let entry = {
            let mut state = self.lock();
            // Their entries in the kernel go with the session.
            state.counted.retain(|_, counted| !counted.is_of(session));
            state.sessions.remove(session.0)
        };
        let Some(entry) = entry else { return };
        if let (Some(kernel), Some(id)) = (&self.kernel, entry.kernel) {
            kernel.remove_session(id);
        }
        if let Some(id) = entry.userspace {
            self.userspace.remove_session(id);
        }
        let tapped: Vec<_> = self.taps.read().unwrap_or_else(PoisonError::into_inner).keys().copied().collect();
        for track in tapped {
            let gone = self.kernel.as_ref().is_some_and(|kernel| kernel.publisher_stats(track).is_none());
            self.untap(track, gone);
        }
    }

    fn add_publisher_track(
        &self,
        session: SessionId,
        track: NewPublisherTrack,
    ) -> Result<PublisherTrackId, EngineError> {
        let mut state = self.lock();
        let entry = state.sessions.get(session.0).ok_or(EngineError::Unknown("session"))?;
        if entry.diverted.is_some() {
            return self.add_diverted(&mut state, session, track);
        }
        match (&self.kernel, entry.kernel, entry.userspace) {
            (Some(kernel), Some(id), _) => kernel.add_publisher_track(id, track),
            (_, _, Some(id)) => self.userspace.add_publisher_track(id, track),
            _ => Err(EngineError::Unknown("session")),
        }
    }

    fn add_repair_track(&self, session: SessionId, track: NewRepairTrack) -> Result<PublisherTrackId, EngineError> {
        let state = self.lock();
        let entry = state.sessions.get(session.0).ok_or(EngineError::Unknown("session"))?;
        // Where the media is.
        match (&self.kernel, entry.kernel, entry.userspace) {
            (Some(kernel), Some(id), _) if !is_userspace(track.of.0) => kernel.add_repair_track(id, track),
            (_, _, Some(id)) => self.userspace.add_repair_track(id, track),
            _ => Err(EngineError::Unknown("session")),
        }
    }

    fn takes_repairs(&self) -> bool {
        true
    }

    fn restore_publisher_track(&self, track: PublisherTrackId) -> bool {
        match &self.kernel {
            Some(kernel) if !is_userspace(track.0) => kernel.restore_publisher_track(track),
            _ => self.userspace.restore_publisher_track(track),
        }
    }

    fn remove_publisher_track(&self, track: PublisherTrackId) {
        match &self.kernel {
            Some(kernel) if !is_userspace(track.0) => {
                // Its subscribers in userspace first: each gets its own event.
                self.untap(track, true);
                kernel.remove_publisher_track(track);
            }
            _ => {
                self.stop_counting(track);
                self.userspace.remove_publisher_track(track);
            }
        }
    }

    fn add_subscriber_track(
        &self,
        session: SessionId,
        from: PublisherTrackId,
        track: NewSubscriberTrack,
    ) -> Result<SubscriberTrackId, EngineError> {
        let mut state = self.lock();
        let State { sessions, tapping, .. } = &mut *state;
        let entry = sessions.get_mut(session.0).ok_or(EngineError::Unknown("session"))?;
        match &self.kernel {
            Some(kernel) if !is_userspace(from.0) => {
                if let Some(limit) = kernel.full(from) {
                    // The kernel's passes are full: the others are sealed here.
                    self.leave_kernel(entry);
                    entry.reason = Some(format!("the kernel serves {limit} viewers of the stream already"));
                } else if let Some(why) = entry.kernel.and_then(|id| kernel.why_lost(id)) {
                    (entry.lost, entry.reason) = (true, Some(why));
                } else if let Some(id) = self.in_kernel(entry)? {
                    let added = kernel.add_subscriber_track(id, from, track)?;
                    (entry.lost, entry.reason) = (false, None);
                    self.leave_userspace(entry);
                    return Ok(added);
                }
                let id = self.in_userspace(entry)?;
                let source = self.tap(kernel, from)?;
                let added = self.userspace.add_subscriber_track(id, source, track);
                match added {
                    Ok(subscriber) => drop(tapping.insert(subscriber, from)),
                    Err(_) => self.untap(from, false),
                }
                added
            }
            _ => {
                let id = self.in_userspace(entry)?;
                let added = self.userspace.add_subscriber_track(id, from, track)?;
                entry.lost = false;
                self.leave_kernel(entry);
                Ok(added)
            }
        }
    }

    fn remove_subscriber_track(&self, track: SubscriberTrackId) {
        match &self.kernel {
            Some(kernel) if !is_userspace(track.0) => kernel.remove_subscriber_track(track),
            _ => {
                self.userspace.remove_subscriber_track(track);
                if let Some(publisher) = self.lock().tapping.remove(&track) {
                    self.untap(publisher, false);
                }
            }
        }
    }

    fn publisher_stats(&self, track: PublisherTrackId) -> Option<PublisherStats> {
        match &self.kernel {
            Some(kernel) if !is_userspace(track.0) => kernel.publisher_stats(track),
            _ => self.userspace.publisher_stats(track),
        }
    }

    fn subscriber_stats(&self, track: SubscriberTrackId) -> Option<SubscriberStats> {
        match &self.kernel {
            Some(kernel) if !is_userspace(track.0) => kernel.subscriber_stats(track),
            _ => self.userspace.subscriber_stats(track),
        }
    }

    fn has_accepted(&self, track: PublisherTrackId, index: ExtendedSeq) -> bool {
        match &self.kernel {
            Some(kernel) if !is_userspace(track.0) => kernel.has_accepted(track, index),
            // Its threads get all that comes up; what they leave to others came before they knew the track.
            _ => true,
        }
    }

    fn divert(&self, session: SessionId, why: &str) -> bool {
        self.begin_to_divert(session, why)
    }

    fn has_other_ways(&self) -> bool {
        self.kernel.is_some()
    }

    fn is_back(&self, session: SessionId) -> bool {
        self.is_found(session) || self.has_come_back(session)
    }

    fn repair(&self, track: SubscriberTrackId, seq: u16, rtx: Option<&mut RtxSource>) -> Result<Vec<u8>, Unrepaired> {
        match &self.kernel {
            Some(kernel) if !is_userspace(track.0) => kernel.repair(track, seq, rtx),
            _ => self.userspace.repair(track, seq, rtx),
        }
    }

    fn listen(&self, from: PublisherTrackId, ear: Ear) -> Result<(), EngineError> {
        let kernel = self.kernel.as_ref().filter(|_| !is_userspace(from.0));
        let Some(kernel) = kernel else { return self.userspace.listen(from, ear) };
        // A tap is made and ended under this lock only.
        let _state = self.lock();
        let source = self.tap(kernel, from)?;
        let listens = self.userspace.listen(source, ear);
        if listens.is_err() {
            self.untap(from, false);
        }
        listens
    }

    fn forget_listeners(&self, from: PublisherTrackId) {
        let _state = self.lock();
        let source = self.taps.read().unwrap_or_else(PoisonError::into_inner).get(&from).copied();
        self.userspace.forget_listeners(source.unwrap_or(from));
        self.untap(from, false);
    }

    fn gaps(&self) -> u64 {
        self.userspace.gaps() + self.kernel.as_ref().map_or(0, Engine::gaps)
    }

    fn received(&self, track: PublisherTrackId, from: u64) -> Option<Received> {
        match &self.kernel {
            Some(kernel) if !is_userspace(track.0) => kernel.received(track, from),
            _ => self.userspace.received(track, from),
        }
    }

    fn arrivals(&self, track: PublisherTrackId, each: &mut dyn FnMut(u16, u64)) {
        match &self.kernel {
            Some(kernel) if !is_userspace(track.0) => kernel.arrivals(track, each),
            _ => self.userspace.arrivals(track, each),
        }
    }

    fn set_sockets(&self, sockets: &Arc<MediaSockets>) {
        self.userspace.set_sockets(sockets);
        if let Err(error) = self.start_reader() {
            tracing::error!("viewers that the kernel cannot serve will get nothing from its publishers: {error}");
        }
    }

    fn worker(&self) -> Option<Box<dyn Worker>> {
        self.userspace.worker()
    }

    fn sources(&self) -> Option<&dyn Sources> {
        self.userspace.sources()
    }

    fn counters(&self) -> Vec<(&'static str, u64)> {
        let mut all = self.userspace.counters();
        for (name, count) in self.kernel.iter().flat_map(|kernel| kernel.counters()) {
            match all.iter_mut().find(|(known, _)| *known == name) {
                Some((_, sum)) => *sum += count,
                None => all.push((name, count)),
            }
        }
        all
    }

    fn figures(&self) -> Vec<Figures> {
        let kernel = self.kernel.iter().flat_map(|kernel| kernel.figures());
        kernel.chain(self.userspace.figures()).collect()
    }
}
