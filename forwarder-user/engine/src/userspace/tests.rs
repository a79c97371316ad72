//! A subscriber that joins a track which keeps its group of pictures, packet by packet.

use std::{
    net::UdpSocket,
    sync::Arc,
    time::{Duration, Instant},
};

use forwarder_common::{RtpHeader, rtp::FIXED_LEN};
use tokio::sync::mpsc;

use penstock_srtp::cipher::Cipher;

use super::*;
use crate::{
    Dscp, Engine as _, Feeder as _, Kind, MediaKey, NewSession, NewSubscriberTrack, Profile, Role, Sources as _,
    Unrepaired,
};

const SSRC: u32 = 0x1234_5678;
/// The first outgoing index: its sequence number wraps soon.
const NEXT_OUT: u64 = 0xfff0;
const OFFSET: u32 = 1_000_000;
/// A frame at 25 Hz.
const FRAME: u32 = 3600;

fn key() -> MediaKey {
    MediaKey { profile: Profile::AeadAes128Gcm, key: vec![3; 16], salt: [7; 14], auth_key: Vec::new() }
}

struct Lab {
    engine: UserspaceEngine,
    feeder: Forwarder,
    track: PublisherTrackId,
    sockets: Arc<MediaSockets>,
    events: mpsc::UnboundedReceiver<Event>,
    next_in: u64,
    last: Instant,
}

/// What a subscriber got: outgoing index, timestamp without the track's offset, payload.
type Got = Vec<(u64, u32, Vec<u8>)>;

impl Lab {
    fn new() -> Self {
        Self::with(Keep { group: 1 << 20, recent: 0 })
    }

    #[expect(clippy::disallowed_methods, reason = "as the server's")]
    fn with(keep: Keep) -> Self {
        let (events, received) = mpsc::unbounded_channel();
        let engine = UserspaceEngine::new(Config::default(), events);
        let sockets = Arc::new(MediaSockets::bind(&["127.0.0.1:0".parse().unwrap()], 1, 1 << 20).unwrap());
        engine.set_sockets(&sockets);
        let feeder = UserspaceEngine::feeder(&engine).unwrap();
        let source = NewSource { clock_rate: 90_000, last: ExtendedSeq(0), keep, ordered: true };
        let track = UserspaceEngine::add_source(&engine, source).unwrap();
        Self { engine, feeder, track, sockets, events: received, next_in: 1, last: Instant::now() }
    }

    /// A frame of one packet, which names its incoming index.
    fn push(&mut self, key: bool) {
        let mut header = [0; FIXED_LEN];
        header[0] = 0x80;
        header[4..8].copy_from_slice(&(self.next_in as u32 * FRAME).to_be_bytes());
        let (index, header, payload) = (ExtendedSeq(self.next_in), RtpHeader::new(&header), self.next_in.to_be_bytes());
        self.feeder.push(self.track, index, &header, &payload, key);
        self.next_in += 1;
    }

    fn join(&self) -> (UdpSocket, SubscriberTrackId) {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        let transport = Transport::udp(self.sockets.bound()[0], socket.local_addr().unwrap());
        let (id, stream) = ("a".into(), "b".into());
        let new = NewSession { id, stream, role: Role::Subscriber, key: key(), transport, of_source: true };
        let session = self.engine.add_session(new).unwrap();
        let track = NewSubscriberTrack {
            ssrc: SSRC,
            kind: Kind::Video,
            payload_type: 96,
            next_out: ExtendedSeq(NEXT_OUT),
            index_offset: None,
            timestamp_offset: OFFSET,
            dscp: Dscp::default(),
        };
        (socket, self.engine.add_subscriber_track(session, self.track, track).unwrap())
    }

    /// What the thread of the sources does at the end of a batch.
    fn flush(&mut self) {
        self.feeder.flush();
        self.feeder.catch_up(&mut self.last);
    }

    /// Until nobody lacks anything.
    fn settle(&mut self) {
        for _ in 0..100 {
            std::thread::sleep(Duration::from_millis(6));
            self.flush();
        }
    }

    fn next_out(&mut self, track: SubscriberTrackId) -> u64 {
        self.engine.remove_subscriber_track(track);
        while let Ok(event) = self.events.try_recv() {
            if let Event::SubscriberTrackStopped { track: stopped, next_out, .. } = event
                && stopped == track
            {
                return next_out.0;
            }
        }
        panic!("no event");
    }
}

/// Everything that has arrived, opened. The sequence numbers begin with that of `NEXT_OUT`.
fn receive(socket: &UdpSocket) -> Got {
    let cipher = Cipher::new(&key()).unwrap();
    let (mut got, mut buffer, mut highest) = (vec![], [0; 1500], ExtendedSeq(NEXT_OUT));
    while let Ok(len) = socket.recv(&mut buffer) {
        let packet = &mut buffer[..len];
        let (header, header_len) = RtpHeader::parse(packet).unwrap();
        let index = highest.estimate(header.seq()).unwrap();
        highest = highest.max(index);
        let payload_len = cipher.open_rtp(packet, header_len, header.ssrc(), index).expect("the tag is wrong");
        let payload = packet[header_len..header_len + payload_len].to_vec();
        got.push((index.0, header.timestamp().wrapping_sub(OFFSET), payload));
    }
    got
}

/// Each from `first` to `last` once, in order, under consecutive indices from `NEXT_OUT` on.
fn assert_each_once(got: &Got, first: u64, last: u64) {
    let indices: Vec<u64> = got.iter().map(|packet| packet.0).collect();
    let payloads: Vec<u64> =
        got.iter().map(|packet| u64::from_be_bytes(packet.2.as_slice().try_into().unwrap())).collect();
    assert_eq!(payloads, (first..=last).collect::<Vec<_>>());
    assert_eq!(indices, (NEXT_OUT..NEXT_OUT + last - first + 1).collect::<Vec<_>>());
}

#[test]
fn a_subscriber_begins_with_the_last_keyframe_and_misses_nothing() {
    let mut lab = Lab::new();
    (0..5).for_each(|_| lab.push(false));
    lab.push(true);
    (0..200).for_each(|_| lab.push(false));
    lab.flush();
    // These wait for the end of their batch while the subscriber joins.
    (0..3).for_each(|_| lab.push(false));
    let (socket, track) = lab.join();
    // These come while it is behind.
    for _ in 0..10 {
        lab.push(false);
        lab.flush();
    }
    lab.settle();
    (0..5).for_each(|_| lab.push(false));
    lab.flush();
    let got = receive(&socket);
    assert_each_once(&got, 6, lab.next_in - 1);
    for (out, timestamp, _) in &got {
        assert_eq!(*timestamp, (out - NEXT_OUT + 6) as u32 * FRAME);
    }
    let stats = lab.engine.subscriber_stats(track).unwrap();
    assert_eq!(stats.packets, got.len() as u64);
    // Above everything that was used.
    assert_eq!(lab.next_out(track), NEXT_OUT + got.len() as u64);
}

/// Every packet once more, of the past and of the present: the same bytes.
#[test]
fn what_is_sealed_again_is_the_same_to_the_byte() {
    let never = Err(Unrepaired::NeverSent);
    for keep in [Keep { group: 1 << 20, recent: 0 }, Keep { group: 0, recent: 1 << 20 }] {
        let mut lab = Lab::with(keep);
        lab.push(true);
        (0..50).for_each(|_| lab.push(false));
        lab.flush();
        let (socket, track) = lab.join();
        assert_eq!(lab.engine.repair(track, NEXT_OUT as u16, None), never, "nothing was sent yet");
        lab.settle();
        (0..50).for_each(|_| lab.push(false));
        // Kept, but not sent.
        assert_eq!(lab.engine.repair(track, (NEXT_OUT as u16).wrapping_add(51), None), never);
        lab.flush();
        let (mut buffer, mut packets) = ([0; 1500], 0);
        while let Ok(len) = socket.recv(&mut buffer) {
            let seq = u16::from_be_bytes([buffer[2], buffer[3]]);
            assert_eq!(lab.engine.repair(track, seq, None).as_deref(), Ok(&buffer[..len]), "{seq}");
            packets += 1;
        }
        assert_eq!(packets, if keep.group > 0 { 101 } else { 50 });
        // One that was never sent, before and after.
        assert_eq!(lab.engine.repair(track, (NEXT_OUT as u16).wrapping_sub(1), None), never);
        assert_eq!(lab.engine.repair(track, (NEXT_OUT as u16).wrapping_add(packets), None), never);
        lab.engine.remove_subscriber_track(track);
        assert_eq!(lab.engine.repair(track, NEXT_OUT as u16, None), never);
    }
}

#[test]
fn one_that_leaves_while_it_is_behind_leaves_no_index_behind() {
    let mut lab = Lab::new();
    lab.push(true);
    (0..500).for_each(|_| lab.push(false));
    lab.flush();
    let (socket, track) = lab.join();
    std::thread::sleep(Duration::from_millis(6));
    lab.flush();
    // Whatever was to come is counted as used.
    assert_eq!(lab.next_out(track), NEXT_OUT + 501);
    lab.settle();
    let got = receive(&socket);
    assert!(!got.is_empty() && got.len() < 200, "{}", got.len());
    assert_each_once(&got, 1, got.len() as u64);
}

#[test]
fn without_a_keyframe_a_subscriber_begins_with_what_comes() {
    let mut lab = Lab::new();
    (0..5).for_each(|_| lab.push(false));
    let (socket, _) = lab.join();
    (0..5).for_each(|_| lab.push(false));
    lab.flush();
    assert_each_once(&receive(&socket), 6, 10);
    // Nor after the source has gone.
    lab.push(true);
    lab.flush();
    lab.feeder.forget(lab.track);
    let (socket, _) = lab.join();
    lab.push(false);
    lab.flush();
    assert_each_once(&receive(&socket), 12, 12);
    let stats = lab.engine.kept_stats(lab.track).unwrap();
    assert_eq!((stats.hits, stats.misses, stats.limit), (0, 2, 1 << 20));
}

#[test]
fn many_that_join_at_once_all_get_theirs() {
    let mut lab = Lab::new();
    lab.push(true);
    // No more than a socket holds until it is read.
    (0..100).for_each(|_| lab.push(false));
    lab.flush();
    let viewers: Vec<_> = (0..40).map(|_| lab.join().0).collect();
    lab.push(false);
    lab.settle();
    for socket in viewers {
        assert_each_once(&receive(&socket), 1, 102);
    }
}

fn session(engine: &UserspaceEngine, sockets: &MediaSockets, role: Role, peer: &str) -> SessionId {
    let transport = crate::Transport::udp(sockets.bound()[0], peer.parse().unwrap());
    let (id, stream) = (peer.to_owned(), "s".to_owned());
    let new = NewSession { id, stream, role, key: key(), transport, of_source: false };
    engine.add_session(new).unwrap()
}

/// A session of its own right cannot take another's packets: neither by a track, nor by moving there.
#[test]
fn a_flow_belongs_to_who_had_it_first() {
    let lab = Lab::new();
    let new = |ssrc| crate::NewPublisherTrack {
        ssrc,
        kind: Kind::Video,
        payload_type: 96,
        clock_rate: 90_000,
        first: ExtendedSeq(1),
        sequence_extension: None,
    };
    let owner = session(&lab.engine, &lab.sockets, Role::Publisher, "127.0.0.1:1000");
    let track = lab.engine.add_publisher_track(owner, new(SSRC)).unwrap();
    let hostile = session(&lab.engine, &lab.sockets, Role::Publisher, "127.0.0.1:1000");
    let refused = lab.engine.add_publisher_track(hostile, new(SSRC));
    assert!(matches!(refused, Err(crate::EngineError::Taken { ssrc: SSRC, .. })), "{refused:?}");
    lab.engine.add_publisher_track(hostile, new(SSRC + 1)).unwrap();

    let elsewhere = session(&lab.engine, &lab.sockets, Role::Publisher, "127.0.0.1:2000");
    lab.engine.add_publisher_track(elsewhere, new(SSRC)).unwrap();
    let there = crate::Transport::udp(lab.sockets.bound()[0], "127.0.0.1:1000".parse().unwrap());
    assert!(matches!(lab.engine.move_session(elsewhere, there), Err(crate::EngineError::Taken { .. })));
    let flows = |peer: &str| lab.engine.0.read().flows.get(&(0, peer.parse().unwrap(), SSRC)).copied();
    assert_eq!(flows("127.0.0.1:1000"), Some(track.0), "the owner's, still");
    assert!(flows("127.0.0.1:2000").is_some(), "who may not move stays");

    // Whoever goes takes nothing away but what is its own.
    lab.engine.remove_session(hostile);
    assert_eq!(flows("127.0.0.1:1000"), Some(track.0));
    assert!(!lab.engine.restore_publisher_track(track), "nothing is amiss");
    lab.engine.0.write().flows.clear();
    assert!(lab.engine.restore_publisher_track(track));
    assert_eq!(flows("127.0.0.1:1000"), Some(track.0));
}
