//! A server that has mounted a bpffs for its pins unmounts it at its end, for which the kernel wants CAP_SYS_ADMIN. So
//! that the server itself need not keep that until then, a process of its own does: it has no other right, knows one
//! path, hears one byte, and ends with the server.

use std::{
    ffi::CString,
    io::{self, Read as _, Write as _},
    os::{
        fd::{AsRawFd as _, RawFd},
        unix::{ffi::OsStrExt as _, net::UnixStream},
    },
    path::Path,
    sync::Arc,
    time::Duration,
};

use penstock_engine::bpf::{Unmounter, pins, probe};

use super::capabilities::{self, SYS_ADMIN};
use crate::config::{Config, EngineChoice};

/// The server's end waits so long for the answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// A connection to it.
pub(in crate::cli) struct Janitor(UnixStream);

impl Janitor {
    /// `None`: nobody will have to unmount anything, or may, or it cannot be started, which is said.
    pub(in crate::cli) fn start(config: &Config) -> Option<Self> {
        let may = probe::capabilities().iter().any(|(name, _, has)| *name == "CAP_SYS_ADMIN" && *has);
        let directory = &config.kernel.pin_dir;
        // The nearest that is there tells of those to come. Not the directory itself: a server that was killed may have
        // left its mount there.
        let above = directory.ancestors().skip(1).find(|path| path.exists());
        let is_within = above.is_some_and(|path| pins::is_bpffs(path).unwrap_or(false));
        if !may || is_within || config.media.engine == EngineChoice::Userspace {
            return None;
        }
        let started = fork(directory);
        started.inspect_err(|error| tracing::warn!("the bpffs will not be unmounted at the end: {error}")).ok()
    }

    /// Asks it.
    pub(in crate::cli) fn unmounter(self) -> Unmounter {
        Unmounter(Arc::new(move || {
            let mut socket = &self.0;
            socket.write_all(&[1])?;
            let mut answer = [0];
            socket.read_exact(&mut answer)?;
            if answer[0] == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(answer[0].into())) }
        }))
    }
}

fn fork(directory: &Path) -> io::Result<Janitor> {
    let path = CString::new(directory.as_os_str().as_bytes()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let (ours, its) = UnixStream::pair()?;
    ours.set_read_timeout(Some(PATIENCE))?;
    // SAFETY: the child does nothing but system calls: it neither allocates nor takes a lock that another thread may
    // have had at this moment.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => wait(its.as_raw_fd(), &path),
        _ => Ok(Janitor(ours)),
    }
}

/// The process: until the server is gone.
fn wait(socket: RawFd, path: &CString) -> ! {
    const SOCKET: RawFd = 3;
    // SAFETY: descriptors of this process, which nothing else in it uses; strings that end in NUL.
    unsafe {
        // What ends the server is no signal to end before it.
        for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGQUIT] {
            libc::signal(signal, libc::SIG_IGN);
        }
        libc::dup2(socket, SOCKET);
        // Nobody must wait for our end who waits for the end of the server's log.
        let null = libc::open(c"/dev/null".as_ptr(), libc::O_RDWR);
        for standard in 0..SOCKET {
            libc::dup2(null, standard);
        }
        libc::close_range(SOCKET as u32 + 1, u32::MAX, 0);
        libc::prctl(libc::PR_SET_NAME, c"penstock-mount".as_ptr());
        libc::chdir(c"/".as_ptr());
    }
    if !capabilities::keep(SYS_ADMIN) {
        // SAFETY: ends this process without running what the server's end would run.
        unsafe { libc::_exit(1) };
    }
    let mut byte = 0u8;
    loop {
        // SAFETY: one byte of our own.
        let read = unsafe { libc::read(SOCKET, (&raw mut byte).cast(), 1) };
        if read != 1 {
            // SAFETY: as above.
            unsafe { libc::_exit(0) };
        }
        // SAFETY: the path ends in NUL; errno is this thread's own; one byte of our own.
        unsafe {
            let failed = libc::umount2(path.as_ptr(), libc::MNT_DETACH) != 0;
            byte = if failed { *libc::__errno_location() as u8 } else { 0 };
            libc::write(SOCKET, (&raw const byte).cast(), 1);
        }
    }
}
