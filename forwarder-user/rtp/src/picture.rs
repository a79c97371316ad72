//! How large a picture is: seen in the payload that begins a keyframe, or in the parameter sets before it.
//!
//! All of it comes from outside: each reader stops at the end of what is there, and does no more work than a payload
//! has bits.

use super::{
    bits::Bits,
    h264::H264,
    h265::H265,
    nal::{NalCodec, aggregate::Aggregate},
    sps, vp8,
};
use penstock_media::codec::Codec;

/// Width and height in pixels.
pub type Size = (u32, u32);

/// Larger than any picture of today: what says more is no size.
const LARGEST: u32 = 16_384;
/// Of a parameter set, the bytes that can matter here.
const ENOUGH: usize = 512;

/// The size of the picture that a payload tells of. `None`: it tells of none.
pub fn size(codec: Codec, payload: &[u8]) -> Option<Size> {
    let size = match codec {
        Codec::Vp8 => vp8_size(payload),
        Codec::Vp9 => vp9_size(payload),
        Codec::H264 => parameter_set::<H264>(payload, 7).and_then(sps::h264).map(|sps| (sps.width, sps.height)),
        Codec::H265 => parameter_set::<H265>(payload, 33).and_then(sps::h265_size),
        Codec::Av1 => av1_size(payload),
        Codec::Opus | Codec::Pcmu | Codec::Pcma | Codec::G722 => None,
    };
    size.filter(|(width, height)| (1..=LARGEST).contains(width) && (1..=LARGEST).contains(height))
}

/// RFC 6386 §9.1: the start code behind the frame tag, then width and height, 14 bits each.
fn vp8_size(payload: &[u8]) -> Option<Size> {
    let frame = vp8::data(payload).filter(|_| vp8::is_key(payload))?;
    let [_, _, _, 0x9d, 0x01, 0x2a, a, b, c, d] = *frame.first_chunk::<10>()? else { return None };
    Some((u32::from(u16::from_le_bytes([a, b]) & 0x3fff), u32::from(u16::from_le_bytes([c, d]) & 0x3fff)))
}

/// The first unit of this type, or what of it can matter here.
fn parameter_set<C: NalCodec>(payload: &[u8], kind: u8) -> Option<&[u8]> {
    let nal = units::<C>(payload).find(|nal| C::nal_type(nal) == kind)?;
    Some(nal.get(..ENOUGH).unwrap_or(nal))
}

/// The NAL units of a payload that are there as a whole, each with its header.
fn units<C: NalCodec>(payload: &[u8]) -> impl Iterator<Item = &[u8]> {
    let kind = payload.get(..C::HEADER).map(C::nal_type);
    let behind = payload.get(C::HEADER..).filter(|_| kind == Some(C::AGGREGATE));
    let several = behind.map(|units| Aggregate::<C>::new(units).units());
    let lone = kind.filter(|kind| *kind != C::AGGREGATE && *kind != C::FRAGMENT).map(|_| payload);
    several.into_iter().flatten().chain(lone)
}

/// RFC 9628 §4.2: by the scalability structure, else by the header of the frame that begins here.
fn vp9_size(payload: &[u8]) -> Option<Size> {
    let (first, mut rest) = payload.split_first()?;
    let has = |bit: u8| first & bit != 0;
    if has(0x80) && next(&mut rest)? & 0x80 != 0 {
        next(&mut rest)?;
    }
    if has(0x20) {
        next(&mut rest)?;
        if !has(0x10) {
            next(&mut rest)?;
        }
    }
    if has(0x10) && has(0x40) {
        // At most three references, each but the last with its lowest bit.
        for _ in 0..3 {
            if next(&mut rest)? & 1 == 0 {
                break;
            }
        }
    }
    if has(0x02) {
        let structure = next(&mut rest)?;
        if structure & 0x10 != 0 {
            let (sizes, _) = rest.split_at_checked(4 * (usize::from(structure >> 5) + 1))?;
            let [a, b, c, d] = *sizes.last_chunk()?;
            return Some((u16::from_be_bytes([a, b]).into(), u16::from_be_bytes([c, d]).into()));
        }
        if structure & 0x08 != 0 {
            for _ in 0..next(&mut rest)? {
                let references = next(&mut rest)? >> 2 & 3;
                rest = rest.get(usize::from(references)..)?;
            }
        }
    }
    // Not predicted from another picture, and its beginning.
    if has(0x40) || !has(0x08) { None } else { vp9_frame(rest) }
}

/// VP9 bitstream specification §6.2.
fn vp9_frame(frame: &[u8]) -> Option<Size> {
    const SYNC: u32 = 0x49_8342;
    const RGB: u32 = 7;
    let mut bits = Bits::new(frame);
    if bits.number(2)? != 2 {
        return None;
    }
    let profile = bits.bit()? | bits.bit()? << 1;
    bits.number(u32::from(profile == 3))?;
    // A frame that is there already, or no keyframe.
    if bits.bit()? == 1 || bits.bit()? == 1 {
        return None;
    }
    bits.number(2)?;
    if bits.number(24)? != SYNC {
        return None;
    }
    bits.number(u32::from(profile >= 2))?;
    let other = profile & 1;
    match bits.number(3)? {
        RGB => bits.number(other)?,
        _ => bits.number(1 + 3 * other)?,
    };
    Some((bits.number(16)? + 1, bits.number(16)? + 1))
}

/// AV1 RTP specification §4.4: the sequence header is the first unit of a coded video sequence.
fn av1_size(payload: &[u8]) -> Option<Size> {
    const SEQUENCE_HEADER: u8 = 1;
    let (aggregation, mut rest) = payload.split_first()?;
    if aggregation & 0x88 != 0x08 {
        return None;
    }
    // One unit alone has no length in front of it.
    if aggregation >> 4 & 3 != 1 {
        let len = leb128(&mut rest)?;
        rest = rest.get(..len)?;
    }
    let (header, mut rest) = rest.split_first()?;
    if header >> 3 & 15 != SEQUENCE_HEADER {
        return None;
    }
    if header & 4 != 0 {
        rest = rest.get(1..)?;
    }
    if header & 2 != 0 {
        leb128(&mut rest)?;
    }
    av1_sequence(&mut Bits::new(rest))
}

/// AV1 bitstream specification §5.5.1.
fn av1_sequence(bits: &mut Bits<'_>) -> Option<Size> {
    bits.number(4)?;
    if bits.bit()? == 1 {
        bits.number(5)?;
    } else {
        let mut delay_bits = None;
        if bits.bit()? == 1 {
            bits.number(32)?;
            bits.number(32)?;
            if bits.bit()? == 1 {
                bits.exp_golomb()?;
            }
            if bits.bit()? == 1 {
                delay_bits = Some(bits.number(5)? + 1);
                bits.number(32)?;
                bits.number(10)?;
            }
        }
        let has_display_delay = bits.bit()? == 1;
        for _ in 0..=bits.number(5)? {
            bits.number(12)?;
            if bits.number(5)? > 7 {
                bits.bit()?;
            }
            if let Some(len) = delay_bits
                && bits.bit()? == 1
            {
                bits.number(len)?;
                bits.number(len)?;
                bits.bit()?;
            }
            if has_display_delay && bits.bit()? == 1 {
                bits.number(4)?;
            }
        }
    }
    let (wide, high) = (bits.number(4)? + 1, bits.number(4)? + 1);
    Some((bits.number(wide)? + 1, bits.number(high)? + 1))
}

fn next(rest: &mut &[u8]) -> Option<u8> {
    let (byte, more) = rest.split_first()?;
    *rest = more;
    Some(*byte)
}

fn leb128(rest: &mut &[u8]) -> Option<usize> {
    let mut value = 0;
    for place in 0..4 {
        let byte = next(rest)?;
        value |= usize::from(byte & 0x7f) << (7 * place);
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Writes what `Bits` reads.
    #[derive(Default)]
    struct Writer(Vec<bool>);

    impl Writer {
        fn number(mut self, value: u32, bits: u32) -> Self {
            self.0.extend((0..bits).rev().map(|bit| value >> bit & 1 == 1));
            self
        }

        fn ue(self, value: u32) -> Self {
            let len = 32 - (value + 1).leading_zeros();
            self.number(0, len - 1).number(value + 1, len)
        }

        fn bytes(self) -> Vec<u8> {
            self.0
                .chunks(8)
                .map(|bits| bits.iter().enumerate().map(|(at, bit)| u8::from(*bit) << (7 - at)).sum())
                .collect()
        }
    }

    fn stap(nals: &[&[u8]]) -> Vec<u8> {
        let units = nals.iter().flat_map(|nal| [&(nal.len() as u16).to_be_bytes()[..], nal].concat());
        [0x78].into_iter().chain(units).collect()
    }

    /// x264, 1280×720 High; and what Chromium's OpenH264 makes of 640×360, 320×180 and 160×90.
    const SPS: [(&[u8], Size); 2] = [
        (
            &[
                0x67, 0x64, 0x00, 0x1f, 0xac, 0xd9, 0x40, 0x50, 0x05, 0xbb, 0x01, 0x10, 0x00, 0x00, 0x03, 0x00, 0x10,
                0x00, 0x00, 0x03, 0x03, 0xc0, 0xf1, 0x83, 0x19, 0x60,
            ],
            (1280, 720),
        ),
        (&[0x67, 0x42, 0xc0, 0x1f, 0x8c, 0x8d, 0x40, 0x50, 0x17, 0xfc, 0xb0, 0x0f, 0x08, 0x84, 0x6a], (640, 360)),
    ];

    #[test]
    fn h264_by_its_parameter_set() {
        for (sps, size) in SPS {
            assert_eq!(super::size(Codec::H264, sps), Some(size), "alone");
            assert_eq!(super::size(Codec::H264, &stap(&[sps, &[0x68, 1], &[0x65, 1]])), Some(size), "with others");
            for len in 0..8 {
                assert_eq!(super::size(Codec::H264, &sps[..len]), None);
            }
        }
        // Baseline, 30 by 17 macroblocks of fields, cropped by 4 rows: units of two lines.
        let sps =
            Writer::default().number(0x67, 8).number(66, 8).number(0xe0_1f, 16).ue(0).ue(0).ue(2).ue(1).number(0, 1);
        let sps = sps.ue(29).ue(8).number(0b001, 3).number(1, 1).ue(0).ue(0).ue(0).ue(1).bytes();
        assert_eq!(super::size(Codec::H264, &sps), Some((480, 288 - 4)));
        assert_eq!(super::size(Codec::H264, &[0x65, 0x88, 0x84]), None);
    }

    #[test]
    fn h265_by_its_parameter_set() {
        for layers in [0, 2] {
            let mut sps = Writer::default().number(33 << 9 | 1, 16).number(0, 4).number(layers, 3).number(1, 1);
            sps = sps.number(0x0160_0000, 32).number(0, 32).number(0, 32);
            if layers > 0 {
                // The first has both, the second its level only.
                sps = sps.number(0b1101, 4).number(0, 2 * (8 - layers)).number(0, 32).number(0, 32).number(0, 32);
                sps = sps.number(0, 8);
            }
            let sps = sps.ue(0).ue(1).ue(1920).ue(1088).number(1, 1).ue(0).ue(0).ue(0).ue(4).number(0, 8).bytes();
            assert_eq!(size(Codec::H265, &sps), Some((1920, 1080)), "{layers}");
            let together = [&[48 << 1, 1][..], &(sps.len() as u16).to_be_bytes(), &sps].concat();
            assert_eq!(size(Codec::H265, &together), Some((1920, 1080)));
        }
    }

    #[test]
    fn vp8_by_its_keyframe() {
        let frame = [0x50, 1, 0, 0x9d, 0x01, 0x2a, 0xc0, 0x03, 0x1c, 0x42, 9];
        let with = |descriptor: &[u8], first: u8| [descriptor, &[first], &frame[1..]].concat();
        assert_eq!(size(Codec::Vp8, &with(&[0x10], 0x50)), Some((960, 540)));
        assert_eq!(size(Codec::Vp8, &with(&[0x90, 0xe0, 0x81, 2, 3, 4], 0x50)), Some((960, 540)));
        assert_eq!(size(Codec::Vp8, &with(&[0x10], 0x51)), None, "predicted");
        assert_eq!(size(Codec::Vp8, &with(&[0x00], 0x50)), None, "not its beginning");
    }

    #[test]
    fn vp9_by_its_keyframe_or_structure() {
        let frame = Writer::default().number(0b1000_0010, 8).number(0x49_8342, 24).number(0b0100, 4);
        let frame = frame.number(959, 16).number(539, 16).number(0, 4).bytes();
        let with = |descriptor: &[u8]| size(Codec::Vp9, &[descriptor, &frame].concat());
        assert_eq!(with(&[0x08]), Some((960, 540)));
        assert_eq!(with(&[0x88, 0x81, 2]), Some((960, 540)), "a picture number of 15 bits");
        assert_eq!(with(&[0xaa, 5, 1, 2, 0x08, 2, 0x04, 1, 0x00]), Some((960, 540)), "a group, without sizes");
        assert_eq!(with(&[0x48]), None, "predicted");
        let layers = [0x0a, 0x30, 1, 0xe0, 1, 14, 3, 0xc0, 2, 28, 1, 2];
        assert_eq!(size(Codec::Vp9, &layers), Some((960, 540)), "the largest of two");
        assert_eq!(size(Codec::Vp9, &layers[..9]), None);
    }

    #[test]
    fn av1_by_its_sequence_header() {
        let sequence = Writer::default().number(0, 5).number(0, 1).number(0, 1).number(0, 5).number(0, 12).number(8, 5);
        let sequence = sequence.number(0, 1).number(9, 4).number(9, 4).number(959, 10).number(539, 10).bytes();
        let unit = [&[1 << 3][..], &sequence].concat();
        let sized = [&[1 << 3 | 2, sequence.len() as u8][..], &sequence].concat();
        assert_eq!(size(Codec::Av1, &[&[0x18][..], &unit].concat()), Some((960, 540)));
        assert_eq!(size(Codec::Av1, &[&[0x28, unit.len() as u8][..], &unit, &[6 << 3, 1]].concat()), Some((960, 540)));
        assert_eq!(
            size(Codec::Av1, &[&[0x08, sized.len() as u8][..], &sized, &[1, 6 << 3]].concat()),
            Some((960, 540))
        );
        assert_eq!(size(Codec::Av1, &[&[0x10][..], &unit].concat()), None, "no new sequence");
        assert_eq!(size(Codec::Av1, &[0x28, 0xff, 0xff, 0xff, 0xff, 0xff]), None);
    }

    #[test]
    fn damaged_payloads_have_some_size_or_none() {
        let mut state = 1u64;
        let codecs = [Codec::Vp8, Codec::Vp9, Codec::H264, Codec::H265, Codec::Av1];
        for _ in 0..50_000 {
            let mut next = || {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (state >> 33) as u8
            };
            let mut payload: Vec<u8> = (0..usize::from(next()) / 4).map(|_| next()).collect();
            let firsts = [0x67, 0x78, 33 << 1, 48 << 1, 0x10, 0x08, 0x0a, 0x18];
            if let Some(first) = payload.first_mut() {
                *first = firsts[usize::from(next()) % firsts.len()];
            }
            for codec in codecs {
                let found = size(codec, &payload);
                assert!(found.is_none_or(|(width, height)| width <= LARGEST && height <= LARGEST));
            }
        }
    }
}
