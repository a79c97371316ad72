//! What a viewer received, whatever the viewer is, and its comparison with what the kernel sealed.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::browser::{Stats, wait_until};
use crate::stage::Stage;

/// One incoming SSRC as the viewer counts it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received {
    pub ssrc: u64,
    pub packets: u64,
    pub lost: i64,
}

impl Received {
    fn new(entry: &Value) -> Option<Self> {
        Some(Self {
            ssrc: entry["ssrc"].as_u64()?,
            packets: entry["packetsReceived"].as_u64()?,
            lost: entry["packetsLost"].as_i64()?,
        })
    }
}

/// Packets that the viewer misses.
#[must_use]
pub fn lost(received: &[Received]) -> u64 {
    received.iter().map(|one| one.lost.max(0).unsigned_abs()).sum()
}

/// Counts of a browser.
#[must_use]
pub fn by_page(stats: &Stats) -> Vec<Received> {
    stats.all_inbound().filter_map(Received::new).collect()
}

/// Counts of a peer in Python.
#[must_use]
pub fn by_peer(state: &Value) -> Vec<Received> {
    state["inbound-rtp"].as_array().into_iter().flatten().filter_map(Received::new).collect()
}

/// Waits until the counts stand still (the publisher must have stopped), then checks that the viewer received exactly
/// what the kernel sealed for it, sound and video, but for what full rings and buffers have counted.
///
/// # Errors
/// The counts differ or do not come to rest.
pub fn equals_sealed(stage: &Stage, mut received: impl FnMut() -> Result<Vec<Received>>) -> Result<()> {
    let mut before = received()?;
    let mut quiet = 0;
    let counts = wait_until("the viewer's counts stand still", Duration::from_secs(20), || {
        // One look every 100 ms; peers in Python tell twice a second.
        let now = received()?;
        quiet = if now == before { quiet + 1 } else { 0 };
        before.clone_from(&now);
        Ok((quiet >= 15).then_some(now))
    })?;
    ensure!(counts.len() == 2, "the viewer has {} streams instead of sound and video: {counts:?}", counts.len());
    for Received { ssrc, packets, lost } in counts {
        let track = stage.track(ssrc)?;
        let sealed = track["packets"].as_u64().with_context(|| format!("no packet count: {track}"))?;
        ensure!(packets > 0 && packets <= sealed, "SSRC {ssrc}: {packets} of {sealed} came, {lost} lost: {track}");
        stage.assert_counted(sealed - packets, 1).with_context(|| format!("SSRC {ssrc}: {lost} lost: {track}"))?;
    }
    Ok(())
}
