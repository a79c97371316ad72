//! Replay list and AES-GCM: from an RTP packet of a known SSRC to its plaintext.

use core::ptr::addr_of;

use forwarder_common::{
    Counter, ExtendedSeq, ReplayWindow, RtpHeader, SessionKey,
    keystream::Entry,
    maps::{MAX_PAYLOAD, PublisherState, PublisherTrack},
    nonce,
    rtp::{self, TAG_LEN},
    seq::Refused,
};

use crate::{
    classify::Rtp,
    counters::{self, shared_add},
    gcm,
    maps::{self, lease},
    packet::Frame,
    tower,
};

/// A packet that may be opened: what can be said without its key.
#[derive(Clone, Copy)]
pub struct Admitted {
    pub index: ExtendedSeq,
    /// RTP header with CSRCs and extension.
    pub header_len: usize,
    pub payload_len: usize,
}

/// An authenticated packet, decrypted in the frame.
pub struct Opened {
    pub index: ExtendedSeq,
    /// RTP header with CSRCs and extension.
    pub header_len: usize,
    pub payload_len: usize,
    /// Number of its rows, 0 without (see `tower`).
    pub rows: u64,
}

impl Opened {
    /// A packet that nobody has negotiated: its copies keep its sequence number, and are empty. Whoever comes behind the
    /// replay list sees the one plaintext that belongs to its index.
    #[inline(always)]
    pub fn empty(&mut self) {
        self.payload_len = 0;
        self.rows = 0;
    }
}

/// Whether a packet has another payload type than its track.
#[inline(always)]
pub fn is_other(rtp: &Rtp, track: &PublisherTrack) -> bool {
    rtp.header.payload_type() != track.payload_type
}

/// Counts a packet with another payload type, and leaves word of it for userspace.
#[inline(always)]
pub fn other(state: *mut PublisherState, rtp: &Rtp) {
    counters::add(Counter::DropPayloadType, 1);
    counters::publisher_dropped(state, Counter::DropPayloadType);
    // SAFETY: an aligned number in a map value that lives as long as this program.
    unsafe { core::ptr::write_volatile(&raw mut (*state).other_type, u64::from(rtp.header.payload_type()) + 1) };
}

/// Checks everything but the tag.
#[inline(always)]
pub fn admit(
    frame: &Frame,
    rtp: &Rtp,
    track: &PublisherTrack,
    replay: &ReplayWindow,
    now_ns: u64,
) -> Result<Admitted, Counter> {
    let header_len = header_len(frame, rtp)?;
    let payload_len = rtp.len - header_len - TAG_LEN;
    if payload_len > MAX_PAYLOAD {
        return Err(Counter::DropOversize);
    }
    if lease(track.session).ok_or(Counter::DropInternalIngress)? <= now_ns {
        return Err(Counter::DropPublisherExpired);
    }
    // No index can fit a packet before the first one, or after the last one of the key.
    let index = replay.highest().estimate(rtp.header.seq()).ok_or(Counter::DropTooOld)?;
    replay.check(index).map_err(refused)?;
    Ok(Admitted { index, header_len, payload_len })
}

/// Authenticates and decrypts the packet in place, and enters it in the replay list. It has the keystream
/// `ahead`, or else goes by AES.
#[inline(always)]
pub fn open(
    frame: &Frame,
    rtp: &Rtp,
    session: u32,
    copies: u32,
    admitted: &Admitted,
    ahead: Option<&'static Entry>,
    replay: &ReplayWindow,
) -> Result<Opened, Counter> {
    let Admitted { index, header_len, payload_len } = *admitted;
    let key: &SessionKey = maps::key(session).ok_or(Counter::DropInternalIngress)?;
    if key.rounds == 0 {
        return Err(Counter::DropInternalIngress);
    }
    let layout = gcm::Layout { aad_offset: rtp.offset, aad_len: header_len, payload_len };
    let nonce = nonce::rtp_words(&key.salt, rtp.header.ssrc(), index);
    // What is decided here must not double the verifier's work on what follows, hence `forget`.
    let wanted = || tower::wanted(frame.forget(copies as usize), frame.forget(payload_len));
    let fits = || tower::fits(frame.forget(header_len), frame.forget(payload_len));
    let draft = if ahead.is_some() && wanted() && fits() { tower::Draft::begin() } else { None };
    let authentic = match (ahead, draft) {
        (Some(entry), Some(draft)) => draft.open(frame, session, entry, layout),
        _ => gcm::open(frame, key, nonce, layout, ahead),
    };
    if let Some(entry) = ahead {
        // A forged packet must not cost the true one its keystream.
        if authentic == Some(true) { entry.release() } else { entry.put_back(index) }
    }
    match authentic {
        Some(true) => {}
        Some(false) => return Err(Counter::DropAuthFailed),
        None => return Err(Counter::DropInternalIngress),
    }
    // Only here, behind the tag, may state move (RFC 3711 §3.3): a forged packet that could raise the
    // highest index or fill the replay list would shut out the true ones. `accept` lets an index
    // through once, even if two CPUs hold the same packet; so no plaintext but one ever leaves under
    // the outgoing indices that are derived from it (see `seal`).
    enter(replay, index)?;
    let rows = match draft {
        Some(draft) => {
            counters::add(Counter::OpenedByRows, 1);
            draft.publish()
        }
        None if wanted() => spread(frame, rtp.offset + header_len, payload_len).ok_or(Counter::DropInternalIngress)?,
        None => 0,
    };
    Ok(Opened { index, header_len, payload_len, rows })
}

/// Rows of a packet that was opened without them.
#[inline(always)]
fn spread(frame: &Frame, offset: usize, payload_len: usize) -> Option<u64> {
    let draft = tower::Draft::begin()?;
    draft.fill(frame, frame.forget(offset), frame.forget(payload_len))?;
    Some(draft.publish())
}

/// Enters an authentic packet in the replay list, and counts if others are missing before it: userspace asks for them.
#[inline(always)]
pub fn enter(replay: &ReplayWindow, index: ExtendedSeq) -> Result<(), Counter> {
    if replay.enter(index).map_err(refused)? {
        counters::add(Counter::Gaps, 1);
    }
    Ok(())
}

#[inline(always)]
fn refused(why: Refused) -> Counter {
    match why {
        Refused::Replayed => Counter::DropReplayed,
        Refused::TooOld => Counter::DropTooOld,
    }
}

/// Length of the RTP header with CSRCs and extension, behind which the tag at least must fit.
#[inline(always)]
fn header_len(frame: &Frame, rtp: &Rtp) -> Result<usize, Counter> {
    let mut len = rtp.header.len_with_csrcs();
    if rtp.header.has_extension() {
        let start = frame.read(rtp.offset + len).ok_or(Counter::DropMalformedRtp)?;
        len += RtpHeader::extension_len(start);
    }
    if len + TAG_LEN > rtp.len { Err(Counter::DropMalformedRtp) } else { Ok(len) }
}

/// Reception statistics for the receiver reports.
///
/// The counts are exact. The jitter and the last arrival are not guarded against two CPUs that serve
/// one SSRC at once: such packets were reordered anyway.
#[inline(always)]
pub fn account(state: *mut PublisherState, track: &PublisherTrack, rtp: &Rtp, opened: &Opened, now_ns: u64) {
    counters::add(Counter::Opened, 1);
    counters::add(Counter::OpenedBytes, opened.payload_len as u64);
    let timestamp = rtp.header.timestamp();
    // SAFETY: `state` is a map value that lives as long as this program; all fields are integers.
    unsafe {
        shared_add(&raw mut (*state).packets, 1);
        shared_add(&raw mut (*state).octets, opened.payload_len as u64);
        let (last_ns, last_timestamp) = (*addr_of!((*state).last_arrival_ns), *addr_of!((*state).last_timestamp));
        if last_ns != 0 {
            let elapsed = now_ns.saturating_sub(last_ns);
            let difference = rtp::transit_difference(elapsed, timestamp.wrapping_sub(last_timestamp), track.clock_rate);
            let jitter = (*state).jitter_q4;
            // RFC 3550 §A.8, the integer form.
            (*state).jitter_q4 = jitter.wrapping_add(difference).wrapping_sub(jitter.wrapping_add(8) >> 4);
        }
        (*state).last_arrival_ns = now_ns;
        (*state).last_timestamp = timestamp;
    }
}
