//! The way of a packet through the userspace engine: open → collect what arrived together → per
//! subscriber: rewrite → seal → transmitter.

use std::{
    net::SocketAddr,
    ops::Range,
    pin::Pin,
    sync::{Arc, PoisonError, atomic::Ordering::Relaxed},
    time::Instant,
};

use forwarder_common::{Counter, ExtendedSeq, RtpHeader, maps::MAX_PAYLOAD, rtp::FIXED_LEN, seq::Refused};
use penstock_media::prefetch::prefetch;

use super::{
    Inner,
    kept::KeptPacket,
    outgoing::seal,
    tables::{Listener, Origin, Publisher, Subscriber, Tables},
};
use crate::{
    PublisherTrackId,
    clock::boottime_ns,
    contract::Feeder,
    io::Worker,
    repair,
    transmit::{Sent, Transmitter},
};

/// Packets and bytes of them that one batch collects before it is sent in any case.
const MAX_PACKETS: usize = 1024;
const MAX_BYTES: usize = 384 << 10;

/// A packet in the clear, that waits for the end of its batch.
struct Packet {
    track: u32,
    index: ExtendedSeq,
    header: RtpHeader,
    start: usize,
    len: usize,
}

/// A stream's packets of one batch, for one of its subscribers.
struct Copies {
    packets: Range<u32>,
    subscriber: u32,
}

/// A transmitter, and what of its totals the engine has counted.
pub(super) struct Way {
    pub(super) transmitter: Box<dyn Transmitter>,
    counted: Sent,
}

/// Forwards the packets of one thread. What is pushed is sent by [`flush`](Self::flush).
pub struct Forwarder {
    pub(super) inner: Arc<Inner>,
    /// Plaintexts of the batch.
    arena: Vec<u8>,
    packets: Vec<Packet>,
    /// What is to be sent of the batch, and to whom.
    copies: Vec<Copies>,
    pub(super) transmitters: Vec<Way>,
    /// When the batch began, ns of CLOCK_BOOTTIME.
    now_ns: u64,
}

impl Forwarder {
    pub(super) fn new(inner: Arc<Inner>, transmitters: Vec<Box<dyn Transmitter>>) -> Self {
        let (arena, packets) = (Vec::with_capacity(MAX_BYTES), Vec::with_capacity(MAX_PACKETS));
        let way = |transmitter| Way { transmitter, counted: Sent::default() };
        let transmitters = transmitters.into_iter().map(way).collect();
        Self { inner, arena, packets, copies: vec![], transmitters, now_ns: boottime_ns() }
    }

    fn take(&mut self, track: PublisherTrackId, index: ExtendedSeq, header: &RtpHeader, payload: &[u8], key: bool) {
        if payload.len() > MAX_PAYLOAD {
            self.inner.count(Counter::DropOversize, 1);
            return;
        }
        self.look_at_the_clock();
        let refused = {
            let tables = self.inner.read();
            let Some(publisher) = tables.publishers.get(track.0) else { return };
            let accepted = publisher.replay.check(index).and_then(|()| publisher.replay.enter(index));
            if accepted.is_ok() {
                publisher.account(header, payload.len(), self.now_ns);
                self.keep(publisher, || KeptPacket::new(index, header, payload, self.now_ns), key);
            }
            accepted.map(|_| ())
        };
        match refused {
            Ok(()) => self.collect(track.0, index, *header, payload),
            Err(reason) => self.inner.count(refusal(reason), 1),
        }
    }

    /// Keeps a packet, if its track keeps any: under the same hold of the tables' lock under which it was accepted,
    /// see `Start`.
    fn keep(&self, publisher: &Publisher, packet: impl FnOnce() -> KeptPacket, key: bool) {
        if let Some(kept) = &publisher.kept
            && !kept.lock().unwrap_or_else(PoisonError::into_inner).push(packet(), key)
        {
            self.inner.kept.overflow();
        }
    }

    /// What a publisher has sent again takes the way of what it repairs: its index is claimed in that one's replay list,
    /// before anything is sealed, so of a late original and its repair one goes on.
    fn put_in(&mut self, of: u32, unwrapped: Option<(ExtendedSeq, RtpHeader, &[u8])>) {
        let repairs = &self.inner.repairs;
        let Some((index, header, payload)) = unwrapped else {
            repairs.useless.fetch_add(1, Relaxed);
            return;
        };
        repairs.unwrapped.fetch_add(1, Relaxed);
        self.take(PublisherTrackId(of), index, &header, payload, false);
    }

    /// Once for a batch: its packets arrived together.
    fn look_at_the_clock(&mut self) {
        if self.packets.is_empty() {
            self.now_ns = boottime_ns();
        }
    }

    fn collect(&mut self, track: u32, index: ExtendedSeq, header: RtpHeader, payload: &[u8]) {
        if self.packets.len() == MAX_PACKETS || self.arena.len() + payload.len() > MAX_BYTES {
            self.flush();
        }
        let start = self.arena.len();
        self.arena.extend_from_slice(payload);
        self.packets.push(Packet { track, index, header, start, len: payload.len() });
    }

    /// Sends what was pushed to all subscribers.
    pub fn flush(&mut self) {
        if self.packets.is_empty() {
            return;
        }
        // Packets of one stream together, so that a viewer's follow each other; their order stays.
        self.packets.sort_by_key(|packet| packet.track);
        let inner = Arc::clone(&self.inner);
        // Held until everything is sent: whoever ends a session waits for it, and nothing follows then.
        let tables = inner.read();
        let mut copies = std::mem::take(&mut self.copies);
        self.plan(&tables, &mut copies);
        let (mut sealed, mut sealed_bytes) = (0, 0);
        for (now, copy) in copies.iter().enumerate() {
            warm(&tables, &copies, now);
            let Some(subscriber) = tables.subscribers.get(copy.subscriber) else { continue };
            let packets = &self.packets[copy.packets.start as usize..copy.packets.end as usize];
            if subscriber.expires.load(Relaxed) <= self.now_ns {
                inner.count(Counter::DropSubscriberExpired, packets.len() as u64);
                continue;
            }
            let way = way_to(&self.transmitters, subscriber);
            for packet in packets {
                let payload = &self.arena[packet.start..packet.start + packet.len];
                if packet.index.0 < subscriber.start.live_from() {
                    inner.count(Counter::DropBeforeJoin, 1);
                    continue;
                }
                if subscriber.start.is_behind() {
                    subscriber.start.append(packet.index, &packet.header, payload);
                    continue;
                }
                let transmitter = &mut *self.transmitters[way].transmitter;
                match seal(transmitter, subscriber, packet.index, &packet.header, payload, self.now_ns) {
                    Ok(()) => {
                        sealed += 1;
                        sealed_bytes += packet.len as u64;
                    }
                    Err(reason) => inner.count(reason, 1),
                }
            }
        }
        inner.count(Counter::Sealed, sealed);
        inner.count(Counter::SealedBytes, sealed_bytes);
        transmit(&inner, &mut self.transmitters);
        drop(tables);
        self.packets.clear();
        self.arena.clear();
        copies.clear();
        self.copies = copies;
    }

    /// Who gets what of the batch, whose packets are sorted by stream.
    fn plan(&self, tables: &Tables, copies: &mut Vec<Copies>) {
        let mut start = 0;
        for packets in self.packets.chunk_by(|one, next| one.track == next.track) {
            let end = start + packets.len() as u32;
            let publisher = tables.publishers.get(packets[0].track);
            let listeners = publisher.map_or(&[][..], |publisher| &publisher.listeners);
            let members = publisher.map_or(&[][..], |publisher| &publisher.members);
            if members.is_empty() && listeners.is_empty() {
                self.inner.count(Counter::DropNoSubscriber, packets.len() as u64);
            }
            if !listeners.is_empty() {
                self.tell(packets, listeners);
            }
            copies.extend(members.iter().map(|member| Copies { packets: start..end, subscriber: *member }));
            start = end;
        }
    }

    /// Tells a stream's packets to those who hear them in the clear: one copy for all of them.
    fn tell(&self, packets: &[Packet], listeners: &[Listener]) {
        for packet in packets {
            let payload: Arc<[u8]> = self.arena[packet.start..packet.start + packet.len].into();
            for listener in listeners.iter().filter(|listener| packet.index.0 >= listener.live_from) {
                listener.ear.tell(packet.index, &packet.header, &payload);
            }
        }
    }

    /// Opens a publisher's packet. `None`: the flow is not ours.
    fn open(&mut self, socket: usize, peer: SocketAddr, packet: &mut [u8]) -> Option<()> {
        let ssrc = u32::from_be_bytes(*packet.get(8..FIXED_LEN)?.first_chunk()?);
        let inner = Arc::clone(&self.inner);
        let tables = inner.read();
        let track = *tables.flows.get(&(socket, peer, ssrc))?;
        let publisher = tables.publishers.get(track)?;
        self.look_at_the_clock();
        match authenticate(publisher, packet, self.now_ns) {
            Ok(Authentic { index, header, start, len, arrived, gap, other }) => {
                inner.count(Counter::Gaps, gap.into());
                if let Some(heard) = &publisher.heard {
                    heard.note(packet, self.now_ns);
                }
                publisher.account(&header, arrived, self.now_ns);
                inner.count(Counter::Opened, 1);
                inner.count(Counter::OpenedBytes, arrived as u64);
                if let Some(of) = publisher.repairs {
                    let unwrapped = unwrapped(&tables, (track, of), &header, &packet[start..start + len]);
                    drop(tables);
                    self.put_in(of, unwrapped);
                    return Some(());
                }
                if other {
                    inner.count(Counter::DropPayloadType, 1);
                    publisher.other(header.payload_type());
                }
                let payload = &packet[start..start + len];
                self.keep(publisher, || KeptPacket::new(index, &header, payload, self.now_ns), false);
                drop(tables);
                self.collect(track, index, header, &packet[start..start + len]);
            }
            Err(reason) => {
                if reason == Counter::DropAuthFailed {
                    publisher.auth_failed.fetch_add(1, Relaxed);
                }
                inner.count(reason, 1);
            }
        }
        Some(())
    }
}

/// Asks for what the next copies will want, a step for each of those that follow: a subscriber, what it points to,
/// the key. With hundreds of subscribers none of it is in the cache, and a copy that waits for one after the other
/// waits longer than it works.
fn warm(tables: &Tables, copies: &[Copies], now: usize) {
    let subscriber = |ahead: usize| copies.get(now + ahead).map(|copy| copy.subscriber);
    if let Some(subscriber) = subscriber(6) {
        tables.subscribers.prefetch(subscriber);
    }
    if let Some(subscriber) = subscriber(4).and_then(|subscriber| tables.subscribers.get(subscriber)) {
        prefetch(Arc::as_ptr(&subscriber.cipher));
        prefetch(Arc::as_ptr(&subscriber.expires));
    }
    if let Some(subscriber) = subscriber(2).and_then(|subscriber| tables.subscribers.get(subscriber)) {
        subscriber.cipher.prefetch();
    }
}

/// The first transmitter that reaches a subscriber; the last one reaches everybody.
pub(super) fn way_to(transmitters: &[Way], subscriber: &Subscriber) -> usize {
    let reaches = |way: &Way| way.transmitter.reaches(&subscriber.destination);
    transmitters.iter().position(reaches).unwrap_or(transmitters.len() - 1)
}

/// Sends what was sealed, and counts what became of it.
pub(super) fn transmit(inner: &Inner, transmitters: &mut [Way]) {
    for Way { transmitter, counted } in transmitters {
        transmitter.flush();
        let sent = transmitter.sent();
        inner.count(Counter::Transmitted, sent.packets - counted.packets);
        inner.count(Counter::DropRingFull, sent.dropped - counted.dropped);
        inner.count(Counter::DropTooBigForPath, sent.too_big - counted.too_big);
        inner.count(Counter::DropTcpStalled, sent.stalled - counted.stalled);
        if transmitter.name() == "xdp" {
            inner.by_xdp.fetch_add(sent.packets - counted.packets, Relaxed);
            inner.resent.fetch_add(sent.resent - counted.resent, Relaxed);
        }
        *counted = sent;
    }
}

impl Feeder for Forwarder {
    fn push(&mut self, track: PublisherTrackId, index: ExtendedSeq, header: &RtpHeader, payload: &[u8], key: bool) {
        self.take(track, index, header, payload, key);
    }

    fn prefetch(&self, track: PublisherTrackId) {
        self.inner.read().publishers.prefetch(track.0);
    }

    fn flush(&mut self) {
        Self::flush(self);
    }

    fn behind(&self, last: Instant) -> Pin<Box<dyn Future<Output = ()>>> {
        Box::pin(Self::behind(self, last))
    }

    fn catch_up(&mut self, last: &mut Instant) {
        Self::catch_up(self, last);
    }

    fn forget(&self, track: PublisherTrackId) {
        Self::forget(self, track);
    }
}

impl Worker for Forwarder {
    fn rtp(&mut self, socket: usize, peer: SocketAddr, packet: &mut [u8]) -> bool {
        self.open(socket, peer, packet).is_some()
    }

    fn flush(&mut self) {
        Self::flush(self);
    }
}

/// A packet whose tag was right, with its payload in the clear.
struct Authentic {
    index: ExtendedSeq,
    header: RtpHeader,
    /// Where the payload starts, and its length.
    start: usize,
    len: usize,
    /// The length with which it came.
    arrived: usize,
    /// Others are missing before it.
    gap: bool,
    /// Its payload type is not the track's.
    other: bool,
}

/// The same checks in the same order as `forwarder-ebpf/src/open.rs`.
fn authenticate(publisher: &Publisher, packet: &mut [u8], now_ns: u64) -> Result<Authentic, Counter> {
    let Origin::Srtp { cipher, expires, payload_type, .. } = &publisher.origin else {
        return Err(Counter::DropInternalIngress);
    };
    let (header, header_len) = RtpHeader::parse(packet).ok_or(Counter::DropMalformedRtp)?;
    let payload_len = packet.len().checked_sub(header_len + cipher.tag_len()).ok_or(Counter::DropMalformedRtp)?;
    if payload_len > MAX_PAYLOAD {
        return Err(Counter::DropOversize);
    }
    if expires.load(Relaxed) <= now_ns {
        return Err(Counter::DropPublisherExpired);
    }
    let index = publisher.replay.highest().estimate(header.seq()).ok_or(Counter::DropTooOld)?;
    publisher.replay.check(index).map_err(refusal)?;
    cipher.open_rtp(packet, header_len, header.ssrc(), index).ok_or(Counter::DropAuthFailed)?;
    // Only behind the tag may state move (RFC 3711 §3.3).
    let gap = publisher.replay.enter(index).map_err(refusal)?;
    // Nobody has negotiated what is in it. Copies keep its sequence number, and are empty.
    let other = header.payload_type() != *payload_type;
    let len = if other { 0 } else { payload_len };
    Ok(Authentic { index, header, start: header_len, len, arrived: payload_len, gap, other })
}

fn refusal(why: Refused) -> Counter {
    match why {
        Refused::Replayed => Counter::DropReplayed,
        Refused::TooOld => Counter::DropTooOld,
    }
}

/// The packet within a packet of repairs, and its index, if its track lacks it.
fn unwrapped<'a>(
    tables: &Tables,
    (repairs, of): (u32, u32),
    header: &RtpHeader,
    payload: &'a [u8],
) -> Option<(ExtendedSeq, RtpHeader, &'a [u8])> {
    let publisher = tables.publishers.get(of)?;
    let Origin::Srtp { session, payload_type, ssrc, .. } = &publisher.origin else { return None };
    // A handle that was given out again may be another publisher's.
    let Origin::Srtp { session: own, .. } = &tables.publishers.get(repairs)?.origin else { return None };
    if own != session {
        return None;
    }
    let (header, payload) = repair::unwrap(header, payload, (*payload_type, *ssrc))?;
    let index = publisher.replay.highest().estimate(header.seq())?;
    publisher.replay.check(index).ok()?;
    Some((index, header, payload))
}

/// Whether any subscriber or listener of a track is left.
pub(super) fn has_members(tables: &Tables, track: u32) -> bool {
    let listens = |publisher: &Publisher| publisher.listeners.iter().any(|listener| !listener.ear.is_closed());
    tables.publishers.get(track).is_some_and(|publisher| !publisher.members.is_empty() || listens(publisher))
}
