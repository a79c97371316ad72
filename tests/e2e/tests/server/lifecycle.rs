//! Start, stop, kill, start again.

use anyhow::Result;
use tests_kit::peer::Kind;
use tests_kit::stage::{BOTH, Stage, synthetic};

fn xdp_attached(stage: &Stage) -> Result<bool> {
    Ok(stage.host.ip(["-details", "link", "show", "eth0"])?.contains("xdp"))
}

fn pins_mounted(stage: &Stage) -> Result<bool> {
    let mounts = std::fs::read_to_string("/proc/self/mounts")?;
    Ok(mounts.contains(&*stage.server.pins().to_string_lossy()))
}

#[test]
fn sigterm_closes_sessions_and_leaves_nothing_behind() -> Result<()> {
    let mut stage = Stage::plain()?;
    let source = synthetic(50);
    let publisher = stage.publish(&source, stage.publishing())?;
    let viewers = stage.play(3, &source, stage.playing())?;
    stage.flows(&viewers, &[0, 1, 2], Kind::Video, 20)?;
    assert!(xdp_attached(&stage)? && pins_mounted(&stage)?);
    let status = stage.server.terminate()?;
    assert!(status.success(), "{status}");
    stage.until("all peers saw close_notify", || {
        Ok(publisher.stats().closed.is_some() && viewers.stats().iter().all(|one| one.closed.is_some()))
    })?;
    assert!(!xdp_attached(&stage)?, "XDP is still attached");
    assert!(!pins_mounted(&stage)?, "the bpffs is still mounted");
    Ok(())
}

#[test]
fn a_killed_server_can_be_started_again() -> Result<()> {
    let mut stage = Stage::plain()?;
    let source = synthetic(50);
    let orphan = stage.publish(&source, stage.publishing())?;
    let orphans = stage.play(2, &source, stage.playing())?;
    stage.flows(&orphans, &[0, 1], Kind::Video, 20)?;
    stage.server.signal(libc::SIGKILL)?;
    stage.server.wait_end()?;
    assert!(!xdp_attached(&stage)?, "a dead server must not forward");
    stage.server.start_again(&stage.host, &stage.settings)?;
    // Former sessions are not resumed, and do not stand in the way.
    let before: u64 = orphans.stats().iter().map(|one| one.video.packets).sum();
    let publisher = stage.publish(&source, stage.publishing())?;
    let viewers = stage.play(2, &source, stage.playing())?;
    stage.flows(&viewers, &[0, 1], Kind::Video, 50)?;
    stage.rest(&publisher, &viewers)?;
    stage.assert_exact(&viewers.stop()?, &BOTH)?;
    assert_eq!(orphans.stats().iter().map(|one| one.video.packets).sum::<u64>(), before);
    drop(orphan);
    let status = stage.server.terminate()?;
    assert!(status.success(), "{status}");
    assert!(!pins_mounted(&stage)?, "the bpffs is still mounted");
    Ok(())
}

#[test]
fn a_stopped_server_still_forwards() -> Result<()> {
    let stage = Stage::plain()?;
    let source = synthetic(50);
    let publisher = stage.publish(&source, stage.publishing())?;
    let viewers = stage.play(2, &source, stage.playing())?;
    stage.flows(&viewers, &[0, 1], Kind::Video, 20)?;
    stage.server.signal(libc::SIGSTOP)?;
    let flowed = stage.flows(&viewers, &[0, 1], Kind::Video, 100);
    stage.server.signal(libc::SIGCONT)?;
    flowed?;
    stage.rest(&publisher, &viewers)?;
    stage.assert_exact(&viewers.stop()?, &BOTH)?;
    Ok(())
}
