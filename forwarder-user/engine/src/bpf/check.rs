//! Is this kernel one for the programs, and may this process use it?

use aya::util::KernelVersion;

use super::{StartError, realtime};

/// What the datapath needs, with the release and commit that brought it.
const NEEDS: [(KernelVersion, &str); 6] = [
    (KernelVersion::new(5, 8, 0), "XDP programs on devmap entries (fbee97feed9b)"),
    (KernelVersion::new(5, 9, 0), "XDP links that detach by themselves (aa8d3a716b59)"),
    (KernelVersion::new(5, 12, 0), "BPF_CMPXCHG for the replay list (5ffa25502b5a)"),
    (KernelVersion::new(5, 14, 0), "redirection to many devices, BPF_F_BROADCAST (e624d4ed4aa8)"),
    (KernelVersion::new(5, 17, 0), "bpf_loop over the blocks of a packet (e6f2dd0f8067)"),
    (KernelVersion::new(5, 18, 0), "bpf_xdp_load_bytes for plaintext to userspace (3f364222d032)"),
];

/// Series of kernels that the datapath is tested on.
pub const TESTED: &[(u8, u16)] = &[(6, 1), (6, 12), (6, 18), (7, 3)];

/// What can be told of the kernel before its verifier has seen the programs, of both engines.
///
/// # Errors
/// [`StartError::Kernel`] names every feature that is missing; [`StartError::Realtime`].
pub fn kernel() -> Result<(), StartError> {
    if let Ok(running) = KernelVersion::current() {
        let missing: Vec<&str> = NEEDS.iter().filter(|(since, _)| running < *since).map(|(_, what)| *what).collect();
        if !missing.is_empty() {
            return Err(StartError::Kernel { release: release(), missing: missing.join("; ") });
        }
    }
    realtime::state_is_exclusive().map_err(StartError::Realtime)
}

/// Is a kernel of this release among those that are tested?
pub fn is_tested(release: &str) -> bool {
    let series = |(major, minor): &(u8, u16)| {
        let rest = release.strip_prefix(&format!("{major}.{minor}"));
        rest.is_some_and(|rest| !rest.starts_with(|next: char| next.is_ascii_digit()))
    };
    TESTED.iter().any(series)
}

/// The tested series, for people.
pub fn tested() -> String {
    TESTED.iter().map(|(major, minor)| format!("{major}.{minor}")).collect::<Vec<_>>().join(", ")
}

/// The running kernel's release.
pub fn release() -> String {
    let text = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    text.trim().to_owned()
}

const CAP_NET_ADMIN: u32 = 12;
const CAP_SYS_ADMIN: u32 = 21;
const CAP_PERFMON: u32 = 38;
const CAP_BPF: u32 = 39;

/// Capabilities of the kernel engine: name, what it is for, whether this process has it.
pub fn granted() -> [(&'static str, &'static str, bool); 4] {
    let effective = effective(&std::fs::read_to_string("/proc/self/status").unwrap_or_default());
    let has = |capability: u32| effective & 1 << capability != 0;
    [
        ("CAP_BPF", "loads programs, creates maps", has(CAP_BPF) || has(CAP_SYS_ADMIN)),
        ("CAP_PERFMON", "pointer arithmetic in programs", has(CAP_PERFMON) || has(CAP_SYS_ADMIN)),
        ("CAP_NET_ADMIN", "attaches XDP", has(CAP_NET_ADMIN)),
        (
            "CAP_SYS_ADMIN",
            "mounts the bpffs; makes networks for the xdp transmitter and the test of generic mode; BPF statistics",
            has(CAP_SYS_ADMIN),
        ),
    ]
}

/// # Errors
/// [`StartError::Capabilities`] names those that this process lacks.
pub fn capabilities() -> Result<(), StartError> {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let missing = missing_capabilities(effective(&status));
    if missing.is_empty() { Ok(()) } else { Err(StartError::Capabilities { missing: missing.join(", ") }) }
}

/// The effective set as `/proc/PID/status` prints it; nothing if it cannot be read.
fn effective(status: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    line.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).unwrap_or(0)
}

fn missing_capabilities(effective: u64) -> Vec<&'static str> {
    let has = |capability: u32| effective & 1 << capability != 0;
    let mut missing = Vec::new();
    // capabilities(7): CAP_SYS_ADMIN stands for the two that were split off it in 5.8.
    if !has(CAP_BPF) && !has(CAP_SYS_ADMIN) {
        missing.push("CAP_BPF (load programs)");
    }
    if !has(CAP_PERFMON) && !has(CAP_SYS_ADMIN) {
        missing.push("CAP_PERFMON (pointer arithmetic in programs)");
    }
    if !has(CAP_NET_ADMIN) {
        missing.push("CAP_NET_ADMIN (attach XDP)");
    }
    missing
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tested_series() {
        assert!(is_tested("6.18.44-fc-v669") && is_tested("6.1") && is_tested("6.1.0-57") && !is_tested("6.180.1"));
        assert!(!is_tested("5.18.3") && !is_tested(""));
        // People read the same elsewhere.
        let said = format!("tested on {}", tested());
        for file in ["README.md", "docs/linux.md"] {
            let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(file);
            let text = std::fs::read_to_string(path).unwrap().to_lowercase();
            assert!(text.contains(&said), "{file} does not say {said:?}");
        }
    }

    #[test]
    fn names_what_is_missing() {
        assert_eq!(effective("Name:\tx\nCapEff:\t0000003fffffffff\n"), 0x3f_ffff_ffff);
        assert!(missing_capabilities(1 << CAP_NET_ADMIN | 1 << CAP_SYS_ADMIN).is_empty());
        assert!(missing_capabilities(1 << CAP_NET_ADMIN | 1 << CAP_BPF | 1 << CAP_PERFMON).is_empty());
        assert_eq!(missing_capabilities(1 << CAP_BPF | 1 << CAP_PERFMON), ["CAP_NET_ADMIN (attach XDP)"]);
        assert_eq!(missing_capabilities(0).len(), 3);
    }
}
