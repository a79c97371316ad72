//! What the machine spends, and what the log has lost.

use super::{names, page::Page};
use crate::log_queue;

/// Fields of the first line of `/proc/stat`, in its order (proc(5)). `guest` is part of `user`.
const MODES: [&str; 8] = ["user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal"];

/// Adds CPU time, the kernel memory of our maps, and lost log lines.
pub(super) fn add(page: &mut Page) {
    if let Ok(text) = std::fs::read_to_string("/proc/stat") {
        page.counter(&names::CPU, cpu(&text, ticks_per_second()).map(|(mode, time)| (vec![mode.to_owned()], time)));
    }
    if let Ok(cpus) = std::thread::available_parallelism() {
        page.gauge(&names::CPUS, [(vec![], cpus.get() as f64)]);
    }
    page.counter(&names::LOG_DROPPED, [(vec![], log_queue::dropped() as f64)]);
    page.gauge(&names::BPF_MEMORY, [(vec![], map_memory() as f64)]);
}

fn cpu(stat: &str, ticks: f64) -> impl Iterator<Item = (&'static str, f64)> {
    let line = stat.lines().find_map(|line| line.strip_prefix("cpu ")).unwrap_or_default();
    let numbers = line.split_whitespace().map_while(|number| number.parse::<u64>().ok());
    MODES.into_iter().zip(numbers).map(move |(mode, time)| (mode, time as f64 / ticks))
}

fn ticks_per_second() -> f64 {
    // SAFETY: no memory is involved.
    match unsafe { libc::sysconf(libc::_SC_CLK_TCK) } {
        ticks if ticks > 0 => ticks as f64,
        _ => 100.0,
    }
}

/// Sum over our descriptors of what the kernel says each map takes.
fn map_memory() -> u64 {
    let Ok(files) = std::fs::read_dir("/proc/self/fdinfo") else { return 0 };
    let infos = files.flatten().filter_map(|file| std::fs::read_to_string(file.path()).ok());
    let mut maps: Vec<(u64, u64)> = infos.filter_map(|info| map(&info)).collect();
    // Several descriptors may be of one map.
    maps.sort_unstable();
    maps.dedup();
    maps.into_iter().map(|(_, bytes)| bytes).sum()
}

/// Number and bytes of a map; `None` for other files.
fn map(info: &str) -> Option<(u64, u64)> {
    let field = |name: &str| info.lines().find_map(|line| line.strip_prefix(name))?.trim().parse().ok();
    Some((field("map_id:")?, field("memlock:")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_proc() {
        let all: Vec<_> = cpu("cpu  100 0 50 4000 1 0 7 0 0 0\ncpu0 1 2 3\n", 100.0).collect();
        assert_eq!(all.len(), MODES.len());
        assert!(all.contains(&("softirq", 0.07)) && all.contains(&("idle", 40.0)), "{all:?}");
        assert_eq!(cpu("", 100.0).count(), 0);
        assert_eq!(map("pos:\t0\nmap_type:\t2\nmemlock:\t4096\nmap_id:\t12\nfrozen:\t0\n"), Some((12, 4096)));
        assert_eq!(map("pos:\t0\nflags:\t02\n"), None);
    }
}
