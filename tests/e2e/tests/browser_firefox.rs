//! Firefox plays what Chromium publishes, and publishes to Chromium, with the product's pages.

use anyhow::{Context, Result, ensure};
use tests_kit::browser::watch::{START, plays, publish, screenshot_path, sends, shows_a_moving_picture};
use tests_kit::browser::{Autoplay, Browser, Page, count};
use tests_kit::stage::Stage;

/// Frames that must follow the first ones.
const FRAMES: u64 = 30;

/// As `plays`; Firefox has no word of when it stood still.
fn plays_in_firefox(page: &Page) -> Result<()> {
    page.wait_for("penstock.state === 'live'", START)?;
    let frames = count(page.stats()?.inbound("video"), "framesDecoded");
    let stats = page.wait_for_stats("frames and sound go on", START, |stats| {
        count(stats.inbound("video"), "framesDecoded") >= frames + FRAMES
            && count(stats.inbound("audio"), "packetsReceived") >= FRAMES
    })?;
    ensure!(count(stats.inbound("video"), "packetsLost") == 0, "packets are lost: {stats}");
    shows_a_moving_picture(page)
}

#[test]
fn firefox_plays_and_publishes() -> Result<()> {
    let stage = Stage::apart("")?;
    let chromium = Browser::launch("chromium", &stage.near, Some(&stage.publishing_origin()))?;
    let firefox = Browser::launch_firefox("firefox", stage.viewers(), Some(&stage.viewing_origin()), Autoplay::Muted)?;
    stage.explain(plays_by_itself(&stage, &chromium, &firefox)).context("Firefox plays")?;
    stage.explain(publishes(&stage, &chromium, &firefox)).context("Firefox publishes")
}

fn plays_by_itself(stage: &Stage, chromium: &Browser, firefox: &Browser) -> Result<()> {
    let publisher = publish(chromium, &stage.publishing_origin(), "show", "VP8")?;
    let page = firefox.open(&format!("{}/show?muted=false", stage.viewing_origin()))?;
    plays_in_firefox(&page)?;
    ensure!(page.evaluate("penstock.pc.localDescription.sdp.includes('stereo=1')")? == true, "it asks for one channel");
    // Sound needs a gesture, and the page says so; the picture plays meanwhile.
    ensure!(page.evaluate("document.querySelector('video').muted")? == true, "sound before a gesture");
    page.wait_for("document.body.innerText.includes('Tap for sound')", START)?;
    page.screenshot(&screenshot_path("firefox"))?;
    page.tap("penstock-player > button")?;
    page.wait_for("!document.querySelector('video').muted && !document.querySelector('video').paused", START)?;

    // A restart finds a path, and nothing else changes.
    page.evaluate("penstock.restartIce()")?;
    plays_in_firefox(&page)?;
    publisher.close()?;
    page.wait_for("penstock.state === 'wait'", START)?;
    page.close()
}

fn publishes(stage: &Stage, chromium: &Browser, firefox: &Browser) -> Result<()> {
    let publisher = sends(firefox, &stage.viewing_origin(), "back", "VP8")?;
    let viewer = chromium.open(&format!("{}/back", stage.publishing_origin()))?;
    plays(&viewer)?;
    publisher.wait_for("document.getElementById('stats').textContent.includes('Video at the server')", START)?;
    publisher.screenshot(&screenshot_path("firefox-publishes"))?;
    // Another path: what is on its way at that moment may be lost, and pictures go on.
    publisher.evaluate("penstock.restartIce()")?;
    let frames = count(viewer.stats()?.inbound("video"), "framesDecoded");
    viewer.wait_for_stats("frames go on", START, |stats| {
        count(stats.inbound("video"), "framesDecoded") >= frames + FRAMES
    })?;
    publisher.close()
}
