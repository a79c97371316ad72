//! Addresses that come and go.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::Value;
use tests_kit::netns::{End, NetNs, veth};
use tests_kit::peer::{Kind, Publisher, Viewers};
use tests_kit::server::{Outlet, Server, Settings};
use tests_kit::stage::{PATIENCE, Stage, synthetic};
use tests_kit::whip::Client;

fn offered(stage: &Stage) -> Result<Vec<String>> {
    let state = stage.server.get("/api/v1/state")?;
    let media = state["media"].as_array().into_iter().flatten();
    Ok(media.filter_map(Value::as_str).map(str::to_owned).collect())
}

#[test]
fn a_server_that_starts_before_the_network_waits_for_it() -> Result<()> {
    let (host, near) = (NetNs::new("server")?, NetNs::new("near")?);
    let settings = Settings {
        interfaces: vec![],
        mode: "native",
        http: vec!["[::]:8080".parse()?],
        more: String::new(),
        unprivileged: false,
    };
    let server = Server::spawn(&host, &settings, Outlet::Kept)?;
    server.wait_log("no address that peers could reach", Duration::from_secs(240))?;
    let client = Client { namespace: Some(host.name().into()), token: None };
    let health = client.request("GET", "http://127.0.0.1:8080/healthz", &[], None)?;
    ensure!(health.status == 503 && health.body.contains("waits"), "{health:?}");
    veth(
        End { namespace: &host, interface: "eth0", addresses: &["10.60.0.1/24"] },
        End { namespace: &near, interface: "eth0", addresses: &["10.60.0.2/24"] },
    )?;
    server.wait_log("ready", Duration::from_secs(240))?;
    let stage = Stage { server, host, near, far: None, lines: None, settings };
    ensure!(offered(&stage)? == ["10.60.0.1:8443"], "{:?}", offered(&stage)?);
    let source = synthetic(50);
    let _publisher = stage.publish(&source, stage.publishing())?;
    let viewers = stage.play(2, &source, stage.playing())?;
    stage.flows(&viewers, &[0, 1], Kind::Video, 50)?;
    stage.server.get_text("/healthz").map(drop)
}

#[test]
fn addresses_of_the_moment_are_offered() -> Result<()> {
    let stage = Stage::plain()?;
    let source = synthetic(50);
    // Of another length than the first one's prefix, so that it does not go with it.
    stage.host.add_addresses("eth0", &["10.60.0.9/25"])?;
    stage.until("the new address is offered", || Ok(offered(&stage)?.contains(&"10.60.0.9:8443".into())))?;
    stage.host.ip(["addr", "del", "10.60.0.1/24", "dev", "eth0"])?;
    stage.until("the old one is not", || Ok(!offered(&stage)?.contains(&"10.60.0.1:8443".into())))?;
    stage.host.ip(["-6", "addr", "flush", "dev", "eth0", "scope", "global"])?;
    stage.until("one is left", || Ok(offered(&stage)? == ["10.60.0.9:8443"]))?;
    let publisher = Publisher::start("http://10.60.0.9:8080/e2e/whip", source.clone(), stage.publishing())?;
    stage.until("the publisher is connected", || Ok(publisher.stats().connected.is_some()))?;
    let viewers = Viewers::start("http://10.60.0.9:8080/e2e/whep", 2, source, stage.playing())?;
    stage.until("viewers are connected", || Ok(viewers.stats().iter().all(|one| one.connected.is_some())))?;
    stage.flows(&viewers, &[0, 1], Kind::Video, 50)?;
    // None is left: nobody can connect, and that is said.
    stage.host.ip(["addr", "flush", "dev", "eth0"])?;
    let client = Client { namespace: Some(stage.host.name().into()), token: None };
    stage.until("the server is not healthy", || {
        Ok(client.request("GET", "http://127.0.0.1:8080/healthz", &[], None)?.status == 503)
    })?;
    stage.server.wait_log("no address that peers could reach", PATIENCE)?;
    stage.host.add_addresses("eth0", &["10.60.0.1/24"])?;
    stage.until("the first one is back", || Ok(offered(&stage)? == ["10.60.0.1:8443"]))?;
    stage.server.get_text("/healthz").map(drop)
}

#[test]
fn an_interface_that_is_made_anew_is_attached_again() -> Result<()> {
    let stage = Stage::plain()?;
    let source = synthetic(50);
    let _publisher = stage.publish(&source, stage.publishing())?;
    let viewers = stage.play(2, &source, stage.playing())?;
    stage.flows(&viewers, &[0, 1], Kind::Video, 20)?;
    let before = stage.host.ifindex("eth0")?;
    stage.host.ip(["link", "del", "eth0"])?;
    let ends = [["10.60.0.1/24", "fd60::1/64"], ["10.60.0.2/24", "fd60::2/64"]];
    veth(
        End { namespace: &stage.host, interface: "eth0", addresses: &ends[0] },
        End { namespace: &stage.near, interface: "eth0", addresses: &ends[1] },
    )?;
    ensure!(stage.host.ifindex("eth0")? != before, "the same index");
    stage.server.wait_log("XDP is on it again", PATIENCE)?;
    stage.flows(&viewers, &[0, 1], Kind::Video, 50)?;
    stage.until("the kernel carries them again", || {
        let carriers = [stage.carriers("subscriber")?, stage.carriers("publisher")?].concat();
        Ok(carriers.iter().all(|carrier| carrier.starts_with("kernel")))
    })?;
    stage.flows(&viewers, &[0, 1], Kind::Video, 50)
}
