//! CPU time of the whole machine. XDP runs in softirq, which no process is charged for; idle time is what
//! the kernel measures exactly, so everything that is not idle counts.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};

/// Ticks of `/proc/stat` per second, on every Linux that we serve.
const TICKS: f64 = 100.0;

/// A reading of `/proc/stat` (proc_stat(5)).
#[derive(Clone, Copy, Debug)]
pub struct Cpu {
    at: Instant,
    cpus: f64,
    idle: f64,
    stolen: f64,
    softirq: f64,
}

/// What the machine did between two readings, in cores.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Busy {
    pub cores: f64,
    /// Part of it, as far as the clock tick saw it: network, XDP included.
    pub softirq: f64,
    /// What the hypervisor gave to others.
    pub stolen: f64,
}

impl Cpu {
    /// Reads it.
    ///
    /// # Errors
    /// When `/proc/stat` is not what it was in the last thirty years.
    pub fn read() -> Result<Self> {
        let stat = std::fs::read_to_string("/proc/stat").context("/proc/stat")?;
        Self::parse(&stat, Instant::now()).context("/proc/stat has no line `cpu`")
    }

    fn parse(stat: &str, at: Instant) -> Option<Self> {
        let line = stat.lines().find_map(|line| line.strip_prefix("cpu "))?;
        let seconds: Vec<f64> =
            line.split_whitespace().take(8).filter_map(|field| Some(field.parse::<f64>().ok()? / TICKS)).collect();
        let &[_, _, _, idle, iowait, _, softirq, stolen] = seconds.as_slice() else { return None };
        let cpus = stat.lines().filter(|line| line.starts_with("cpu")).count() - 1;
        Some(Self { at, cpus: cpus as f64, idle: idle + iowait, stolen, softirq })
    }

    /// Between an earlier reading and this one.
    pub fn since(self, earlier: Self) -> Busy {
        let seconds = (self.at - earlier.at).as_secs_f64().max(0.001);
        let stolen = (self.stolen - earlier.stolen) / seconds;
        Busy {
            cores: (self.cpus - (self.idle - earlier.idle) / seconds - stolen).max(0.0),
            softirq: (self.softirq - earlier.softirq) / seconds,
            stolen,
        }
    }
}

/// CPU time of one process, user and system, in seconds (proc_pid_stat(5)).
///
/// # Errors
/// When it is gone.
pub fn of_process(pid: u32) -> Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).with_context(|| format!("process {pid}"))?;
    let fields: Vec<&str> = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace().collect();
    let ticks = |place: usize| fields.get(place)?.parse::<f64>().ok();
    Ok((ticks(11).context("utime")? + ticks(12).context("stime")?) / TICKS)
}

/// What the machine does when nobody asks it for anything.
///
/// # Errors
/// As [`Cpu::read`].
pub fn idle(length: Duration) -> Result<Busy> {
    let before = Cpu::read()?;
    std::thread::sleep(length);
    Ok(Cpu::read()?.since(before))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn busy_is_what_is_neither_idle_nor_stolen() {
        let start = Instant::now();
        let before = Cpu::parse("cpu  0 0 0 1000 10 0 5 0 0 0\ncpu0 0\ncpu1 0\n", start).unwrap();
        let after = Cpu::parse("cpu  0 0 0 1240 10 0 25 20 0 0\ncpu0 0\ncpu1 0\n", start + Duration::from_secs(2)).unwrap();
        let busy = after.since(before);
        assert!((busy.cores - 0.7).abs() < 1e-9, "{busy:?}");
        assert!((busy.softirq - 0.1).abs() < 1e-9 && (busy.stolen - 0.1).abs() < 1e-9, "{busy:?}");
    }
}
