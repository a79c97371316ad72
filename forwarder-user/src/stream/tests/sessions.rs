//! Connecting: keys, SSRCs, keyframe requests.

use forwarder_common::ExtendedSeq;
use str0m::Event;
use str0m::media::MediaKind;

use super::*;
use crate::stream::{Patched, Refusal};
use penstock_engine::Kind;
use penstock_srtp::testing::{open_rtp, seal_rtp};

#[tokio::test]
async fn a_publishers_keys_and_first_packet_reach_the_engine() {
    let (control, engine) = start(config());
    let mut publisher = publisher(&control, "room").await;
    publisher.until("keys in the engine", |_| !engine.state().sessions.is_empty()).await;
    let session = engine.state().sessions[&0].clone();
    assert_eq!((session.role, session.stream.as_str()), (Role::Publisher, "room"));
    assert_eq!((session.transport.peer, session.transport.local), (publisher.local, publisher.server.unwrap()));
    assert!(!publisher.answer.as_ref().unwrap().session.ends_with(&session.id), "only the short name is shown");

    publisher.write(MediaKind::Video, 1000, b"first video packet");
    publisher.until("a video track", |_| engine.state().publisher_tracks.len() == 1).await;
    let (_, track) = engine.state().publisher_tracks[&0];
    let ssrc = *publisher.ssrc(MediaKind::Video);
    assert_eq!((track.ssrc, track.kind, track.first, track.clock_rate), (ssrc, Kind::Video, ExtendedSeq(1000), 90_000));
    assert_eq!(track.payload_type, publisher.rtp[0][1] & 0x7f);
    let plain = open_rtp(&session.key, &publisher.rtp[0], ExtendedSeq(1000)).expect("the engine's key opens it");
    assert!(plain.ends_with(b"first video packet"));

    publisher.until("a keyframe request", |publisher| publisher.keyframe_requests() > 0).await;
    publisher.write(MediaKind::Audio, 7, b"first audio packet");
    publisher.until("an audio track", |_| engine.state().publisher_tracks.len() == 2).await;
    let (_, track) = engine.state().publisher_tracks[&1];
    assert_eq!((track.kind, track.first, track.clock_rate), (Kind::Audio, ExtendedSeq(7), 48_000));
}

#[tokio::test]
async fn a_viewer_is_attached_with_its_own_ssrc_and_key() {
    let (control, engine) = start(config());
    let mut publisher = publisher(&control, "room").await;
    publisher.write(MediaKind::Video, 1, b"video");
    publisher.until("a video track", |_| engine.state().publisher_tracks.len() == 1).await;
    publisher.until("a keyframe request", |publisher| publisher.keyframe_requests() == 1).await;

    let mut viewer = viewer(&control, "room").await;
    viewer.until("attached", |_| engine.state().subscriber_tracks.len() == 1).await;
    let (session, from, track) = engine.state().subscriber_tracks[&0];
    assert_eq!((from.0, track.kind), (0, Kind::Video));
    assert!(track.next_out < ExtendedSeq(0x8000));
    let answer = viewer.answer.as_ref().unwrap().sdp.clone();
    assert!(answer.contains(&format!("a=ssrc:{} cname:", track.ssrc)), "{answer}");
    publisher.until("another keyframe request", |publisher| publisher.keyframe_requests() == 2).await;

    // A packet sealed with the engine's key is one that the viewer takes.
    let key = engine.state().sessions[&session.0].key.clone();
    let mut packet = vec![0x80, track.payload_type];
    packet.extend((track.next_out.0 as u16).to_be_bytes());
    packet.extend([0, 0, 0, 1]);
    packet.extend(track.ssrc.to_be_bytes());
    packet.extend(b"copy");
    let server = viewer.server.unwrap();
    viewer.inject(server, &seal_rtp(&key, &packet, track.next_out));
    let arrived = |event: &Event| matches!(event, Event::RtpPacket(packet) if packet.payload[..] == *b"copy");
    viewer.until("the copy", |viewer| viewer.count(arrived) == 1).await;

    // Deleting ends the media before DTLS.
    let id = viewer.answer.as_ref().unwrap().session.clone();
    control.delete(Role::Subscriber, "room".into(), id.clone()).await.unwrap();
    assert!(
        engine.state().calls.ends_with(&["remove_subscriber_track".into(), "remove_session Some(Subscriber)".into()])
    );
    viewer.until("close_notify", |viewer| viewer.count(|event| matches!(event, Event::Closed)) == 1).await;
    assert!(control.delete(Role::Subscriber, "room".into(), id).await.is_ok(), "it ends once, and may be told twice");
}

#[tokio::test]
async fn an_ice_restart_keeps_keys_and_moves_the_session() {
    let (control, engine) = start(config());
    let mut publisher = publisher(&control, "room").await;
    publisher.until("keys in the engine", |_| !engine.state().sessions.is_empty()).await;
    let answer = publisher.answer.clone().unwrap();
    let patch = async |if_match: Option<&str>, fragment: &str| {
        let (stream, session) = ("room".to_owned(), answer.session.clone());
        control.patch(Role::Publisher, stream, session, if_match.map(str::to_owned), fragment.to_owned()).await
    };
    let trickle = "a=candidate:1 1 udp 1 3f2a.local 9 typ host\r\n";
    assert!(matches!(patch(Some(&answer.etag), trickle).await, Ok(Patched::Trickled)));
    assert!(matches!(patch(Some("other"), trickle).await, Err(Refusal::PreconditionFailed(_))));
    assert!(matches!(patch(None, "hello").await, Err(Refusal::Malformed(_))));

    let (ufrag, pwd) = publisher.restart();
    let fragment = format!("a=ice-ufrag:{ufrag}\r\na=ice-pwd:{pwd}\r\n");
    assert!(matches!(patch(None, &fragment).await, Err(Refusal::PreconditionRequired(_))));
    assert!(matches!(patch(Some("other"), &fragment).await, Err(Refusal::PreconditionFailed(_))));
    let Ok(Patched::Restarted { fragment, etag }) = patch(Some("*"), &fragment).await else { panic!("no restart") };
    assert_ne!(etag, answer.etag);
    // The client takes the fragment as an answer with the credentials changed.
    let value = |text: &str, name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)).map(str::to_owned);
        line.unwrap_or_else(|| panic!("{name} in {text}"))
    };
    let sdp = ["a=ice-ufrag:", "a=ice-pwd:"].iter().fold(answer.sdp.clone(), |sdp, name| {
        sdp.replace(&format!("{name}{}", value(&answer.sdp, name)), &format!("{name}{}", value(&fragment, name)))
    });
    assert_ne!(sdp, answer.sdp);
    publisher.accept(&sdp);
    publisher.events.clear();
    let nominated = |event: &Event| matches!(event, Event::IceConnectionStateChange(s) if *s == str0m::IceConnectionState::Connected || *s == str0m::IceConnectionState::Completed);
    publisher.until("ICE again", |publisher| publisher.count(nominated) > 0).await;
    publisher.write(MediaKind::Audio, 1, b"after the restart");
    publisher.until("a track", |_| engine.state().publisher_tracks.len() == 1).await;
    assert_eq!(engine.state().calls.iter().filter(|call| call.starts_with("add_session")).count(), 1);
}

#[tokio::test]
async fn reports_of_real_peers_pass_both_ways() {
    let (control, engine) = start(StreamConfig { refresh_interval: std::time::Duration::ZERO, ..config() });
    let mut publisher = publisher(&control, "room").await;
    publisher.write(MediaKind::Video, 1, b"video");
    publisher.until("a video track", |_| engine.state().publisher_tracks.len() == 1).await;
    let mut viewer = viewer(&control, "room").await;
    viewer.until("attached", |_| engine.state().subscriber_tracks.len() == 1).await;
    engine.state().subscriber_stats =
        penstock_engine::SubscriberStats { packets: 5, octets: 50, last_timestamp: 1, last_sent_ns: 1 };
    engine.state().publisher_stats = penstock_engine::PublisherStats {
        first: ExtendedSeq(2),
        highest: ExtendedSeq(3),
        packets: 2,
        last_arrival_ns: 1,
        ..Default::default()
    };
    // str0m's own SRTCP is authentic to us, and none of ours to it is malformed.
    viewer.until("a refreshed lease", |_| engine.state().calls.iter().any(|call| call == "refresh_session")).await;
    for _ in 0..300 {
        publisher.step(std::time::Duration::from_millis(2)).await;
        viewer.step(std::time::Duration::from_millis(2)).await;
    }
    let counters = control.snapshot().await.unwrap()["counters"]["control"].clone();
    assert_eq!((&counters["rtcp_auth_failed"], &counters["rtcp_malformed"]), (&0.into(), &0.into()), "{counters:#}");
    assert_eq!(counters["datagrams_not_sent"], 0);
    control.drain().await;
    assert!(engine.state().sessions.is_empty());
    publisher.until("close_notify", |publisher| publisher.count(|event| matches!(event, Event::Closed)) == 1).await;
}

#[tokio::test]
async fn codecs_must_match() {
    use str0m::format::Codec;
    let (control, _engine) = start(config());
    let mut publisher = Client::new(client::only(Codec::Vp9), Direction::SendOnly, &BOTH).await;
    publisher.signal(&control, Role::Publisher, "room").await.unwrap();
    publisher.connect().await;
    let mut viewer = Client::new(client::only(Codec::Vp8), Direction::RecvOnly, &BOTH).await;
    let answer = viewer.signal(&control, Role::Subscriber, "room").await;
    answer.expect("the sound plays");
    let mut viewer = Client::new(client::only(Codec::Vp8), Direction::RecvOnly, &[MediaKind::Video]).await;
    let refusal = viewer.signal(&control, Role::Subscriber, "room").await.unwrap_err();
    assert!(matches!(&refusal, Refusal::NotAcceptable(why) if why.contains("VP9") && why.contains("VP8")), "{refusal}");
    for codec in [Codec::Vp9, Codec::Vp9] {
        let mut viewer = Client::new(client::only(codec), Direction::RecvOnly, &[MediaKind::Video]).await;
        viewer.signal(&control, Role::Subscriber, "room").await.unwrap();
        viewer.connect().await;
    }
}
