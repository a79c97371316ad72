//! What the kernel engine needs.

use std::net::IpAddr;

use super::{
    interface,
    report::{Need, Report},
};
use penstock_engine::bpf::{
    Refusal, StartError, object,
    probe::{self, Programs},
};

use crate::config::{Config, EngineChoice, Mode};

/// All of it, in the order of a start. Returns whether streams with one viewer have their short way.
pub(super) fn examine(
    report: &mut Report,
    config: &Config,
    interfaces: &[String],
    addresses: &[IpAddr],
    verbose: bool,
) -> Result<(), String> {
    let rights = capabilities(report);
    bpffs(report, config);
    let object = object::datapath();
    if let Err(missing) = object {
        let mend = "build it with the object, or set `media.engine = \"userspace\"`";
        report.bad(Need::Kernel, "BPF object", missing.to_string(), mend);
    }
    let mut programs = object.ok().and_then(|_| kernel(report, config.media.port, rights, verbose));
    let links = match probe::interfaces(interfaces, addresses) {
        Ok(links) => links,
        Err(error) => {
            let mend = "name those that exist in `kernel.interfaces` (ip link)";
            report.bad(Need::Kernel, "interfaces", error.to_string(), mend);
            Vec::new()
        }
    };
    let generic = object.ok().and_then(|_| generic(report, config.kernel.mode, programs.is_some()));
    let short_way = programs.as_ref().map_or(Ok(()), Programs::short_way).map_err(|missing| missing.reason);
    let tried: Vec<_> =
        links.iter().map(|link| interface::attach(programs.as_mut(), link, config.kernel.mode)).collect();
    // Beside one that takes native XDP, peers behind the others are served from userspace.
    let alone = config.media.engine == EngineChoice::Kernel || !tried.iter().any(|tried| matches!(tried, Some(Ok(()))));
    for (link, tried) in links.iter().zip(tried) {
        interface::native(report, tried, link, interface::Choice { config, generic, alone });
        interface::settings(report, link);
    }
    short_way
}

/// Interfaces' settings alone.
pub(super) fn glance(report: &mut Report, links: &[probe::Link]) {
    links.iter().for_each(|link| interface::settings(report, link));
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

/// Is the kernel one for the programs? What its release tells and what its verifier says are one statement. Loading
/// tries everything that the programs use: BPF features, maps in maps, memory shared with us.
fn kernel(report: &mut Report, port: u16, rights: bool, verbose: bool) -> Option<Programs> {
    let check = "kernel";
    let release = match probe::kernel() {
        Ok(release) => release,
        Err(error) => {
            let mend = match error {
                StartError::Realtime(_) => {
                    "boot a kernel without PREEMPT_RT or with that option, or set `media.engine = \"userspace\"`"
                }
                _ => "upgrade the kernel, or set `media.engine = \"userspace\"`",
            };
            report.bad(Need::Kernel, check, error.to_string(), mend);
            return None;
        }
    };
    if !rights {
        let found = format!("{release}: not tried whether it takes the programs, for lack of rights");
        report.bad(Need::Advice, check, found, "run `penstock doctor` as root once");
        return None;
    }
    let tested = probe::untested().map_or(String::new(), |hint| format!(" ({hint})"));
    match Programs::load(port) {
        Ok(programs) => {
            match programs.short_way() {
                Ok(()) => report.good(Need::Kernel, check, format!("{release} takes all programs{tested}")),
                Err(missing) => {
                    let found = format!(
                        "{release} takes the programs, but for the short way of packets with one viewer{tested}: {}",
                        missing.reason
                    );
                    report.bad(Need::Advice, check, found, "a newer kernel; until then such packets cost more");
                    told(report, missing.refusal, verbose);
                }
            }
            Some(programs)
        }
        Err(error) => {
            let text = error.to_string();
            let mend = if rights_are_denied(&text) {
                "the rights above are there, so something else forbids bpf(2): in a container its seccomp profile \
                 (`--security-opt seccomp=config/container/seccomp.json`), or the kernel's lockdown"
            } else {
                "compare the kernel with docs/linux.md; report what `penstock doctor --verbose` says. The userspace \
                 engine serves meanwhile"
            };
            report.bad(Need::Kernel, check, format!("{release} does not take the programs{tested}: {text}"), mend);
            told(report, if let StartError::Refused(refusal) = error { Some(refusal) } else { None }, verbose);
            None
        }
    }
}

/// Adds the verifier's words to the last finding: their end, or all of them.
fn told(report: &mut Report, refusal: Option<Box<Refusal>>, verbose: bool) {
    let all = |refusal: &Refusal| refusal.log.lines().map(str::to_owned).collect();
    if let Some(refusal) = refusal {
        report.told_by_the_verifier(if verbose { all(&refusal) } else { refusal.lines() });
    }
}

/// Whether a message ends in EPERM.
fn rights_are_denied(message: &str) -> bool {
    message.contains("Operation not permitted")
}

/// `None` if it could not be tried.
fn generic(report: &mut Report, mode: Mode, loaded: bool) -> Option<bool> {
    let sys_admin = probe::capabilities().iter().any(|(name, _, has)| *name == "CAP_SYS_ADMIN" && *has);
    let check = "broadcast with the egress program, private copies";
    if !loaded {
        report.bad(Need::Advice, check, "not tried, without the programs", "see above");
        return None;
    }
    if !sys_admin {
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
