//! One WebRTC peer: str0m, a socket, and packets that carry the time at which they left.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context, anyhow};
use str0m::{
    Candidate, Event, IceConnectionState, Input, Output, Rtc, RtcConfig,
    change::{SdpAnswer, SdpPendingOffer},
    media::{Direction, MediaKind, Mid},
    net::{Protocol, Receive},
    rtp::{RtpPacket, RtpWrite, SeqNo},
};
use tokio::{net::UdpSocket, sync::watch};

/// Publisher and viewers are in one process, so one clock serves both.
static EPOCH: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Payload of a packet: like a small video packet.
const PAYLOAD: usize = 1000;
/// VP8 payload descriptor with S set (RFC 7741 §4.2): each packet is a frame of its own.
const VP8_START: u8 = 0x10;
/// Clock of RTP timestamps of video.
const CLOCK: u64 = 90_000;
/// Receive buffer in bytes: a viewer that is not scheduled for a moment must not look like loss.
const BUFFER: usize = 4 << 20;

/// Which way the media goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    Publish,
    Play,
}

/// What a peer has seen.
#[derive(Clone, Debug, Default)]
pub struct Figures {
    pub connected: bool,
    /// Packets since [`begin`](Self::begin), and how long each was on its way.
    pub packets: u64,
    pub latencies: Vec<Duration>,
    pub failure: Option<String>,
    first: Option<u64>,
    highest: u64,
}

impl Figures {
    /// Forgets what was before.
    pub fn begin(&mut self) {
        (self.packets, self.first) = (0, None);
        self.latencies.clear();
    }

    fn packet(&mut self, sequence: u64, latency: Duration) {
        self.first = Some(self.first.map_or(sequence, |first| first.min(sequence)));
        self.highest = if self.packets == 0 { sequence } else { self.highest.max(sequence) };
        self.packets += 1;
        self.latencies.push(latency);
    }

    /// Packets that should have come.
    pub fn expected(&self) -> u64 {
        self.first.map_or(0, |first| self.highest + 1 - first)
    }
}

/// Figures that the peer's task writes and the test reads.
#[derive(Clone, Debug, Default)]
pub(super) struct Shared(Arc<Mutex<Figures>>);

impl Shared {
    /// For a moment.
    pub(super) fn lock(&self) -> MutexGuard<'_, Figures> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A peer.
pub(super) struct Client {
    rtc: Rtc,
    socket: UdpSocket,
    local: SocketAddr,
    way: Way,
    mid: Mid,
    pending: Option<SdpPendingOffer>,
    interval: Duration,
    next: Instant,
    sequence: u64,
    timeout: Instant,
    figures: Shared,
}

impl Client {
    /// A peer and its offer: one video section.
    ///
    /// # Errors
    /// No socket on `local`.
    pub(super) async fn new(way: Way, local: IpAddr, rate: u32) -> anyhow::Result<(Self, String)> {
        let socket = std::net::UdpSocket::bind((local, 0)).with_context(|| format!("cannot bind {local}"))?;
        socket.set_nonblocking(true)?;
        // As far as the system grants it.
        let _ = socket2::SockRef::from(&socket).set_recv_buffer_size(BUFFER);
        let socket = UdpSocket::from_std(socket)?;
        let local = socket.local_addr()?;
        let now = Instant::now();
        let mut rtc = RtcConfig::new().set_rtp_mode(true).clear_codecs().enable_vp8(true).build(now);
        rtc.add_local_candidate(Candidate::host(local, "udp")?);
        let direction = if way == Way::Publish { Direction::SendOnly } else { Direction::RecvOnly };
        let mut changes = rtc.sdp_api();
        let mid = changes.add_media(MediaKind::Video, direction, None, None, None);
        let (offer, pending) = changes.apply().context("an offer without media")?;
        let client = Self {
            rtc,
            socket,
            local,
            way,
            mid,
            pending: Some(pending),
            interval: Duration::from_secs(1) / rate.max(1),
            next: now,
            sequence: 1,
            timeout: now,
            figures: Shared::default(),
        };
        Ok((client, offer.to_sdp_string()))
    }

    /// What it sees from now on.
    pub(super) fn figures(&self) -> Shared {
        self.figures.clone()
    }

    /// Lives until `stop`, or until it fails.
    pub(super) async fn run(mut self, answer: String, mut stop: watch::Receiver<bool>) {
        let done = tokio::select! {
            done = self.serve(&answer) => done,
            _ = stop.wait_for(|stop| *stop) => Ok(()),
        };
        if let Err(error) = done {
            self.figures.lock().failure.get_or_insert(format!("{error:#}"));
        }
    }

    async fn serve(&mut self, answer: &str) -> anyhow::Result<()> {
        let answer = SdpAnswer::from_sdp_string(answer).context("the answer is not SDP")?;
        let pending = self.pending.take().context("no offer is open")?;
        self.rtc.sdp_api().accept_answer(pending, answer).context("the answer does not fit the offer")?;
        let mut buffer = vec![0; 2048];
        loop {
            self.poll()?;
            let wake = if self.sends() { self.next.min(self.timeout) } else { self.timeout };
            tokio::select! {
                got = self.socket.recv_from(&mut buffer) => {
                    // ICMP errors of earlier sends: ICE notices by its own timeouts.
                    if let Ok((len, from)) = got {
                        self.datagram(from, &buffer[..len])?;
                    }
                }
                () = tokio::time::sleep_until(wake.into()) => {}
            }
            let now = Instant::now();
            while self.sends() && self.next <= now {
                self.send(now)?;
                self.next += self.interval;
            }
            if self.timeout <= now {
                self.rtc.handle_input(Input::Timeout(now))?;
            }
        }
    }

    fn sends(&self) -> bool {
        self.way == Way::Publish && self.figures.lock().connected
    }

    fn datagram(&mut self, from: SocketAddr, bytes: &[u8]) -> anyhow::Result<()> {
        let Ok(receive) = Receive::new(Protocol::Udp, from, self.local, bytes) else { return Ok(()) };
        Ok(self.rtc.handle_input(Input::Receive(Instant::now(), receive))?)
    }

    fn send(&mut self, now: Instant) -> anyhow::Result<()> {
        let media = self.rtc.media(self.mid).context("the section disappeared")?;
        let pt = media.remote_pts().first().copied().context("no codec was agreed on")?;
        let mut payload = vec![0; PAYLOAD];
        payload[0] = VP8_START;
        let sent = now.duration_since(*EPOCH);
        payload[1..9].copy_from_slice(&(sent.as_nanos() as u64).to_be_bytes());
        let timestamp = (sent.as_micros() as u64 * CLOCK / 1_000_000) as u32;
        let packet = RtpWrite::new(pt, SeqNo::from(self.sequence), timestamp, now, payload).marker(true);
        self.sequence += 1;
        let mut api = self.rtc.direct_api();
        api.stream_tx_by_mid(self.mid, None).context("nothing to send by")?.write_rtp(packet);
        self.rtc.handle_input(Input::Timeout(now))?;
        self.poll()
    }

    /// Until str0m has nothing more to say.
    fn poll(&mut self) -> anyhow::Result<()> {
        loop {
            match self.rtc.poll_output()? {
                Output::Timeout(at) => {
                    self.timeout = at;
                    return Ok(());
                }
                // What the system does not take is lost like any other packet.
                Output::Transmit(transmit) => {
                    drop(self.socket.try_send_to(&transmit.contents, transmit.destination));
                }
                Output::Event(Event::Connected) => {
                    self.next = Instant::now();
                    self.figures.lock().connected = true;
                }
                Output::Event(Event::IceConnectionStateChange(IceConnectionState::Disconnected)) => {
                    return Err(anyhow!("ICE: no UDP way to the server ({} is open in the firewall?)", self.local));
                }
                Output::Event(Event::Closed) => return Err(anyhow!("the server closed the session")),
                Output::Event(Event::RtpPacket(packet)) => self.packet(&packet),
                Output::Event(_) => {}
            }
        }
    }

    fn packet(&mut self, packet: &RtpPacket) {
        let Some([VP8_START, sent @ ..]) = packet.payload.first_chunk::<9>() else { return };
        let sent = Duration::from_nanos(u64::from_be_bytes(*sent));
        let latency = EPOCH.elapsed().saturating_sub(sent);
        self.figures.lock().packet(*packet.seq_no, latency);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_counts_as_lost() {
        let mut figures = Figures::default();
        [7, 8, 10, 9, 14].into_iter().for_each(|sequence| figures.packet(sequence, Duration::ZERO));
        assert_eq!((figures.expected(), figures.packets), (8, 5));
        figures.begin();
        assert_eq!(figures.expected(), 0);
        figures.packet(20, Duration::ZERO);
        assert_eq!((figures.expected(), figures.packets), (1, 1));
    }
}
