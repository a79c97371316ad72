//! `penstock doctor`: will a server with this configuration serve here, how, and what is in its way?
//!
//! Where it can, it tries: programs are loaded, interfaces attached to, sockets bound, and all of it is
//! undone again. `serve` runs the part that touches nothing, and warns of what it finds.

mod ethtool;
mod goes_past;
mod host;
mod interface;
mod kernel;
mod report;

use std::net::IpAddr;

use penstock_engine::{bpf::probe, tier::Level, transmit::xdp};

use crate::config::{Config, EngineChoice, TransmitterChoice};

pub use self::report::{Finding, Need, Report};

/// All checks. `addresses` and `interfaces` are what the server would use. `verbose`: with all that the kernel's
/// verifier says of a program that it refuses.
pub fn examine(config: &Config, interfaces: &[String], addresses: &[IpAddr], verbose: bool) -> Report {
    let mut report = Report::default();
    let kernel_engine = config.media.engine != EngineChoice::Userspace;
    let mut short_way = Ok(());
    if kernel_engine {
        short_way = kernel::examine(&mut report, config, interfaces, addresses, verbose);
    } else {
        report.good(Need::Kernel, "engine", "`media.engine` is \"userspace\": nothing of the kernel is needed");
    }
    let userspace = transmitter(&mut report, config);
    let links = probe::interfaces(interfaces, addresses).unwrap_or_default();
    goes_past::examine(&mut report, config, &links, addresses);
    host::machine(&mut report);
    host::sockets(&mut report, config, addresses);
    report.conclude(config, short_way, userspace);
    report
}

/// What a server does that cannot even choose its interfaces: nothing.
pub fn conclude_without(report: &mut Report, config: &Config) {
    report.conclude(config, Ok(()), ("userspace", Level::UserspaceSockets));
}

/// What the userspace engine sends by: XDP where it can be had, which is tried.
fn transmitter(report: &mut Report, config: &Config) -> (&'static str, Level) {
    const SOCKET: (&str, Level) = ("userspace socket", Level::UserspaceSockets);
    let choice = config.media.transmitter;
    if choice == TransmitterChoice::Socket {
        return SOCKET;
    }
    let check = "xdp transmitter";
    match xdp::probe() {
        Ok(()) => {
            report.good(Need::Advice, check, "the verifier takes its programs; its network can be made");
            ("userspace by XDP or sockets", Level::UserspaceXdp)
        }
        Err(reason) => {
            let required = choice == TransmitterChoice::Xdp;
            let need = if required { Need::Server } else { Need::Advice };
            let mend =
                "sockets serve then, and only what the kernel engine cannot serve: `media.transmitter = \"socket\"`";
            report.bad(need, check, reason, mend);
            SOCKET
        }
    }
}

/// The checks that change nothing and take no time.
pub fn glance(config: &Config, interfaces: &[String], addresses: &[IpAddr]) -> Report {
    let mut report = Report::default();
    host::machine(&mut report);
    let links = probe::interfaces(interfaces, addresses).unwrap_or_default();
    kernel::glance(&mut report, &links);
    goes_past::examine(&mut report, config, &links, addresses);
    report
}
