//! RTP header view (RFC 3550 §5.1), the one parser of kernel and userspace.

/// Length of the fixed part of the header.
pub const FIXED_LEN: usize = 12;

/// Length of the AES-GCM tag behind the payload (RFC 7714 §6).
pub const TAG_LEN: usize = 16;

/// The fixed part of an RTP header.
///
/// Held in 64-bit words because the BPF stack takes aligned accesses only, and LLVM joins neighbours.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RtpHeader {
    /// V P X CC M PT, sequence number and timestamp, as one big-endian word.
    first: u64,
    ssrc: u64,
}

impl RtpHeader {
    /// From network byte order; nothing is checked.
    #[inline(always)]
    pub const fn new(b: &[u8; FIXED_LEN]) -> Self {
        Self {
            first: u64::from_be_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]]),
            ssrc: u32::from_be_bytes([b[8], b[9], b[10], b[11]]) as u64,
        }
    }

    /// Reads the header of `packet` and the length of header, CSRC list and extension together.
    ///
    /// `None`: not version 2, or shorter than the header announces.
    pub fn parse(packet: &[u8]) -> Option<(Self, usize)> {
        let header = Self::new(packet.first_chunk()?);
        if header.version() != 2 {
            return None;
        }
        let mut len = header.len_with_csrcs();
        if header.has_extension() {
            len += Self::extension_len(*packet.get(len..)?.first_chunk()?);
        }
        (packet.len() >= len).then_some((header, len))
    }

    /// 2 in every RTP packet.
    #[inline(always)]
    pub const fn version(&self) -> u8 {
        (self.first >> 62) as u8
    }

    /// Padding at the end of the payload; encrypted with it.
    #[inline(always)]
    pub const fn has_padding(&self) -> bool {
        self.first >> 61 & 1 == 1
    }

    /// An extension stands behind the CSRC list (RFC 3550 §5.3.1); copies go without it.
    #[inline(always)]
    pub const fn has_extension(&self) -> bool {
        self.first >> 60 & 1 == 1
    }

    /// Length of the fixed header and the CSRC list: where an extension starts.
    #[inline(always)]
    pub const fn len_with_csrcs(&self) -> usize {
        FIXED_LEN + 4 * (self.first >> 56 & 0x0f) as usize
    }

    /// Length of a header extension with these first four bytes, which it includes.
    #[inline(always)]
    pub const fn extension_len(start: [u8; 4]) -> usize {
        4 + 4 * u16::from_be_bytes([start[2], start[3]]) as usize
    }

    /// Last packet of a video frame, or first after silence (RFC 3551 §4.1).
    #[inline(always)]
    pub const fn marker(&self) -> bool {
        self.first >> 55 & 1 == 1
    }

    /// 0 to 127.
    #[inline(always)]
    pub const fn payload_type(&self) -> u8 {
        (self.first >> 48 & 0x7f) as u8
    }

    /// Low 16 bits of the index (RFC 3711 §3.3.1).
    #[inline(always)]
    pub const fn seq(&self) -> u16 {
        (self.first >> 32) as u16
    }

    /// In units of the codec's clock, from a random start.
    #[inline(always)]
    pub const fn timestamp(&self) -> u32 {
        self.first as u32
    }

    /// Host byte order.
    #[inline(always)]
    pub const fn ssrc(&self) -> u32 {
        self.ssrc as u32
    }

    /// The header as a copy has it: own payload type, sequence number, timestamp and SSRC, the same
    /// padding and marker, no CSRCs, no extension. In memory order, as three words.
    #[inline(always)]
    pub const fn copy_as(&self, payload_type: u8, seq: u16, timestamp: u32, ssrc: u32) -> [u32; 3] {
        /// V, P and M.
        const KEPT: u32 = 0xe080_0000;
        let first = (self.first >> 32) as u32 & KEPT | ((payload_type & 0x7f) as u32) << 16 | seq as u32;
        [first.to_be(), timestamp.to_be(), ssrc.to_be()]
    }
}

/// Header extensions with one byte in front of each element (RFC 8285 §4.2), and with two (§4.3): what the extension
/// begins with, in the second case but for its last four bits.
pub const ONE_BYTE: u16 = 0xbede;
/// See [`ONE_BYTE`].
pub const TWO_BYTES: u16 = 0x1000;

/// The element with this number of a packet's header extension (RFC 8285). The first one, if it stands there twice.
pub fn extension(packet: &[u8], number: u8) -> Option<&[u8]> {
    let (header, len) = RtpHeader::parse(packet)?;
    let start = header.has_extension().then_some(header.len_with_csrcs())?;
    let (profile, mut elements) = packet.get(start..len)?.split_first_chunk::<4>()?;
    let profile = u16::from_be_bytes([profile[0], profile[1]]);
    let long = profile & 0xfff0 == TWO_BYTES;
    if !long && profile != ONE_BYTE {
        return None;
    }
    while let [first, rest @ ..] = elements {
        // Padding stands alone.
        if *first == 0 {
            elements = rest;
            continue;
        }
        let (id, len, rest) = match long {
            true => rest.split_first().map(|(len, rest)| (*first, usize::from(*len), rest))?,
            // 15 ends the list.
            false if first >> 4 == 15 => return None,
            false => (first >> 4, usize::from(first & 15) + 1, rest),
        };
        let (value, rest) = rest.split_at_checked(len)?;
        if id == number {
            return Some(value);
        }
        elements = rest;
    }
    None
}

/// |D(i-1, i)| of RFC 3550 §6.4.1 in RTP clock units, at most a minute's worth of time.
#[inline(always)]
pub const fn transit_difference(elapsed_ns: u64, timestamp_step: u32, clock_rate: u32) -> u32 {
    const MINUTE_NS: u64 = 60_000_000_000;
    let elapsed_ns = if elapsed_ns > MINUTE_NS { MINUTE_NS } else { elapsed_ns };
    let elapsed = (elapsed_ns * clock_rate as u64 / 1_000_000_000) as u32;
    let difference = elapsed.wrapping_sub(timestamp_step);
    if difference >> 31 == 1 { difference.wrapping_neg() } else { difference }
}

/// What a UDP payload on a WebRTC port is, by its first bytes (RFC 7983 §7, RFC 5761 §4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// First byte 0 to 3.
    Stun,
    /// First byte 20 to 63.
    Dtls,
    /// First byte 128 to 191, and a packet type of which the low 7 bits are 64 to 95; SRTCP too.
    Rtcp,
    /// First byte 128 to 191, all other second bytes; SRTP too.
    Rtp,
    /// TURN channels, ZRTP, or no WebRTC at all.
    Other,
}

/// Sorts a UDP payload. `second` is asked for only where the first byte does not decide.
#[inline(always)]
pub const fn protocol(first: u8, second: u8) -> Protocol {
    match first {
        0..=3 => Protocol::Stun,
        20..=63 => Protocol::Dtls,
        128..=191 => match second & 0x7f {
            64..=95 => Protocol::Rtcp,
            _ => Protocol::Rtp,
        },
        _ => Protocol::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PACKET: [u8; 28] = [
        0xb1, 0xe0, 0x12, 0x34, 1, 2, 3, 4, 5, 6, 7, 8, // V=2 P X CC=1, M PT=96
        9, 9, 9, 9, // CSRC
        0xbe, 0xde, 0, 1, 0x10, 0xff, 0, 0, // extension of one word
        0xaa, 0xbb, 0xcc, 1,
    ];

    #[test]
    fn fields_and_length() {
        let (header, len) = RtpHeader::parse(&PACKET).unwrap();
        assert_eq!(len, 24);
        assert!(header.has_padding() && header.has_extension() && header.marker());
        assert_eq!((header.payload_type(), header.seq()), (96, 0x1234));
        assert_eq!((header.timestamp(), header.ssrc()), (0x0102_0304, 0x0506_0708));
    }

    #[test]
    fn copies_keep_padding_and_marker_only() {
        let (header, _) = RtpHeader::parse(&PACKET).unwrap();
        let words = header.copy_as(111, 0xabcd, 0x1122_3344, 0x5566_7788);
        let bytes: [u8; 12] = core::array::from_fn(|i| words[i / 4].to_ne_bytes()[i % 4]);
        assert_eq!(bytes, [0xa0, 0xef, 0xab, 0xcd, 0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88]);
    }

    #[test]
    fn truncation_anywhere_in_the_header_is_refused() {
        for len in 0..24 {
            assert_eq!(RtpHeader::parse(&PACKET[..len]), None, "{len} bytes");
        }
        assert!(RtpHeader::parse(&PACKET[..24]).is_some());
    }

    #[test]
    fn other_versions_are_refused() {
        for version in [0, 1, 3] {
            let mut packet = PACKET;
            packet[0] = packet[0] & 0x3f | version << 6;
            assert_eq!(RtpHeader::parse(&packet), None);
        }
    }

    #[test]
    fn elements_of_header_extensions() {
        let packet = |extension: &[u8]| {
            let mut packet = PACKET[..16].to_vec();
            packet.extend_from_slice(extension);
            packet
        };
        let one = packet(&[0xbe, 0xde, 0, 3, 0x10, 0xff, 0, 0x31, 7, 8, 0, 0x40, b'f', 0xf0, 0x50, 1]);
        assert_eq!(extension(&one, 1), Some(&[0xff][..]));
        assert_eq!((extension(&one, 3), extension(&one, 4)), (Some(&[7, 8][..]), Some(&b"f"[..])));
        assert_eq!((extension(&one, 2), extension(&one, 5)), (None, None), "15 ends the list");
        let two = packet(&[0x10, 0x05, 0, 2, 0, 20, 2, 7, 8, 3, 0, 0]);
        assert_eq!((extension(&two, 20), extension(&two, 3)), (Some(&[7, 8][..]), Some(&[][..])));
        // An element that is longer than what is there, another profile, none at all.
        assert_eq!(extension(&packet(&[0xbe, 0xde, 0, 1, 0x1f, 0, 0, 0]), 1), None);
        assert_eq!(extension(&packet(&[0xbe, 0xdf, 0, 1, 0x10, 1, 0, 0]), 1), None);
        assert_eq!(extension(&[0x80; 12], 0), None);
        for len in 0..one.len() {
            assert_eq!(extension(&one[..len], 1), None, "{len} bytes");
        }
    }

    #[test]
    fn rfc_7983_ranges() {
        for first in 0..=255 {
            let expected = match first {
                0..4 => Protocol::Stun,
                20..64 => Protocol::Dtls,
                128..192 => Protocol::Rtp,
                _ => Protocol::Other,
            };
            assert_eq!(protocol(first, 96), expected);
        }
        for second in 0..=255 {
            let rtcp = (64..96).contains(&(second & 0x7f));
            assert_eq!(protocol(0x80, second), if rtcp { Protocol::Rtcp } else { Protocol::Rtp });
        }
    }
}
