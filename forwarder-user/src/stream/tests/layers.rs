//! A publisher whose picture comes in several layers.

use std::time::Duration;

use super::lab::{Lab, PUBLISH, Remote, VP8, count};
use super::*;

/// The beginning of a VP8 keyframe of this width and height.
fn keyframe(width: u16, height: u16) -> Vec<u8> {
    let size = [width.to_le_bytes(), height.to_le_bytes()].concat();
    [&[0x10, 0x50, 1, 0, 0x9d, 0x01, 0x2a], &size[..], &[0; 20]].concat()
}

async fn publishing(layers: &str) -> (Lab, Remote) {
    let mut lab = Lab::new(config()).await;
    let offer = format!("{}\na=simulcast:send {layers}\n", PUBLISH.trim_end());
    let answer = lab.offer(Role::Publisher, "room", &offer).unwrap();
    assert!(answer.sdp.contains(&format!("a=simulcast:recv {layers}\r\n")), "{}", answer.sdp);
    let publisher = lab.connect(answer);
    (lab, publisher)
}

/// The SSRC that feeds a viewer's video.
fn fed_by(lab: &Lab) -> Vec<u32> {
    let state = lab.engine.state();
    let from = state.subscriber_tracks.values().map(|(_, from, _)| state.publisher_tracks[&from.0].1.ssrc);
    from.collect()
}

#[tokio::test]
async fn viewers_get_the_largest_layer_in_whatever_order_they_come() {
    for order in [["a", "b", "c"], ["c", "a", "b"], ["b", "c", "a"]] {
        let (mut lab, publisher) = publishing("a;b;c").await;
        let _viewer = lab.play("room");
        for name in order {
            let (ssrc, part) = match name {
                "a" => (1, 4),
                "b" => (2, 1),
                _ => (3, 2),
            };
            lab.layer(&publisher, name, (ssrc, 100), &keyframe(640 / part, 360 / part));
        }
        assert_eq!(lab.engine.state().publisher_tracks.len(), 3);
        assert_eq!(fed_by(&lab), [2], "{order:?}");
        let state = lab.task.snapshot(lab.now);
        let tracks = state["sessions"][0]["tracks"].as_array().unwrap();
        let of_b = tracks.iter().find(|track| track["layer"]["name"] == "b").unwrap();
        assert_eq!((&of_b["layer"]["width"], &of_b["layer"]["forwarded"]), (&640.into(), &true.into()));
        assert_eq!(state["streams"][0]["publisher"]["codecs"].as_array().unwrap().len(), 2, "audio and video");
    }
}

#[tokio::test]
async fn a_larger_layer_that_comes_late_is_taken_in_sequence() {
    let (mut lab, publisher) = publishing("q;h;f").await;
    let _viewer = lab.play("room");
    lab.layer(&publisher, "q", (1, 100), &keyframe(160, 90));
    assert!(fed_by(&lab).is_empty(), "the others are waited for");
    lab.pass(Duration::from_millis(700));
    assert_eq!(fed_by(&lab), [1]);
    let before = lab.engine.state().subscriber_tracks.values().next().unwrap().2;
    lab.engine.state().sent_per_track = 30;
    lab.layer(&publisher, "f", (3, 500), &keyframe(640, 360));
    lab.events();
    assert_eq!(fed_by(&lab), [3]);
    let after = lab.engine.state().subscriber_tracks.values().next().unwrap().2;
    assert_eq!((after.ssrc, after.next_out.0), (before.ssrc, before.next_out.0 + 30), "no index twice");
    assert_eq!(lab.counters()["layers_changed"], 1);
}

#[tokio::test]
async fn a_layer_without_a_keyframe_is_asked_for_one_and_taken_in_the_end() {
    let (mut lab, mut publisher) = publishing("q;f").await;
    let _viewer = lab.play("room");
    lab.layer(&publisher, "f", (3, 500), &[0x10, 0x51, 1, 0]);
    assert!(lab.engine.state().publisher_tracks.is_empty());
    assert_eq!(count(&publisher.received().0, 206, Some(1)), 1, "it is asked for a keyframe");
    lab.pass(Duration::from_millis(400));
    lab.layer(&publisher, "f", (3, 501), &[0x10, 0x51, 1, 0]);
    assert!(lab.engine.state().publisher_tracks.is_empty());
    lab.pass(Duration::from_millis(1200));
    lab.layer(&publisher, "f", (3, 502), &[0x10, 0x51, 1, 0]);
    assert_eq!(lab.engine.state().publisher_tracks.len(), 1, "after a while it is taken as it is");
    lab.pass(Duration::from_millis(700));
    assert_eq!(fed_by(&lab), [3]);
}

#[tokio::test]
async fn packets_that_name_no_layer_are_counted() {
    let (mut lab, publisher) = publishing("q;f").await;
    lab.layer(&publisher, "x", (3, 500), &keyframe(640, 360));
    lab.rtp(&publisher, VP8, 4, 1, 0);
    assert!(lab.engine.state().publisher_tracks.is_empty());
    assert_eq!(lab.counters()["rtp_unknown_layer"], 2);
}
