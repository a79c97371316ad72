//! The engine's contract, [`Engine`], kept by map entries.

use std::{
    collections::BTreeSet,
    sync::{Arc, PoisonError, atomic::Ordering},
};

use aya::maps::{MapData, MapError, RingBuf};
use forwarder_common::{
    Counter, ExtendedSeq, SessionKey,
    maps::{self as layout, FlowKey, PUBLISHER_DROPS, PublisherState, xdp_mode},
};

use super::{
    KernelEngine, keystream,
    state::{self, CurrentPath, Phase, State},
    wire,
};
use crate::{
    Engine, EngineError, Figures, NewPublisherTrack, NewSession, NewSubscriberTrack, PublisherStats, PublisherTrackId,
    Role, SessionId, SubscriberStats, SubscriberTrackId, Transport,
    bpf::{as_io, describe, load::Datapath, maps::Tables, mode_name},
    clock::boottime_ns,
    route::{self, Route, canonical},
    slots::Slots,
    tier::{Level, Tier},
};

impl Engine for KernelEngine {
    fn describe(&self) -> String {
        let names = |mode: u8| {
            let names = self.attached.iter().filter(|interface| interface.mode == mode).map(|i| i.name.as_str());
            names.collect::<Vec<_>>().join(", ")
        };
        let modes = [xdp_mode::NATIVE, xdp_mode::GENERIC].map(|mode| (mode_name(mode), names(mode)));
        let used = modes.iter().filter(|(_, names)| !names.is_empty());
        format!("kernel {}", used.map(|(mode, names)| format!("{mode} on {names}")).collect::<Vec<_>>().join(", "))
    }

    fn describe_session(&self, session: SessionId) -> String {
        let state = self.shared.lock();
        let Some(entry) = state.sessions.get(session.0) else { return "closed".into() };
        let Some(current) = entry.path else {
            return match entry.role {
                Role::Publisher => self.describe_publisher(),
                Role::Subscriber => "kernel: the peer's hardware address is not known yet".into(),
            };
        };
        let interface = self.attached.iter().find(|interface| interface.index == current.path.egress_ifindex);
        interface.map_or_else(|| "kernel".into(), |interface| self.describe_mode(interface.mode))
    }

    fn tier(&self) -> Option<Tier> {
        let level = if self.short_way.is_ok() { Level::Full } else { Level::WithoutShortWay };
        Some(Tier { level, why: self.short_way.clone().err() })
    }

    fn add_session(&self, new: NewSession) -> Result<SessionId, EngineError> {
        let path = self.find_path(new.role, new.transport)?;
        let mut key = session_key(&new)?;
        let mut state = self.shared.with_room();
        let added = self.install_session(&mut state, new, &key, path);
        if state.want_room() {
            self.shared.bell.notify_one();
        }
        drop(state);
        key.wipe();
        let (session, resolved) = added?;
        if !resolved {
            self.look_for_path(session.0);
        }
        Ok(session)
    }

    fn move_session(&self, session: SessionId, transport: Transport) -> Result<(), EngineError> {
        let role = {
            let state = self.shared.lock();
            alive(&state, session)?.role
        };
        let path = self.find_path(role, transport)?;
        let mut state = self.shared.lock();
        alive(&state, session)?;
        move_flows(&mut state, session, transport)?;
        let Some(entry) = state.sessions.get_mut(session.0) else { return Err(EngineError::Unknown("session")) };
        entry.transport = transport;
        let slot = Slots::<()>::slot(session.0);
        let wire = wire::session(slot, entry);
        state.tables.sessions.set(slot, wire, 0).map_err(refused("moving a session"))?;
        match path {
            Path::Known(path) => {
                state.work.paths.insert(session.0, path);
                self.shared.bell.notify_one();
            }
            // The old path would send to the old peer until the new neighbour answers.
            Path::Unresolved => self.look_for_path(session.0),
            Path::NotNeeded => {}
        }
        Ok(())
    }

    fn refresh_session(&self, session: SessionId) {
        let mut state = self.shared.lock();
        let Ok(entry) = alive(&state, session) else { return };
        let role = entry.role;
        let expiry = boottime_ns() + self.lease_ns;
        if let Err(error) = state.tables.leases.set(Slots::<()>::slot(session.0), expiry, 0) {
            tracing::error!("lease not refreshed: {}", describe(&error));
        }
        drop(state);
        if role == Role::Subscriber {
            self.look_for_path(session.0);
        }
    }

    fn remove_session(&self, session: SessionId) {
        let mut state = self.shared.lock();
        let state = &mut *state;
        let Some(entry) = state.sessions.get_mut(session.0).filter(|session| !session.closing) else { return };
        entry.closing = true;
        let publishers = entry.publisher_tracks.clone();
        let subscribers = entry.subscriber_tracks.clone();
        for track in publishers {
            stop_publisher(state, track);
        }
        // The lease stops copies that are still in a fan-out until the next round takes them out.
        if let Err(error) = state.tables.leases.set(Slots::<()>::slot(session.0), 0, 0) {
            tracing::error!("lease of a closed session not ended: {}", describe(&error));
        }
        for track in subscribers {
            state.detach_subscriber(track);
        }
        state.work.sessions.insert(session.0);
        self.shared.bell.notify_one();
    }

    fn add_publisher_track(
        &self,
        session: SessionId,
        track: NewPublisherTrack,
    ) -> Result<PublisherTrackId, EngineError> {
        let mut state = self.shared.lock();
        let state = &mut *state;
        let flow = flow(alive(state, session)?.transport, track.ssrc);
        let entry = state::PublisherTrack {
            session: session.0,
            track,
            members: Vec::new(),
            side: None,
            keystream: 0,
            tap: 0,
            stopping: false,
        };
        let limit = state.publishers.limit();
        let full = |_| EngineError::Full { table: "the table of incoming tracks", limit, key: "publisher_tracks" };
        let handle = state.publishers.insert(entry).map_err(full)?;
        if let Err(error) = install_publisher(state, handle, flow) {
            state.publishers.remove(handle);
            return Err(refused("installing an incoming track")(error));
        }
        if let Some(session) = state.sessions.get_mut(session.0) {
            session.publisher_tracks.insert(handle);
            let source = keystream::Source { key: Arc::clone(&session.key), ssrc: track.ssrc };
            let next = ExtendedSeq(track.first.0 + 1);
            state.produce(keystream::Command::AddPublisher { handle, source, next, kind: track.kind });
        }
        Ok(PublisherTrackId(handle))
    }

    fn remove_publisher_track(&self, track: PublisherTrackId) {
        let mut state = self.shared.lock();
        stop_publisher(&mut state, track.0);
        self.shared.bell.notify_one();
    }

    fn add_subscriber_track(
        &self,
        session: SessionId,
        from: PublisherTrackId,
        track: NewSubscriberTrack,
    ) -> Result<SubscriberTrackId, EngineError> {
        let mut state = self.shared.lock();
        let state = &mut *state;
        alive(state, session)?;
        let publisher = state.publishers.get_mut(from.0).filter(|publisher| !publisher.stopping);
        let publisher = publisher.ok_or(EngineError::Unknown("publisher track"))?;
        if staying(&state.subscribers, publisher) >= self.limits.viewers_per_stream {
            return Err(EngineError::StreamFull { limit: self.limits.viewers_per_stream });
        }
        let entry = state::SubscriberTrack {
            session: session.0,
            from: from.0,
            track,
            phase: Phase::Joining,
            index_offset: None,
            keystream: 0,
        };
        let limit = state.subscribers.limit();
        let full = |_| EngineError::Full { table: "the table of outgoing tracks", limit, key: "subscriber_tracks" };
        let handle = state.subscribers.insert(entry).map_err(full)?;
        publisher.members.push(handle);
        if let Some(session) = state.sessions.get_mut(session.0) {
            session.subscriber_tracks.insert(handle);
        }
        state.work.publishers.insert(from.0);
        self.shared.bell.notify_one();
        Ok(SubscriberTrackId(handle))
    }

    fn remove_subscriber_track(&self, track: SubscriberTrackId) {
        if self.shared.lock().detach_subscriber(track.0) {
            self.shared.bell.notify_one();
        }
    }

    fn publisher_stats(&self, track: PublisherTrackId) -> Option<PublisherStats> {
        let state = self.shared.lock();
        state.publishers.get(track.0)?;
        let seen = state.tables.publisher_state(Slots::<()>::slot(track.0)).ok()?;
        Some(publisher_stats(&seen))
    }

    fn subscriber_stats(&self, track: SubscriberTrackId) -> Option<SubscriberStats> {
        let state = self.shared.lock();
        // Before it is attached, the slot holds what a former occupant left.
        if state.subscribers.get(track.0)?.index_offset.is_none() {
            return Some(SubscriberStats::default());
        }
        let sent = state.tables.subscriber_state.get(&Slots::<()>::slot(track.0), 0).ok()?;
        Some(SubscriberStats {
            packets: sent.packets,
            octets: sent.octets,
            last_timestamp: sent.last_timestamp,
            last_sent_ns: sent.last_sent_ns,
        })
    }

    fn counters(&self) -> Vec<(&'static str, u64)> {
        let sum = |counter: &Counter| {
            let values = self.counters.get(&(*counter as u32), 0);
            values.map_or(0, |values| values.iter().fold(0, |sum: u64, value| sum.wrapping_add(*value)))
        };
        let mut all: Vec<_> = Counter::ALL.iter().map(|counter| (counter.name(), sum(counter))).collect();
        if let Some(keystream) = &self.shared.lock().keystream {
            let figures = &keystream.figures;
            all.extend([
                ("keystream_memory_bytes", figures.memory.load(Ordering::Relaxed)),
                ("keystream_rings", figures.rings.load(Ordering::Relaxed)),
                ("keystream_rings_installed", figures.installed.load(Ordering::Relaxed)),
                ("keystream_rings_refused", figures.refused.load(Ordering::Relaxed)),
                ("keystream_entries_filled", figures.filled.load(Ordering::Relaxed)),
                ("keystream_wakeups", figures.wakeups.load(Ordering::Relaxed)),
            ]);
        }
        all
    }

    fn figures(&self) -> Vec<Figures> {
        let counters = self.counters().into_iter().collect();
        let datapath = self.datapath.lock().unwrap_or_else(PoisonError::into_inner);
        let programs = datapath.as_ref().map(Datapath::programs).unwrap_or_default();
        vec![Figures { engine: "kernel", counters, programs }]
    }
}

/// What is known of the way to a peer.
enum Path {
    Known(layout::Path),
    /// There is a route, but the neighbour must be asked for its hardware address.
    Unresolved,
    /// Publishers are only received.
    NotNeeded,
}

/// The mark of tap numbers, which are never 0.
const TAP: u32 = 1 << 31;

impl KernelEngine {
    /// Each packet of this track also goes to the reader of [`take_taps`](Self::take_taps), or no more.
    ///
    /// # Errors
    /// [`EngineError::Unknown`], [`EngineError::Kernel`].
    pub fn set_tap(&self, track: PublisherTrackId, on: bool) -> Result<(), EngineError> {
        let mut state = self.shared.lock();
        let State { tables, publishers, .. } = &mut *state;
        let publisher = publishers.get_mut(track.0).ok_or(EngineError::Unknown("publisher track"))?;
        publisher.tap = if on { track.0 | TAP } else { 0 };
        let slot = Slots::<()>::slot(track.0);
        let entry = wire::publisher_track(slot, publisher);
        tables.publisher_tracks.set(slot, entry, 0).map_err(refused("tapping a track"))
    }

    /// Has this session tracks, be it such that stop and are not over yet?
    pub fn has_tracks(&self, session: SessionId) -> bool {
        let state = self.shared.lock();
        let tracks = |session: &state::Session| session.publisher_tracks.len() + session.subscriber_tracks.len();
        state.sessions.get(session.0).is_some_and(|session| tracks(session) > 0)
    }

    /// How many viewers a stream may have, if it has as many. Nothing of a track that is gone or about to go.
    pub fn full(&self, track: PublisherTrackId) -> Option<usize> {
        let state = self.shared.lock();
        let publisher = state.publishers.get(track.0).filter(|publisher| !publisher.stopping)?;
        let limit = self.limits.viewers_per_stream;
        (staying(&state.subscribers, publisher) >= limit).then_some(limit)
    }

    /// The buffer in which the packets of tapped tracks arrive, as [`layout::TapRecord`]. Once.
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

    fn describe_publisher(&self) -> String {
        let generic = self.attached.iter().all(|interface| interface.mode == xdp_mode::GENERIC);
        self.describe_mode(if generic { xdp_mode::GENERIC } else { xdp_mode::NATIVE })
    }

    fn describe_mode(&self, mode: u8) -> String {
        let less = if self.short_way.is_err() { ", without the short way for one viewer" } else { "" };
        format!("kernel {}{less}", mode_name(mode))
    }

    fn find_path(&self, role: Role, transport: Transport) -> Result<Path, EngineError> {
        let unreachable = |reason| EngineError::Unreachable { peer: transport.peer, reason };
        let mut netlink = self.netlink.lock().unwrap_or_else(PoisonError::into_inner);
        let route = route::find(&mut netlink, &self.devices, transport).map_err(unreachable)?;
        if role == Role::Publisher {
            return Ok(Path::NotNeeded);
        }
        let path = Route::path(&route, &mut netlink).map_err(unreachable)?;
        Ok(path.map_or(Path::Unresolved, Path::Known))
    }

    fn look_for_path(&self, session: u32) {
        if let Some(resolve) = &self.resolve {
            // Fails only when the path thread is gone, that is while the engine is dropped.
            let _ = resolve.send(session);
        }
    }

    /// Returns whether everything is known that sending needs.
    fn install_session(
        &self,
        state: &mut State,
        new: NewSession,
        key: &SessionKey,
        path: Path,
    ) -> Result<(SessionId, bool), EngineError> {
        let resolved = !matches!(path, Path::Unresolved);
        let current = match path {
            Path::Known(path) => Some(CurrentPath { side: 0, path }),
            Path::Unresolved | Path::NotNeeded => None,
        };
        let session = state::Session {
            profile: new.key.profile.number(),
            id: new.id,
            stream: new.stream,
            role: new.role,
            created_ns: boottime_ns(),
            transport: new.transport,
            path: current,
            publisher_tracks: BTreeSet::new(),
            subscriber_tracks: BTreeSet::new(),
            key: Arc::new(keystream::Key::new(key)),
            closing: false,
        };
        let limit = state.sessions.limit();
        let full = |_| EngineError::Full { table: "the table of sessions", limit, key: "sessions" };
        let handle = state.sessions.insert(session).map_err(full)?;
        if let Err(error) = self.write_session(state, handle, key) {
            state.sessions.remove(handle);
            if let Err(error) = state.tables.keys.wipe(Slots::<()>::slot(handle)) {
                tracing::error!("key of a failed session not wiped: {}", describe(&error));
            }
            return Err(refused("installing a session")(error));
        }
        Ok((SessionId(handle), resolved))
    }

    fn write_session(&self, state: &mut State, handle: u32, key: &SessionKey) -> Result<(), MapError> {
        let slot = Slots::<()>::slot(handle);
        let Some(session) = state.sessions.get(handle) else { return Ok(()) };
        state.tables.keys.set(slot, key)?;
        if let Some(current) = session.path {
            state.tables.paths.set(2 * slot + current.side, current.path, 0)?;
        }
        state.tables.sessions.set(slot, wire::session(slot, session), 0)?;
        state.tables.leases.set(slot, boottime_ns() + self.lease_ns, 0)
    }
}

/// A failed map operation as the engine's contract reports it.
fn refused(what: &'static str) -> impl Fn(MapError) -> EngineError {
    move |error| EngineError::Kernel { what, source: as_io(error) }
}

fn session_key(new: &NewSession) -> Result<SessionKey, EngineError> {
    let profile = new.key.profile;
    if profile.auth_key_len() != 0 {
        return Err(EngineError::Profile { profile: profile.name() });
    }
    let fits = new.key.key.len() == profile.key_len();
    let key = fits.then(|| SessionKey::new(&new.key.key, new.key.gcm_salt())).flatten();
    key.ok_or_else(|| EngineError::Kernel {
        what: "expanding a session key",
        source: std::io::Error::new(std::io::ErrorKind::InvalidInput, "its length does not fit its profile"),
    })
}

fn alive(state: &State, session: SessionId) -> Result<&state::Session, EngineError> {
    let entry = state.sessions.get(session.0).filter(|session| !session.closing);
    entry.ok_or(EngineError::Unknown("session"))
}

fn flow(transport: Transport, ssrc: u32) -> FlowKey {
    FlowKey::new(canonical(transport.local), canonical(transport.peer), ssrc)
}

/// State before track, track before flow: the datapath finds a track only when it is complete.
fn install_publisher(state: &mut State, handle: u32, flow: FlowKey) -> Result<(), MapError> {
    let slot = Slots::<()>::slot(handle);
    let Some(publisher) = state.publishers.get(handle) else { return Ok(()) };
    let fresh = PublisherState::starting_after(publisher.track.first);
    state.tables.publisher_state.set(slot, fresh.into_bytes(), 0)?;
    state.tables.publisher_tracks.set(slot, wire::publisher_track(slot, publisher), 0)?;
    state.tables.flows.insert(flow, slot, 0)
}

/// Subscribers of a track that are not about to leave.
fn staying(subscribers: &Slots<state::SubscriberTrack>, publisher: &state::PublisherTrack) -> usize {
    let leaving = |handle: &&u32| subscribers.get(**handle).is_some_and(|track| track.phase == Phase::Leaving);
    publisher.members.len() - publisher.members.iter().filter(leaving).count()
}

/// No packet finds the track from now on; the fan-out thread does the rest.
fn stop_publisher(state: &mut State, handle: u32) {
    let State { tables, sessions, publishers, work, .. } = state;
    let Some(publisher) = publishers.get_mut(handle).filter(|publisher| !publisher.stopping) else { return };
    publisher.stopping = true;
    if let Some(session) = sessions.get(publisher.session) {
        remove_flow(tables, &flow(session.transport, publisher.track.ssrc), handle);
    }
    work.publishers.insert(handle);
}

/// Removes a flow if it still leads to this track: a publisher that moved may share the key.
fn remove_flow(tables: &mut Tables, flow: &FlowKey, handle: u32) {
    if tables.flows.get(flow, 0).is_ok_and(|slot| slot == Slots::<()>::slot(handle))
        && let Err(error) = tables.flows.remove(flow)
    {
        tracing::error!("flow not removed: {}", describe(&error));
    }
}

/// New keys for the same track slots, so the replay lists stay.
fn move_flows(state: &mut State, session: SessionId, transport: Transport) -> Result<(), EngineError> {
    let State { tables, sessions, publishers, .. } = state;
    let Some(entry) = sessions.get(session.0) else { return Ok(()) };
    if entry.transport == transport {
        return Ok(());
    }
    let tracks = entry.publisher_tracks.iter().filter_map(|handle| Some((*handle, publishers.get(*handle)?)));
    for (handle, publisher) in tracks.filter(|(_, publisher)| !publisher.stopping) {
        let slot = Slots::<()>::slot(handle);
        let ssrc = publisher.track.ssrc;
        tables.flows.insert(flow(transport, ssrc), slot, 0).map_err(refused("moving an incoming track"))?;
        remove_flow(tables, &flow(entry.transport, ssrc), handle);
    }
    Ok(())
}

fn publisher_stats(seen: &PublisherState) -> PublisherStats {
    let drops = |counter: Counter| {
        let place = PUBLISHER_DROPS.iter().position(|reason| *reason == counter);
        place.and_then(|place| seen.drops.get(place)).copied().unwrap_or(0)
    };
    PublisherStats {
        highest: seen.replay.highest(),
        first: ExtendedSeq(seen.first),
        packets: seen.packets,
        octets: seen.octets,
        jitter: seen.jitter_q4 / 16,
        auth_failed: drops(Counter::DropAuthFailed),
        last_timestamp: seen.last_timestamp,
        last_arrival_ns: seen.last_arrival_ns,
    }
}
