//! Cameras by RTSP: what viewers get of them, and what is said when they fail.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::Value;
use tests_kit::camera::content::Content;
use tests_kit::camera::{Behaviour, Camera, Fault, Scheme};
use tests_kit::clip::Clip;
use tests_kit::peer::{Kind, Source, Viewers};
use tests_kit::stage::{BOTH, Layout, Stage, clip, ip};

const ADDRESS: &str = "10.60.0.2:8554";

/// A server with a stream that has this source.
fn stage(user: &str, more: &str) -> Result<Stage> {
    let toml = format!("[streams.e2e]\nsource = \"rtsp://{user}{ADDRESS}/live\"\n{more}\n");
    Stage::new(Layout::OneNic, "native", &toml)
}

fn camera(stage: &Stage, change: impl FnOnce(&mut Behaviour)) -> Result<Camera> {
    let mut behaviour = Behaviour::plain(Content::Clip(Clip::load(&Clip::directory())?));
    change(&mut behaviour);
    Camera::start(&stage.near, ADDRESS.parse::<SocketAddr>()?, behaviour)
}

/// What the API says of the source.
fn source(stage: &Stage) -> Result<Value> {
    stage.source_of("e2e")
}

fn until_playing(stage: &Stage) -> Result<()> {
    stage.until("the camera plays", || Ok(source(stage)?["state"] == "playing"))
}

/// Viewers see every frame as it is, bit by bit, with nothing lost.
fn shows_the_clip(stage: &Stage) -> Result<()> {
    until_playing(stage)?;
    let viewers = stage.play(2, &clip()?, stage.playing())?;
    stage.flows(&viewers, &[0, 1], Kind::Video, 40)?;
    stage.flows(&viewers, &[0, 1], Kind::Audio, 100)?;
    let in_kernel = stage.server.inspect(&["sessions"])?;
    ensure!(in_kernel["sessions"].as_array().is_some_and(Vec::is_empty), "the kernel has no use for: {in_kernel:#}");
    stage.assert_exact(&viewers.stop()?, &BOTH)?;
    ensure!(!stage.server.log().contains("s3cret"), "the password is in the log");
    Ok(())
}

#[test]
fn by_tcp_with_digest() -> Result<()> {
    let stage = stage("me:s3cret@", "transport = \"tcp\"")?;
    let camera = camera(&stage, |camera| camera.password = Some(("me", "s3cret", Scheme::Digest)))?;
    shows_the_clip(&stage)?;
    // The session's time is 4 s: signs of life must have kept it.
    std::thread::sleep(Duration::from_secs(4));
    ensure!(camera.playing() == 1 && source(&stage)?["connections"] == 1);
    ensure!(!source(&stage)?.to_string().contains("s3cret"), "the password is in the API");
    Ok(())
}

#[test]
fn by_udp_with_basic() -> Result<()> {
    let stage = stage("me:s3cret@", "transport = \"auto\"")?;
    let _camera = camera(&stage, |camera| {
        camera.password = Some(("me", "s3cret", Scheme::Basic));
        camera.only_udp = true;
    })?;
    shows_the_clip(&stage)
}

/// The certificate is not known before the camera has started, so the server starts again with it.
#[test]
fn by_tls_with_the_camera_s_own_certificate() -> Result<()> {
    let mut stage = stage("", "")?;
    let camera = camera(&stage, |camera| camera.tls = true)?;
    let secure = |fingerprint: &str| format!("source = \"rtsps://{ADDRESS}/live\"\nfingerprint = \"{fingerprint}\"\n");
    let more = [("e2e", camera.fingerprint.clone()), ("other", "00".repeat(32)), ("unknown", String::new())];
    let more = more.map(|(name, fingerprint)| format!("[streams.{name}]\n{}", secure(&fingerprint)));
    stage.settings.more = more.concat();
    stage.server.terminate()?;
    stage.server.start_again(&stage.host, &stage.settings)?;
    shows_the_clip(&stage)?;
    for name in ["other", "unknown"] {
        stage.until(name, || Ok(stage.source_of(name)?["error"] == "tls"))?;
    }
    Ok(())
}

#[test]
fn odd_frames_do_no_harm() -> Result<()> {
    let stage = stage("", "")?;
    let _camera = camera(&stage, |camera| camera.fault = Fault::OddFrames)?;
    shows_the_clip(&stage)?;
    ensure!(source(&stage)?["dropped"]["malformed_rtp"].as_u64() > Some(10), "{}", source(&stage)?);
    Ok(())
}

#[test]
fn viewers_outlive_a_camera_that_dies() -> Result<()> {
    let stage = stage("", "")?;
    let first = camera(&stage, |_| ())?;
    until_playing(&stage)?;
    let viewers = stage.play(1, &clip()?, stage.playing())?;
    stage.flows(&viewers, &[0], Kind::Video, 20)?;
    drop(first);
    stage.until("the server knows", || Ok(source(&stage)?["state"] == "waiting"))?;
    let _second = camera(&stage, |_| ())?;
    stage.flows(&viewers, &[0], Kind::Video, 40)?;
    stage.flows(&viewers, &[0], Kind::Audio, 40)?;
    ensure!(source(&stage)?["connections"] == 2);
    let stats = viewers.stop()?;
    ensure!(stats[0].video.mismatches == 0 && stats[0].video.duplicates == 0, "{stats:#?}");
    // A hole for each new start, no more.
    stage.assert_counted((stats[0].video.lost + stats[0].audio.lost).saturating_sub(2), 1)?;
    Ok(())
}

#[test]
fn on_demand_connects_for_viewers_only() -> Result<()> {
    let stage = stage("", "on_demand = true")?;
    let camera = camera(&stage, |_| ())?;
    ensure!(source(&stage)?["state"] == "idle" && camera.playing() == 0);
    // The offer waits until the camera has said what it sends.
    let viewers = stage.play(1, &clip()?, stage.playing())?;
    stage.flows(&viewers, &[0], Kind::Video, 20)?;
    ensure!(camera.playing() == 1);
    viewers.stop()?;
    stage.until("the camera is left alone", || Ok(camera.playing() == 0))?;
    let viewers = stage.play(1, &clip()?, stage.playing())?;
    stage.flows(&viewers, &[0], Kind::Video, 20)?;
    stage.assert_exact(&viewers.stop()?, &BOTH)?;
    Ok(())
}

/// The name of each failure, side by side with a stream that is well.
#[test]
fn failures_are_named() -> Result<()> {
    let faults = [
        (Fault::Status(404), "not_found"),
        (Fault::Status(454), "session_not_found"),
        (Fault::Status(500), "refused"),
        (Fault::Description, "malformed_sdp"),
        (Fault::OnlyAac, "no_media"),
        (Fault::Garbage, "garbage"),
        (Fault::PayloadType, "stalled"),
        (Fault::Stall, "stalled"),
        (Fault::None, "unauthorized"),
    ];
    let mut more = String::from("[streams.nobody]\nsource = \"rtsp://10.60.0.2:9/\"\n");
    more += "[streams.nameless]\nsource = \"rtsp://camera.invalid/\"\n";
    for (number, (_, name)) in faults.iter().enumerate() {
        more += &format!("[streams.{name}{number}]\nsource = \"rtsp://me:wr0ng@10.60.0.2:{}/live\"\n", 9000 + number);
    }
    let stage = stage("", &more)?;
    let _well = camera(&stage, |_| ())?;
    let mut cameras = vec![];
    for (number, (fault, name)) in faults.iter().enumerate() {
        let mut behaviour = Behaviour::plain(Content::Clip(Clip::load(&Clip::directory())?));
        behaviour.fault = *fault;
        behaviour.password = (*name == "unauthorized").then_some(("me", "s3cret", Scheme::Digest));
        cameras.push(Camera::start(&stage.near, SocketAddr::new(ip("10.60.0.2"), 9000 + number as u16), behaviour)?);
    }
    for (number, (_, name)) in faults.iter().enumerate() {
        stage.until(name, || Ok(stage.source_of(&format!("{name}{number}"))?["error"] == *name))?;
    }
    ensure!(stage.source_of("stalled6")?["error_text"].to_string().contains("payload_type"));
    stage.until("dns", || Ok(stage.source_of("nameless")?["error"] == "dns"))?;
    stage.until("unreachable", || Ok(stage.source_of("nobody")?["error"] == "unreachable"))?;
    let metrics = stage.server.get_text("/metrics")?;
    for name in faults.iter().map(|(_, name)| *name).chain(["dns", "unreachable"]) {
        let counter = format!("penstock_source_failures_total{{error=\"{name}\"}} ");
        ensure!(metrics.contains(&counter), "no {counter} in {metrics}");
    }
    ensure!(metrics.contains("penstock_source_dropped_total{reason=\"payload_type\"} "), "{metrics}");
    let url = stage.whep().replace("e2e", "nobody");
    let refusal = Viewers::start(&url, 1, Source::None, stage.playing());
    let refusal = refusal.err().map(|error| format!("{error:#}")).unwrap_or_default();
    ensure!(refusal.contains("503") && refusal.contains("reached"), "{refusal}");
    ensure!(!stage.server.log().contains("wr0ng"), "the password is in the log");
    shows_the_clip(&stage)
}
