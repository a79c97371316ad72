//! Limits of the process: what a server cannot live with is refused before it starts, with the number that it needs.

use std::path::{Path, PathBuf};

/// Descriptors besides HTTP connections: maps, sockets, netlink, logs.
const OWN_FILES: u64 = 256;

/// HTTP connections without which nobody is served.
const LEAST_CONNECTIONS: u64 = 64;

/// Memory without which loading the BPF programs, or the first hundred sessions, ends the process: bytes.
const LEAST_MEMORY: u64 = 64 << 20;

/// A limit under which no server can live.
#[derive(Debug, thiserror::Error)]
pub(super) enum TooLow {
    #[error(
        "the limit of open files is {limit}, and a server needs {needed} at least: raise it (ulimit -n, LimitNOFILE=, \
         --ulimit nofile=)"
    )]
    Files { limit: u64, needed: u64 },
    #[error(
        "the cgroup {} allows {} MiB of memory, and a server needs {} MiB at least: raise it (MemoryMax=, --memory, \
         resources.limits.memory)",
        cgroup.display(),
        limit >> 20,
        needed >> 20
    )]
    Memory { cgroup: PathBuf, limit: u64, needed: u64 },
}

/// Raises the soft limit of open files as far as `connections` HTTP connections need it and the hard limit allows, and
/// says so if that is not enough; looks at the memory.
///
/// # Errors
/// [`TooLow`].
pub(super) fn check(connections: usize) -> Result<(), TooLow> {
    raise_open_files(connections)?;
    let root = Path::new("/sys/fs/cgroup");
    let own = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    match least_memory(root, &own) {
        Some((limit, cgroup)) if limit < LEAST_MEMORY => Err(TooLow::Memory { cgroup, limit, needed: LEAST_MEMORY }),
        _ => Ok(()),
    }
}

fn raise_open_files(connections: usize) -> Result<(), TooLow> {
    let wanted = connections as u64 + OWN_FILES;
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the pointer is to a live `rlimit`, which the call fills in.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } != 0 || limit.rlim_cur >= wanted {
        return Ok(());
    }
    let before = limit.rlim_cur;
    limit.rlim_cur = wanted.min(limit.rlim_max).max(before);
    // SAFETY: the pointer is to a live `rlimit`, which the call only reads.
    let raised = unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) } == 0;
    let limit = if raised { limit.rlim_cur } else { before };
    let needed = OWN_FILES + LEAST_CONNECTIONS;
    if limit < needed.min(wanted) {
        return Err(TooLow::Files { limit, needed });
    }
    if limit < wanted {
        tracing::warn!(
            open_files = limit,
            wanted,
            "the limit of open files is below what `limits.http_connections` needs: raise it (ulimit -n, LimitNOFILE=)"
        );
    }
    Ok(())
}

/// The tightest limit of this process's cgroup and those above it, in bytes: `memory.max` of version 2,
/// `memory.limit_in_bytes` of version 1.
fn least_memory(root: &Path, own: &str) -> Option<(u64, PathBuf)> {
    let of_kind = |line: &str| {
        let (_, rest) = line.split_once(':')?;
        let (controllers, path) = rest.split_once(":/")?;
        match controllers {
            "" => Some((root.to_owned(), path.to_owned(), "memory.max")),
            _ if controllers.split(',').any(|one| one == "memory") => {
                Some((root.join("memory"), path.to_owned(), "memory.limit_in_bytes"))
            }
            _ => None,
        }
    };
    let limits = own.lines().filter_map(of_kind).flat_map(|(root, path, file)| {
        let groups: Vec<PathBuf> = Path::new(&path).ancestors().map(|path| root.join(path)).collect();
        groups.into_iter().filter_map(move |group| {
            let limit = std::fs::read_to_string(group.join(file)).ok()?.trim().parse().ok()?;
            Some((limit, group))
        })
    });
    limits.min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tightest_cgroup_counts() {
        let root = std::env::temp_dir().join(format!("penstock-limits-{}", std::process::id()));
        let inner = root.join("machine/penstock");
        std::fs::create_dir_all(&inner).unwrap();
        std::fs::write(inner.join("memory.max"), "max\n").unwrap();
        std::fs::write(root.join("machine/memory.max"), "25165824\n").unwrap();
        let found = least_memory(&root, "0::/machine/penstock\n");
        let old = root.join("memory/penstock");
        std::fs::create_dir_all(&old).unwrap();
        std::fs::write(old.join("memory.limit_in_bytes"), "1048576\n").unwrap();
        let of_version_1 = least_memory(&root, "4:cpu,memory:/penstock\n0::/\n");
        std::fs::remove_dir_all(&root).unwrap();
        assert_eq!(of_version_1, Some((1 << 20, old)));
        assert_eq!(found, Some((24 << 20, root.join("machine"))));
        assert_eq!(least_memory(&root, "1:memory:/x\nnonsense\n"), None);
        let error = TooLow::Memory { cgroup: root, limit: 24 << 20, needed: LEAST_MEMORY }.to_string();
        assert!(error.contains("24 MiB") && error.contains("64 MiB"), "{error}");
    }
}
