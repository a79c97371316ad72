//! RTSP: what may be said before anybody is known, and sessions of others.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Result, ensure};
use tests_kit::camera::ffmpeg::{Ffmpeg, Send};
use tests_kit::peer::Kind;
use tests_kit::stage::{Layout, Stage, clip};

use super::Before;

const URL: &str = "rtsp://10.60.0.1:8554/e2e";

fn stage() -> Result<Stage> {
    Stage::new(Layout::OneNic, "native", "[rtsp]\nlisten = [\"10.60.0.1:8554\"]\n")
}

/// What the server says to these bytes, until it closes or is silent for a while.
fn says(stage: &Stage, bytes: &[u8]) -> Result<String> {
    stage.near.run(|| {
        let mut stream = TcpStream::connect("10.60.0.1:8554")?;
        stream.set_read_timeout(Some(Duration::from_millis(300)))?;
        stream.set_write_timeout(Some(Duration::from_secs(5)))?;
        let _ = stream.write_all(bytes);
        let (mut text, mut buffer) = (vec![], [0; 4096]);
        while let Ok(len @ 1..) = stream.read(&mut buffer) {
            text.extend_from_slice(&buffer[..len]);
        }
        Ok(String::from_utf8_lossy(&text).into_owned())
    })
}

fn request(method: &str, url: &str, fields: &str, body: &str) -> String {
    let len = body.len();
    format!("{method} {url} RTSP/1.0\r\nCSeq: 1\r\n{fields}Content-Length: {len}\r\n\r\n{body}")
}

/// Everything at once before anybody has said who he is: the stream that is published and watched goes on.
#[test]
fn floods_cost_nobody_else() -> Result<()> {
    let stage = stage()?;
    let ffmpeg = Ffmpeg::clip(&stage.near, Send::Both, &["-f", "rtsp", "-rtsp_transport", "tcp", URL])?;
    let playing = stage.until("media comes", || Ok(stage.source_of("e2e")?["state"] == "playing"));
    playing.map_err(|error| error.context(ffmpeg.said()))?;
    let viewers = stage.play(1, &clip()?, stage.playing())?;
    stage.flows(&viewers, &[0], Kind::Video, 20)?;
    let before = Before::of(&stage)?;
    let media = "m=video 0 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\na=control:t\r\n";
    let attributes = "a=fmtp:96 x=y\r\n".repeat(4000);
    let sdp = "Content-Type: application/sdp\r\n";
    let frame = [&[b'$', 0, 0xff, 0xff][..], &[0x80; 0xffff]].concat();
    let attacks: Vec<Vec<u8>> = vec![
        request("OPTIONS", "*", "", "").repeat(5000).into_bytes(),
        request("DESCRIBE", &format!("{URL}/{}", "x".repeat(20_000)), "", "").into_bytes(),
        request("DESCRIBE", "rtsp://10.60.0.1:8554/%2e%2e/%00/%ff", "", "").repeat(60).into_bytes(),
        request("ANNOUNCE", &format!("{URL}1"), sdp, &media.repeat(900)).into_bytes(),
        request("ANNOUNCE", &format!("{URL}2"), sdp, &format!("{media}{attributes}")).into_bytes(),
        request("ANNOUNCE", URL, sdp, media).into_bytes(),
        request("SETUP", URL, &format!("Transport: {}\r\n", "RTP/AVP/TCP,".repeat(2000)), "").into_bytes(),
        request("PLAY", URL, &"X: y\r\n".repeat(4000), "").into_bytes(),
        format!("ANNOUNCE {URL} RTSP/1.0\r\nCSeq: 1\r\nContent-Length: 65000\r\n\r\n").into_bytes(),
        format!("ANNOUNCE {URL} RTSP/1.0\r\nCSeq: 1\r\nContent-Length: 99999999999999999999\r\n\r\n").into_bytes(),
        frame.repeat(40),
        vec![b'$'; 100_000],
        vec![0; 100_000],
        [b"A".repeat(40_000), b"\r\n\r\n".to_vec()].concat(),
    ];
    for _ in 0..4 {
        for attack in &attacks {
            let _ = says(&stage, attack);
        }
    }
    let state = stage.server.get("/api/v1/state")?;
    ensure!(state["rtsp"]["connections"].as_u64() >= Some(4 * attacks.len() as u64), "{}", state["rtsp"]);
    // Fifty in ten seconds are said, in the time that this has taken.
    let log = stage.server.log();
    let lines = log.lines().filter(|line| line.contains("RTSP request refused")).count();
    ensure!(lines < 4 * 60, "{lines} lines of the log about what was refused");
    stage.flows(&viewers, &[0], Kind::Video, 20)?;
    stage.until("the floods have left nothing", || Ok(super::descriptors(&stage)? <= before.descriptors + 8))?;
    let memory = stage.server.memory()?;
    ensure!(memory <= before.memory + super::GROWTH, "{} KB, then {} KB", before.memory >> 10, memory >> 10);
    Ok(())
}

/// A connection's session is its own, whatever others call theirs; media goes to who has asked, and nowhere else.
#[test]
fn a_session_is_of_its_connection() -> Result<()> {
    let stage = stage()?;
    let ffmpeg = Ffmpeg::clip(&stage.near, Send::Both, &["-f", "rtsp", "-rtsp_transport", "tcp", URL])?;
    let playing = stage.until("media comes", || Ok(stage.source_of("e2e")?["state"] == "playing"));
    playing.map_err(|error| error.context(ffmpeg.said()))?;
    let mut owner = stage.near.run(|| TcpStream::connect("10.60.0.1:8554"))?;
    owner.set_read_timeout(Some(Duration::from_secs(20)))?;
    let mut ask = |text: &str| -> Result<String> {
        owner.write_all(text.as_bytes())?;
        let (mut answer, mut buffer) = (vec![], [0; 65536]);
        // Behind PLAY media follows at once.
        while !answer.windows(4).any(|end| end == b"\r\n\r\n") {
            let len = owner.read(&mut buffer)?;
            ensure!(len > 0, "closed");
            answer.extend_from_slice(&buffer[..len]);
        }
        Ok(String::from_utf8_lossy(&answer).into_owned())
    };
    let described = ask(&request("DESCRIBE", URL, "", ""))?;
    ensure!(described.starts_with("RTSP/1.0 200"), "{described}");
    let track = format!("{URL}/trackID=0");
    let track = if described.contains("trackID=0") { track } else { format!("{URL}/track0") };
    let set_up = ask(&request("SETUP", &track, "Transport: RTP/AVP/TCP;unicast;interleaved=0-1\r\n", ""))?;
    ensure!(set_up.starts_with("RTSP/1.0 200"), "{set_up}");
    let session = set_up.lines().find_map(|line| line.strip_prefix("Session: ")).unwrap_or_default();
    let session = format!("Session: {}\r\n", session.split(';').next().unwrap_or_default());
    ensure!(ask(&request("PLAY", URL, &session, ""))?.contains("RTSP/1.0 200"));
    for method in ["TEARDOWN", "PAUSE", "PLAY", "RECORD", "SETUP", "SET_PARAMETER"] {
        let said = says(&stage, request(method, URL, &session, "").as_bytes())?;
        ensure!(!said.contains("$\0"), "{method}: media of another's session");
    }
    // By UDP to somebody else's address: what is named is not looked at.
    for victim in ["destination=10.60.0.3;", "source=10.60.0.3;", "destination=239.1.1.1;"] {
        let field = format!("Transport: RTP/AVP;unicast;{victim}client_port=5000-5001\r\n");
        let text =
            [request("DESCRIBE", URL, "", ""), request("SETUP", &track, &field, ""), request("PLAY", URL, "", "")];
        let heard = stage.near.run(|| {
            let at_victim = std::net::UdpSocket::bind("10.60.0.3:5000")?;
            at_victim.set_read_timeout(Some(Duration::from_millis(700)))?;
            let said = says(&stage, text.concat().as_bytes())?;
            Ok::<_, anyhow::Error>((at_victim.recv(&mut [0; 2048]).is_ok(), said))
        })?;
        ensure!(!heard.0, "{victim}: media goes to who has not asked: {}", heard.1);
    }
    let mut buffer = [0; 65536];
    for _ in 0..50 {
        ensure!(owner.read(&mut buffer)? > 0, "the owner's session has ended");
    }
    Ok(())
}
