//! Slots that nothing in flight can see any more are emptied, and free to be used again.

use forwarder_common::{
    ExtendedSeq,
    maps::{self as layout, NONE},
};

use super::{keystream::Command, state::State, store};
use crate::{bpf::describe, slots::Slots};

/// Frees a subscriber slot; returns an index above all that it used, and its offset. `None`: freed already.
pub(super) fn release_subscriber(state: &mut State, handle: u32) -> Option<(ExtendedSeq, Option<u64>)> {
    let subscriber = state.subscribers.remove(handle)?;
    state.produce(Command::RemoveSubscriber { publisher: subscriber.from, handle });
    if let Some(session) = state.sessions.get_mut(subscriber.session) {
        session.subscriber_tracks.remove(&handle);
    }
    if let Some(publisher) = state.publishers.get_mut(subscriber.from) {
        publisher.members.retain(|member| *member != handle);
    }
    let slot = Slots::<()>::slot(handle);
    let mut next_out = subscriber.track.next_out.0;
    if let Some(offset) = subscriber.index_offset {
        if let Ok(publisher) = state.tables.publisher_state(Slots::<()>::slot(subscriber.from)) {
            next_out = next_out.max(publisher.replay.highest_accepted().0.wrapping_add(1).wrapping_add(offset));
        }
        if let Ok(sent) = state.tables.subscriber_state.get(&slot, 0).map(|state| state.last_index) {
            next_out = next_out.max(sent + 1);
        }
    }
    if let Err(error) = state.tables.subscriber_tracks.set(slot, layout::SubscriberTrack::default(), 0) {
        tracing::warn!("subscriber slot not cleared: {}", describe(&error));
    }
    Some((ExtendedSeq(next_out), subscriber.index_offset))
}

pub(super) fn release_publisher(state: &mut State, handle: u32) {
    let Some(publisher) = state.publishers.remove(handle) else { return };
    state.produce(Command::RemovePublisher { handle });
    store::release_of(state, &publisher);
    if let Some(session) = state.sessions.get_mut(publisher.session) {
        session.publisher_tracks.remove(&handle);
    }
    let entry = layout::PublisherTrack { fanout: NONE, ..Default::default() };
    if let Err(error) = state.tables.publisher_tracks.set(Slots::<()>::slot(handle), entry, 0) {
        tracing::warn!("publisher slot not cleared: {}", describe(&error));
    }
}

/// Wipes the key and frees the session, if no track of it is left; else it waits for the next round.
pub(super) fn release_session(state: &mut State, handle: u32) {
    let Some(session) = state.sessions.get(handle) else { return };
    if !session.publisher_tracks.is_empty() || !session.subscriber_tracks.is_empty() {
        state.work.sessions.insert(handle);
        return;
    }
    let slot = Slots::<()>::slot(handle);
    if let Err(error) = state.tables.keys.wipe(slot) {
        tracing::error!("key of a closed session not wiped: {}", describe(&error));
    }
    if let Err(error) = state.tables.sessions.set(slot, layout::Session::FREE, 0) {
        tracing::warn!("session slot not cleared: {}", describe(&error));
    }
    state.sessions.remove(handle);
}
