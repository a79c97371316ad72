//! Packets that come or leave by other ways than XDP's.

use anyhow::{Result, ensure};
use tests_kit::netns::{End, veth};
use tests_kit::stage::Stage;

use crate::{Engine, flows, nothing_twice, playing};

in_both_engines! {
    packets_that_move_to_an_interface_without_xdp_and_back;
    packets_that_come_by_an_interface_without_xdp_from_the_start;
    viewers_whose_way_moves_to_an_interface_without_xdp_and_back;
    /// The publisher's packets above 900 bytes come in fragments, which XDP passes.
    packets_in_fragments_are_served;
    /// A rule of the server's host redirects the port that peers use to the one that the server has.
    peers_behind_a_redirected_port_are_served;
    /// A veth without GRO takes no redirected frames, and the kernel leaves it out without a word.
    viewers_behind_an_interface_that_takes_no_copies_any_more_are_served;
}

/// A second way between the hosts, on which there is no XDP: `eth9` at both.
fn second_way(stage: &Stage) -> Result<()> {
    veth(
        End { namespace: &stage.host, interface: "eth9", addresses: &["10.62.0.1/24"] },
        End { namespace: &stage.near, interface: "eth9", addresses: &["10.62.0.2/24"] },
    )
}

/// From now on packets to the server go the other way; its answers still leave by `eth0`.
fn go_the_second_way(stage: &Stage) -> Result<()> {
    stage.near.ip(["route", "add", "10.60.0.1/32", "via", "10.62.0.1", "dev", "eth9"]).map(drop)
}

fn go_the_first_way(stage: &Stage) -> Result<()> {
    stage.near.ip(["route", "del", "10.60.0.1/32"]).map(drop)
}

fn packets_that_move_to_an_interface_without_xdp_and_back(engine: Engine) -> Result<()> {
    let stage = engine.stage("", "")?;
    second_way(&stage)?;
    let (publisher, viewers) = playing(&stage, 3)?;
    flows(&stage, &viewers, 3, 50, 25)?;
    engine.carried(&stage, "publisher", "kernel")?;
    // There and back, twice: each time the replay list is handed over while packets come.
    for _ in 0..2 {
        go_the_second_way(&stage)?;
        flows(&stage, &viewers, 3, 100, 50)?;
        engine.carried(&stage, "publisher", "userspace")?;
        if engine == Engine::Auto {
            let carriers = stage.carriers("publisher")?;
            ensure!(carriers[0].contains("XDP does not see"), "no reason is shown: {carriers:?}");
        }
        go_the_first_way(&stage)?;
        engine.carried(&stage, "publisher", "kernel")?;
        flows(&stage, &viewers, 3, 100, 50)?;
    }
    let moved = stage.server.logged("track moves to the userspace engine") && stage.server.logged("back to it");
    ensure!(moved == (engine == Engine::Auto), "{}", stage.server.log());
    stage.rest(&publisher, &viewers)?;
    nothing_twice(&viewers.stop()?)
}

fn packets_that_come_by_an_interface_without_xdp_from_the_start(engine: Engine) -> Result<()> {
    let stage = engine.stage("", "")?;
    second_way(&stage)?;
    go_the_second_way(&stage)?;
    let (publisher, viewers) = playing(&stage, 2)?;
    flows(&stage, &viewers, 2, 100, 50)?;
    engine.carried(&stage, "publisher", "userspace")?;
    stage.rest(&publisher, &viewers)
}

fn viewers_whose_way_moves_to_an_interface_without_xdp_and_back(engine: Engine) -> Result<()> {
    let stage = engine.stage("", "")?;
    second_way(&stage)?;
    let (publisher, viewers) = playing(&stage, 3)?;
    flows(&stage, &viewers, 3, 50, 25)?;
    engine.carried(&stage, "subscriber", "kernel")?;
    for _ in 0..2 {
        stage.host.ip(["route", "add", "10.60.0.2/32", "via", "10.62.0.2", "dev", "eth9"])?;
        engine.carried(&stage, "subscriber", "userspace")?;
        flows(&stage, &viewers, 3, 100, 50)?;
        let carriers = stage.carriers("subscriber")?;
        ensure!(engine == Engine::Userspace || carriers[0].contains("eth9"), "no reason is shown: {carriers:?}");
        stage.host.ip(["route", "del", "10.60.0.2/32"])?;
        engine.carried(&stage, "subscriber", "kernel")?;
        flows(&stage, &viewers, 3, 100, 50)?;
    }
    stage.rest(&publisher, &viewers)?;
    nothing_twice(&viewers.stop()?)
}

fn packets_in_fragments_are_served(engine: Engine) -> Result<()> {
    let stage = engine.stage("", "")?;
    stage.near.ip(["route", "add", "10.60.0.1/32", "dev", "eth0", "mtu", "lock", "900"])?;
    let (publisher, viewers) = playing(&stage, 2)?;
    flows(&stage, &viewers, 2, 200, 50)?;
    engine.carried(&stage, "publisher", "userspace")?;
    stage.rest(&publisher, &viewers)?;
    nothing_twice(&viewers.stop()?)
}

fn peers_behind_a_redirected_port_are_served(engine: Engine) -> Result<()> {
    let media = "addresses = [\"10.60.0.1\"]\npublic_addresses = { \"10.60.0.1\" = \"10.60.0.1:443\" }\n";
    let stage = engine.stage(media, "")?;
    let rule = ["-t", "nat", "-A", "PREROUTING", "-p", "udp", "--dport", "443", "-j", "REDIRECT", "--to-ports", "8443"];
    let redirected = stage.host.command("iptables").args(rule).output()?;
    ensure!(redirected.status.success(), "iptables: {}", String::from_utf8_lossy(&redirected.stderr));
    let (publisher, viewers) = playing(&stage, 2)?;
    flows(&stage, &viewers, 2, 100, 50)?;
    for role in ["publisher", "subscriber"] {
        let carriers = stage.carriers(role)?;
        let said = |one: &String| engine == Engine::Userspace || one.contains("NAT");
        ensure!(carriers.iter().all(|one| one.starts_with("userspace") && said(one)), "{carriers:?}");
    }
    stage.rest(&publisher, &viewers)?;
    nothing_twice(&viewers.stop()?)
}

fn viewers_behind_an_interface_that_takes_no_copies_any_more_are_served(engine: Engine) -> Result<()> {
    let stage = engine.stage("", "")?;
    let (publisher, viewers) = playing(&stage, 2)?;
    flows(&stage, &viewers, 2, 50, 25)?;
    stage.near.ethtool(["-K", "eth0", "gro", "off"])?;
    engine.carried(&stage, "subscriber", "userspace")?;
    flows(&stage, &viewers, 2, 100, 50)?;
    stage.near.ethtool(["-K", "eth0", "gro", "on"])?;
    engine.carried(&stage, "subscriber", "kernel")?;
    flows(&stage, &viewers, 2, 100, 50)?;
    stage.rest(&publisher, &viewers)?;
    nothing_twice(&viewers.stop()?)
}
