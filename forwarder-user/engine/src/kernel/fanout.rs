//! The fan-out thread: everything that must wait until no packet in flight can see a map entry.
//!
//! A *pass* is one packet's way from the ingress program to its last copy. It runs within one
//! softirq, which is an RCU read section to the updates below. Userspace never edits what a pass may
//! be reading; it builds the next version beside it and flips one word:
//!
//! 1. write the new member list and a devmap with exactly as many entries into the spare one of the
//!    publisher track's two fan-out slots;
//! 2. flip `PUBLISHER_TRACKS.fanout` (and `SESSIONS.path`) to the spare slot. Passes that begin from
//!    now on see only the new version;
//! 3. wait for a grace period. Passes that began before the flip are then over, and with them the
//!    last reader of the old slots;
//! 4. only now report what left, wipe keys, and let slots be used again.
//!
//! Grace periods come from the kernel's own rule that replacing an element of a map of maps waits
//! for running programs (`maybe_wait_bpf_programs`, commit 1ae80cf31938); the last slot of `FANOUTS`
//! belongs to no track and exists to be replaced.
//!
//! Nonces: an outgoing index is the incoming one plus an offset that is written once, while the slot
//! is unused. A subscriber's next index is read from the publisher's replay list after the grace
//! period, when every index of which a copy can exist has been accepted and no more copies follow.
//!
//! Whatever was asked while a round waits is taken up together by the next round.

use std::{
    collections::BTreeSet,
    io,
    os::fd::{AsFd as _, OwnedFd},
    sync::{Arc, PoisonError},
};

use aya::{
    maps::{MapError, xdp::XdpMapError},
    programs::ProgramFd,
};
use forwarder_common::{
    ExtendedSeq,
    maps::{EgressGroup, FanoutList, MAX_EGRESS},
};

use super::{
    plan::{Plan, change_path, plan},
    release::{release_publisher, release_session, release_subscriber},
    shared::Shared,
    state::{CurrentPath, Phase, State},
    wire,
};
use crate::{
    Event, Events, PublisherTrackId, SubscriberTrackId,
    bpf::{
        as_io, describe,
        maps::Fanouts,
        outer::{Batch, new_devmap},
    },
    repair,
    slots::Slots,
};

/// Times that tracks of a session may fail, a video and an audio track twice, until there is a path again.
const MOST_FAILURES: u8 = 4;

/// The thread's own maps and handles.
pub(super) struct Worker {
    pub shared: Arc<Shared>,
    pub fanouts: Fanouts,
    pub repair: repair::Settings,
    /// Index of the slot in `FANOUTS` that is replaced for grace periods.
    pub grace_slot: u32,
    /// The egress program, for devmap entries.
    pub egress: ProgramFd,
    pub events: Events,
}

/// One round of work.
#[derive(Default)]
struct Round {
    plans: Vec<Plan>,
    /// Sessions to be freed after the grace period.
    sessions: BTreeSet<u32>,
    /// Sessions whose path slot is to be flipped.
    paths: Vec<(u32, CurrentPath)>,
    /// Publisher tracks that are to keep packets.
    stores: BTreeSet<u32>,
    /// Room is to be made for more keys.
    grow: bool,
}

impl Round {
    fn is_empty(&self) -> bool {
        self.plans.is_empty() && self.sessions.is_empty() && self.paths.is_empty()
    }
}

impl Worker {
    /// Runs until the engine is dropped.
    pub(super) fn run(mut self) {
        while let Some(mut round) = self.next_round() {
            if round.grow {
                self.grow();
            }
            // Behind what viewers wait for, if there is any of it.
            let stores = std::mem::take(&mut round.stores);
            if round.is_empty() {
                self.give_stores(stores.into_iter());
                continue;
            }
            self.install(&mut round.plans);
            self.flip(&round);
            if let Err(error) = self.grace_period() {
                // Without it nothing may be reused. Slots stay taken; media of what was removed has
                // stopped by the flip and the leases.
                tracing::error!("no grace period, slots are lost: {}", describe(&error));
                continue;
            }
            self.finish(round);
            self.give_stores(stores.into_iter());
        }
    }

    /// Waits for work and plans it. `None` when the engine is dropped.
    fn next_round(&self) -> Option<Round> {
        let mut state = self.shared.lock();
        while state.work.is_empty() {
            if state.work.stop {
                return None;
            }
            state = self.shared.bell.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if state.work.stop {
            return None;
        }
        let state = &mut *state;
        let work = std::mem::take(&mut state.work);
        let mut round = Round { sessions: work.sessions, stores: work.stores, grow: work.grow, ..Round::default() };
        let mut publishers = work.publishers;
        for (session, path) in work.paths {
            if let Some(change) = change_path(state, session, path, &mut publishers) {
                round.paths.push((session, change));
            }
        }
        round.plans = publishers.into_iter().filter_map(|publisher| plan(state, publisher, &round.paths)).collect();
        Some(round)
    }

    /// Makes room for more keys. Only this thread does, so the place is free until it is done.
    fn grow(&self) {
        let place = self.shared.lock().tables.keys.chunks();
        match self.fanouts.keys.add(place) {
            Ok(chunk) => {
                self.shared.lock().tables.keys.push(chunk);
                self.shared.has_grown();
            }
            // Sessions that need it are refused, and ask again.
            Err(error) => tracing::error!("no room for the keys of more sessions: {error}"),
        }
    }

    /// Puts the plans' lists and devmaps into their spare slots. What fails moves to `failed`.
    fn install(&mut self, plans: &mut [Plan]) {
        let mut devmaps = Vec::with_capacity(plans.len());
        for plan in &mut *plans {
            devmaps.extend(self.prepare(plan));
        }
        let mut batch = Batch::default();
        devmaps.iter().for_each(|(slot, devmap)| batch.add(*slot, devmap.as_fd()));
        if let Err(error) = batch.write(&self.fanouts.fanouts) {
            tracing::error!("fan-outs not installed: {error}");
            for plan in plans {
                plan.failed.extend(plan.groups.drain(..).flat_map(|(_, members)| members));
            }
        }
    }

    /// Writes a plan's list; returns its slot and the devmap for it. `None`: it has no members (any more).
    fn prepare(&mut self, plan: &mut Plan) -> Option<(u32, OwnedFd)> {
        while !plan.groups.is_empty() {
            let bad = match self.try_prepare(plan) {
                Ok(devmap) => return Some(devmap),
                Err((Some(group), error)) => {
                    tracing::error!(ifindex = plan.groups[group].0, "interface cannot take copies: {error}");
                    group..group + 1
                }
                Err((None, error)) => {
                    tracing::error!("fan-out not installed: {error}");
                    0..plan.groups.len()
                }
            };
            plan.failed.extend(plan.groups.drain(bad).flat_map(|(_, members)| members));
        }
        None
    }

    /// The error names the group at fault, if it is the fault of one.
    fn try_prepare(&mut self, plan: &Plan) -> Result<(u32, OwnedFd), (Option<usize>, String)> {
        let slot = 2 * Slots::<()>::slot(plan.publisher) + plan.side;
        let whole = |error: &MapError| (None, describe(error));
        let mut list = FanoutList::EMPTY;
        let (mut devmap, fd) = new_devmap(plan.members().count() as u32).map_err(|error| whole(&error))?;
        for (group, (ifindex, members)) in plan.groups.iter().enumerate() {
            let place = list
                .groups
                .get_mut(group)
                .ok_or_else(|| (Some(group), format!("a stream can leave by {MAX_EGRESS} interfaces at most")))?;
            *place = EgressGroup { ifindex: *ifindex, start: list.copies, len: members.len() as u32, reserved: 0 };
            list.groups_len += 1;
            for member in members {
                devmap
                    .set(list.copies, *ifindex, Some(&self.egress), 0)
                    .map_err(|error: XdpMapError| (Some(group), describe(&error)))?;
                list.members[list.copies as usize] = Slots::<()>::slot(*member);
                list.copies += 1;
            }
        }
        self.fanouts.lists.set(slot, list, 0).map_err(|error| whole(&error))?;
        Ok((slot, fd))
    }

    /// Makes the plans current: the one moment at which new passes change.
    fn flip(&self, round: &Round) {
        let mut state = self.shared.lock();
        let state = &mut *state;
        for (handle, path) in &round.paths {
            let Some(session) = state.sessions.get_mut(*handle) else { continue };
            session.path = Some(*path);
            let entry = wire::session(Slots::<()>::slot(*handle), session);
            if let Err(error) = state.tables.sessions.set(Slots::<()>::slot(*handle), entry, 0) {
                tracing::error!("path of a session not changed: {}", describe(&error));
            }
        }
        for plan in &round.plans {
            let Some(publisher) = state.publishers.get_mut(plan.publisher) else { continue };
            publisher.side = (!plan.groups.is_empty()).then_some(plan.side);
            let entry = wire::publisher_track(Slots::<()>::slot(plan.publisher), publisher);
            if let Err(error) = state.tables.publisher_tracks.set(Slots::<()>::slot(plan.publisher), entry, 0) {
                tracing::error!("fan-out not changed: {}", describe(&error));
            }
            for member in plan.members() {
                let Some(subscriber) = state.subscribers.get_mut(member) else { continue };
                if subscriber.phase == Phase::Joining {
                    subscriber.phase = Phase::Attached;
                    self.report(Event::SubscriberTrackStarted { track: SubscriberTrackId(member) });
                }
            }
        }
    }

    /// Returns when every program run that had begun is over.
    fn grace_period(&mut self) -> io::Result<()> {
        let (_, idle) = new_devmap(1).map_err(as_io)?;
        let mut batch = Batch::default();
        batch.add(self.grace_slot, idle.as_fd());
        batch.write(&self.fanouts.fanouts)
    }

    /// Frees what nothing in flight can see any more, and reports it.
    fn finish(&self, round: Round) {
        let mut state = self.shared.lock();
        let state = &mut *state;
        for plan in round.plans {
            for handle in plan.leaving {
                if let Some((next_out, index_offset)) = release_subscriber(state, handle) {
                    let track = SubscriberTrackId(handle);
                    self.report(Event::SubscriberTrackStopped { track, next_out, index_offset });
                }
            }
            for handle in plan.failed {
                self.give_up(state, handle);
            }
            let stopped = state.publishers.get(plan.publisher).is_some_and(|publisher| publisher.stopping);
            // A track that was told to stop after this round was planned waits for the next one.
            if stopped && !state.work.publishers.contains(&plan.publisher) {
                let seen = state.tables.publisher_state(Slots::<()>::slot(plan.publisher));
                // If it cannot be read, nothing of the SSRC is believed again.
                let highest = seen.map_or(ExtendedSeq::MAX, |seen| seen.replay.highest_accepted());
                release_publisher(state, plan.publisher);
                self.report(Event::PublisherTrackStopped { track: PublisherTrackId(plan.publisher), highest });
            }
        }
        for handle in round.sessions {
            release_session(state, handle);
        }
    }

    /// A track that could not be put into the fan-out, and is in none since the flip. Its interface may have gone a moment
    /// before its route does: it stops like one that leaves, and whoever adds it anew learns that its way is lost. Not
    /// for ever: with nobody else to serve it, that would go round in circles.
    fn give_up(&self, state: &mut State, handle: u32) {
        let track = SubscriberTrackId(handle);
        let session = state.subscribers.get(handle).map(|subscriber| subscriber.session);
        let failures = session.and_then(|session| state.sessions.get_mut(session)).map_or(u8::MAX, |session| {
            session.lost.get_or_insert_with(|| "its interface takes no copies".to_owned());
            session.failures = session.failures.saturating_add(1);
            session.failures
        });
        match release_subscriber(state, handle) {
            Some((next_out, index_offset)) if failures <= MOST_FAILURES => {
                self.report(Event::SubscriberTrackStopped { track, next_out, index_offset });
            }
            Some(_) => self.report(Event::SubscriberTrackFailed { track }),
            None => {}
        }
    }

    fn report(&self, event: Event) {
        // Nobody listens any more while the control task stops.
        let _ = self.events.send(event);
    }
}
