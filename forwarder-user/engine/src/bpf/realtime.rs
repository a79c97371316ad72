//! May programs with state of their CPU's run on this kernel?
//!
//! The programs keep state for each CPU from one run to the next: a packet's plaintext and the cursor of its copies,
//! the frames of a device's bulk. It is theirs alone because packets of one CPU are handled one after the other, by
//! softirqs that do not interrupt each other.
//!
//! With PREEMPT_RT softirqs are threads, and can be preempted. There they are kept apart by a lock of the CPU,
//! `softirq_ctrl.lock`, which whoever disables bottom halves takes (8b1c04acad08, 5.12). Since 6.18 a kernel has it
//! only if it was configured so: `CONFIG_PREEMPT_RT_NEEDS_BH_LOCK`, off by default (3253cb49cbad). Without it another
//! packet can come in between: copies would be sealed with the state of another packet. (The kernel's own queue of
//! a devmap was in the same danger: 1872e75375c4.)
//!
//! Whether a kernel has the lock is in its configuration and nowhere else. Releases do not tell: distributions carry
//! the change in older ones. So a kernel whose configuration cannot be read is taken for one without.

use std::{
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
};

use flate2::read::GzDecoder;

/// A configuration is some 300 KB.
const MOST: u64 = 4 << 20;

/// Is what the programs keep for a CPU theirs alone, while they run?
///
/// # Errors
/// Why not, or why it cannot be told.
pub(super) fn state_is_exclusive() -> Result<(), String> {
    judge(Path::new("/"))
}

/// The same of a system whose root is `root`.
fn judge(root: &Path) -> Result<(), String> {
    if !is_realtime(root) {
        return Ok(());
    }
    let release = line(&root.join("proc/sys/kernel/osrelease"));
    match configuration(root, &release).as_deref().map(has_lock) {
        Some(Some(true)) => Ok(()),
        Some(Some(false)) => Err(format!(
            "{release} is a PREEMPT_RT kernel without CONFIG_PREEMPT_RT_NEEDS_BH_LOCK: packets of a CPU can interrupt \
             each other, and the state that XDP programs keep for it would be mixed up (3253cb49cbad)"
        )),
        _ => Err(format!(
            "{release} is a PREEMPT_RT kernel, and its configuration, which tells whether packets of a CPU can \
             interrupt each other (CONFIG_PREEMPT_RT_NEEDS_BH_LOCK), is neither in /proc/config.gz nor in \
             /boot/config-{release}"
        )),
    }
}

/// `/sys/kernel/realtime` comes with the patch set of PREEMPT_RT. Mainline has no such file, but names the option in
/// its version, as `uname -v` shows it.
fn is_realtime(root: &Path) -> bool {
    line(&root.join("sys/kernel/realtime")) == "1"
        || line(&root.join("proc/sys/kernel/version")).split_whitespace().any(|word| word == "PREEMPT_RT")
}

/// Has a kernel of this configuration the lock? `None`: it is no configuration of a PREEMPT_RT kernel.
fn has_lock(configuration: &str) -> Option<bool> {
    const OPTION: &str = "CONFIG_PREEMPT_RT_NEEDS_BH_LOCK";
    let lines = || configuration.lines().map(str::trim);
    if !lines().any(|line| line == "CONFIG_PREEMPT_RT=y") {
        return None;
    }
    // An option that can be chosen is always in the file, chosen or not. Before it existed the lock was always there.
    let option = lines().find(|line| line.trim_start_matches("# ").starts_with(OPTION));
    Some(option.is_none_or(|line| line.strip_prefix(OPTION) == Some("=y")))
}

/// The running kernel's, from where it or its distribution keeps it.
fn configuration(root: &Path, release: &str) -> Option<String> {
    let packed = File::open(root.join("proc/config.gz")).ok();
    let places = ["boot/config-RELEASE", "lib/modules/RELEASE/config", "usr/lib/modules/RELEASE/config"];
    packed
        .and_then(|file| text(GzDecoder::new(file)).ok())
        .or_else(|| places.iter().find_map(|place| text(File::open(named(root, place, release)).ok()?).ok()))
}

fn named(root: &Path, place: &str, release: &str) -> PathBuf {
    root.join(place.replace("RELEASE", release))
}

fn text(reader: impl Read) -> io::Result<String> {
    let mut text = String::new();
    reader.take(MOST).read_to_string(&mut text)?;
    Ok(text)
}

fn line(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use std::{fs, io::Write as _};

    use flate2::{Compression, write::GzEncoder};

    use super::*;

    const RELEASE: &str = "7.3.4-rt";
    const BEFORE: &str = "CONFIG_PREEMPT_RT=y\nCONFIG_PREEMPT_COUNT=y\n";
    const WITH: &str = "CONFIG_PREEMPT_RT=y\nCONFIG_PREEMPT_RT_NEEDS_BH_LOCK=y\n";
    const WITHOUT: &str = "CONFIG_PREEMPT_RT=y\n# CONFIG_PREEMPT_RT_NEEDS_BH_LOCK is not set\n";

    /// A root with these files.
    fn root(name: &str, files: &[(&str, &[u8])]) -> PathBuf {
        let root = std::env::temp_dir().join(format!("penstock-realtime-{}-{name}", std::process::id()));
        let release = [("proc/sys/kernel/osrelease", RELEASE.as_bytes())];
        for (path, content) in release.iter().chain(files) {
            let path = root.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        root
    }

    fn verdict(name: &str, files: &[(&str, &[u8])]) -> Result<(), String> {
        let root = root(name, files);
        let verdict = judge(&root);
        fs::remove_dir_all(root).unwrap();
        verdict
    }

    fn packed(text: &str) -> Vec<u8> {
        let mut packer = GzEncoder::new(Vec::new(), Compression::fast());
        packer.write_all(text.as_bytes()).unwrap();
        packer.finish().unwrap()
    }

    #[test]
    fn other_kernels_need_no_lock() {
        let version: &[u8] = b"#1 SMP PREEMPT_DYNAMIC Debian 6.12.118-1\n";
        assert_eq!(verdict("dynamic", &[("proc/sys/kernel/version", version)]), Ok(()));
        assert_eq!(verdict("zero", &[("sys/kernel/realtime", b"0\n")]), Ok(()));
        assert_eq!(verdict("nothing", &[]), Ok(()));
    }

    #[test]
    fn either_sign_of_realtime_counts() {
        let version: &[u8] = b"#1 SMP PREEMPT_RT Debian 7.3.4-1\n";
        for (name, sign) in
            [("version", ("proc/sys/kernel/version", version)), ("sys", ("sys/kernel/realtime", b"1\n"))]
        {
            let reason = verdict(name, &[sign]).unwrap_err();
            assert!(reason.contains(RELEASE) && reason.contains("/boot/config-7.3.4-rt"), "{reason}");
        }
    }

    #[test]
    fn its_configuration_decides() {
        let sign: (&str, &[u8]) = ("sys/kernel/realtime", b"1\n");
        let boot = format!("boot/config-{RELEASE}");
        let modules = format!("usr/lib/modules/{RELEASE}/config");
        assert_eq!(verdict("before", &[sign, (&boot, BEFORE.as_bytes())]), Ok(()));
        assert_eq!(verdict("with", &[sign, (&modules, WITH.as_bytes())]), Ok(()));
        let reason = verdict("without", &[sign, (&boot, WITHOUT.as_bytes())]).unwrap_err();
        assert!(reason.contains("without CONFIG_PREEMPT_RT_NEEDS_BH_LOCK"), "{reason}");
        // The kernel's own word is better than a file's.
        let both = [sign, ("proc/config.gz", &*packed(WITHOUT)), (&boot, WITH.as_bytes())];
        assert!(verdict("both", &both).is_err());
        assert_eq!(verdict("packed", &[sign, ("proc/config.gz", &packed(BEFORE))]), Ok(()));
        // Not this kernel's, or not whole.
        assert!(verdict("another", &[sign, (&boot, b"CONFIG_PREEMPT_DYNAMIC=y\n")]).is_err());
        assert!(verdict("torn", &[sign, ("proc/config.gz", b"\x1f\x8b")]).is_err());
    }
}
