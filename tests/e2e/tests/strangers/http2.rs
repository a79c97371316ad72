//! HTTP/2 (RFC 9113), by frames that no client sends.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Result, ensure};
use openssl::ssl::{SslConnector, SslMethod, SslStream, SslVerifyMode};
use tests_kit::camera::tls::Identity;
use tests_kit::stage::{Layout, Stage};
use tests_kit::whip::Client;

use super::Before;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RESET: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const WINDOW: u8 = 8;
const CONTINUATION: u8 = 9;
const END_HEADERS: u8 = 4;

struct Scene {
    stage: Stage,
    _files: tempfile::TempDir,
}

fn scene() -> Result<Scene> {
    let files = tempfile::tempdir()?;
    let [certificate, key] = ["certificate.pem", "key.pem"].map(|name| files.path().join(name));
    Identity::new()?.write(&certificate, &key)?;
    let more = format!("[http]\nlisten_tls = [\"0.0.0.0:8444\"]\ncertificate = {certificate:?}\nkey = {key:?}\n");
    Ok(Scene { stage: Stage::new(Layout::OneNic, "native", &more)?, _files: files })
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let len = (payload.len() as u32).to_be_bytes();
    [&len[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A header of a request, not compressed (RFC 7541 §6.2.2).
fn header(name: &str, value: &str) -> Vec<u8> {
    [&[0, name.len() as u8][..], name.as_bytes(), &[value.len() as u8], value.as_bytes()].concat()
}

fn request(method: &str, path: &str) -> Vec<u8> {
    [header(":method", method), header(":scheme", "https"), header(":authority", "x"), header(":path", path)].concat()
}

fn connect(stage: &Stage) -> Result<SslStream<TcpStream>> {
    let stream = stage.near.run(|| TcpStream::connect("10.60.0.1:8444"))?;
    stream.set_read_timeout(Some(Duration::from_millis(200)))?;
    stream.set_write_timeout(Some(Duration::from_secs(10)))?;
    let mut connector = SslConnector::builder(SslMethod::tls_client())?;
    connector.set_verify(SslVerifyMode::NONE);
    connector.set_alpn_protos(b"\x02h2")?;
    let connector = connector.build().configure()?.verify_hostname(false);
    let mut stream = connector.connect("tv.example", stream)?;
    ensure!(stream.ssl().selected_alpn_protocol() == Some(b"h2".as_slice()));
    stream.write_all(PREFACE)?;
    stream.write_all(&frame(SETTINGS, 0, 0, &[]))?;
    Ok(stream)
}

/// Writes until the server has had enough; the number of rounds.
fn until_closed(stage: &Stage, most: u32, mut make: impl FnMut(u32) -> Vec<u8>) -> Result<u32> {
    let mut stream = connect(stage)?;
    let mut room = [0; 16384];
    for round in 0..most {
        if stream.write_all(&make(round)).is_err() {
            return Ok(round);
        }
        // What it says is taken, so that it is not its own answers that hold it up.
        if round % 64 == 63 && matches!(stream.read(&mut room), Ok(0)) {
            return Ok(round);
        }
    }
    Ok(most)
}

fn healthy(stage: &Stage) -> Result<()> {
    stage.server.get("/api/v1/streams").map(drop)
}

#[test]
fn floods_of_frames_end_their_own_connection_alone() -> Result<()> {
    let Scene { stage, .. } = scene()?;
    let before = Before::of(&stage)?;
    let most = 20_000;
    let head = request("GET", "/");
    let rounds = until_closed(&stage, most, |round| {
        let id = 2 * round + 1;
        [frame(HEADERS, END_HEADERS | 1, id, &head), frame(RESET, 0, id, &[0, 0, 0, 8])].concat()
    })?;
    ensure!(rounds < most, "rapid resets go on for ever");
    healthy(&stage)?;
    let piece = header("x", &"y".repeat(120)).repeat(120);
    let rounds = until_closed(&stage, most, |round| match round {
        0 => frame(HEADERS, 0, 1, &head),
        _ => frame(CONTINUATION, 0, 1, &piece),
    })?;
    ensure!(rounds < 2000, "{rounds} CONTINUATION frames, 15 KB each, are taken");
    healthy(&stage)?;
    // Empty frames cost nothing to send; what they may cost here is bounded by the connection's life.
    for empty in [frame(DATA, 0, 1, &[]), frame(SETTINGS, 0, 0, &[]), frame(PING, 0, 0, &[0; 8])] {
        until_closed(&stage, 2000, |round| match round {
            0 => frame(HEADERS, END_HEADERS, 1, &request("POST", "/x/whip")),
            _ => empty.repeat(8),
        })?;
        healthy(&stage)?;
    }
    until_closed(&stage, 2000, |_| frame(WINDOW, 0, 0, &[0, 0, 0, 1]).repeat(8))?;
    // A header that is named again and again grows by its index (RFC 7541 §6.1): 4,000 bytes for one.
    let value = "z".repeat(120);
    let bomb = [&[0x40, 1, b'x', 120][..], value.as_bytes(), &[0xbe; 16_000]].concat();
    until_closed(&stage, 200, |round| {
        frame(HEADERS, END_HEADERS | 1, 2 * round + 1, &[head.clone(), bomb.clone()].concat())
    })?;
    healthy(&stage)?;
    before.is_still_so(&stage, 0)
}

/// One address opens as many requests as it can, and sends none of them in full: others are served.
#[test]
fn requests_without_an_end_are_the_problem_of_their_address() -> Result<()> {
    let Scene { stage, .. } = scene()?;
    let mut held = vec![];
    for _ in 0..20 {
        let mut stream = connect(&stage)?;
        for id in 0..64 {
            let head = [request("POST", "/x/whip"), header("content-type", "application/sdp")].concat();
            stream.write_all(&frame(HEADERS, END_HEADERS, 2 * id + 1, &head))?;
        }
        held.push(stream);
    }
    let offer = include_str!("../../../../forwarder-user/webrtc/src/sdp/fixtures/chromium_publish.sdp");
    let (near, host) = (&stage.near, &stage.host);
    let ask = |from: &tests_kit::netns::NetNs, url: &str| {
        let client = Client { namespace: Some(from.name().into()), token: None };
        client.request("POST", url, &[], Some(("application/sdp", offer.as_bytes())))
    };
    stage.until("the address has its share", || Ok(ask(near, "http://10.60.0.1:8080/a/whip")?.status == 503))?;
    let reply = ask(host, "http://127.0.0.1:8080/a/whip")?;
    ensure!(reply.status == 201, "another address: {} {}", reply.status, reply.body);
    drop(held);
    stage.until("it has all again", || Ok(ask(near, "http://10.60.0.1:8080/b/whip")?.status == 201))
}
