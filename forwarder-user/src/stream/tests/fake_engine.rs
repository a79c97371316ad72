//! An engine that moves nothing: it keeps what it is told and says what a real one would say.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use forwarder_common::ExtendedSeq;

use penstock_engine::*;

#[derive(Default)]
pub(crate) struct State {
    pub sessions: BTreeMap<u32, NewSession>,
    pub publisher_tracks: BTreeMap<u32, (SessionId, NewPublisherTrack)>,
    pub subscriber_tracks: BTreeMap<u32, (SessionId, PublisherTrackId, NewSubscriberTrack)>,
    pub publisher_stats: PublisherStats,
    pub subscriber_stats: SubscriberStats,
    /// Names of the calls, in order.
    pub calls: Vec<String>,
    /// `next_out` of the next stop, in packets after the one at the start.
    pub sent_per_track: u64,
    /// That of every track.
    pub index_offset: u64,
    pub refuse_sessions: bool,
    pub refuse_tracks: bool,
    /// Whether the flow of a track has gone.
    pub(crate) flow_lost: bool,
    /// Can it open what comes up to the sockets?
    pub diverts: bool,
    /// Answer of the next `is_back`.
    pub back: bool,
    /// No index up to this one is new.
    pub accepted: u64,
    /// What can be sent again, by sequence number.
    pub kept: BTreeMap<u16, Vec<u8>>,
    /// What of every incoming SSRC has come, and how often something came ahead.
    pub received: Received,
    /// Whether it takes SSRCs of repairs, and those that it has.
    pub takes_repairs: bool,
    pub repairs: Vec<NewRepairTrack>,
    /// What has come of every incoming SSRC, until it is asked for.
    pub arrivals: Vec<(u16, u64)>,
    pub gaps: u64,
}

pub(crate) struct FakeEngine {
    state: Mutex<State>,
    events: Events,
}

impl FakeEngine {
    #[expect(clippy::disallowed_methods, reason = "as the real engine's")]
    pub(crate) fn new() -> (Arc<Self>, tokio::sync::mpsc::UnboundedReceiver<Event>) {
        let (events, receiver) = tokio::sync::mpsc::unbounded_channel();
        (Arc::new(Self { state: Mutex::default(), events }), receiver)
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// The lowest handle that is free, as a table of slots gives it.
    fn free<T>(used: &BTreeMap<u32, T>) -> u32 {
        (0..).find(|id| !used.contains_key(id)).unwrap()
    }

    fn stop(&self, state: &mut State, id: u32) {
        if let Some((_, _, track)) = state.subscriber_tracks.remove(&id) {
            let next_out = ExtendedSeq(track.next_out.0 + state.sent_per_track);
            let index_offset = Some(state.index_offset);
            let track = SubscriberTrackId(id);
            let _ = self.events.send(Event::SubscriberTrackStopped { track, next_out, index_offset });
        }
    }
}

impl Engine for FakeEngine {
    fn describe(&self) -> String {
        "fake".into()
    }

    fn describe_session(&self, _: SessionId) -> String {
        "fake".into()
    }

    fn add_session(&self, session: NewSession) -> Result<SessionId, EngineError> {
        let mut state = self.state();
        if session.key.profile.auth_key_len() != 0 {
            return Err(EngineError::Profile { profile: session.key.profile.name() });
        }
        state.calls.push(format!("add_session {:?}", session.role));
        if state.refuse_sessions {
            return Err(EngineError::Full { table: "SESSIONS", limit: 0, key: "sessions" });
        }
        let id = Self::free(&state.sessions);
        state.sessions.insert(id, session);
        Ok(SessionId(id))
    }

    fn move_session(&self, session: SessionId, transport: Transport) -> Result<(), EngineError> {
        let mut state = self.state();
        state.calls.push("move_session".into());
        state.sessions.get_mut(&session.0).ok_or(EngineError::Unknown("session"))?.transport = transport;
        Ok(())
    }

    fn refresh_session(&self, _: SessionId) {
        self.state().calls.push("refresh_session".into());
    }

    fn end_session_at(&self, _: SessionId, at_ns: u64) {
        self.state().calls.push(format!("end_session_at {at_ns}"));
    }

    fn remove_session(&self, session: SessionId) {
        let mut state = self.state();
        let removed = state.sessions.remove(&session.0);
        state.calls.push(format!("remove_session {:?}", removed.map(|session| session.role)));
    }

    fn add_publisher_track(
        &self,
        session: SessionId,
        track: NewPublisherTrack,
    ) -> Result<PublisherTrackId, EngineError> {
        let mut state = self.state();
        state.calls.push("add_publisher_track".into());
        if state.refuse_tracks {
            return Err(EngineError::Full { table: "the table of incoming tracks", limit: 0, key: "publisher_tracks" });
        }
        let id = Self::free(&state.publisher_tracks);
        state.publisher_tracks.insert(id, (session, track));
        Ok(PublisherTrackId(id))
    }

    fn add_repair_track(&self, session: SessionId, track: NewRepairTrack) -> Result<PublisherTrackId, EngineError> {
        let mut state = self.state();
        let of = state.publisher_tracks[&track.of.0].1;
        let id = Self::free(&state.publisher_tracks);
        let NewRepairTrack { ssrc, payload_type, first, .. } = track;
        state.publisher_tracks.insert(id, (session, NewPublisherTrack { ssrc, payload_type, first, ..of }));
        state.repairs.push(track);
        Ok(PublisherTrackId(id))
    }

    fn takes_repairs(&self) -> bool {
        self.state().takes_repairs
    }

    fn restore_publisher_track(&self, _: PublisherTrackId) -> bool {
        let mut state = self.state();
        state.calls.push("restore".into());
        state.flow_lost
    }

    fn remove_publisher_track(&self, track: PublisherTrackId) {
        let mut state = self.state();
        state.calls.push("remove_publisher_track".into());
        state.publisher_tracks.remove(&track.0);
        let of = |(id, (_, from, _)): (&u32, &(SessionId, PublisherTrackId, _))| (*from == track).then_some(*id);
        let subscribers: Vec<u32> = state.subscriber_tracks.iter().filter_map(of).collect();
        subscribers.into_iter().for_each(|id| self.stop(&mut state, id));
        let highest = state.publisher_stats.highest;
        let _ = self.events.send(Event::PublisherTrackStopped { track, highest });
    }

    fn add_subscriber_track(
        &self,
        session: SessionId,
        from: PublisherTrackId,
        track: NewSubscriberTrack,
    ) -> Result<SubscriberTrackId, EngineError> {
        let mut state = self.state();
        state.calls.push("add_subscriber_track".into());
        let id = Self::free(&state.subscriber_tracks);
        state.subscriber_tracks.insert(id, (session, from, track));
        let _ = self.events.send(Event::SubscriberTrackStarted { track: SubscriberTrackId(id) });
        Ok(SubscriberTrackId(id))
    }

    fn remove_subscriber_track(&self, track: SubscriberTrackId) {
        let mut state = self.state();
        state.calls.push("remove_subscriber_track".into());
        self.stop(&mut state, track.0);
    }

    fn publisher_stats(&self, track: PublisherTrackId) -> Option<PublisherStats> {
        let state = self.state();
        state.publisher_tracks.contains_key(&track.0).then_some(state.publisher_stats)
    }

    fn subscriber_stats(&self, track: SubscriberTrackId) -> Option<SubscriberStats> {
        let state = self.state();
        state.subscriber_tracks.contains_key(&track.0).then_some(state.subscriber_stats)
    }

    fn has_accepted(&self, _: PublisherTrackId, index: ExtendedSeq) -> bool {
        index.0 <= self.state().accepted
    }

    fn divert(&self, _: SessionId, _: &str) -> bool {
        let mut state = self.state();
        state.calls.push("divert".into());
        state.diverts
    }

    fn has_other_ways(&self) -> bool {
        self.state().diverts
    }

    fn is_back(&self, _: SessionId) -> bool {
        std::mem::take(&mut self.state().back)
    }

    fn repair(
        &self,
        _: SubscriberTrackId,
        seq: u16,
        _: Option<&mut RtxSource>,
    ) -> std::result::Result<Vec<u8>, Unrepaired> {
        let missing = Unrepaired::Missing(ExtendedSeq(seq.into()));
        self.state().kept.get(&seq).cloned().ok_or(missing)
    }

    fn gaps(&self) -> u64 {
        self.state().gaps
    }

    fn received(&self, _: PublisherTrackId, from: u64) -> Option<Received> {
        let mut received = self.state().received.clone();
        received.missing.retain(|index| *index >= from);
        Some(received)
    }

    fn arrivals(&self, _: PublisherTrackId, each: &mut dyn FnMut(u16, u64)) {
        self.state().arrivals.drain(..).for_each(|(number, at_ns)| each(number, at_ns));
    }

    fn counters(&self) -> Vec<(&'static str, u64)> {
        vec![]
    }
}
