//! How a new subscriber of a track that keeps its group of pictures gets it: at once, but not all at once.
//!
//! **Which packets.** A packet is kept under the same hold of the tables' lock under which its index is
//! accepted, and a subscriber is attached under the lock for writing. So there is one index, `live_from`, such
//! that everything below it has been accepted before, and is in the backlog if it is kept at all, and
//! everything from it on comes later. What comes later is put behind the backlog until that is empty. Each
//! incoming index reaches the subscriber once, in order, by exactly one of two ways: packets that wait for the
//! end of a feeder's batch while the subscriber is attached lie below `live_from` and go by the backlog only.
//!
//! **Under which index.** Under their own: incoming index plus the track's offset, as all packets. The offset
//! is chosen such that the first packet of the backlog gets `next_out`. Nothing about nonces changes.
//!
//! **How fast.** In some thirty parts, so that neither a ring of 256 frames nor a viewer's line is overrun, and
//! a viewer is with the others after a fifth of a second. A part grows with the backlog, which so ends even if
//! more comes meanwhile.
//!
//! **With which timestamps.** With their own. Chromium sees frames that come ahead of their time, and moves its
//! clock; pressed together into the moment before the present, they would seem late, and its jitter buffer
//! would grow (measured: `docs/decisions/0015-keyframe-cache.md`).

use std::{
    collections::VecDeque,
    sync::{Arc, PoisonError, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};

use forwarder_common::Counter;

use super::{
    Inner,
    backlog::STEPS,
    forward::{Forwarder, transmit, way_to},
    kept::KeptPacket,
    outgoing::seal,
    tables::Publisher,
};
use crate::clock::boottime_ns;

/// Time between two parts of a backlog.
const STEP: Duration = Duration::from_millis(5);
/// Packets of a part: short backlogs need not be stretched, and half of what a veth's ring holds is sent at
/// once at most.
const PART: std::ops::RangeInclusive<usize> = 16..=128;
/// Most packets of one step, all subscribers together: a millisecond's work.
const MAX_STEP: usize = 1024;

impl Inner {
    /// What a new subscriber of a track gets of the past.
    pub(super) fn past(&self, publisher: &mut Publisher) -> VecDeque<KeptPacket> {
        let kept = publisher.kept.as_mut().map(|kept| kept.get_mut().unwrap_or_else(PoisonError::into_inner));
        let Some(kept) = kept.filter(|kept| kept.keeps_groups()) else { return VecDeque::new() };
        let past = kept.since_keyframe();
        self.kept.began(!past.is_empty());
        past
    }
}

/// Of the thread that feeds the tracks that keep packets: no other may call these, or packets overtake each
/// other.
impl Forwarder {
    /// Waits until the next part of a backlog is due. The time of the part before is `last`.
    pub fn behind(&self, last: Instant) -> impl Future<Output = ()> + use<> {
        let due = (self.inner.behind.any()).then(|| last + STEP);
        let bell = self.inner.behind.bell();
        async move {
            match due {
                Some(at) => tokio::time::sleep_until(at.into()).await,
                None => bell.notified().await,
            }
        }
    }

    /// Sends the next part of each backlog, if it is time. `last` is when it did so before.
    pub fn catch_up(&mut self, last: &mut Instant) {
        let now = Instant::now();
        if !self.inner.behind.any() || now < *last + STEP {
            return;
        }
        *last = now;
        let now_ns = boottime_ns();
        let inner = Arc::clone(&self.inner);
        let tables = inner.read();
        let mut handles = inner.behind.lock();
        let (mut left, mut unsent, mut sealed, mut sealed_bytes) = (MAX_STEP, 0, 0, 0);
        for _ in 0..handles.len() {
            // Those who get nothing this time are the first next time.
            let Some(handle) = handles.front().copied().filter(|_| left > 0) else { break };
            handles.pop_front();
            let Some(subscriber) = tables.subscribers.get(handle) else { continue };
            let start = &subscriber.start;
            let mut backlog = start.lock();
            if subscriber.expires.load(Relaxed) <= now_ns {
                inner.count(Counter::DropSubscriberExpired, backlog.len() as u64);
                backlog.clear();
            }
            let part = start.part.max(backlog.len() / STEPS).clamp(*PART.start(), *PART.end());
            let part = part.min(backlog.len()).min(left);
            left -= part;
            unsent += part;
            if unsent > *PART.end() {
                transmit(&inner, &mut self.transmitters);
                unsent = part;
            }
            let way = way_to(&self.transmitters, subscriber);
            for packet in backlog.drain(..part) {
                let transmitter = &mut *self.transmitters[way].transmitter;
                match seal(transmitter, subscriber, packet.index, &packet.header, &packet.payload, now_ns) {
                    Ok(()) => {
                        sealed += 1;
                        sealed_bytes += packet.payload.len() as u64;
                    }
                    Err(reason) => inner.count(reason, 1),
                }
            }
            if backlog.is_empty() {
                *backlog = VecDeque::new();
                start.caught_up();
            } else {
                handles.push_back(handle);
            }
        }
        inner.behind.changed(&handles);
        inner.count(Counter::Sealed, sealed);
        inner.count(Counter::SealedBytes, sealed_bytes);
        transmit(&inner, &mut self.transmitters);
    }

    /// Lets go what a track has kept: its source has gone.
    pub fn forget(&self, track: crate::PublisherTrackId) {
        let tables = self.inner.read();
        if let Some(kept) = tables.publishers.get(track.0).and_then(|publisher| publisher.kept.as_ref()) {
            kept.lock().unwrap_or_else(PoisonError::into_inner).clear();
        }
    }
}
