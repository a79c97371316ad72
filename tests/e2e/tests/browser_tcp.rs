//! Chromium on networks that let no UDP through: media by TCP (ICE-TCP), on a port of its own or on that of HTTP; and
//! what is said where that is not there.

use anyhow::{Result, ensure};
use serde_json::Value;
use tests_kit::browser::watch::{START, plays, plays_again, publish, shows_a_moving_picture};
use tests_kit::browser::{Browser, Page};
use tests_kit::netns::NetNs;
use tests_kit::stage::Stage;

const PORT: &str = "[media]\ntcp_port = 8444\n";
/// That of HTTP.
const SHARED: &str = "[media]\ntcp_port = 8080\n";

/// What the player says, once it says that nothing connects.
const TOLD: &str =
    "(text => text.includes('No media gets through') && text)(document.getElementById('message').textContent)";

/// Lets nothing of UDP in or out.
fn drop_udp(host: &NetNs) -> Result<()> {
    for (family, chain) in
        [("iptables", "INPUT"), ("iptables", "OUTPUT"), ("ip6tables", "INPUT"), ("ip6tables", "OUTPUT")]
    {
        let output = host.command(family).args(["-A", chain, "-p", "udp", "-j", "DROP"]).output()?;
        ensure!(output.status.success(), "iptables: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}

/// Transport and engine of the sessions of a role.
fn carried(stage: &Stage, role: &str) -> Result<Vec<(String, String)>> {
    let state = stage.server.get("/api/v1/state")?;
    let sessions = state["sessions"].as_array().into_iter().flatten().filter(|session| session["role"] == role);
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    Ok(sessions.map(|session| (text(&session["transport"]), text(&session["engine"]))).collect())
}

fn by_tcp(stage: &Stage, role: &str) -> Result<()> {
    let carried = carried(stage, role)?;
    let right = |(transport, engine): &(String, String)| transport == "tcp" && engine.starts_with("userspace tcp");
    ensure!(!carried.is_empty() && carried.iter().all(right), "{role}: {carried:?}");
    Ok(())
}

struct Scene {
    publisher: Browser,
    viewer: Browser,
    stage: Stage,
}

impl Scene {
    fn new(more: &str) -> Result<Self> {
        let stage = Stage::apart(more)?;
        let publisher = Browser::launch("publisher", &stage.near, Some(&stage.publishing_origin()))?;
        let viewer = Browser::launch("viewer", stage.viewers(), None)?;
        Ok(Self { publisher, viewer, stage })
    }

    fn publish(&self) -> Result<Page> {
        publish(&self.publisher, &self.stage.publishing_origin(), "show", "VP8")
    }

    fn play(&self) -> Result<Page> {
        self.viewer.open(&format!("{}/show", self.stage.viewing_origin()))
    }
}

#[test]
fn a_publisher_and_viewers_without_udp() -> Result<()> {
    let scene = Scene::new(PORT)?;
    scene.stage.explain((|| {
        drop_udp(&scene.stage.near)?;
        drop_udp(scene.stage.viewers())?;
        let _publisher = scene.publish()?;
        let viewer = scene.play()?;
        plays(&viewer)?;
        shows_a_moving_picture(&viewer)?;
        by_tcp(&scene.stage, "publisher")?;
        by_tcp(&scene.stage, "subscriber")?;
        viewer.evaluate("penstock.restartIce()")?;
        plays_again(&viewer)?;
        let open = |stage: &Stage| -> Result<Option<u64>> {
            Ok(stage.server.get("/api/v1/state")?["tcp"]["connections"].as_u64())
        };
        let before = open(&scene.stage)?;
        ensure!(before.is_some_and(|open| open >= 2), "{before:?} connections");
        // Connections end with their sessions; a browser has several.
        viewer.close()?;
        scene.stage.until("the viewer's connections are closed", || Ok(open(&scene.stage)? < before))
    })())
}

#[test]
fn the_port_of_http_carries_media_beside_a_publisher_in_the_kernel() -> Result<()> {
    let scene = Scene::new(SHARED)?;
    scene.stage.explain((|| {
        drop_udp(scene.stage.viewers())?;
        let _publisher = scene.publish()?;
        let viewer = scene.play()?;
        plays(&viewer)?;
        by_tcp(&scene.stage, "subscriber")?;
        let publisher = carried(&scene.stage, "publisher")?;
        ensure!(publisher.iter().all(|(way, by)| way == "udp" && by.starts_with("kernel")), "{publisher:?}");
        // And HTTP is what it was.
        scene.stage.server.get_text("/healthz").map(drop)
    })())
}

#[test]
fn who_can_use_udp_does() -> Result<()> {
    let scene = Scene::new(PORT)?;
    scene.stage.explain((|| {
        let _publisher = scene.publish()?;
        let viewer = scene.play()?;
        plays(&viewer)?;
        for role in ["publisher", "subscriber"] {
            let carried = carried(&scene.stage, role)?;
            ensure!(carried.iter().all(|(way, by)| way == "udp" && by.starts_with("kernel")), "{role}: {carried:?}");
        }
        Ok(())
    })())
}

/// The network of a viewer closes to UDP while he plays: he goes over to TCP, and out of the kernel.
#[test]
fn a_network_that_closes_to_udp_costs_a_moment() -> Result<()> {
    let scene = Scene::new(PORT)?;
    scene.stage.explain((|| {
        let _publisher = scene.publish()?;
        let viewer = scene.play()?;
        plays(&viewer)?;
        drop_udp(scene.stage.viewers())?;
        plays_again(&viewer)?;
        by_tcp(&scene.stage, "subscriber")?;
        drop_udp(&scene.stage.near)?;
        plays_again(&viewer)?;
        by_tcp(&scene.stage, "publisher")
    })())
}

#[test]
fn for_whom_nothing_connects_learns_what_to_ask_for() -> Result<()> {
    let scene = Scene::new("")?;
    scene.stage.explain((|| {
        let _publisher = scene.publish()?;
        drop_udp(scene.stage.viewers())?;
        let viewer = scene.play()?;
        let told = viewer.wait_for(TOLD, START)?;
        let told = told.as_str().unwrap_or_default();
        ensure!(told.contains("ask whoever runs your network to allow UDP to "), "{told}");
        ensure!(told.contains("UDP to 10.61.0.1 port 8443"), "{told}");
        Ok(())
    })())
}
