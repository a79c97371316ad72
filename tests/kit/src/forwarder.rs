//! The smallest WHIP and WHEP server that str0m allows, with the manners and the damage that a test asks for: so peers
//! and benchmarks can be shown what they must notice.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use str0m::change::SdpOffer;
use str0m::media::{Direction, Mid};
use str0m::net::{Protocol, Receive};
use str0m::rtp::RtpWrite;
use str0m::{Candidate, Event, Input, Output, Rtc, RtcConfig};

/// What is forwarded of a packet.
#[derive(Clone, Debug)]
pub struct Copied {
    pub sequence: u64,
    pub timestamp: u32,
    pub marker: bool,
    pub payload: Vec<u8>,
}

/// What the forwarder does to a viewer's copy with this number, from 0; `None` drops it.
pub type Damage = fn(u64, Copied) -> Option<Copied>;

/// Forwards as it should.
pub fn faithful(_: u64, packet: Copied) -> Option<Copied> {
    Some(packet)
}

/// How it answers, and what it does to packets.
#[derive(Clone, Copy, Debug)]
pub struct Manners {
    /// Location and ETag are in its answers (RFC 9725 §4.2).
    pub headers: bool,
    pub damage: Damage,
}

impl Default for Manners {
    fn default() -> Self {
        Self { headers: true, damage: faithful }
    }
}

/// A running one. Its threads end with the process.
pub struct Forwarder {
    http: SocketAddr,
}

struct Session {
    rtc: Rtc,
    /// The first section; enough here.
    mid: Option<Mid>,
    /// Path of its URL without the last part.
    stream: String,
    publishes: bool,
    copies: u64,
}

struct Offer {
    sdp: String,
    stream: String,
    publishes: bool,
    reply: Sender<String>,
}

impl Forwarder {
    /// Listens at both addresses. URLs are `http://HTTP/ANY/whip` and `…/ANY/whep`.
    ///
    /// # Errors
    /// An address is in use.
    pub fn start(http: SocketAddr, media: SocketAddr, manners: Manners) -> Result<Self> {
        let listener = TcpListener::bind(http).with_context(|| http.to_string())?;
        let http = listener.local_addr()?;
        let socket = UdpSocket::bind(media).with_context(|| media.to_string())?;
        crate::peer::ice::enlarge(&socket);
        socket.set_read_timeout(Some(Duration::from_millis(2)))?;
        let (offers, inbox) = channel();
        std::thread::spawn(move || {
            listener.incoming().flatten().for_each(|stream| drop(answer(stream, &offers, manners)));
        });
        std::thread::spawn(move || forward(&socket, &inbox, manners.damage));
        Ok(Self { http })
    }

    /// URL of an endpoint, `x/whip`.
    #[must_use]
    pub fn url(&self, endpoint: &str) -> String {
        format!("http://{}/{endpoint}", self.http)
    }
}

fn answer(mut stream: TcpStream, offers: &Sender<Offer>, manners: Manners) -> Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut first = String::new();
    reader.read_line(&mut first)?;
    let mut length = 0;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse()?;
        }
        if line.trim().is_empty() {
            break;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let path = first.split_whitespace().nth(1).unwrap_or_default();
    let (name, endpoint) = path.rsplit_once('/').unwrap_or_default();
    if !first.starts_with("POST") {
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")?;
        return Ok(());
    }
    let (reply, answered) = channel();
    let offer = Offer { sdp: String::from_utf8(body)?, stream: name.into(), publishes: endpoint == "whip", reply };
    offers.send(offer).ok().context("ended")?;
    let sdp = answered.recv()?;
    let headers = if manners.headers { "Location: session/1\r\nETag: \"1\"\r\n" } else { "" };
    write!(
        stream,
        "HTTP/1.1 201 Created\r\nContent-Type: application/sdp\r\n{headers}Content-Length: {}\r\n\
         Connection: close\r\n\r\n{sdp}",
        sdp.len()
    )?;
    Ok(())
}

fn forward(socket: &UdpSocket, inbox: &Receiver<Offer>, damage: Damage) {
    let local = socket.local_addr().expect("bound");
    let mut sessions: Vec<Session> = Vec::new();
    let mut by_peer: HashMap<SocketAddr, usize> = HashMap::new();
    let mut buffer = [0; 2048];
    loop {
        match inbox.try_recv() {
            Ok(Offer { sdp, stream, publishes, reply }) => {
                let mut rtc = RtcConfig::new().set_rtp_mode(true).set_ice_lite(true).build(Instant::now());
                rtc.add_local_candidate(Candidate::host(local, "udp").expect("an address"));
                let offer = SdpOffer::from_sdp_string(&sdp).expect("SDP");
                let sdp = rtc.sdp_api().accept_offer(offer).expect("a good offer").to_sdp_string();
                sessions.push(Session { rtc, mid: None, stream, publishes, copies: 0 });
                let _ = reply.send(sdp);
            }
            Err(TryRecvError::Empty) => {}
            Err(TryRecvError::Disconnected) => return,
        }
        if let Ok((len, from)) = socket.recv_from(&mut buffer) {
            let now = Instant::now();
            let receive = |bytes| Receive::new(Protocol::Udp, from, local, bytes).map(|r| Input::Receive(now, r));
            let known = by_peer.get(&from).copied();
            let owner = known.or_else(|| {
                sessions.iter().position(|one| receive(&buffer[..len]).is_ok_and(|input| one.rtc.accepts(&input)))
            });
            if let Some((owner, input)) = owner.zip(receive(&buffer[..len]).ok()) {
                by_peer.insert(from, owner);
                let _ = sessions[owner].rtc.handle_input(input);
            }
        }
        for publisher in 0..sessions.len() {
            let packets = poll(&mut sessions[publisher], socket);
            let stream = sessions[publisher].stream.clone();
            for packet in packets {
                for viewer in sessions.iter_mut().filter(|one| !one.publishes && one.stream == stream) {
                    send(viewer, packet.clone(), damage);
                }
            }
        }
        for session in &mut sessions {
            let _ = session.rtc.handle_input(Input::Timeout(Instant::now()));
            poll(session, socket);
        }
    }
}

fn poll(session: &mut Session, socket: &UdpSocket) -> Vec<Copied> {
    let mut packets = Vec::new();
    loop {
        match session.rtc.poll_output() {
            Ok(Output::Transmit(transmit)) => drop(socket.send_to(&transmit.contents, transmit.destination)),
            Ok(Output::Event(Event::MediaAdded(media))) if media.direction != Direction::Inactive => {
                session.mid.get_or_insert(media.mid);
            }
            Ok(Output::Event(Event::RtpPacket(packet))) => packets.push(Copied {
                sequence: *packet.seq_no,
                timestamp: packet.header.timestamp,
                marker: packet.header.marker,
                payload: packet.payload.to_vec(),
            }),
            Ok(Output::Event(_)) => {}
            Ok(Output::Timeout(_)) | Err(_) => return packets,
        }
    }
}

fn send(viewer: &mut Session, packet: Copied, damage: Damage) {
    let Some(mid) = viewer.mid else { return };
    let copy = viewer.copies;
    viewer.copies += 1;
    let pt = viewer.rtc.media(mid).and_then(|media| media.remote_pts().first().copied()).expect("negotiated");
    let Some(packet) = damage(copy, packet) else { return };
    let write = RtpWrite::new(pt, packet.sequence.into(), packet.timestamp, Instant::now(), packet.payload);
    let mut api = viewer.rtc.direct_api();
    let stream = api.stream_tx_by_mid(mid, None).expect("declared by SDP");
    stream.write_rtp(write.marker(packet.marker));
}
