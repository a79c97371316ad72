//! Packets that a publisher has sent lately, as the kernel engine keeps them for viewers who lose some.
//!
//! `STORES` is an array of chunks, arrays of [`CHUNK`] packets each. A track has some of them, one behind the other,
//! and uses them as a ring: the packet with index `i` lies at place `i % entries`. The program that opens a packet
//! writes it there once its tag was right and its index accepted; userspace reads it when a viewer asks.
//!
//! What is kept is the packet with its tag, as it came or decrypted in place, whichever the program had. So userspace
//! can tell whether it is the publisher's packet, to the last bit: it opens it, or seals it again and compares tags
//! ([`Stored::opened`]). A packet that is overwritten while somebody reads it fails that, and so does one that two
//! CPUs have written at once. Hence no lock, no atomics and no barriers here.

use crate::ExtendedSeq;

/// Packets of a chunk: 96 KB.
pub const CHUNK: usize = 64;

/// Room for one packet, from its RTP header to its tag. Longer ones are not kept.
pub const ROOM: usize = 1512;

/// Most chunks of a track are 2 to the power of this.
pub const MAX_CHUNKS_LOG: u32 = 7;

/// A packet. 1,536 bytes.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Stored {
    /// Its index and 1; 0: none.
    pub number: u64,
    /// When it came, ns of CLOCK_BOOTTIME.
    pub received_ns: u64,
    /// From the RTP header to the tag.
    pub len: u32,
    /// Not 0: the payload is in the clear.
    pub opened: u32,
    /// The first `len` count.
    pub bytes: [u8; ROOM],
}

/// [`Stored`] as bytes, the form in which userspace reads the map.
pub type StoredBytes = [u8; size_of::<Stored>()];

impl Stored {
    /// A copy of the map value.
    pub fn from_bytes(bytes: &StoredBytes) -> Self {
        // SAFETY: `repr(C)` of integers without padding, so every bit pattern is valid; the source need not be
        // aligned.
        unsafe { core::ptr::read_unaligned(bytes.as_ptr().cast()) }
    }

    /// The packet with this index, if it is this one.
    pub fn packet(&self, index: ExtendedSeq) -> Option<&[u8]> {
        if self.number == index.0 + 1 { self.bytes.get(..self.len as usize) } else { None }
    }
}

/// Which chunks a track has, in [`PublisherTrack::store`](crate::maps::PublisherTrack::store).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// The first one.
    pub first: u32,
    /// There are 2 to the power of this.
    pub chunks_log: u32,
}

impl Range {
    /// As one number, which is never 0.
    pub const fn pack(self) -> u32 {
        (self.first + 1) << 8 | self.chunks_log
    }

    /// Back; `None` of 0: the track keeps nothing.
    #[inline(always)]
    pub const fn unpack(number: u32) -> Option<Self> {
        if number == 0 { None } else { Some(Self { first: (number >> 8) - 1, chunks_log: number & 0xff }) }
    }

    /// Packets.
    #[inline(always)]
    pub const fn entries(self) -> u64 {
        (CHUNK as u64) << (self.chunks_log & 31)
    }

    /// Chunk, and place in it, of a packet.
    #[inline(always)]
    pub const fn place(self, index: u64) -> (u32, u32) {
        let place = index & (self.entries() - 1);
        (self.first + (place / CHUNK as u64) as u32, (place % CHUNK as u64) as u32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_as_documented() {
        assert_eq!(size_of::<Stored>(), 1536);
        assert_eq!(CHUNK * size_of::<Stored>(), 96 << 10);
        const { assert!(ROOM > crate::maps::MAX_PAYLOAD + crate::rtp::FIXED_LEN + crate::rtp::TAG_LEN + 28) };
    }

    #[test]
    fn each_index_of_a_ring_has_a_place_of_its_own() {
        let range = Range { first: 3, chunks_log: 2 };
        assert_eq!((Range::unpack(range.pack()), Range::unpack(0)), (Some(range), None));
        let mut taken = [[false; CHUNK]; 4];
        for index in 1000..1000 + range.entries() {
            let (chunk, place) = range.place(index);
            assert!(!core::mem::replace(&mut taken[chunk as usize - 3][place as usize], true), "{index}");
        }
        assert_eq!(range.entries(), 256);
        assert_eq!(range.place(1 << 40), range.place((1 << 40) + range.entries()));
    }

    #[test]
    fn a_packet_is_found_by_its_own_index_alone() {
        let mut stored = Stored { number: 6, received_ns: 1, len: 3, opened: 0, bytes: [7; ROOM] };
        assert_eq!(stored.packet(ExtendedSeq(5)), Some(&[7; 3][..]));
        assert_eq!(stored.packet(ExtendedSeq(6)), None);
        stored.len = ROOM as u32 + 1;
        assert_eq!(stored.packet(ExtendedSeq(5)), None, "more than there is room for");
    }
}
