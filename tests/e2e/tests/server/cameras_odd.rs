//! Cameras whose packets are numbered, marked and stamped as they should not be: viewers get the same as of any other,
//! and what cannot be put right has a name.

use std::net::SocketAddr;

use anyhow::{Result, ensure};
use serde_json::Value;
use tests_kit::camera::content::{Content, H264};
use tests_kit::camera::{Behaviour, Camera, Fault};
use tests_kit::clip::Clip;
use tests_kit::peer::{Kind, Viewers};
use tests_kit::stage::{BOTH, Layout, Stage, clip, ip};

const FAULTS: [(&str, Fault); 7] = [
    ("no-marker", Fault::NoMarker),
    ("each-marker", Fault::EachMarker),
    ("standing-numbers", Fault::StandingNumbers),
    ("anew-numbers", Fault::AnewNumbers),
    ("other-types", Fault::OtherTypes),
    ("set-clock", Fault::SetClock),
    ("other-ssrcs", Fault::OtherSsrcs),
];

fn address(number: usize) -> SocketAddr {
    SocketAddr::new(ip("10.60.0.2"), 9100 + number as u16)
}

fn started(stage: &Stage, number: usize, content: Content, fault: Fault) -> Result<Camera> {
    Camera::start(&stage.near, address(number), Behaviour { fault, ..Behaviour::plain(content) })
}

/// Each frame comes out as it is, with no packet missing, whatever came in.
#[test]
fn viewers_get_what_a_camera_meant() -> Result<()> {
    let streams = FAULTS.iter().enumerate().map(|(number, (name, _))| {
        format!("[streams.{name}]\nsource = \"rtsp://{}/live\"\ntransport = \"tcp\"\n", address(number))
    });
    let stage = Stage::unprivileged(Layout::OneNic, &streams.collect::<String>())?;
    let content = Content::Clip(Clip::load(&Clip::directory())?);
    let mut cameras = vec![];
    for (number, (_, fault)) in FAULTS.iter().enumerate() {
        cameras.push(started(&stage, number, content.clone(), *fault)?);
    }
    for (name, _) in FAULTS {
        stage.until(name, || Ok(stage.source_of(name)?["state"] == "playing"))?;
        let url = stage.whep().replace("e2e", name);
        let viewers = Viewers::start(&url, 1, clip()?, stage.playing())?;
        stage.flows(&viewers, &[0], Kind::Video, 80)?;
        stage.flows(&viewers, &[0], Kind::Audio, 100)?;
        let judged = stage.assert_exact(&viewers.stop()?, &BOTH);
        judged.map_err(|error| error.context(name))?;
        let source = stage.source_of(name)?;
        ensure!(source["lost"] == 0 && source["connections"] == 1, "{name}: {source}");
    }
    Ok(())
}

/// What a camera of H.264 without keyframes or parameter sets, or with B-frames, is said to lack.
#[test]
fn what_viewers_will_miss_has_a_name() -> Result<()> {
    let b_frames = Content::H264(H264::encode(2)?);
    let good = Content::H264(H264::encode(0)?);
    let stage = Stage::unprivileged(
        Layout::OneNic,
        &format!(
            "[streams.b-frames]\nsource = \"rtsp://{}/live\"\n[streams.good]\nsource = \"rtsp://{}/live\"\n",
            address(0),
            address(1)
        ),
    )?;
    let _cameras = [started(&stage, 0, b_frames, Fault::None)?, started(&stage, 1, good, Fault::None)?];
    let reasons = |name: &str| Ok::<Value, anyhow::Error>(stage.source_of(name)?["reasons"].clone());
    stage.until("B-frames are named", || Ok(reasons("b-frames")? == serde_json::json!(["b_frames"])))?;
    ensure!(reasons("good")? == serde_json::json!([]), "{}", stage.source_of("good")?);
    let metrics = stage.server.get_text("/metrics")?;
    ensure!(metrics.contains("penstock_source_reasons{reason=\"b_frames\"} 1"), "{metrics}");
    let log = stage.server.log();
    ensure!(log.matches("b_frames").count() == 1, "{log}");
    Ok(())
}
