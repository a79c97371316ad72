//! What the sources of one thread put into the engine: what arrives together is sealed together.

use std::{
    rc::Rc,
    time::{Duration, Instant},
};

use forwarder_common::{ExtendedSeq, RtpHeader};
use tokio::sync::Notify;

use crate::engine::{PublisherTrackId, userspace::Feeder};

/// A feeder, and the bell that says that it has something.
pub(super) struct Feed {
    feeder: Feeder,
    bell: Rc<Notify>,
    /// Packets of the batch so far.
    packets: usize,
    /// When the first packet of the last batch was pushed.
    began: Instant,
}

impl Feed {
    pub(super) fn new(feeder: Feeder) -> Self {
        Self { feeder, bell: Rc::default(), packets: 0, began: Instant::now() }
    }

    pub(super) fn push(&mut self, track: PublisherTrackId, index: ExtendedSeq, header: &RtpHeader, payload: &[u8]) {
        self.feeder.push(track, index, header, payload);
        if self.packets == 0 {
            self.began = Instant::now();
            self.bell.notify_one();
        }
        self.packets += 1;
    }

    /// Rings when a batch begins.
    pub(super) fn bell(&self) -> Rc<Notify> {
        Rc::clone(&self.bell)
    }

    /// Packets that wait to be sent.
    pub(super) fn packets(&self) -> usize {
        self.packets
    }

    /// Sends what was pushed; the time since the first of it.
    pub(super) fn flush(&mut self) -> Duration {
        self.packets = 0;
        self.feeder.flush();
        self.began.elapsed()
    }
}
