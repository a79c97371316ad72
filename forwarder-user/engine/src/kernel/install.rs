//! Sessions and incoming tracks into their maps and out of them. Nobody waits here for a grace period: what needs one
//! is left to the fan-out thread.

use std::{
    collections::BTreeSet,
    sync::{Arc, PoisonError},
};

use aya::maps::MapError;
use forwarder_common::{
    SessionKey,
    maps::{self as layout, FlowKey, PublisherState},
};

use super::{
    KernelEngine, keystream,
    state::{self, CurrentPath, State},
    wire,
};
use crate::{
    EngineError, NewSession, Role, SessionId, Transport,
    bpf::{as_io, describe, maps::Tables},
    clock::boottime_ns,
    route::{self, Route, canonical},
    slots::Slots,
};

/// What is known of the way to a peer.
pub(super) enum Path {
    Known(layout::Path),
    /// There is a route, but the neighbour must be asked for its hardware address.
    Unresolved,
    /// Publishers are only received.
    NotNeeded,
}

impl KernelEngine {
    pub(super) fn find_path(&self, role: Role, transport: Transport) -> Result<Path, EngineError> {
        let unreachable = |reason| EngineError::Unreachable { peer: transport.peer, reason };
        let mut netlink = self.netlink.lock().unwrap_or_else(PoisonError::into_inner);
        let route = route::find(&mut netlink, &self.devices, transport).map_err(unreachable)?;
        if role == Role::Publisher {
            return Ok(Path::NotNeeded);
        }
        let path = Route::path(&route, &mut netlink).map_err(unreachable)?;
        Ok(path.map_or(Path::Unresolved, Path::Known))
    }

    /// Returns whether everything is known that sending needs.
    pub(super) fn install_session(
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
            ends_ns: u64::MAX,
            transport: new.transport,
            path: current,
            lost: None,
            failures: 0,
            publisher_tracks: BTreeSet::new(),
            subscriber_tracks: BTreeSet::new(),
            key: Arc::new(keystream::Key::new(key)),
            repair: state::Repair::Key(new.key),
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
pub(super) fn refused(what: &'static str) -> impl Fn(MapError) -> EngineError {
    move |error| EngineError::Kernel { what, source: as_io(error) }
}

pub(super) fn session_key(new: &NewSession) -> Result<SessionKey, EngineError> {
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

pub(super) fn flow(transport: Transport, ssrc: u32) -> FlowKey {
    FlowKey::new(canonical(transport.local), canonical(transport.peer), ssrc)
}

/// `BPF_NOEXIST`: what is there is another's.
const IF_ABSENT: u64 = 1;

/// A flow that leads to a track which lives. Flows are ours alone to write, and the lock is held.
fn owner(state: &State, flow: &FlowKey) -> Option<u32> {
    state.tables.flows.get(flow, 0).ok()
}

/// May this track have this flow?
///
/// # Errors
/// [`EngineError::Taken`].
pub(super) fn check_flow(
    state: &State,
    transport: Transport,
    ssrc: u32,
    handle: Option<u32>,
) -> Result<FlowKey, EngineError> {
    let flow = flow(transport, ssrc);
    match owner(state, &flow) {
        Some(slot) if handle.map(Slots::<()>::slot) != Some(slot) => {
            Err(EngineError::Taken { peer: transport.peer, ssrc })
        }
        _ => Ok(flow),
    }
}

/// Leads a track's packets to it again, if nothing does. Whether that was so.
pub(super) fn restore_flow(state: &mut State, handle: u32) -> bool {
    let Some(publisher) = state.publishers.get(handle).filter(|publisher| !publisher.stopping) else { return false };
    let ssrc = publisher.track.ssrc;
    let Some(transport) = state.sessions.get(publisher.session).map(|session| session.transport) else { return false };
    let flow = flow(transport, ssrc);
    if owner(state, &flow).is_some() {
        return false;
    }
    match state.tables.flows.insert(flow, Slots::<()>::slot(handle), IF_ABSENT) {
        Ok(()) => true,
        Err(error) => {
            tracing::error!("flow not restored: {}", describe(&error));
            false
        }
    }
}

/// State before track, track before flow: the datapath finds a track only when it is complete.
pub(super) fn install_publisher(state: &mut State, handle: u32, flow: FlowKey) -> Result<(), MapError> {
    let slot = Slots::<()>::slot(handle);
    let Some(publisher) = state.publishers.get(handle) else { return Ok(()) };
    let fresh = PublisherState::starting_after(publisher.track.first);
    state.tables.publisher_state.set(slot, fresh.into_bytes(), 0)?;
    if let Some(arrivals) = state.tables.arrivals.get(slot) {
        arrivals.clear();
    }
    state.tables.publisher_tracks.set(slot, wire::publisher_track(slot, publisher), 0)?;
    state.tables.flows.insert(flow, slot, IF_ABSENT)
}

/// No packet finds the track from now on; the fan-out thread does the rest.
pub(super) fn stop_publisher(state: &mut State, handle: u32) {
    let State { tables, sessions, publishers, work, .. } = state;
    let Some(publisher) = publishers.get_mut(handle).filter(|publisher| !publisher.stopping) else { return };
    publisher.stopping = true;
    if let Some(session) = sessions.get(publisher.session) {
        remove_flow(tables, &flow(session.transport, publisher.track.ssrc), handle);
    }
    work.publishers.insert(handle);
}

/// Removes a flow if it still leads to this track: a publisher that moved may share the key.
pub(super) fn remove_flow(tables: &mut Tables, flow: &FlowKey, handle: u32) {
    if tables.flows.get(flow, 0).is_ok_and(|slot| slot == Slots::<()>::slot(handle))
        && let Err(error) = tables.flows.remove(flow)
    {
        tracing::error!("flow not removed: {}", describe(&error));
    }
}

/// New keys for the same track slots, so the replay lists stay.
pub(super) fn move_flows(state: &mut State, session: SessionId, transport: Transport) -> Result<(), EngineError> {
    let Some(entry) = state.sessions.get(session.0).filter(|entry| entry.transport != transport) else { return Ok(()) };
    let former = entry.transport;
    let tracks = entry.publisher_tracks.iter().filter_map(|handle| Some((*handle, state.publishers.get(*handle)?)));
    let tracks: Vec<(u32, u32)> = tracks
        .filter(|(_, publisher)| !publisher.stopping)
        .map(|(handle, publisher)| (handle, publisher.track.ssrc))
        .collect();
    // All or none.
    for (handle, ssrc) in &tracks {
        check_flow(state, transport, *ssrc, Some(*handle))?;
    }
    for (handle, ssrc) in tracks {
        let slot = Slots::<()>::slot(handle);
        let inserted = state.tables.flows.insert(flow(transport, ssrc), slot, 0);
        inserted.map_err(refused("moving an incoming track"))?;
        remove_flow(&mut state.tables, &flow(former, ssrc), handle);
    }
    Ok(())
}
