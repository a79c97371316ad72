//! What is lost on either side, with a clock of our own: viewers ask, and publishers are asked.

use std::time::Duration;

use forwarder_common::ExtendedSeq;

use super::lab::{Lab, OPUS, PUBLISH, Remote, VP8, count};
use super::*;
use penstock_engine::clock::boottime_ns;
use penstock_engine::{Kind, PublisherStats, Received, SubscriberStats};
use penstock_webrtc::rtcp::{Feedback, Incoming, Reception, to_publisher};

const SSRC: u32 = 77;

async fn playing() -> (Lab, Remote, Remote, u32) {
    let mut lab = Lab::new(config()).await;
    let publisher = lab.publish("room");
    lab.rtp(&publisher, VP8, SSRC, 1, 0);
    let viewer = lab.play("room");
    let ssrc = {
        let state = lab.engine.state();
        state.subscriber_tracks.values().find(|(_, _, track)| track.kind == Kind::Video).unwrap().2.ssrc
    };
    lab.engine.state().publisher_stats =
        PublisherStats { first: ExtendedSeq(2), highest: ExtendedSeq(100), packets: 99, ..Default::default() };
    lab.engine.state().subscriber_stats = SubscriberStats { packets: 99, octets: 1_000_000, ..Default::default() };
    lab.engine.state().received = Received { floor: 0, highest: 100, missing: vec![] };
    // Reports and the first keyframe are behind us.
    lab.pass(Duration::from_millis(1500));
    (lab, publisher, viewer, ssrc)
}

/// What transport-wide feedback says: the first number and how many packets each tells of, and how many of all came.
fn told(packets: &[Vec<u8>]) -> (Vec<(u16, u16)>, u64) {
    let reports: Vec<_> = packets.iter().filter(|packet| packet[1] == 205 && packet[0] & 0x1f == 15).collect();
    let word = |packet: &[u8], at: usize| u16::from_be_bytes([packet[at], packet[at + 1]]);
    (reports.iter().map(|packet| (word(packet, 12), word(packet, 14))).collect(), reports.len() as u64)
}

#[tokio::test]
async fn publishers_are_told_of_each_packet_that_came() {
    let mut lab = Lab::new(config()).await;
    let mut publisher = lab.publish("room");
    assert!(publisher.answer.sdp.contains("a=rtcp-fb:96 transport-cc\r\n"), "{}", publisher.answer.sdp);
    // What comes up to us counts: of an SSRC that is learnt, and of a type that nobody takes.
    lab.counted(&publisher, VP8, (SSRC, 1), 500);
    lab.counted(&publisher, 126, (SSRC + 1, 1), 501);
    let feeds = lab.engine.state().publisher_tracks.values().next().unwrap().1;
    assert_eq!((feeds.ssrc, feeds.sequence_extension), (SSRC, Some(3)));
    let now_ns = boottime_ns();
    lab.engine.state().arrivals = vec![(504, now_ns), (503, now_ns + 1_000_000)];
    lab.pass(Duration::from_millis(150));
    assert_eq!(told(&publisher.received().0).0, [(500, 5)]);
    let counters = lab.counters();
    let counted = ["transport_feedback_sent", "packets_told_received", "packets_told_missing"];
    assert_eq!(counted.map(|name| counters[name].as_u64()), [Some(1), Some(4), Some(1)]);
    // Late, and told with all behind it; and no more while nothing comes.
    lab.engine.state().arrivals = vec![(502, now_ns + 9_000_000)];
    lab.pass(Duration::from_millis(600));
    assert_eq!(told(&publisher.received().0).0, [(502, 3)]);
    lab.pass(Duration::from_secs(2));
    assert_eq!(told(&publisher.received().0).0, []);
}

#[tokio::test]
async fn publishers_that_take_no_transport_feedback_get_none() {
    let mut lab = Lab::new(config()).await;
    let offer = PUBLISH.lines().filter(|line| !line.ends_with("transport-cc")).collect::<Vec<_>>().join("\r\n");
    let answer = lab.offer(Role::Publisher, "room", &offer).unwrap();
    let mut publisher = lab.connect(answer);
    lab.counted(&publisher, VP8, (SSRC, 1), 500);
    lab.pass(Duration::from_secs(2));
    let (packets, _) = publisher.received();
    assert_eq!((told(&packets).1, count(&packets, 206, Some(15)) > 0), (0, true));
}

#[tokio::test]
async fn ssrcs_of_repairs_are_learnt_with_what_they_repair() {
    const RTX: u8 = 97;
    let mut lab = Lab::new(config()).await;
    lab.engine.state().takes_repairs = true;
    let publisher = lab.publish("room");
    assert!(publisher.answer.sdp.contains("a=fmtp:97 apt=96\r\n"), "{}", publisher.answer.sdp);
    // Before there is media there is nothing to repair.
    lab.rtp(&publisher, RTX, 5, 10, 0);
    assert!(lab.engine.state().publisher_tracks.is_empty());
    lab.rtp(&publisher, VP8, SSRC, 1, 0);
    lab.rtp(&publisher, RTX, 5, 11, 0);
    let of = *lab.engine.state().publisher_tracks.iter().find(|(_, (_, track))| track.ssrc == SSRC).unwrap().0;
    let learnt = |lab: &Lab| lab.engine.state().repairs.iter().map(|new| (new.ssrc, new.of.0)).collect::<Vec<_>>();
    assert_eq!(learnt(&lab), [(5, of)]);
    // What was on its way is no reason to begin anew; another SSRC is.
    lab.rtp(&publisher, RTX, 5, 12, 0);
    lab.rtp(&publisher, RTX, 6, 1, 0);
    assert_eq!(learnt(&lab), [(5, of), (6, of)]);
    assert_eq!(lab.engine.state().publisher_tracks.len(), 2, "one for media, one for repairs");
    // They end with their media.
    lab.task.close_all();
    assert!(lab.engine.state().publisher_tracks.is_empty());
}

/// So that it sends in-band FEC; by the fraction alone, up to a bound, and only where its picture does not suffer for it.
#[tokio::test]
async fn a_publisher_of_sound_learns_what_its_viewers_lose() {
    for (feedback, expected) in [("transport-cc", 38), ("goog-remb", 0)] {
        let mut lab = Lab::new(config()).await;
        let kept = |line: &&str| feedback == "transport-cc" || !line.ends_with("transport-cc");
        let offer = PUBLISH.lines().filter(kept).collect::<Vec<_>>().join("\r\n");
        let answer = lab.offer(Role::Publisher, "room", &offer).unwrap();
        assert!(answer.sdp.contains("useinbandfec=1"), "{}", answer.sdp);
        let mut publisher = lab.connect(answer);
        lab.rtp(&publisher, OPUS, SSRC, 1, 0);
        lab.rtp(&publisher, VP8, SSRC + 1, 1, 0);
        let mut viewer = lab.play("room");
        let ssrc = {
            let state = lab.engine.state();
            state.subscriber_tracks.values().find(|(_, _, track)| track.kind == Kind::Audio).unwrap().2.ssrc
        };
        lab.engine.state().publisher_stats =
            PublisherStats { first: ExtendedSeq(2), highest: ExtendedSeq(100), packets: 99, ..Default::default() };
        let reception = Reception { ssrc, fraction_lost: 90, cumulative_lost: 500, ..Default::default() };
        lab.rtcp(&mut viewer, &to_publisher(1, "viewer", &[reception], &[]).unwrap());
        publisher.received();
        lab.pass(Duration::from_millis(1100));
        let (_, read) = publisher.received();
        let told = |ssrc| {
            read.iter().find_map(|one| match one {
                Incoming::Reception(block) if block.ssrc == ssrc => Some((block.fraction_lost, block.cumulative_lost)),
                _ => None,
            })
        };
        assert_eq!((told(SSRC), told(SSRC + 1)), (Some((expected, 0)), Some((0, 0))), "{feedback}");
    }
}

fn nack(lab: &mut Lab, viewer: &mut Remote, ssrc: u32, missing: &[u16]) {
    let nack = to_publisher(1, "viewer", &[], &[Feedback::Nack { ssrc, missing: missing.to_vec() }]).unwrap();
    lab.rtcp(viewer, &nack);
}

#[tokio::test]
async fn a_viewer_gets_what_is_kept_and_a_keyframe_for_what_is_not() {
    let (mut lab, mut publisher, mut viewer, ssrc) = playing().await;
    assert!(viewer.answer.sdp.contains("a=ssrc-group:FID"), "{}", viewer.answer.sdp);
    publisher.received();
    viewer.received();
    // A packet's first bytes: who reads it takes it for RTP.
    lab.engine.state().kept = [50, 51].into_iter().map(|seq| (seq, vec![0x80, 97, 0, seq as u8])).collect();
    nack(&mut lab, &mut viewer, ssrc, &[50, 51]);
    let mut buffer = [0; 64];
    for seq in [50, 51] {
        let len = viewer.socket.recv(&mut buffer).unwrap();
        assert_eq!(buffer[..len], [0x80, 97, 0, seq]);
    }
    nack(&mut lab, &mut viewer, ssrc, &[50]);
    let counters = lab.counters();
    assert_eq!((&counters["retransmissions"], &counters["retransmissions_too_soon"]), (&2.into(), &1.into()));
    lab.pass(Duration::from_millis(500));
    assert_eq!(count(&publisher.received().0, 206, Some(1)), 0, "nobody needs a keyframe");

    nack(&mut lab, &mut viewer, ssrc, &[40, 41, 42]);
    lab.pass(Duration::from_millis(1000));
    assert_eq!(count(&publisher.received().0, 206, Some(1)), 1, "at once, and once");
    assert_eq!(lab.counters()["retransmissions_not_kept"], 3);
    // Again and again on a line beyond repair: once in three seconds.
    for _ in 0..60 {
        nack(&mut lab, &mut viewer, ssrc, &[40]);
        lab.pass(Duration::from_millis(100));
    }
    assert_eq!(count(&publisher.received().0, 206, Some(1)), 2);
    assert_eq!(lab.counters()["keyframe_requests_unrepaired"], 3);
}

#[tokio::test]
async fn a_publisher_is_asked_for_what_is_missing() {
    let (mut lab, mut publisher, mut viewer, ssrc) = playing().await;
    assert!(publisher.answer.sdp.contains("a=rtcp-fb:96 nack\r\n"), "{}", publisher.answer.sdp);
    publisher.received();
    {
        let mut state = lab.engine.state();
        state.received = Received { floor: 0, highest: 110, missing: vec![103, 104, 108] };
        state.gaps = 2;
    }
    lab.pass(Duration::from_millis(10));
    let asked = |publisher: &mut Remote| {
        let wanted = |one| if let Incoming::Missing { ssrc, seq } = one { Some((ssrc, seq)) } else { None };
        publisher.received().1.into_iter().filter_map(wanted).collect::<Vec<_>>()
    };
    assert_eq!(asked(&mut publisher), [], "they may be late");
    lab.pass(Duration::from_millis(10));
    assert_eq!(asked(&mut publisher), [103, 104, 108].map(|seq| (SSRC, seq)));
    // A viewer that lacks them too waits for the same: no keyframe for it.
    nack(&mut lab, &mut viewer, ssrc, &[103]);
    assert_eq!(lab.counters()["retransmissions_awaited"], 1);
    assert_eq!(lab.counters()["keyframe_requests_unrepaired"], 0);

    lab.engine.state().received.missing = vec![104];
    lab.pass(Duration::from_millis(20));
    assert_eq!(lab.counters()["packets_repaired"], 2);
    publisher.received();
    // One never comes: asked for again, given up, and then a keyframe.
    lab.pass(Duration::from_millis(2000));
    let (packets, parsed) = publisher.received();
    let again = parsed.iter().filter(|one| **one == Incoming::Missing { ssrc: SSRC, seq: 104 }).count();
    assert!((2..=5).contains(&again), "{again} times");
    assert_eq!(count(&packets, 206, Some(1)), 1);
    assert_eq!(lab.counters()["packets_given_up"], 1);
    // Nothing more is said of it.
    lab.pass(Duration::from_millis(2000));
    assert_eq!(count(&publisher.received().0, 205, Some(1)), 0);
}

#[tokio::test]
async fn without_nack_nobody_asks() {
    let mut lab = Lab::new(StreamConfig { nack: false, ..config() }).await;
    let publisher = lab.publish("room");
    lab.rtp(&publisher, VP8, SSRC, 1, 0);
    let viewer = lab.play("room");
    for answer in [&publisher.answer.sdp, &viewer.answer.sdp] {
        assert!(!answer.contains(" nack\r\n") && !answer.contains("rtx"), "{answer}");
    }
    lab.engine.state().received = Received { floor: 0, highest: 110, missing: vec![103] };
    lab.engine.state().gaps = 1;
    lab.pass(Duration::from_millis(500));
    assert_eq!(lab.counters()["packets_asked_for"], 0);
}
