//! The engine's state, as its threads share it.

use std::{
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use forwarder_common::maps as layout;

use super::{
    keystream::{self, Owner},
    state::State,
    wire,
};
use crate::{Event, Events, Role, SubscriberTrackId, Transport, bpf::describe, route::Sessions, slots::Slots};

/// Longest wait for room for a key: some rounds of the fan-out thread.
const PATIENCE: Duration = Duration::from_secs(2);

/// The engine's state, and the bell that wakes the fan-out thread.
pub struct Shared {
    state: Mutex<State>,
    events: Events,
    pub bell: Condvar,
    /// Rings when there is room for more keys.
    grown: Condvar,
}

impl Shared {
    pub fn new(events: Events, state: State) -> Self {
        Self { state: Mutex::new(state), events, bell: Condvar::new(), grown: Condvar::new() }
    }

    /// The state. A thread that panicked while it held the lock has written its map entries or not;
    /// either way the others must still be able to stop media.
    pub fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// There is room for more keys.
    pub fn has_grown(&self) {
        self.grown.notify_all();
    }

    /// The state, with room for the key of one more session. Waits only when sessions have come faster than
    /// the fan-out thread has made room; without any after [`PATIENCE`], the state says so.
    pub fn with_room(&self) -> MutexGuard<'_, State> {
        let mut state = self.lock();
        if state.has_room() {
            return state;
        }
        state.work.grow = true;
        self.bell.notify_one();
        let waited = self.grown.wait_timeout_while(state, PATIENCE, |state| !state.has_room());
        waited.unwrap_or_else(PoisonError::into_inner).0
    }
}

impl Sessions for Arc<Shared> {
    fn all(&self) -> Vec<u32> {
        let state = self.lock();
        let viewers = state.sessions.iter().filter(|(_, one)| one.role == Role::Subscriber && !one.closing);
        viewers.map(|(handle, _)| handle).collect()
    }

    fn transport(&self, session: u32) -> Option<Transport> {
        let state = self.lock();
        state.sessions.get(session).filter(|session| !session.closing).map(|session| session.transport)
    }

    fn found(&self, handle: u32, transport: Transport, path: layout::Path) -> Result<(), String> {
        let mut state = self.lock();
        let Some(session) = state.sessions.get_mut(handle) else { return Ok(()) };
        if session.transport == transport && session.lost.take().is_some() {
            session.failures = 0;
            tracing::info!(session = session.id, stream = session.stream, "there is a path to the peer again");
        }
        if session.transport == transport && session.path.is_none_or(|current| current.path != path) {
            state.work.paths.insert(handle, path);
            self.bell.notify_one();
        }
        Ok(())
    }

    fn lost(&self, handle: u32, reason: &str) {
        let mut state = self.lock();
        let Some(session) = state.sessions.get_mut(handle) else { return };
        tracing::warn!(
            session = session.id,
            stream = session.stream,
            peer = %session.transport.peer,
            "no path to the peer: {reason}"
        );
        session.lost = Some(reason.to_owned());
        for track in &session.subscriber_tracks {
            // Nobody listens any more while the control task stops.
            let _ = self.events.send(Event::SubscriberTrackLost { track: SubscriberTrackId(*track) });
        }
    }
}

impl keystream::Tracks for Arc<Shared> {
    fn announce(&self, owner: Owner, entries: u32) -> Result<(), String> {
        let mut state = self.lock();
        match owner {
            Owner::Publisher(handle) => {
                let Some(publisher) = state.publishers.get_mut(handle) else { return Ok(()) };
                publisher.keystream = entries;
                let slot = Slots::<()>::slot(handle);
                let entry = wire::publisher_track(slot, publisher);
                state.tables.publisher_tracks.set(slot, entry, 0).map_err(|error| describe(&error))
            }
            Owner::Subscriber(handle) => {
                let Some(subscriber) = state.subscribers.get_mut(handle) else { return Ok(()) };
                subscriber.keystream = entries;
                let slot = Slots::<()>::slot(handle);
                let Ok(mut entry) = state.tables.subscriber_tracks.get(&slot, 0) else { return Ok(()) };
                entry.keystream = entries;
                state.tables.subscriber_tracks.set(slot, entry, 0).map_err(|error| describe(&error))
            }
        }
    }
}
