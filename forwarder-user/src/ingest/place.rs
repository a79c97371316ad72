//! What all sources share.

use std::{cell::RefCell, rc::Rc, sync::Arc, time::Duration};

use tokio::sync::mpsc;

use super::{Event, Totals, feed::Feed, sound::Sounds};
use penstock_engine::Engine;

/// The buffer of all connections of a thread. Its content does not outlive one poll.
pub(super) type Scratch = Rc<RefCell<Vec<u8>>>;

/// What all sources of a thread share.
#[derive(Clone)]
pub(super) struct Place {
    pub(super) engine: Arc<dyn Engine>,
    pub(super) feed: Rc<RefCell<Feed>>,
    pub(super) scratch: Scratch,
    pub(super) events: mpsc::UnboundedSender<Event>,
    pub(super) totals: Totals,
    pub(super) sounds: Rc<Sounds>,
    /// What one source may send.
    pub(super) bytes_per_second: u64,
    /// Bytes that each video track keeps of its last packets.
    pub(super) recent: usize,
    /// Longest wait between two attempts.
    pub(super) retry_max: Duration,
}
