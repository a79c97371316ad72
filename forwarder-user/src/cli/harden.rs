//! What the server gives up at its start.

use std::io;

/// No program that it might start gains rights by it (`no_new_privs`), and neither a core file nor a debugger of the
/// same user shows its memory, which has keys (`PR_SET_DUMPABLE`; root may look all the same). Before there are other
/// threads: each has its own `no_new_privs`, from the one that made it.
pub(super) fn harden() {
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
