//! Both engines behind one contract: the kernel engine for each session that it can serve, the
//! userspace engine for the others.
//!
//! A publisher decides for its stream. Opened in the kernel: subscribers are sealed in the kernel, and
//! those that it cannot serve in userspace, which gets one copy of each plaintext packet for all of
//! them (a *tap*). Opened in userspace: all subscribers are sealed in userspace.
//!
//! A session's key may be in both engines, but an SSRC under it has one owner at a time: a track is
//! added to one engine, and to another one only after the first has reported that it stopped, with
//! indices from where that report says. The control task keeps that rule for every change of publisher
//! already, and it is all that a change of engine needs.

use std::{
    collections::HashMap,
    io::{self, Read as _},
    os::{fd::AsFd as _, unix::net::UnixStream},
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock},
    thread::{self, JoinHandle},
};

use aya::maps::{MapData, RingBuf};
use forwarder_common::maps::TapRecord;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::{
    Engine, EngineError, Figures, NewPublisherTrack, NewSession, NewSubscriberTrack, PublisherStats, PublisherTrackId,
    SessionId, SubscriberStats, SubscriberTrackId, Transport,
    io::{MediaSockets, Worker},
    kernel::KernelEngine,
    slots::{MAX_SLOTS, Slots, USERSPACE},
    userspace::{Feeder, Keep, KeptStats, NewSource, UserspaceEngine},
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
}

/// A session and what each engine knows it by.
struct Session {
    /// For the engine that may need it later.
    new: NewSession,
    kernel: Option<SessionId>,
    userspace: Option<SessionId>,
    /// Why not the kernel engine.
    reason: Option<String>,
    /// Tracks that userspace carries although the session is in the kernel.
    moved: usize,
}

/// Sources of the userspace engine by the kernel track that feeds them.
type Taps = RwLock<HashMap<PublisherTrackId, PublisherTrackId>>;

/// The thread that carries plaintext from the kernel to the userspace engine.
struct Reader {
    bell: Option<UnixStream>,
    thread: Option<JoinHandle<()>>,
}

impl AutoEngine {
    /// Joins the engines; without `kernel`, `why` says why there is none.
    pub fn new(kernel: Option<KernelEngine>, userspace: UserspaceEngine, why: String) -> Self {
        Self {
            kernel,
            userspace,
            why,
            state: Mutex::new(State { sessions: Slots::new(MAX_SLOTS), tapping: HashMap::new() }),
            taps: Arc::default(),
            reader: Mutex::new(None),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn start_reader(&self) -> io::Result<()> {
        let Some(taps) = self.kernel.as_ref().and_then(|kernel| kernel.take_taps()) else { return Ok(()) };
        let feeder = self.userspace.feeder_beside_the_kernel().ok_or_else(|| io::Error::other("no media sockets"))?;
        let (bell, rung) = UnixStream::pair()?;
        let sources = Arc::clone(&self.taps);
        let run = move || {
            if let Err(error) = carry(taps, feeder, &sources, rung) {
                tracing::error!("plaintext from the kernel is not read any more: {error}");
            }
        };
        let thread = thread::Builder::new().name("penstock-taps".into()).spawn(run)?;
        let mut reader = self.reader.lock().unwrap_or_else(PoisonError::into_inner);
        *reader = Some(Reader { bell: Some(bell), thread: Some(thread) });
        Ok(())
    }

    /// The userspace engine's id of a session; it is added there at the first need.
    fn in_userspace(&self, session: &mut Session) -> Result<SessionId, EngineError> {
        if let Some(id) = session.userspace {
            return Ok(id);
        }
        let id = self.userspace.add_session(session.new.clone())?;
        session.userspace = Some(id);
        Ok(id)
    }

    /// The source that a kernel track feeds, which begins to if it does not yet.
    fn tap(&self, kernel: &KernelEngine, track: PublisherTrackId) -> Result<PublisherTrackId, EngineError> {
        let mut taps = self.taps.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(source) = taps.get(&track) {
            return Ok(*source);
        }
        let (clock_rate, last) = kernel.source(track).ok_or(EngineError::Unknown("publisher track"))?;
        let source = self.userspace.add_source(NewSource { clock_rate, last, keep: Keep::default() })?;
        if let Err(error) = kernel.set_tap(track, true) {
            self.userspace.remove_publisher_track(source);
            return Err(error);
        }
        taps.insert(track, source);
        Ok(source)
    }

    /// Ends the tap of a kernel track, if nobody needs it any more.
    fn untap(&self, track: PublisherTrackId, in_any_case: bool) {
        let mut taps = self.taps.write().unwrap_or_else(PoisonError::into_inner);
        let Some(source) = taps.get(&track).copied() else { return };
        if !in_any_case && self.userspace.is_wanted(source) {
            return;
        }
        taps.remove(&track);
        drop(taps);
        if let Some(kernel) = &self.kernel {
            // Fails when the track has ended, and then nothing is tapped.
            let _ = kernel.set_tap(track, false);
        }
        self.userspace.remove_publisher_track(source);
    }
}

/// Runs until the bell's other end is closed.
fn carry(mut taps: RingBuf<MapData>, mut feeder: Feeder, sources: &Taps, mut bell: UnixStream) -> io::Result<()> {
    loop {
        let mut files = [PollFd::new(taps.as_fd(), PollFlags::POLLIN), PollFd::new(bell.as_fd(), PollFlags::POLLIN)];
        match poll(&mut files, PollTimeout::NONE) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        if files[1].revents().is_some_and(|events| !events.is_empty()) && bell.read(&mut [0])? == 0 {
            return Ok(());
        }
        // What has arrived together is one batch.
        while let Some(record) = taps.next() {
            let Some((tap, index, header, payload)) = TapRecord::parse(&record) else { continue };
            let track = KernelEngine::tapped(tap);
            let source = sources.read().unwrap_or_else(PoisonError::into_inner).get(&track).copied();
            if let Some(source) = source {
                feeder.push(source, index, &header, payload);
            }
        }
        feeder.flush();
    }
}

impl Drop for AutoEngine {
    fn drop(&mut self) {
        let reader = self.reader.get_mut().unwrap_or_else(PoisonError::into_inner);
        let Some(reader) = reader else { return };
        drop(reader.bell.take());
        if reader.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the thread that reads taps had panicked");
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
            (_, _, Some(id)) if entry.kernel.is_none() || entry.moved > 0 => {
                let why = entry.reason.as_deref().unwrap_or("its publisher is served in userspace");
                let socket = self.userspace.why_socket(id).filter(|reason| !why.contains(reason.as_str()));
                let socket = socket.map(|reason| format!("; no xdp: {reason}")).unwrap_or_default();
                format!("{}: {why}{socket}", self.userspace.describe_session(id))
            }
            (Some(kernel), Some(id), _) => kernel.describe_session(id),
            _ => "closed".into(),
        }
    }

    fn add_session(&self, new: NewSession) -> Result<SessionId, EngineError> {
        let mut session = Session { new: new.clone(), kernel: None, userspace: None, reason: None, moved: 0 };
        match self.kernel.as_ref().map(|kernel| kernel.add_session(new)) {
            Some(Ok(id)) => session.kernel = Some(id),
            Some(Err(EngineError::Profile { profile })) => {
                session.reason = Some(format!("the peer offered only {profile}"));
            }
            Some(Err(EngineError::Unreachable { reason, .. })) => session.reason = Some(reason),
            Some(Err(error)) => return Err(error),
            None => session.reason = Some(self.why.clone()),
        }
        if session.kernel.is_none() {
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
        entry.new.transport = transport;
        if let (Some(kernel), Some(id)) = (&self.kernel, entry.kernel) {
            kernel.move_session(id, transport)?;
        }
        entry.userspace.map_or(Ok(()), |id| self.userspace.move_session(id, transport))
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

    fn remove_session(&self, session: SessionId) {
        let Some(entry) = self.lock().sessions.remove(session.0) else { return };
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
        let state = self.lock();
        let entry = state.sessions.get(session.0).ok_or(EngineError::Unknown("session"))?;
        match (&self.kernel, entry.kernel, entry.userspace) {
            (Some(kernel), Some(id), _) => kernel.add_publisher_track(id, track),
            (_, _, Some(id)) => self.userspace.add_publisher_track(id, track),
            _ => Err(EngineError::Unknown("session")),
        }
    }

    fn remove_publisher_track(&self, track: PublisherTrackId) {
        match &self.kernel {
            Some(kernel) if !is_userspace(track.0) => {
                // Its subscribers in userspace first: each gets its own event.
                self.untap(track, true);
                kernel.remove_publisher_track(track);
            }
            _ => self.userspace.remove_publisher_track(track),
        }
    }

    fn add_subscriber_track(
        &self,
        session: SessionId,
        from: PublisherTrackId,
        track: NewSubscriberTrack,
    ) -> Result<SubscriberTrackId, EngineError> {
        let mut state = self.lock();
        let State { sessions, tapping } = &mut *state;
        let entry = sessions.get_mut(session.0).ok_or(EngineError::Unknown("session"))?;
        match &self.kernel {
            Some(kernel) if !is_userspace(from.0) => {
                if let Some(id) = entry.kernel {
                    match kernel.add_subscriber_track(id, from, track) {
                        // The kernel's passes are full: the others are sealed here.
                        Err(EngineError::StreamFull { limit }) => {
                            entry.reason = Some(format!("the kernel serves {limit} viewers of the stream already"));
                        }
                        added => {
                            (entry.moved, entry.reason) = (0, None);
                            return added;
                        }
                    }
                }
                let id = self.in_userspace(entry)?;
                let source = self.tap(kernel, from)?;
                let added = self.userspace.add_subscriber_track(id, source, track);
                match added {
                    Ok(subscriber) => {
                        entry.moved += usize::from(entry.kernel.is_some());
                        tapping.insert(subscriber, from);
                    }
                    Err(_) => self.untap(from, false),
                }
                added
            }
            _ => {
                let id = self.in_userspace(entry)?;
                let added = self.userspace.add_subscriber_track(id, from, track)?;
                entry.moved += usize::from(entry.kernel.is_some());
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

    fn kept_stats(&self, track: PublisherTrackId) -> Option<KeptStats> {
        self.userspace.kept_stats(track)
    }

    fn seal_again(&self, track: SubscriberTrackId, seq: u16) -> Option<Vec<u8>> {
        self.userspace.seal_again(track, seq)
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

    fn add_source(&self, source: NewSource) -> Result<PublisherTrackId, EngineError> {
        self.userspace.add_source(source)
    }

    fn feeder(&self) -> Option<Feeder> {
        self.userspace.feeder()
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
