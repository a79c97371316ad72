//! Where decoding can start: seen in the first bytes of a payload.

use super::{
    h264::H264,
    h265::H265,
    nal::{Class, NalCodec, aggregate::Aggregate},
    vp8,
};
use penstock_media::codec::Codec;

/// Whether a payload, as it leaves, belongs to a frame at which decoding can start. Parameter sets alone do not
/// say so: some cameras send them before every frame.
pub fn is_key(codec: Codec, payload: &[u8]) -> bool {
    match codec {
        Codec::H264 => has_key_slice::<H264>(payload),
        Codec::H265 => has_key_slice::<H265>(payload),
        Codec::Vp8 => vp8::is_key(payload),
        // RFC 9628 §4.2: not predicted from another picture (P), beginning of a frame (B).
        Codec::Vp9 => payload.first().is_some_and(|first| first & 0x48 == 0x08),
        // AV1 RTP specification §4.4: the first packet of a coded video sequence (N).
        Codec::Av1 => payload.first().is_some_and(|first| first & 0x08 != 0),
        Codec::Opus | Codec::Pcmu | Codec::Pcma | Codec::G722 => false,
    }
}

fn has_key_slice<C: NalCodec>(payload: &[u8]) -> bool {
    let Some(header) = payload.get(..C::HEADER) else { return false };
    let is_key = |header: &[u8]| C::class(C::nal_type(header)) == Class::Key;
    match C::nal_type(header) {
        t if t == C::AGGREGATE => Aggregate::<C>::new(payload.get(C::HEADER..).unwrap_or_default()).units().any(is_key),
        t if t == C::FRAGMENT => payload.len() > C::HEADER && is_key(&C::nal_header(payload)[..C::HEADER]),
        _ => is_key(header),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keyframes_by_codec() {
        let cases: [(Codec, &[u8], bool); 20] = [
            (Codec::H264, &[0x65, 1], true),
            (Codec::H264, &[0x41, 1], false),
            (Codec::H264, &[0x67, 1], false),
            // FU-A of an IDR slice, begin and middle, and of another.
            (Codec::H264, &[0x7c, 0x85, 1], true),
            (Codec::H264, &[0x7c, 0x05, 1], true),
            (Codec::H264, &[0x7c, 0x81, 1], false),
            // STAP-A: parameter sets alone, and with an IDR slice.
            (Codec::H264, &[0x78, 0, 1, 0x67, 0, 1, 0x68], false),
            (Codec::H264, &[0x78, 0, 1, 0x67, 0, 2, 0x65, 1], true),
            (Codec::H264, &[0x7c], false),
            (Codec::H265, &[19 << 1, 1, 9], true),
            (Codec::H265, &[1 << 1, 1, 9], false),
            (Codec::H265, &[49 << 1, 1, 0x80 | 20, 9], true),
            (Codec::H265, &[48 << 1, 1, 0, 3, 32 << 1, 1, 9, 0, 3, 19 << 1, 1, 9], true),
            // The frame header's first bit is 0 in a keyframe; a later packet of one has no header.
            (Codec::Vp8, &[0x10, 0x50, 1, 0], true),
            (Codec::Vp8, &[0x10, 0x51, 1, 0], false),
            (Codec::Vp8, &[0x00, 0x50, 1, 0], false),
            (Codec::Vp9, &[0x8c, 1, 2], true),
            (Codec::Vp9, &[0xcc, 1, 2], false),
            (Codec::Av1, &[0x18, 1], true),
            (Codec::Pcma, &[0x65, 1], false),
        ];
        for (codec, payload, key) in cases {
            assert_eq!(is_key(codec, payload), key, "{codec:?} {payload:x?}");
            assert!(!is_key(codec, &[]));
        }
    }
}
