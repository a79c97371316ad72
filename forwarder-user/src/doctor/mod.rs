//! `penstock doctor`: will a server with this configuration serve here, how, and what is in its way?
//!
//! Where it can, it tries: programs are loaded, interfaces attached to, sockets bound, and all of it is
//! undone again. `serve` runs the part that touches nothing, and warns of what it finds.

mod ethtool;
mod host;
mod interface;
mod kernel;
mod report;

use std::net::IpAddr;

use crate::config::{Config, EngineChoice, TransmitterChoice};

pub use self::report::{Finding, Need, Report};

/// All checks. `addresses` and `interfaces` are what the server would use.
pub fn examine(config: &Config, interfaces: &[String], addresses: &[IpAddr]) -> Report {
    let mut report = Report::default();
    let kernel_engine = config.media.engine != EngineChoice::Userspace;
    if kernel_engine {
        kernel::examine(&mut report, config, interfaces, addresses);
    } else {
        report.good(Need::Kernel, "engine", "`media.engine` is \"userspace\": nothing of the kernel is needed");
    }
    host::machine(&mut report);
    host::sockets(&mut report, config, addresses);
    report.conclude(config, userspace(config));
    report
}

/// What the userspace engine sends by.
fn userspace(config: &Config) -> &'static str {
    let rights = penstock_engine::bpf::probe::capabilities().iter().all(|(_, _, has)| *has);
    match config.media.transmitter {
        TransmitterChoice::Socket => "userspace socket",
        _ if rights => "userspace by XDP or sockets",
        TransmitterChoice::Xdp => "userspace socket (not all rights for XDP)",
        TransmitterChoice::Auto => "userspace socket",
    }
}

/// The checks that change nothing and take no time.
pub fn glance(interfaces: &[String], addresses: &[IpAddr]) -> Report {
    let mut report = Report::default();
    host::machine(&mut report);
    kernel::glance(&mut report, interfaces, addresses);
    report
}
