//! Packets that come or leave by other ways than XDP's.

use anyhow::{Result, ensure};
use tests_kit::netns::{End, veth};
use tests_kit::peer::{Kind, Publisher, Stats, Viewers};
use tests_kit::stage::{BOTH, Layout, Stage, synthetic};

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

/// Waits until every session of a role is carried by what begins so.
fn carried(stage: &Stage, role: &str, start: &str) -> Result<()> {
    stage.until(&format!("every {role} is carried by {start}"), || {
        Ok(stage.carriers(role)?.iter().all(|carrier| carrier.starts_with(start)))
    })
}

/// A publisher and so many viewers.
fn playing(stage: &Stage, viewers: usize) -> Result<(Publisher, Viewers)> {
    let source = synthetic(100);
    let publisher = stage.publish(&source, stage.publishing())?;
    let viewers = stage.play(viewers, &source, stage.playing())?;
    Ok((publisher, viewers))
}

#[test]
fn packets_that_move_to_an_interface_without_xdp_and_back() -> Result<()> {
    let stage = Stage::plain()?;
    second_way(&stage)?;
    let (publisher, viewers) = playing(&stage, 3)?;
    stage.flows(&viewers, &[0, 1, 2], Kind::Video, 50)?;
    carried(&stage, "publisher", "kernel")?;
    // There and back, twice: each time the replay list is handed over while packets come.
    for _ in 0..2 {
        go_the_second_way(&stage)?;
        stage.flows(&viewers, &[0, 1, 2], Kind::Video, 100)?;
        stage.flows(&viewers, &[0, 1, 2], Kind::Audio, 50)?;
        carried(&stage, "publisher", "userspace")?;
        let carriers = stage.carriers("publisher")?;
        ensure!(carriers[0].contains("XDP does not see"), "no reason is shown: {carriers:?}");
        go_the_first_way(&stage)?;
        carried(&stage, "publisher", "kernel")?;
        stage.flows(&viewers, &[0, 1, 2], Kind::Video, 100)?;
        stage.flows(&viewers, &[0, 1, 2], Kind::Audio, 50)?;
    }
    ensure!(stage.server.logged("track moves to the userspace engine") && stage.server.logged("back to it"));
    stage.rest(&publisher, &viewers)?;
    nothing_twice(&viewers.stop()?)
}

/// What was on its way while a track was handed over is lost, and nothing comes twice or as something else.
fn nothing_twice(viewers: &[Stats]) -> Result<()> {
    for (number, stats) in viewers.iter().enumerate() {
        for kind in BOTH {
            let media = stats.media(kind);
            let wrong = (media.duplicates, media.mismatches);
            ensure!(wrong == (0, 0) && media.decrypted == media.packets, "viewer {number} ({kind:?}): {media:#?}");
        }
    }
    Ok(())
}

#[test]
fn packets_that_come_by_an_interface_without_xdp_from_the_start() -> Result<()> {
    let stage = Stage::plain()?;
    second_way(&stage)?;
    go_the_second_way(&stage)?;
    let (publisher, viewers) = playing(&stage, 2)?;
    stage.flows(&viewers, &[0, 1], Kind::Video, 100)?;
    stage.flows(&viewers, &[0, 1], Kind::Audio, 50)?;
    carried(&stage, "publisher", "userspace")?;
    stage.rest(&publisher, &viewers)?;
    Ok(())
}

#[test]
fn viewers_whose_way_moves_to_an_interface_without_xdp_and_back() -> Result<()> {
    let stage = Stage::plain()?;
    second_way(&stage)?;
    let (publisher, viewers) = playing(&stage, 3)?;
    stage.flows(&viewers, &[0, 1, 2], Kind::Video, 50)?;
    carried(&stage, "subscriber", "kernel")?;
    for _ in 0..2 {
        stage.host.ip(["route", "add", "10.60.0.2/32", "via", "10.62.0.2", "dev", "eth9"])?;
        carried(&stage, "subscriber", "userspace")?;
        stage.flows(&viewers, &[0, 1, 2], Kind::Video, 100)?;
        stage.flows(&viewers, &[0, 1, 2], Kind::Audio, 50)?;
        let carriers = stage.carriers("subscriber")?;
        ensure!(carriers[0].contains("eth9"), "no reason is shown: {carriers:?}");
        stage.host.ip(["route", "del", "10.60.0.2/32"])?;
        carried(&stage, "subscriber", "kernel")?;
        stage.flows(&viewers, &[0, 1, 2], Kind::Video, 100)?;
        stage.flows(&viewers, &[0, 1, 2], Kind::Audio, 50)?;
    }
    stage.rest(&publisher, &viewers)?;
    nothing_twice(&viewers.stop()?)
}

/// The publisher's packets above 900 bytes come in fragments, which XDP passes.
#[test]
fn packets_in_fragments_are_served() -> Result<()> {
    let stage = Stage::plain()?;
    stage.near.ip(["route", "add", "10.60.0.1/32", "dev", "eth0", "mtu", "lock", "900"])?;
    let (publisher, viewers) = playing(&stage, 2)?;
    stage.flows(&viewers, &[0, 1], Kind::Video, 200)?;
    carried(&stage, "publisher", "userspace")?;
    stage.rest(&publisher, &viewers)?;
    nothing_twice(&viewers.stop()?)
}

/// A rule of the server's host redirects the port that peers use to the one that the server has.
#[test]
fn peers_behind_a_redirected_port_are_served() -> Result<()> {
    let stage = Stage::new(
        Layout::OneNic,
        "native",
        "[media]\naddresses = [\"10.60.0.1\"]\npublic_addresses = { \"10.60.0.1\" = \"10.60.0.1:443\" }\n",
    )?;
    let rule = ["-t", "nat", "-A", "PREROUTING", "-p", "udp", "--dport", "443", "-j", "REDIRECT", "--to-ports", "8443"];
    let redirected = stage.host.command("iptables").args(rule).output()?;
    ensure!(redirected.status.success(), "iptables: {}", String::from_utf8_lossy(&redirected.stderr));
    let (publisher, viewers) = playing(&stage, 2)?;
    stage.flows(&viewers, &[0, 1], Kind::Video, 100)?;
    stage.flows(&viewers, &[0, 1], Kind::Audio, 50)?;
    for role in ["publisher", "subscriber"] {
        let carriers = stage.carriers(role)?;
        ensure!(carriers.iter().all(|one| one.starts_with("userspace") && one.contains("NAT")), "{carriers:?}");
    }
    stage.rest(&publisher, &viewers)?;
    nothing_twice(&viewers.stop()?)
}

/// A veth without GRO takes no redirected frames, and the kernel leaves it out without a word.
#[test]
fn viewers_behind_an_interface_that_takes_no_copies_any_more_are_served() -> Result<()> {
    let stage = Stage::plain()?;
    let (publisher, viewers) = playing(&stage, 2)?;
    stage.flows(&viewers, &[0, 1], Kind::Video, 50)?;
    stage.near.ethtool(["-K", "eth0", "gro", "off"])?;
    carried(&stage, "subscriber", "userspace")?;
    stage.flows(&viewers, &[0, 1], Kind::Video, 100)?;
    stage.near.ethtool(["-K", "eth0", "gro", "on"])?;
    carried(&stage, "subscriber", "kernel")?;
    stage.flows(&viewers, &[0, 1], Kind::Video, 100)?;
    stage.rest(&publisher, &viewers)?;
    nothing_twice(&viewers.stop()?)
}
