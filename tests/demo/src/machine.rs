//! CPU time of the whole machine. XDP runs in softirq, which no process is charged for.

use anyhow::{Context, Result};

/// First line of `/proc/stat` (proc_stat(5)), in ticks since boot.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cpu {
    total: u64,
    idle: u64,
    softirq: u64,
}

/// Share of all cores' time, in percent.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Load {
    /// Everything but idle and waiting for disks.
    pub busy: f64,
    /// Part of `busy`: network, XDP included.
    pub softirq: f64,
}

impl Cpu {
    /// Reads it.
    ///
    /// # Errors
    /// When `/proc/stat` is not what it was in the last thirty years.
    pub fn read() -> Result<Self> {
        let stat = std::fs::read_to_string("/proc/stat").context("/proc/stat")?;
        Self::parse(&stat).context("/proc/stat has no line `cpu`")
    }

    fn parse(stat: &str) -> Option<Self> {
        let line = stat.lines().find_map(|line| line.strip_prefix("cpu "))?;
        // user nice system idle iowait irq softirq steal; guest time is in user already.
        let ticks: Vec<u64> = line.split_whitespace().take(8).filter_map(|field| field.parse().ok()).collect();
        let &[_, _, _, idle, iowait, _, softirq, _] = ticks.as_slice() else { return None };
        Some(Self { total: ticks.iter().sum(), idle: idle + iowait, softirq })
    }

    /// Load between an earlier reading and this one.
    pub fn since(self, earlier: Self) -> Load {
        let total = self.total.saturating_sub(earlier.total).max(1) as f64;
        let share = |ticks: u64| 100.0 * ticks as f64 / total;
        Load {
            busy: 100.0 - share(self.idle.saturating_sub(earlier.idle)),
            softirq: share(self.softirq.saturating_sub(earlier.softirq)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Cpu, Load};

    #[test]
    fn load_is_a_share_of_all_cores() {
        let before = Cpu::parse("cpu  100 0 50 800 50 0 0 0 0 0\ncpu0 1 1 1 1").unwrap();
        let after = Cpu::parse("cpu  130 0 60 840 60 0 10 0 0 0\n").unwrap();
        assert_eq!(after.since(before), Load { busy: 50.0, softirq: 10.0 });
    }
}
