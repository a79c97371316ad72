//! The peers themselves, against the smallest forwarder that str0m allows: they connect, and they
//! notice every kind of damage. Loopback only; no root.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use str0m::change::SdpOffer;
use str0m::media::{Direction, Mid};
use str0m::net::{Protocol, Receive};
use str0m::rtp::RtpWrite;
use str0m::{Candidate, Event, Input, Output, Rtc, RtcConfig};
use tests_kit::peer::{Kind, Options, Publisher, Source, Stats, Synthetic, Viewers};

/// What is forwarded of a packet.
#[derive(Clone)]
struct Copied {
    sequence: u64,
    timestamp: u32,
    marker: bool,
    payload: Vec<u8>,
}

/// What the forwarder does to the copy with this number; `None` drops it.
type Damage = fn(u64, Copied) -> Option<Copied>;

fn faithful(_: u64, packet: Copied) -> Option<Copied> {
    Some(packet)
}

struct Session {
    rtc: Rtc,
    /// The first section; enough here.
    mid: Option<Mid>,
    publishes: bool,
    copies: u64,
}

struct Forwarder {
    http: SocketAddr,
}

type Offers = (String, bool, Sender<String>);

impl Forwarder {
    fn start(damage: Damage) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let http = listener.local_addr()?;
        let socket = UdpSocket::bind("127.0.0.1:0")?;
        socket.set_read_timeout(Some(Duration::from_millis(2)))?;
        let (offers, inbox) = channel();
        std::thread::spawn(move || listener.incoming().flatten().for_each(|stream| drop(answer(stream, &offers))));
        std::thread::spawn(move || forward(&socket, &inbox, damage));
        Ok(Self { http })
    }

    fn url(&self, endpoint: &str) -> String {
        format!("http://{}/x/{endpoint}", self.http)
    }
}

fn answer(stream: TcpStream, offers: &Sender<Offers>) -> Result<()> {
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
    let mut stream = stream;
    if !first.starts_with("POST") {
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")?;
        return Ok(());
    }
    let (reply, answered) = channel();
    offers.send((String::from_utf8(body)?, first.contains("/whip"), reply)).ok().context("ended")?;
    let sdp = answered.recv()?;
    write!(
        stream,
        "HTTP/1.1 201 Created\r\nContent-Type: application/sdp\r\nLocation: session/1\r\nETag: \"1\"\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n{sdp}",
        sdp.len()
    )?;
    Ok(())
}

fn forward(socket: &UdpSocket, inbox: &Receiver<Offers>, damage: Damage) {
    let local = socket.local_addr().expect("bound");
    let mut sessions: Vec<Session> = Vec::new();
    let mut by_peer: HashMap<SocketAddr, usize> = HashMap::new();
    let mut buffer = [0; 2048];
    loop {
        match inbox.try_recv() {
            Ok((offer, publishes, reply)) => {
                let mut rtc = RtcConfig::new().set_rtp_mode(true).set_ice_lite(true).build(Instant::now());
                rtc.add_local_candidate(Candidate::host(local, "udp").expect("an address"));
                let offer = SdpOffer::from_sdp_string(&offer).expect("SDP");
                let sdp = rtc.sdp_api().accept_offer(offer).expect("a good offer").to_sdp_string();
                sessions.push(Session { rtc, mid: None, publishes, copies: 0 });
                let _ = reply.send(sdp);
            }
            Err(std::sync::mpsc::TryRecvError::Empty) => {}
            Err(std::sync::mpsc::TryRecvError::Disconnected) => return,
        }
        let mut packets = Vec::new();
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
        for session in &mut sessions {
            packets.extend(poll(session, socket));
        }
        for packet in packets {
            for viewer in sessions.iter_mut().filter(|session| !session.publishes) {
                send(viewer, packet.clone(), damage);
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

/// Counters of one viewer after some seconds' worth of packets through a forwarder with `damage`.
fn viewer_behind(damage: Damage) -> Result<Stats> {
    // One after another: loopback and two cores must not add losses of their own.
    static SERIAL: Mutex<()> = Mutex::new(());
    let _serial = SERIAL.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let forwarder = Forwarder::start(damage)?;
    let source = Source::Synthetic(Synthetic { rate: 300, largest: 1200, first_sequence: 65_500 });
    let options = Options { audio: vec![], ..Options::default() };
    let publisher = Publisher::start(&forwarder.url("whip"), source.clone(), options.clone())?;
    let viewers = Viewers::start(&forwarder.url("whep"), 1, source, options)?;
    let end = Instant::now() + Duration::from_secs(20);
    while viewers.stats()[0].video.packets < 300 {
        ensure!(Instant::now() < end, "{:#?}\n{:#?}", publisher.stats(), viewers.stats());
        std::thread::sleep(Duration::from_millis(20));
    }
    publisher.pause(true)?;
    std::thread::sleep(Duration::from_millis(200));
    Ok(viewers.stop()?.remove(0))
}

#[test]
fn a_faithful_forwarder_passes() -> Result<()> {
    let stats = viewer_behind(faithful)?;
    let video = stats.media(Kind::Video);
    assert_eq!((video.lost, video.duplicates, video.mismatches), (0, 0, 0), "{video:#?}");
    assert_eq!(video.decrypted, video.packets);
    assert_eq!(video.verified, video.decrypted);
    Ok(())
}

#[test]
fn a_flipped_bit_a_loss_and_a_wrong_header_are_seen() -> Result<()> {
    let flipped = viewer_behind(|copy, mut packet| {
        packet.payload[0] ^= if copy == 100 { 0x80 } else { 0 };
        Some(packet)
    })?;
    assert_eq!((flipped.video.mismatches, flipped.video.lost), (1, 0), "{flipped:#?}");

    let lossy = viewer_behind(|copy, packet| match copy {
        100..103 => None,
        _ => Some(packet),
    })?;
    assert_eq!((lossy.video.mismatches, lossy.video.lost), (0, 3), "{lossy:#?}");

    let header = viewer_behind(|copy, mut packet| {
        packet.marker ^= copy == 100;
        packet.timestamp = packet.timestamp.wrapping_add(u32::from(copy == 150));
        Some(packet)
    })?;
    assert_eq!((header.video.mismatches, header.video.lost), (2, 0), "{header:#?}");
    Ok(())
}

#[test]
fn many_viewers_share_a_thread() -> Result<()> {
    let forwarder = Forwarder::start(faithful)?;
    let source = Source::Synthetic(Synthetic { rate: 50, largest: 300, first_sequence: 1 });
    let options = Options { audio: vec![], ..Options::default() };
    let publisher = Publisher::start(&forwarder.url("whip"), source.clone(), options.clone())?;
    let viewers = Viewers::start(&forwarder.url("whep"), 20, source, options)?;
    let end = Instant::now() + Duration::from_secs(20);
    while viewers.stats().iter().any(|one| one.video.verified < 50) {
        ensure!(Instant::now() < end, "{:#?}", viewers.stats());
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(viewers.stats().iter().all(|one| one.video.mismatches == 0));
    publisher.stop()?;
    Ok(())
}
