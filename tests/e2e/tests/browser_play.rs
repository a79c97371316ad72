//! Chromium publishes with the product's page, another Chromium plays with the product's page; the media crosses two
//! veth pairs and is opened and sealed in XDP between them.

use std::time::Duration;

use anyhow::Result;
use tests_kit::browser::watch::{START, pause, plays, plays_again, publish, screenshot_path, shows_a_moving_picture};
use tests_kit::browser::{Browser, Page, count};
use tests_kit::received::{by_page, equals_sealed};
use tests_kit::stage::Stage;

/// Server, publisher's browser and viewer's browser.
struct Scene {
    publisher: Browser,
    viewer: Browser,
    stage: Stage,
}

impl Scene {
    fn new() -> Result<Self> {
        let stage = Stage::apart("")?;
        let publisher = Browser::launch("publisher", &stage.near, Some(&stage.publishing_origin()))?;
        let viewer = Browser::launch("viewer", stage.viewers(), None)?;
        Ok(Self { publisher, viewer, stage })
    }

    fn publish(&self, stream: &str) -> Result<Page> {
        publish(&self.publisher, &self.stage.publishing_origin(), stream, "VP8")
    }

    fn play(&self, stream: &str) -> Result<Page> {
        self.viewer.open(&format!("{}/{stream}", self.stage.viewing_origin()))
    }
}

#[test]
fn a_browser_publishes_and_another_plays() -> Result<()> {
    let scene = Scene::new()?;
    scene.stage.explain(publish_and_play(&scene))
}

fn publish_and_play(scene: &Scene) -> Result<()> {
    let publisher = scene.publish("show")?;
    let viewer = scene.play("show")?;
    let stats = plays(&viewer)?;
    assert_eq!(stats.codec(stats.inbound("video")), "video/VP8");
    shows_a_moving_picture(&viewer)?;
    viewer.screenshot(&screenshot_path("play"))?;
    publisher.screenshot(&screenshot_path("publish"))?;

    // Without feedback Chromium stays below 100 kbit/s for ever; it begins at 300.
    let rate = |pair: &serde_json::Value| pair["availableOutgoingBitrate"].as_f64().unwrap_or(0.0);
    publisher.wait_for_stats("the publisher may send more than at first", Duration::from_secs(45), |stats| {
        rate(stats.selected_pair()) >= 3.2e5
    })?;

    pause(&publisher)?;
    equals_sealed(&scene.stage, || Ok(by_page(&viewer.stats()?)))
}

#[test]
fn a_late_viewer_sees_a_frame_soon() -> Result<()> {
    let scene = Scene::new()?;
    scene.stage.explain((|| {
        let _publisher = scene.publish("late")?;
        plays(&scene.play("late")?)?;
        // A keyframe is asked for when somebody joins: Chromium sends none by itself in half an hour.
        let late = scene.play("late")?;
        late.wait_for_stats("first frame", START, |stats| count(stats.inbound("video"), "framesDecoded") > 0)?;
        plays(&late).map(drop)
    })())
}

#[test]
fn both_sides_go_on_through_an_ice_restart() -> Result<()> {
    let scene = Scene::new()?;
    scene.stage.explain((|| {
        let publisher = scene.publish("restart")?;
        let viewer = scene.play("restart")?;
        plays(&viewer)?;
        for page in [&viewer, &publisher] {
            let before = selected_pair(page)?;
            page.evaluate("penstock.restartIce()")?;
            page.wait_for_stats("another candidate pair", START, |stats| {
                let pair = &stats.selected_pair()["id"];
                pair.is_string() && *pair != before
            })?;
            plays_again(&viewer)?;
        }
        Ok(())
    })())
}

/// Both hosts lose their address and get another one. The pages find it out by themselves.
#[test]
fn both_sides_go_on_after_a_change_of_network() -> Result<()> {
    let scene = Scene::new()?;
    scene.stage.explain((|| {
        let publisher = scene.publish("roaming")?;
        let viewer = scene.play("roaming")?;
        plays(&viewer)?;
        for (host, address) in [(scene.stage.viewers(), "10.61.0.9/24"), (&scene.stage.near, "10.60.0.9/24")] {
            host.ip(["-4", "addr", "flush", "dev", "eth0"])?;
            host.add_addresses("eth0", &[address])?;
            plays_again(&viewer)?;
            viewer.wait_for("penstock.state === 'live'", START)?;
            publisher.wait_for("penstock.state === 'live'", START)?;
        }
        Ok(())
    })())
}

fn selected_pair(page: &Page) -> Result<serde_json::Value> {
    Ok(page.stats()?.selected_pair()["id"].clone())
}

#[test]
fn the_player_waits_for_a_publisher_that_left() -> Result<()> {
    let scene = Scene::new()?;
    scene.stage.explain((|| {
        let publisher = scene.publish("again")?;
        let viewer = scene.play("again")?;
        plays(&viewer)?;
        publisher.close()?;
        viewer.wait_for("penstock.state === 'wait'", START)?;
        viewer.screenshot(&screenshot_path("publisher-left"))?;
        let _again = scene.publish("again")?;
        viewer.wait_for("penstock.state === 'live'", START)?;
        plays_again(&viewer)?;
        shows_a_moving_picture(&viewer)
    })())
}
