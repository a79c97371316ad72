//! Map values from the engine's own types.

use forwarder_common::{
    maps::{self as layout, NAME_LEN, NONE, session_state},
    path::address_bytes,
    store::Range,
};

use super::state::{PublisherTrack, Session, SubscriberTrack};
use crate::{Kind, Role, route::canonical};

/// `SESSIONS` entry of the session in `slot`.
pub(super) fn session(slot: u32, session: &Session) -> layout::Session {
    let (local, peer) = (canonical(session.transport.local), canonical(session.transport.peer));
    layout::Session {
        path: session.path.map_or(NONE, |current| 2 * slot + current.side),
        state: match session.role {
            Role::Publisher => session_state::PUBLISHER,
            Role::Subscriber => session_state::SUBSCRIBER,
        },
        profile: session.profile,
        reserved: [0; 2],
        peer: address_bytes(peer.ip()),
        local: address_bytes(local.ip()),
        peer_port: peer.port().to_be_bytes(),
        local_port: local.port().to_be_bytes(),
        reserved2: [0; 4],
        created_ns: session.created_ns,
        stream: name(&session.stream),
        id: name(&session.id),
    }
}

/// `PUBLISHER_TRACKS` entry of the track in `slot`.
pub(super) fn publisher_track(slot: u32, publisher: &PublisherTrack) -> layout::PublisherTrack {
    layout::PublisherTrack {
        session: publisher.session & 0xffff,
        fanout: publisher.side.map_or(NONE, |side| 2 * slot + side),
        clock_rate: publisher.track.clock_rate,
        ssrc: publisher.track.ssrc,
        payload_type: publisher.track.payload_type,
        kind: kind(publisher.track.kind),
        keystream: publisher.keystream,
        tap: publisher.tap,
        diverted: publisher.diverted.into(),
        sequence_extension: publisher.track.sequence_extension.unwrap_or(0),
        store: publisher.store.map_or(0, Range::pack),
    }
}

/// `SUBSCRIBER_TRACKS` entry.
pub(super) fn subscriber_track(
    subscriber: &SubscriberTrack,
    first_in: u64,
    index_offset: u64,
) -> layout::SubscriberTrack {
    layout::SubscriberTrack {
        index_offset,
        first_in,
        session: subscriber.session & 0xffff,
        ssrc: subscriber.track.ssrc,
        timestamp_offset: subscriber.track.timestamp_offset,
        publisher_track: subscriber.from & 0xffff,
        payload_type: subscriber.track.payload_type,
        kind: kind(subscriber.track.kind),
        ds: subscriber.track.dscp.field(),
        keystream: subscriber.keystream,
        ..layout::SubscriberTrack::default()
    }
}

const fn kind(kind: Kind) -> u8 {
    match kind {
        Kind::Audio => 1,
        Kind::Video => 2,
    }
}

/// As much of the text as fits, cut between characters, zero padded.
fn name(text: &str) -> [u8; NAME_LEN] {
    let mut bytes = [0; NAME_LEN];
    let mut cut = text.len().min(NAME_LEN);
    while !text.is_char_boundary(cut) {
        cut -= 1;
    }
    bytes[..cut].copy_from_slice(&text.as_bytes()[..cut]);
    bytes
}
