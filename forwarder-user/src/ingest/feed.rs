//! What the sources of one thread put into the engine: what arrives together is sealed together.

use std::{
    rc::Rc,
    time::{Duration, Instant},
};

use forwarder_common::{ExtendedSeq, RtpHeader};
use tokio::sync::Notify;

use penstock_engine::{Feeder, PublisherTrackId};

/// A feeder, and the bell that says that it has something.
pub(super) struct Feed {
    feeder: Box<dyn Feeder>,
    bell: Rc<Notify>,
    /// Packets of the batch so far.
    packets: usize,
    /// When the first packet of the last batch was pushed.
    began: Instant,
    /// When new subscribers got the last part of what they lack.
    caught_up: Instant,
}

impl Feed {
    pub(super) fn new(feeder: Box<dyn Feeder>) -> Self {
        let now = Instant::now();
        Self { feeder, bell: Rc::default(), packets: 0, began: now, caught_up: now }
    }

    /// `key`: decoding can start at the packet's frame.
    pub(super) fn push(
        &mut self,
        track: PublisherTrackId,
        index: ExtendedSeq,
        header: &RtpHeader,
        payload: &[u8],
        key: bool,
    ) {
        self.feeder.push(track, index, header, payload, key);
        if self.packets == 0 {
            self.began = Instant::now();
            self.bell.notify_one();
        }
        self.packets += 1;
    }

    /// Asks for the memory of a track.
    pub(super) fn prefetch(&self, track: PublisherTrackId) {
        self.feeder.prefetch(track);
    }

    /// Rings when a batch begins.
    pub(super) fn bell(&self) -> Rc<Notify> {
        Rc::clone(&self.bell)
    }

    /// Packets that wait to be sent.
    pub(super) fn packets(&self) -> usize {
        self.packets
    }

    /// Sends what was pushed, and what new subscribers lack; the time since the first of what was pushed.
    pub(super) fn flush(&mut self) -> Duration {
        self.packets = 0;
        self.feeder.flush();
        self.feeder.catch_up(&mut self.caught_up);
        self.began.elapsed()
    }

    /// Waits until new subscribers are to get something of what they lack.
    pub(super) fn behind(&self) -> impl Future<Output = ()> + use<> {
        self.feeder.behind(self.caught_up)
    }

    /// What a track has kept is of no use any more.
    pub(super) fn forget(&self, track: PublisherTrackId) {
        self.feeder.forget(track);
    }
}
