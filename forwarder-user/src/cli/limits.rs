//! Limits of the process.

/// Descriptors besides HTTP connections: maps, sockets, netlink, logs.
const OWN_FILES: u64 = 256;

/// Raises the soft limit of open files as far as `connections` HTTP connections need it and the hard
/// limit allows, and says so if that is not enough.
pub(super) fn raise_open_files(connections: usize) {
    let wanted = connections as u64 + OWN_FILES;
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the pointer is to a live `rlimit`, which the call fills in.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } != 0 || limit.rlim_cur >= wanted {
        return;
    }
    limit.rlim_cur = wanted.min(limit.rlim_max);
    // SAFETY: the pointer is to a live `rlimit`, which the call only reads.
    let raised = unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) } == 0;
    if !raised || limit.rlim_cur < wanted {
        tracing::warn!(
            open_files = limit.rlim_cur,
            wanted,
            "the limit of open files is below what `limits.http_connections` needs: raise it (ulimit -n, LimitNOFILE=)"
        );
    }
}
