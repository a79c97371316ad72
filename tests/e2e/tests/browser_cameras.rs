//! Chromium plays a camera: H.264 whose parameter sets stand in the description only and whose frames are larger than
//! any packet that a browser takes, and G.711; AAC is left out.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::Value;
use tests_kit::browser::watch::{START, plays, plays_again, screenshot_path, shows_a_moving_picture};
use tests_kit::browser::{Autoplay, Browser, count, wait_until};
use tests_kit::camera::content::{Content, H264};
use tests_kit::camera::{Behaviour, Camera, GstCamera};
use tests_kit::clip::Clip;
use tests_kit::python::{Peer, Stack, Work};
use tests_kit::stage::{PATIENCE, Stage};

const CONFIG: &str = "[streams.a]\nsource = \"rtsp://10.60.0.2:8554/live\"\n";

fn stage_and_camera(b_frames: u32) -> Result<(Stage, Camera, Behaviour)> {
    // Encoded first: a server waits longer each time that it finds no camera.
    let behaviour = Behaviour::plain(Content::H264(H264::encode(b_frames)?));
    let stage = Stage::apart(CONFIG)?;
    let camera = start(&stage, &behaviour)?;
    Ok((stage, camera, behaviour))
}

fn start(stage: &Stage, behaviour: &Behaviour) -> Result<Camera> {
    let camera = Camera::start(&stage.near, "10.60.0.2:8554".parse::<SocketAddr>()?, behaviour.clone())?;
    wait_until("the camera plays", PATIENCE, || Ok((source(stage)?["state"] == "playing").then_some(())))?;
    Ok(camera)
}

fn source(stage: &Stage) -> Result<Value> {
    source_at(stage, 0)
}

fn source_at(stage: &Stage, number: usize) -> Result<Value> {
    Ok(stage.server.get("/api/v1/state")?["streams"][number]["source"].clone())
}

#[test]
fn a_browser_plays_a_camera_and_outlives_its_reboot() -> Result<()> {
    let (stage, camera, behaviour) = stage_and_camera(0)?;
    let browser = Browser::launch("viewer", stage.viewers(), None)?;
    let page = browser.open(&format!("{}/a", stage.viewing_origin()))?;
    let outcome = (|| {
        let stats = plays(&page)?;
        assert_eq!(stats.codec(stats.inbound("video")), "video/H264");
        assert_eq!(stats.codec(stats.inbound("audio")), "audio/PCMA");
        shows_a_moving_picture(&page)?;
        page.screenshot(&screenshot_path("camera"))?;
        let left_out = source(&stage)?["left_out"].to_string();
        ensure!(left_out.contains("MPEG4-GENERIC"), "{left_out}");
        wait_until("the player says so", START, || {
            let shown = page.evaluate("document.getElementById('stats').textContent")?.to_string();
            Ok(shown.contains("MPEG4-GENERIC").then_some(()))
        })?;
        ensure!(source(&stage)?["warnings"].as_array().is_some_and(Vec::is_empty));

        drop(camera);
        wait_until("the server knows", START, || Ok((source(&stage)?["state"] == "waiting").then_some(())))?;
        let _camera = start(&stage, &behaviour)?;
        let stats = plays_again(&page)?;
        // Both by the sender reports of the camera's one clock.
        let played = |kind| stats.inbound(kind)["estimatedPlayoutTimestamp"].as_f64().unwrap_or_default();
        let apart = (played("video") - played("audio")).abs();
        ensure!(played("video") > 0.0 && apart < 300.0, "sound and picture are {apart} ms apart");
        Ok(())
    })();
    stage.explain(outcome)
}

/// A camera dies and comes back: Chromium, Firefox and aiortc go on in the sessions that they have.
#[test]
fn every_kind_of_viewer_outlives_a_reboot() -> Result<()> {
    let behaviour = Behaviour::plain(Content::Clip(Clip::load(&Clip::directory())?));
    let stage = Stage::apart(CONFIG)?;
    let camera = start(&stage, &behaviour)?;
    let origin = stage.viewing_origin();
    let chromium = Browser::launch("chromium", stage.viewers(), None)?;
    let firefox = Browser::launch_firefox("firefox", stage.viewers(), Some(&origin), Autoplay::Muted)?;
    let outcome = (|| {
        let pages = [chromium.open(&format!("{origin}/a"))?, firefox.open(&format!("{origin}/a"))?];
        let peer = Peer::start(stage.viewers(), Stack::Aiortc, Work::Play, &format!("{origin}/a/whep"), "")?;
        let decode = |more: u64| -> Result<()> {
            for page in &pages {
                let before = count(page.stats()?.inbound("video"), "framesDecoded");
                page.wait_for_stats("frames", START, |stats| {
                    count(stats.inbound("video"), "framesDecoded") >= before + more
                })?;
            }
            let before = [count(&peer.state(), "video_frames"), count(&peer.state(), "audio_frames")];
            peer.wait_for("frames and sound", START, |state| {
                count(state, "video_frames") >= before[0] + more && count(state, "audio_frames") >= before[1] + more
            })?;
            Ok(())
        };
        decode(30)?;
        let sessions = || -> Result<Vec<Value>> {
            let state = stage.server.get("/api/v1/state")?;
            let sessions = state["sessions"].as_array().cloned().unwrap_or_default();
            Ok(sessions.into_iter().map(|session| session["id"].clone()).collect())
        };
        let before = sessions()?;
        ensure!(before.len() == 3, "{before:?}");
        drop(camera);
        wait_until("the server knows", START, || Ok((source(&stage)?["state"] == "waiting").then_some(())))?;
        let _camera = start(&stage, &behaviour)?;
        decode(45)?;
        ensure!(sessions()? == before, "a viewer has begun anew: {before:?}, {:?}", sessions()?);
        peer.stop().map(drop)
    })();
    stage.explain(outcome)
}

/// Notes when the connection was up and when the first frame was shown, and of each frame how long ago it was received.
const NOTE_FRAMES: &str = "
    window.shown = { connected: null, first: null, delay: 0, frames: 0 };
    window.RTCPeerConnection = class extends RTCPeerConnection {
        constructor(...options) {
            super(...options);
            this.addEventListener('connectionstatechange', () => {
                if (this.connectionState === 'connected') shown.connected ??= performance.now();
            });
        }
    };
    const look = setInterval(() => {
        const video = document.querySelector('video');
        if (!video) return;
        clearInterval(look);
        const note = (now, frame) => {
            shown.first ??= performance.now();
            shown.delay = frame.expectedDisplayTime - frame.receiveTime;
            shown.frames += 1;
            video.requestVideoFrameCallback(note);
        };
        video.requestVideoFrameCallback(note);
    }, 5);";

/// The same camera twice, with a keyframe cache and without. How long the first frame takes is printed, next to
/// how far behind its arrival a frame is shown after some seconds: a browser that was given the past must not stay
/// there.
#[test]
fn a_browser_begins_at_once_though_keyframes_are_ten_seconds_apart() -> Result<()> {
    // A browser must take an answer with NACK and without RTX as well.
    let config = format!("{CONFIG}keyframe_cache = true\n{}[rtcp]\nnack = true\n", CONFIG.replace(".a]", ".b]"));
    let behaviour = Behaviour::plain(Content::H264(H264::long_gop()?));
    let stage = Stage::apart(&config)?;
    let _camera = start(&stage, &behaviour)?;
    let browser = Browser::launch("viewer", stage.viewers(), None)?;
    let outcome = (|| {
        wait_until("most of ten seconds are kept", START, || {
            let kept = source(&stage)?["keyframe_cache"]["packets"].as_u64();
            Ok((kept > Some(900)).then_some(()))
        })?;
        let page = browser.open_with(&format!("{}/a", stage.viewing_origin()), NOTE_FRAMES)?;
        let first = page.wait_for("shown.first", START)?;
        let first = first.as_f64().unwrap_or(f64::MAX);
        println!("with a cache the first frame is shown {first:.0} ms after the page was asked for");
        for _ in 0..8 {
            std::thread::sleep(Duration::from_millis(500));
            println!("  {}", page.evaluate("shown")?);
        }
        plays(&page)?;
        shows_a_moving_picture(&page)?;
        page.close()?;
        let page = browser.open_with(&format!("{}/b", stage.viewing_origin()), NOTE_FRAMES)?;
        page.wait_for("shown.first", START)?;
        println!("without: {}", page.evaluate("shown")?);
        // That the viewer was given the past is counted; how soon a busy machine shows it is no matter of a test.
        let cache = source(&stage)?["keyframe_cache"].clone();
        ensure!(cache["hits"] == 1 && cache["overflows"] == 0, "{cache}");
        ensure!(source_at(&stage, 1)?["keyframe_cache"].is_null());
        Ok(())
    })();
    stage.explain(outcome)
}

#[test]
fn b_frames_are_named() -> Result<()> {
    let (stage, _camera, _) = stage_and_camera(2)?;
    let browser = Browser::launch("viewer", stage.viewers(), None)?;
    let page = browser.open(&format!("{}/a", stage.viewing_origin()))?;
    let outcome = (|| {
        page.wait_for_stats("frames", START, |stats| count(stats.inbound("video"), "framesDecoded") > 0)?;
        let warnings = source(&stage)?["warnings"].to_string();
        ensure!(warnings.contains("B-frames"), "{warnings}");
        ensure!(stage.server.log().matches("B-frames, which").count() == 1, "not said once");
        Ok(())
    })();
    stage.explain(outcome)
}

/// A camera that others have made: by TCP on demand, by UDP, and H.265.
#[test]
fn a_browser_plays_gstreamer_s_rtsp_server() -> Result<()> {
    let source = |path: &str| format!("source = \"rtsp://me:s3cret@10.60.0.2:8555/{path}\"\n");
    let config = format!(
        "[streams.aac]\ntransport = \"udp\"\n{}[streams.alaw]\non_demand = true\n{}[streams.hevc]\n{}",
        source("aac"),
        source("alaw"),
        source("hevc")
    );
    let stage = Stage::apart(&config)?;
    let _camera = GstCamera::start(&stage.near, 8555)?;
    let browser = Browser::launch("viewer", stage.viewers(), None)?;
    let outcome = (|| {
        for (number, name) in [(0, "aac"), (2, "hevc")] {
            wait_until(name, START, || Ok((source_at(&stage, number)?["state"] == "playing").then_some(())))?;
        }
        ensure!(source_at(&stage, 0)?["left_out"].to_string().contains("MPEG4-GENERIC"));
        ensure!(source_at(&stage, 2)?["codecs"].to_string().contains("H265"));
        ensure!(source_at(&stage, 1)?["state"] == "idle", "on demand, and nobody watches");
        let page = browser.open(&format!("{}/alaw", stage.viewing_origin()))?;
        plays(&page)?;
        shows_a_moving_picture(&page)?;
        let page = browser.open(&format!("{}/aac", stage.viewing_origin()))?;
        page.wait_for_stats("frames", START, |stats| count(stats.inbound("video"), "framesDecoded") > 30)?;
        ensure!(source_at(&stage, 0)?["lost"] == 0, "{}", source_at(&stage, 0)?);
        Ok(())
    })();
    stage.explain(outcome)
}
