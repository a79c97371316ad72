//! What the engine tells the producer.

use std::sync::Arc;

use forwarder_common::ExtendedSeq;

use super::job::Key;
use crate::Kind;

/// Which track a ring is for, by its handle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    Publisher(u32),
    Subscriber(u32),
}

/// A track comes or goes.
pub enum Command {
    /// A publisher track: `next` is the first index that it may have.
    AddPublisher {
        handle: u32,
        source: Source,
        next: ExtendedSeq,
        kind: Kind,
    },
    /// One of its subscriber tracks: outgoing index = incoming index + offset, wrapping.
    AddSubscriber {
        publisher: u32,
        handle: u32,
        source: Source,
        offset: u64,
    },
    RemoveSubscriber {
        publisher: u32,
        handle: u32,
    },
    /// Its subscribers have been removed before.
    RemovePublisher {
        handle: u32,
    },
}

/// Whose keystream.
#[derive(Clone)]
pub struct Source {
    pub key: Arc<Key>,
    pub ssrc: u32,
}
