//! What both engines need to send a packet again: what it becomes for one subscriber, and memory for packets that
//! may be asked for.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use forwarder_common::{Counter, ExtendedSeq, RtpHeader, rtp::FIXED_LEN};
use penstock_srtp::cipher::Cipher;

use crate::{Keep, NewSubscriberTrack, RtxSource};

/// How long a packet may be asked for. Two round trips of 200 ms and what a viewer waits before it asks lie within;
/// a picture that is later than this is no picture of the present.
pub const HOLD: Duration = Duration::from_secs(1);

/// How much of what it forwards an engine keeps.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Of all tracks together.
    pub memory: Arc<Memory>,
    /// Of one track, in bytes. 0: nothing is kept.
    pub track: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self { memory: Arc::new(Memory::new(64 << 20)), track: 1 << 20 }
    }
}

impl Settings {
    /// What a track keeps that has no keyframe cache.
    pub fn last(&self) -> Keep {
        Keep { group: 0, recent: self.track }
    }

    /// Nothing is kept.
    pub fn none() -> Self {
        Self { memory: Arc::new(Memory::new(0)), track: 0 }
    }
}

/// Memory for packets that may be asked for, of all tracks and engines together.
pub struct Memory {
    limit: usize,
    used: AtomicUsize,
    refused: AtomicU64,
}

impl Memory {
    /// So many bytes.
    pub fn new(limit: usize) -> Self {
        Self { limit, used: AtomicUsize::new(0), refused: AtomicU64::new(0) }
    }

    /// Takes so many bytes; `false`, and counted, if there are no more.
    pub fn take(&self, bytes: usize) -> bool {
        let taken =
            self.used.fetch_update(Relaxed, Relaxed, |used| used.checked_add(bytes).filter(|used| *used <= self.limit));
        if taken.is_err() {
            self.refuse();
        }
        taken.is_ok()
    }

    /// Gives back what was taken.
    pub fn give(&self, bytes: usize) {
        self.used.fetch_sub(bytes, Relaxed);
    }

    /// Counts that there were no more.
    pub fn refuse(&self) {
        self.refused.fetch_add(1, Relaxed);
    }

    /// All bytes.
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// Bytes that are taken.
    pub fn used(&self) -> usize {
        self.used.load(Relaxed)
    }

    /// How often there were no more.
    pub fn refused(&self) -> u64 {
        self.refused.load(Relaxed)
    }
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} bytes", self.used(), self.limit)
    }
}

/// What an incoming packet becomes for one subscriber: a function of the packet and of what is fixed for the
/// life of the subscriber's track. `copy_as` and the offsets are those of `forwarder-ebpf/src/egress.rs`.
pub struct Outgoing {
    /// Under which the copy is sealed.
    pub index: ExtendedSeq,
    /// The copy's.
    pub timestamp: u32,
    incoming: RtpHeader,
    header: [u32; 3],
    ssrc: u32,
}

impl Outgoing {
    /// Of the packet with this incoming index. `index_offset`: outgoing minus incoming index, wrapping; `first_in`:
    /// first incoming index that is for the subscriber.
    ///
    /// # Errors
    /// It is not for this subscriber.
    pub fn new(
        track: &NewSubscriberTrack,
        (index_offset, first_in): (u64, u64),
        index: ExtendedSeq,
        header: &RtpHeader,
    ) -> Result<Self, Counter> {
        if index.0 < first_in {
            return Err(Counter::DropBeforeJoin);
        }
        let index = ExtendedSeq(index.0.wrapping_add(index_offset));
        if index > ExtendedSeq::MAX {
            return Err(Counter::DropInternalEgress);
        }
        let timestamp = header.timestamp().wrapping_add(track.timestamp_offset);
        let out = header.copy_as(track.payload_type, index.seq(), timestamp, track.ssrc);
        Ok(Self { index, timestamp, incoming: *header, header: out, ssrc: track.ssrc })
    }

    /// Fills `room`, which is as long as the packet. `false`: it is not.
    pub fn write(&self, cipher: &Cipher, payload: &[u8], room: &mut [u8]) -> bool {
        write_header(room, self.header);
        cipher.seal_rtp(room, FIXED_LEN, payload, self.ssrc, self.index)
    }

    /// The packet once more: by the source for repairs where the viewer has one, else the same bytes.
    ///
    /// The caller answers for it that header and payload are those that were sealed under this index before.
    pub fn again(&self, cipher: &Cipher, payload: &[u8], rtx: Option<&mut RtxSource>) -> Option<Vec<u8>> {
        let Some(rtx) = rtx else {
            let mut room = vec![0; FIXED_LEN + payload.len() + cipher.tag_len()];
            return self.write(cipher, payload, &mut room).then_some(room);
        };
        // RFC 4588 §4: the sequence number that the packet had, then its payload.
        let payload = [&self.index.seq().to_be_bytes(), payload].concat();
        let index = rtx.take()?;
        let mut room = vec![0; FIXED_LEN + payload.len() + cipher.tag_len()];
        write_header(&mut room, self.incoming.copy_as(rtx.payload_type(), index.seq(), self.timestamp, rtx.ssrc()));
        cipher.seal_rtp(&mut room, FIXED_LEN, &payload, rtx.ssrc(), index).then_some(room)
    }
}

/// What a publisher has sent again by RTX, as it was (RFC 4588 §4), but without extensions and padding: header and
/// payload. `of`: payload type and SSRC of the media. `None`: it carries no packet (padding, a probe).
pub fn unwrap<'a>(header: &RtpHeader, payload: &'a [u8], of: (u8, u32)) -> Option<(RtpHeader, &'a [u8])> {
    let padding = if header.has_padding() { usize::from(*payload.last()?) } else { 0 };
    let payload = payload.get(..payload.len().checked_sub(padding)?)?;
    let (seq, payload) = payload.split_first_chunk()?;
    let mut bytes = [0; FIXED_LEN];
    write_header(&mut bytes, header.copy_as(of.0, u16::from_be_bytes(*seq), header.timestamp(), of.1));
    bytes[0] &= !0x20;
    (!payload.is_empty()).then(|| (RtpHeader::new(&bytes), payload))
}

/// Part of the table of incoming tracks that repairs leave to media.
const FOR_MEDIA: usize = 4;

/// Is there room for another SSRC of repairs in a table of so many, of which so many are taken?
pub fn has_room(taken: usize, limit: usize) -> bool {
    taken < limit - limit / FOR_MEDIA
}

/// What came of publishers' repairs.
#[derive(Debug, Default)]
pub struct Repairs {
    /// Took the way of what they repair.
    pub unwrapped: AtomicU64,
    /// What they carry had come already, or is too old; or they carry nothing.
    pub useless: AtomicU64,
    /// Beyond what one track may have in a second, or the kernel did not take them.
    pub refused: AtomicU64,
}

impl Repairs {
    /// By name.
    pub fn list(&self) -> [(&'static str, u64); 3] {
        [
            ("repairs_unwrapped", self.unwrapped.load(Relaxed)),
            ("repairs_useless", self.useless.load(Relaxed)),
            ("repairs_refused", self.refused.load(Relaxed)),
        ]
    }
}

fn write_header(room: &mut [u8], header: [u32; 3]) {
    for (place, word) in room.chunks_exact_mut(4).zip(header) {
        place.copy_from_slice(&word.to_ne_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Dscp, Kind, MediaKey, Profile};

    fn track() -> NewSubscriberTrack {
        NewSubscriberTrack {
            ssrc: 0x1234_5678,
            kind: Kind::Video,
            payload_type: 96,
            next_out: ExtendedSeq(70_000),
            timestamp_offset: 1000,
            index_offset: None,
            dscp: Dscp::default(),
        }
    }

    fn cipher() -> Cipher {
        let key = MediaKey { profile: Profile::AeadAes128Gcm, key: vec![3; 16], salt: [7; 14], auth_key: Vec::new() };
        Cipher::new(&key).unwrap()
    }

    /// RFC 4588 §4: own SSRC, sequence and payload type; timestamp and marker of the original, whose sequence number
    /// stands before its payload.
    #[test]
    fn a_repair_by_rtx_carries_the_original() {
        let header = RtpHeader::new(&[0x90, 0xe1, 0, 5, 0, 0, 0, 9, 1, 2, 3, 4]);
        let out = Outgoing::new(&track(), (70_000 - 5, 5), ExtendedSeq(5), &header).unwrap();
        let mut rtx = RtxSource::new(0x8765_4321, 97, ExtendedSeq(0xffff));
        let (cipher, mut seen) = (cipher(), vec![]);
        for index in [0xffff, 0x1_0000] {
            let mut packet = out.again(&cipher, b"payload", Some(&mut rtx)).unwrap();
            seen.push(packet.clone());
            assert_eq!(cipher.open_rtp(&mut packet, 12, 0x8765_4321, ExtendedSeq(index)), Some(9));
            let (read, len) = RtpHeader::parse(&packet).unwrap();
            assert_eq!((len, read.ssrc(), read.payload_type()), (12, 0x8765_4321, 97));
            assert_eq!((read.seq(), read.timestamp(), read.marker()), (index as u16, 1009, true));
            assert_eq!(&packet[12..21], [&70_000u64.to_be_bytes()[6..], b"payload"].concat());
        }
        assert_ne!(seen[0], seen[1], "an index of its own each time");
    }

    #[test]
    fn what_a_publisher_sends_again_is_what_it_was() {
        let header = |first: u8| RtpHeader::new(&[first, 0xe1, 0, 5, 0, 0, 0, 9, 1, 2, 3, 4]);
        let (was, payload) = unwrap(&header(0x90), &[0xff, 0xfe, 7, 8], (96, 0x0506_0708)).unwrap();
        assert_eq!((was.payload_type(), was.seq(), was.timestamp(), was.ssrc()), (96, 0xfffe, 9, 0x0506_0708));
        assert!(was.marker() && !was.has_extension());
        assert_eq!(payload, [7, 8]);
        let (was, payload) = unwrap(&header(0xa0), &[0, 1, 7, 0, 0, 3], (96, 5)).unwrap();
        assert_eq!((was.has_padding(), payload), (false, &[7][..]));
        // Padding alone, more of it than there is, no sequence number, nothing behind it.
        for nothing in [&[0, 0, 3][..], &[0, 200], &[0, 1, 1], &[]] {
            assert_eq!(unwrap(&header(0xa0), nothing, (96, 5)), None);
        }
        assert_eq!(unwrap(&header(0x80), &[0, 1], (96, 5)), None);
        assert!(has_room(191, 256) && !has_room(192, 256));
    }

    #[test]
    fn without_rtx_the_bytes_are_the_same() {
        let header = RtpHeader::new(&[0x80, 0x61, 0, 5, 0, 0, 0, 9, 1, 2, 3, 4]);
        let out = Outgoing::new(&track(), (70_000 - 5, 5), ExtendedSeq(5), &header).unwrap();
        let mut first = vec![0; 12 + 7 + 16];
        assert!(out.write(&cipher(), b"payload", &mut first));
        assert_eq!(out.again(&cipher(), b"payload", None), Some(first));
        assert!(Outgoing::new(&track(), (0, 5), ExtendedSeq(4), &header).is_err(), "before it joined");
    }

    #[test]
    fn an_index_for_repairs_is_given_once_and_they_end_with_the_key() {
        let mut rtx = RtxSource::new(1, 97, ExtendedSeq(ExtendedSeq::MAX.0 - 1));
        let taken: Vec<_> = std::iter::from_fn(|| rtx.take()).collect();
        assert_eq!(taken, [ExtendedSeq(ExtendedSeq::MAX.0 - 1), ExtendedSeq::MAX]);
    }

    #[test]
    fn memory_is_taken_up_to_its_limit() {
        let memory = Memory::new(100);
        assert!(memory.take(60) && !memory.take(41) && memory.take(40));
        memory.give(60);
        assert_eq!((memory.used(), memory.refused()), (40, 1));
        assert!(!memory.take(usize::MAX));
    }
}
