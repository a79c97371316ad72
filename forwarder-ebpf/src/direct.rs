//! The short way of a packet that has one subscriber: opened, sealed and sent in one run of a program of its own,
//! `penstock_direct`, to which ingress passes it on.
//!
//! It is for packets whose keystream is there, the publisher's and the subscriber's. Neither plaintext
//! nor clone comes to be: the payload is XORed with both keystreams at once, and both tags are made of
//! the same sums (see `subsets`). Everything else goes the long way (`open`, `fanout`, `egress`), with
//! the same outcome: several subscribers or a tap, long payloads and headers, which ingress sees; no keystream, and
//! whatever `egress` would drop, so that it is counted there, which this program sees and gives the packet back.
//!
//! A program of its own, because verifiers walk every way through a program, and give up over too many. Where a kernel
//! does not take it, everything goes the long way.
//!
//! Keystream and nonces:
//! - the frame stays as it came until its tag was right and its index accepted. What comes before only
//!   reads it. A forged packet costs nobody anything: the publisher's entry is put back, the subscriber's
//!   has not been touched;
//! - the subscriber's entry is taken after that, by its index, which this packet alone has (see `subscriber`
//!   for why). So it encrypts this packet, or nothing: should a step behind that fail, the packet is
//!   dropped and counted, the entry is released as used, and no other packet ever asks for its index;
//! - both entries are held until the last byte was read, so the producer writes neither meanwhile;
//! - a packet is given back only before any of this: untouched, without an entry, and not in the replay list.
//!
//! The finished frame goes by the fan-out's devmap, like a clone, and so past the egress program. A
//! redirection without one would be shorter, and a leak: devmap keeps one egress program for a whole
//! queue of frames, that of the first one, so clones of other streams' packets behind this frame would
//! leave in plaintext.

use forwarder_common::{
    Counter, ExtendedSeq, ReplayWindow,
    gf128::{self, Block},
    keystream::{Entry, FAST_PAYLOAD},
    maps::{NONE, PublisherState, PublisherTrack, SubscriberTrack, program},
    rtp::{FIXED_LEN, TAG_LEN},
};

use crate::{
    ahead, arrivals, counters, fanout,
    gcm::Sealed,
    handover::{Media, go_on},
    maps::{self, FANOUT_LISTS, PUBLISHER_STATE, PUBLISHER_TRACKS, SUBSCRIBER_STATE, SUBSCRIBER_TRACKS, lease},
    open::{self, Admitted, Opened},
    packet::Frame,
    recrypt::{Span, direct_fill, direct_open, direct_reseal, direct_reseal_summing, direct_share},
    rewrite, seal, store, subscriber,
    subsets::{BLOCKS, Packet, Subsets},
};

/// Blocks of GHASH: lengths, payload, header.
#[inline(always)]
fn blocks(header_len: usize, payload_len: usize) -> usize {
    1 + payload_len.div_ceil(TAG_LEN) + header_len.div_ceil(TAG_LEN)
}

/// Whether a packet may go the short way, as far as ingress sees: it has one subscriber and no tap, and a key reaches
/// all of its blocks.
#[inline(always)]
pub fn fits(media: &Media) -> bool {
    let Admitted { header_len, payload_len, .. } = media.admitted;
    media.fanout.copies == 1
        && media.tap == 0
        && payload_len <= FAST_PAYLOAD
        && blocks(header_len, payload_len) <= BLOCKS
}

#[inline(always)]
pub fn run(frame: &Frame) -> Result<u32, Counter> {
    const BROKEN: Counter = Counter::DropInternalIngress;
    let media = Media::take().ok_or(BROKEN)?;
    let track = PUBLISHER_TRACKS.get_ptr(media.slot).ok_or(BROKEN)?;
    let state = PUBLISHER_STATE.get_ptr_mut(media.slot).ok_or(BROKEN)?;
    forward(frame, &media, track, state).inspect_err(|reason| counters::publisher_dropped(state, *reason))
}

#[inline(always)]
fn forward(
    frame: &Frame,
    media: &Media,
    track: *const PublisherTrack,
    state: *mut PublisherState,
) -> Result<u32, Counter> {
    // SAFETY: as in `ingress`.
    let (track, shared) = unsafe { (&*track, &*state) };
    let Some(direct) = find(frame, media, track) else {
        go_on(frame, program::FORWARD);
        return Err(Counter::DropInternalIngress);
    };
    let opened = direct.open(frame, media, &shared.replay)?;
    ahead::wake(media.slot, opened.index, opened.payload_len);
    open::account(state, track, &media.rtp, &opened, media.now_ns);
    arrivals::note(frame, &media.rtp, track, media.slot, media.now_ns);
    // Only here are header, ciphertext and tag together: what follows writes the viewer's over them.
    store::keep(frame, &media.rtp, &track.store, opened.index.0, store::Form::Sealed, media.now_ns);
    if let Some(action) = direct.send(frame, media, &opened)? {
        return Ok(action);
    }
    fanout::send(frame, &media.rtp, media.tap, media.fanout, &opened, media.now_ns)
}

/// A packet's short way.
struct Direct {
    sums: Packet,
    /// The publisher's key and keystream.
    from: &'static Subsets,
    opening: &'static Entry,
    /// The subscriber's track.
    member: u32,
}

/// The short way, if the packet can go it.
#[inline(always)]
fn find(frame: &Frame, media: &Media, track: &PublisherTrack) -> Option<Direct> {
    let Admitted { index, payload_len, .. } = media.admitted;
    let member = direct_member(media.fanout.slot, index.0, media.now_ns, payload_len as u64);
    if member == NONE || maps::key(track.session)?.rounds == 0 {
        return None;
    }
    let (sums, from) = (Packet::begin()?, maps::subsets(track.session)?);
    let opening = ahead::try_to_open(media.slot, &track.keystream, index, frame.forget(payload_len))?;
    Some(Direct { sums, from, opening, member })
}

/// The only member of a fan-out, if it takes the packet with this index; else [`NONE`]. Global to the
/// verifier, as the functions of `gcm` are: else it would follow what comes behind once more for each reason.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn direct_member(fanout: u32, index: u64, now_ns: u64, payload_len: u64) -> u32 {
    only_member(fanout, index, now_ns, payload_len).unwrap_or(NONE)
}

#[inline(always)]
fn only_member(fanout: u32, index: u64, now_ns: u64, payload_len: u64) -> Option<u32> {
    let list = FANOUT_LISTS.get(fanout)?;
    let member = list.members[0];
    let track = SUBSCRIBER_TRACKS.get(member)?;
    let takes = list.copies == 1
        && lease(track.session)? > now_ns
        && index >= track.first_in
        && subscriber::outgoing(track, ExtendedSeq(index)).is_some()
        && maps::key(track.session)?.rounds != 0
        && u64::from(subscriber::path(track.session, list.groups[0].ifindex)?.max_payload) >= payload_len;
    takes.then_some(member)
}

impl Direct {
    /// Authenticates the packet and enters it in the replay list. The frame stays as it is.
    #[inline(always)]
    fn open(&self, frame: &Frame, media: &Media, replay: &ReplayWindow) -> Result<Opened, Counter> {
        let authentic = self.authentic(frame, media);
        if authentic != Some(true) {
            // A forged packet must not cost the true one its keystream.
            self.opening.put_back(media.admitted.index);
            return Err(if authentic.is_some() { Counter::DropAuthFailed } else { Counter::DropInternalIngress });
        }
        // Only here, behind the tag, may state move: see `open::open`.
        if let Err(why) = open::enter(replay, media.admitted.index) {
            self.opening.release();
            return Err(why);
        }
        let Admitted { index, header_len, payload_len } = media.admitted;
        Ok(Opened { index, header_len, payload_len, rows: 0 })
    }

    /// Takes plaintext and header into the sums. Says whether the tag was right; `None` if the packet
    /// exceeds the frame.
    #[inline(always)]
    fn authentic(&self, frame: &Frame, media: &Media) -> Option<bool> {
        let Admitted { header_len, payload_len, .. } = media.admitted;
        let (offset, header_len, len) = (media.rtp.offset, frame.forget(header_len), frame.forget(payload_len));
        let expected: Block = frame.read(offset + header_len + len)?;
        let span = Span::new(offset, header_len, len);
        if direct_fill(frame.context(), self.sums.0, self.opening, span.0) != 0 {
            return None;
        }
        self.sums.put(0, gf128::lengths(header_len as u64, len as u64));
        self.add_share(self.opening, len)?;
        let blocks = blocks(header_len, len);
        self.sums.sum_up(blocks);
        let tag = self.sums.total(self.from, blocks);
        let mask = self.opening.mask;
        Some((tag[0] ^ mask[0] ^ expected[0]) | (tag[1] ^ mask[1] ^ expected[1]) == 0)
    }

    /// Adds the share of a keystream in GHASH, or takes it away again.
    #[inline(always)]
    fn add_share(&self, entry: &Entry, len: usize) -> Option<()> {
        (direct_share(self.sums.0, entry, len as u64) == 0).then_some(())
    }

    /// Seals the packet and sends it. `None`: the subscriber's keystream is not there, and the frame
    /// holds the plaintext now, for the long way.
    #[inline(always)]
    fn send(&self, frame: &Frame, media: &Media, opened: &Opened) -> Result<Option<u32>, Counter> {
        const BROKEN: Counter = Counter::DropInternalEgress;
        let sent = self.try_send(frame, media, opened);
        // Sealed or opened: the last byte was read.
        self.opening.release();
        if sent.is_none() {
            let state = SUBSCRIBER_STATE.get_ptr_mut(self.member).ok_or(BROKEN)?;
            counters::subscriber_dropped(state, BROKEN);
        }
        sent.ok_or(BROKEN)
    }

    #[inline(always)]
    fn try_send(&self, frame: &Frame, media: &Media, opened: &Opened) -> Option<Option<u32>> {
        let track = SUBSCRIBER_TRACKS.get(self.member)?;
        let Media { rtp, fanout, now_ns, .. } = media;
        let span = Span::new(rtp.offset, opened.header_len, opened.payload_len);
        let index = subscriber::outgoing(track, opened.index)?;
        let Some(sealing) = ahead::try_to_seal(self.member, &track.keystream, index, opened.payload_len) else {
            return (direct_open(frame.context(), self.opening, span.0) == 0).then_some(None);
        };
        let sealed = self.seal(frame, media, opened, (track, index), span, sealing);
        sealing.release();
        sealed?;
        let action = fanout::send_finished(frame, rtp, opened, *fanout, *now_ns)?;
        let state = SUBSCRIBER_STATE.get_ptr_mut(self.member)?;
        let timestamp = rtp.header.timestamp().wrapping_add(track.timestamp_offset);
        subscriber::account(state, opened.payload_len, *now_ns, index, timestamp);
        counters::add(Counter::Direct, 1);
        Some(Some(action))
    }

    #[inline(always)]
    fn seal(
        &self,
        frame: &Frame,
        media: &Media,
        opened: &Opened,
        (track, index): (&SubscriberTrack, ExtendedSeq),
        span: Span,
        sealing: &'static Entry,
    ) -> Option<()> {
        let rtp = &media.rtp;
        let ifindex = FANOUT_LISTS.get(media.fanout.slot)?.groups[0].ifindex;
        let path = subscriber::path(track.session, ifindex)?;
        let failed = if path.ip_version == 6 {
            direct_reseal_summing(frame.context(), self.sums.0, self.opening, sealing, span.0)
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
        rewrite::rewrite(frame, (path, track.ds), header, len, rtp.offset + opened.header_len)?;
        let tag = self.tag(frame, maps::subsets(track.session)?, opened, sealing, header)?;
        frame.write(usize::from(path.header_len) + FIXED_LEN + frame.forget(len), tag)?;
        seal::udp_checksum(frame, path, header, len, Sealed { tag, sum: self.sums.checksum() })
    }

    /// The copy's tag: the packet's own sums, with another header, and the other keystream's share.
    #[inline(always)]
    fn tag(&self, frame: &Frame, key: &Subsets, opened: &Opened, sealing: &Entry, header: [u32; 3]) -> Option<Block> {
        let (header_len, len) = (frame.forget(opened.header_len), frame.forget(opened.payload_len));
        let payload = len.div_ceil(TAG_LEN);
        self.add_share(self.opening, len)?;
        self.add_share(sealing, len)?;
        self.sums.put(0, gf128::lengths(FIXED_LEN as u64, len as u64));
        self.sums.sum_up_again(0);
        let first = u64::from(header[0]) | u64::from(header[1]) << 32;
        self.sums.put(payload + 1, [first, header[2].into()]);
        self.sums.sum_up_again(payload + 1);
        self.sums.clear(payload + 2, header_len.div_ceil(TAG_LEN) - 1);
        let total = self.sums.total(key, payload + 2);
        Some([total[0] ^ sealing.mask[0], total[1] ^ sealing.mask[1]])
    }
}
