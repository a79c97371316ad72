//! One client of a camera.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use openssl::hash::{MessageDigest, hash};

use super::content::{Playing, base64};
use super::tls::Identity;
use super::{Behaviour, Fault, Quirk, Scheme};
use crate::peer::Outgoing;

const NONCE: &str = "0123456789abcdef";
const REALM: &str = "camera";
/// How long media flows before a fault shows.
const BEFORE_FAULT: Duration = Duration::from_secs(1);
const SR_INTERVAL: Duration = Duration::from_secs(1);

/// What a camera asks of its client, and with which body.
const QUESTIONS: [(&str, &str); 5] = [
    ("SET_PARAMETER", ""),
    ("OPTIONS", ""),
    ("ANNOUNCE", "v=0\r\nm=video 0 RTP/AVP 96\r\n"),
    ("GET_PARAMETER", "packets_received\r\n"),
    ("X-PING", ""),
];

/// How a track leaves.
enum Way {
    /// Not at all: it was refused.
    Nowhere,
    Channel(u8),
    Socket {
        rtp: UdpSocket,
        rtcp: UdpSocket,
        to: [SocketAddr; 2],
    },
}

/// TCP or TLS.
trait Stream: Read + Write {}

impl<T: Read + Write> Stream for T {}

struct Client<'a> {
    stream: Box<dyn Stream>,
    /// Our address and the client's.
    addresses: (IpAddr, IpAddr),
    behaviour: &'a Behaviour,
    ways: Vec<Way>,
    sequences: [u16; 2],
    ssrc: u32,
    /// Of Digest; another one after each sign of life, if it has that quirk.
    nonce: String,
    /// Signs of life that were refused.
    refused: u32,
    /// Answers to what it has asked.
    answers: u32,
    /// The number of a PLAY that is answered behind the first media.
    late_answer: Option<String>,
}

/// Until the client leaves or the camera is stopped.
pub(super) fn serve(
    stream: TcpStream,
    identity: Option<&Identity>,
    behaviour: &Behaviour,
    stop: &AtomicBool,
    playing: &AtomicU32,
) -> Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_nodelay(true)?;
    let (random, addresses) = (stream.peer_addr()?.port(), (stream.local_addr()?.ip(), stream.peer_addr()?.ip()));
    let socket = stream.try_clone()?;
    let stream: Box<dyn Stream> = match identity {
        Some(identity) => Box::new(identity.accept(stream)?),
        None => Box::new(stream),
    };
    socket.set_read_timeout(Some(Duration::from_millis(2)))?;
    let (sequences, ssrc) = ([random, 65_000], u32::from(random) << 8);
    let mut client = Client {
        stream,
        addresses,
        behaviour,
        ways: vec![],
        sequences,
        ssrc,
        nonce: NONCE.into(),
        refused: 0,
        answers: 0,
        late_answer: None,
    };
    let mut received = vec![];
    let mut tracks: Option<(Instant, Vec<Playing>)> = None;
    let mut counted = None;
    let mut next_sr = Instant::now();
    let (mut asked, mut questions) = (Instant::now(), 0);
    let outcome = loop {
        if stop.load(Relaxed) {
            break Ok(());
        }
        let mut buffer = [0; 4096];
        match client.stream.read(&mut buffer) {
            Ok(0) => break Ok(()),
            Ok(len) => received.extend_from_slice(&buffer[..len]),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(error) => break Err(error.into()),
        }
        while let Some(end) = received.windows(4).position(|window| window == b"\r\n\r\n") {
            let request = String::from_utf8(received.drain(..end + 4).collect())?;
            match client.answer(&request)? {
                Next::Go => {}
                Next::Play if tracks.is_none() => {
                    asked = Instant::now();
                    counted = Some(Counted::new(playing));
                    let now = Instant::now();
                    tracks = Some((now, behaviour.content.play(now)));
                }
                Next::Play => {}
                Next::End => received.clear(),
            }
        }
        let Some((start, playing)) = &mut tracks else { continue };
        let now = Instant::now();
        if behaviour.fault == Fault::Stall && now - *start > BEFORE_FAULT {
            continue;
        }
        if behaviour.fault == Fault::Garbage && now - *start > BEFORE_FAULT {
            client.stream.write_all(&[0x80; 3000])?;
        }
        if client.has(Quirk::Asks) && now - asked > BEFORE_FAULT {
            if client.answers != questions {
                break Err(anyhow::anyhow!("{questions} questions and {} answers", client.answers));
            }
            asked = now;
            questions += 1;
            let (method, body) = QUESTIONS[questions as usize % QUESTIONS.len()];
            let len = body.len();
            let question =
                format!("{method} rtsp://client/ RTSP/1.0\r\nCSeq: {questions}\r\nContent-Length: {len}\r\n\r\n{body}");
            client.stream.write_all(question.as_bytes())?;
        }
        for (track, playing) in playing.iter_mut().enumerate() {
            while let Some(packets) = playing.take(now) {
                packets.iter().try_for_each(|packet| client.rtp(track, packet))?;
            }
        }
        if let Some(cseq) = client.late_answer.take() {
            client.reply(200, &cseq, client.session(), "")?;
        }
        if now >= next_sr {
            next_sr = now + SR_INTERVAL;
            for track in 0..playing.len().min(client.ways.len()) {
                client.sender_report(track, now - *start)?;
            }
        }
    };
    drop(counted);
    outcome
}

/// A client that plays, until it is dropped, also when the client has gone in the middle of a packet.
struct Counted<'a>(&'a AtomicU32);

impl<'a> Counted<'a> {
    fn new(playing: &'a AtomicU32) -> Self {
        playing.fetch_add(1, Relaxed);
        Self(playing)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

/// What a request leads to.
enum Next {
    Go,
    Play,
    End,
}

impl Client<'_> {
    fn has(&self, quirk: Quirk) -> bool {
        self.behaviour.quirks.contains(&quirk)
    }

    fn answer(&mut self, request: &str) -> Result<Next> {
        let mut words = request.split_whitespace();
        let (method, url) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        if method.starts_with("RTSP/") {
            self.answers += 1;
            return Ok(Next::Go);
        }
        let field = |name: &str| {
            let line = request.lines().find(|line| line.to_ascii_lowercase().starts_with(&format!("{name}:")));
            line.and_then(|line| line.split_once(':')).map_or("", |(_, value)| value.trim())
        };
        let cseq = field("cseq");
        if !self.admitted(method, url, field("authorization")) {
            return self.challenge(cseq);
        }
        let session = self.session();
        match method {
            "OPTIONS" => self.reply(200, cseq, "Public: DESCRIBE, SETUP, PLAY, TEARDOWN, GET_PARAMETER\r\n", "")?,
            "GET_PARAMETER" => return self.sign_of_life(cseq, session),
            "DESCRIBE" => self.describe(cseq, url)?,
            "SETUP" => {
                let (status, transport) = self.set_up(url, field("transport"))?;
                let named = format!("{session}Transport: {transport}\r\n");
                let fields = if transport.is_empty() { session } else { &named };
                self.reply(status, cseq, if status == 200 { fields } else { "" }, "")?;
            }
            "PLAY" => {
                if self.has(Quirk::EarlyMedia) {
                    self.late_answer = Some(cseq.to_owned());
                } else if !self.has(Quirk::SilentPlay) {
                    self.reply(200, cseq, session, "")?;
                }
                return Ok(Next::Play);
            }
            "TEARDOWN" => {
                self.reply(200, cseq, session, "")?;
                return Ok(Next::End);
            }
            _ => self.reply(501, cseq, "", "")?,
        }
        Ok(Next::Go)
    }

    fn session(&self) -> &'static str {
        if self.has(Quirk::OddSession) {
            "SESSION:\t 4711 ; TimeOut = 4 s;x;=\r\n"
        } else {
            "Session: 4711;timeout=4\r\n"
        }
    }

    fn challenge(&mut self, cseq: &str) -> Result<Next> {
        let scripted = self.behaviour.quirks.iter().find_map(|quirk| match quirk {
            Quirk::Challenge(lines) => Some(lines.to_vec()),
            _ => None,
        });
        let lines = scripted.unwrap_or_else(|| {
            let challenge = match self.behaviour.password {
                Some((_, _, Scheme::Digest)) => format!("Digest realm=\"{REALM}\", nonce=\"{}\"", self.nonce),
                _ => format!("Basic realm=\"{REALM}\""),
            };
            format!("WWW-Authenticate: {challenge}\r\n").into_bytes()
        });
        self.reply_bytes(401, cseq, &lines, b"")?;
        if self.has(Quirk::ClosesBehind401) {
            bail!("it hangs up");
        }
        Ok(Next::Go)
    }

    fn sign_of_life(&mut self, cseq: &str, session: &str) -> Result<Next> {
        if self.has(Quirk::HangsUpOnSigns) {
            bail!("it hangs up");
        }
        let refusal = self.behaviour.quirks.iter().find_map(|quirk| match quirk {
            Quirk::RefusesSigns(status) => Some(*status),
            _ => None,
        });
        if let Some(status) = refusal {
            self.refused += 1;
            if self.refused > 1 {
                bail!("OPTIONS would do");
            }
            self.reply(status, cseq, "", "")?;
            return Ok(Next::Go);
        }
        self.reply(200, cseq, session, "")?;
        if self.has(Quirk::NewNonces) {
            self.nonce = format!("{}f", self.nonce);
        }
        Ok(Next::Go)
    }

    fn describe(&mut self, cseq: &str, url: &str) -> Result<()> {
        let redirection = self.behaviour.quirks.iter().find_map(|quirk| match quirk {
            Quirk::Redirects(location) => Some(*location),
            _ => None,
        });
        if let Some(location) = redirection {
            return self.reply(302, cseq, &format!("Location: {location}\r\n"), "");
        }
        let base = if self.has(Quirk::AbsoluteControl) || self.has(Quirk::QueryControl) {
            String::new()
        } else {
            format!("Content-Base: {url}/\r\n")
        };
        let fields = format!("Content-Type: application/sdp\r\n{base}");
        match self.behaviour.fault {
            Fault::Status(status) => self.reply(status, cseq, &fields, ""),
            _ => {
                let sdp = self.description();
                self.reply_bytes(200, cseq, fields.as_bytes(), &sdp)
            }
        }
    }

    fn reply(&mut self, status: u16, cseq: &str, headers: &str, body: &str) -> Result<()> {
        self.reply_bytes(status, cseq, headers.as_bytes(), body.as_bytes())
    }

    fn reply_bytes(&mut self, status: u16, cseq: &str, headers: &[u8], body: &[u8]) -> Result<()> {
        let reason = if self.has(Quirk::NoReason) { "" } else { " x" };
        let mut head = format!("RTSP/1.0 {status}{reason}\r\n").into_bytes();
        let number = match (self.has(Quirk::WrongCseq), cseq.parse::<u32>()) {
            (true, Ok(number)) => number.saturating_sub(1).to_string(),
            _ => cseq.to_owned(),
        };
        if !self.has(Quirk::NoCseq) {
            head.extend_from_slice(format!("CSeq: {number}\r\n").as_bytes());
        }
        if self.has(Quirk::OddHeaders) {
            head.extend_from_slice(
                b"Thu, Jun 13 2024 04.00.59 GMT\r\nServer: \xc9\xe3\xcf\xf1\r\n folded: and more\r\nX-\xff: y\r\n:\r\n",
            );
        }
        head.extend_from_slice(headers);
        if !self.has(Quirk::NoLength) || body.is_empty() {
            head.extend_from_slice(format!("Content-Length: {}\r\n", body.len()).as_bytes());
        }
        head.extend_from_slice(b"\r\n");
        if self.has(Quirk::LineFeeds) {
            head.retain(|byte| *byte != b'\r');
        }
        head.extend_from_slice(body);
        Ok(self.stream.write_all(&head)?)
    }

    fn description(&self) -> Vec<u8> {
        let mut media = match self.behaviour.fault {
            Fault::Description => return b"this is no description".to_vec(),
            Fault::OnlyAac => "m=audio 0 RTP/AVP 98\r\na=rtpmap:98 MPEG4-GENERIC/48000/2\r\n".to_owned(),
            _ => self.behaviour.content.sdp(),
        };
        let control = match self.has(Quirk::AbsoluteControl) {
            true => format!("rtsp://{}:8554/elsewhere/", self.addresses.0),
            false => "*".into(),
        };
        let mut session = format!(
            "v=0\r\no=- 1 1 IN IP4 0.0.0.0\r\ns=camera\r\nc=IN IP4 0.0.0.0\r\nt=0 0\r\na=control:{control}\r\n"
        )
        .into_bytes();
        for quirk in &self.behaviour.quirks {
            match quirk {
                Quirk::SessionLines(lines) => session = lines.to_vec(),
                Quirk::Description(whole) => return whole.to_vec(),
                Quirk::VideoFormats(formats) => media = media.replacen("RTP/AVP 96", &format!("RTP/AVP {formats}"), 1),
                Quirk::Backchannel => {
                    media = format!(
                        "m=audio 0 RTP/AVP 0\r\na=control:back\r\na=rtpmap:0 PCMU/8000\r\na=sendonly\r\n{media}"
                    );
                }
                Quirk::QueryControl => media = media.replace("a=control:track/", "a=control:?ctype="),
                _ => {}
            }
        }
        [session, media.into_bytes()].concat()
    }

    fn admitted(&self, method: &str, url: &str, authorization: &str) -> bool {
        let Some((user, password, scheme)) = self.behaviour.password else { return true };
        match scheme {
            Scheme::Basic => authorization == format!("Basic {}", base64(format!("{user}:{password}").as_bytes())),
            // RFC 2069, which RFC 2326 refers to: without qop.
            Scheme::Digest => {
                let right = md5(&format!(
                    "{}:{}:{}",
                    md5(&format!("{user}:{REALM}:{password}")),
                    self.nonce,
                    md5(&format!("{method}:{url}"))
                ));
                authorization.contains(&format!("response=\"{right}\"")) && authorization.contains(user)
            }
        }
    }

    /// Status and the Transport of the answer.
    fn set_up(&mut self, url: &str, wanted: &str) -> Result<(u16, String)> {
        let value = |name: &str| wanted.split(';').find_map(|part| part.trim().strip_prefix(name)).map(str::to_owned);
        let by_tcp = value("interleaved=");
        for quirk in &self.behaviour.quirks {
            match quirk {
                Quirk::RefusesTrack(track, status) if url.ends_with(&format!("track/{track}")) => {
                    let status = *status;
                    // Of those that come later, each leaves by its own way.
                    if self.ways.len() == *track {
                        self.ways.push(Way::Nowhere);
                    }
                    return Ok((status, String::new()));
                }
                Quirk::RefusesTcp(status) if by_tcp.is_some() => return Ok((*status, String::new())),
                Quirk::GrantsUdp if by_tcp.is_some() => {
                    return Ok((200, "RTP/AVP;unicast;client_port=9-10;server_port=6000-6001".into()));
                }
                Quirk::QueryControl if !url.contains("?ctype=") || url.contains("/?") => {
                    return Ok((404, String::new()));
                }
                Quirk::AbsoluteControl if !url.contains("/elsewhere/track/") => return Ok((404, String::new())),
                _ => {}
            }
        }
        if url.ends_with("/back") {
            bail!("the loudspeaker is not for everybody");
        }
        if let Some(channels) = by_tcp {
            if self.behaviour.only_udp {
                return Ok((461, String::new()));
            }
            let asked: u8 = channels.split('-').next().context("no channel")?.parse()?;
            let first = if self.has(Quirk::OtherChannels) { 20 - asked } else { asked };
            self.ways.push(Way::Channel(first));
            let transport = format!("RTP/AVP/TCP;unicast;interleaved={first}-{}", first + 1);
            return Ok((200, if self.has(Quirk::NoTransport) { String::new() } else { transport }));
        }
        let ports = value("client_port=").context("neither channels nor ports")?;
        let mut both = ports.split('-').map(str::parse::<u16>);
        let (Some(Ok(rtp)), Some(Ok(rtcp))) = (both.next(), both.next()) else { bail!("ports {ports}") };
        let (mut local, peer) = self.addresses;
        let mut source = String::new();
        for quirk in &self.behaviour.quirks {
            if let Quirk::Source(address) = quirk {
                local = IpAddr::from(*address);
                source = format!(";source={local}");
            }
        }
        let sockets = (UdpSocket::bind((local, 0))?, UdpSocket::bind((local, 0))?);
        let server = format!("{}-{}", sockets.0.local_addr()?.port(), sockets.1.local_addr()?.port());
        self.ways.push(Way::Socket { rtp: sockets.0, rtcp: sockets.1, to: [(peer, rtp).into(), (peer, rtcp).into()] });
        Ok((200, format!("RTP/AVP;unicast;client_port={ports};server_port={server}{source}")))
    }

    fn rtp(&mut self, track: usize, packet: &Outgoing) -> Result<()> {
        let (payload_type, _) = self.behaviour.content.formats()[track];
        let payload_type = if self.behaviour.fault == Fault::PayloadType { payload_type ^ 1 } else { payload_type };
        let (_, clock_rate) = self.behaviour.content.formats()[track];
        let second = packet.timestamp / clock_rate;
        let sequence = &mut self.sequences[track];
        *sequence = match self.behaviour.fault {
            Fault::StandingNumbers => *sequence,
            Fault::AnewNumbers if *sequence >= 50 => 0,
            _ => sequence.wrapping_add(1),
        };
        let (marker, clock, ssrc) = match self.behaviour.fault {
            Fault::NoMarker => (false, 0, 0),
            Fault::EachMarker => (true, 0, 0),
            Fault::SetClock => (packet.marker, second.wrapping_mul(777_777_777), 0),
            Fault::OtherSsrcs => (packet.marker, 0, second << 4),
            _ => (packet.marker, 0, 0),
        };
        let mut bytes = vec![0x80, payload_type | u8::from(marker) << 7];
        bytes.extend(sequence.to_be_bytes());
        bytes.extend(packet.timestamp.wrapping_add(self.ssrc).wrapping_add(clock).to_be_bytes());
        bytes.extend((self.ssrc + track as u32 + ssrc).to_be_bytes());
        bytes.extend_from_slice(&packet.payload);
        if self.behaviour.fault == Fault::OtherTypes {
            *sequence = sequence.wrapping_add(1);
            let mut noise = bytes[..13].to_vec();
            noise[1] = 13;
            noise[2..4].copy_from_slice(&sequence.to_be_bytes());
            self.send(track, false, &bytes)?;
            return self.send(track, false, &noise);
        }
        if self.behaviour.fault == Fault::OddFrames && packet.marker {
            let longest = [&[b'$', 0, 0xff, 0xff][..], &[0; 65_535]].concat();
            self.stream.write_all(&longest)?;
            self.stream.write_all(&[b'$', 0, 0, 0, b'$', 99, 0, 1, 7])?;
        }
        self.send(track, false, &bytes)
    }

    fn sender_report(&mut self, track: usize, played: Duration) -> Result<()> {
        let (_, clock_rate) = self.behaviour.content.formats()[track];
        let ntp = SystemTime::now().duration_since(UNIX_EPOCH)?;
        let rtp = (played.as_secs_f64() * f64::from(clock_rate)) as u32;
        let mut bytes = vec![0x80, 200, 0, 6];
        bytes.extend((self.ssrc + track as u32).to_be_bytes());
        bytes.extend((ntp.as_secs() as u32).wrapping_add(2_208_988_800).to_be_bytes());
        bytes.extend(((u64::from(ntp.subsec_nanos()) << 32) / 1_000_000_000).to_be_bytes()[4..].iter());
        bytes.extend(rtp.wrapping_add(self.ssrc).to_be_bytes());
        bytes.extend([0; 8]);
        self.send(track, true, &bytes)
    }

    fn send(&mut self, track: usize, rtcp: bool, bytes: &[u8]) -> Result<()> {
        match self.ways.get(track) {
            None | Some(Way::Nowhere) => {}
            Some(Way::Channel(first)) => {
                let stray: &[u8] =
                    if self.behaviour.quirks.contains(&Quirk::StrayBytes) { b"\x01\x02\0\0\xff\x05\x06" } else { b"" };
                let beside = rtcp && !self.behaviour.quirks.contains(&Quirk::RtcpAmongRtp);
                let mut frame = [stray, &[b'$', first + u8::from(beside)]].concat();
                frame.extend((bytes.len() as u16).to_be_bytes());
                frame.extend_from_slice(bytes);
                self.stream.write_all(&frame)?;
            }
            Some(Way::Socket { rtp: socket, rtcp: reports, to }) => {
                let socket = if rtcp { reports } else { socket };
                // Nobody listens: the client leaves.
                let _ = socket.send_to(bytes, to[usize::from(rtcp)]);
            }
        }
        Ok(())
    }
}

fn md5(text: &str) -> String {
    hash(MessageDigest::md5(), text.as_bytes()).map(hex::encode).unwrap_or_default()
}
