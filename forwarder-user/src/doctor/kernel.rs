//! What the kernel engine needs.

use std::net::IpAddr;

use super::{
    interface,
    report::{Need, Report},
};
use penstock_engine::bpf::{
    object,
    probe::{self, Programs},
};

use crate::config::{Config, Mode};

/// All of it, in the order of a start.
pub fn examine(report: &mut Report, config: &Config, interfaces: &[String], addresses: &[IpAddr]) {
    let object = object::datapath();
    if let Err(missing) = object {
        let mend = "build it with the object, or set `media.engine = \"userspace\"`";
        report.bad(Need::Kernel, "BPF object", missing.to_string(), mend);
    }
    let mend = "upgrade the kernel, or set `media.engine = \"userspace\"`";
    report.add(Need::Kernel, "kernel", probe::kernel().map(|release| format!("{release} is new enough")), mend);
    let rights = capabilities(report);
    bpffs(report, config);
    let programs = match rights {
        true if object.is_ok() => programs(report, config.media.port),
        _ => None,
    };
    let links = match probe::interfaces(interfaces, addresses) {
        Ok(links) => links,
        Err(error) => {
            let mend = "name those that exist in `kernel.interfaces` (ip link)";
            report.bad(Need::Kernel, "interfaces", error.to_string(), mend);
            Vec::new()
        }
    };
    let generic = object.ok().and_then(|_| generic(report, config.kernel.mode, rights));
    let mut programs = programs;
    for link in &links {
        interface::native(report, programs.as_mut(), link, config.kernel.mode, generic);
        interface::settings(report, link);
    }
}

/// Interfaces' settings alone.
pub fn glance(report: &mut Report, interfaces: &[String], addresses: &[IpAddr]) {
    for link in probe::interfaces(interfaces, addresses).unwrap_or_default() {
        interface::settings(report, &link);
    }
}

/// Whether programs may be loaded at all.
fn capabilities(report: &mut Report) -> bool {
    let mut all = true;
    for (name, purpose, has) in probe::capabilities() {
        let check = format!("capability {name}");
        // Mounting is tried, and is not needed where a bpffs is there.
        let need = if name == "CAP_SYS_ADMIN" { Need::Advice } else { Need::Kernel };
        if has {
            report.good(need, check, purpose);
            continue;
        }
        all &= need == Need::Advice;
        let mend = format!(
            "run as root, or grant it: `AmbientCapabilities={name}` (systemd), `--cap-add {}` (containers), \
             `setcap` on the binary",
            name.trim_start_matches("CAP_")
        );
        report.bad(need, check, format!("missing: {purpose}"), mend);
    }
    all
}

fn bpffs(report: &mut Report, config: &Config) {
    let directory = &config.kernel.pin_dir;
    let mend = format!(
        "grant CAP_SYS_ADMIN, or mount one for the server: `mount -t bpf bpf {} -o mode=0700`; or set `kernel.pin_dir` \
         to a directory in a bpffs",
        directory.display()
    );
    report.add(Need::Kernel, "bpffs", probe::bpffs(directory), &mend);
}

/// Loading tries everything that the programs use: BPF features, maps in maps, memory shared with us.
fn programs(report: &mut Report, port: u16) -> Option<Programs> {
    let check = "programs";
    match Programs::load(port) {
        Ok(programs) => {
            report.good(Need::Kernel, check, "the verifier takes them; maps can be shared with this process");
            Some(programs)
        }
        Err(error) => {
            let mend = if rights_are_denied(&error) {
                "the rights above are there, so something else forbids bpf(2): in a container its seccomp profile \
                 (`--security-opt seccomp=config/container/seccomp.json`), or the kernel's lockdown"
            } else {
                "compare the kernel with docs/linux.md; report what the verifier says"
            };
            report.bad(Need::Kernel, check, error.trim().to_owned(), mend);
            None
        }
    }
}

/// Whether a message ends in EPERM.
fn rights_are_denied(message: &str) -> bool {
    message.contains("Operation not permitted")
}

/// `None` if it could not be tried.
fn generic(report: &mut Report, mode: Mode, rights: bool) -> Option<bool> {
    let sys_admin = probe::capabilities().iter().any(|(name, _, has)| *name == "CAP_SYS_ADMIN" && *has);
    let check = "broadcast with the egress program, private copies";
    if !rights || !sys_admin {
        let mend = "run `penstock doctor` as root once: only generic mode depends on it";
        report.bad(Need::Advice, check, "not tried: it needs a network of its own (CAP_SYS_ADMIN)", mend);
        return None;
    }
    let need = if mode == Mode::Generic { Need::Kernel } else { Need::Advice };
    match probe::generic_copies() {
        Ok(()) => {
            report.good(need, check, "every copy was opened with its own key, in generic mode");
            Some(true)
        }
        Err(error) => {
            let mend = if rights_are_denied(&error) {
                "grant CAP_NET_RAW too (`--cap-add NET_RAW`), and let the seccomp profile allow unshare(2)"
            } else {
                "use interfaces with native XDP, or a newer kernel"
            };
            report.bad(need, check, error, mend);
            Some(false)
        }
    }
}
