//! The engine's contract, [`Engine`], and what sources ask beyond it.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use forwarder_common::{Counter, ExtendedSeq};
use penstock_srtp::cipher::Cipher;

use super::{
    Inner, UserspaceEngine,
    backlog::Start,
    outgoing,
    tables::{Heard, Listener, Origin, Publisher, Replay, Session, Subscriber, Tables},
};
use crate::{
    Ear, Engine, EngineError, Event, Feeder, Figures, KeptStats, NewPublisherTrack, NewRepairTrack, NewSession,
    NewSource, NewSubscriberTrack, PublisherStats, PublisherTrackId, Received, Role, RtxSource, SessionId, Sources,
    SubscriberStats, SubscriberTrackId, Transport, Unrepaired,
    clock::boottime_ns,
    io::{MediaSockets, Worker},
    repair,
};

/// An incoming SSRC: of media, or of repairs for another one.
struct Incoming {
    ssrc: u32,
    payload_type: u8,
    clock_rate: u32,
    first: ExtendedSeq,
    sequence_extension: Option<u8>,
    /// The track that it repairs.
    repairs: Option<u32>,
}

impl Inner {
    fn add_incoming(
        &self,
        tables: &mut Tables,
        session: SessionId,
        new: &Incoming,
    ) -> Result<PublisherTrackId, EngineError> {
        let entry = tables.sessions.get(session.0).filter(|entry| entry.role == Role::Publisher);
        let entry = entry.ok_or(EngineError::Unknown("session"))?;
        let flow = (entry.socket, entry.transport.peer, new.ssrc);
        if tables.flows.contains_key(&flow) {
            return Err(EngineError::Taken { peer: entry.transport.peer, ssrc: new.ssrc });
        }
        let origin = Origin::Srtp {
            session: session.0,
            cipher: Arc::clone(&entry.cipher),
            expires: Arc::clone(&entry.expires),
            ssrc: new.ssrc,
            payload_type: new.payload_type,
        };
        let mut publisher = Publisher::new(origin, new.clock_rate, new.first, false);
        publisher.repairs = new.repairs;
        publisher.heard = new.sequence_extension.map(|number| Box::new(Heard::new(number)));
        // Repairs are kept as what they repair.
        publisher.kept = if new.repairs.is_none() { self.keeper(self.config.repair.last()) } else { None };
        let limit = tables.publishers.limit();
        let full = || EngineError::Full { table: "the table of incoming tracks", limit, key: "publisher_tracks" };
        if new.repairs.is_some() && !repair::has_room(tables.publishers.values().count(), limit) {
            return Err(full());
        }
        let handle = tables.publishers.insert(publisher).map_err(|_| full())?;
        tables.flows.insert(flow, handle);
        if let Some(entry) = tables.sessions.get_mut(session.0) {
            entry.publisher_tracks.insert(handle);
        }
        Ok(PublisherTrackId(handle))
    }
}

impl Engine for UserspaceEngine {
    fn describe(&self) -> String {
        if self.0.xdp().is_some() { "userspace xdp".into() } else { "userspace socket".into() }
    }

    fn describe_session(&self, session: SessionId) -> String {
        let tables = self.0.read();
        let session = tables.sessions.get(session.0);
        if session.is_some_and(|session| session.transport.tcp) {
            return "userspace tcp".into();
        }
        match session.map(|session| (session.role, session.path.is_ok())) {
            Some((Role::Publisher, _)) => self.describe(),
            Some((Role::Subscriber, true)) => "userspace xdp".into(),
            Some((Role::Subscriber, false)) => "userspace socket".into(),
            None => "closed".into(),
        }
    }

    fn add_session(&self, new: NewSession) -> Result<SessionId, EngineError> {
        let socket = self.0.socket(new.transport)?;
        let cipher = Cipher::sealed_by(&new.key, self.0.config.sealer).ok_or_else(|| EngineError::Kernel {
            what: "taking a session key",
            source: std::io::Error::new(std::io::ErrorKind::InvalidInput, "its length does not fit its profile"),
        })?;
        let session = Session {
            role: new.role,
            cipher: Arc::new(cipher),
            transport: new.transport,
            socket,
            path: Err(self.0.why_no_path()),
            expires: Arc::new(AtomicU64::new(boottime_ns() + self.0.config.lease.as_nanos() as u64)),
            ends_ns: u64::MAX,
            publisher_tracks: BTreeSet::new(),
            subscriber_tracks: BTreeSet::new(),
        };
        let mut tables = self.0.write();
        let limit = tables.sessions.limit();
        let full = |_| EngineError::Full { table: "the table of sessions", limit, key: "sessions" };
        let subscriber = session.role == Role::Subscriber;
        let session = tables.sessions.insert(session).map_err(full)?;
        drop(tables);
        if subscriber {
            self.0.look_for_path(session);
        }
        Ok(SessionId(session))
    }

    fn move_session(&self, session: SessionId, transport: Transport) -> Result<(), EngineError> {
        let socket = self.0.socket(transport)?;
        let mut tables = self.0.write();
        let Tables { sessions, publishers, subscribers, flows } = &mut *tables;
        let entry = sessions.get_mut(session.0).ok_or(EngineError::Unknown("session"))?;
        let ssrc = |handle: &u32| match publishers.get(*handle).map(|publisher| &publisher.origin) {
            Some(Origin::Srtp { ssrc, .. }) => Some((*handle, *ssrc)),
            _ => None,
        };
        let tracks: Vec<(u32, u32)> = entry.publisher_tracks.iter().filter_map(ssrc).collect();
        // All or none.
        for (handle, ssrc) in &tracks {
            if flows.get(&(socket, transport.peer, *ssrc)).is_some_and(|owner| owner != handle) {
                return Err(EngineError::Taken { peer: transport.peer, ssrc: *ssrc });
            }
        }
        for (handle, ssrc) in &tracks {
            let old = (entry.socket, entry.transport.peer, *ssrc);
            if flows.get(&old) == Some(handle) {
                flows.remove(&old);
            }
            flows.insert((socket, transport.peer, *ssrc), *handle);
        }
        (entry.socket, entry.transport, entry.path) = (socket, transport, Err(self.0.why_no_path()));
        for handle in &entry.subscriber_tracks {
            if let Some(subscriber) = subscribers.get_mut(*handle) {
                subscriber.destination = entry.destination(subscriber.track.dscp);
            }
        }
        drop(tables);
        self.0.look_for_path(session.0);
        Ok(())
    }

    fn refresh_session(&self, session: SessionId) {
        if let Some(session) = self.0.read().sessions.get(session.0) {
            let lease = boottime_ns() + self.0.config.lease.as_nanos() as u64;
            session.expires.store(lease.min(session.ends_ns), Relaxed);
        }
        self.0.look_for_path(session.0);
    }

    fn end_session_at(&self, session: SessionId, at_ns: u64) {
        if let Some(session) = self.0.write().sessions.get_mut(session.0) {
            session.ends_ns = at_ns;
            session.expires.fetch_min(at_ns, Relaxed);
        }
    }

    fn remove_session(&self, session: SessionId) {
        let mut tables = self.0.write();
        let Some(entry) = tables.sessions.get(session.0) else { return };
        let (publishers, subscribers) = (entry.publisher_tracks.clone(), entry.subscriber_tracks.clone());
        publishers.into_iter().for_each(|track| self.0.end_publisher(&mut tables, track));
        subscribers.into_iter().for_each(|track| self.0.end_subscriber(&mut tables, track));
        tables.sessions.remove(session.0);
    }

    fn add_publisher_track(
        &self,
        session: SessionId,
        track: NewPublisherTrack,
    ) -> Result<PublisherTrackId, EngineError> {
        let of = Incoming {
            ssrc: track.ssrc,
            payload_type: track.payload_type,
            clock_rate: track.clock_rate,
            first: track.first,
            sequence_extension: track.sequence_extension,
            repairs: None,
        };
        self.0.add_incoming(&mut self.0.write(), session, &of)
    }

    fn add_repair_track(&self, session: SessionId, track: NewRepairTrack) -> Result<PublisherTrackId, EngineError> {
        let mut tables = self.0.write();
        let Some(of) = tables.publishers.get(track.of.0) else { return Err(EngineError::Unknown("publisher track")) };
        let of = Incoming {
            ssrc: track.ssrc,
            payload_type: track.payload_type,
            clock_rate: of.clock_rate,
            first: track.first,
            sequence_extension: track.sequence_extension,
            repairs: Some(track.of.0),
        };
        self.0.add_incoming(&mut tables, session, &of)
    }

    fn takes_repairs(&self) -> bool {
        true
    }

    fn restore_publisher_track(&self, track: PublisherTrackId) -> bool {
        let mut tables = self.0.write();
        let Some(Origin::Srtp { session, ssrc, .. }) = tables.publishers.get(track.0).map(|entry| &entry.origin) else {
            return false;
        };
        let (session, ssrc) = (*session, *ssrc);
        let Some(flow) = tables.sessions.get(session).map(|entry| (entry.socket, entry.transport.peer, ssrc)) else {
            return false;
        };
        let absent = !tables.flows.contains_key(&flow);
        if absent {
            tables.flows.insert(flow, track.0);
        }
        absent
    }

    fn remove_publisher_track(&self, track: PublisherTrackId) {
        self.0.end_publisher(&mut self.0.write(), track.0);
    }

    fn add_subscriber_track(
        &self,
        session: SessionId,
        from: PublisherTrackId,
        track: NewSubscriberTrack,
    ) -> Result<SubscriberTrackId, EngineError> {
        let mut tables = self.0.write();
        let Tables { sessions, publishers, subscribers, .. } = &mut *tables;
        let entry = sessions.get_mut(session.0).ok_or(EngineError::Unknown("session"))?;
        let publisher = publishers.get_mut(from.0).ok_or(EngineError::Unknown("publisher track"))?;
        let limit = self.0.config.viewers_per_stream;
        if publisher.members.len() >= limit {
            return Err(EngineError::StreamFull { limit });
        }
        // Under the write lock nothing is accepted meanwhile: what is kept ends with the highest index, and
        // the next packet is the first that the subscriber gets as it comes.
        let highest = publisher.replay.highest_accepted();
        let start = Start::new(highest, self.0.past(publisher));
        let is_behind = start.is_behind();
        let subscriber = Subscriber::new(entry, (session.0, from.0), track, start);
        let limit = subscribers.limit();
        let full = |_| EngineError::Full { table: "the table of outgoing tracks", limit, key: "subscriber_tracks" };
        let handle = subscribers.insert(subscriber).map_err(full)?;
        entry.subscriber_tracks.insert(handle);
        publisher.members.push(handle);
        if is_behind {
            self.0.behind.add(handle);
        }
        self.0.report(Event::SubscriberTrackStarted { track: SubscriberTrackId(handle) });
        Ok(SubscriberTrackId(handle))
    }

    fn remove_subscriber_track(&self, track: SubscriberTrackId) {
        self.0.end_subscriber(&mut self.0.write(), track.0);
    }

    fn publisher_stats(&self, track: PublisherTrackId) -> Option<PublisherStats> {
        self.0.read().publishers.get(track.0).map(Publisher::stats)
    }

    fn subscriber_stats(&self, track: SubscriberTrackId) -> Option<SubscriberStats> {
        self.0.read().subscribers.get(track.0).map(Subscriber::stats)
    }

    fn repair(&self, track: SubscriberTrackId, seq: u16, rtx: Option<&mut RtxSource>) -> Result<Vec<u8>, Unrepaired> {
        let packet = outgoing::seal_again(&self.0.read(), track.0, seq, rtx)?;
        self.0.kept.sealed_again();
        Ok(packet)
    }

    fn listen(&self, from: PublisherTrackId, ear: Ear) -> Result<(), EngineError> {
        let mut tables = self.0.write();
        let publisher = tables.publishers.get_mut(from.0).ok_or(EngineError::Unknown("publisher track"))?;
        // Under the write lock, as for a subscriber: each index is told of once.
        let live_from = publisher.replay.highest_accepted().0 + 1;
        for packet in self.0.past(publisher) {
            ear.tell(packet.index, &packet.header, &packet.payload);
        }
        publisher.listeners.retain(|listener| !listener.ear.is_closed());
        publisher.listeners.push(Listener { ear, live_from });
        Ok(())
    }

    fn forget_listeners(&self, from: PublisherTrackId) {
        if let Some(publisher) = self.0.write().publishers.get_mut(from.0) {
            publisher.listeners.retain(|listener| !listener.ear.is_closed());
        }
    }

    fn gaps(&self) -> u64 {
        self.0.counters[Counter::Gaps as usize].load(Relaxed)
    }

    fn received(&self, track: PublisherTrackId, from: u64) -> Option<Received> {
        match &self.0.read().publishers.get(track.0)?.replay {
            Replay::Network(replay) => Some(Received::of(replay, from)),
            Replay::Ordered(replay) => Some(Received::of(replay, from)),
        }
    }

    fn arrivals(&self, track: PublisherTrackId, each: &mut dyn FnMut(u16, u64)) {
        let tables = self.0.read();
        if let Some(heard) = tables.publishers.get(track.0).and_then(|publisher| publisher.heard.as_ref()) {
            heard.tell(each);
        }
    }

    fn sources(&self) -> Option<&dyn Sources> {
        Some(self)
    }

    fn set_sockets(&self, sockets: &Arc<MediaSockets>) {
        if self.0.sockets.set(Arc::clone(sockets)).is_err() {
            tracing::warn!("the userspace engine has its sockets already");
        }
    }

    fn worker(&self) -> Option<Box<dyn Worker>> {
        Some(Box::new(self.feeder()?))
    }

    fn counters(&self) -> Vec<(&'static str, u64)> {
        let value = |counter: &Counter| self.0.counters[*counter as usize].load(Relaxed);
        let mut all: Vec<_> = Counter::ALL.iter().map(|counter| (counter.name(), value(counter))).collect();
        all.push(("transmitted_by_xdp", self.0.by_xdp.load(Relaxed)));
        all.push(("resent_by_xdp", self.0.resent.load(Relaxed)));
        all.extend(self.0.kept.list(&self.0.read()));
        let memory = &self.0.config.repair.memory;
        all.extend(self.0.repairs.list());
        all.push(("repair_memory_bytes", memory.used() as u64));
        all.push(("repair_memory_refused", memory.refused()));
        all
    }

    fn figures(&self) -> Vec<Figures> {
        let counters = self.counters().into_iter().collect();
        vec![Figures { engine: "userspace", counters, programs: Vec::new() }]
    }
}

impl Sources for UserspaceEngine {
    fn add_source(&self, source: NewSource) -> Result<PublisherTrackId, EngineError> {
        Self::add_source(self, source)
    }

    fn feeder(&self) -> Option<Box<dyn Feeder>> {
        Some(Box::new(Self::feeder(self)?))
    }

    fn kept_stats(&self, track: PublisherTrackId) -> Option<KeptStats> {
        let tables = self.0.read();
        let kept = tables.publishers.get(track.0)?.kept.as_ref()?;
        let kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.keeps_groups().then(|| kept.stats())
    }
}
