//! A publisher track's next fan-out: who is in it, and by which device.

use std::{collections::BTreeSet, sync::Arc};

use forwarder_common::{
    ExtendedSeq,
    maps::{self as layout},
};

use super::{
    keystream::{Command, Source},
    state::{self, CurrentPath, Phase, State},
    wire,
};
use crate::{
    bpf::{describe, maps::Tables},
    slots::Slots,
};

/// The next fan-out of one publisher track.
pub(super) struct Plan {
    pub publisher: u32,
    /// Members by egress interface, in the order of the devmap.
    pub groups: Vec<(u32, Vec<u32>)>,
    /// Which of the two slots it will be.
    pub side: u32,
    /// Tracks that are in no fan-out once this plan is in force.
    pub leaving: Vec<u32>,
    /// Tracks that could not be served.
    pub failed: Vec<u32>,
}

impl Plan {
    pub(super) fn members(&self) -> impl Iterator<Item = u32> {
        self.groups.iter().flat_map(|(_, members)| members.iter().copied())
    }
}

/// Writes a session's new path into its unused path slot.
pub(super) fn change_path(
    state: &mut State,
    handle: u32,
    path: layout::Path,
    publishers: &mut BTreeSet<u32>,
) -> Option<CurrentPath> {
    let session = state.sessions.get(handle).filter(|session| !session.closing)?;
    if session.path.is_some_and(|current| current.path == path) {
        return None;
    }
    let side = session.path.map_or(0, |current| 1 - current.side);
    // Unused since the flip before last: every round ends with a grace period.
    if let Err(error) = state.tables.paths.set(2 * Slots::<()>::slot(handle) + side, path, 0) {
        tracing::error!("path of a session not written: {}", describe(&error));
        return None;
    }
    if session.path.is_none_or(|current| current.path.egress_ifindex != path.egress_ifindex) {
        let feeds = session.subscriber_tracks.iter().filter_map(|track| state.subscribers.get(*track));
        publishers.extend(feeds.map(|subscriber| subscriber.from));
    }
    Some(CurrentPath { side, path })
}

/// Decides a publisher track's next fan-out and fills the slots of those who join.
pub(super) fn plan(state: &mut State, handle: u32, paths: &[(u32, CurrentPath)]) -> Option<Plan> {
    let State { tables, sessions, publishers, subscribers, keystream, .. } = state;
    let publisher = publishers.get(handle)?;
    let mut plan = Plan {
        publisher: handle,
        groups: Vec::new(),
        side: publisher.side.map_or(0, |side| 1 - side),
        leaving: Vec::new(),
        failed: Vec::new(),
    };
    let highest = tables.publisher_state(Slots::<()>::slot(handle)).map(|state| state.replay.highest_accepted());
    for member in &publisher.members {
        let Some(subscriber) = subscribers.get_mut(*member) else { continue };
        if publisher.stopping || subscriber.phase == Phase::Leaving {
            subscriber.phase = Phase::Leaving;
            plan.leaving.push(*member);
            continue;
        }
        let new_path = paths.iter().find(|(session, _)| *session == subscriber.session).map(|(_, path)| path.path);
        let current = sessions.get(subscriber.session).and_then(|session| session.path).map(|current| current.path);
        // Joins when its path is known.
        let Some(path) = new_path.or(current) else { continue };
        if subscriber.phase == Phase::Joining {
            let written = match &highest {
                Ok(highest) => write_subscriber(tables, *member, subscriber, *highest),
                Err(error) => Err(describe(error)),
            };
            if let (Some(keystream), Some(session), Some(offset)) =
                (&*keystream, sessions.get(subscriber.session), subscriber.index_offset)
            {
                let source = Source { key: Arc::clone(&session.key), ssrc: subscriber.track.ssrc };
                keystream.send(Command::AddSubscriber { publisher: handle, handle: *member, source, offset });
            }
            if let Err(error) = written {
                tracing::error!("subscriber track not written: {error}");
                plan.failed.push(*member);
                continue;
            }
        }
        match plan.groups.iter_mut().find(|(ifindex, _)| *ifindex == path.egress_ifindex) {
            Some((_, members)) => members.push(*member),
            None => plan.groups.push((path.egress_ifindex, vec![*member])),
        }
    }
    Some(plan)
}

/// Fills an unused subscriber slot: its first packet is the one after the highest accepted.
fn write_subscriber(
    tables: &mut Tables,
    handle: u32,
    subscriber: &mut state::SubscriberTrack,
    highest: ExtendedSeq,
) -> Result<(), String> {
    let first_in = highest.0 + 1;
    let offset = subscriber.track.offset_from(first_in);
    let slot = Slots::<()>::slot(handle);
    subscriber.index_offset = Some(offset);
    tables.subscriber_state.set(slot, layout::SubscriberState::default(), 0).map_err(|error| describe(&error))?;
    let entry = wire::subscriber_track(subscriber, first_in, offset);
    tables.subscriber_tracks.set(slot, entry, 0).map_err(|error| describe(&error))
}
