//! Where frames end, whatever the source marks and stamps.

use penstock_media::codec::Codec;

use super::*;
use crate::testing::{Bench, Frame, frames_h264, has_no_hole};

/// What a source does wrong.
struct Habit {
    /// Marker of a packet: whether it is the last of its unit, and of its frame.
    marker: fn(bool, bool) -> bool,
    /// Timestamp of a packet, by its frame and its place there.
    timestamp: fn(u32, u32) -> u32,
}

fn last(_unit: bool, frame: bool) -> bool {
    frame
}

fn right(frame: u32, _packet: u32) -> u32 {
    3600 * frame
}

/// Frames of three slices, the second in fragments, keyframes with their sets.
fn frame_of(number: u32) -> Vec<Vec<u8>> {
    if number.is_multiple_of(12) {
        vec![SPS.to_vec(), PPS.to_vec(), long(IDR, 300), long(IDR_2, 2500), long(IDR_2, 40)]
    } else {
        vec![long(P, 200), long(P_2, 1700), long(P_2, 30)]
    }
}

fn play(habit: &Habit) -> Vec<Frame> {
    let mut bench = Bench::new(Codec::H264, &[]);
    for number in 0..60 {
        let nals = frame_of(number);
        let (count, mut place) = (nals.len(), 0);
        for (at, nal) in nals.iter().enumerate() {
            let parts = if nal.len() > 1000 { fragments(nal, 800) } else { vec![nal.clone()] };
            for (part, payload) in parts.iter().enumerate() {
                let unit = part + 1 == parts.len();
                let marker = (habit.marker)(unit, unit && at + 1 == count);
                bench.push((habit.timestamp)(number, place), marker, payload).unwrap();
                place += 1;
            }
        }
        bench.wait(40);
    }
    let sent = bench.end();
    assert!(has_no_hole(&sent));
    frames_h264(&sent)
}

/// All frames but the last, whose end nobody knows.
fn judge(frames: &[Frame], even: bool) {
    assert_eq!(frames.len(), 60);
    for (number, frame) in frames[..59].iter().enumerate() {
        assert_eq!(frame.nals, frame_of(number as u32), "frame {number}");
        assert!(frame.ended, "frame {number}");
        assert!(!even || frame.timestamp == 3600 * number as u32, "frame {number}: {}", frame.timestamp);
    }
    assert!(frames.windows(2).all(|two| two[0].timestamp < two[1].timestamp));
}

#[test]
fn a_source_that_is_right() {
    judge(&play(&Habit { marker: last, timestamp: right }), true);
}

#[test]
fn no_marker_at_all() {
    judge(&play(&Habit { marker: |_, _| false, timestamp: right }), true);
}

#[test]
fn a_marker_on_each_slice() {
    judge(&play(&Habit { marker: |unit, _| unit, timestamp: right }), true);
}

#[test]
fn a_marker_on_each_packet() {
    judge(&play(&Habit { marker: |_, _| true, timestamp: right }), true);
}

#[test]
fn parameter_sets_stamped_otherwise_than_slices() {
    let zero = |frame: u32, packet: u32| if frame.is_multiple_of(12) && packet < 2 { 0 } else { 3600 * frame };
    let mut frames = play(&Habit { marker: last, timestamp: zero });
    judge(&frames, true);
    let former = |frame: u32, packet: u32| {
        if frame.is_multiple_of(12) && packet < 2 { (3600 * frame).saturating_sub(3600) } else { 3600 * frame }
    };
    frames = play(&Habit { marker: last, timestamp: former });
    judge(&frames, true);
    frames = play(&Habit { marker: |_, _| false, timestamp: former });
    judge(&frames, true);
}

#[test]
fn a_timestamp_for_each_packet() {
    judge(&play(&Habit { marker: last, timestamp: |frame, packet| 3600 * frame + packet }), false);
}

#[test]
fn timestamps_that_stand_still() {
    judge(&play(&Habit { marker: last, timestamp: |_, _| 7 }), false);
    judge(&play(&Habit { marker: |_, _| false, timestamp: |_, _| 7 }), false);
    judge(&play(&Habit { marker: last, timestamp: |frame, _| 7200 * (frame / 2) }), false);
}

#[test]
fn a_clock_that_is_set() {
    let jump = |frame: u32, _: u32| 3600 * frame + if frame >= 30 { 2_000_000_000 } else { 0 };
    judge(&play(&Habit { marker: last, timestamp: jump }), true);
    let back = |frame: u32, _: u32| (3600 * frame).wrapping_sub(if frame >= 30 { 50_000 } else { 0 });
    judge(&play(&Habit { marker: last, timestamp: back }), true);
}

/// mediamtx PR 6255, Intelbras: every other second a frame is stamped hours before or behind its neighbours.
#[test]
fn single_frames_stamped_out_of_the_line() {
    let past = |frame: u32, _: u32| (3600 * frame).wrapping_sub(if frame % 20 == 15 { 882_000_000 } else { 0 });
    judge(&play(&Habit { marker: last, timestamp: past }), false);
    let future = |frame: u32, _: u32| (3600 * frame).wrapping_add(if frame % 20 == 15 { 3_384_000_000 } else { 0 });
    judge(&play(&Habit { marker: last, timestamp: future }), false);
}

#[test]
fn markers_that_are_lost_once_the_source_is_believed() {
    let mut bench = Bench::new(Codec::H264, &[SPS, PPS]);
    for number in 0..40u32 {
        bench.push(3600 * number, number < 20, if number == 0 { IDR } else { P }).unwrap();
        bench.wait(40);
    }
    let sent = bench.end();
    let frames = frames_h264(&sent);
    assert!(has_no_hole(&sent) && frames.len() == 40);
    assert!(frames[..39].iter().all(|frame| frame.ended), "{frames:?}");
    assert_eq!(frames[20].nals.len(), 2, "one frame needed filler for its end");
    assert!(bench.pipeline.seen().wrong_markers);
}

#[test]
fn a_slow_source_is_not_waited_for() {
    let mut bench = Bench::new(Codec::H264, &[SPS, PPS]);
    bench.push(0, true, IDR).unwrap();
    assert_eq!(bench.sent.len(), 1, "the sets; the slice may not be the last");
    let due = bench.pipeline.deadline().unwrap() - bench.now;
    assert!(due.as_millis() <= 10);
    bench.wait(10);
    bench.pipeline.release(bench.now, &mut |_, header, payload| {
        assert!(header.marker() && payload == IDR);
    });
    assert_eq!(bench.pipeline.deadline(), None);
}

#[test]
fn a_source_that_is_believed_is_not_waited_for() {
    let mut bench = Bench::new(Codec::H264, &[SPS, PPS]);
    for number in 0..10u32 {
        bench.push(3600 * number, true, if number == 0 { IDR } else { P }).unwrap();
        bench.wait(40);
    }
    assert_eq!(bench.pipeline.deadline(), None);
    assert_eq!(bench.sent.len(), 11);
    assert!(bench.sent[10].marker);
}

#[test]
fn two_fields_of_a_frame_and_two_frames_of_a_timestamp() {
    // 720x576, frame_mbs_only_flag 0; and the same with 1.
    for (interlaced, frames) in [(true, 1), (false, 2)] {
        let sps = super::video::sps_h264(interlaced);
        let mut bench = Bench::new(Codec::H264, &[]);
        for payload in [&sps[..], PPS, IDR] {
            bench.push(0, false, payload).unwrap();
        }
        bench.push(0, true, P).unwrap();
        let sent = frames_h264(&bench.end());
        assert_eq!(sent.len(), frames);
        assert!(sent.iter().all(|frame| frame.ended));
    }
}
