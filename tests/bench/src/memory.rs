//! Memory of the process under test, and of its BPF maps.

use std::{
    collections::BTreeSet,
    os::fd::{AsFd as _, AsRawFd as _},
};

use anyhow::{Context, Result};
use aya::maps::{MapData, loaded_maps};

/// Bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// Resident pages of its processes, without BPF maps that it has in its memory.
    pub process: u64,
    /// All BPF maps.
    pub maps: u64,
}

/// Ids of all maps of the machine.
pub fn maps() -> BTreeSet<u32> {
    loaded_maps().flatten().map(|info| info.id()).collect()
}

/// What processes have, and maps that are in none of `others`.
///
/// # Errors
/// When a process is gone.
pub fn of(ids: &[i32], others: &BTreeSet<u32>) -> Result<Memory> {
    let maps = maps().difference(others).filter_map(|id| size(*id)).sum();
    Ok(Memory { process: ids.iter().map(|id| resident(*id)).sum::<Result<u64>>()?, maps })
}

/// What the kernel has allocated for a map. `None`: it is gone.
fn size(id: u32) -> Option<u64> {
    let map = MapData::from_id(id).ok()?;
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", map.fd().as_fd().as_raw_fd())).ok()?;
    info.lines().find_map(|line| line.strip_prefix("memlock:"))?.trim().parse().ok()
}

fn resident(pid: i32) -> Result<u64> {
    let maps = std::fs::read_to_string(format!("/proc/{pid}/smaps")).with_context(|| format!("process {pid}"))?;
    let mut ours = false;
    let mut sum = 0;
    for line in maps.lines() {
        if let Some(kilobytes) = line.strip_prefix("Rss:").filter(|_| ours) {
            sum += kilobytes.trim().trim_end_matches(" kB").parse::<u64>().unwrap_or(0);
        } else if line.split_once(' ').is_some_and(|(range, _)| range.contains('-')) {
            ours = !line.contains("bpf-map");
        }
    }
    Ok(sum << 10)
}
