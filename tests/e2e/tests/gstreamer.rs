//! GStreamer's webrtcbin, which knows AES_CM_128_HMAC_SHA1_80 only, publishes and plays: against itself and against
//! Chromium, whose sessions are AES-GCM.

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tests_kit::browser::watch::{self, START, plays, shows_a_moving_picture};
use tests_kit::browser::{Browser, count};
use tests_kit::python::{Peer, Stack, Work, stream};
use tests_kit::received::{by_page, by_peer, lost};
use tests_kit::stage::Stage;

/// Frames that must have been decoded: three seconds of video, and more of sound.
const VIDEO_FRAMES: u64 = 45;
const AUDIO_FRAMES: u64 = 150;

fn publish(stage: &Stage) -> Result<Peer> {
    let url = format!("{}/a/whip", stage.publishing_origin());
    let peer = Peer::start(&stage.near, Stack::Gstreamer, Work::Publish, &url, "")?;
    peer.wait_for("GStreamer sends video", START, |state| {
        count(stream(state, "outbound-rtp", "video"), "packetsSent") > 0 || state["connection"] == "connected"
    })?;
    Ok(peer)
}

fn play(stage: &Stage) -> Result<Peer> {
    let url = format!("{}/a/whep", stage.viewing_origin());
    Peer::start(stage.viewers(), Stack::Gstreamer, Work::Play, &url, "")
}

/// Waits until a GStreamer viewer has decoded enough, then checks what it saw, heard and lost.
fn decodes(stage: &Stage, viewer: &Peer) -> Result<Value> {
    let state = viewer.wait_for("GStreamer decodes video and sound", START, |state| {
        count(state, "video_frames") >= VIDEO_FRAMES && count(state, "audio_frames") >= AUDIO_FRAMES
    })?;
    ensure!(count(&state, "width") > 0 && count(&state, "contrast") > 50, "no picture: {state}");
    ensure!(count(&state, "loudness") > 1000, "no sound: {state}");
    let received = by_peer(&state);
    ensure!(received.len() == 2, "{state}");
    stage.assert_counted(lost(&received), 1).with_context(|| state.to_string())?;
    Ok(state)
}

/// What carries each session of the stream, by role (`publisher`, `subscriber`), as the server's API tells it.
fn carriers(stage: &Stage, role: &str) -> Result<Vec<String>> {
    let state = stage.server.get("/api/v1/state")?;
    let sessions = state["sessions"].as_array().with_context(|| format!("no sessions: {state:#}"))?;
    let of_role = sessions.iter().filter(|session| session["role"] == role);
    Ok(of_role.filter_map(|session| session["engine"].as_str().map(str::to_owned)).collect())
}

fn with_log(test: impl FnOnce(&Stage) -> Result<()>) -> Result<()> {
    let stage = Stage::apart("")?;
    stage.explain(test(&stage))
}

#[test]
fn gstreamer_publishes_and_a_browser_plays() -> Result<()> {
    with_log(|stage| {
        let publisher = publish(stage)?;
        let browser = Browser::launch("viewer", stage.viewers(), None)?;
        let page = browser.open(&format!("{}/a", stage.viewing_origin()))?;
        plays(&page)?;
        shows_a_moving_picture(&page)?;
        stage.assert_counted(lost(&by_page(&page.stats()?)), 1).with_context(|| format!("{:?}", page.stats()))?;
        for carrier in carriers(stage, "publisher")?.into_iter().chain(carriers(stage, "subscriber")?) {
            ensure!(carrier.starts_with("userspace"), "a session is carried by {carrier:?}");
        }
        publisher.stop().map(drop)
    })
}

#[test]
fn a_browser_publishes_and_gstreamer_and_a_browser_play() -> Result<()> {
    with_log(|stage| {
        let origin = stage.publishing_origin();
        let camera = Browser::launch("publisher", &stage.near, Some(&origin))?;
        let _page = watch::publish(&camera, &origin, "a", "VP8")?;
        let viewer = play(stage)?;
        decodes(stage, &viewer)?;
        let browser = Browser::launch("viewer", stage.viewers(), None)?;
        plays(&browser.open(&format!("{}/a", stage.viewing_origin()))?)?;
        // One stream, both engines: the publisher and the browser stay in the kernel.
        let viewers = carriers(stage, "subscriber")?;
        let with = |name: &str| viewers.iter().filter(|carrier| carrier.starts_with(name)).count();
        ensure!((with("kernel"), with("userspace")) == (1, 1), "viewers are carried by {viewers:?}");
        let publishers = carriers(stage, "publisher")?;
        ensure!(publishers.iter().all(|carrier| carrier.starts_with("kernel")), "the publisher: {publishers:?}");
        viewer.stop().map(drop)
    })
}

#[test]
fn gstreamer_publishes_and_gstreamer_plays() -> Result<()> {
    with_log(|stage| {
        let publisher = publish(stage)?;
        let viewer = play(stage)?;
        decodes(stage, &viewer)?;
        viewer.stop()?;
        publisher.stop().map(drop)
    })
}
