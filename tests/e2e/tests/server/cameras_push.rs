//! Cameras and encoders that publish here by RTSP.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use openssl::hash::MessageDigest;
use openssl::ssl::{SslConnector, SslMethod, SslStream, SslVerifyMode};
use serde_json::Value;
use tests_kit::camera::GstPublisher;
use tests_kit::camera::ffmpeg::{Ffmpeg, Send};
use tests_kit::camera::tls::Identity;
use tests_kit::peer::{Kind, Source, Viewers};
use tests_kit::stage::{BOTH, Layout, Stage, clip};

const URL: &str = "rtsp://10.60.0.1:8554/e2e";

fn stage(more: &str) -> Result<Stage> {
    Stage::new(Layout::OneNic, "native", &format!("[rtsp]\nlisten = [\"10.60.0.1:8554\"]\nconnections = 4\n{more}\n"))
}

fn push(stage: &Stage, transport: &str, url: &str) -> Result<Ffmpeg> {
    let output = ["-f", "rtsp", "-rtsp_transport", transport, url];
    Ffmpeg::clip(&stage.near, Send::Both, &output)
}

fn source(stage: &Stage) -> Result<Value> {
    stage.source_of("e2e")
}

fn until_playing(stage: &Stage, ffmpeg: &Ffmpeg) -> Result<()> {
    let playing = stage.until("the publisher's media comes", || Ok(source(stage)?["state"] == "playing"));
    playing.map_err(|error| error.context(ffmpeg.said()))
}

fn counted(stage: &Stage, name: &str) -> Result<u64> {
    Ok(stage.server.get("/api/v1/state")?["rtsp"][name].as_u64().unwrap_or(0))
}

fn shows_the_clip(stage: &Stage) -> Result<()> {
    let viewers = stage.play(2, &clip()?, stage.playing())?;
    stage.flows(&viewers, &[0, 1], Kind::Video, 40)?;
    stage.flows(&viewers, &[0, 1], Kind::Audio, 100)?;
    stage.assert_exact(&viewers.stop()?, &BOTH)?;
    Ok(())
}

/// What the server says to these bytes, until it closes or is silent for a while.
fn says(stage: &Stage, bytes: &[u8]) -> Result<String> {
    stage.near.run(|| {
        let mut stream = TcpStream::connect("10.60.0.1:8554")?;
        stream.set_read_timeout(Some(Duration::from_millis(500)))?;
        // A server that has heard enough closes while we still write.
        let _ = stream.write_all(bytes);
        let mut text = vec![];
        let mut buffer = [0; 4096];
        while let Ok(len @ 1..) = stream.read(&mut buffer) {
            text.extend_from_slice(&buffer[..len]);
        }
        Ok(String::from_utf8_lossy(&text).into_owned())
    })
}

fn announce(body: &str) -> String {
    let len = body.len();
    format!(
        "ANNOUNCE {URL}2 RTSP/1.0\r\nCSeq: 1\r\nContent-Type: application/sdp\r\nContent-Length: {len}\r\n\r\n{body}"
    )
}

#[test]
fn ffmpeg_by_tcp() -> Result<()> {
    let stage = stage("")?;
    let ffmpeg = push(&stage, "tcp", URL)?;
    until_playing(&stage, &ffmpeg)?;
    shows_the_clip(&stage)
}

#[test]
fn ffmpeg_by_udp_with_a_password() -> Result<()> {
    let stage = stage("[auth]\npublish_token = \"s3cret\"\n")?;
    let mut stranger = push(&stage, "udp", "rtsp://me:wr0ng@10.60.0.1:8554/e2e")?;
    stage.until("the wrong password is refused", || stranger.ended())?;
    ensure!(stranger.said().contains("401"), "{}", stranger.said());
    ensure!(counted(&stage, "refused_password")? > 0 && source(&stage)?.is_null());
    let ffmpeg = push(&stage, "udp", "rtsp://me:s3cret@10.60.0.1:8554/e2e")?;
    until_playing(&stage, &ffmpeg)?;
    shows_the_clip(&stage)?;
    let log = stage.server.log();
    ensure!(!log.contains("s3cret") && !log.contains("wr0ng"), "a password is in the log");
    Ok(())
}

#[test]
fn a_second_publisher_is_told_why_not() -> Result<()> {
    let stage = stage("")?;
    let first = push(&stage, "tcp", URL)?;
    until_playing(&stage, &first)?;
    let mut second = push(&stage, "tcp", URL)?;
    stage.until("the second has given up", || second.ended())?;
    ensure!(second.said().contains("455") && second.said().contains("has a publisher already"), "{}", second.said());
    let whip = stage.publish(&clip()?, stage.publishing());
    let whip = whip.err().map(|error| format!("{error:#}")).unwrap_or_default();
    ensure!(whip.contains("409") && whip.contains("by RTSP"), "{whip}");
    shows_the_clip(&stage)?;
    drop(first);
    stage.until("it is known that the publisher has gone", || Ok(source(&stage)?["state"] == "waiting"))?;
    let publisher = stage.publish(&clip()?, stage.publishing())?;
    let mut third = push(&stage, "tcp", URL)?;
    stage.until("the third has given up", || third.ended())?;
    ensure!(third.said().contains("has a publisher already"), "{}", third.said());
    publisher.stop()?;
    Ok(())
}

#[test]
fn viewers_outlive_a_publisher_who_returns() -> Result<()> {
    let stage = stage("")?;
    let first = push(&stage, "tcp", URL)?;
    until_playing(&stage, &first)?;
    let viewers = stage.play(1, &clip()?, stage.playing())?;
    stage.flows(&viewers, &[0], Kind::Video, 20)?;
    drop(first);
    stage.until("it is known that the publisher has gone", || Ok(source(&stage)?["state"] == "waiting"))?;
    let second = push(&stage, "udp", URL)?;
    until_playing(&stage, &second)?;
    stage.flows(&viewers, &[0], Kind::Video, 40)?;
    stage.flows(&viewers, &[0], Kind::Audio, 40)?;
    ensure!(source(&stage)?["connections"] == 2);
    let stats = viewers.stop()?;
    ensure!(stats[0].video.mismatches == 0 && stats[0].video.duplicates == 0, "{stats:#?}");
    // A hole for each new start, no more.
    stage.assert_counted((stats[0].video.lost + stats[0].audio.lost).saturating_sub(2), 1)?;
    drop(second);
    // Nobody watches and nobody publishes: it is forgotten.
    stage.until("the stream is gone", || Ok(source(&stage)?.is_null()))?;
    let nobody = Viewers::start(&stage.whep(), 1, Source::None, stage.playing());
    ensure!(nobody.err().is_some_and(|error| format!("{error:#}").contains("409")));
    Ok(())
}

/// A client of the TLS port.
fn client_of(stage: &Stage) -> Result<SslStream<TcpStream>> {
    let mut connector = SslConnector::builder(SslMethod::tls_client())?;
    connector.set_verify(SslVerifyMode::NONE);
    let configuration = connector.build().configure()?.verify_hostname(false);
    let stream = stage.near.run(|| TcpStream::connect("10.60.0.1:8322"))?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    Ok(configuration.connect("10.60.0.1", stream)?)
}

fn answer_by_tls(stream: &mut SslStream<TcpStream>, request: &str) -> Result<String> {
    stream.write_all(request.as_bytes())?;
    let mut buffer = [0; 4096];
    let len = stream.read(&mut buffer)?;
    Ok(String::from_utf8_lossy(&buffer[..len]).into_owned())
}

#[test]
fn by_tls() -> Result<()> {
    let files = tempfile::tempdir()?;
    let [certificate, key] = ["certificate.pem", "key.pem"].map(|name| files.path().join(name));
    let identity = Identity::new()?;
    identity.write(&certificate, &key)?;
    let stage = stage(&format!(
        "listen_tls = [\"10.60.0.1:8322\"]\ncertificate = {certificate:?}\nkey = {key:?}\n\
         [auth]\npublish_token = \"s3cret\"\n"
    ))?;
    let url = "rtsps://me:s3cret@10.60.0.1:8322/e2e";

    // What is no TLS, what would leave TLS by UDP, and a wrong password.
    stage.near.run(|| TcpStream::connect("10.60.0.1:8322")?.write_all(b"OPTIONS * RTSP/1.0\r\nCSeq: 1\r\n\r\n"))?;
    stage.until("plain text is refused", || Ok(counted(&stage, "tls")? == 1))?;
    let mut stranger = push(&stage, "tcp", &url.replace("s3cret", "wr0ng"))?;
    stage
        .until("the wrong password is refused", || Ok(stranger.ended()? && counted(&stage, "refused_password")? > 0))?;
    ensure!(source(&stage)?.is_null());
    let mut client = client_of(&stage)?;
    let sdp = "v=0\r\no=- 1 1 IN IP4 0.0.0.0\r\ns=x\r\nt=0 0\r\nm=audio 0 RTP/AVP 9\r\n";
    let announce = announce(sdp).replace("\r\n\r\n", "\r\nAuthorization: Basic bWU6czNjcmV0\r\n\r\n");
    ensure!(answer_by_tls(&mut client, &announce)?.contains(" 200 "));
    let setup = format!("SETUP {URL}2 RTSP/1.0\r\nCSeq: 2\r\nTransport: RTP/AVP;unicast;client_port=5000-5001\r\n\r\n");
    let answer = answer_by_tls(&mut client, &setup)?;
    ensure!(answer.contains(" 461 ") && answer.contains("not be encrypted"), "{answer}");
    drop(client);

    let ffmpeg = push(&stage, "tcp", url)?;
    until_playing(&stage, &ffmpeg)?;
    shows_the_clip(&stage)?;

    // A renewed certificate is used for whoever comes next; who is there stays. One that cannot be used is not.
    let renewed = Identity::new()?;
    renewed.write(&certificate, &key)?;
    let shown = || {
        Ok::<_, anyhow::Error>(hex::encode(
            &*client_of(&stage)?.ssl().peer_certificate().context("none")?.digest(MessageDigest::sha256())?,
        ))
    };
    ensure!(shown()? == renewed.fingerprint()? && renewed.fingerprint()? != identity.fingerprint()?);
    std::fs::write(&key, "no key")?;
    ensure!(shown()? == renewed.fingerprint()?);
    ensure!(stage.server.log().contains("the former certificate stays in use: rtsp.key"), "{}", stage.server.log());
    shows_the_clip(&stage)?;
    drop(ffmpeg);

    let gstreamer = GstPublisher::start(&stage.near, "rtsps://10.60.0.1:8322/gst", "tcp", ("me", "s3cret"))?;
    stage.until("GStreamer's media comes", || Ok(stage.source_of("gst")?["packets"].as_u64() > Some(100)))?;
    drop(gstreamer);
    // SRTP within TLS and beside it, by keys that MIKEY tells (gortsplib's clients do nothing else by rtsps).
    for protocol in ["tcp", "udp"] {
        let url = format!("rtsps://10.60.0.1:8322/savp-{protocol}");
        let name = format!("savp-{protocol}");
        let gstreamer = GstPublisher::by_profile(&stage.near, &url, protocol, ("me", "s3cret"), "savp")?;
        stage.until(&name, || Ok(stage.source_of(&name)?["packets"].as_u64() > Some(100)))?;
        let source = stage.source_of(&name)?;
        ensure!(source["state"] == "playing" && source["lost"] == 0, "{source}");
        ensure!(source["dropped"]["srtp_auth_failed"].is_null(), "{source}");
        drop(gstreamer);
    }
    ensure!(!stage.server.log().contains("s3cret"), "a password is in the log");
    Ok(())
}

/// GStreamer's client announces AAC as well: it may set it up, and nobody hears it.
#[test]
fn gstreamer_by_both_transports() -> Result<()> {
    let stage = stage("[auth]\npublish_token = \"s3cret\"\n")?;
    for (connections, protocol) in [(1, "tcp"), (2, "udp")] {
        let gstreamer = GstPublisher::start(&stage.near, URL, protocol, ("me", "s3cret"))?;
        stage.until("GStreamer's media comes", || Ok(source(&stage)?["connections"] == connections))?;
        let before = source(&stage)?["packets"].as_u64().unwrap_or(0);
        stage.until("it goes on", || Ok(source(&stage)?["packets"].as_u64() > Some(before + 100)))?;
        let source = source(&stage)?;
        ensure!(source["codecs"].to_string().contains("H264"), "{source}");
        ensure!(source["left_out"].to_string().contains("MP4A-LATM"), "{source}");
        ensure!(source["lost"] == 0 && source["peer"].to_string().contains("10.60.0.2"), "{source}");
        let dropped = source["dropped"].as_object().map(|dropped| dropped.keys().cloned().collect::<Vec<_>>());
        ensure!(dropped.unwrap_or_default().iter().all(|name| name == "before_keyframe"), "{source}");
        drop(gstreamer);
    }
    Ok(())
}

#[test]
fn bad_input_is_named_and_bounded() -> Result<()> {
    let stage = stage("")?;
    let ffmpeg = push(&stage, "tcp", URL)?;
    until_playing(&stage, &ffmpeg)?;
    let sdp = |media: &str| format!("v=0\r\no=- 1 1 IN IP4 0.0.0.0\r\ns=x\r\nt=0 0\r\n{media}");
    for (request, status, counter) in [
        (announce("this is no description"), "400", "refused_malformed"),
        (announce(&sdp("")), "415", "refused_no_media"),
        (announce(&sdp("m=audio 0 RTP/AVP 9\r\n")).replace("e2e2", "a b"), "400", "garbage"),
        (announce(&sdp("m=audio 0 RTP/AVP 9\r\n")).replace("e2e2", "a/b/c/d/e"), "455", "refused_stream"),
        (
            announce(&sdp("m=audio 0 RTP/AVP 9\r\n")).replace("application/sdp", "text/plain"),
            "415",
            "refused_malformed",
        ),
        (format!("DESCRIBE {URL}3 RTSP/1.0\r\nCSeq: 1\r\n\r\n"), "404", "refused_stream"),
        (format!("RECORD {URL} RTSP/1.0\r\nCSeq: 1\r\n\r\n"), "455", "refused_state"),
        (format!("SETUP {URL} RTSP/1.0\r\nCSeq: 1\r\nSession: 5\r\n\r\n"), "454", "refused_session"),
        ("GET / HTTP/1.1\r\n\r\n".into(), "", "garbage"),
        ("\u{80}\u{81}\u{82}".repeat(1000), "", "garbage"),
        (format!("OPTIONS * RTSP/1.0\r\nX: {}", "x".repeat(100_000)), "", "garbage"),
        (format!("ANNOUNCE {URL}2 RTSP/1.0\r\nCSeq: 1\r\nContent-Length: 4000000000\r\n\r\n"), "", "garbage"),
    ] {
        let before = counted(&stage, counter)?;
        let answer = says(&stage, request.as_bytes())?;
        let line = answer.lines().next().unwrap_or_default();
        let shown: String = request.chars().take(60).collect();
        ensure!(counter == "garbage" || line.contains(status), "{shown}: {answer}");
        stage.until(counter, || Ok(counted(&stage, counter)? > before))?;
    }
    // Connections that say nothing use up the room, and lose it in time.
    let idle: Vec<_> = (0..3).filter_map(|_| stage.near.run(|| TcpStream::connect("10.60.0.1:8554")).ok()).collect();
    stage.until("there is no more room", || Ok(says(&stage, b"")?.contains("503")))?;
    stage.until("those who say nothing are gone", || Ok(counted(&stage, "timeout")? >= 3))?;
    drop(idle);
    shows_the_clip(&stage)
}
