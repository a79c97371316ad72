//! The engine's contract, [`Engine`], kept by map entries.

use std::sync::{Arc, PoisonError, atomic::Ordering};

use forwarder_common::{
    Counter, ExtendedSeq,
    arrivals::Seen,
    maps::{PUBLISHER_DROPS, PublisherState, xdp_mode},
};

use super::{
    KernelEngine,
    install::{Path, check_flow, install_publisher, move_flows, refused, restore_flow, session_key, stop_publisher},
    keystream,
    state::{self, Phase, State},
    taps, wire,
};
use crate::{
    Engine, EngineError, Figures, NewPublisherTrack, NewRepairTrack, NewSession, NewSubscriberTrack, PublisherStats,
    PublisherTrackId, Received, Role, RtxSource, SessionId, SubscriberStats, SubscriberTrackId, Transport, Unrepaired,
    bpf::{describe, load::Datapath, mode_name},
    clock::boottime_ns,
    repair,
    route::Look,
    slots::Slots,
    tier::{Level, Tier},
};

impl Engine for KernelEngine {
    fn describe(&self) -> String {
        let attached = self.attached.get();
        let names = |mode: u8| {
            let names = attached.iter().filter(|interface| interface.mode == mode).map(|i| i.name.as_str());
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
        let attached = self.attached.get();
        let interface = attached.iter().find(|interface| interface.index == current.path.egress_ifindex);
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
        let expiry = (boottime_ns() + self.lease_ns).min(entry.ends_ns);
        if let Err(error) = state.tables.leases.set(Slots::<()>::slot(session.0), expiry, 0) {
            tracing::error!("lease not refreshed: {}", describe(&error));
        }
        drop(state);
        if role == Role::Subscriber {
            self.look_for_path(session.0);
        }
    }

    fn end_session_at(&self, session: SessionId, at_ns: u64) {
        let mut state = self.shared.lock();
        let Some(entry) = state.sessions.get_mut(session.0).filter(|session| !session.closing) else { return };
        entry.ends_ns = at_ns;
        let slot = Slots::<()>::slot(session.0);
        let leases = &mut state.tables.leases;
        let shortened = leases.get(&slot, 0).and_then(|lease| leases.set(slot, lease.min(at_ns), 0));
        if let Err(error) = shortened {
            tracing::error!("lease not shortened: {}", describe(&error));
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
        self.add_incoming(session, track, Incoming::Media)
    }

    fn add_repair_track(&self, session: SessionId, track: NewRepairTrack) -> Result<PublisherTrackId, EngineError> {
        let of = {
            let state = self.shared.lock();
            let publisher = state.publishers.get(track.of.0).ok_or(EngineError::Unknown("publisher track"))?;
            let limit = state.publishers.limit();
            if !repair::has_room(state.publishers.values().count(), limit) {
                return Err(EngineError::Full {
                    table: "the table of incoming tracks",
                    limit,
                    key: "publisher_tracks",
                });
            }
            publisher.track
        };
        let NewRepairTrack { ssrc, payload_type, first, sequence_extension, .. } = track;
        let new = NewPublisherTrack { ssrc, payload_type, first, sequence_extension, ..of };
        self.add_incoming(session, new, Incoming::Repairs(track.of.0))
    }

    fn restore_publisher_track(&self, track: PublisherTrackId) -> bool {
        restore_flow(&mut self.shared.lock(), track.0)
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

    fn has_accepted(&self, track: PublisherTrackId, index: ExtendedSeq) -> bool {
        let state = self.shared.lock();
        if state.publishers.get(track.0).is_none() {
            return true;
        }
        state.tables.replay.get(Slots::<()>::slot(track.0)).is_none_or(|replay| replay.check(index).is_err())
    }

    fn repair(&self, track: SubscriberTrackId, seq: u16, rtx: Option<&mut RtxSource>) -> Result<Vec<u8>, Unrepaired> {
        let packet = self.send_again(track, seq, rtx)?;
        self.sent_again.fetch_add(1, Ordering::Relaxed);
        Ok(packet)
    }

    fn gaps(&self) -> u64 {
        self.counted(Counter::Gaps)
    }

    fn received(&self, track: PublisherTrackId, from: u64) -> Option<Received> {
        let state = self.shared.lock();
        state.publishers.get(track.0)?;
        Some(Received::of(state.tables.replay.get(Slots::<()>::slot(track.0))?, from))
    }

    fn arrivals(&self, track: PublisherTrackId, each: &mut dyn FnMut(u16, u64)) {
        let mut state = self.shared.lock();
        let State { tables, publishers, .. } = &mut *state;
        let heard = publishers.get_mut(track.0).and_then(|publisher| publisher.heard.as_mut());
        if let (Some(heard), Some(arrivals)) = (heard, tables.arrivals.get(Slots::<()>::slot(track.0))) {
            arrivals.since(heard, each);
        }
    }

    fn counters(&self) -> Vec<(&'static str, u64)> {
        let mut all: Vec<_> = Counter::ALL.iter().map(|counter| (counter.name(), self.counted(*counter))).collect();
        all.push(("sealed_again", self.sent_again.load(Ordering::Relaxed)));
        all.extend(self.repairs.list());
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

/// What an incoming SSRC is for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Incoming {
    Media,
    /// To be counted; the userspace engine opens it.
    Diverted,
    /// Brings again what was lost of this track. Its packets are opened and go to the reader of the taps: whatever is
    /// in them then takes the way of what it repairs (`rtx`).
    Repairs(u32),
}

impl KernelEngine {
    /// Has this session tracks, be it such that stop and are not over yet?
    pub fn has_tracks(&self, session: SessionId) -> bool {
        let state = self.shared.lock();
        let tracks = |session: &state::Session| session.publisher_tracks.len() + session.subscriber_tracks.len();
        state.sessions.get(session.0).is_some_and(|session| tracks(session) > 0)
    }

    /// Why copies do not reach a session's peer (any more). `None`: as far as is known, they do.
    pub fn why_lost(&self, session: SessionId) -> Option<String> {
        self.shared.lock().sessions.get(session.0)?.lost.clone()
    }

    /// The session's peer has gone over to TCP, where XDP cannot follow. A viewer's tracks are lost as by any other way
    /// that ends; a publisher's packets come up to the sockets, and are diverted when they do.
    pub fn lose_to_tcp(&self, session: SessionId, transport: Transport) {
        {
            let mut state = self.shared.lock();
            let entry = state.sessions.get_mut(session.0).filter(|entry| entry.role == Role::Subscriber);
            let Some(entry) = entry else { return };
            entry.transport = transport;
        }
        self.look_for_path(session.0);
    }

    /// How many viewers a stream may have, if it has as many. Nothing of a track that is gone or about to go.
    pub fn full(&self, track: PublisherTrackId) -> Option<usize> {
        let state = self.shared.lock();
        let publisher = state.publishers.get(track.0).filter(|publisher| !publisher.stopping)?;
        let limit = self.limits.viewers_per_stream;
        (staying(&state.subscribers, publisher) >= limit).then_some(limit)
    }

    /// Counts the packets of an SSRC that the userspace engine opens, as far as XDP sees them: in the `packets` of its
    /// [`PublisherStats`]. Ends by `remove_publisher_track`.
    ///
    /// # Errors
    /// As [`Engine::add_publisher_track`].
    pub fn count_diverted(
        &self,
        session: SessionId,
        track: NewPublisherTrack,
    ) -> Result<PublisherTrackId, EngineError> {
        self.add_incoming(session, track, Incoming::Diverted)
    }

    fn add_incoming(
        &self,
        session: SessionId,
        track: NewPublisherTrack,
        incoming: Incoming,
    ) -> Result<PublisherTrackId, EngineError> {
        let mut state = self.shared.lock();
        let state = &mut *state;
        let flow = check_flow(state, alive(state, session)?.transport, track.ssrc, None)?;
        let entry = state::PublisherTrack {
            session: session.0,
            track,
            members: Vec::new(),
            side: None,
            keystream: 0,
            tap: 0,
            repairs: if let Incoming::Repairs(of) = incoming { Some(of) } else { None },
            diverted: incoming == Incoming::Diverted,
            store: None,
            heard: track.sequence_extension.map(|_| Box::new(Seen::new())),
            stopping: false,
        };
        let limit = state.publishers.limit();
        let full = |_| EngineError::Full { table: "the table of incoming tracks", limit, key: "publisher_tracks" };
        let handle = state.publishers.insert(entry).map_err(full)?;
        if let Some(publisher) = state.publishers.get_mut(handle).filter(|publisher| publisher.repairs.is_some()) {
            publisher.tap = taps::number(handle);
        }
        if let Err(error) = install_publisher(state, handle, flow) {
            state.publishers.remove(handle);
            return Err(refused("installing an incoming track")(error));
        }
        if let Some(session) = state.sessions.get_mut(session.0) {
            session.publisher_tracks.insert(handle);
            // What is opened elsewhere is kept elsewhere.
            if self.repair && incoming == Incoming::Media {
                state.work.stores.insert(handle);
                self.shared.bell.notify_one();
            }
            let source = keystream::Source { key: Arc::clone(&session.key), ssrc: track.ssrc };
            let next = ExtendedSeq(track.first.0 + 1);
            if incoming == Incoming::Media {
                state.produce(keystream::Command::AddPublisher { handle, source, next, kind: track.kind });
            }
        }
        Ok(PublisherTrackId(handle))
    }

    fn describe_publisher(&self) -> String {
        let generic = self.attached.get().iter().all(|interface| interface.mode == xdp_mode::GENERIC);
        self.describe_mode(if generic { xdp_mode::GENERIC } else { xdp_mode::NATIVE })
    }

    fn describe_mode(&self, mode: u8) -> String {
        let less = if self.short_way.is_err() { ", without the short way for one viewer" } else { "" };
        format!("kernel {}{less}", mode_name(mode))
    }

    /// A counter of the programs, all CPUs together.
    fn counted(&self, counter: Counter) -> u64 {
        let values = self.counters.get(&(counter as u32), 0);
        values.map_or(0, |values| values.iter().fold(0, |sum: u64, value| sum.wrapping_add(*value)))
    }

    fn look_for_path(&self, session: u32) {
        if let Some(resolve) = &self.resolve {
            // Fails only when the path thread is gone, that is while the engine is dropped.
            let _ = resolve.send(Look::Session(session));
        }
    }
}

fn alive(state: &State, session: SessionId) -> Result<&state::Session, EngineError> {
    let entry = state.sessions.get(session.0).filter(|session| !session.closing);
    entry.ok_or(EngineError::Unknown("session"))
}

/// Subscribers of a track that are not about to leave.
fn staying(subscribers: &Slots<state::SubscriberTrack>, publisher: &state::PublisherTrack) -> usize {
    let leaving = |handle: &&u32| subscribers.get(**handle).is_some_and(|track| track.phase == Phase::Leaving);
    publisher.members.len() - publisher.members.iter().filter(leaving).count()
}

fn publisher_stats(seen: &PublisherState) -> PublisherStats {
    let drops = |counter: Counter| {
        let place = PUBLISHER_DROPS.iter().position(|reason| *reason == counter);
        place.and_then(|place| seen.drops.get(place)).copied().unwrap_or(0)
    };
    PublisherStats {
        highest: seen.replay.highest(),
        highest_accepted: seen.replay.highest_accepted(),
        first: ExtendedSeq(seen.first),
        packets: seen.packets,
        octets: seen.octets,
        jitter: seen.jitter_q4 / 16,
        auth_failed: drops(Counter::DropAuthFailed),
        others: drops(Counter::DropPayloadType),
        other_type: seen.other_type.checked_sub(1).map(|payload_type| payload_type as u8 & 0x7f),
        last_timestamp: seen.last_timestamp,
        last_arrival_ns: seen.last_arrival_ns,
    }
}
