//! Which of several formats and SSRCs a publisher sends, and who goes on with it.

use std::time::Duration;

use forwarder_common::ExtendedSeq;

use super::lab::{H264, Lab, OPUS, PLAY, PUBLISH, VP8, VP9};
use super::*;
use crate::stream::Refusal;
use penstock_engine::clock::boottime_ns;
use penstock_engine::{Kind, PublisherStats};

const SECOND: Duration = Duration::from_secs(1);

async fn lab() -> Lab {
    Lab::new(config()).await
}

#[tokio::test]
async fn viewers_go_on_with_whatever_a_new_publisher_sends() {
    let mut lab = lab().await;
    let publisher = lab.publish("room");
    let viewer = lab.play("room");
    lab.rtp(&publisher, VP8, 1, 1, 0);
    lab.rtp(&publisher, OPUS, 2, 1, 0);
    assert_eq!(lab.engine.state().subscriber_tracks.len(), 2);
    let video = |kind: &Kind| *kind == Kind::Video;
    let ssrc = lab.engine.state().subscriber_tracks.values().find(|track| video(&track.2.kind)).unwrap().2.ssrc;
    lab.task.close(publisher.key, "test");
    lab.events();
    assert!(lab.engine.state().subscriber_tracks.is_empty());
    assert_eq!(lab.engine.state().sessions.len(), 1, "the viewer stays");
    assert!(matches!(lab.offer(Role::Subscriber, "room", PLAY), Err(Refusal::NobodyPublishes(_))), "nobody publishes");
    let again = lab.publish("room");
    lab.rtp(&again, VP8, 9, 1, 0);
    assert_eq!(lab.engine.state().subscriber_tracks.len(), 1);
    lab.task.close(again.key, "test");
    lab.events();

    let other_codec = PUBLISH.replace("SAVPF 96 97", "SAVPF 98 97");
    let answer = lab.offer(Role::Publisher, "room", &other_codec).unwrap();
    let another = lab.connect(answer);
    assert!(lab.task.sessions.get(viewer.key).is_some(), "VP9 is in its answer");
    lab.rtp(&another, VP9, 5, 1, 0);
    let fed = lab.engine.state().subscriber_tracks.values().next().unwrap().2;
    assert_eq!((fed.payload_type, fed.ssrc == ssrc), (VP9, true), "the same SSRC in another format");
    assert_eq!(lab.counters()["engine_events_unmatched"], 0);
}

/// Of several formats of its offer a publisher sends another one than the first: what comes decides, for viewers that
/// came before and after.
#[tokio::test]
async fn the_first_packet_tells_the_codec() {
    let mut lab = lab().await;
    let publisher = lab.publish("room");
    let h264_only = PLAY.replace("SAVPF 96 97 102", "SAVPF 102");
    let answer = lab.offer(Role::Subscriber, "room", &h264_only).unwrap();
    let early = lab.connect(answer);
    let any = lab.play("room");
    lab.rtp(&publisher, H264, 5, 1, 0);
    let types =
        |lab: &Lab| lab.engine.state().subscriber_tracks.values().map(|track| track.2.payload_type).collect::<Vec<_>>();
    assert_eq!(types(&lab), [102, 102]);
    lab.play("room");
    assert_eq!(types(&lab), [102, 102, 102]);
    assert_eq!(lab.counters()["codecs_learnt"], 1);
    // VP8 now: who took only H.264 loses the picture, and keeps the sound.
    lab.rtp(&publisher, OPUS, 7, 1, 0);
    lab.engine.state().publisher_stats.last_arrival_ns = boottime_ns() - 1_000_000_000;
    lab.rtp(&publisher, VP8, 6, 1, 0);
    assert!(lab.task.sessions.get(early.key).is_some() && lab.task.sessions.get(any.key).is_some());
    let state = lab.engine.state();
    let fed =
        |payload_type| state.subscriber_tracks.values().filter(|track| track.2.payload_type == payload_type).count();
    assert_eq!((fed(VP8), fed(OPUS), fed(H264)), (2, 3, 0));
    drop(state);
    let snapshot = lab.task.snapshot(lab.now);
    let told: Vec<bool> = snapshot["sessions"].as_array().unwrap().iter().map(|s| s["without"].is_string()).collect();
    assert_eq!(told, [false, true, false, false], "{snapshot:#}");
}

/// A publisher goes over to another format under the same SSRC: its track is learnt anew in that. A few packets of
/// another type are no reason, be it a negotiated one or not.
#[tokio::test]
async fn another_format_under_the_same_ssrc_is_taken() {
    let mut lab = lab().await;
    let publisher = lab.publish("room");
    let viewer = lab.play("room");
    lab.rtp(&publisher, VP8, 1, 100, 0);
    let stats = |packets, others, other_type| PublisherStats {
        packets,
        others,
        other_type: Some(other_type),
        highest: ExtendedSeq(100 + packets),
        last_arrival_ns: boottime_ns(),
        ..Default::default()
    };
    for (packets, others, other_type) in [(100, 5, H264), (300, 150, 13)] {
        lab.engine.state().publisher_stats = stats(packets, others, other_type);
        lab.pass(SECOND);
        assert_eq!(lab.engine.state().publisher_tracks.len(), 1);
    }
    lab.engine.state().publisher_stats = stats(400, 250, H264);
    lab.pass(SECOND);
    assert!(lab.engine.state().publisher_tracks.is_empty(), "it waits for the next packet");
    lab.rtp(&publisher, H264, 1, 501, 0);
    let state = lab.engine.state();
    assert_eq!(state.publisher_tracks.values().map(|track| track.1.payload_type).collect::<Vec<_>>(), [H264]);
    assert_eq!(state.subscriber_tracks.values().map(|track| track.2.payload_type).collect::<Vec<_>>(), [H264]);
    drop(state);
    assert!(lab.task.sessions.get(viewer.key).is_some());
    assert_eq!(lab.counters()["rtp_other_payload_type"], 250);
}

/// Two SSRCs of one track: the second takes over when the first falls silent, however often its sequence number has
/// wrapped by then, listened to or not.
#[tokio::test]
async fn a_second_ssrc_takes_over_at_any_roc() {
    let mut lab = lab().await;
    let publisher = lab.publish("room");
    lab.rtp(&publisher, VP8, 1, 100, 0);
    lab.engine.state().publisher_stats = PublisherStats { last_arrival_ns: boottime_ns(), ..Default::default() };
    for index in (0..0x5_0000).step_by(0x4000) {
        lab.pass(SECOND / 50);
        lab.rtp(&publisher, VP8, 2, index, 0);
    }
    assert_eq!(lab.engine.state().publisher_tracks.values().next().unwrap().1.ssrc, 1);
    let silent = || boottime_ns() - 1_000_000_000;
    lab.engine.state().publisher_stats.last_arrival_ns = silent();
    lab.rtp(&publisher, VP8, 2, 0x5_0001, 0);
    let learnt =
        |lab: &Lab| lab.engine.state().publisher_tracks.values().map(|(_, t)| (t.ssrc, t.first.0)).collect::<Vec<_>>();
    assert_eq!(learnt(&lab), [(2, 0x5_0001)]);
    // Nobody has heard this one before.
    lab.engine.state().publisher_stats.last_arrival_ns = silent();
    lab.pass(SECOND);
    lab.rtp(&publisher, VP8, 3, 0x77_1234, 0);
    assert_eq!(learnt(&lab), [(3, 0x77_1234)]);
    // And the second comes back, far from where it was.
    lab.engine.state().publisher_stats.last_arrival_ns = silent();
    lab.engine.state().publisher_stats.highest = ExtendedSeq(0x5_2000);
    lab.pass(SECOND);
    lab.rtp(&publisher, VP8, 2, 0x9_8000, 0);
    assert_eq!(learnt(&lab), [(2, 0x9_8000)]);
    assert_eq!(lab.counters()["rtp_auth_failed"], 0);
}

/// DELETE of a session that has ended is no error; of one that never was, it is.
#[tokio::test]
async fn a_session_may_be_ended_twice() {
    let mut lab = lab().await;
    let publisher = lab.publish("room");
    let mut delete = |id: &str, role| {
        let (reply, mut deleted) = tokio::sync::oneshot::channel();
        let (session, stream) = (id.to_owned(), "room".to_owned());
        lab.task.command(crate::stream::Command::Delete { session, role, stream, reply }, lab.now);
        deleted.try_recv().unwrap().is_ok()
    };
    let id = &publisher.answer.session;
    assert!(!delete(id, Role::Subscriber));
    assert!(delete(id, Role::Publisher) && delete(id, Role::Publisher));
    assert!(!delete(id, Role::Subscriber) && !delete("0123", Role::Publisher));
}

/// Nothing that a viewer could decode: its next attempt is told why.
#[tokio::test]
async fn a_viewer_of_nothing_is_closed() {
    let mut lab = lab().await;
    let first = lab.publish("room");
    let silent_vp8 = PLAY
        .replace("SAVPF 96 97 102", "SAVPF 96 97")
        .replace("m=audio 9", "m=audio 0")
        .replace("BUNDLE 0 1", "BUNDLE 1");
    let vp8_only = silent_vp8.split("SAVPF 96 97").next().unwrap().to_owned()
        + "SAVPF 96 97\n"
        + silent_vp8.split_once("SAVPF 96 97").unwrap().1.split_once('\n').unwrap().1;
    let answer = lab.offer(Role::Subscriber, "room", &vp8_only).unwrap();
    let viewer = lab.connect(answer);
    lab.task.close(first.key, "test");
    lab.events();
    let vp9 = PUBLISH.replace("SAVPF 96 97", "SAVPF 98 99");
    let answer = lab.offer(Role::Publisher, "room", &vp9).unwrap();
    lab.connect(answer);
    assert!(lab.task.sessions.get(viewer.key).is_none());
    let refused = lab.offer(Role::Subscriber, "room", &vp8_only).unwrap_err();
    assert!(matches!(&refused, Refusal::NotAcceptable(why) if why.contains("What to do")), "{refused}");
}
