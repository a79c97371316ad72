//! Paths that are narrower than the packets.

use anyhow::{Result, ensure};
use tests_kit::netns::{End, NetNs, veth};
use tests_kit::peer::{Options, Viewers};
use tests_kit::stage::{Layout, synthetic};

use crate::{Engine, flows, nothing_twice};

in_both_engines! {
    /// Behind a router whose link to them takes 900 bytes, as behind a VPN: the router says so by ICMP, to whom it may
    /// concern, and the kernel remembers it.
    viewers_behind_a_narrow_path_are_served;
}

fn viewers_behind_a_narrow_path_are_served(engine: Engine) -> Result<()> {
    let stage = engine.stage_with(Layout::TwoNics, "", "")?;
    let (router, beyond) = (stage.viewers(), NetNs::new("beyond")?);
    veth(
        End { namespace: router, interface: "eth1", addresses: &["10.63.0.1/24"] },
        End { namespace: &beyond, interface: "eth0", addresses: &["10.63.0.2/24"] },
    )?;
    for (namespace, interface) in [(router, "eth1"), (&beyond, "eth0")] {
        namespace.ip(["link", "set", interface, "mtu", "900"])?;
    }
    let forwarding = router.command("sh").args(["-c", "echo 1 >/proc/sys/net/ipv4/ip_forward"]).status()?;
    ensure!(forwarding.success(), "no forwarding");
    beyond.ip(["route", "add", "default", "via", "10.63.0.1"])?;
    stage.host.ip(["route", "add", "10.63.0.0/24", "via", "10.61.0.2"])?;
    let source = synthetic(100);
    let publisher = stage.publish(&source, stage.publishing())?;
    let viewers = Viewers::start(&stage.whep(), 2, source, Options::within(beyond.name()))?;
    stage.until("viewers are connected", || Ok(viewers.stats().iter().all(|one| one.connected.is_some())))?;
    engine.carried(&stage, "subscriber", "userspace")?;
    let carriers = stage.carriers("subscriber")?;
    ensure!(engine == Engine::Userspace || carriers.iter().all(|one| one.contains("path MTU")), "{carriers:?}");
    // What does not fit leaves in fragments: of packets of all lengths none is missing any more.
    flows(&stage, &viewers, 2, 50, 25)?;
    let lost = |number: usize| viewers.stats()[number].video.lost;
    let before = [lost(0), lost(1)];
    flows(&stage, &viewers, 2, 300, 100)?;
    ensure!(before == [lost(0), lost(1)], "{:#?}", viewers.stats());
    stage.rest(&publisher, &viewers)?;
    nothing_twice(&viewers.stop()?)
}
