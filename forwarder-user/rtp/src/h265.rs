//! H.265 in RTP (RFC 7798), without DON fields.

use super::nal::{Class, NalCodec};

/// See the module.
pub(crate) struct H265;

impl NalCodec for H265 {
    const HEADER: usize = 2;
    /// VPS, SPS, PPS.
    const SETS: usize = 3;
    const AGGREGATE: u8 = 48;
    const FRAGMENT: u8 = 49;
    /// Layer 0, temporal layer 1.
    const AGGREGATE_HEADER: &'static [u8] = &[48 << 1, 1];

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
            35..=47 => Class::Other,
            // PACI (50) and what is reserved.
            _ => Class::Invalid,
        }
    }

    fn fragment_header(nal_header: &[u8]) -> [u8; 3] {
        [nal_header[0] & 0x81 | Self::FRAGMENT << 1, nal_header[1], Self::nal_type(nal_header)]
    }

    fn nal_header(fragment: &[u8]) -> [u8; 2] {
        [fragment[0] & 0x81 | (fragment[2] & 0x3f) << 1, fragment[1]]
    }

    /// Low-delay encoders make B slices that refer backwards only: the type says nothing.
    fn is_b_slice(_nal: &[u8]) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        MAX_PAYLOAD, Unfit,
        nal::Repacker,
        testing::{Sent, join_fragments},
    };

    const VPS: &[u8] = &[32 << 1, 1, 0xa];
    const SPS: &[u8] = &[33 << 1, 1, 0xb];
    const PPS: &[u8] = &[34 << 1, 1, 0xc];
    const IDR: &[u8] = &[19 << 1, 1, 0xd];
    const TRAIL: &[u8] = &[1 << 1, 1, 0xe];

    fn send(repacker: &mut Repacker<H265>, timestamp: u32, payload: &[u8]) -> Sent {
        let mut sent = vec![];
        repacker
            .packet(timestamp, true, payload, &mut |marker, payload| sent.push((marker, payload.to_vec())))
            .unwrap();
        sent
    }

    fn from_sdp() -> Repacker<H265> {
        Repacker::new(&[VPS.to_vec(), SPS.to_vec(), PPS.to_vec()])
    }

    #[test]
    fn parameter_sets_go_before_a_keyframe() {
        let mut repacker = from_sdp();
        let sets = [&[96, 1][..], &[0, 3], VPS, &[0, 3], SPS, &[0, 3], PPS].concat();
        assert_eq!(send(&mut repacker, 0, IDR), [(false, sets), (true, IDR.to_vec())]);
        assert_eq!(send(&mut repacker, 3000, TRAIL), [(true, TRAIL.to_vec())]);
        for set in [VPS, SPS, PPS] {
            assert_eq!(send(&mut repacker, 6000, set), [(false, set.to_vec())]);
        }
        assert_eq!(send(&mut repacker, 6000, IDR).len(), 1);
    }

    #[test]
    fn long_units_and_fragments_are_cut() {
        let mut repacker = from_sdp();
        let nal: Vec<u8> = IDR.iter().copied().chain((0..5000).map(|i| i as u8)).collect();
        let sent = send(&mut repacker, 0, &nal);
        assert!(sent.iter().all(|(_, payload)| payload.len() <= MAX_PAYLOAD));
        assert_eq!(join_fragments::<H265>(&sent[1..])[0], nal);
        let (first, last) = nal[2..].split_at(2500);
        let mut sent = send(&mut repacker, 3000, &[&[98, 1, 0x80 | 19], first].concat());
        sent.extend(send(&mut repacker, 3000, &[&[98, 1, 0x40 | 19], last].concat()));
        assert_eq!(join_fragments::<H265>(&sent[1..]), [nal]);
    }

    #[test]
    fn nothing_leaves_before_a_keyframe_and_b_frames_show_by_time() {
        let mut repacker = from_sdp();
        assert_eq!(repacker.packet(0, true, TRAIL, &mut |_, _| ()), Err(Unfit::BeforeKeyframe));
        assert_eq!(repacker.packet(0, true, &[50 << 1, 1, 0, 0], &mut |_, _| ()), Err(Unfit::Unsupported));
        assert_eq!(repacker.packet(0, true, &[98, 1], &mut |_, _| ()), Err(Unfit::Malformed));
        send(&mut repacker, 0, IDR);
        send(&mut repacker, 9000, TRAIL);
        assert!(!repacker.b_frames());
        send(&mut repacker, 3000, TRAIL);
        assert!(repacker.b_frames());
    }
}
