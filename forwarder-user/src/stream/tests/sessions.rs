//! Connecting: keys, SSRCs, keyframe requests.

use forwarder_common::ExtendedSeq;
use str0m::Event;
use str0m::media::MediaKind;

use super::*;
use crate::engine::Kind;
use crate::session::testing::{open_rtp, seal_rtp};

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
    assert!(control.delete(Role::Subscriber, "room".into(), id).await.is_err());
}
