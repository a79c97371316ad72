//! `penstock probe`: what it says of cameras, and its table.

use std::net::SocketAddr;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use tests_kit::camera::content::{Content, H264};
use tests_kit::camera::{Behaviour, Camera, Fault, GstCamera, Quirk, Scheme};
use tests_kit::clip::Clip;
use tests_kit::netns::NetNs;
use tests_kit::server::binary;
use tests_kit::stage::ip;

const PORT: u16 = 9100;

/// A namespace for the camera and who looks at it.
fn place() -> Result<NetNs> {
    NetNs::new("probe")
}

/// What it prints, and its exit code.
fn probe(place: &NetNs, url: &str, more: &[&str]) -> Result<(String, i32)> {
    let mut command = place.command(binary()?);
    let seconds = if more.contains(&"--seconds") { &[][..] } else { &["--seconds", "4"] };
    command.args(["probe", url]).args(seconds).args(more);
    let output = command.output()?;
    let text = String::from_utf8(output.stdout)?;
    ensure!(!text.contains("s3cret"), "{text}");
    Ok((text, output.status.code().context("killed")?))
}

fn report(place: &NetNs, url: &str, more: &[&str]) -> Result<Value> {
    let (text, code) = probe(place, url, &[&["--json"], more].concat())?;
    let report: Value = serde_json::from_str(&text).with_context(|| text.clone())?;
    ensure!((code == 0) == (report["ok"] == true) && matches!(code, 0 | 1), "{code}: {text}");
    Ok(report)
}

fn of(behaviour: Behaviour, more: &[&str]) -> Result<Value> {
    let place = place()?;
    let _camera = Camera::start(&place, SocketAddr::new(ip("127.0.0.1"), PORT), behaviour)?;
    report(&place, &format!("rtsp://me:s3cret@127.0.0.1:{PORT}/live"), more)
}

fn clip() -> Result<Content> {
    Ok(Content::Clip(Clip::load(&Clip::directory())?))
}

fn faulty(fault: Fault) -> Result<Behaviour> {
    Ok(Behaviour { fault, ..Behaviour::plain(clip()?) })
}

fn quirky(quirks: &[Quirk]) -> Result<Behaviour> {
    Ok(Behaviour { quirks: quirks.to_vec(), ..Behaviour::plain(clip()?) })
}

/// A camera that is right: what it sends, table and JSON.
#[test]
fn a_camera_that_is_right() -> Result<()> {
    let place = place()?;
    let content = Content::H264(H264::encode(0)?);
    let password = Some(("me", "s3cret", Scheme::Digest));
    let behaviour = Behaviour { password, ..Behaviour::plain(content) };
    let _camera = Camera::start(&place, SocketAddr::new(ip("127.0.0.1"), PORT), behaviour)?;
    let url = format!("rtsp://me:s3cret@127.0.0.1:{PORT}/live");
    let report = report(&place, &url, &[])?;
    let (video, audio) = (&report["tracks"][0], &report["tracks"][1]);
    ensure!(
        report["ok"] == true && report["error"].is_null() && report["reasons"] == serde_json::json!([]),
        "{report:#}"
    );
    ensure!(video["size"] == serde_json::json!([640, 480]) && video["browsers"] == "all", "{report:#}");
    ensure!(video["keyframes"].as_u64() >= Some(2) && video["lost"] == 0 && audio["lost"] == 0, "{report:#}");
    ensure!(video["first_keyframe_after_ms"].is_u64() && report["first_packet_after_ms"].is_u64(), "{report:#}");
    ensure!(report["left_out"].to_string().contains("MPEG4-GENERIC"), "{report:#}");
    let (text, code) = probe(&place, &url, &["--transport", "udp"])?;
    ensure!(code == 0 && text.ends_with("browsers will show it\n"), "{text}");
    for words in ["H264", "640x480", "PCMA", "left out: ", "described after"] {
        ensure!(text.contains(words), "{words}: {text}");
    }
    Ok(())
}

/// Why browsers will show nothing, or less than they should.
#[test]
fn reasons_have_names() -> Result<()> {
    let named = |report: &Value, name: &str| -> Result<()> {
        let reasons = report["reasons"].as_array().context("no reasons")?;
        ensure!(reasons.iter().any(|reason| reason[0] == name && reason[1].as_str() > Some("")), "{name}: {report:#}");
        Ok(())
    };
    named(&of(Behaviour::plain(Content::H264(H264::encode(2)?)), &[])?, "b_frames")?;
    named(&of(faulty(Fault::SetClock)?, &["--seconds", "8"])?, "clock_jumps")?;
    // Its second keyframe comes after ten seconds; the first is lost to who comes later.
    let late = of(quirky(&[Quirk::RefusesTrack(0, 500)])?, &[])?;
    ensure!(late["left_out"].to_string().contains("500") && late["ok"] == true, "sound alone is something: {late:#}");
    const NO_VIDEO: &[u8] = b"v=0\r\nm=video 0 RTP/AVP 26\r\na=control:track/0\r\n\
        m=audio 0 RTP/AVP 97\r\na=rtpmap:97 opus/48000/2\r\na=control:track/1\r\n";
    named(&of(quirky(&[Quirk::Description(NO_VIDEO)])?, &[])?, "video_codec")?;
    const NO_SETS: &[u8] = b"v=0\r\nm=video 0 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\na=control:track/0\r\n";
    let behaviour =
        Behaviour { quirks: vec![Quirk::Description(NO_SETS)], ..Behaviour::plain(Content::H264(H264::encode(0)?)) };
    let report = of(behaviour, &[])?;
    named(&report, "no_parameter_sets")?;
    ensure!(report["ok"] == false, "{report:#}");
    // Wrong payload types: nothing comes of it, and it is said what came.
    let report = of(faulty(Fault::PayloadType)?, &[])?;
    ensure!(report["ok"] == false && report["tracks"][0]["dropped"]["payload_type"].as_u64() > Some(10), "{report:#}");
    // What is put right for viewers is odd.
    for (fault, words) in [(Fault::NoMarker, "markers"), (Fault::OtherTypes, "payload types")] {
        let report = of(faulty(fault)?, &[])?;
        ensure!(report["ok"] == true && report["odd"].to_string().contains(words), "{report:#}");
    }
    Ok(())
}

/// A camera of GStreamer's, and H.265.
#[test]
fn gstreamer_s_server_and_h265() -> Result<()> {
    let place = place()?;
    let _camera = GstCamera::start(&place, 8555)?;
    let report = report(&place, "rtsp://me:s3cret@127.0.0.1:8555/hevc", &["--seconds", "8"])?;
    ensure!(report["reasons"][0][0] == "codec_not_everywhere" && report["ok"] == true, "{report:#}");
    ensure!(report["tracks"][0]["browsers"].as_str().is_some_and(|who| who.contains("Safari")), "{report:#}");
    Ok(())
}

/// Why nothing comes: each failure by its name, with what to change.
#[test]
fn failures_have_names() -> Result<()> {
    let password = |scheme| -> Result<Behaviour> {
        Ok(Behaviour { password: Some(("me", "guessed", scheme)), ..Behaviour::plain(clip()?) })
    };
    let unknown = Quirk::Challenge(b"WWW-Authenticate: Negotiate\r\n");
    for (name, behaviour, more) in [
        ("unauthorized", password(Scheme::Digest)?, &[][..]),
        ("unauthorized", password(Scheme::Basic)?, &[]),
        ("unknown_challenge", Behaviour { quirks: vec![unknown], ..password(Scheme::Basic)? }, &[]),
        ("not_found", faulty(Fault::Status(404))?, &[]),
        ("refused", faulty(Fault::Status(503))?, &[]),
        ("malformed_sdp", faulty(Fault::Description)?, &[]),
        ("no_media", faulty(Fault::OnlyAac)?, &[]),
        ("garbage", faulty(Fault::Garbage)?, &[]),
        ("transport", Behaviour { only_udp: true, ..Behaviour::plain(clip()?) }, &["--transport", "tcp"]),
        ("redirect", quirky(&[Quirk::Redirects("rtsp://127.0.0.1:9100/live")])?, &[]),
    ] {
        let report = of(behaviour, more)?;
        let error = &report["error"];
        ensure!(error["name"] == name && report["ok"] == false, "{name}: {report:#}");
        ensure!(error["text"].as_str() > Some("") && error["advice"].as_str() > Some(""), "{name}: {report:#}");
    }
    let place = place()?;
    let report = report(&place, "rtsp://127.0.0.1:1/x", &[])?;
    ensure!(report["error"]["name"] == "unreachable", "{report:#}");
    let report = self::report(&place, "rtsp://no.such.host.invalid/x", &[])?;
    ensure!(report["error"]["name"] == "dns", "{report:#}");
    Ok(())
}
