//! One peer without a thread: str0m, its sockets, and what it sends or checks.

use std::collections::HashMap;
use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use str0m::bwe::BweKind;
use str0m::change::{SdpAnswer, SdpPendingOffer};
use str0m::crypto::dtls::SrtpProfile;
use str0m::media::{Direction, KeyframeRequestKind, MediaKind, Mid, Pt};
use str0m::net::{Protocol, Receive};
use str0m::rtp::rtcp::{ReceptionReport, Rtcp};
use str0m::rtp::{RawPacket, RtpPacket, RtpWrite, SeqNo};
use str0m::{Candidate, Event, IceConnectionState, Input, Output, Rtc, RtcConfig};

use super::source::{Source, Track};
use super::verify::{Incoming, Verifier};
use super::wire::Wire;
use super::{Codec, Kind, Loss, Options, ReceiverReport, SenderReport, Stats, ice, profile};

/// Which way the media goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    Publish,
    Play,
}

/// Counters that the peer's thread writes and anybody reads.
pub(crate) type Shared = Arc<Mutex<Stats>>;

pub(crate) fn lock(shared: &Shared) -> MutexGuard<'_, Stats> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One media section.
#[derive(Debug)]
struct Section {
    kind: Kind,
    mid: Mid,
    /// Publishers: what to send, once connected.
    track: Option<Track>,
    next_sequence: u64,
    /// Viewers.
    verifier: Verifier,
}

/// A peer.
pub(crate) struct Agent {
    rtc: Rtc,
    sockets: Vec<(SocketAddr, mio::net::UdpSocket)>,
    way: Way,
    source: Source,
    run: u32,
    sections: Vec<Section>,
    by_ssrc: HashMap<u32, usize>,
    wire: Wire,
    profile: Arc<OnceLock<SrtpProfile>>,
    asked: Instant,
    stats: Shared,
    /// Nothing is sent meanwhile, but the session lives.
    paused: bool,
    /// When str0m wants to be called.
    timeout: Instant,
    answer: String,
    loses: Option<Loss>,
    rtp_packets: u64,
    pending: Option<SdpPendingOffer>,
}

fn config(options: &Options, way: Way) -> (RtcConfig, Arc<OnceLock<SrtpProfile>>) {
    let (provider, profile) = profile::provider(options.profiles);
    let mut config = RtcConfig::new()
        .set_crypto_provider(provider)
        .set_rtp_mode(true)
        // Only a publisher looks into RTCP; for 200 viewers the copies would cost too much.
        .enable_raw_packets(way == Way::Publish)
        .clear_codecs();
    for codec in options.video.iter().chain(&options.audio) {
        config = match codec {
            Codec::Vp8 => config.enable_vp8(true),
            Codec::Vp9 => config.enable_vp9(true),
            Codec::H264 => config.enable_h264(true),
            Codec::H265 => config.enable_h265(true),
            Codec::Av1 => config.enable_av1(true),
            Codec::Opus => config.enable_opus(true, false),
            Codec::PCMU => config.enable_pcmu(true, false),
            Codec::PCMA => config.enable_pcma(true, false),
            other => panic!("the test peers do not offer {other:?}"),
        };
    }
    (config, profile)
}

impl Agent {
    /// A peer and its offer. `run` tells publishers of the same synthetic stream apart.
    pub fn new(
        options: &Options,
        way: Way,
        source: Source,
        sockets: Vec<UdpSocket>,
        run: u32,
    ) -> Result<(Self, String)> {
        let now = Instant::now();
        let (config, profile) = config(options, way);
        let mut agent = Self {
            rtc: config.build(now),
            sockets: Vec::new(),
            way,
            source,
            run,
            sections: Vec::new(),
            by_ssrc: HashMap::new(),
            wire: Wire::default(),
            profile,
            asked: now,
            stats: Shared::default(),
            paused: false,
            timeout: now,
            answer: String::new(),
            loses: options.loses,
            rtp_packets: 0,
            pending: None,
        };
        agent.add_sockets(sockets)?;
        let offer = agent.offer(options)?;
        Ok((agent, offer))
    }

    fn add_sockets(&mut self, sockets: Vec<UdpSocket>) -> Result<()> {
        for socket in sockets {
            let address = socket.local_addr()?;
            self.rtc.add_local_candidate(Candidate::host(address, "udp")?);
            self.sockets.push((address, mio::net::UdpSocket::from_std(socket)));
        }
        Ok(())
    }

    fn offer(&mut self, options: &Options) -> Result<String> {
        let direction = if self.way == Way::Publish { Direction::SendOnly } else { Direction::RecvOnly };
        let mut changes = self.rtc.sdp_api();
        for (kind, codecs) in [(Kind::Audio, &options.audio), (Kind::Video, &options.video)] {
            if codecs.is_empty() {
                continue;
            }
            let media = if kind == Kind::Audio { MediaKind::Audio } else { MediaKind::Video };
            let mid = changes.add_media(media, direction, None, None, None);
            let next_sequence = u64::from(self.source.first_sequence());
            let verifier = Verifier::new(if self.way == Way::Play { &self.source } else { &Source::None }, kind);
            self.sections.push(Section { kind, mid, track: None, next_sequence, verifier });
        }
        let (offer, pending) = changes.apply().context("an offer without media")?;
        self.pending = Some(pending);
        Ok(offer.to_sdp_string())
    }

    /// Takes the answer to the last offer.
    pub fn accept(&mut self, answer: &str) -> Result<()> {
        let pending = self.pending.take().context("no offer is open")?;
        let parsed = SdpAnswer::from_sdp_string(answer).context("the answer is not SDP")?;
        self.rtc.sdp_api().accept_answer(pending, parsed).context("str0m refuses the answer")?;
        self.answer = answer.into();
        self.poll();
        Ok(())
    }

    /// Fragment for an ICE restart; with `sockets`, from those and no longer from the present ones.
    pub fn restart(&mut self, sockets: Vec<UdpSocket>) -> Result<String> {
        let mut changes = self.rtc.sdp_api();
        changes.ice_restart(sockets.is_empty());
        let (offer, pending) = changes.apply().context("no ICE restart")?;
        self.pending = Some(pending);
        if !sockets.is_empty() {
            // str0m forgets its candidates when the answer comes, so these are added again then.
            self.sockets.clear();
            for socket in sockets {
                self.sockets.push((socket.local_addr()?, mio::net::UdpSocket::from_std(socket)));
            }
        }
        let candidates: Result<Vec<_>> =
            self.sockets.iter().map(|(address, _)| Ok(Candidate::host(*address, "udp")?)).collect();
        Ok(ice::fragment(&offer.to_sdp_string(), &candidates?))
    }

    /// Takes the server's fragment: the ICE restart goes on.
    pub fn restarted(&mut self, fragment: &str) -> Result<()> {
        let answer = ice::restarted(&self.answer, fragment)?;
        self.accept(&answer)?;
        for (address, _) in &self.sockets {
            self.rtc.add_local_candidate(Candidate::host(*address, "udp")?);
        }
        self.poll();
        Ok(())
    }

    /// Asks for a keyframe in all video sections (viewers).
    pub fn request_keyframe(&mut self) {
        for section in &self.sections {
            if section.kind != Kind::Video {
                continue;
            }
            let mut api = self.rtc.direct_api();
            if let Some(stream) = api.stream_rx_by_mid(section.mid, None) {
                stream.request_keyframe(KeyframeRequestKind::Pli);
                lock(&self.stats).video.keyframe_requests += 1;
            }
        }
        self.poll();
    }

    /// Stops sending media, or goes on with it.
    pub fn pause(&mut self, paused: bool) {
        self.paused = paused;
    }

    /// Sends BYE and close_notify.
    pub fn close(&mut self) {
        let _ = self.rtc.close();
        self.poll();
    }

    pub fn stats(&self) -> Shared {
        self.stats.clone()
    }

    pub fn sockets(&mut self) -> &mut [(SocketAddr, mio::net::UdpSocket)] {
        &mut self.sockets
    }

    /// When `advance` must be called again.
    pub fn due(&self) -> Instant {
        let sending = self.sections.iter().filter(|_| !self.paused);
        let tracks = sending.filter_map(|section| section.track.as_ref());
        tracks.map(Track::due).fold(self.timeout, Instant::min)
    }

    /// Reads what has arrived.
    pub fn receive(&mut self, buffer: &mut [u8]) {
        for at in 0..self.sockets.len() {
            loop {
                let (local, socket) = &self.sockets[at];
                let (local, got) = (*local, socket.recv_from(buffer));
                match got {
                    Ok((len, from)) => self.datagram(local, from, &buffer[..len]),
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    // ICMP errors of earlier sends: the peer notices by its own timeouts.
                    Err(_) => continue,
                }
            }
        }
    }

    fn datagram(&mut self, local: SocketAddr, from: SocketAddr, bytes: &[u8]) {
        if self.way == Way::Play {
            if self.goes_astray(bytes) {
                return;
            }
            self.wire.count(bytes);
        }
        let Ok(receive) = Receive::new(Protocol::Udp, from, local, bytes) else { return };
        let input = Input::Receive(Instant::now(), receive);
        if let Err(error) = self.rtc.handle_input(input) {
            self.fail(error.to_string());
        }
        self.poll();
    }

    fn goes_astray(&mut self, bytes: &[u8]) -> bool {
        let Some(Loss { every, in_all }) = self.loses else { return false };
        // RFC 7983 and RFC 5761 §4.
        let is_rtp = matches!(bytes, [128..=191, second, ..] if !(64..96).contains(&(second & 0x7f)));
        self.rtp_packets += u64::from(is_rtp);
        let mut stats = lock(&self.stats);
        let lost = is_rtp && stats.video.gone_astray < in_all && self.rtp_packets.is_multiple_of(every);
        stats.video.gone_astray += u64::from(lost);
        lost
    }

    /// Sends what is due and lets str0m's clock go on.
    pub fn advance(&mut self, now: Instant) {
        let connected = lock(&self.stats).connected.is_some();
        if self.way == Way::Publish && connected && !self.paused {
            for at in 0..self.sections.len() {
                self.send_due(at, now);
            }
        }
        if now >= self.timeout {
            if let Err(error) = self.rtc.handle_input(Input::Timeout(now)) {
                self.fail(error.to_string());
            }
            self.poll();
        }
    }

    fn send_due(&mut self, at: usize, now: Instant) {
        while let Some(packets) = self.sections[at].track.as_mut().and_then(|track| track.take(now)) {
            for packet in packets {
                let section = &mut self.sections[at];
                let mut stats = lock(&self.stats);
                let stats = stats.media_mut(section.kind);
                let sequence = SeqNo::from(section.next_sequence);
                section.next_sequence += 1;
                stats.packets += 1;
                stats.bytes += packet.payload.len() as u64;
                let pt = Pt::from(stats.payload_type);
                let write = RtpWrite::new(pt, sequence, packet.timestamp, now, packet.payload).marker(packet.marker);
                let mut api = self.rtc.direct_api();
                if let Some(stream) = api.stream_tx_by_mid(section.mid, None) {
                    stream.write_rtp(write);
                }
            }
            // str0m queues, and sends when time moves.
            if let Err(error) = self.rtc.handle_input(Input::Timeout(now)) {
                self.fail(error.to_string());
            }
            self.poll();
        }
    }

    /// Until str0m has nothing more to say.
    fn poll(&mut self) {
        loop {
            match self.rtc.poll_output() {
                Ok(Output::Timeout(at)) => {
                    self.timeout = at;
                    return;
                }
                Ok(Output::Transmit(transmit)) => {
                    let socket = self.sockets.iter().find(|(address, _)| *address == transmit.source);
                    if let Some((_, socket)) = socket {
                        // A full queue or an unreachable host is a loss like any other.
                        let _ = socket.send_to(&transmit.contents, transmit.destination);
                    }
                }
                Ok(Output::Event(event)) => self.event(event),
                Err(error) => {
                    self.fail(error.to_string());
                    self.timeout = Instant::now() + Duration::from_secs(3600);
                    return;
                }
            }
        }
    }

    fn fail(&mut self, why: String) {
        lock(&self.stats).failed.get_or_insert(why);
    }

    fn event(&mut self, event: Event) {
        match event {
            Event::Connected => {
                if let Err(error) = self.connected() {
                    self.fail(error.to_string());
                }
            }
            Event::IceConnectionStateChange(IceConnectionState::Disconnected) => {
                self.fail("ICE: no way to the server any more".into());
            }
            Event::Closed => {
                lock(&self.stats).closed.get_or_insert(self.asked.elapsed());
            }
            Event::RtpPacket(packet) => self.rtp(packet),
            Event::KeyframeRequest(request) => {
                if let Some(section) = self.sections.iter_mut().find(|section| section.mid == request.mid) {
                    lock(&self.stats).media_mut(section.kind).keyframe_requests += 1;
                    if let Some(track) = &mut section.track {
                        track.keyframe();
                    }
                }
            }
            Event::SenderFeedback(report) => {
                let Some(section) = self.sections.iter().find(|section| section.mid == report.mid) else { return };
                let mut stats = lock(&self.stats);
                let stats = stats.media_mut(section.kind);
                stats.sender_reports += 1;
                stats.last_sender_report = Some(SenderReport {
                    ssrc: *report.sender_info.ssrc,
                    packets: report.sender_info.sender_packet_count,
                    octets: report.sender_info.sender_octet_count,
                    received_packets: stats.packets - stats.duplicates,
                    received_octets: stats.bytes,
                });
            }
            Event::EgressBitrateEstimate(BweKind::Remb { mid, estimate }) => {
                if let Some(section) = self.sections.iter().find(|section| section.mid == mid) {
                    let mut stats = lock(&self.stats);
                    let stats = stats.media_mut(section.kind);
                    stats.rembs += 1;
                    stats.last_remb = Some(estimate.as_u64());
                }
            }
            Event::RawPacket(packet) => {
                if let RawPacket::RtcpRx(Rtcp::ReceiverReport(report)) = *packet {
                    report.reports.iter().for_each(|block| self.receiver_report(block));
                }
            }
            _ => {}
        }
    }

    fn connected(&mut self) -> Result<()> {
        let now = Instant::now();
        for at in 0..self.sections.len() {
            let section = &self.sections[at];
            let (kind, mid) = (section.kind, section.mid);
            let media = self.rtc.media(mid).context("a section disappeared")?;
            let Some(pt) = media.remote_pts().first().copied() else { continue };
            let clock_rate = {
                let config = self.rtc.codec_config();
                let params = config.find(|params| params.pt() == pt).context("a payload type without codec")?;
                params.spec().clock_rate.get()
            };
            let mut api = self.rtc.direct_api();
            let ssrc = match self.way {
                Way::Publish => api.stream_tx_by_mid(mid, None).map(|stream| *stream.ssrc()),
                Way::Play => api.stream_rx_by_mid(mid, None).map(|stream| {
                    // str0m asks by itself only where lost packets come by RTX (RFC 4588).
                    stream.suppress_nack(!self.answer.contains(" nack\r\n"));
                    *stream.ssrc()
                }),
            };
            let Some(ssrc) = ssrc else { continue };
            self.by_ssrc.insert(ssrc, at);
            let mut stats = lock(&self.stats);
            let stats = stats.media_mut(kind);
            (stats.ssrc, stats.payload_type) = (ssrc, *pt);
            if self.way == Way::Publish {
                self.sections[at].track = self.source.track(kind, clock_rate, self.run, now);
            }
        }
        if self.sections.is_empty() {
            bail!("nothing was negotiated");
        }
        let mut stats = lock(&self.stats);
        stats.profile = self.profile.get().copied();
        stats.connected.get_or_insert(self.asked.elapsed());
        Ok(())
    }

    fn rtp(&mut self, packet: RtpPacket) {
        let ssrc = *packet.header.ssrc;
        let Some(section) = self.by_ssrc.get(&ssrc).map(|at| &mut self.sections[*at]) else { return };
        let mut all = lock(&self.stats);
        let stats = all.media_mut(section.kind);
        if stats.payload_type != *packet.header.payload_type {
            stats.mismatches += 1;
        }
        if stats.decrypted == 0 {
            stats.first_payload = packet.payload.to_vec();
        }
        stats.decrypted += 1;
        stats.bytes += packet.payload.len() as u64;
        self.wire.delivered(ssrc, *packet.seq_no as u16);
        if let Some(wire) = self.wire.ssrcs.get(&ssrc) {
            stats.packets = wire.packets;
            stats.lost = wire.lost();
            stats.duplicates = wire.duplicates;
            stats.reordered = wire.reordered;
        }
        let incoming = Incoming {
            sequence: *packet.seq_no,
            timestamp: packet.header.timestamp,
            marker: packet.header.marker,
            payload: packet.payload,
        };
        section.verifier.packet(incoming, stats);
        let verified = section.kind == Kind::Video && stats.verified > 0;
        let elapsed = self.asked.elapsed();
        all.first_packet.get_or_insert(elapsed);
        if verified {
            all.first_video.get_or_insert(elapsed);
        }
    }

    fn receiver_report(&mut self, block: &ReceptionReport) {
        let Some(section) = self.by_ssrc.get(&*block.ssrc).map(|at| &self.sections[*at]) else { return };
        let mut stats = lock(&self.stats);
        let stats = stats.media_mut(section.kind);
        stats.receiver_reports += 1;
        stats.last_receiver_report = Some(ReceiverReport {
            ssrc: *block.ssrc,
            fraction_lost: block.fraction_lost,
            packets_lost: block.packets_lost,
            highest_sequence: block.max_seq,
            jitter: block.jitter,
            last_sender_report: block.last_sr_time,
        });
    }
}
