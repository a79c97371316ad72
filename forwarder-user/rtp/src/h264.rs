//! H.264 in RTP (RFC 6184).

use super::{
    bits::Bits,
    nal::{Begin, Class, NalCodec},
    sps::{self, Sps},
};

/// See the module.
pub(crate) struct H264;

impl NalCodec for H264 {
    const HEADER: usize = 1;
    /// SPS, PPS.
    const SETS: usize = 2;
    const SPS: usize = 0;
    /// STAP-A, with the highest reference priority.
    const AGGREGATE: u8 = 24;
    const FRAGMENT: u8 = 28;
    /// STAP-B and FU-B.
    const NUMBERED: Option<(u8, u8)> = Some((25, 29));
    const AGGREGATE_HEADER: &'static [u8] = &[0x78];
    const FILLER: &'static [u8] = &[0x0c, 0xff, 0x80];
    const DELIMITER: u8 = 9;

    fn nal_type(header: &[u8]) -> u8 {
        header[0] & 0x1f
    }

    fn class(nal_type: u8) -> Class {
        match nal_type {
            7 => Class::Set(0),
            8 => Class::Set(1),
            5 => Class::Key,
            1..=4 => Class::Slice,
            6 | 9 | 13..=18 => Class::Lead,
            10..=12 | 19..=23 => Class::Trail,
            // MTAPs need packetization mode 2, which no camera was seen to use.
            _ => Class::Invalid,
        }
    }

    fn can_begin(bytes: &[u8]) -> bool {
        bytes.first().is_some_and(|first| first & 0x80 == 0 && matches!(first & 0x1f, 1..=12))
    }

    fn fragment_header(nal_header: &[u8]) -> [u8; 3] {
        [nal_header[0] & 0xe0 | Self::FRAGMENT, nal_header[0] & 0x1f, 0]
    }

    fn nal_header(fragment: &[u8]) -> [u8; 2] {
        [fragment[0] & 0xe0 | fragment[1] & 0x1f, 0]
    }

    /// `first_mb_in_slice` and `slice_type` are the first numbers of the slice header (H.264 §7.3.3).
    fn begin(nal: &[u8]) -> Begin {
        // The parts B and C of a slice have other numbers there.
        if matches!(nal.first().map(|first| first & 0x1f), Some(3 | 4)) {
            return Begin { first: false, b: false };
        }
        // No emulation prevention byte can stand so early.
        let mut bits = Bits::new(nal.get(1..).unwrap_or_default());
        let first_mb = bits.exp_golomb();
        let slice_type = first_mb.and_then(|_| bits.exp_golomb());
        Begin { first: first_mb == Some(0), b: matches!(slice_type, Some(1 | 6)) }
    }

    fn may_step_back(begin: Begin, _sps: Option<Sps>) -> bool {
        begin.b
    }

    fn read_sps(nal: &[u8]) -> Option<Sps> {
        sps::h264(nal)
    }
}

/// `profile-level-id` of an SPS, as SDP writes it.
pub fn profile_level_id(sps: &[u8]) -> Option<String> {
    let [header, profile, constraints, level] = *sps.first_chunk()?;
    (H264::class(header & 0x1f) == Class::Set(0)).then(|| format!("{profile:02x}{constraints:02x}{level:02x}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_begin_of_a_slice() {
        // first_mb 0 and slice type 7 (I), 5 (P), 6 (B); then first_mb 1; then a part B.
        for (nal, first, b) in [
            (&[0x65, 0b1000_1000, 9][..], true, false),
            (&[0x41, 0b1001_1000, 9], true, false),
            (&[0x01, 0b1001_1100, 9], true, true),
            (&[0x41, 0b0100_1100, 9], false, false),
            (&[0x43, 0b1001_1100, 9], false, false),
            (&[0x41], false, false),
        ] {
            assert_eq!(H264::begin(nal), Begin { first, b }, "{nal:x?}");
        }
    }

    #[test]
    fn the_profile_of_an_sps() {
        assert_eq!(profile_level_id(&[0x67, 0x42, 0xe0, 0x1f, 1, 2]).as_deref(), Some("42e01f"));
        assert_eq!(profile_level_id(&[0x68, 0xce, 3, 1]), None);
        assert_eq!(profile_level_id(&[0x67, 0x42]), None);
    }
}
