//! The control task without its loop: the test is the clock, and connects sessions without DTLS.

use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use forwarder_common::ExtendedSeq;
use str0m::crypto::dtls::SrtpProfile;
use tokio::sync::{mpsc, oneshot};
use zeroize::Zeroizing;

use super::*;
use crate::stream::ids::Key;
use crate::stream::task::Task;
use crate::stream::{Answer, Command, Refusal, Request};
use penstock_engine::Event;
use penstock_srtp::kdf::Keys;
use penstock_srtp::srtcp::{RtcpOpener, RtcpSealer};
use penstock_srtp::testing::seal_rtp;
use penstock_webrtc::dtls::Keying;
use penstock_webrtc::keys;
use penstock_webrtc::peer::Pair;
use penstock_webrtc::rtcp::{self, Incoming};
use penstock_webrtc::sdp::Offer;

pub(super) const PUBLISH: &str = include_str!("../../../webrtc/src/sdp/fixtures/chromium_publish.sdp");
pub(super) const PLAY: &str = include_str!("../../../webrtc/src/sdp/fixtures/chromium_play.sdp");

/// Payload types of the fixtures.
pub(super) const OPUS: u8 = 111;
pub(super) const VP8: u8 = 96;
pub(super) const VP9: u8 = 98;
pub(super) const H264: u8 = 102;

pub(super) struct Lab {
    pub task: Task,
    pub engine: Arc<FakeEngine>,
    events: mpsc::UnboundedReceiver<Event>,
    pub now: Instant,
}

/// The other end of a connected session.
pub(super) struct Remote {
    pub key: Key,
    pub answer: Answer,
    pub socket: UdpSocket,
    pub pair: Pair,
    keys: Keys,
    sealer: RtcpSealer,
    opener: RtcpOpener,
}

impl Lab {
    pub(super) async fn new(config: StreamConfig) -> Self {
        let (engine, events) = FakeEngine::new();
        let task = Task::new(config, engine.clone()).unwrap();
        // Until the runtime has looked once, it takes a new socket for one that cannot be written to.
        tokio::time::sleep(Duration::from_millis(5)).await;
        Self { task, engine, events, now: Instant::now() }
    }

    pub(super) fn offer_from(&mut self, from: [u8; 4], role: Role, stream: &str, sdp: &str) -> Result<Answer, Refusal> {
        let from = penstock_engine::block::Block::from(std::net::IpAddr::from(from));
        let (reply, mut answer) = oneshot::channel();
        let (told, mut admitted) = oneshot::channel();
        let request = Request::Open { role, stream: stream.into(), from };
        self.task.command(Command::Admit { request, reply: told }, self.now);
        admitted.try_recv().unwrap()?;
        let offer = Offer::parse(sdp).map(Box::new);
        self.task.command(Command::Offer { role, stream: stream.into(), visitor: from.into(), offer, reply }, self.now);
        answer.try_recv().unwrap()
    }

    pub(super) fn offer(&mut self, role: Role, stream: &str, sdp: &str) -> Result<Answer, Refusal> {
        self.offer_from([127, 0, 0, 1], role, stream, sdp)
    }

    pub(super) fn publish(&mut self, stream: &str) -> Remote {
        let answer = self.offer(Role::Publisher, stream, PUBLISH).unwrap();
        self.connect(answer)
    }

    pub(super) fn play(&mut self, stream: &str) -> Remote {
        let answer = self.offer(Role::Subscriber, stream, PLAY).unwrap();
        self.connect(answer)
    }

    /// As if DTLS had just been completed.
    pub(super) fn connect(&mut self, answer: Answer) -> Remote {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let pair = Pair { socket: 0, peer: socket.local_addr().unwrap() };
        let key = self.task.sessions.by_id(&answer.session).unwrap();
        let keying = |we_are_client| Keying {
            profile: SrtpProfile::AEAD_AES_256_GCM,
            material: Zeroizing::new((0..88).map(|i| (key as u8).wrapping_add(i)).collect()),
            we_are_client,
        };
        self.task.connected(key, &keying(false), pair, self.now);
        self.task.flush(key, self.now);
        let keys = keys::derive(&keying(true)).unwrap();
        let (sealer, opener) = (RtcpSealer::new(&keys.outgoing.rtcp), RtcpOpener::new(&keys.incoming.rtcp));
        self.events();
        Remote { key, answer, socket, pair, keys, sealer, opener }
    }

    /// Delivers what the engine has said.
    pub(super) fn events(&mut self) {
        while let Ok(event) = self.events.try_recv() {
            self.task.engine_event(event, self.now);
        }
    }

    /// Lets time pass in steps of 10 ms.
    pub(super) fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            self.now += Duration::from_millis(10);
            self.task.run_timers(self.now);
            self.events();
        }
    }

    pub(super) fn rtp(&mut self, from: &Remote, payload_type: u8, ssrc: u32, index: u64, timestamp: u32) {
        let sealed = self.sealed(from, payload_type, ssrc, index, timestamp);
        self.task.rtp(from.key, from.pair, &sealed, self.now);
        self.events();
    }

    /// An SRTP packet that its sender has given this number among all, by the extension 3.
    pub(super) fn counted(&mut self, from: &Remote, payload_type: u8, (ssrc, index): (u32, u64), number: u16) {
        let mut packet = vec![0x90, payload_type];
        packet.extend((index as u16).to_be_bytes());
        packet.extend([0; 4]);
        packet.extend(ssrc.to_be_bytes());
        packet.extend([0xbe, 0xde, 0, 1, 0x31]);
        packet.extend(number.to_be_bytes());
        packet.extend([0, 7, 7]);
        let sealed = seal_rtp(&from.keys.outgoing.rtp, &packet, ExtendedSeq(index));
        self.task.rtp(from.key, from.pair, &sealed, self.now);
        self.events();
    }

    /// An SRTP packet of a layer that it names by the extension 10, as the fixture of Chromium has it.
    pub(super) fn layer(&mut self, from: &Remote, name: &str, (ssrc, index): (u32, u64), payload: &[u8]) {
        let mut packet = vec![0x90, VP8];
        packet.extend((index as u16).to_be_bytes());
        packet.extend([0; 4]);
        packet.extend(ssrc.to_be_bytes());
        let mut elements = [&[10 << 4 | (name.len().max(1) as u8 - 1)], name.as_bytes()].concat();
        elements.resize(elements.len().next_multiple_of(4), 0);
        packet.extend([0xbe, 0xde, 0, elements.len() as u8 / 4]);
        packet.extend(elements);
        packet.extend(payload);
        let sealed = seal_rtp(&from.keys.outgoing.rtp, &packet, ExtendedSeq(index));
        self.task.rtp(from.key, from.pair, &sealed, self.now);
        self.events();
    }

    /// An SRTP packet of a peer.
    pub(super) fn sealed(&self, from: &Remote, payload_type: u8, ssrc: u32, index: u64, timestamp: u32) -> Vec<u8> {
        let mut packet = vec![0x80, payload_type];
        packet.extend((index as u16).to_be_bytes());
        packet.extend(timestamp.to_be_bytes());
        packet.extend(ssrc.to_be_bytes());
        packet.extend(b"payload");
        seal_rtp(&from.keys.outgoing.rtp, &packet, ExtendedSeq(index))
    }

    pub(super) fn rtcp(&mut self, from: &mut Remote, plain: &[u8]) {
        let sealed = from.sealer.seal(plain).unwrap();
        self.task.rtcp(from.key, &sealed, self.now);
        self.events();
    }

    pub(super) fn counters(&self) -> serde_json::Value {
        self.task.counters.to_json()
    }
}

impl Remote {
    pub(super) fn address(&self) -> SocketAddr {
        self.pair.peer
    }

    /// All SRTCP that has come, opened: packet types with their bytes, and what our parser says.
    pub(super) fn received(&mut self) -> (Vec<Vec<u8>>, Vec<Incoming>) {
        self.socket.set_nonblocking(true).unwrap();
        let (mut packets, mut parsed, mut buffer) = (vec![], vec![], [0; 2048]);
        while let Ok(len) = self.socket.recv(&mut buffer) {
            if !(128..192).contains(&buffer[0]) {
                continue;
            }
            let plain = self.opener.open(&buffer[..len]).expect("our SRTCP is authentic and new");
            let said = rtcp::parse(&plain);
            assert_eq!(said.malformed, 0);
            parsed.extend(said.found);
            let mut rest = &plain[..];
            while !rest.is_empty() {
                let len = 4 * (1 + usize::from(u16::from_be_bytes([rest[2], rest[3]])));
                packets.push(rest[..len].to_vec());
                rest = &rest[len..];
            }
        }
        (packets, parsed)
    }
}

/// How many of the packets have this type and format.
pub(super) fn count(packets: &[Vec<u8>], packet_type: u8, format: Option<u8>) -> usize {
    let wanted = |packet: &&Vec<u8>| packet[1] == packet_type && format.is_none_or(|format| packet[0] & 0x1f == format);
    packets.iter().filter(wanted).count()
}
