//! What an interface can do, and how it is set.

use super::{
    ethtool::{self, Settings},
    report::{Need, Report},
};
use penstock_engine::bpf::probe::{self, Link, Programs};

use crate::config::{Config, EngineChoice, Mode};

/// Drivers take XDP up to some 3,500 bytes; the kernel clones frames of one buffer only.
const USUAL_MTU: u32 = 1500;

/// A pass makes up to 200 copies at once; a ring that holds twice as many has room for the next.
const RING: u32 = 400;

/// Rings that the driver lets nobody change.
const FIXED_RINGS: [&str; 1] = ["veth"];

/// What decides what a refusal means.
pub(super) struct Choice<'a> {
    pub config: &'a Config,
    /// Does generic mode work here? `None`: it could not be tried.
    pub generic: Option<bool>,
    /// The kernel engine has no other interface, or must serve them all.
    pub alone: bool,
}

/// Does its driver run our program? `None`: it was not asked.
pub(super) fn attach(programs: Option<&mut Programs>, link: &Link, mode: Mode) -> Option<Result<(), String>> {
    let free = link.up && mode != Mode::Generic && probe::program_on(link).is_none();
    free.then_some(programs)?.map(|programs| programs.native(link))
}

/// Is it up and free, and has its driver run our program?
pub(super) fn native(report: &mut Report, tried: Option<Result<(), String>>, link: &Link, choice: Choice) {
    let name = &link.name;
    // One that nobody has named is left out, if there is another.
    let need = if choice.alone || !choice.config.kernel.interfaces.is_empty() { Need::Kernel } else { Need::Advice };
    if !link.up {
        report.bad(need, format!("interface {name}"), "it is down", format!("ip link set {name} up"));
        return;
    }
    let check = format!("interface {name}: native XDP");
    if let Some(program) = probe::program_on(link) {
        if program.starts_with("penstock") {
            report.good(Need::Kernel, check, "a Penstock server is on it");
        } else {
            let mend = format!("stop its owner, or `ip link set {name} xdp off`");
            report.bad(need, format!("interface {name}"), format!("has another XDP program, {program}"), mend);
        }
        return;
    }
    let Choice { config, generic, alone } = choice;
    match tried {
        None if config.kernel.mode == Mode::Generic => {
            report.good(Need::Kernel, format!("interface {name}"), "generic XDP, as `kernel.mode` says");
        }
        None => {}
        Some(Ok(())) => report.good(Need::Kernel, check, "attached and detached"),
        Some(Err(error)) => {
            let (need, mend) = match (config.media.engine, config.kernel.mode) {
                (EngineChoice::Kernel, Mode::Auto) if generic != Some(false) => {
                    (Need::Advice, "generic XDP is used: see docs/linux.md on what it costs, and on drivers")
                }
                (EngineChoice::Auto, Mode::Auto) => (
                    if alone { Need::Kernel } else { Need::Advice },
                    "peers behind it are served from userspace, which costs less than generic XDP. Where streams have \
                     one viewer each, `kernel.mode = \"generic\"` costs less: see docs/linux.md, also on drivers",
                ),
                _ => (Need::Kernel, "see docs/linux.md on drivers"),
            };
            report.bad(need, check, error, mend);
        }
    }
}

/// Settings that cost packets or CPU.
pub(super) fn settings(report: &mut Report, link: &Link) {
    let name = &link.name;
    let check = format!("interface {name}: MTU");
    if link.mtu > USUAL_MTU {
        let found = format!("{}: most drivers refuse XDP, or split frames, which cannot be cloned", link.mtu);
        report.bad(Need::Advice, check, found, format!("ip link set {name} mtu {USUAL_MTU}"));
    } else {
        report.good(Need::Advice, check, link.mtu.to_string());
    }
    let check = format!("interface {name}: takes redirected frames");
    let settings = ethtool::read(name);
    let driver = settings.driver.as_deref().unwrap_or("its driver");
    match probe::takes_redirects(link) {
        Some(true) => report.good(Need::Advice, check, "yes"),
        // Many drivers say so only once a program is attached.
        Some(false) if FIXED_RINGS.contains(&driver) => {
            let mend = format!(
                "switch GRO on at its other end, before either end goes up: `ethtool -K PEER-OF-{name} gro on`"
            );
            report.bad(Need::Advice, check, "not now: viewers behind it would be served from userspace", mend);
        }
        Some(false) | None => {}
    }
    offloads(report, name, &settings);
    rings(report, name, driver, &settings);
}

fn offloads(report: &mut Report, name: &str, settings: &Settings) {
    match settings.lro {
        Some(true) => report.bad(
            Need::Advice,
            format!("interface {name}: LRO"),
            "large receive offload is on: it glues packets together, and drivers refuse XDP with it",
            format!("ethtool -K {name} lro off"),
        ),
        Some(false) => report.good(Need::Advice, format!("interface {name}: LRO"), "off"),
        None => {}
    }
}

fn rings(report: &mut Report, name: &str, driver: &str, settings: &Settings) {
    if let Some((now, most)) = settings.tx_ring {
        let check = format!("interface {name}: transmit ring");
        let found = format!("{now} of at most {most} frames ({driver})");
        if now >= RING || FIXED_RINGS.contains(&driver) || most <= now {
            report.good(Need::Advice, check, found);
        } else {
            let mend = format!("ethtool -G {name} tx {}", most.min(4096));
            report.bad(Need::Advice, check, format!("{found}: copies beyond it are dropped (drop_ring_full)"), mend);
        }
    }
    if let Some((now, most)) = settings.queues {
        let check = format!("interface {name}: queues");
        let cpus = std::thread::available_parallelism().map_or(1, |cpus| cpus.get() as u32);
        let found = format!("{now} of at most {most}, for {cpus} CPUs");
        if now >= cpus.min(most) {
            report.good(Need::Advice, check, found);
        } else {
            let mend = format!("ethtool -L {name} combined {}", cpus.min(most));
            report.bad(Need::Advice, check, format!("{found}: publishers share fewer CPUs than there are"), mend);
        }
    }
}
