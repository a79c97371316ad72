//! What the engine tells the producer.

use std::sync::Arc;

use forwarder_common::ExtendedSeq;

use super::job::Key;
use crate::Kind;

/// Which track a ring is for, by its handle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// Its ring opens; the handle's low bits are the slot in `PUBLISHER_KEYSTREAMS`.
    Publisher(u32),
    /// Its ring seals; the handle's low bits are the slot in `SUBSCRIBER_KEYSTREAMS`.
    Subscriber(u32),
}

/// A track comes or goes.
pub enum Command {
    /// A publisher track: `next` is the first index that it may have.
    AddPublisher {
        /// Of the new track; the low 16 bits are its slot.
        handle: u32,
        /// The publisher's key and SSRC.
        source: Source,
        /// One above the index of the packet that taught us the SSRC.
        next: ExtendedSeq,
        /// By which the first guess at its rate is made.
        kind: Kind,
    },
    /// One of its subscriber tracks: outgoing index = incoming index + offset, wrapping.
    AddSubscriber {
        /// Handle of the track that feeds it; its window moves both rings.
        publisher: u32,
        /// Of the new track; the low 16 bits are its slot.
        handle: u32,
        /// The viewer's key and our SSRC.
        source: Source,
        /// Fixed for the life of the track; modulo 2^64.
        offset: u64,
    },
    /// Its ring is taken from its place, and wiped after a grace period.
    RemoveSubscriber {
        /// Handle of the track that feeds it.
        publisher: u32,
        /// Of the track that goes.
        handle: u32,
    },
    /// Its subscribers have been removed before.
    RemovePublisher {
        /// Of the track that goes.
        handle: u32,
    },
}

/// Whose keystream.
#[derive(Clone)]
pub struct Source {
    /// Shared by the tracks of a session; wiped on drop.
    pub key: Arc<Key>,
    /// Part of the nonce (RFC 7714 §8.1).
    pub ssrc: u32,
}
