//! Hosts with several uplinks: every address is offered, and XDP is wherever peers may come.

use anyhow::{Result, ensure};
use serde_json::Value;
use tests_kit::netns::{End, NetNs, veth};
use tests_kit::peer::{Kind, Options, Publisher, Viewers};
use tests_kit::server::{Server, Settings};
use tests_kit::stage::{Stage, synthetic};

/// A host with three networks: `eth0` to the default route of the main table, `eth1` to that of a table for what comes
/// from its address, `eth2` to cameras and publishers, without any route; and a bridge with a port.
struct Several {
    stage: Stage,
    second: NetNs,
    third: NetNs,
    behind: NetNs,
}

fn several() -> Result<Several> {
    let (host, near) = (NetNs::new("server")?, NetNs::new("near")?);
    let (second, third, behind) = (NetNs::new("second")?, NetNs::new("third")?, NetNs::new("behind")?);
    for (number, (other, interface)) in
        [(&near, "eth0"), (&second, "eth1"), (&third, "eth2"), (&behind, "port0")].into_iter().enumerate()
    {
        let (ours, theirs) = (format!("10.{}.0.1/24", 60 + number), format!("10.{}.0.2/24", 60 + number));
        let ours = if interface == "port0" { vec![] } else { vec![ours.as_str()] };
        veth(
            End { namespace: &host, interface, addresses: &ours },
            End { namespace: other, interface: "eth0", addresses: &[&theirs] },
        )?;
    }
    host.ip(["link", "add", "br0", "type", "bridge"])?;
    host.ip(["link", "set", "port0", "master", "br0"])?;
    host.add_addresses("br0", &["10.63.0.1/24"])?;
    host.ip(["link", "set", "br0", "up"])?;
    host.ip(["route", "add", "default", "via", "10.60.0.2"])?;
    host.ip(["route", "add", "default", "via", "10.61.0.2", "table", "77"])?;
    host.ip(["rule", "add", "from", "10.61.0.1", "table", "77"])?;
    let settings = Settings {
        interfaces: vec![],
        mode: "auto",
        http: vec!["[::]:8080".parse()?],
        more: String::new(),
        unprivileged: false,
    };
    let server = Server::start(&host, &settings)?;
    let stage = Stage { server, host, near, far: None, lines: None, settings };
    Ok(Several { stage, second, third, behind })
}

#[test]
fn every_uplink_is_offered_and_has_xdp() -> Result<()> {
    let Several { stage, second, third, .. } = several()?;
    for line in [
        "interface eth0: XDP native; offered 10.60.0.1",
        "interface eth1: XDP native; offered 10.61.0.1",
        "interface eth2: XDP native; offered 10.62.0.1",
        "interface br0: no XDP, peers there are served from userspace: a bridge has generic XDP only; offered 10.63.0.1",
    ] {
        ensure!(stage.server.logged(line), "not said: {line}\n{}", stage.server.log());
    }
    let state = stage.server.get("/api/v1/state")?;
    let offered: Vec<&str> = state["media"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    ensure!(offered.len() == 4 && offered[0] == "10.60.0.1:8443", "{offered:?}");
    // From the third network to the second: neither has a default route in the main table.
    let source = synthetic(50);
    let publisher = Publisher::start("http://10.62.0.1:8080/e2e/whip", source.clone(), Options::within(third.name()))?;
    stage.until("the publisher is connected", || Ok(publisher.stats().connected.is_some()))?;
    let viewers = Viewers::start("http://10.61.0.1:8080/e2e/whep", 2, source, Options::within(second.name()))?;
    stage.until("viewers are connected", || Ok(viewers.stats().iter().all(|one| one.connected.is_some())))?;
    stage.flows(&viewers, &[0, 1], Kind::Video, 50)?;
    let carriers = [stage.carriers("publisher")?, stage.carriers("subscriber")?].concat();
    ensure!(carriers.iter().all(|carrier| carrier.starts_with("kernel native")), "{carriers:?}");
    Ok(())
}

/// Peers behind a bridge are served, and it is said that XDP is not on it.
#[test]
fn a_bridge_serves_from_userspace() -> Result<()> {
    let several = several()?;
    let (stage, behind) = (&several.stage, &several.behind);
    let source = synthetic(50);
    let publisher = Publisher::start("http://10.60.0.1:8080/e2e/whip", source.clone(), stage.publishing())?;
    stage.until("the publisher is connected", || Ok(publisher.stats().connected.is_some()))?;
    let viewers = Viewers::start("http://10.63.0.1:8080/e2e/whep", 2, source, Options::within(behind.name()))?;
    stage.until("viewers are connected", || Ok(viewers.stats().iter().all(|one| one.connected.is_some())))?;
    stage.flows(&viewers, &[0, 1], Kind::Video, 50)?;
    let carriers = stage.carriers("subscriber")?;
    ensure!(carriers.iter().all(|carrier| carrier.starts_with("userspace") && carrier.contains("br0")), "{carriers:?}");
    Ok(())
}
