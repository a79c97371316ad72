//! Whatever comes in over HTTP gets a clear status and a reason, leaves nothing behind in the server,
//! and does not touch the session that is live meanwhile. Needs root.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tests_kit::netns::{End, NetNs, veth};
use tests_kit::peer::{Options, Publisher, Source, Synthetic, Viewers};
use tests_kit::place;
use tests_kit::server::{Server, Settings};
use tests_kit::whip::{Client, Reply};

const SDP: &str = "application/sdp";
const FRAGMENT: &str = "application/trickle-ice-sdpfrag";

/// A viewer's offer that nobody stands behind.
const OFFER: &str = "v=0\r\no=- 1 2 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\na=group:BUNDLE 0\r\n\
    m=video 9 UDP/TLS/RTP/SAVPF 96\r\nc=IN IP4 0.0.0.0\r\na=rtcp-mux\r\na=mid:0\r\na=recvonly\r\n\
    a=ice-ufrag:abcd\r\na=ice-pwd:abcdefghijklmnopqrstuvwx\r\na=setup:actpass\r\n\
    a=fingerprint:sha-256 00:11:22:33:44:55:66:77:88:99:AA:BB:CC:DD:EE:FF:00:11:22:33:44:55:66:77:88:99:AA:BB:CC:DD:EE:FF\r\n\
    a=rtpmap:96 VP8/90000\r\n";

/// More than the sessions that one burst may open.
const POSTS: usize = 1000;

/// Sessions that nobody connects to are dropped after 15 s.
const FORGET: Duration = Duration::from_secs(40);

struct Lab {
    server: Server,
    http: SocketAddr,
    client: NetNs,
    host: NetNs,
}

impl Lab {
    fn new() -> Result<Self> {
        let (host, client) = (NetNs::new("http")?, NetNs::new("client")?);
        let end = |namespace, interface, addresses| End { namespace, interface, addresses };
        veth(end(&host, "media0", &["10.61.0.1/24"]), end(&client, "eth0", &["10.61.0.2/24"]))?;
        let http = "10.61.0.1:8080".parse()?;
        let settings = Settings {
            interfaces: vec!["media0".into()],
            mode: "native",
            http: vec![http],
            more: "[limits]\nsessions = 64\n".into(),
            unprivileged: false,
        };
        let server = Server::start(&host, &settings)?;
        Ok(Self { server, http, client, host })
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.http)
    }

    fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)], body: Option<(&str, &[u8])>) -> Result<Reply> {
        let client = Client { namespace: Some(self.client.name().into()), token: None };
        client.request(method, &self.url(path), headers, body)
    }

    fn post(&self, path: &str, kind: &str, body: &[u8]) -> Result<Reply> {
        self.ask("POST", path, &[], Some((kind, body)))
    }

    fn sessions(&self) -> Result<usize> {
        let state = self.server.get("/api/v1/state")?;
        Ok(state["sessions"].as_array().context("no sessions in the state")?.len())
    }

    fn files(&self) -> Result<usize> {
        Ok(std::fs::read_dir(format!("/proc/{}/fd", self.server.pid()))?.count())
    }

    /// Waits until the server has no more sessions and open files than these.
    fn back_to(&self, sessions: usize, files: usize) -> Result<()> {
        let end = Instant::now() + FORGET;
        loop {
            let now = (self.sessions()?, self.files()?);
            if now.0 <= sessions && now.1 <= files {
                return Ok(());
            }
            ensure!(Instant::now() < end, "{now:?} sessions and open files, there were {sessions} and {files}");
            std::thread::sleep(Duration::from_millis(250));
        }
    }
}

#[track_caller]
fn refused(reply: Result<Reply>, status: u16, reason: &str) {
    let reply = reply.expect("an answer");
    assert_eq!(reply.status, status, "{}", reply.body);
    assert!(reply.body.contains(reason), "{:?} does not say {reason:?}", reply.body);
    assert_eq!(reply.header("content-type"), Some("text/plain; charset=utf-8"));
}

#[test]
fn bad_input_is_refused_and_a_live_session_goes_on() -> Result<()> {
    let lab = Lab::new()?;
    let source = Source::Synthetic(Synthetic { rate: 50, largest: 900, first_sequence: 1 });
    let options = Options { audio: vec![], ..Options::within(lab.client.name()) };
    let publisher = Publisher::start(&lab.server.url("live", "whip"), source.clone(), options.clone())?;
    let viewers = Viewers::start(&lab.server.url("live", "whep"), 1, source, options)?;
    wait_for("media", Duration::from_secs(20), || viewers.stats()[0].video.verified > 20)?;
    let (sessions, files) = (lab.sessions()?, lab.files()?);
    assert_eq!(sessions, 2);

    statuses(&lab);
    large_bodies(&lab)?;
    broken_connections(&lab)?;
    assert_eq!(lab.sessions()?, sessions, "a refused request left a session");
    many_at_once(&lab)?;
    lab.back_to(sessions, files)?;

    let before = viewers.stats()[0].video.verified;
    wait_for("media afterwards", Duration::from_secs(20), || viewers.stats()[0].video.verified > before + 50)?;
    publisher.pause(true)?;
    std::thread::sleep(Duration::from_millis(300));
    let video = viewers.stop()?.remove(0).video;
    assert_eq!((video.duplicates, video.mismatches), (0, 0), "{video:#?}");
    let drops = [lab.server.drops()?, lab.client.drops()?, lab.host.drops()?];
    let dropped: u64 = drops.iter().flat_map(|drops| drops.values()).sum();
    assert!(video.lost <= dropped, "{video:#?}; counted are {drops:?}");
    publisher.stop()?;
    Ok(())
}

fn wait_for(what: &str, patience: Duration, mut done: impl FnMut() -> bool) -> Result<()> {
    let end = Instant::now() + patience;
    while !done() {
        ensure!(Instant::now() < end, "no {what} in {patience:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

fn statuses(lab: &Lab) {
    let whip = "/other/whip";
    refused(lab.post(whip, SDP, b""), 400, "empty");
    refused(lab.post(whip, SDP, b"hello"), 400, "");
    refused(lab.post(whip, SDP, &[0xff, 0xfe, 0xfd]), 400, "UTF-8");
    refused(lab.post(whip, "application/json", b"{}"), 415, SDP);
    refused(lab.ask("POST", whip, &[], None), 415, SDP);
    refused(lab.post("/.other/whip", SDP, OFFER.as_bytes()), 400, "dot");
    refused(lab.post("/metrics/whip", SDP, OFFER.as_bytes()), 400, "reserved");
    // A viewer's offer has nothing to publish.
    refused(lab.post(whip, SDP, OFFER.as_bytes()), 422, "");
    let without_media = OFFER.split("m=video").next().unwrap_or_default().replace("a=group:BUNDLE 0\r\n", "");
    let reply = lab.post(whip, SDP, without_media.as_bytes()).expect("an answer");
    assert!(matches!(reply.status, 400 | 422), "{} {}", reply.status, reply.body);
    // Media that could only go in the clear or by SDES: DTLS, and with it GCM, is impossible.
    let plain = OFFER.replace("UDP/TLS/RTP/SAVPF", "RTP/AVP").replace("a=fingerprint", "a=none");
    let plain = plain.replace("recvonly", "sendonly");
    let reply = lab.post(whip, SDP, plain.as_bytes()).expect("an answer");
    assert!(matches!(reply.status, 400 | 422), "{} {}", reply.status, reply.body);
    let unknown_codec = OFFER.replace("VP8", "THEORA").replace("recvonly", "sendonly");
    refused(lab.post(whip, SDP, unknown_codec.as_bytes()), 422, "");
    refused(lab.post("/nobody/whep", SDP, OFFER.as_bytes()), 409, "nobody");
    refused(lab.post("/live/whip", SDP, OFFER.replace("recvonly", "sendonly").as_bytes()), 409, "");
    for method in ["PUT", "DELETE", "PATCH"] {
        let reply = lab.ask(method, whip, &[], None).expect("an answer");
        assert_eq!((reply.status, reply.header("allow")), (405, Some("GET, HEAD, POST, OPTIONS")), "{method}");
    }
    refused(lab.ask("DELETE", "/live/whep/0123456789abcdef", &[], None), 404, "");
    refused(lab.ask("PATCH", "/live/whep/0123456789abcdef", &[("If-Match", "*")], Some((FRAGMENT, b"a=x"))), 404, "");
    refused(lab.ask("PATCH", "/live/whep/0", &[("If-Match", "bare")], Some((FRAGMENT, b"a=x"))), 400, "quotes");
    refused(lab.ask("PATCH", "/live/whep/0", &[], Some((SDP, b"a=x"))), 415, FRAGMENT);
    refused(lab.ask("GET", "/a/b/c/d/e", &[], None), 404, "NAME");
}

fn large_bodies(lab: &Lab) -> Result<()> {
    let large = vec![b'v'; 10 << 20];
    refused(lab.post("/other/whip", SDP, &large), 413, "http_body_bytes");
    // Without a length, so that the server finds out while it reads.
    let reply = raw(lab, |stream| {
        stream.write_all(
            b"POST /other/whip HTTP/1.1\r\nHost: x\r\nContent-Type: application/sdp\r\n\
              Transfer-Encoding: chunked\r\n\r\n",
        )?;
        let chunk = [b"10000\r\n".as_slice(), &vec![b'v'; 0x1_0000], b"\r\n"].concat();
        (0..160).try_for_each(|_| stream.write_all(&chunk))?;
        stream.write_all(b"0\r\n\r\n")
    })?;
    ensure!(reply.starts_with("HTTP/1.1 413 "), "{reply}");
    Ok(())
}

fn broken_connections(lab: &Lab) -> Result<()> {
    let garbage = raw(lab, |stream| stream.write_all(b"\x16\x03\x01 no HTTP at all\r\n\r\n"))?;
    ensure!(garbage.starts_with("HTTP/1.1 400 "), "{garbage}");
    let header = format!("GET / HTTP/1.1\r\nHost: x\r\nX: {}\r\n\r\n", "x".repeat(200_000));
    let long = raw(lab, |stream| stream.write_all(header.as_bytes()))?;
    ensure!(long.starts_with("HTTP/1.1 431 "), "{long}");
    // Says that it will send a body and never does; the server gives up first.
    let stalled = raw(lab, |stream| {
        stream.write_all(
            b"POST /other/whip HTTP/1.1\r\nHost: x\r\nContent-Type: application/sdp\r\nContent-Length: 9\r\n\r\n",
        )
    })?;
    ensure!(stalled.starts_with("HTTP/1.1 408 "), "{stalled}");
    // Never finishes its header.
    let silent = raw(lab, |stream| stream.write_all(b"POST /other/whip HTTP/1.1\r\nHost"))?;
    ensure!(silent.is_empty() || silent.starts_with("HTTP/1.1 408 "), "{silent}");
    Ok(())
}

/// What the server answers, until it closes the connection, to bytes that are no well-behaved request.
fn raw(lab: &Lab, send: impl FnOnce(&mut TcpStream) -> std::io::Result<()> + Send) -> Result<String> {
    place::inside(Some(lab.client.name()), || {
        let mut stream = TcpStream::connect(lab.http)?;
        stream.set_read_timeout(Some(Duration::from_secs(25)))?;
        // The server may answer and close before all is sent.
        let _ = send(&mut stream);
        let mut answer = Vec::new();
        match stream.read_to_end(&mut answer) {
            Err(error) if error.kind() != std::io::ErrorKind::ConnectionReset => Err(error.into()),
            _ => Ok(String::from_utf8_lossy(&answer).into_owned()),
        }
    })
}

/// All connections are open before the first answer is read.
fn many_at_once(lab: &Lab) -> Result<()> {
    raise_open_files()?;
    let request = format!(
        "POST /live/whep HTTP/1.1\r\nHost: x\r\nContent-Type: application/sdp\r\nConnection: close\r\n\
         Content-Length: {}\r\n\r\n{OFFER}",
        OFFER.len()
    );
    let statuses = place::inside(Some(lab.client.name()), || {
        let mut streams = Vec::new();
        for _ in 0..POSTS {
            let mut stream = TcpStream::connect(lab.http)?;
            stream.set_read_timeout(Some(Duration::from_secs(30)))?;
            // It may be closed already.
            let _ = stream.write_all(request.as_bytes());
            streams.push(stream);
        }
        let mut statuses = BTreeMap::new();
        for mut stream in streams {
            let mut answer = String::new();
            // Beyond its address's share a connection is closed, which may take the answer with it.
            let read = stream.read_to_string(&mut answer);
            let status = match read.is_ok() && !answer.is_empty() {
                true => answer.split(' ').nth(1).unwrap_or_default().to_owned(),
                false => "closed".to_owned(),
            };
            if status == "503" {
                ensure!(answer.to_lowercase().contains("retry-after: "), "{answer}");
            }
            *statuses.entry(status).or_insert(0_usize) += 1;
        }
        Ok(statuses)
    })?;
    let opened = statuses.get("201").copied().unwrap_or_default();
    let refused = statuses.get("503").copied().unwrap_or_default();
    let closed = statuses.get("closed").copied().unwrap_or_default();
    ensure!(opened + refused + closed == POSTS, "other statuses than 201 and 503: {statuses:?}");
    // A quarter of 2,048 connections is served.
    ensure!(closed <= POSTS - 512, "{statuses:?}");
    // Half of 64 sessions may be half-open; what nobody came for within a second makes way for others.
    ensure!(opened >= 32 && lab.sessions()? <= 2 + 32, "{statuses:?}");
    Ok(())
}

fn raise_open_files() -> Result<()> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the pointer is to a live `rlimit`, which the call fills in.
    ensure!(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } == 0, "getrlimit");
    ensure!(limit.rlim_max > POSTS as u64 + 64, "the hard limit of open files is {}", limit.rlim_max);
    limit.rlim_cur = limit.rlim_max;
    // SAFETY: the pointer is to a live `rlimit`, which the call only reads.
    ensure!(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) } == 0, "setrlimit");
    Ok(())
}
