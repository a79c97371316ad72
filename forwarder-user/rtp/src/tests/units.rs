//! NAL units, however they are packed.

use penstock_media::codec::Codec;

use super::*;
use crate::{
    MAX_PAYLOAD, Unfit,
    testing::{Bench, Frame, frames_h264, frames_h265, has_no_hole},
};

/// One frame of these payloads, the last one marked, and a frame behind it.
fn one_frame(payloads: &[&[u8]]) -> Frame {
    let mut bench = Bench::new(Codec::H264, &[]);
    for (at, payload) in payloads.iter().enumerate() {
        let _ = bench.push(0, at + 1 == payloads.len(), payload);
    }
    bench.push(3600, true, P).unwrap();
    let sent = bench.end();
    assert!(has_no_hole(&sent));
    let frames = frames_h264(&sent);
    assert_eq!(frames.len(), 2, "{frames:?}");
    assert!(frames.iter().all(|frame| frame.ended), "{frames:?}");
    frames[0].clone()
}

/// With start codes between them, of four bytes and of three.
fn annexb(nals: &[&[u8]]) -> Vec<u8> {
    let mut bytes = vec![];
    for (at, nal) in nals.iter().enumerate() {
        bytes.extend(if at % 2 == 0 { &[0, 0, 0, 1][..] } else { &[0, 0, 1] });
        bytes.extend_from_slice(nal);
    }
    bytes
}

#[test]
fn start_codes_anywhere() {
    let slice = long(IDR, 3000);
    let all = annexb(&[SPS, PPS, &slice]);
    let whole = vec![SPS.to_vec(), PPS.to_vec(), slice.clone()];
    assert!(one_frame(&[&all]).nals == whole, "as a payload");
    assert!(one_frame(&[&all[4..]]).nals == whole, "without the first");
    for size in [7, 100, 1000] {
        let parts = fragments(&all[4..], size);
        let parts: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
        assert!(one_frame(&parts).nals == whole, "in fragments of {size}");
    }
    assert!(one_frame(&[&annexb(&[SPS]), &annexb(&[PPS]), &slice]).nals == whole, "each by itself");
    assert!(one_frame(&[&stap(&[&annexb(&[SPS]), &annexb(&[PPS])]), &slice]).nals == whole, "in an aggregate");
    let zeros = [SPS, &[0, 0, 0]].concat();
    assert!(one_frame(&[&annexb(&[&zeros, PPS, &slice])]).nals == whole, "zeros behind");
}

#[test]
fn start_codes_between_slices_of_one_fragmented_unit() {
    let (first, second) = (long(IDR, 1500), long(IDR_2, 1500));
    let all = annexb(&[&first, &second]);
    for size in [499, 500, 750, 751, 800, 1100, 1499, 1500, 1501, 1502, 1503] {
        let parts = fragments(&all[4..], size);
        let mut payloads = vec![SPS, PPS];
        payloads.extend(parts.iter().map(Vec::as_slice));
        let mut frame = one_frame(&payloads);
        // Zeros behind a unit mean nothing.
        while frame.nals[2].last() == Some(&0) {
            frame.nals[2].pop();
        }
        assert!(frame.nals == [SPS.to_vec(), PPS.to_vec(), first.clone(), second.clone()], "{size}");
    }
}

#[test]
fn aggregates_with_bad_parts_cost_those_only() {
    let sets = vec![SPS.to_vec(), PPS.to_vec(), IDR.to_vec()];
    let good = stap(&[SPS, PPS, IDR]);
    assert_eq!(one_frame(&[&good]).nals, sets);
    assert_eq!(one_frame(&[&[&good[..], &[0, 0, 0, 0]].concat()]).nals, sets, "zeros behind");
    assert_eq!(one_frame(&[&[&good[..], &[0, 0, 0]].concat()]).nals, sets, "an odd zero");
    assert_eq!(one_frame(&[&[&good[..], &[0, 9, 1]].concat()]).nals, sets, "cut off");
    assert_eq!(one_frame(&[&stap(&[SPS, &[], PPS, IDR])]).nals, sets, "an empty one between");
    assert_eq!(one_frame(&[&stap(&[SPS, &[0xff, 1], PPS, IDR])]).nals, sets, "one of no type");
    assert_eq!(one_frame(&[&stap(&[&stap(&[SPS, PPS]), IDR])]).nals, sets, "one in another");
    let ended = one_frame(&[&stap(&[SPS, PPS, IDR, &[0x0a]])]);
    assert_eq!(ended.nals[..3], sets, "the end of a sequence is a byte");
    let numbered = [&[0x79, 0, 7][..], &good[1..]].concat();
    assert_eq!(one_frame(&[&numbered]).nals, sets, "STAP-B");
    let mut bench = Bench::new(Codec::H264, &[]);
    bench.push(0, true, &stap(&[SPS, &[0xff, 1], PPS, IDR])).unwrap();
    assert_eq!(bench.pipeline.take_bad(), 1);
}

#[test]
fn fragments_without_begin_end_or_either() {
    let slice = long(IDR, 3000);
    let sets = [SPS.to_vec(), PPS.to_vec()];
    let right = fragments(&slice, 1000);
    for (without, zeros) in [(0x80, 0), (0x40, 1), (0xc0, 1)] {
        let mut parts = right.clone();
        parts.iter_mut().for_each(|part| part[1] &= !without);
        let mut payloads = vec![SPS, PPS];
        payloads.extend(parts.iter().map(Vec::as_slice));
        let frame = one_frame(&payloads);
        assert_eq!(frame.nals[..2], sets);
        let joined = &frame.nals[2];
        assert_eq!(joined[..3000], slice, "{without:x}");
        assert!(joined[3000..].iter().all(|byte| *byte == 0) && joined.len() <= 3000 + zeros);
    }
    let both = [&[0x7c, 0xc5][..], &IDR[1..]].concat();
    assert_eq!(one_frame(&[SPS, PPS, &both]).nals[2], IDR, "a whole unit in one fragment");
    let mut numbered = right.clone();
    numbered[0] = [&[0x7d, numbered[0][1], 0, 1][..], &right[0][2..]].concat();
    let mut payloads = vec![SPS, PPS];
    payloads.extend(numbered.iter().map(Vec::as_slice));
    assert_eq!(one_frame(&payloads).nals[2], slice, "FU-B");
}

#[test]
fn what_stands_before_and_behind_slices() {
    let frame = one_frame(&[AUD, SPS, PPS, SEI, IDR]);
    assert_eq!(frame.nals, [AUD, SPS, PPS, SEI, IDR]);
    let repeated = one_frame(&[SPS, PPS, IDR, SPS, PPS, IDR_2]);
    assert_eq!(repeated.nals, [SPS, PPS, IDR, SPS, PPS, IDR_2], "sets between slices of one picture");
    let filled = one_frame(&[SPS, PPS, IDR, &[0x0c, 0xff, 0x80]]);
    assert_eq!(filled.nals.len(), 4, "marked filler");
    let behind = one_frame(&[SPS, PPS, IDR, SEI]);
    assert_eq!(behind.nals, [SPS, PPS, IDR, SEI], "marked SEI");
}

#[test]
fn parameter_sets_of_the_description_go_before_each_keyframe() {
    let sets: &[&[u8]] = &[&[&[0, 0, 0, 1][..], SPS].concat(), &[PPS, &[0]].concat()];
    let mut bench = Bench::new(Codec::H264, sets);
    for (timestamp, payload) in [(0, IDR), (3600, P), (7200, AUD), (7200, IDR), (10_800, P)] {
        bench.push(timestamp, payload != AUD, payload).unwrap();
        bench.wait(40);
    }
    let frames = frames_h264(&bench.end());
    assert_eq!(frames[0].nals, [SPS, PPS, IDR]);
    assert_eq!(frames[1].nals, [P]);
    assert_eq!(frames[2].nals, [AUD, SPS, PPS, IDR], "behind a delimiter");
    bench.push(14_400, true, &stap(&[SPS, &[0x68, 0xce, 4]])).unwrap();
    bench.push(14_400, true, IDR).unwrap();
    bench.push(18_000, true, IDR).unwrap();
    let frames = frames_h264(&bench.end());
    assert_eq!(frames[5].nals, [SPS, &[0x68, 0xce, 4], IDR], "the newest, and not those of the description");
}

#[test]
fn units_of_any_length_come_out_whole() {
    for len in [3, MAX_PAYLOAD, MAX_PAYLOAD + 1, 5000, 60_000] {
        let slice = long(IDR, len);
        assert_eq!(one_frame(&[SPS, PPS, &slice]).nals[2], slice);
        let aggregate = stap(&[SPS, PPS, &slice]);
        assert_eq!(one_frame(&[&aggregate]).nals[2], slice, "in an aggregate");
        let parts = fragments(&slice, 4000);
        let mut payloads = vec![SPS, PPS];
        payloads.extend(parts.iter().map(Vec::as_slice));
        assert_eq!(one_frame(&payloads).nals[2], slice, "in fragments");
    }
}

#[test]
fn nothing_leaves_before_a_keyframe() {
    let mut bench = Bench::new(Codec::H264, &[SPS, PPS]);
    assert_eq!(bench.push(0, true, &fragments(&long(IDR, 900), 500)[1]), Err(Unfit::Orphan), "a part");
    assert_eq!(bench.push(0, true, P), Err(Unfit::BeforeKeyframe));
    assert_eq!(bench.push(3600, false, &fragments(&long(P, 900), 500)[0]), Err(Unfit::BeforeKeyframe));
    assert_eq!(bench.push(3600, true, &fragments(&long(P, 900), 500)[1]), Err(Unfit::BeforeKeyframe));
    bench.push(7200, true, IDR).unwrap();
    assert_eq!(frames_h264(&bench.end()).len(), 1);
}

#[test]
fn what_is_no_unit_is_named() {
    let mut bench = Bench::new(Codec::H264, &[]);
    for (payload, why) in [
        (&[][..], Unfit::Empty),
        (&[0x7c], Unfit::Malformed),
        (&[0x7c, 0x85], Unfit::Empty),
        (&[0x78, 0, 200, 1], Unfit::Malformed),
        (&[0x78, 0], Unfit::Malformed),
        (&[0x78, 0, 0, 0, 0], Unfit::Malformed),
        (&[0x78], Unfit::Malformed),
        (&[0x79, 0], Unfit::Malformed),
        (&[0x7a, 0, 0, 0, 5, 0, 0, 0, 0x65, 1], Unfit::Unsupported),
        (&[0x7f, 1], Unfit::Unsupported),
        (&[0x00, 1], Unfit::Unsupported),
    ] {
        assert_eq!(bench.push(0, true, payload), Err(why), "{payload:x?}");
    }
    assert_eq!(bench.pipeline.take_bad(), 0, "the packets themselves are counted");
    assert!(bench.end().is_empty());
}

#[test]
fn b_frames_keep_their_time_and_are_noticed() {
    let mut bench = Bench::new(Codec::H264, &[SPS, PPS]);
    for (timestamp, payload) in [(0, IDR), (10_800, P), (3600, B), (7200, B), (21_600, P)] {
        assert_eq!(bench.pipeline.b_frames(), timestamp > 3600 && timestamp != 10_800);
        bench.push(timestamp, true, payload).unwrap();
        bench.wait(40);
    }
    let timestamps: Vec<u32> = frames_h264(&bench.end()).iter().map(|frame| frame.timestamp).collect();
    assert_eq!(timestamps, [0, 10_800, 3600, 7200, 21_600]);
}

const VPS: &[u8] = &[32 << 1, 1, 0xa];
const SPS_265: &[u8] = &[33 << 1, 1, 0xb];
const PPS_265: &[u8] = &[34 << 1, 1, 0xc];
const IDR_265: &[u8] = &[19 << 1, 1, 0x8d];
const TRAIL: &[u8] = &[1 << 1, 1, 0x8e];

#[test]
fn h265_has_the_same_rules() {
    let sets = [VPS, SPS_265, PPS_265];
    let mut bench = Bench::new(Codec::H265, &sets);
    assert_eq!(bench.push(0, true, TRAIL), Err(Unfit::BeforeKeyframe));
    assert_eq!(bench.push(0, true, &[50 << 1, 1, 0, 0]), Err(Unfit::Unsupported));
    assert_eq!(bench.push(0, true, &[98, 1]), Err(Unfit::Malformed));
    let slice = long(IDR_265, 5000);
    // In one payload, in fragments, behind an end of sequence in an aggregate, with start codes.
    bench.push(3600, false, &slice).unwrap();
    bench.push(7200, false, &[&[98, 1, 0x80 | 19], &slice[2..2500]].concat()).unwrap();
    bench.push(7200, false, &[&[98, 1, 0x40 | 19], &slice[2500..]].concat()).unwrap();
    bench.push(10_800, false, &[&[96, 1][..], &[0, 3], IDR_265, &[0, 2, 36 << 1, 1, 0, 0]].concat()).unwrap();
    let all = annexb(&[VPS, SPS_265, PPS_265, IDR_265]);
    bench.push(14_400, false, &all).unwrap();
    bench.push(18_000, false, TRAIL).unwrap();
    bench.push(16_000, false, TRAIL).unwrap();
    let sent = bench.end();
    assert!(has_no_hole(&sent));
    let frames = frames_h265(&sent);
    let with_sets = |slice: &[u8]| [&sets[..], &[slice]].concat().iter().map(|nal| nal.to_vec()).collect::<Vec<_>>();
    assert_eq!(frames[0].nals, with_sets(&slice));
    assert_eq!(frames[1].nals, with_sets(&slice));
    assert_eq!(frames[2].nals[..4], with_sets(IDR_265));
    assert_eq!(frames[3].nals, with_sets(IDR_265));
    assert_eq!(frames[4].nals, [TRAIL]);
    assert!(frames[..5].iter().all(|frame| frame.ended));
    assert!(bench.pipeline.b_frames(), "by its timestamp");
}
