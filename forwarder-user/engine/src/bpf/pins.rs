//! The pinned maps: a bpffs directory of the server's own, mode 0700, that only one server uses.
//!
//! The directory is locked by flock(2) for as long as the server lives. The kernel drops the lock
//! with the process, however it dies, so pins in an unlocked directory are those of a dead server.

use std::{
    ffi::CString,
    fmt,
    fs::{self, DirBuilder, File, Permissions},
    io,
    os::{
        fd::AsRawFd as _,
        unix::{
            ffi::OsStrExt as _,
            fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _},
        },
    },
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::Duration,
};

use aya::{
    Ebpf,
    maps::{Array, Map, MapData},
};
use forwarder_common::maps::Server;

use super::{StartError, load::describe, maps::NAMES};

/// `BPF_FS_MAGIC` of linux/magic.h.
const BPF_FS_MAGIC: i64 = 0xcafe_4a11;

/// Where distributions mount the system's bpffs.
const SYSTEM_BPFFS: &str = "/sys/fs/bpf";

/// Unmounts the directory in place of a process that has given the right to do so up.
#[derive(Clone)]
pub struct Unmounter(pub Arc<dyn Fn() -> io::Result<()> + Send + Sync>);

impl fmt::Debug for Unmounter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Unmounter")
    }
}

/// The directory, locked. Dropping it removes the pins, and the mount if it is the server's own.
pub struct PinDirectory {
    path: PathBuf,
    unmounter: Option<Unmounter>,
    /// Keeps the flock.
    _lock: File,
}

impl PinDirectory {
    /// Takes the directory: creates and mounts what is missing, removes a dead server's pins.
    ///
    /// # Errors
    /// [`StartError::Running`] if a live server holds it, [`StartError::Pins`] otherwise.
    pub fn claim(path: &Path) -> Result<Self, StartError> {
        let fail = |what: &str, error: io::Error| StartError::Pins {
            path: path.to_owned(),
            reason: format!("{what}: {error}"),
        };
        let parent =
            path.parent().ok_or_else(|| fail("not a directory of its own", io::ErrorKind::InvalidInput.into()))?;
        prepare_parent(parent).map_err(|error| fail("its parent directory", error))?;
        // Two servers that start at once must not both mount.
        let parent = File::open(parent).map_err(|error| fail("its parent directory", error))?;
        lock(&parent, libc::LOCK_EX).map_err(|error| fail("locking its parent directory", error))?;
        if !path.exists() {
            DirBuilder::new().mode(0o700).create(path).map_err(|error| fail("mkdir", error))?;
        }
        if !is_bpffs(path).map_err(|error| fail("statfs", error))? {
            mount(path).map_err(|error| fail("mounting a bpffs on it (needs CAP_SYS_ADMIN)", error))?;
        }
        let directory = File::open(path).map_err(|error| fail("open", error))?;
        match lock_patiently(&directory) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let pid = server(path).map_or(0, |server| server.pid);
                return Err(StartError::Running { path: path.to_owned(), pid });
            }
            other => other.map_err(|error| fail("flock", error))?,
        }
        fs::set_permissions(path, Permissions::from_mode(0o700)).map_err(|error| fail("chmod", error))?;
        if let Some(dead) = server(path) {
            tracing::warn!(pid = dead.pid, path = %path.display(), "replacing the maps of a server that died");
        }
        let claimed = Self { path: path.to_owned(), unmounter: None, _lock: directory };
        claimed.clear().map_err(|error| fail("removing stale pins", error))?;
        Ok(claimed)
    }

    /// Who unmounts it at the end, where this process may not.
    pub fn unmount_by(&mut self, unmounter: Option<Unmounter>) {
        self.unmounter = unmounter;
    }

    /// Pins the maps that may be ([`NAMES`]) by their names.
    ///
    /// # Errors
    /// [`StartError::Pins`].
    pub fn pin(&self, ebpf: &Ebpf) -> Result<(), StartError> {
        for (name, map) in ebpf.maps().filter(|(name, _)| NAMES.contains(name)) {
            map.pin(self.path.join(name))
                .map_err(|error| StartError::Pins { path: self.path.join(name), reason: describe(&error) })?;
        }
        Ok(())
    }

    fn clear(&self) -> io::Result<()> {
        for entry in fs::read_dir(&self.path)? {
            let path = entry?.path();
            // Names with a dot (`maps.debug`) are the kernel's own and cannot be removed.
            if path.extension().is_none() {
                fs::remove_file(path)?;
            }
        }
        Ok(())
    }
}

impl Drop for PinDirectory {
    fn drop(&mut self) {
        if let Err(error) = self.clear() {
            tracing::warn!(path = %self.path.display(), "pins not removed: {error}");
        }
        if self.path != Path::new(SYSTEM_BPFFS) && is_mount_point(&self.path) {
            // Lazily, because our own lock keeps it busy.
            let outcome = match (unmount(&self.path), &self.unmounter) {
                (Err(error), Some(Unmounter(unmount))) if error.kind() == io::ErrorKind::PermissionDenied => unmount(),
                (outcome, _) => outcome,
            };
            if let Err(error) = outcome {
                tracing::warn!(path = %self.path.display(), "bpffs not unmounted: {error}");
            }
        }
        // An ordinary directory that an administrator keeps for the mount may stay or not be ours.
        let _ = fs::remove_dir(&self.path);
    }
}

/// The server that the pins in `path` describe, alive or dead.
pub fn server(path: &Path) -> Option<Server> {
    let map = Map::from_map_data(MapData::from_pin(path.join("SERVER")).ok()?).ok()?;
    let server: Array<_, Server> = map.try_into().ok()?;
    server.get(&0, 0).ok()
}

/// Parents of the system's bpffs cannot be made with mkdir: it must be mounted instead.
fn prepare_parent(parent: &Path) -> io::Result<()> {
    if parent == Path::new(SYSTEM_BPFFS) && !is_bpffs(parent)? {
        return mount(parent);
    }
    fs::create_dir_all(parent)
}

fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(|_| io::ErrorKind::InvalidInput.into())
}

/// Is `path` within a BPF file system?
///
/// # Errors
/// What statfs(2) says.
pub fn is_bpffs(path: &Path) -> io::Result<bool> {
    let path = c_path(path)?;
    let mut info = std::mem::MaybeUninit::<libc::statfs>::uninit();
    // SAFETY: `path` ends in NUL and `info` has room for what the call writes.
    if unsafe { libc::statfs(path.as_ptr(), info.as_mut_ptr()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call succeeded, so it has filled `info`.
    Ok(unsafe { info.assume_init() }.f_type == BPF_FS_MAGIC)
}

fn mount(path: &Path) -> io::Result<()> {
    let path = c_path(path)?;
    // SAFETY: all pointers are to strings that end in NUL and outlive the call.
    let result =
        unsafe { libc::mount(c"bpf".as_ptr(), path.as_ptr(), c"bpf".as_ptr(), 0, c"mode=0700".as_ptr().cast()) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn unmount(path: &Path) -> io::Result<()> {
    let path = c_path(path)?;
    // SAFETY: `path` ends in NUL and outlives the call.
    if unsafe { libc::umount2(path.as_ptr(), libc::MNT_DETACH) } == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

fn is_mount_point(path: &Path) -> bool {
    let device = |path: &Path| fs::metadata(path).map(|metadata| metadata.dev()).ok();
    path.parent().is_some_and(|parent| device(path) != device(parent))
}

/// The inspection commands hold the lock for a moment, shared, to see whether a server lives.
fn lock_patiently(directory: &File) -> io::Result<()> {
    for _ in 0..20 {
        match lock(directory, libc::LOCK_EX | libc::LOCK_NB) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => thread::sleep(Duration::from_millis(10)),
            other => return other,
        }
    }
    lock(directory, libc::LOCK_EX | libc::LOCK_NB)
}

fn lock(file: &File, operation: libc::c_int) -> io::Result<()> {
    // SAFETY: the descriptor is open for the duration of the call.
    if unsafe { libc::flock(file.as_raw_fd(), operation) } == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
