//! A WHIP or WHEP client: a whole str0m, with keys, on a UDP socket of loopback.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use str0m::change::{SdpAnswer, SdpOffer, SdpPendingOffer};
use str0m::format::Codec;
use str0m::media::{Direction, MediaKind, Mid};
use str0m::net::{Protocol, Receive};
use str0m::rtp::{RtpWrite, SeqNo, Ssrc};
use str0m::{Candidate, Event, Input, Output, Rtc, RtcConfig};
use tokio::net::UdpSocket;

use crate::stream::{Answer, Control, Refusal};
use penstock_engine::Role;
use penstock_engine::block::Block;

/// Longer than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) struct Client {
    pub rtc: Rtc,
    socket: UdpSocket,
    pub local: SocketAddr,
    pub server: Option<SocketAddr>,
    pub events: Vec<Event>,
    /// Datagrams that str0m wanted to send, as far as they are RTP.
    pub rtp: Vec<Vec<u8>>,
    pub mids: Vec<(MediaKind, Mid)>,
    pub answer: Option<Answer>,
    pub offer: String,
    pending: Option<SdpPendingOffer>,
}

/// What the client can do.
pub(crate) fn all_codecs() -> RtcConfig {
    RtcConfig::new().set_rtp_mode(true)
}

pub(crate) fn only(codec: Codec) -> RtcConfig {
    let config = all_codecs().clear_codecs().enable_opus(true, false);
    match codec {
        Codec::Vp8 => config.enable_vp8(true),
        Codec::Vp9 => config.enable_vp9(true),
        Codec::H264 => config.enable_h264(true),
        other => panic!("{other}"),
    }
}

impl Client {
    pub(crate) async fn new(config: RtcConfig, direction: Direction, kinds: &[MediaKind]) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let local = socket.local_addr().unwrap();
        let mut rtc = config.build(Instant::now());
        rtc.add_local_candidate(Candidate::host(local, "udp").unwrap());
        let mut api = rtc.sdp_api();
        let mids = kinds.iter().map(|kind| (*kind, api.add_media(*kind, direction, None, None, None))).collect();
        let (offer, pending) = api.apply().unwrap();
        Self {
            rtc,
            socket,
            local,
            server: None,
            events: vec![],
            rtp: vec![],
            mids,
            answer: None,
            offer: offer.to_sdp_string(),
            pending: Some(pending),
        }
    }

    /// POST, and what a client does with the answer.
    pub(crate) async fn signal(&mut self, control: &Control, role: Role, stream: &str) -> Result<(), Refusal> {
        let answer = control.offer(role, stream.into(), Block::UNKNOWN, self.offer.clone()).await?;
        self.accept(&answer.sdp);
        self.answer = Some(answer);
        Ok(())
    }

    pub(crate) fn accept(&mut self, sdp: &str) {
        let parsed = SdpAnswer::from_sdp_string(sdp).unwrap_or_else(|error| panic!("{error}:\n{sdp}"));
        let pending = self.pending.take().unwrap();
        self.rtc.sdp_api().accept_answer(pending, parsed).unwrap();
        let candidate = sdp.lines().find_map(|line| line.strip_prefix("a=candidate:")).unwrap();
        let words: Vec<&str> = candidate.split(' ').collect();
        self.server = Some(format!("{}:{}", words[4], words[5]).parse().unwrap());
    }

    /// Offers again with new ICE credentials; gives them.
    pub(crate) fn restart(&mut self) -> (String, String) {
        let mut api = self.rtc.sdp_api();
        let credentials = api.ice_restart(true);
        let (offer, pending) = api.apply().unwrap();
        self.offer = SdpOffer::to_sdp_string(&offer);
        self.pending = Some(pending);
        (credentials.ufrag, credentials.pass)
    }

    /// Runs until `done`, or panics after a while with what was being waited for.
    pub(crate) async fn until(&mut self, what: &str, mut done: impl FnMut(&mut Self) -> bool) {
        let end = Instant::now() + PATIENCE;
        while !done(self) {
            assert!(Instant::now() < end, "waited in vain for: {what}");
            self.step(Duration::from_millis(10)).await;
        }
    }

    pub(crate) async fn connect(&mut self) {
        self.until("connected", |client| client.rtc.is_connected()).await;
    }

    /// Sends and receives for at most `wait`.
    pub(crate) async fn step(&mut self, wait: Duration) {
        let deadline = self.drain().await;
        let wait = deadline.saturating_duration_since(Instant::now()).min(wait).max(Duration::from_millis(1));
        let mut buffer = [0; 2048];
        let input = tokio::time::timeout(wait, self.socket.recv_from(&mut buffer)).await;
        match input {
            Ok(Ok((len, from))) => self.inject(from, &buffer[..len]),
            _ => self.rtc.handle_input(Input::Timeout(Instant::now())).unwrap(),
        }
        self.drain().await;
    }

    /// Takes a datagram as if it had come from `from`.
    pub(crate) fn inject(&mut self, from: SocketAddr, bytes: &[u8]) {
        let receive = Receive::new(Protocol::Udp, from, self.local, bytes).unwrap();
        self.rtc.handle_input(Input::Receive(Instant::now(), receive)).unwrap();
    }

    async fn drain(&mut self) -> Instant {
        loop {
            match self.rtc.poll_output().unwrap() {
                Output::Timeout(at) => return at,
                Output::Event(event) => self.events.push(event),
                Output::Transmit(transmit) => {
                    let bytes: Vec<u8> = transmit.contents.into();
                    if (128..192).contains(&bytes[0]) && !(192..224).contains(&bytes[1]) {
                        self.rtp.push(bytes.clone());
                    }
                    self.socket.send_to(&bytes, transmit.destination).await.unwrap();
                }
            }
        }
    }

    pub(crate) fn ssrc(&mut self, kind: MediaKind) -> Ssrc {
        let mid = self.mid(kind);
        self.rtc.direct_api().stream_tx_by_mid(mid, None).unwrap().ssrc()
    }

    fn mid(&self, kind: MediaKind) -> Mid {
        self.mids.iter().find(|(of, _)| *of == kind).unwrap().1
    }

    /// Hands str0m an RTP packet to send with the payload type that was agreed upon.
    pub(crate) fn write(&mut self, kind: MediaKind, seq: u64, payload: &[u8]) {
        let (mid, ssrc) = (self.mid(kind), self.ssrc(kind));
        let payload_type = self.rtc.media(mid).unwrap().remote_pts()[0];
        let packet = RtpWrite::new(payload_type, SeqNo::from(seq), 3000 * seq as u32, Instant::now(), payload.to_vec());
        self.rtc.direct_api().stream_tx(&ssrc).unwrap().write_rtp(packet);
    }

    pub(crate) fn count(&self, wanted: impl Fn(&Event) -> bool) -> usize {
        self.events.iter().filter(|event| wanted(event)).count()
    }

    pub(crate) fn keyframe_requests(&self) -> usize {
        self.count(|event| matches!(event, Event::KeyframeRequest(_)))
    }
}
