//! What the sources of one thread put into the engine: what arrives together is sealed together.

use std::{
    cell::RefCell,
    rc::Rc,
    time::{Duration, Instant},
};

use forwarder_common::{ExtendedSeq, RtpHeader};
use tokio::sync::Notify;

use crate::engine::{PublisherTrackId, userspace::Feeder};

/// A feeder, the bell that says that it has something, and the one that says that it was sent.
pub(super) struct Feed {
    feeder: Feeder,
    bell: Rc<Notify>,
    pub(super) sent: Rc<Notify>,
    filled: bool,
    /// When the first packet of the last batch was pushed.
    began: Instant,
}

impl Feed {
    pub(super) fn new(feeder: Feeder) -> Self {
        Self { feeder, bell: Rc::default(), sent: Rc::default(), filled: false, began: Instant::now() }
    }

    pub(super) fn push(&mut self, track: PublisherTrackId, index: ExtendedSeq, header: &RtpHeader, payload: &[u8]) {
        self.feeder.push(track, index, header, payload);
        if !self.filled {
            self.filled = true;
            self.began = Instant::now();
            self.bell.notify_one();
        }
    }

    fn flush(&mut self) {
        self.filled = false;
        self.feeder.flush();
        self.sent.notify_one();
    }

    /// Time since the last batch began.
    pub(super) fn batch_age(&self) -> Duration {
        self.began.elapsed()
    }
}

/// Sends what was pushed. The runtime wakes tasks in turn: all connections that were readable at one look
/// at the sockets have been read before the bell that the first of them rang is heard.
pub(super) async fn run(feed: Rc<RefCell<Feed>>) {
    let bell = Rc::clone(&feed.borrow().bell);
    loop {
        bell.notified().await;
        feed.borrow_mut().flush();
    }
}
