//! HTTP: names, sessions of others, a listener for health alone.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Result, ensure};
use tests_kit::netns::NetNs;
use tests_kit::peer::Kind;
use tests_kit::stage::{Layout, Stage, synthetic};
use tests_kit::whip::{Client, Session};

use super::Before;

const OFFER: &str = include_str!("../../../../forwarder-user/webrtc/src/sdp/fixtures/chromium_play.sdp");

fn client(namespace: &NetNs) -> Client {
    Client { namespace: Some(namespace.name().into()), token: None }
}

/// The status line's number, of a request as it is; nothing, if there is no answer.
fn status(from: &NetNs, to: &str, request: &[u8]) -> Result<String> {
    from.run(|| {
        let mut stream = TcpStream::connect(to)?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        stream.write_all(request)?;
        let mut answer = vec![];
        let _ = stream.read_to_end(&mut answer);
        let answer = String::from_utf8_lossy(&answer).into_owned();
        Ok(answer.split(' ').nth(1).unwrap_or_default().to_owned())
    })
}

fn get(path: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").into_bytes()
}

/// All other connections are taken by those who say nothing, from both addresses that there are.
#[test]
fn health_has_a_listener_of_its_own() -> Result<()> {
    let more = "[http]\nhealth_listen = [\"0.0.0.0:8081\"]\n[limits]\nhttp_connections = 32\n";
    let stage = Stage::new(Layout::OneNic, "native", more)?;
    let (health, elsewhere) = ("10.60.0.1:8081", get("/api/v1/streams"));
    ensure!(status(&stage.near, health, &get("/healthz"))? == "200");
    ensure!(status(&stage.near, health, &elsewhere)? == "404", "it answers nothing else");
    ensure!(status(&stage.near, health, &get("/x/whip"))? == "404");
    let begun = b"GET /healthz HTTP/1.1\r\nHost: x\r\nX: ";
    let held = stage.near.run(|| {
        let from = |address: &str| -> Result<Vec<TcpStream>> {
            let open = (0..16).map(|_| {
                let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
                socket.bind(&format!("{address}:0").parse::<std::net::SocketAddr>()?.into())?;
                socket.connect(&"10.60.0.1:8080".parse::<std::net::SocketAddr>()?.into())?;
                let mut stream = TcpStream::from(socket);
                stream.write_all(begun)?;
                Ok(stream)
            });
            open.collect()
        };
        Ok::<_, anyhow::Error>([from("10.60.0.2")?, from("10.60.0.3")?])
    })?;
    for _ in 0..20 {
        ensure!(status(&stage.near, health, &get("/healthz"))? == "200", "health waits for others");
    }
    drop(held);
    // And those who take all of its own leave the rest to others.
    let _held: Vec<_> = stage.near.run(|| (0..64).map(|_| TcpStream::connect(health)).collect::<Result<_, _>>())?;
    stage.until("others are served", || Ok(status(&stage.near, "10.60.0.1:8080", &get("/healthz"))? == "200"))
}

#[test]
fn names_of_whatever_kind_are_refused_in_words() -> Result<()> {
    let stage = Stage::plain()?;
    let before = Before::of(&stage)?;
    let long = "x".repeat(9000);
    let names = [
        "%2e%2e",
        "..%2f..%2fetc",
        "%00",
        "a%00b",
        "%ff%fe",
        "%C3%A9t%C3%A9",
        "%E2%80%AE",
        "a%20b",
        "a%0d%0aX:%20y",
        "%25",
        "%",
        "%zz",
        "-",
        "--",
        ".",
        "...",
        "~",
        "a;b",
        "a=b",
        "a:b",
        "a@b",
        "@",
        "*",
        "&",
        "(a)",
        "'a'",
        "a+b",
        "a,b",
        "%5c..%5c",
        "con",
        "a/b/c/d/e/f/g/h/i/j",
        "//",
        "///x",
        "a//b",
        "%2f",
        "%252f",
        &long,
        "metrics",
        "api",
        "healthz",
        "debug",
        "player.js",
    ];
    for name in names {
        for (method, end) in
            [("POST", "/whip"), ("POST", "/whep"), ("GET", ""), ("GET", "/publish"), ("DELETE", "/whip/x")]
        {
            let length = OFFER.len();
            let head = format!(
                "{method} /{name}{end} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/sdp\r\n\
                 Content-Length: {length}\r\n\r\n{OFFER}"
            );
            let status = status(&stage.near, "10.60.0.1:8080", head.as_bytes())?;
            ensure!(!status.starts_with('5'), "{method} /{name}{end}: {status}");
            let published = end == "/whip" && status == "201";
            ensure!(!published, "an offer to play has published {name}");
        }
    }
    before.is_still_so(&stage, 0)
}

/// Sessions of others are known by their URL alone, and by nothing that can be seen of them.
#[test]
fn nobody_ends_or_changes_a_session_without_its_url() -> Result<()> {
    let stage = Stage::plain()?;
    let source = synthetic(50);
    let publisher = stage.publish(&source, stage.publishing())?;
    let viewers = stage.play(1, &source, stage.playing())?;
    let client = client(&stage.near);
    let (mine, _) = client.post(&stage.whep(), OFFER)?;
    let id = mine.url.rsplit('/').next().unwrap_or_default().to_owned();
    // Everything that the API shows of a session, and everything near it.
    let state = stage.server.get("/api/v1/state")?;
    let shown: Vec<String> = state["sessions"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|session| session["id"].as_str().or(session["name"].as_str()).map(str::to_owned))
        .collect();
    let mut guesses = shown;
    guesses.extend([id.to_uppercase(), format!("{id}0"), id[..id.len() - 1].to_owned(), id[..8].to_owned()]);
    guesses.extend(["".into(), "*".into(), "0".into(), format!("{id}%00"), format!("{id}/"), format!("../whep/{id}x")]);
    let restart = "a=ice-ufrag:abcdefgh\r\na=ice-pwd:0123456789012345678901234567\r\n";
    for guess in &guesses {
        for endpoint in ["e2e/whep", "e2e/whip", "other/whep"] {
            let url = format!("{}/{endpoint}/{guess}", stage.publishing_origin());
            let session = Session { url: url.clone(), etag: String::new() };
            let same = endpoint == "e2e/whep" && guess.trim_end_matches('/') == id;
            for reply in [client.request("DELETE", &url, &[], None)?, client.patch(&session, Some("*"), restart)?] {
                ensure!(same || (400..500).contains(&reply.status), "{url}: {}", reply.status);
            }
        }
    }
    // The right id under another stream or in the other role is none.
    for endpoint in ["e2e/whip", "other/whep"] {
        let url = format!("{}/{endpoint}/{id}", stage.publishing_origin());
        ensure!(client.request("DELETE", &url, &[], None)?.status == 404, "{url}");
    }
    stage.flows(&viewers, &[0], Kind::Video, 30)?;
    drop(viewers);
    publisher.stop().map(drop)
}

/// A session of one's own is changed as often as one likes, with as much as one likes, at one's own expense.
#[test]
fn a_flood_of_changes_costs_nobody_else() -> Result<()> {
    let stage = Stage::plain()?;
    let source = synthetic(50);
    let publisher = stage.publish(&source, stage.publishing())?;
    let viewers = stage.play(2, &source, stage.playing())?;
    let client = client(&stage.near);
    let (mine, _) = client.post(&stage.whep(), OFFER)?;
    let before = Before::of(&stage)?;
    let candidate = "a=candidate:1 1 udp 2130706431 192.0.2.1 50000 typ host\r\n";
    let many = format!("a=ice-ufrag:aaaa\r\na=ice-pwd:0123456789012345678901\r\na=mid:0\r\n{}", candidate.repeat(900));
    for turn in 0..300 {
        let reply = client.patch(&mine, Some("*"), &many)?;
        ensure!((200..500).contains(&reply.status), "{}: {}", reply.status, reply.body);
        let restart = format!("a=ice-ufrag:abcd{turn:04}\r\na=ice-pwd:0123456789012345678901{turn:04}\r\n");
        let reply = client.patch(&mine, Some("*"), &restart)?;
        // It was never connected, and its time may be over.
        ensure!(matches!(reply.status, 200 | 404), "{}: {}", reply.status, reply.body);
    }
    let lines = stage.server.log().lines().filter(|line| line.contains("ICE restarted")).count();
    ensure!(lines <= 150, "{lines} lines of the log about 600 restarts");
    stage.flows(&viewers, &[0, 1], Kind::Video, 30)?;
    before.is_still_so(&stage, 3)?;
    drop(viewers);
    publisher.stop().map(drop)
}
