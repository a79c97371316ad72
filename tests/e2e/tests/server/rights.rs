//! A server that root has started keeps what it needs, and goes on to do everything with it.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use tests_kit::netns::{End, veth};
use tests_kit::peer::Kind;
use tests_kit::stage::{Layout, PATIENCE, Stage, synthetic};

/// CAP_NET_ADMIN, CAP_PERFMON, CAP_BPF.
const KEPT: u64 = 1 << 12 | 1 << 38 | 1 << 39;

/// A line of `/proc/PID/task/TID/status` of every thread, by its name.
fn of_threads(process: u32, name: &str) -> Result<Vec<String>> {
    let mut values = Vec::new();
    for thread in fs::read_dir(format!("/proc/{process}/task"))? {
        let status = fs::read_to_string(thread?.path().join("status"))?;
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        values.push(line.with_context(|| format!("no {name} in {status}"))?.trim().to_owned());
    }
    Ok(values)
}

fn capabilities(stage: &Stage, name: &str) -> Result<Vec<u64>> {
    let values = of_threads(stage.server.pid(), name)?;
    values.iter().map(|value| Ok(u64::from_str_radix(value, 16)?)).collect()
}

fn pins_mounted(stage: &Stage) -> Result<bool> {
    Ok(fs::read_to_string("/proc/self/mounts")?.contains(&*stage.server.pins().to_string_lossy()))
}

#[test]
fn every_thread_keeps_three_capabilities_and_the_server_all_that_it_can_do() -> Result<()> {
    let mut stage = Stage::plain()?;
    for name in ["CapPrm", "CapEff", "CapBnd"] {
        let threads = capabilities(&stage, name)?;
        ensure!(threads.len() > 5 && threads.iter().all(|bits| *bits == KEPT), "{name}: {threads:x?}");
    }
    let ambient = capabilities(&stage, "CapAmb")?;
    ensure!(ambient.iter().all(|bits| *bits == 0), "{ambient:x?}");
    for (name, value) in [("NoNewPrivs", "1"), ("Seccomp", "2")] {
        let threads = of_threads(stage.server.pid(), name)?;
        ensure!(threads.iter().all(|one| one == value), "{name}: {threads:?}");
    }
    let limits = fs::read_to_string(format!("/proc/{}/limits", stage.server.pid()))?;
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).context("no such limit")?;
    ensure!(core.split_whitespace().nth(4) == Some("0"), "{core}");

    // Sessions, in both engines; inspection; a reload; an interface that is made anew; the end.
    let source = synthetic(50);
    let _publisher = stage.publish(&source, stage.publishing())?;
    let viewers = stage.play(2, &source, stage.playing())?;
    stage.flows(&viewers, &[0, 1], Kind::Video, 20)?;
    ensure!(stage.server.inspect(&["sessions"])?.to_string().contains("e2e"), "nothing to inspect");
    stage.server.configure(&stage.settings, "[log]\nlevel = \"info,penstock=debug\"\n")?;
    stage.server.signal(libc::SIGHUP)?;
    stage.server.wait_log("SIGHUP: read the configuration, changed: log.level", PATIENCE)?;
    stage.host.ip(["link", "del", "eth0"])?;
    veth(
        End { namespace: &stage.host, interface: "eth0", addresses: &["10.60.0.1/24", "fd60::1/64"] },
        End { namespace: &stage.near, interface: "eth0", addresses: &["10.60.0.2/24", "fd60::2/64"] },
    )?;
    stage.server.wait_log("XDP is on it again", PATIENCE)?;
    stage.flows(&viewers, &[0, 1], Kind::Video, 50)?;
    // Whatever has been begun meanwhile has no more.
    let threads = capabilities(&stage, "CapPrm")?;
    ensure!(threads.iter().all(|bits| *bits == KEPT), "{threads:x?}");
    ensure!(pins_mounted(&stage)?, "no pins");
    let status = stage.server.terminate()?;
    ensure!(status.success(), "{status}\n{}", stage.server.log());
    ensure!(!pins_mounted(&stage)?, "the bpffs is still mounted:\n{}", stage.server.log());
    Ok(())
}

#[test]
fn sockets_alone_need_none() -> Result<()> {
    let stage = Stage::new(Layout::OneNic, "auto", "[media]\nengine = \"userspace\"\ntransmitter = \"socket\"\n")?;
    let threads = capabilities(&stage, "CapPrm")?;
    ensure!(threads.iter().all(|bits| *bits == 0), "{threads:x?}");
    let source = synthetic(50);
    let _publisher = stage.publish(&source, stage.publishing())?;
    let viewers = stage.play(1, &source, stage.playing())?;
    stage.flows(&viewers, &[0], Kind::Video, 20)
}
