//! Numbers: holes where something is lost, and nowhere else.

use penstock_media::codec::Codec;

use super::*;
use crate::{
    Unfit,
    testing::{Bench, frames_h264, has_no_hole, packet},
};

fn bench() -> Bench {
    Bench::new(Codec::H264, &[SPS, PPS])
}

#[test]
fn what_is_lost_is_a_hole() {
    for ordered in [true, false] {
        let mut bench = bench();
        bench.pipeline.set_ordered(ordered);
        for number in 0..30u32 {
            bench.push(3600 * number, true, if number == 0 { IDR } else { P }).unwrap();
            if number == 20 {
                bench.seq += 2;
            }
            bench.wait(40);
        }
        let sent = bench.end();
        let holes: Vec<u64> = sent.windows(2).map(|two| two[1].index - two[0].index - 1).collect();
        assert_eq!(holes.iter().filter(|hole| **hole > 0).collect::<Vec<_>>(), [&2]);
        assert_eq!(bench.pipeline.take_lost(), 2);
        assert!(frames_h264(&sent).iter().take(29).all(|frame| frame.ended));
    }
}

#[test]
fn a_frame_that_lost_its_end_has_none() {
    for frames in [2, 20] {
        let mut bench = bench();
        for number in 0..frames {
            bench.push(3600 * number, true, if number == 0 { IDR } else { P }).unwrap();
            bench.wait(40);
        }
        bench.push(3600 * frames, false, P).unwrap();
        bench.seq += 1;
        bench.push(3600 * frames + 3600, true, P).unwrap();
        let sent = bench.end();
        let all = frames_h264(&sent);
        let [broken, last] = &all[all.len() - 2..] else { panic!() };
        assert!(!broken.ended && last.timestamp == 3600 * frames + 3600);
        assert_eq!(sent.last().unwrap().index, sent.len() as u64 + 1, "one hole");
        assert!(!bench.pipeline.seen().wrong_markers);
    }
}

#[test]
fn fragments_whose_begin_is_lost_are_dropped() {
    let mut bench = bench();
    bench.push(0, true, IDR).unwrap();
    let parts = fragments(&long(P, 3000), 1000);
    bench.seq += 1;
    assert_eq!(bench.push(3600, false, &parts[1]), Err(Unfit::Orphan));
    assert_eq!(bench.push(3600, true, &parts[2]), Err(Unfit::Orphan));
    bench.push(7200, false, P).unwrap();
    bench.push(7200, true, P_2).unwrap();
    let sent = bench.end();
    let frames = frames_h264(&sent);
    assert_eq!(frames.len(), 2);
    assert_eq!(frames[1].nals, [P, P_2]);
    assert_eq!(sent[2].index, 4, "a hole before the next frame");
}

#[test]
fn numbers_that_begin_anew_or_stand_still_are_no_loss() {
    let numbers: [fn(u16) -> u16; 4] = [|n| n % 24, |_| 7, |n| n / 3, |n| n.wrapping_mul(4000)];
    for (habit, number_of) in numbers.into_iter().enumerate() {
        let mut bench = bench();
        for number in 0..100u16 {
            bench.seq = number_of(number);
            let slice = if number % 24 == 0 { IDR } else { P };
            let slice = [slice, &number.to_be_bytes(), &[7; 20]].concat();
            bench.push(3600 * u32::from(number), true, &slice).unwrap();
            bench.wait(40);
        }
        let sent = bench.end();
        assert!(has_no_hole(&sent), "{habit}");
        assert_eq!(frames_h264(&sent).len(), 100);
    }
}

#[test]
fn other_payload_types_and_signs_of_life_are_no_loss() {
    for ordered in [true, false] {
        let mut bench = bench();
        bench.pipeline.set_ordered(ordered);
        for number in 0..30u32 {
            bench.push(3600 * number, true, if number == 0 { IDR } else { P }).unwrap();
            let foreign = packet(1, bench.seq, 3600 * number, 13, &[1, 2]);
            bench.seq += 1;
            assert_eq!(bench.bytes(&foreign), Err(Unfit::PayloadType));
            assert_eq!(bench.bytes(&packet(77, 9, 1, 13, &[1, 2])), Err(Unfit::PayloadType));
            assert_eq!(bench.push(3600 * number, false, &[]), Err(Unfit::Empty));
            bench.wait(40);
        }
        let sent = bench.end();
        assert!(has_no_hole(&sent) && frames_h264(&sent).len() == 30);
        assert_eq!(bench.pipeline.take_lost(), 0);
    }
}

#[test]
fn another_ssrc_goes_on_without_a_gap() {
    for ordered in [true, false] {
        let mut bench = bench();
        bench.pipeline.set_ordered(ordered);
        for number in 0..30u32 {
            if number == 15 {
                bench.ssrc = 9;
            }
            let clock = if number < 15 { 0 } else { 77_777_777 };
            bench.push(3600 * number + clock, true, if number == 0 { IDR } else { P }).unwrap();
            bench.wait(40);
        }
        let sent = bench.end();
        let frames = frames_h264(&sent);
        assert!(has_no_hole(&sent) && frames.len() == 30);
        assert!(frames.windows(2).all(|two| two[1].timestamp - two[0].timestamp == 3600));
        assert_eq!(bench.pipeline.map(9, 77_777_777 + 29 * 3600), Some(29 * 3600));
        assert_eq!(bench.pipeline.map(1, 0), None);
    }
}

#[test]
fn a_reconnected_source_goes_on_at_its_next_keyframe() {
    for unfinished in [false, true] {
        let mut bench = bench();
        bench.push(0, true, IDR).unwrap();
        if unfinished {
            bench.push(3600, false, P).unwrap();
        }
        let before = bench.end().len() as u64;
        bench.pipeline.reconnect(97, &[]);
        bench.wait(1000);
        assert_eq!(bench.bytes(&packet(2, 7, 55, 96, IDR)), Err(Unfit::PayloadType));
        assert_eq!(bench.bytes(&packet(2, 7, 55, 97, P)), Err(Unfit::BeforeKeyframe));
        bench.bytes(&packet(2, 8, 3655, 97 | 0x80, IDR)).unwrap();
        let sent = bench.end();
        let first = &sent[before as usize];
        assert_eq!(first.index, before + 1 + u64::from(unfinished), "a hole if a frame was cut off");
        let last = if unfinished { 3600 } else { 0 };
        assert_eq!(first.timestamp, last + 90_000);
        assert_eq!(bench.pipeline.map(2, 3655), Some(last + 90_000));
    }
}

#[test]
fn over_udp_a_jump_of_numbers_waits_for_a_keyframe() {
    let mut bench = bench();
    bench.pipeline.set_ordered(false);
    bench.push(0, true, IDR).unwrap();
    bench.seq += 20_000;
    assert_eq!(bench.push(3600, true, P), Err(Unfit::BeforeKeyframe));
    assert_eq!(bench.bytes(&packet(1, bench.seq - 1, 3600, 96, P)), Err(Unfit::Late), "again");
    bench.push(7200, true, IDR).unwrap();
    assert!(has_no_hole(&bench.end()));
}

#[test]
fn a_packet_that_comes_twice_by_tcp_leaves_once() {
    let mut bench = bench();
    for number in 0..20u32 {
        let slice = [if number == 0 { IDR } else { P }, &[number as u8; 12]].concat();
        bench.push(3600 * number, true, &slice).unwrap();
        bench.seq -= 1;
        assert_eq!(bench.push(3600 * number, true, &slice), Err(Unfit::Late));
        bench.wait(40);
    }
    let sent = bench.end();
    assert!(has_no_hole(&sent) && frames_h264(&sent).len() == 20);
}
