//! What the server gives up: at once what it never needs, and what only loading its programs needs when they are loaded.
//!
//! | file | does |
//! | --- | --- |
//! | here | `no_new_privs`, no core files, and what is done when |
//! | `capabilities` | gives capabilities up, in every thread |
//! | `calls` | forbids system calls that a server has no use for |
//! | `janitor` | the process that keeps the right to unmount the server's bpffs, and nothing else |

mod calls;
mod capabilities;
mod janitor;

use std::{io, path::Path};

use self::capabilities::{BPF, DAC_READ_SEARCH, NET_ADMIN, NET_BIND_SERVICE, PERFMON};
pub(super) use self::janitor::Janitor;
use crate::config::{Config, EngineChoice, TransmitterChoice};

/// No program that it might start gains rights by it (`no_new_privs`), and neither a core file nor a debugger of the
/// same user shows its memory, which has keys (`PR_SET_DUMPABLE`; root may look all the same). Before there are other
/// threads: each has its own `no_new_privs`, from the one that made it.
pub(super) fn harden() {
    // Nor does one that an administrator has allowed by another rule.
    let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the pointer is to a live `rlimit`, which the call only reads.
    if unsafe { libc::setrlimit(libc::RLIMIT_CORE, &raw const none) } != 0 {
        tracing::warn!("the size of core files cannot be limited: {}", io::Error::last_os_error());
    }
    for (what, option, value) in [
        ("no_new_privs cannot be set", libc::PR_SET_NO_NEW_PRIVS, 1),
        ("core files cannot be forbidden", libc::PR_SET_DUMPABLE, 0),
    ] {
        // SAFETY: no memory is involved.
        if unsafe { libc::prctl(option, value as libc::c_ulong, 0, 0, 0) } != 0 {
            tracing::warn!("{what}: {}", io::Error::last_os_error());
        }
    }
}

/// The programs are loaded and the sockets bound: from here on every thread has the rights to serve, and no others.
/// `file`: the configuration, which a reload reads again.
pub(super) fn give_up(config: &Config, file: Option<&Path>) {
    let mut keep = 0;
    if config.media.engine != EngineChoice::Userspace || config.media.transmitter != TransmitterChoice::Socket {
        // New member lists are maps, interfaces that come back are attached to, connection tracking is asked.
        keep |= BPF | NET_ADMIN | PERFMON;
    }
    if config.media.port < 1024 {
        // Of addresses that come later.
        keep |= NET_BIND_SERVICE;
    }
    let again = [&config.rtsp.certificate, &config.rtsp.key, &config.http.certificate, &config.http.key];
    let again = again.map(|path| path.as_path());
    let mut again = again.into_iter().filter(|path| !path.as_os_str().is_empty()).chain(file);
    if again.any(|path| !capabilities::owner_may_read(path)) {
        keep |= DAC_READ_SEARCH;
    }
    match capabilities::keep_only(keep) {
        Ok(None) => {}
        Ok(Some(kept)) => tracing::info!("rights given up, but for {kept}"),
        Err(error) => tracing::warn!("rights that are not needed any more cannot be given up: {error}"),
    }
    match calls::forbid(config.hooks.runs_commands()) {
        Ok(()) => tracing::debug!("system calls that a server has no use for are forbidden"),
        // Where a container's profile forbids to forbid, it has one of its own.
        Err(error) => tracing::info!("system calls that a server has no use for are not forbidden: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_has_given_up_both_shows_it() {
        harden();
        let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
        assert!(status.lines().any(|line| line.split_whitespace().eq(["NoNewPrivs:", "1"])), "{status}");
        // SAFETY: no memory is involved.
        assert_eq!(unsafe { libc::prctl(libc::PR_GET_DUMPABLE, 0, 0, 0, 0) }, 0);
        assert!(std::fs::read_dir("/proc/self/fdinfo").is_ok_and(|files| files.count() > 0), "the metrics need it");
    }
}
