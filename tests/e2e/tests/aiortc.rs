//! aiortc publishes and plays, against itself and against Chromium, through XDP.

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use tests_kit::browser::watch::{self, START, is_gcm, plays, shows_a_moving_picture};
use tests_kit::browser::{Browser, count};
use tests_kit::python::{Peer, Stack, Work, stream};
use tests_kit::received::{by_page, by_peer, equals_sealed, lost};
use tests_kit::stage::Stage;

/// Frames that must have been decoded: three seconds of video, and more of sound.
const VIDEO_FRAMES: u64 = 45;
const AUDIO_FRAMES: u64 = 150;

fn publish(stage: &Stage, codec: &str) -> Result<Peer> {
    let peer = Peer::start(
        &stage.near,
        Stack::Aiortc,
        Work::Publish,
        &format!("{}/a/whip", stage.publishing_origin()),
        codec,
    )?;
    let state = peer.wait_for("aiortc sends video", START, |state| {
        count(stream(state, "outbound-rtp", "video"), "packetsSent") > 0
    })?;
    ensure!(is_gcm(profile(&state)), "SRTP profile {:?}", profile(&state));
    Ok(peer)
}

fn play(stage: &Stage) -> Result<Peer> {
    Peer::start(stage.viewers(), Stack::Aiortc, Work::Play, &format!("{}/a/whep", stage.viewing_origin()), "")
}

/// Waits until an aiortc viewer has decoded enough, then checks what it saw, heard and lost.
fn decodes(stage: &Stage, viewer: &Peer) -> Result<Value> {
    let state = viewer.wait_for("aiortc decodes video and sound", START, |state| {
        count(state, "video_frames") >= VIDEO_FRAMES && count(state, "audio_frames") >= AUDIO_FRAMES
    })?;
    ensure!(is_gcm(profile(&state)), "SRTP profile {:?}", profile(&state));
    ensure!(count(&state, "width") > 0 && count(&state, "contrast") > 50, "no picture: {state}");
    ensure!(count(&state, "loudness") > 1000, "no sound: {state}");
    stage.assert_counted(lost(&by_peer(&state)), 1).with_context(|| state.to_string())?;
    Ok(state)
}

fn profile(state: &Value) -> &str {
    state["srtp_profile"].as_str().unwrap_or_default()
}

fn with_log(test: impl FnOnce(&Stage) -> Result<()>) -> Result<()> {
    let stage = Stage::apart("")?;
    stage.explain(test(&stage))
}

#[test]
fn aiortc_publishes_and_aiortc_plays() -> Result<()> {
    with_log(|stage| {
        let mut publisher = publish(stage, "VP8")?;
        let viewer = play(stage)?;
        decodes(stage, &viewer)?;
        publisher.pause()?;
        equals_sealed(stage, || Ok(by_peer(&viewer.state())))?;
        viewer.stop()?;
        publisher.stop().map(drop)
    })
}

#[test]
fn aiortc_publishes_and_a_browser_plays() -> Result<()> {
    with_log(|stage| {
        let mut publisher = publish(stage, "VP8")?;
        let browser = Browser::launch("viewer", stage.viewers(), None)?;
        let page = browser.open(&format!("{}/a", stage.viewing_origin()))?;
        plays(&page)?;
        shows_a_moving_picture(&page)?;
        publisher.pause()?;
        equals_sealed(stage, || Ok(by_page(&page.stats()?)))?;
        publisher.stop().map(drop)
    })
}

#[test]
fn aiortc_publishes_h264_and_a_browser_plays() -> Result<()> {
    with_log(|stage| {
        let publisher = publish(stage, "H264")?;
        let browser = Browser::launch("viewer", stage.viewers(), None)?;
        let stats = plays(&browser.open(&format!("{}/a", stage.viewing_origin()))?)?;
        assert_eq!(stats.codec(stats.inbound("video")), "video/H264");
        publisher.stop().map(drop)
    })
}

#[test]
fn a_browser_publishes_and_aiortc_plays() -> Result<()> {
    with_log(|stage| {
        let origin = stage.publishing_origin();
        let browser = Browser::launch("publisher", &stage.near, Some(&origin))?;
        let page = watch::publish(&browser, &origin, "a", "VP8")?;
        let viewer = play(stage)?;
        decodes(stage, &viewer)?;
        watch::pause(&page)?;
        equals_sealed(stage, || Ok(by_peer(&viewer.state())))?;
        viewer.stop().map(drop)
    })
}
