//! Limits, hostile input, and the end of sessions.

use std::time::Duration;

use str0m::crypto::dtls::SrtpProfile;
use zeroize::Zeroizing;

use super::lab::{Lab, OPUS, PLAY, PUBLISH, VP8, count};
use super::*;
use crate::stream::Refusal;
use penstock_webrtc::dtls::Keying;
use penstock_webrtc::peer::Pair;

#[tokio::test]
async fn a_peer_without_gcm_is_refused_and_counted() {
    let mut lab = Lab::new(config()).await;
    let answer = lab.offer(Role::Publisher, "room", PUBLISH).unwrap();
    let key = lab.task.sessions.by_id(&answer.session).unwrap();
    let keying =
        Keying { profile: SrtpProfile::AES128_CM_SHA1_80, material: Zeroizing::new(vec![0; 60]), we_are_client: false };
    lab.task.connected(key, &keying, Pair { socket: 0, peer: "127.0.0.1:9".parse().unwrap() }, lab.now);
    assert!(lab.task.sessions.is_empty() && lab.task.streams.is_empty());
    assert!(lab.engine.state().calls.is_empty(), "no key for the engine");
    assert_eq!(lab.counters()["refused_srtp_profile"], 1);
}

#[tokio::test]
async fn an_engine_that_is_full_ends_the_session_only() {
    let mut lab = Lab::new(config()).await;
    let publisher = lab.publish("room");
    lab.engine.state().refuse_sessions = true;
    let answer = lab.offer(Role::Subscriber, "room", PLAY).unwrap();
    lab.connect(answer);
    assert_eq!(lab.task.sessions.keys(), [publisher.key]);
    assert_eq!(lab.counters()["refused_by_engine"], 1);
}

#[tokio::test]
async fn a_stream_takes_as_many_viewers_as_it_may() {
    let mut limited = config();
    limited.max_viewers = [("room".to_owned(), 2)].into();
    let mut lab = Lab::new(limited).await;
    lab.publish("room");
    lab.publish("hall");
    let first = lab.offer(Role::Subscriber, "room", PLAY).unwrap();
    lab.offer(Role::Subscriber, "room", PLAY).unwrap();
    let refused = lab.offer(Role::Subscriber, "room", PLAY).map(drop).unwrap_err();
    assert!(matches!(&refused, Refusal::Unavailable(why) if why.contains("max_viewers")), "{refused}");
    (0..5).for_each(|_| drop(lab.offer(Role::Subscriber, "hall", PLAY).unwrap()));
    let key = lab.task.sessions.by_id(&first.session).unwrap();
    lab.task.close(key, "a test");
    lab.offer(Role::Subscriber, "room", PLAY).unwrap();
}

#[tokio::test]
async fn sessions_that_never_connect_are_dropped() {
    let mut lab = Lab::new(config()).await;
    for i in 0..20 {
        lab.offer(Role::Publisher, &format!("room {i}"), PUBLISH).unwrap();
    }
    lab.pass(Duration::from_millis(14_900));
    assert_eq!(lab.task.sessions.len(), 20);
    lab.pass(Duration::from_millis(200));
    assert!(lab.task.sessions.is_empty() && lab.task.streams.is_empty());
    assert_eq!(lab.counters()["sessions_timed_out"], 20);
}

#[tokio::test]
async fn consent_that_is_not_renewed_ends_the_session() {
    let mut lab = Lab::new(config()).await;
    lab.publish("room");
    lab.pass(Duration::from_millis(29_900));
    assert_eq!(lab.task.sessions.len(), 1);
    lab.pass(Duration::from_millis(1200));
    assert!(lab.task.sessions.is_empty());
    assert!(lab.engine.state().sessions.is_empty());
    assert!(!lab.engine.state().calls.contains(&"refresh_session".to_owned()), "nobody asked us to go on");
}

#[tokio::test]
async fn a_standstill_counts_for_nobody() {
    let mut lab = Lab::new(config()).await;
    lab.publish("room");
    lab.offer(Role::Publisher, "lobby", PUBLISH).unwrap();
    lab.pass(Duration::from_secs(10));
    // SIGSTOP: no timer ran, and everything that was due is late.
    let due = lab.now;
    lab.now += Duration::from_secs(25);
    lab.task.notice_standstill(due, lab.now);
    lab.task.run_timers(lab.now);
    assert_eq!((lab.task.sessions.len(), lab.counters()["standstills"].as_u64()), (2, Some(1)));
    // What is left of everybody's time goes on from there.
    lab.pass(Duration::from_millis(4_900));
    assert_eq!(lab.task.sessions.len(), 2);
    lab.pass(Duration::from_millis(200));
    assert_eq!((lab.task.sessions.len(), lab.counters()["sessions_timed_out"].as_u64()), (1, Some(1)));
    lab.pass(Duration::from_millis(14_800));
    assert_eq!(lab.task.sessions.len(), 1);
    lab.pass(Duration::from_millis(1_500));
    assert!(lab.task.sessions.is_empty());
}

#[tokio::test]
async fn more_sessions_than_allowed_are_refused() {
    let mut lab = Lab::new(StreamConfig { max_sessions: 2, ..config() }).await;
    lab.publish("a");
    lab.publish("b");
    assert!(matches!(lab.offer(Role::Publisher, "c", PUBLISH), Err(Refusal::Unavailable(_))));
    assert!(!lab.task.streams.contains("c"), "nothing leaks");
}

#[tokio::test]
async fn refused_offers_leave_nothing_behind() {
    let mut lab = Lab::new(config()).await;
    let cases = [
        (Role::Publisher, "hello".to_owned()),
        (Role::Publisher, "v=0\r\n".repeat(10_000)),
        (Role::Publisher, PLAY.to_owned()),
        (Role::Publisher, PUBLISH.replace("a=fingerprint", "a=no")),
        (Role::Subscriber, PLAY.to_owned()),
    ];
    for (role, sdp) in cases {
        let refusal = lab.offer(role, "room", &sdp).unwrap_err();
        assert!(!refusal.to_string().is_empty());
    }
    assert!(lab.task.sessions.is_empty() && lab.task.streams.is_empty());
    assert_eq!(lab.counters()["refused_offers"], 5);
}

#[tokio::test]
async fn garbage_from_anywhere_is_counted_by_kind() {
    let mut lab = Lab::new(config()).await;
    let publisher = lab.publish("room");
    let stranger = Pair { socket: 0, peer: "192.0.2.9:1".parse().unwrap() };
    let mut binding = vec![0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42];
    binding.extend([7; 12]);
    for bytes in
        [&[][..], &[0], &[1; 300], &binding, &[22, 1, 2], &[0x80, 96, 3], &[0x80, 200, 3], &[70; 10], &[255; 9]]
    {
        lab.task.datagram(stranger, bytes, lab.now);
    }
    let mut noise = 9u64;
    for len in 0..1500 {
        let bytes: Vec<u8> = (0..len)
            .map(|_| {
                noise = noise.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (noise >> 40) as u8
            })
            .collect();
        lab.task.datagram(stranger, &bytes, lab.now);
        lab.task.datagram(publisher.pair, &bytes, lab.now);
    }
    let counters = lab.counters();
    for name in ["other_protocol", "stun_malformed", "unknown_peer"] {
        assert!(counters[name].as_u64().unwrap() > 2, "{name} in {counters:#}");
    }
    assert!(lab.task.sessions.get(publisher.key).is_some());
}

#[tokio::test]
async fn draining_takes_media_out_first_and_says_goodbye() {
    let mut lab = Lab::new(config()).await;
    let publisher = lab.publish("room");
    let mut viewer = lab.play("room");
    lab.rtp(&publisher, VP8, 1, 1, 0);
    lab.rtp(&publisher, OPUS, 2, 1, 0);
    lab.task.close_all();
    lab.events();
    let state = lab.engine.state();
    assert!(state.sessions.is_empty() && state.publisher_tracks.is_empty() && state.subscriber_tracks.is_empty());
    let (packets, _) = viewer.received();
    assert_eq!(count(&packets, 203, Some(2)), 1, "BYE for both SSRCs");
}

#[tokio::test]
async fn a_snapshot_shows_everything_but_secrets() {
    let mut lab = Lab::new(config()).await;
    let publisher = lab.publish("room");
    let viewer = lab.play("room");
    lab.rtp(&publisher, VP8, 1, 1, 0);
    let snapshot = lab.task.snapshot(lab.now);
    let text = snapshot.to_string();
    for secret in [&publisher.answer.session, &viewer.answer.session, &publisher.answer.etag] {
        assert!(!text.contains(secret.as_str()));
    }
    assert_eq!(snapshot["streams"][0]["name"], "room");
    assert_eq!((&snapshot["streams"][0]["viewers"], &snapshot["streams"][0]["live"]), (&1.into(), &true.into()));
    assert_eq!(snapshot["streams"][0]["publisher"]["codecs"], serde_json::json!(["opus", "VP8"]));
    assert_eq!(snapshot["sessions"][0]["profile"], "AEAD_AES_256_GCM");
    assert_eq!(snapshot["sessions"][0]["tracks"][1]["ssrc"], 1);
    assert_eq!(snapshot["sessions"][1]["tracks"][1]["state"], "attached");
    assert_eq!(snapshot["counters"]["control"]["sessions_connected"], 2);
}
