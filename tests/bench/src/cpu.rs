//! CPU time that a run costs the machine: that of our processes and of ksoftirqd, by the scheduler's
//! clock.
//!
//! XDP runs in softirq, which no process is told about; but the scheduler counts an interrupt's time to
//! the thread that it interrupted. Here that is the load generator or the process under test, whose
//! system calls run the softirq, or ksoftirqd: the load comes over a veth, so no packet begins its way on
//! an idle CPU. The sum therefore has everything, and nothing of what else runs on the machine.
//! `/proc/stat` is read too, for comparison; it has all of that, and its idle time is only right where a
//! virtual CPU is given a real one as soon as it wakes up.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};

/// Ticks of `/proc/stat` per second, on every Linux that we serve.
const TICKS: f64 = 100.0;

/// A reading of all clocks.
#[derive(Clone, Debug)]
pub struct Cpu {
    at: Instant,
    /// Seconds by process.
    processes: BTreeMap<i32, f64>,
    not_idle: NotIdle,
}

/// From `/proc/stat` (proc_stat(5)), in seconds since boot.
#[derive(Clone, Copy, Debug)]
struct NotIdle {
    cpus: f64,
    idle: f64,
    stolen: f64,
}

/// What the machine did between two readings, in cores.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Busy {
    /// By the scheduler's clock.
    pub cores: f64,
    /// By `/proc/stat`: what is neither idle nor stolen.
    pub not_idle: f64,
}

impl Cpu {
    /// Reads them. `under_test`: a process that is not this one.
    ///
    /// # Errors
    /// When `/proc` is not what it was in the last thirty years.
    pub fn read(under_test: Option<i32>) -> Result<Self> {
        let stat = std::fs::read_to_string("/proc/stat").context("/proc/stat")?;
        let not_idle = NotIdle::parse(&stat).context("/proc/stat has no line `cpu`")?;
        let own = std::process::id() as i32;
        let ids = std::fs::read_dir("/proc")?.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        let counts = |id: &i32| *id == own || Some(*id) == under_test || is_ksoftirqd(*id);
        // A thread that ends meanwhile is left out.
        let processes = ids.filter(counts).filter_map(|id| Some((id, of_process(id).ok()?))).collect();
        Ok(Self { at: Instant::now(), processes, not_idle })
    }

    /// Between an earlier reading and this one. Processes that came or went between are left out.
    pub fn since(&self, earlier: &Self) -> Busy {
        let seconds = (self.at - earlier.at).as_secs_f64().max(0.001);
        let ran = |(id, now): (&i32, &f64)| Some(now - earlier.processes.get(id)?);
        let (now, then) = (self.not_idle, earlier.not_idle);
        Busy {
            cores: self.processes.iter().filter_map(ran).sum::<f64>() / seconds,
            not_idle: (now.cpus - (now.idle - then.idle + now.stolen - then.stolen) / seconds).max(0.0),
        }
    }
}

impl NotIdle {
    fn parse(stat: &str) -> Option<Self> {
        let line = stat.lines().find_map(|line| line.strip_prefix("cpu "))?;
        let seconds: Vec<f64> =
            line.split_whitespace().take(8).filter_map(|field| Some(field.parse::<f64>().ok()? / TICKS)).collect();
        let &[_, _, _, idle, iowait, _, _, stolen] = seconds.as_slice() else { return None };
        let cpus = stat.lines().filter(|line| line.starts_with("cpu")).count() - 1;
        Some(Self { cpus: cpus as f64, idle: idle + iowait, stolen })
    }
}

/// The kernel's threads for what softirq leaves over. (Other kernel threads work for everybody.)
fn is_ksoftirqd(id: i32) -> bool {
    std::fs::read_to_string(format!("/proc/{id}/comm")).is_ok_and(|name| name.starts_with("ksoftirqd/"))
}

/// CPU time of a process with all its threads, in seconds.
///
/// # Errors
/// When it is gone.
pub fn of_process(id: i32) -> Result<f64> {
    let mut clock = 0;
    // SAFETY: `clock` is a valid place for a clock's id.
    let found = unsafe { libc::clock_getcpuclockid(id, &raw mut clock) };
    ensure!(found == 0, "process {id}: {}", std::io::Error::from_raw_os_error(found));
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a valid place for a timespec.
    let read = unsafe { libc::clock_gettime(clock, &raw mut time) };
    ensure!(read == 0, "clock of process {id}: {}", std::io::Error::last_os_error());
    Ok(time.tv_sec as f64 + time.tv_nsec as f64 / 1e9)
}

/// What the machine does when nobody asks it for anything.
///
/// # Errors
/// As [`Cpu::read`].
pub fn idle(length: Duration) -> Result<Busy> {
    let before = Cpu::read(None)?;
    std::thread::sleep(length);
    Ok(Cpu::read(None)?.since(&before))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_neither_idle_nor_stolen() {
        let now = Instant::now();
        let reading = |at, stat| Cpu { at, processes: BTreeMap::new(), not_idle: NotIdle::parse(stat).unwrap() };
        let before = reading(now, "cpu  0 0 0 1000 10 0 5 0 0 0\ncpu0 0\ncpu1 0\n");
        let after = reading(now + Duration::from_secs(2), "cpu  0 0 0 1240 10 0 25 20 0 0\ncpu0 0\ncpu1 0\n");
        assert!((after.since(&before).not_idle - 0.7).abs() < 1e-9);
    }

    #[test]
    fn our_own_work_is_seen() {
        let before = Cpu::read(None).unwrap();
        let id = std::process::id() as i32;
        while of_process(id).unwrap() < before.processes[&id] + 0.05 {}
        let after = Cpu::read(None).unwrap();
        assert!(after.since(&before).cores * (after.at - before.at).as_secs_f64() >= 0.05);
    }
}
