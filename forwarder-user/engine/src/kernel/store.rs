//! Packets of kernel tracks that viewers ask for once more. The kernel keeps them (`forwarder_common::store`); here
//! they are found, checked to the last bit, and sealed for the viewer that lost one.
//!
//! Nonces. The kernel has sealed the packet before, or would have, under the viewer's index; to seal it again is
//! allowed only if header and plaintext are the same. They follow from the publisher's packet with the incoming index
//! and from what is fixed for the life of the viewer's track, by [`Outgoing`], which is what the programs do. That it
//! is the publisher's packet with that index is not believed of the map: its tag under the publisher's key says so,
//! over header, extensions and payload. The replay list lets each index through once, and only the packet that it let
//! through is kept. With RTX the index is a fresh one of another SSRC, and nothing of this is needed; it is checked
//! nevertheless.

use std::sync::Arc;

use forwarder_common::{
    ExtendedSeq, RtpHeader,
    rtp::TAG_LEN,
    store::{MAX_CHUNKS_LOG, Range, Stored},
};
use penstock_srtp::cipher::Cipher;

use super::{
    KernelEngine,
    fanout::Worker,
    state::{PublisherTrack, Session, State},
    wire,
};
use crate::{
    Kind, NewSubscriberTrack, RtxSource, SubscriberTrackId, Unrepaired,
    bpf::{describe, stores::CHUNK_BYTES},
    clock::boottime_ns,
    repair::{HOLD, Memory, Outgoing, Settings},
    slots::Slots,
};

/// A copy may be so far behind others that were sent before it, in packets.
const LATE: u64 = 512;

/// What is needed to send a packet again, found under the engine's lock.
struct Found {
    stored: Stored,
    /// Incoming.
    index: ExtendedSeq,
    /// The publisher's key, and its SSRC.
    from: (Arc<Cipher>, u32),
    /// The viewer's key and track, offset and first index.
    to: (Arc<Cipher>, NewSubscriberTrack, (u64, u64)),
}

impl KernelEngine {
    pub(super) fn send_again(
        &self,
        track: SubscriberTrackId,
        seq: u16,
        rtx: Option<&mut RtxSource>,
    ) -> Result<Vec<u8>, Unrepaired> {
        let Found { stored, index, from, to } = find(&mut self.shared.lock(), track.0, seq)?;
        let (header, payload) = open(&stored, index, &from.0, from.1)?;
        let out = Outgoing::new(&to.1, to.2, index, &header).map_err(|_| Unrepaired::NeverSent)?;
        out.again(&to.0, &payload, rtx).ok_or(Unrepaired::Damaged)
    }
}

fn find(state: &mut State, track: u32, seq: u16) -> Result<Found, Unrepaired> {
    let State { tables, sessions, publishers, subscribers, .. } = state;
    let never = Unrepaired::NeverSent;
    let subscriber = subscribers.get(track).ok_or(never)?;
    let offset = subscriber.index_offset.ok_or(never)?;
    let sent = tables.subscriber_state.get(&Slots::<()>::slot(track), 0).map_err(|_| never)?;
    let expires = tables.leases.get(&Slots::<()>::slot(subscriber.session), 0).map_err(|_| never)?;
    let now_ns = boottime_ns();
    if sent.packets == 0 || expires <= now_ns {
        return Err(never);
    }
    // A late copy has left a lower index as its last. That an index may be sealed again does not rest on this.
    let last = ExtendedSeq(sent.last_index);
    let out = last.estimate(seq).filter(|index| index.0 <= last.0 + LATE).ok_or(never)?;
    let index = ExtendedSeq(out.0.wrapping_sub(offset));
    let first_in = subscriber.track.next_out.0.wrapping_sub(offset);
    if index.0 < first_in || index > ExtendedSeq::MAX {
        return Err(never);
    }
    let missing = Unrepaired::Missing(index);
    let publisher = publishers.get(subscriber.from).ok_or(missing)?;
    let stored = publisher.store.and_then(|range| tables.stores.read(range, index.0)).ok_or(missing)?;
    if stored.number != index.0 + 1 || stored.received_ns + (HOLD.as_nanos() as u64) < now_ns {
        return Err(missing);
    }
    let from = sessions.get_mut(publisher.session).and_then(Session::cipher).ok_or(never)?;
    let to = sessions.get_mut(subscriber.session).and_then(Session::cipher).ok_or(never)?;
    let (ssrc, to_track) = (publisher.track.ssrc, subscriber.track);
    Ok(Found { stored, index, from: (from, ssrc), to: (to, to_track, (offset, first_in)) })
}

/// Header and plaintext of a kept packet, if its tag says that the publisher has sent just this.
fn open(stored: &Stored, index: ExtendedSeq, cipher: &Cipher, ssrc: u32) -> Result<(RtpHeader, Vec<u8>), Unrepaired> {
    let damaged = Unrepaired::Damaged;
    let packet = stored.packet(index).ok_or(damaged)?;
    let (header, header_len) = RtpHeader::parse(packet).ok_or(damaged)?;
    if header.ssrc() != ssrc || packet.len() < header_len + TAG_LEN {
        return Err(damaged);
    }
    let mut copy = packet.to_vec();
    if stored.opened == 0 {
        let len = cipher.open_rtp(&mut copy, header_len, ssrc, index).ok_or(damaged)?;
        return Ok((header, copy[header_len..header_len + len].to_vec()));
    }
    // Sealed as the publisher has sealed it, it must have the publisher's tag. What comes of it stays here.
    let payload = &packet[header_len..packet.len() - TAG_LEN];
    let sealed = cipher.seal_rtp(&mut copy, header_len, payload, ssrc, index);
    let same = sealed && copy[copy.len() - TAG_LEN..] == packet[packet.len() - TAG_LEN..];
    if same { Ok((header, payload.to_vec())) } else { Err(damaged) }
}

/// How much a new track keeps, in chunks, as a power of two. `None`: nothing.
///
/// A packet takes 1.5 KB whatever its length. Audio has 50 a second. When half of the memory is taken, tracks get
/// half as much, and a quarter when three quarters are.
fn chunks_log(settings: &Settings, kind: Kind) -> Option<u32> {
    let chunks = settings.track / CHUNK_BYTES;
    let most = chunks.checked_ilog2()?.min(MAX_CHUNKS_LOG);
    let (used, limit) = (settings.memory.used(), settings.memory.limit());
    let less = u32::from(used * 2 > limit) + u32::from(used * 4 > limit * 3);
    Some(if kind == Kind::Audio { 0 } else { most.saturating_sub(less) })
}

impl Worker {
    /// Gives new publisher tracks the memory for their packets, as far as there is some.
    pub(super) fn give_stores(&self, publishers: impl Iterator<Item = u32>) {
        let mut given = Vec::new();
        let mut missing = Vec::new();
        for handle in publishers {
            let Some((range, more)) = self.promise_store(handle) else { continue };
            given.push((handle, range));
            missing.extend(more);
        }
        if given.is_empty() {
            return;
        }
        // Waits for the kernel, so without the lock. Only this thread gives and takes.
        let made = self.fanouts.stores.add(missing.iter().copied());
        let mut state = self.shared.lock();
        match made {
            Ok(chunks) => {
                chunks.into_iter().for_each(|(place, chunk)| state.tables.stores.put(place, chunk));
                given.into_iter().for_each(|(handle, range)| announce(&mut state, handle, range));
            }
            Err(error) => {
                tracing::error!("no memory for what viewers lose of a track: {error}");
                self.repair.memory.give(missing.len() * CHUNK_BYTES);
                given.into_iter().for_each(|(_, range)| release(&mut state, range));
            }
        }
    }

    /// The range of a track, and which of its chunks are to be made.
    fn promise_store(&self, handle: u32) -> Option<(Range, Vec<u32>)> {
        let mut state = self.shared.lock();
        let kind = state.publishers.get(handle).filter(|publisher| !publisher.stopping)?.track.kind;
        let chunks_log = chunks_log(&self.repair, kind)?;
        let Some((range, missing)) = state.tables.stores.promise(chunks_log) else {
            self.repair.memory.refuse();
            return None;
        };
        if !self.repair.memory.take(missing.len() * CHUNK_BYTES) {
            release(&mut state, range);
            return None;
        }
        Some((range, missing))
    }
}

/// From now on the kernel keeps the track's packets.
fn announce(state: &mut State, handle: u32, range: Range) {
    let State { tables, publishers, .. } = state;
    let Some(publisher) = publishers.get_mut(handle) else { return release(state, range) };
    publisher.store = Some(range);
    let slot = Slots::<()>::slot(handle);
    let entry = wire::publisher_track(slot, publisher);
    if let Err(error) = tables.publisher_tracks.set(slot, entry, 0) {
        tracing::error!("a track keeps no packets: {}", describe(&error));
    }
}

/// A range that nothing writes any more is free, and holds nothing.
pub(super) fn release(state: &mut State, range: Range) {
    if let Err(error) = state.tables.stores.release(range) {
        tracing::error!("packets of a track that is gone not wiped: {}", describe(&error));
    }
}

/// The same of a track that is gone.
pub(super) fn release_of(state: &mut State, publisher: &PublisherTrack) {
    if let Some(range) = publisher.store {
        release(state, range);
    }
}

/// Chunks for which there is memory.
pub(super) fn limit(memory: &Memory) -> usize {
    // The kernel wants one at least.
    (memory.limit() / CHUNK_BYTES).max(1)
}

#[cfg(test)]
mod tests {
    use forwarder_common::store::{CHUNK, ROOM};

    use super::*;
    use crate::{MediaKey, Profile};

    const SSRC: u32 = 0x0102_0304;
    const INDEX: ExtendedSeq = ExtendedSeq(0x1_0005);

    fn cipher() -> Cipher {
        let key = MediaKey { profile: Profile::AeadAes128Gcm, key: vec![3; 16], salt: [7; 14], auth_key: Vec::new() };
        Cipher::new(&key).unwrap()
    }

    /// A publisher's packet with an extension, as it is kept.
    fn stored(opened: bool) -> Stored {
        let mut packet = vec![0x90, 0xe0, 0, 5, 0, 0, 0, 9, 1, 2, 3, 4, 0xbe, 0xde, 0, 1, 0x10, 0xff, 0, 0];
        let header_len = packet.len();
        packet.extend([0; 7 + TAG_LEN]);
        assert!(cipher().seal_rtp(&mut packet, header_len, b"payload", SSRC, INDEX));
        if opened {
            packet[header_len..header_len + 7].copy_from_slice(b"payload");
        }
        let mut stored = Stored {
            number: INDEX.0 + 1,
            received_ns: 1,
            len: packet.len() as u32,
            opened: opened.into(),
            bytes: [0; ROOM],
        };
        stored.bytes[..packet.len()].copy_from_slice(&packet);
        stored
    }

    #[test]
    fn both_forms_give_header_and_plaintext() {
        for opened in [false, true] {
            let (header, payload) = open(&stored(opened), INDEX, &cipher(), SSRC).unwrap();
            assert_eq!((header.seq(), header.marker(), &payload[..]), (5, true, &b"payload"[..]), "{opened}");
        }
    }

    /// One index, one plaintext: what is not the publisher's packet to the last bit is never sealed again.
    #[test]
    fn an_index_is_not_sealed_again_with_one_byte_changed() {
        for opened in [false, true] {
            let whole = stored(opened);
            for at in 0..whole.len as usize {
                let mut changed = whole;
                changed.bytes[at] ^= 1;
                let refused = open(&changed, INDEX, &cipher(), SSRC);
                assert_eq!(refused, Err(Unrepaired::Damaged), "byte {at}, opened {opened}");
            }
            for len in 0..whole.len {
                let refused = open(&Stored { len, ..whole }, INDEX, &cipher(), SSRC);
                assert_eq!(refused, Err(Unrepaired::Damaged), "{len} bytes");
            }
            let other = ExtendedSeq(INDEX.0 + (1 << 16));
            let moved = Stored { number: other.0 + 1, ..whole };
            assert_eq!(open(&moved, other, &cipher(), SSRC), Err(Unrepaired::Damaged), "another ROC");
            let other = Stored { opened: (!opened).into(), ..whole };
            assert_eq!(open(&other, INDEX, &cipher(), SSRC), Err(Unrepaired::Damaged), "the other form");
        }
    }

    #[test]
    fn tracks_get_less_when_memory_runs_low() {
        let settings = |used| {
            let memory = Memory::new(64 << 20);
            assert!(memory.take(used));
            Settings { memory: Arc::new(memory), track: 1 << 20 }
        };
        let packets = |used, kind| chunks_log(&settings(used), kind).map(|log| CHUNK << log);
        assert_eq!([0, 33 << 20, 49 << 20].map(|used| packets(used, Kind::Video)), [512, 256, 128].map(Some));
        assert_eq!([0, 49 << 20].map(|used| packets(used, Kind::Audio)), [64, 64].map(Some));
        assert_eq!(chunks_log(&Settings::none(), Kind::Video), None);
    }
}
