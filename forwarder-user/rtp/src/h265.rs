//! H.265 in RTP (RFC 7798), without DON fields.

use super::{
    nal::{Begin, Class, NalCodec},
    sps::{self, Sps},
};

/// See the module.
pub(crate) struct H265;

impl NalCodec for H265 {
    const HEADER: usize = 2;
    /// VPS, SPS, PPS.
    const SETS: usize = 3;
    const SPS: usize = 1;
    const AGGREGATE: u8 = 48;
    const FRAGMENT: u8 = 49;
    const NUMBERED: Option<(u8, u8)> = None;
    /// Layer 0, temporal layer 1.
    const AGGREGATE_HEADER: &'static [u8] = &[48 << 1, 1];
    const FILLER: &'static [u8] = &[38 << 1, 1, 0xff, 0x80];
    const DELIMITER: u8 = 35;

    fn nal_type(header: &[u8]) -> u8 {
        header[0] >> 1 & 0x3f
    }

    fn class(nal_type: u8) -> Class {
        match nal_type {
            0..=15 | 22..=31 => Class::Slice,
            // BLA, IDR, CRA.
            16..=21 => Class::Key,
            32 => Class::Set(0),
            33 => Class::Set(1),
            34 => Class::Set(2),
            35 | 39 | 41..=44 => Class::Lead,
            36..=38 | 40 | 45..=47 => Class::Trail,
            // PACI (50) and what is reserved.
            _ => Class::Invalid,
        }
    }

    /// The temporal layer counts from 1.
    fn can_begin(bytes: &[u8]) -> bool {
        matches!(bytes, [first, rest @ ..] if first >> 1 <= 40 && rest.first().is_none_or(|second| second & 7 != 0))
    }

    fn fragment_header(nal_header: &[u8]) -> [u8; 3] {
        [nal_header[0] & 0x81 | Self::FRAGMENT << 1, nal_header[1], Self::nal_type(nal_header)]
    }

    fn nal_header(fragment: &[u8]) -> [u8; 2] {
        [fragment[0] & 0x81 | (fragment[2] & 0x3f) << 1, fragment[1]]
    }

    /// `first_slice_segment_in_pic_flag` is the first bit of the header (H.265 §7.3.6.1). Low-delay encoders make B
    /// slices that refer backwards only: the type of a slice says nothing.
    fn begin(nal: &[u8]) -> Begin {
        Begin { first: nal.get(2).is_some_and(|third| third & 0x80 != 0), b: false }
    }

    fn may_step_back(_begin: Begin, sps: Option<Sps>) -> bool {
        sps.and_then(|sps| sps.reordered) != Some(0)
    }

    fn read_sps(nal: &[u8]) -> Option<Sps> {
        sps::h265(nal)
    }
}
