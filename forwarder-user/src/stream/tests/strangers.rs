//! Two sessions, of which one is hostile: it has its own right, and sends from the other's address.

use std::time::Duration;

use forwarder_common::ExtendedSeq;
use str0m::ice::{StunMessage, TransId};

use super::lab::{Lab, OPUS, PLAY, PUBLISH, Remote, VP8};
use super::*;
use crate::stream::Answer;
use penstock_engine::PublisherStats;
use penstock_webrtc::dtls;
use penstock_webrtc::peer::Pair;

/// As the fixtures' offers say.
const UFRAG: &str = "EsAw";
const PWD: &str = "P2uYro0UCOQ4zxjKXaWCBui1";

fn sealed(message: StunMessage<'_>, password: &str) -> Vec<u8> {
    let hmac = |key: &[u8], parts: &[&[u8]]| dtls::provider().sha1_hmac_provider.sha1_hmac(key, parts);
    let mut buffer = [0; 1024];
    let len = message.to_bytes(Some(password.as_bytes()), &mut buffer, hmac).unwrap();
    buffer[..len].to_vec()
}

/// A check with a session's credentials, from wherever.
fn check(lab: &mut Lab, answer: &Answer, from: Pair) {
    let value = |name: &str| answer.sdp.lines().find_map(|line| line.strip_prefix(name)).unwrap().to_owned();
    let username = format!("{}:{UFRAG}", value("a=ice-ufrag:"));
    let message = StunMessage::binding_request(&username, TransId::new(), true, 1, 1, true);
    let bytes = sealed(message, &value("a=ice-pwd:"));
    lab.task.datagram(from, &bytes, lab.now);
}

/// The last Binding request of ours that came to a peer.
fn asked(remote: &Remote) -> Option<Vec<u8>> {
    remote.socket.set_nonblocking(true).unwrap();
    let (mut last, mut buffer) = (None, [0; 2048]);
    while let Ok(len) = remote.socket.recv(&mut buffer) {
        if StunMessage::parse(&buffer[..len]).is_ok_and(|message| message.is_binding_request()) {
            last = Some(buffer[..len].to_vec());
        }
    }
    last
}

fn answer(lab: &mut Lab, request: &[u8], from: Pair) {
    let id = StunMessage::parse(request).unwrap().trans_id();
    let bytes = sealed(StunMessage::binding_reply(id, from.peer), PWD);
    lab.task.datagram(from, &bytes, lab.now);
}

/// A publisher with media, and a hostile session beside it, both with an address.
async fn two() -> (Lab, Remote, Remote) {
    let mut lab = Lab::new(config()).await;
    let victim = lab.publish("room");
    let hostile = lab.publish("other");
    let (ours, theirs) = (victim.answer.clone(), hostile.answer.clone());
    check(&mut lab, &ours, victim.pair);
    check(&mut lab, &theirs, hostile.pair);
    lab.rtp(&victim, VP8, 1, 1, 0);
    lab.rtp(&victim, OPUS, 2, 1, 0);
    (lab, victim, hostile)
}

fn owner(lab: &Lab, pair: Pair) -> Option<u64> {
    lab.task.sessions.by_pair(pair)
}

#[tokio::test]
async fn checks_from_a_publishers_address_take_nothing_from_it() {
    let (mut lab, victim, hostile) = two().await;
    for _ in 0..10 {
        check(&mut lab, &hostile.answer, victim.pair);
    }
    assert_eq!(lab.counters()["stun_pair_in_use"], 10);
    assert_eq!(owner(&lab, victim.pair), Some(victim.key));
    let nominated = lab.task.sessions.get(hostile.key).unwrap().peer.nominated();
    assert_eq!(nominated, Some(hostile.pair));
    lab.rtp(&victim, VP8, 1, 2, 0);
    assert_eq!(lab.engine.state().publisher_tracks.len(), 2);
    assert!(asked(&victim).is_none(), "it is not even asked while it is heard");
}

#[tokio::test]
async fn a_viewers_address_is_as_safe() {
    let (mut lab, victim, hostile) = two().await;
    let viewer = lab.play("room");
    let answer = viewer.answer.clone();
    check(&mut lab, &answer, viewer.pair);
    check(&mut lab, &hostile.answer, viewer.pair);
    assert_eq!(owner(&lab, viewer.pair), Some(viewer.key));
    assert_eq!(owner(&lab, victim.pair), Some(victim.key));
}

/// Who was silent for long may have gone: whoever receives there gets the address, and nobody else.
#[tokio::test]
async fn a_silent_peers_address_goes_to_who_receives_there() {
    let (mut lab, victim, hostile) = two().await;
    lab.pass(Duration::from_secs(9));
    check(&mut lab, &hostile.answer, victim.pair);
    assert_eq!(owner(&lab, victim.pair), Some(victim.key), "the check alone takes nothing");
    let request = asked(&victim).expect("whoever receives there is asked");
    answer(&mut lab, &request, hostile.pair);
    assert_eq!(owner(&lab, victim.pair), Some(victim.key), "an answer from elsewhere neither");
    answer(&mut lab, &request, victim.pair);
    assert_eq!(owner(&lab, victim.pair), Some(hostile.key));
}

/// Fifteen seconds of silence, a lift, say: the same session goes on.
#[tokio::test]
async fn silence_of_fifteen_seconds_ends_nothing() {
    let (mut lab, victim, _) = two().await;
    for _ in 0..3 {
        lab.pass(Duration::from_secs(16));
        let answer = victim.answer.clone();
        check(&mut lab, &answer, victim.pair);
    }
    assert!(lab.task.sessions.get(victim.key).is_some());
    lab.pass(Duration::from_secs(31));
    assert!(lab.task.sessions.get(victim.key).is_none());
}

/// Ten thousand addresses, none of which answers.
#[tokio::test]
async fn spoofed_checks_leave_nothing_behind_but_sixteen_pairs() {
    let (mut lab, victim, hostile) = two().await;
    for port in 10_000..20_000 {
        let from = Pair { socket: 0, peer: ([127, 0, 0, 9], port).into() };
        check(&mut lab, &hostile.answer, from);
    }
    let session = lab.task.sessions.get(hostile.key).unwrap();
    assert!(session.pairs.len() <= 16);
    assert_eq!(owner(&lab, victim.pair), Some(victim.key));
}

#[tokio::test]
async fn an_offer_is_not_read_where_nothing_can_come_of_it() {
    let lab = &mut Lab::new(StreamConfig { max_sessions: 1, ..config() }).await;
    assert!(matches!(lab.offer(Role::Subscriber, "nobody", "hello"), Err(crate::stream::Refusal::NobodyPublishes(_))));
    lab.publish("room");
    assert!(matches!(lab.offer(Role::Publisher, "room", "hello"), Err(crate::stream::Refusal::Conflict(_))));
    assert!(matches!(lab.offer(Role::Publisher, "x", "hello"), Err(crate::stream::Refusal::Unavailable(_))));
    assert!(matches!(lab.offer(Role::Subscriber, "room", PLAY), Err(crate::stream::Refusal::Unavailable(_))));
}

/// A NAT has given the publisher another port, and its next check is seconds away.
#[tokio::test]
async fn a_publisher_is_followed_by_what_it_sends_and_only_by_new_packets() {
    let (mut lab, victim, _) = two().await;
    lab.engine.state().publisher_stats = PublisherStats { highest: ExtendedSeq(10), ..Default::default() };
    let there = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let pair = Pair { socket: 0, peer: there.local_addr().unwrap() };
    there.set_nonblocking(true).unwrap();
    let came = |there: &std::net::UdpSocket| {
        let mut buffer = [0; 2048];
        there.recv(&mut buffer).ok().map(|len| buffer[..len].to_vec())
    };
    let (old, mut forged) = (lab.sealed(&victim, VP8, 1, 9, 0), lab.sealed(&victim, VP8, 1, 11, 0));
    *forged.last_mut().unwrap() ^= 1;
    for packet in [&old, &forged] {
        lab.task.datagram(pair, packet, lab.now);
    }
    assert!(came(&there).is_none(), "what was there before, or is forged, asks nobody");
    let new = lab.sealed(&victim, VP8, 1, 11, 0);
    lab.task.datagram(pair, &new, lab.now);
    let nominated = |lab: &Lab| lab.task.sessions.get(victim.key).unwrap().peer.nominated();
    assert_eq!(nominated(&lab), Some(victim.pair), "it moves nothing by itself");
    let request = came(&there).expect("a Binding request, at once");
    answer(&mut lab, &request, pair);
    assert_eq!((nominated(&lab), owner(&lab, pair)), (Some(pair), Some(victim.key)));
    assert_eq!(lab.counters()["strays_authentic"], 1);
}

/// Packets with its SSRC from everywhere cost a publisher twenty authentications a second, and move it nowhere.
#[tokio::test]
async fn a_flood_with_its_ssrc_moves_nobody() {
    let (mut lab, victim, _) = two().await;
    let packet = lab.sealed(&victim, VP8, 1, 50, 0);
    for port in 10_000..11_000 {
        lab.task.datagram(Pair { socket: 0, peer: ([127, 0, 0, 9], port).into() }, &packet, lab.now);
    }
    assert_eq!(lab.counters()["strays_authentic"], 20);
    assert_eq!(lab.task.sessions.get(victim.key).unwrap().peer.nominated(), Some(victim.pair));
}

/// A loop of POSTs fills the pool, from one address and then from many, and keeps neither a place nor a name.
#[tokio::test]
async fn half_open_sessions_keep_nobody_out() {
    let mut lab = Lab::new(StreamConfig { max_sessions: 40, ..config() }).await;
    for _ in 0..200 {
        let _ = lab.offer_from([192, 0, 2, 1], Role::Publisher, "room", PUBLISH);
    }
    assert_eq!((lab.task.sessions.len(), &lab.counters()["half_open_replaced"]), (20, &0.into()));
    let owner = lab.offer_from([192, 0, 2, 2], Role::Publisher, "room", PUBLISH).unwrap();
    for _ in 0..200 {
        let _ = lab.offer_from([192, 0, 2, 1], Role::Publisher, "room", PUBLISH);
    }
    let owner = lab.connect(owner);
    assert_eq!(lab.task.streams.publisher("room"), Some(owner.key), "the name is its own");
    // The same address as the flood's is no hindrance for long either: what nobody came for makes way.
    lab.pass(Duration::from_millis(1100));
    let beside = lab.offer_from([192, 0, 2, 1], Role::Subscriber, "room", PLAY).unwrap();
    lab.connect(beside);
    for _ in 0..25 {
        let viewer = lab.offer_from([192, 0, 2, 2], Role::Subscriber, "room", PLAY).unwrap();
        for last in 3..30 {
            let _ = lab.offer_from([192, 0, 2, last], Role::Subscriber, "room", PLAY);
        }
        lab.connect(viewer);
    }
    assert_eq!(lab.task.sessions.len() - lab.task.sessions.half_open(), 27);
    lab.pass(Duration::from_secs(4));
    assert!(lab.task.sessions.half_open() < 20, "a full pool does not stay so");
    lab.pass(Duration::from_secs(12));
    assert_eq!(lab.task.sessions.half_open(), 0);
}
