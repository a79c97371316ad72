//! What strangers do to the real server: nothing of it costs more than itself, and nobody else notices. Needs root.

mod handshake;
mod http;
mod http2;
mod rtsp;

use anyhow::{Result, ensure};
use tests_kit::stage::Stage;

/// Memory that an attack may leave behind, in bytes.
const GROWTH: u64 = 48 << 20;

/// What the server had before it was attacked.
struct Before {
    memory: u64,
    descriptors: usize,
}

fn descriptors(stage: &Stage) -> Result<usize> {
    Ok(std::fs::read_dir(format!("/proc/{}/fd", stage.server.pid()))?.count())
}

impl Before {
    fn of(stage: &Stage) -> Result<Self> {
        Ok(Self { memory: stage.server.memory()?, descriptors: descriptors(stage)? })
    }

    /// The server is there, has no more than it had, and has taken no session.
    fn is_still_so(&self, stage: &Stage, sessions: usize) -> Result<()> {
        stage.until("the server is as it was", || {
            let state = stage.server.get("/api/v1/state")?;
            let now = state["sessions"].as_array().map_or(0, Vec::len);
            Ok(now == sessions && descriptors(stage)? <= self.descriptors + 8)
        })?;
        let memory = stage.server.memory()?;
        ensure!(memory <= self.memory + GROWTH, "{} KB, then {} KB", self.memory >> 10, memory >> 10);
        ensure!(!stage.server.logged("panicked"), "{}", stage.server.log());
        Ok(())
    }
}
