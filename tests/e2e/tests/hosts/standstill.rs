//! A server that stands still (SIGSTOP, a frozen cgroup, the migration of its machine) blames nobody for it.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::Value;
use tests_kit::browser::count;
use tests_kit::browser::watch::START;
use tests_kit::python::{Peer, Stack, Work, stream};
use tests_kit::stage::{Layout, Stage};

/// Longer than the 15 s after which ICE takes a peer for gone, and shorter than the 30 s of a lease.
const STANDSTILL: Duration = Duration::from_secs(20);

/// Sessions that are connected.
fn connected(stage: &Stage) -> Result<usize> {
    let state = stage.server.get("/api/v1/state")?;
    Ok(state["sessions"].as_array().into_iter().flatten().filter(|one| one["state"] == "connected").count())
}

fn goes_on(more: &str) -> Result<()> {
    let stage = Stage::new(Layout::OneNic, "native", more)?;
    let origin = stage.publishing_origin();
    // Peers that go on to send checks for longer than a standstill.
    let publisher = Peer::start(&stage.near, Stack::Aiortc, Work::Publish, &format!("{origin}/a/whip"), "VP8")?;
    stage.until("the publisher is connected", || Ok(connected(&stage)? == 1))?;
    let viewer = Peer::start(&stage.near, Stack::Aiortc, Work::Play, &format!("{origin}/a/whep"), "")?;
    // Packets, not frames: with sockets, what found them full is lost, and decoders differ in what they make of that. Of
    // the sound: aiortc counts what is sent again of the picture under the same name as the picture.
    let packets = |state: &Value| count(stream(state, "inbound-rtp", "audio"), "packetsReceived");
    let played = |more: u64| viewer.wait_for("sound", START, |state| packets(state) >= more);
    let before = packets(&stage.explain(played(30))?);
    stage.server.signal(libc::SIGSTOP)?;
    std::thread::sleep(STANDSTILL);
    stage.server.signal(libc::SIGCONT)?;
    stage.server.wait_log("the server stood still for", START)?;
    // All that waited in the sockets is read, every timer has run, and more.
    let during = packets(&viewer.state());
    stage.explain(played(before.max(during) + 60))?;
    ensure!(connected(&stage)? == 2, "a session has ended:\n{}", stage.server.log());
    ensure!(!stage.server.logged("session closed"), "a session has ended:\n{}", stage.server.log());
    viewer.stop()?;
    publisher.stop().map(drop)
}

#[test]
fn the_kernel_engine_goes_on() -> Result<()> {
    goes_on("")
}

#[test]
fn the_userspace_engine_goes_on() -> Result<()> {
    goes_on("[media]\nengine = \"userspace\"\n")
}
