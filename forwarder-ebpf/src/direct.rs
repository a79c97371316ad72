//! The short way of a packet that has one subscriber: opened, sealed and sent in one run of the ingress
//! program.
//!
//! It is for packets whose keystream is there, the publisher's and the subscriber's. Neither plaintext
//! nor clone comes to be: the payload is XORed with both keystreams at once, and both tags are made of
//! the same sums (see `subsets`). Everything else goes the long way (`open`, `fanout`, `egress`), with
//! the same outcome: no keystream, several subscribers or a tap, long payloads and headers, and whatever
//! `egress` would drop, so that it is counted there.
//!
//! Keystream and nonces:
//! - the frame stays as it came until its tag was right and its index accepted. What comes before only
//!   reads it. A forged packet costs nobody anything: the publisher's entry is put back, the subscriber's
//!   has not been touched;
//! - the subscriber's entry is taken after that, by its index, which this packet alone has (see `egress`
//!   for why). So it encrypts this packet, or nothing: should a step behind that fail, the packet is
//!   dropped and counted, the entry is released as used, and no other packet ever asks for its index;
//! - both entries are held until the last byte was read, so the producer writes neither meanwhile.
//!
//! The finished frame goes by the fan-out's devmap, like a clone, and so past the egress program. A
//! redirection without one would be shorter, and a leak: devmap keeps one egress program for a whole
//! queue of frames, that of the first one, so clones of other streams' packets behind this frame would
//! leave in plaintext.

use forwarder_common::{
    Counter, ExtendedSeq, ReplayWindow,
    gf128::{self, Block},
    keystream::{Entry, FAST_PAYLOAD},
    maps::{NONE, SubscriberTrack},
    rtp::{FIXED_LEN, TAG_LEN},
};

use crate::{
    ahead,
    classify::Rtp,
    counters, egress,
    fanout::{self, Fanout},
    gcm::Sealed,
    maps::{self, FANOUT_LISTS, SUBSCRIBER_STATE, SUBSCRIBER_TRACKS, lease},
    open::{self, Admitted, Opened},
    packet::Frame,
    recrypt::{Span, direct_fill, direct_open, direct_reseal, direct_reseal_summing, direct_share},
    rewrite, seal,
    subsets::{BLOCKS, Packet, Subsets},
};

/// A packet's short way.
#[derive(Clone, Copy)]
pub struct Direct {
    packet: Packet,
    /// The publisher's key and keystream.
    from: &'static Subsets,
    opening: &'static Entry,
    /// The subscriber's track.
    member: u32,
}

/// Blocks of GHASH: lengths, payload, header.
#[inline(always)]
fn blocks(header_len: usize, payload_len: usize) -> usize {
    1 + payload_len.div_ceil(TAG_LEN) + header_len.div_ceil(TAG_LEN)
}

/// The short way, if the packet can go it. It has the keystream `opening`.
#[inline(always)]
pub fn find(
    frame: &Frame,
    fanout: Fanout,
    session: u32,
    admitted: &Admitted,
    opening: &'static Entry,
    now_ns: u64,
) -> Option<Direct> {
    let (header_len, payload_len) = (frame.forget(admitted.header_len), frame.forget(admitted.payload_len));
    let fits = payload_len <= FAST_PAYLOAD && blocks(header_len, payload_len) <= BLOCKS;
    if frame.forget(fanout.copies as usize) != 1 || !fits {
        return None;
    }
    let member = direct_member(fanout.slot, admitted.index.0, now_ns);
    if member == NONE {
        return None;
    }
    Some(Direct { packet: Packet::begin()?, from: maps::subsets(session)?, opening, member })
}

/// The only member of a fan-out, if it takes the packet with this index; else [`NONE`]. Global to the
/// verifier, as the functions of `gcm` are: else it would follow the long way once more for each reason.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn direct_member(fanout: u32, index: u64, now_ns: u64) -> u32 {
    only_member(fanout, index, now_ns).unwrap_or(NONE)
}

#[inline(always)]
fn only_member(fanout: u32, index: u64, now_ns: u64) -> Option<u32> {
    let list = FANOUT_LISTS.get(fanout)?;
    let member = list.members[0];
    let track = SUBSCRIBER_TRACKS.get(member)?;
    let takes = lease(track.session)? > now_ns
        && index >= track.first_in
        && outgoing(track, ExtendedSeq(index)) <= ExtendedSeq::MAX
        && maps::key(track.session)?.rounds != 0
        && egress::path(track.session, list.groups[0].ifindex).is_some();
    takes.then_some(member)
}

/// The index that a packet has for its subscriber.
#[inline(always)]
fn outgoing(track: &SubscriberTrack, index: ExtendedSeq) -> ExtendedSeq {
    ExtendedSeq(index.0.wrapping_add(track.index_offset))
}

impl Direct {
    /// Authenticates the packet and enters it in the replay list. The frame stays as it is.
    #[inline(always)]
    pub fn open(
        &self,
        frame: &Frame,
        rtp: &Rtp,
        admitted: &Admitted,
        replay: &ReplayWindow,
    ) -> Result<Opened, Counter> {
        let authentic = self.authentic(frame, rtp.offset, admitted);
        if authentic != Some(true) {
            // A forged packet must not cost the true one its keystream.
            self.opening.put_back(admitted.index);
            return Err(if authentic.is_some() { Counter::DropAuthFailed } else { Counter::DropInternalIngress });
        }
        // Only here, behind the tag, may state move: see `open::open`.
        if let Err(why) = replay.accept(admitted.index) {
            self.opening.release();
            return Err(open::refused(why));
        }
        let Admitted { index, header_len, payload_len, .. } = *admitted;
        Ok(Opened { index, header_len, payload_len, rows: 0 })
    }

    /// Takes plaintext and header into the sums. Says whether the tag was right; `None` if the packet
    /// exceeds the frame.
    #[inline(always)]
    fn authentic(&self, frame: &Frame, offset: usize, admitted: &Admitted) -> Option<bool> {
        let (header_len, len) = (frame.forget(admitted.header_len), frame.forget(admitted.payload_len));
        let expected: Block = frame.read(offset + header_len + len)?;
        let span = Span::new(offset, header_len, len);
        if direct_fill(frame.context(), self.packet.0, self.opening, span.0) != 0 {
            return None;
        }
        self.packet.put(0, gf128::lengths(header_len as u64, len as u64));
        self.add_share(self.opening, len)?;
        let blocks = blocks(header_len, len);
        self.packet.sum_up(blocks);
        let tag = self.packet.total(self.from, blocks);
        let mask = self.opening.mask;
        Some((tag[0] ^ mask[0] ^ expected[0]) | (tag[1] ^ mask[1] ^ expected[1]) == 0)
    }

    /// Adds the share of a keystream in GHASH, or takes it away again.
    #[inline(always)]
    fn add_share(&self, entry: &Entry, len: usize) -> Option<()> {
        (direct_share(self.packet.0, entry, len as u64) == 0).then_some(())
    }

    /// Seals the packet and sends it. `None`: the subscriber's keystream is not there, and the frame
    /// holds the plaintext now, for the long way.
    #[inline(always)]
    pub fn send(
        &self,
        frame: &Frame,
        rtp: &Rtp,
        opened: &Opened,
        fanout: Fanout,
        now_ns: u64,
    ) -> Result<Option<u32>, Counter> {
        const BROKEN: Counter = Counter::DropInternalEgress;
        let sent = self.try_send(frame, rtp, opened, fanout, now_ns);
        // Sealed or opened: the last byte was read.
        self.opening.release();
        if sent.is_none() {
            let state = SUBSCRIBER_STATE.get_ptr_mut(self.member).ok_or(BROKEN)?;
            counters::subscriber_dropped(state, BROKEN);
        }
        sent.ok_or(BROKEN)
    }

    #[inline(always)]
    fn try_send(&self, frame: &Frame, rtp: &Rtp, opened: &Opened, fanout: Fanout, now_ns: u64) -> Option<Option<u32>> {
        let track = SUBSCRIBER_TRACKS.get(self.member)?;
        let span = Span::new(rtp.offset, opened.header_len, opened.payload_len);
        let index = outgoing(track, opened.index);
        let Some(sealing) = ahead::try_to_seal(self.member, &track.keystream, index, opened.payload_len) else {
            return (direct_open(frame.context(), self.opening, span.0) == 0).then_some(None);
        };
        let sealed = self.seal(frame, rtp, opened, (track, index), fanout, span, sealing);
        sealing.release();
        sealed?;
        let action = fanout::send_finished(frame, rtp, opened, fanout, now_ns)?;
        let state = SUBSCRIBER_STATE.get_ptr_mut(self.member)?;
        let timestamp = rtp.header.timestamp().wrapping_add(track.timestamp_offset);
        egress::account(state, opened.payload_len, now_ns, index, timestamp);
        counters::add(Counter::Direct, 1);
        Some(Some(action))
    }

    #[inline(always)]
    fn seal(
        &self,
        frame: &Frame,
        rtp: &Rtp,
        opened: &Opened,
        (track, index): (&SubscriberTrack, ExtendedSeq),
        fanout: Fanout,
        span: Span,
        sealing: &'static Entry,
    ) -> Option<()> {
        let ifindex = FANOUT_LISTS.get(fanout.slot)?.groups[0].ifindex;
        let path = egress::path(track.session, ifindex)?;
        let failed = if path.ip_version == 6 {
            direct_reseal_summing(frame.context(), self.packet.0, self.opening, sealing, span.0)
        } else {
            direct_reseal(frame.context(), self.opening, sealing, span.0)
        };
        if failed != 0 {
            return None;
        }
        let timestamp = rtp.header.timestamp().wrapping_add(track.timestamp_offset);
        let header = rtp.header.copy_as(track.payload_type, index.seq(), timestamp, track.ssrc);
        let surplus = frame.len() as i32 - (rtp.offset + rtp.len) as i32;
        if surplus > 0 {
            frame.adjust_tail(-surplus)?;
        }
        let len = opened.payload_len;
        rewrite::rewrite(frame, path, header, len, rtp.offset + opened.header_len)?;
        let tag = self.tag(frame, maps::subsets(track.session)?, opened, sealing, header)?;
        frame.write(usize::from(path.header_len) + FIXED_LEN + frame.forget(len), tag)?;
        seal::udp_checksum(frame, path, header, len, Sealed { tag, sum: self.packet.checksum() })
    }

    /// The copy's tag: the packet's own sums, with another header, and the other keystream's share.
    #[inline(always)]
    fn tag(&self, frame: &Frame, key: &Subsets, opened: &Opened, sealing: &Entry, header: [u32; 3]) -> Option<Block> {
        let (header_len, len) = (frame.forget(opened.header_len), frame.forget(opened.payload_len));
        let payload = len.div_ceil(TAG_LEN);
        self.add_share(self.opening, len)?;
        self.add_share(sealing, len)?;
        self.packet.put(0, gf128::lengths(FIXED_LEN as u64, len as u64));
        self.packet.sum_up_again(0);
        let first = u64::from(header[0]) | u64::from(header[1]) << 32;
        self.packet.put(payload + 1, [first, header[2].into()]);
        self.packet.sum_up_again(payload + 1);
        self.packet.clear(payload + 2, header_len.div_ceil(TAG_LEN) - 1);
        let total = self.packet.total(key, payload + 2);
        Some([total[0] ^ sealing.mask[0], total[1] ^ sealing.mask[1]])
    }
}
