//! What this binary is: the same facts for `penstock version`, the metrics and `penstock verify`.

use std::sync::OnceLock;

use forwarder_common::maps::LAYOUT_VERSION;
use object::{Object as _, read::ReadCache};
use serde::Serialize;

use penstock_engine::bpf;

/// Identifies a build.
#[derive(Clone, Debug, Serialize)]
pub struct Build {
    /// Of the package `forwarder-user`, without `v`.
    pub version: &'static str,
    /// `development` in debug builds, `unknown` where there was no repository; `-dirty` at the end if
    /// files differed from the commit.
    pub commit: &'static str,
    /// `debug` or `release`, by whether debug assertions are on.
    pub profile: &'static str,
    /// Rust's name of the processor, e.g. `x86_64`.
    pub arch: &'static str,
    /// Rust's name of the system: `linux`.
    pub os: &'static str,
    /// Layout of the BPF maps: inspection commands and servers of one layout understand each other.
    pub map_layout: u32,
    /// The linker's build id (`readelf -n`) in hexadecimal; empty if the binary has none.
    pub build_id: String,
    /// SHA-1 of the embedded BPF object in hexadecimal; empty if there is none.
    pub bpf_build_id: String,
}

/// This process's.
pub fn current() -> &'static Build {
    static BUILD: OnceLock<Build> = OnceLock::new();
    BUILD.get_or_init(|| Build {
        version: env!("CARGO_PKG_VERSION"),
        commit: env!("PENSTOCK_COMMIT"),
        profile: if cfg!(debug_assertions) { "debug" } else { "release" },
        arch: std::env::consts::ARCH,
        os: std::env::consts::OS,
        map_layout: LAYOUT_VERSION,
        build_id: own_build_id().unwrap_or_default(),
        bpf_build_id: bpf::object::id().unwrap_or_default(),
    })
}

/// From the note in our own file, of which only the headers are read.
fn own_build_id() -> Option<String> {
    let file = ReadCache::new(std::fs::File::open(own_file()?).ok()?);
    let file = object::read::elf::ElfFile64::<object::Endianness, _>::parse(&file).ok()?;
    let id = file.build_id().ok()??;
    Some(id.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// The file that this function is mapped from. `/proc/self/exe` is the loader where that was started with our file as
/// its argument, as the archive of a release does (`config/container/archive.sh`).
fn own_file() -> Option<std::path::PathBuf> {
    let here = own_file as *const () as usize;
    let maps = std::fs::read_to_string("/proc/self/maps").ok()?;
    maps.lines().find_map(|line| {
        let (begin, end) = line.split_once(' ')?.0.split_once('-')?;
        let range = usize::from_str_radix(begin, 16).ok()?..usize::from_str_radix(end, 16).ok()?;
        // Begin and end, rights, offset, device, inode, and the path, which may have spaces.
        let path = &line[line.find('/').filter(|_| range.contains(&here))?..];
        Some(path.into())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_hexadecimal() {
        let build = current();
        assert_eq!(build.bpf_build_id.len(), if bpf::object::datapath().is_ok() { 40 } else { 0 });
        assert!(build.build_id.len() >= 16, "the linker makes none: {build:?}");
        assert!(build.build_id.bytes().all(|byte| byte.is_ascii_hexdigit()));
    }
}
