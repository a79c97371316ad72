//! SSRCs, continuity over publishers, reports: with a clock of our own.

use std::time::Duration;

use forwarder_common::ExtendedSeq;

use super::lab::{Lab, OPUS, PUBLISH, Remote, VP8, count};
use super::*;
use crate::stream::Refusal;
use penstock_engine::clock::boottime_ns;
use penstock_engine::{Event, Kind, PublisherStats, SubscriberStats, SubscriberTrackId};
use penstock_webrtc::rtcp::{Feedback, Incoming, Reception, Sent, to_publisher, to_viewer};

const SECOND: Duration = Duration::from_secs(1);

async fn lab() -> Lab {
    Lab::new(config()).await
}

#[tokio::test]
async fn only_authentic_packets_of_negotiated_types_teach_an_ssrc() {
    let mut lab = lab().await;
    let publisher = lab.publish("room");
    lab.rtp(&publisher, 126, 1, 10, 0);
    let mut forged = vec![0x80, VP8, 0, 1, 0, 0, 0, 0, 0, 0, 0, 5];
    forged.extend([0; 40]);
    lab.task.rtp(publisher.key, publisher.pair, &forged, lab.now);
    lab.task.rtp(publisher.key, publisher.pair, &[0x80; 5], lab.now);
    assert!(lab.engine.state().publisher_tracks.is_empty());
    lab.rtp(&publisher, VP8, 2, 0xfff0, 0);
    lab.engine.state().publisher_stats.highest = ExtendedSeq(0xfff0);
    lab.rtp(&publisher, VP8, 2, 0xfff1, 0);
    lab.rtp(&publisher, OPUS, 3, 0x1_0005, 0);
    let state = lab.engine.state();
    let tracks: Vec<_> = state.publisher_tracks.values().map(|(_, t)| (t.ssrc, t.kind, t.first)).collect();
    assert_eq!(tracks, [(2, Kind::Video, ExtendedSeq(0xfff0)), (3, Kind::Audio, ExtendedSeq(0x1_0005))]);
    drop(state);
    let counters = lab.counters();
    assert_eq!((&counters["rtp_other_payload_type"], &counters["rtp_auth_failed"]), (&1.into(), &2.into()));
    assert_eq!((&counters["rtp_known_ssrc"], &counters["ssrcs_learnt"]), (&1.into(), &2.into()));
}

/// A publisher whose video the engine has accepted up to index 100.
async fn lab_with_a_track() -> (Lab, Remote) {
    let mut lab = lab().await;
    let publisher = lab.publish("room");
    lab.rtp(&publisher, VP8, 2, 90, 0);
    let mut state = lab.engine.state();
    state.publisher_stats.highest = ExtendedSeq(100);
    (state.accepted, state.diverts) = (100, true);
    drop(state);
    lab.pass(SECOND);
    (lab, publisher)
}

#[tokio::test]
async fn what_comes_up_though_the_engine_has_it_moves_the_track() {
    let (mut lab, publisher) = lab_with_a_track().await;
    let viewer = lab.play("room");
    let before = lab.engine.state().subscriber_tracks[&0].2;
    // Copies of what was accepted, and two strays, are a coincidence.
    (95..=100).for_each(|index| lab.rtp(&publisher, VP8, 2, index, 0));
    (101..=102).for_each(|index| lab.rtp(&publisher, VP8, 2, index, 0));
    assert!(!lab.engine.state().calls.contains(&"divert".into()));
    // It goes on: out of the engine, and learnt anew above all that it has accepted.
    lab.engine.state().sent_per_track = 12;
    lab.rtp(&publisher, VP8, 2, 103, 0);
    assert!(lab.engine.state().publisher_tracks.is_empty());
    lab.rtp(&publisher, VP8, 2, 99, 0);
    assert!(lab.engine.state().publisher_tracks.is_empty(), "an index that was used was learnt");
    lab.rtp(&publisher, VP8, 2, 104, 0);
    let state = lab.engine.state();
    assert_eq!(state.publisher_tracks.values().map(|(_, track)| track.first.0).collect::<Vec<_>>(), [104]);
    let after = state.subscriber_tracks.values().next().unwrap().2;
    assert_eq!((after.ssrc, after.next_out.0), (before.ssrc, before.next_out.0 + 12), "viewers go on in sequence");
    drop(state);
    assert_eq!(lab.counters()["tracks_diverted"], 1);
    // And back.
    lab.engine.state().back = true;
    lab.engine.state().publisher_stats.highest = ExtendedSeq(150);
    lab.pass(2 * SECOND);
    assert!(lab.engine.state().publisher_tracks.is_empty());
    lab.rtp(&publisher, VP8, 2, 151, 0);
    assert_eq!(lab.engine.state().publisher_tracks.values().next().unwrap().1.first, ExtendedSeq(151));
    assert_eq!(lab.counters()["tracks_back"], 1);
    drop(viewer);
}

#[tokio::test]
async fn an_engine_that_cannot_open_strays_keeps_its_track() {
    let (mut lab, publisher) = lab_with_a_track().await;
    lab.engine.state().diverts = false;
    (101..=120).for_each(|index| lab.rtp(&publisher, VP8, 2, index, 0));
    assert_eq!(lab.engine.state().publisher_tracks.len(), 1);
    assert_eq!(lab.counters()["tracks_diverted"], 0);
}

#[tokio::test]
async fn a_viewer_whose_way_is_lost_is_added_anew() {
    let (mut lab, _publisher) = lab_with_a_track().await;
    let viewer = lab.play("room");
    let before = lab.engine.state().subscriber_tracks[&0].2;
    lab.engine.state().sent_per_track = 7;
    lab.task.engine_event(Event::SubscriberTrackLost { track: SubscriberTrackId(0) }, lab.now);
    lab.events();
    let after = lab.engine.state().subscriber_tracks[&0].2;
    assert_eq!(after.next_out.0, before.next_out.0 + 7);
    assert_eq!(lab.counters()["viewer_tracks_moved"], 1);
    // Alone, an engine would only find the same way.
    lab.engine.state().diverts = false;
    lab.task.engine_event(Event::SubscriberTrackLost { track: SubscriberTrackId(0) }, lab.now);
    assert_eq!(lab.counters()["viewer_tracks_moved"], 1);
    drop(viewer);
}

#[tokio::test]
async fn whoever_is_connected_while_nothing_arrives_is_named() {
    let mut lab = lab().await;
    lab.publish("room");
    lab.pass(4 * SECOND);
    assert_eq!(lab.counters()["silent_publishers"], 0);
    lab.pass(4 * SECOND);
    assert_eq!(lab.counters()["silent_publishers"], 1);
    let warning = lab.task.snapshot(lab.now)["sessions"][0]["warning"].clone();
    assert!(warning.as_str().unwrap().contains("no media of it has arrived"), "{warning}");
    lab.pass(8 * SECOND);
    assert_eq!(lab.counters()["silent_publishers"], 1, "once");
}

/// What a player with nothing to show is told, and a publisher that nothing arrives of.
#[tokio::test]
async fn whoever_has_a_session_is_told_why_nothing_comes() {
    let mut lab = lab().await;
    let publisher = lab.publish("room");
    let viewer = lab.play("room");
    lab.pass(4 * SECOND);
    let state = |lab: &Lab, of: &Remote| lab.task.view(&of.answer.session, lab.now).map(|view| view["state"].clone());
    assert_eq!(state(&lab, &viewer).unwrap(), "silent");
    assert_eq!(state(&lab, &publisher).unwrap(), "silent");
    let view = lab.task.view(&publisher.answer.session, lab.now).unwrap();
    assert!(view["role"] == "publisher" && view["tracks"].as_array().unwrap().len() == 2, "{view}");
    lab.task.close(publisher.key, "it leaves");
    assert_eq!(state(&lab, &viewer).unwrap(), "away");
    assert_eq!(state(&lab, &publisher), None);
    assert_eq!(lab.task.view("", lab.now), None);
}

#[tokio::test]
async fn authentication_of_unknown_rtp_is_rationed() {
    let mut lab = lab().await;
    let publisher = lab.publish("room");
    (0..1000).for_each(|i| lab.rtp(&publisher, 126, i as u32, i, 0));
    assert_eq!(lab.counters()["rtp_rate_limited"], 800);
    lab.pass(SECOND);
    lab.rtp(&publisher, VP8, 1, 1, 0);
    assert_eq!(lab.engine.state().publisher_tracks.len(), 1);
}

#[tokio::test]
async fn a_new_ssrc_replaces_a_silent_one_and_viewers_go_on() {
    let mut lab = lab().await;
    let publisher = lab.publish("room");
    let viewer = lab.play("room");
    lab.rtp(&publisher, VP8, 1, 100, 5000);
    let before = lab.engine.state().subscriber_tracks[&0].2;
    // As long as the first one is heard, a second one is none of ours.
    lab.engine.state().publisher_stats = PublisherStats { last_arrival_ns: boottime_ns(), ..Default::default() };
    lab.rtp(&publisher, VP8, 2, 7, 0);
    assert_eq!(lab.engine.state().publisher_tracks[&0].1.ssrc, 1);

    let silent = boottime_ns() - 1_000_000_000;
    lab.engine.state().publisher_stats.last_arrival_ns = silent;
    lab.engine.state().subscriber_stats =
        SubscriberStats { packets: 50, octets: 5000, last_timestamp: 700_000, last_sent_ns: silent };
    lab.engine.state().sent_per_track = 50;
    lab.rtp(&publisher, VP8, 2, 8, 123);
    let state = lab.engine.state();
    let after = state.subscriber_tracks[&0].2;
    assert_eq!(state.publisher_tracks[&0].1.ssrc, 2);
    assert_eq!((after.ssrc, after.payload_type), (before.ssrc, before.payload_type));
    assert_eq!(after.next_out, ExtendedSeq(before.next_out.0 + 50), "the index goes on");
    let out = after.timestamp_offset.wrapping_add(123);
    let gone_on = out.wrapping_sub(700_000 + 90_000);
    assert!(gone_on < 90_000, "about a second after the last copy: {gone_on}");
    assert_eq!(viewer.address(), state.sessions[&1].transport.peer);
}

#[tokio::test]
async fn what_a_former_ssrc_has_sent_does_not_bring_it_back() {
    let mut lab = lab().await;
    let publisher = lab.publish("room");
    let silent =
        |highest| PublisherStats { highest, last_arrival_ns: boottime_ns() - 1_000_000_000, ..Default::default() };
    lab.rtp(&publisher, VP8, 1, 100, 0);
    lab.engine.state().publisher_stats = silent(ExtendedSeq(150));
    lab.rtp(&publisher, VP8, 2, 7, 0);
    lab.engine.state().publisher_stats = silent(ExtendedSeq(9));
    for played_back in [90, 100, 120, 150] {
        lab.rtp(&publisher, VP8, 1, played_back, 0);
    }
    assert_eq!(lab.counters()["rtp_auth_failed"], 4);
    lab.rtp(&publisher, VP8, 1, 151, 0);
    let tracks: Vec<_> = lab.engine.state().publisher_tracks.values().map(|(_, t)| (t.ssrc, t.first)).collect();
    assert_eq!(tracks, [(1, ExtendedSeq(151))]);
}

/// Where CPUs race, the highest index that was accepted counts; and none is forgotten while the key lives.
/// The engine gives one handle to all of them, one after the other.
#[tokio::test]
async fn every_former_ssrc_may_come_back() {
    let mut lab = lab().await;
    let publisher = lab.publish("room");
    for (learnt, (ssrc, index)) in (1..=40).map(|ssrc| (ssrc, 100)).chain((1..=40).map(|ssrc| (ssrc, 151))).enumerate()
    {
        lab.pass(SECOND / 10);
        lab.rtp(&publisher, VP8, ssrc, index, 0);
        assert_eq!(lab.counters()["ssrcs_learnt"], learnt + 1, "SSRC {ssrc}, index {index}");
        lab.engine.state().publisher_stats = PublisherStats {
            highest: ExtendedSeq(150),
            last_arrival_ns: boottime_ns() - 1_000_000_000,
            ..Default::default()
        };
    }
}

#[tokio::test]
async fn former_ssrcs_are_remembered_by_their_highest_accepted_index() {
    let mut lab = lab().await;
    let publisher = lab.publish("room");
    let silent = |highest_accepted| PublisherStats {
        highest: ExtendedSeq(1),
        highest_accepted,
        last_arrival_ns: boottime_ns() - 1_000_000_000,
        ..Default::default()
    };
    for ssrc in 1..=40 {
        lab.pass(SECOND / 10);
        lab.rtp(&publisher, VP8, ssrc, 100, 0);
        lab.engine.state().publisher_stats = silent(ExtendedSeq(150));
    }
    let learnt = lab.counters()["ssrcs_learnt"].clone();
    assert_eq!(learnt, 40);
    for played_back in [100, 120, 150] {
        lab.rtp(&publisher, VP8, 1, played_back, 0);
    }
    assert_eq!(lab.counters()["ssrcs_learnt"], learnt);
    lab.rtp(&publisher, VP8, 1, 151, 0);
    assert_eq!(lab.counters()["ssrcs_learnt"], 41);
    for ssrc in 41..=400 {
        lab.pass(SECOND / 100);
        lab.rtp(&publisher, VP8, ssrc, 100, 0);
    }
    assert!(lab.task.sessions.get(publisher.key).is_none(), "nobody changes its SSRC so often");
}

/// What it has sent too much is made up for by silence, and then the same SSRC goes on.
#[tokio::test]
async fn a_publisher_that_sends_too_much_is_not_passed_on_for_a_while() {
    let (mut lab, publisher) = lab_with_a_track().await;
    let most = lab.task.config().publisher_max / 8;
    // Within a second's worth.
    lab.engine.state().publisher_stats.octets = most / 2;
    lab.pass(SECOND);
    assert_eq!((lab.counters()["publishers_muted"].as_u64(), lab.engine.state().publisher_tracks.len()), (Some(0), 1));
    lab.engine.state().publisher_stats.octets += 5 * most;
    lab.pass(SECOND);
    assert_eq!((lab.counters()["publishers_muted"].as_u64(), lab.engine.state().publisher_tracks.len()), (Some(1), 0));
    lab.rtp(&publisher, VP8, 2, 101, 0);
    assert_eq!((&lab.counters()["publisher_too_fast"], &lab.counters()["ssrcs_learnt"]), (&1.into(), &1.into()));
    lab.engine.state().publisher_stats.octets = 0;
    lab.pass(5 * SECOND);
    lab.rtp(&publisher, VP8, 2, 102, 0);
    assert_eq!((&lab.counters()["ssrcs_learnt"], lab.engine.state().publisher_tracks.len()), (&2.into(), 1));
}

/// A publisher that finds no room is told, once, instead of staying connected without media.
#[tokio::test]
async fn a_publisher_without_room_for_its_track_is_closed() {
    let mut lab = lab().await;
    let publisher = lab.publish("room");
    lab.engine.state().refuse_tracks = true;
    for index in 0..100 {
        lab.rtp(&publisher, VP8, 1, 1 + index, 0);
    }
    assert!(lab.task.sessions.get(publisher.key).is_none());
    assert_eq!(lab.counters()["refused_by_engine"], 1);
    assert_eq!(lab.engine.state().calls.iter().filter(|call| *call == "add_publisher_track").count(), 1);
}

#[tokio::test]
async fn a_flow_that_vanished_comes_back() {
    let mut lab = lab().await;
    let publisher = lab.publish("room");
    lab.rtp(&publisher, VP8, 1, 1, 0);
    lab.rtp(&publisher, VP8, 1, 2, 0);
    lab.engine.state().flow_lost = true;
    let restored = |lab: &Lab| lab.engine.state().calls.iter().filter(|call| *call == "restore").count();
    assert_eq!(restored(&lab), 0, "what was on its way");
    lab.pass(2 * SECOND);
    lab.rtp(&publisher, VP8, 1, 3, 0);
    assert_eq!((restored(&lab), &lab.counters()["flows_restored"]), (1, &1.into()));
}

#[tokio::test]
async fn a_viewer_may_come_while_the_publisher_connects() {
    let mut lab = lab().await;
    let answer = lab.offer(Role::Publisher, "room", PUBLISH).unwrap();
    let viewer = lab.play("room");
    let publisher = lab.connect(answer);
    lab.rtp(&publisher, VP8, 1, 1, 0);
    assert_eq!(lab.engine.state().subscriber_tracks.len(), 1);
    assert!(lab.task.sessions.get(viewer.key).is_some());
}

#[tokio::test]
async fn one_publisher_at_a_time_unless_it_is_gone() {
    let mut lab = lab().await;
    let slow = lab.offer(Role::Publisher, "room", PUBLISH).unwrap();
    let first = lab.publish("room");
    assert!(matches!(lab.offer(Role::Publisher, "room", PUBLISH), Err(Refusal::Conflict(_))));
    let late = lab.connect(slow);
    assert!(lab.task.sessions.get(late.key).is_none(), "the name is taken by who is connected first");
    lab.publish("other");
    lab.pass(11 * SECOND);
    let next = lab.publish("room");
    assert!(lab.task.sessions.get(first.key).is_none(), "it was silent");
    assert_eq!(lab.task.streams.publisher("room"), Some(next.key));
}

#[tokio::test]
async fn publishers_get_reports_remb_and_merged_keyframe_requests() {
    let mut lab = lab().await;
    let mut publisher = lab.publish("room");
    lab.rtp(&publisher, VP8, 77, 1, 0);
    lab.pass(Duration::from_millis(20));
    let mut viewers: Vec<_> = (0..3).map(|_| lab.play("room")).collect();
    let ssrcs: Vec<u32> = lab.engine.state().subscriber_tracks.values().map(|(_, _, track)| track.ssrc).collect();
    for (viewer, ssrc) in viewers.iter_mut().zip(ssrcs) {
        let pli = to_publisher(1, "viewer", &[], &[Feedback::Pli { ssrc }]).unwrap();
        lab.rtcp(viewer, &pli);
    }
    assert_eq!(lab.counters()["keyframe_requests_received"], 3);
    let stats = PublisherStats {
        first: ExtendedSeq(2),
        highest: ExtendedSeq(101),
        packets: 90,
        jitter: 9,
        ..Default::default()
    };
    lab.engine.state().publisher_stats = stats;
    let sr = to_viewer(&[Sent { ssrc: 77, ntp: 5 << 32, rtp: 0, packets: 0, octets: 0 }], "x").unwrap();
    lab.rtcp(&mut publisher, &sr);
    lab.pass(Duration::from_millis(1100));
    let (packets, parsed) = publisher.received();
    // One when the track started, one for all that joined and asked within the next half second.
    assert_eq!(count(&packets, 206, Some(1)), 2);
    assert!((2..=4).contains(&count(&packets, 206, Some(15))), "REMB each 500 ms");
    let report = parsed.iter().find_map(|one| if let Incoming::Reception(r) = one { Some(*r) } else { None }).unwrap();
    assert_eq!((report.ssrc, report.cumulative_lost, report.highest, report.jitter), (77, 10, 101, 9));
    assert_eq!((report.fraction_lost, report.last_sr), (25, 5 << 16));
    let delay = report.delay_since_last_sr;
    assert!((60_000..80_000).contains(&delay), "about a second: {delay}");
}

#[tokio::test]
async fn viewers_get_sender_reports_on_the_publishers_clock() {
    let mut lab = lab().await;
    let mut publisher = lab.publish("room");
    lab.rtp(&publisher, VP8, 77, 1, 0);
    lab.rtp(&publisher, OPUS, 78, 1, 0);
    let mut viewer = lab.play("room");
    let sent = [
        Sent { ssrc: 77, ntp: 1000 << 32, rtp: 900_000, packets: 0, octets: 0 },
        Sent { ssrc: 78, ntp: 1000 << 32, rtp: 480_000, packets: 0, octets: 0 },
    ];
    lab.rtcp(&mut publisher, &to_viewer(&sent, "x").unwrap());
    lab.engine.state().subscriber_stats = SubscriberStats { packets: 12, octets: 3456, ..Default::default() };
    let (start, at) = (lab.now, lab.task.ntp.at(lab.now));
    lab.pass(Duration::from_millis(1020));
    let (packets, parsed) = viewer.received();
    let ssrc_of = |kind| {
        let state = lab.engine.state();
        state.subscriber_tracks.values().find(|(_, _, track)| track.kind == kind).unwrap().2.ssrc
    };
    let (video, audio) = (ssrc_of(Kind::Video), ssrc_of(Kind::Audio));
    let times = |wanted| {
        let report = parsed.iter().find_map(|one| match one {
            Incoming::SenderReport { ssrc, ntp, rtp } if *ssrc == wanted => Some((*ntp, *rtp)),
            _ => None,
        });
        report.unwrap()
    };
    let ((video_ntp, video_rtp), (audio_ntp, audio_rtp)) = (times(video), times(audio));
    assert_eq!(video_ntp, audio_ntp);
    let ms = (video_ntp.wrapping_sub(at) * 1000) >> 32;
    assert!((990..=1020).contains(&ms), "{ms} ms after {start:?}");
    assert!((u64::from(video_rtp - 900_000)).abs_diff(ms * 90) < 180, "{video_rtp}");
    assert!((u64::from(audio_rtp - 480_000)).abs_diff(ms * 48) < 96, "{audio_rtp}");
    let sr = packets.iter().find(|packet| packet[1] == 200).unwrap();
    assert_eq!((&sr[20..24], &sr[24..28]), (&12u32.to_be_bytes()[..], &3456u32.to_be_bytes()[..]));
    assert_eq!(count(&packets, 202, None), 1, "one SDES with a CNAME for both");

    // The viewer's report gives loss and round trip.
    lab.now += Duration::from_millis(30);
    let reception =
        Reception { ssrc: video, fraction_lost: 64, last_sr: (video_ntp >> 16) as u32, ..Default::default() };
    lab.rtcp(&mut viewer, &to_publisher(9, "viewer", &[reception], &[]).unwrap());
    let snapshot = lab.task.snapshot(lab.now);
    let track = &snapshot["sessions"][1]["tracks"][1];
    assert_eq!((track["kind"].as_str(), track["loss"].as_f64()), (Some("video"), Some(0.25)), "{snapshot:#}");
    assert!(track["rtt_ms"].as_f64().is_some_and(|rtt| (20.0..70.0).contains(&rtt)), "{track:#}");
}

#[tokio::test]
async fn hostile_rtcp_is_counted_and_harmless() {
    let mut lab = lab().await;
    let mut publisher = lab.publish("room");
    let good = to_publisher(1, "x", &[Reception::default()], &[Feedback::Fir { ssrc: 5, seq: 1 }]).unwrap();
    for len in (8..good.len()).step_by(2) {
        lab.rtcp(&mut publisher, &good[..len]);
    }
    let mut noise = 1u64;
    for _ in 0..2000 {
        let mut packet = good.clone();
        for _ in 0..3 {
            noise = noise.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let at = (noise >> 33) as usize % packet.len();
            packet[at] = (noise >> 20) as u8;
        }
        lab.rtcp(&mut publisher, &packet);
    }
    assert!(lab.counters()["rtcp_malformed"].as_u64().unwrap() > 100);
    lab.task.rtcp(publisher.key, &[0x80, 200, 0, 0], lab.now);
    assert_eq!(lab.counters()["rtcp_auth_failed"], 1);
    assert!(lab.task.sessions.get(publisher.key).is_some());
}
