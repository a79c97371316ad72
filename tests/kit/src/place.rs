//! Running something inside a network namespace.

use std::fs::File;
use std::os::fd::AsRawFd;

use anyhow::{Context, Result};

/// Moves the calling thread, and only it, into the namespace `ip netns add NAME` made.
///
/// # Errors
/// No such namespace, or no privilege (CAP_SYS_ADMIN).
pub fn enter(namespace: &str) -> Result<()> {
    let path = format!("/run/netns/{namespace}");
    let file = File::open(&path).with_context(|| format!("cannot open {path}"))?;
    // SAFETY: setns takes no pointers; the descriptor is open until the end of this function.
    if unsafe { libc::setns(file.as_raw_fd(), libc::CLONE_NEWNET) } != 0 {
        return Err(std::io::Error::last_os_error()).with_context(|| format!("cannot enter {path} (run as root)"));
    }
    Ok(())
}

/// Runs `f` in a thread of its own inside `namespace`; here and now if there is none to enter.
///
/// # Errors
/// As [`enter`], and those of `f`.
pub fn inside<T: Send>(namespace: Option<&str>, f: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let Some(namespace) = namespace else { return f() };
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            enter(namespace)?;
            f()
        });
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}
