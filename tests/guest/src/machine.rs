//! The bare guest becomes a system: file systems, modules, loopback; and its end.

use std::{ffi::CString, fs, os::fd::AsRawFd as _, os::unix::fs::symlink, path::Path, process::Command};

use anyhow::{Context, Result, ensure};

use crate::FOLDER;

/// Type, place, options.
const FILE_SYSTEMS: [(&str, &str, &str); 8] = [
    ("proc", "/proc", ""),
    ("sysfs", "/sys", ""),
    ("devtmpfs", "/dev", ""),
    ("devpts", "/dev/pts", ""),
    ("tmpfs", "/dev/shm", ""),
    ("tmpfs", "/run", "mode=0755"),
    ("tmpfs", "/tmp", "mode=1777"),
    ("bpf", "/sys/fs/bpf", "mode=0700"),
];

/// Programs of busybox that the test hosts and the demo start.
const APPLETS: [&str; 6] = ["cp", "mount", "sh", "timeout", "umount", "setpriv"];

/// Mounts, loads the modules that the host has chosen, in its order, and makes loopback usable.
pub fn prepare() -> Result<()> {
    for (kind, place, options) in FILE_SYSTEMS {
        fs::create_dir_all(place).with_context(|| place.to_owned())?;
        mount(kind, place, options)?;
    }
    // Of the kernel, only what says that something is broken: the host reads the same console.
    fs::write("/proc/sys/kernel/printk", "1")?;
    for applet in APPLETS {
        let link = Path::new("/bin").join(applet);
        if !link.exists() {
            symlink("/bin/busybox", &link).with_context(|| link.display().to_string())?;
        }
    }
    // SAFETY: no other thread runs yet.
    unsafe {
        std::env::set_var("PATH", "/bin:/sbin");
        std::env::set_var("HOME", "/");
        std::env::set_var("PENSTOCK_EBPF", format!("{FOLDER}/objects"));
    }
    for module in fs::read_to_string(format!("{FOLDER}/modules"))?.lines() {
        load(&Path::new(FOLDER).join("modules.d").join(module))?;
    }
    let up = Command::new("ip").args(["link", "set", "lo", "up"]).status().context("ip")?;
    ensure!(up.success(), "ip link set lo up: {up}");
    Ok(())
}

fn mount(kind: &str, place: &str, options: &str) -> Result<()> {
    let [kind_c, place_c, options_c] = [kind, place, options].map(CString::new);
    let (kind_c, place_c, options_c) = (kind_c?, place_c?, options_c?);
    // SAFETY: C strings that outlive the call.
    let result =
        unsafe { libc::mount(kind_c.as_ptr(), place_c.as_ptr(), kind_c.as_ptr(), 0, options_c.as_ptr().cast()) };
    let error = std::io::Error::last_os_error();
    ensure!(result == 0, "mounting {kind} on {place}: {error}");
    Ok(())
}

fn load(module: &Path) -> Result<()> {
    let file = fs::File::open(module).with_context(|| module.display().to_string())?;
    // SAFETY: an open descriptor and a C string.
    let result = unsafe { libc::syscall(libc::SYS_finit_module, file.as_raw_fd(), c"".as_ptr(), 0) };
    let error = std::io::Error::last_os_error();
    ensure!(result == 0 || error.raw_os_error() == Some(libc::EEXIST), "{}: {error}", module.display());
    Ok(())
}

/// Lines of the kernel's log that say that something in the kernel is wrong. Not those of watchdogs, whose patience an
/// emulated processor may exceed.
pub fn complaints() -> Vec<String> {
    const READ_ALL: libc::c_int = 3;
    const COMPLAINTS: [&str; 3] = ["WARNING:", "BUG:", "Oops"];
    let mut log = vec![0_u8; 1 << 20];
    // SAFETY: the buffer has the length that is told.
    let len = unsafe { libc::klogctl(READ_ALL, log.as_mut_ptr().cast(), log.len() as libc::c_int) };
    let text = String::from_utf8_lossy(&log[..usize::try_from(len).unwrap_or(0)]).into_owned();
    let wrong = |line: &&str| COMPLAINTS.iter().any(|word| line.contains(word)) && !line.contains("lockup");
    text.lines().filter(wrong).map(str::to_owned).collect()
}

/// Ends the machine: the host has told qemu not to start it again.
pub fn restart() -> ! {
    // SAFETY: no memory. What was said is on the line before the machine is gone.
    unsafe {
        libc::tcdrain(libc::STDOUT_FILENO);
        libc::reboot(libc::RB_AUTOBOOT);
    }
    // The kernel ends with its first process, and the command line makes that a restart too.
    std::process::exit(1)
}
