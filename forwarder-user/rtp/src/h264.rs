//! H.264 in RTP (RFC 6184).

use super::nal::{Class, NalCodec};

/// See the module.
pub(crate) struct H264;

impl NalCodec for H264 {
    const HEADER: usize = 1;
    /// SPS, PPS.
    const SETS: usize = 2;
    /// STAP-A, with the highest reference priority.
    const AGGREGATE: u8 = 24;
    const FRAGMENT: u8 = 28;
    const AGGREGATE_HEADER: &'static [u8] = &[0x78];

    fn nal_type(header: &[u8]) -> u8 {
        header[0] & 0x1f
    }

    fn class(nal_type: u8) -> Class {
        match nal_type {
            7 => Class::Set(0),
            8 => Class::Set(1),
            5 => Class::Key,
            1..=4 => Class::Slice,
            6 | 9..=23 => Class::Other,
            // STAP-B, MTAPs and FU-B need packetization mode 2, which no camera was seen to use.
            _ => Class::Invalid,
        }
    }

    fn fragment_header(nal_header: &[u8]) -> [u8; 3] {
        [nal_header[0] & 0xe0 | Self::FRAGMENT, nal_header[0] & 0x1f, 0]
    }

    fn nal_header(fragment: &[u8]) -> [u8; 2] {
        [fragment[0] & 0xe0 | fragment[1] & 0x1f, 0]
    }

    /// `slice_type` is the second number of the slice header (H.264 §7.3.3).
    fn is_b_slice(nal: &[u8]) -> bool {
        let mut bits = Bits { bytes: nal.get(1..).unwrap_or_default(), at: 0 };
        let slice_type = bits.exp_golomb().and_then(|_first_mb| bits.exp_golomb());
        matches!(slice_type, Some(1 | 6))
    }
}

/// `profile-level-id` of an SPS, as SDP writes it.
pub fn profile_level_id(sps: &[u8]) -> Option<String> {
    let [header, profile, constraints, level] = *sps.first_chunk()?;
    (H264::class(header & 0x1f) == Class::Set(0)).then(|| format!("{profile:02x}{constraints:02x}{level:02x}"))
}

/// Reads bit by bit: of a slice header its first, where no emulation prevention byte can stand yet.
pub(crate) struct Bits<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Bits<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// An unsigned number of so many bits, at most 32.
    pub(crate) fn number(&mut self, bits: u32) -> Option<u32> {
        (0..bits).try_fold(0, |value, _| Some(value << 1 | self.bit()?))
    }

    pub(crate) fn bit(&mut self) -> Option<u32> {
        let byte = self.bytes.get(self.at / 8)?;
        let bit = byte >> (7 - self.at % 8) & 1;
        self.at += 1;
        Some(bit.into())
    }

    /// ue(v) of H.264 §9.1.
    pub(crate) fn exp_golomb(&mut self) -> Option<u32> {
        let mut zeros = 0;
        while self.bit()? == 0 {
            zeros += 1;
            if zeros > 24 {
                return None;
            }
        }
        let mut value = 1;
        for _ in 0..zeros {
            value = value << 1 | self.bit()?;
        }
        Some(value - 1)
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

    const SPS: &[u8] = &[0x67, 0x42, 0xe0, 0x1f, 1, 2];
    const PPS: &[u8] = &[0x68, 0xce, 3];
    /// first_mb 0, then slice type 7 (I) resp. 5 (P) resp. 6 (B).
    const IDR: &[u8] = &[0x65, 0b1000_1000, 9];
    const P: &[u8] = &[0x41, 0b1001_1000, 9];
    const B: &[u8] = &[0x01, 0b1001_1100, 9];

    fn from_sdp() -> Repacker<H264> {
        Repacker::new(&[SPS.to_vec(), PPS.to_vec()])
    }

    fn stap(nals: &[&[u8]]) -> Vec<u8> {
        let mut payload = vec![0x78];
        for nal in nals {
            payload.extend((nal.len() as u16).to_be_bytes());
            payload.extend_from_slice(nal);
        }
        payload
    }

    fn send(repacker: &mut Repacker<H264>, timestamp: u32, marker: bool, payload: &[u8]) -> Sent {
        let mut sent = vec![];
        repacker
            .packet(timestamp, marker, payload, &mut |marker, payload| sent.push((marker, payload.to_vec())))
            .unwrap();
        sent
    }

    #[test]
    fn parameter_sets_of_sdp_go_before_each_keyframe() {
        let mut repacker = from_sdp();
        for timestamp in [0, 9000] {
            let sent = send(&mut repacker, timestamp, true, IDR);
            assert_eq!(sent, [(false, stap(&[SPS, PPS])), (true, IDR.to_vec())]);
            assert_eq!(send(&mut repacker, timestamp + 3000, true, P), [(true, P.to_vec())]);
        }
    }

    #[test]
    fn parameter_sets_go_once_before_a_keyframe_of_several_packets() {
        let mut repacker = from_sdp();
        let start = [&[0x7c, 0x85][..], &IDR[1..]].concat();
        let end = [0x7c, 0x45, 1, 2];
        assert_eq!(send(&mut repacker, 0, false, &start).len(), 2);
        assert_eq!(send(&mut repacker, 0, true, &end), [(true, end.to_vec())]);
        assert_eq!(send(&mut repacker, 0, true, IDR).len(), 1, "another slice of the picture");
    }

    #[test]
    fn parameter_sets_in_band_are_kept_and_not_repeated() {
        let mut repacker = Repacker::<H264>::new(&[]);
        assert_eq!(send(&mut repacker, 0, true, SPS), [(false, SPS.to_vec())], "no end of a frame yet");
        send(&mut repacker, 0, false, PPS);
        assert_eq!(send(&mut repacker, 0, true, IDR), [(true, IDR.to_vec())]);
        let all = stap(&[&[0x09, 0xf0], SPS, PPS, IDR]);
        assert_eq!(send(&mut repacker, 3000, true, &all), [(true, all.clone())]);
        assert_eq!(send(&mut repacker, 6000, true, IDR)[0].1, stap(&[SPS, PPS]));
        let other = [0x68, 0xce, 4];
        send(&mut repacker, 9000, false, &stap(&[SPS, &other]));
        assert_eq!(send(&mut repacker, 12_000, true, IDR)[0].1, stap(&[SPS, &other]));
    }

    #[test]
    fn nothing_leaves_before_a_keyframe() {
        let mut repacker = from_sdp();
        let refuse = |repacker: &mut Repacker<H264>, timestamp| {
            repacker.packet(timestamp, true, P, &mut |_, _| panic!("sent")).unwrap_err()
        };
        assert_eq!(refuse(&mut repacker, 0), Unfit::BeforeKeyframe);
        send(&mut repacker, 3000, true, IDR);
        send(&mut repacker, 6000, true, P);
        repacker.restart();
        assert_eq!(refuse(&mut repacker, 9000), Unfit::BeforeKeyframe);
    }

    #[test]
    fn long_units_are_cut_into_fragments() {
        for len in [MAX_PAYLOAD, MAX_PAYLOAD + 1, 5000, 60_000] {
            let mut repacker = from_sdp();
            let nal: Vec<u8> = IDR.iter().copied().chain((0..len - 3).map(|i| i as u8)).collect();
            let sent = send(&mut repacker, 0, true, &nal);
            assert!(sent.iter().all(|(_, payload)| payload.len() <= MAX_PAYLOAD));
            let marked: Vec<bool> = sent.iter().map(|(marker, _)| *marker).collect();
            assert_eq!(marked.iter().filter(|marker| **marker).count(), 1);
            assert!(marked[sent.len() - 1]);
            assert_eq!(join_fragments::<H264>(&sent[1..]), [nal]);
        }
    }

    #[test]
    fn long_fragments_are_cut_again() {
        let mut repacker = from_sdp();
        let nal: Vec<u8> = IDR.iter().copied().chain((0..9000).map(|i| i as u8)).collect();
        let (first, rest) = nal[1..].split_at(4000);
        let (middle, last) = rest.split_at(3000);
        let mut sent = send(&mut repacker, 0, false, &[&[0x7c, 0x85], first].concat());
        sent.extend(send(&mut repacker, 0, false, &[&[0x7c, 0x05], middle].concat()));
        sent.extend(send(&mut repacker, 0, true, &[&[0x7c, 0x45], last].concat()));
        assert!(sent.iter().all(|(_, payload)| payload.len() <= MAX_PAYLOAD));
        assert_eq!(join_fragments::<H264>(&sent[1..]), [nal]);
    }

    #[test]
    fn long_aggregates_are_split() {
        let mut repacker = from_sdp();
        let slice: Vec<u8> = IDR.iter().copied().chain([7; 1300]).collect();
        let sent = send(&mut repacker, 0, true, &stap(&[SPS, PPS, &slice]));
        assert_eq!(sent[..2], [(false, SPS.to_vec()), (false, PPS.to_vec())]);
        assert_eq!(join_fragments::<H264>(&sent[2..]), [slice]);
        assert!(sent.last().unwrap().0);
    }

    #[test]
    fn b_frames_are_noticed_by_slice_type_and_by_timestamp() {
        let mut repacker = from_sdp();
        send(&mut repacker, 0, true, IDR);
        send(&mut repacker, 3000, true, P);
        assert!(!repacker.b_frames());
        send(&mut repacker, 6000, true, B);
        assert!(repacker.b_frames());
        let mut repacker = from_sdp();
        for timestamp in [0, 9000, 3000] {
            assert!(!repacker.b_frames());
            send(&mut repacker, timestamp, true, IDR);
        }
        assert!(repacker.b_frames());
    }

    #[test]
    fn malformed_and_unsupported_payloads_are_named() {
        let mut repacker = from_sdp();
        for (payload, why) in [
            (&[][..], Unfit::Malformed),
            (&[0x7c], Unfit::Malformed),
            (&[0x7c, 0x85], Unfit::Malformed),
            (&[0x78, 0, 200, 1], Unfit::Malformed),
            (&[0x78, 0], Unfit::Malformed),
            (&[0x78, 0, 0, 0, 0], Unfit::Malformed),
            (&[0x79, 0, 0, 0, 2, 0x65, 1], Unfit::Unsupported),
            (&[0x7d, 0x85, 0, 0, 1, 1], Unfit::Unsupported),
        ] {
            assert_eq!(repacker.packet(0, true, payload, &mut |_, _| ()), Err(why), "{payload:x?}");
        }
    }

    #[test]
    fn the_profile_of_an_sps() {
        assert_eq!(profile_level_id(SPS).as_deref(), Some("42e01f"));
        assert_eq!(profile_level_id(PPS), None);
        assert_eq!(profile_level_id(&[0x67, 0x42]), None);
    }
}
