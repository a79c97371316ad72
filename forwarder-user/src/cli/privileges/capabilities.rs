//! Capabilities belong to threads (capabilities(7)), and capset(2) changes those of the caller alone. So every thread is
//! sent a signal, whose handler gives up what is not kept; a thread that is made later has those of its maker.

use std::{
    fs, io,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::Path,
    sync::atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst},
    thread,
    time::{Duration, Instant},
};

/// `CAP_*` of linux/capability.h, as bits.
pub(super) const DAC_READ_SEARCH: u64 = 1 << 2;
pub(super) const NET_BIND_SERVICE: u64 = 1 << 10;
pub(super) const NET_ADMIN: u64 = 1 << 12;
pub(super) const SYS_ADMIN: u64 = 1 << 21;
pub(super) const PERFMON: u64 = 1 << 38;
pub(super) const BPF: u64 = 1 << 39;

const NAMES: [(u64, &str); 6] = [
    (DAC_READ_SEARCH, "CAP_DAC_READ_SEARCH"),
    (NET_BIND_SERVICE, "CAP_NET_BIND_SERVICE"),
    (NET_ADMIN, "CAP_NET_ADMIN"),
    (SYS_ADMIN, "CAP_SYS_ADMIN"),
    (PERFMON, "CAP_PERFMON"),
    (BPF, "CAP_BPF"),
];

/// How long threads may take to hear of it.
const PATIENCE: Duration = Duration::from_secs(2);

/// What is kept, for the handler.
static KEPT: AtomicU64 = AtomicU64::new(0);
/// Threads that have done it, and those that could not.
static DONE: AtomicUsize = AtomicUsize::new(0);
static FAILED: AtomicUsize = AtomicUsize::new(0);

/// `struct __user_cap_header_struct`, and `__user_cap_data_struct` twice.
#[repr(C)]
struct Header {
    version: u32,
    pid: libc::c_int,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Data {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// `_LINUX_CAPABILITY_VERSION_3`.
const VERSION: u32 = 0x2008_0522;

/// Gives up what is not in `wanted`, in every thread. Returns what is kept, in words; `None`: there was nothing to give
/// up.
///
/// # Errors
/// Some threads could not, or did not answer.
pub(super) fn keep_only(wanted: u64) -> io::Result<Option<String>> {
    let permitted = permitted()?;
    if permitted & !wanted == 0 {
        return Ok(None);
    }
    let kept = permitted & wanted;
    KEPT.store(kept, SeqCst);
    let signal = libc::SIGRTMIN() + 7;
    listen(signal)?;
    let end = Instant::now() + PATIENCE;
    // A thread that another one makes meanwhile may have been missed: looked for until there is none.
    loop {
        let open = threads_beyond(kept)?;
        if open.is_empty() {
            return Ok(Some(in_words(kept)));
        }
        if Instant::now() > end || FAILED.load(SeqCst) > 0 {
            return Err(io::Error::other(format!("{} of the threads keep them", open.len())));
        }
        let before = DONE.load(SeqCst);
        let told = open.into_iter().filter(|thread| tell(*thread, signal)).count();
        while DONE.load(SeqCst) < before + told && Instant::now() < end && FAILED.load(SeqCst) == 0 {
            thread::sleep(Duration::from_millis(1));
        }
    }
}

fn in_words(kept: u64) -> String {
    let names: Vec<&str> = NAMES.iter().filter(|(bit, _)| kept & bit != 0).map(|(_, name)| *name).collect();
    if names.is_empty() { "none".into() } else { names.join(", ") }
}

/// What the calling thread may have.
fn permitted() -> io::Result<u64> {
    let header = Header { version: VERSION, pid: 0 };
    let mut data = [Data::default(); 2];
    // SAFETY: both pointers are to live structs of the version that the header names.
    let result = unsafe { libc::syscall(libc::SYS_capget, &raw const header, data.as_mut_ptr()) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(u64::from(data[0].permitted) | u64::from(data[1].permitted) << 32)
}

/// Gives up all but `kept`, in the calling thread: also what a program that it started could get. Allocates nothing, and
/// takes no lock.
pub(super) fn keep(kept: u64) -> bool {
    for number in 0..64 {
        if kept >> number & 1 == 0 {
            // SAFETY: no memory is involved. Fails for those that the kernel does not know, and without CAP_SETPCAP.
            unsafe { libc::prctl(libc::PR_CAPBSET_DROP, number as libc::c_ulong, 0, 0, 0) };
        }
    }
    let header = Header { version: VERSION, pid: 0 };
    let half = |bits: u64| Data { effective: bits as u32, permitted: bits as u32, inheritable: 0 };
    let data = [half(kept), half(kept >> 32)];
    // SAFETY: both pointers are to live structs of the version that the header names; the call only reads them.
    unsafe { libc::syscall(libc::SYS_capset, &raw const header, data.as_ptr()) == 0 }
}

extern "C" fn handler(_: libc::c_int) {
    // SAFETY: a pointer to this thread's own number, which the interrupted code may be about to read.
    let errno = unsafe { *libc::__errno_location() };
    if keep(KEPT.load(SeqCst)) {
        DONE.fetch_add(1, SeqCst);
    } else {
        FAILED.fetch_add(1, SeqCst);
    }
    // SAFETY: as above.
    unsafe { *libc::__errno_location() = errno };
}

fn listen(signal: libc::c_int) -> io::Result<()> {
    // SAFETY: all-zero bytes are a valid `sigaction`.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = handler as extern "C" fn(libc::c_int) as libc::sighandler_t;
    action.sa_flags = libc::SA_RESTART;
    // SAFETY: the handler does system calls and atomic operations only; `action` outlives the call.
    if unsafe { libc::sigaction(signal, &raw const action, std::ptr::null_mut()) } == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// `false`: it is gone.
fn tell(thread: libc::pid_t, signal: libc::c_int) -> bool {
    // SAFETY: no memory is involved.
    unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), thread, signal) == 0 }
}

/// Threads of this process that may do more than is kept.
fn threads_beyond(kept: u64) -> io::Result<Vec<libc::pid_t>> {
    let mut threads = Vec::new();
    for entry in fs::read_dir("/proc/self/task")? {
        let entry = entry?;
        // A thread may end while we look.
        let Ok(status) = fs::read_to_string(entry.path().join("status")) else { continue };
        let line = status.lines().find_map(|line| line.strip_prefix("CapPrm:"));
        let permitted = line.and_then(|line| u64::from_str_radix(line.trim(), 16).ok());
        let id = entry.file_name().to_str().and_then(|name| name.parse().ok());
        if let (Some(permitted), Some(id)) = (permitted, id)
            && permitted & !kept != 0
        {
            threads.push(id);
        }
    }
    Ok(threads)
}

/// May this user read a file without a capability to read all of them? `true` where there is none: somebody else will
/// say so.
pub(super) fn owner_may_read(path: &Path) -> bool {
    // SAFETY: no memory is involved.
    let (user, group) = unsafe { (libc::geteuid(), libc::getegid()) };
    let Ok(path) = path.canonicalize() else { return true };
    path.ancestors().all(|part| {
        let Ok(metadata) = part.metadata() else { return true };
        let needed = if metadata.is_dir() { 0o1 } else { 0o4 };
        let shift = match (metadata.uid() == user, metadata.gid() == group) {
            (true, _) => 6,
            (false, true) => 3,
            (false, false) => 0,
        };
        metadata.permissions().mode() >> shift & needed != 0
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_has_names() {
        assert_eq!(in_words(BPF | NET_ADMIN), "CAP_NET_ADMIN, CAP_BPF");
        assert_eq!(in_words(0), "none");
        assert!(NAMES.iter().all(|(bit, _)| bit.is_power_of_two()));
    }

    #[test]
    fn permissions_of_files_are_those_of_the_user() {
        let file = std::env::temp_dir().join(format!("penstock-rights-{}", std::process::id()));
        fs::write(&file, "x").unwrap();
        let may = |mode| {
            fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
            owner_may_read(&file)
        };
        let seen = (may(0o600), may(0o077));
        fs::remove_file(&file).unwrap();
        assert_eq!(seen, (true, false));
        assert!(owner_may_read(Path::new("/no/such/file")));
    }
}
