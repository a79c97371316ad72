//! The machine, and the sockets of a server.

use std::{
    fs, io,
    net::{IpAddr, SocketAddr},
};

use socket2::{Domain, Socket, Type};

use super::report::{Need, Report};
use penstock_engine::kernel::keystream::compute::Backend;

use crate::config::Config;

/// Clock sources that are read without leaving the CPU.
const FAST_CLOCKS: [&str; 4] = ["tsc", "kvm-clock", "hyperv_clocksource_tsc_page", "arch_sys_counter"];

/// Before this code was written: 2025-01-01, in seconds.
const PAST: i64 = 1_735_689_600;

/// CPU features, locked memory and clocks.
pub(super) fn machine(report: &mut Report) {
    let backend = Backend::detect().name();
    let check = "AES instructions";
    match backend {
        "portable" => {
            let found = "none that are used: keystream and userspace encryption are slow";
            report.bad(Need::Advice, check, found, "in a virtual machine, pass the host's CPU features through");
        }
        name => report.good(Need::Advice, check, format!("keystream by {name}")),
    }
    memlock(report);
    clock(report);
}

/// BPF memory is charged to the cgroup since 5.11; only older kernels have this limit.
fn memlock(report: &mut Report) {
    let old =
        aya::util::KernelVersion::current().is_ok_and(|running| running < aya::util::KernelVersion::new(5, 11, 0));
    let check = "locked memory";
    match old {
        false => report.good(Need::Advice, check, "no limit concerns BPF maps on this kernel"),
        true => report.bad(
            Need::Advice,
            check,
            "this kernel counts BPF maps against RLIMIT_MEMLOCK",
            "LimitMEMLOCK=infinity (systemd), `--ulimit memlock=-1` (containers)",
        ),
    }
}

fn clock(report: &mut Report) {
    let source = fs::read_to_string("/sys/devices/system/clocksource/clocksource0/current_clocksource");
    if let Ok(source) = source.as_deref().map(str::trim) {
        let check = "clock source";
        if FAST_CLOCKS.contains(&source) {
            report.good(Need::Advice, check, source);
        } else {
            let mend = "see `dmesg | grep -i tsc` for why the TSC is not used";
            report.bad(Need::Advice, check, format!("{source}: slow to read, for every packet"), mend);
        }
    }
    #[expect(clippy::disallowed_methods, reason = "the wall clock is what is asked for")]
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |now| now.as_secs() as i64);
    let check = "clock";
    if now < PAST {
        let mend = "set it: reports to viewers carry it, and certificates are dated by it";
        report.bad(Need::Server, check, "it is years behind", mend);
    } else if synchronised() {
        report.good(Need::Advice, check, "synchronised");
    } else {
        let found = "not synchronised: times in reports and logs are this machine's own";
        report.bad(
            Need::Advice,
            check,
            found,
            "run a time service (chrony, systemd-timesyncd); in a container, the host's",
        );
    }
}

fn synchronised() -> bool {
    // SAFETY: all-zero bytes are a valid `timex`, which asks without changing anything.
    let mut timex: libc::timex = unsafe { std::mem::zeroed() };
    // SAFETY: the pointer is to a live `timex`, which the call fills in.
    let state = unsafe { libc::adjtimex(&raw mut timex) };
    state >= 0 && state != libc::TIME_ERROR
}

/// Can every socket be bound?
pub(super) fn sockets(report: &mut Report, config: &Config, addresses: &[IpAddr]) {
    for address in &config.http.listen {
        bind(report, "http.listen", *address, Type::STREAM, "tcp");
    }
    for address in addresses {
        bind(report, "media", SocketAddr::new(*address, config.media.port), Type::DGRAM, "udp");
    }
}

fn bind(report: &mut Report, key: &str, address: SocketAddr, kind: Type, protocol: &str) {
    let check = format!("port {address}/{protocol}");
    match try_bind(address, kind) {
        Ok(()) => report.good(Need::Server, check, "free"),
        Err(error) => {
            let mend = match error.kind() {
                io::ErrorKind::AddrInUse => {
                    format!(
                        "see who has it (ss -lnp), stop it, or change `{}`",
                        if key == "media" { "media.port" } else { key }
                    )
                }
                io::ErrorKind::PermissionDenied => "ports below 1024 need CAP_NET_BIND_SERVICE".into(),
                _ => format!("compare `{key}` with `ip address`"),
            };
            report.bad(Need::Server, check, error.to_string(), mend);
        }
    }
}

fn try_bind(address: SocketAddr, kind: Type) -> io::Result<()> {
    let socket = Socket::new(Domain::for_address(address), kind, None)?;
    if kind == Type::STREAM {
        // As the server does: connections of a former one that linger are no obstacle.
        socket.set_reuse_address(true)?;
    }
    if address.is_ipv6() {
        socket.set_only_v6(kind != Type::STREAM)?;
    }
    socket.bind(&address.into())?;
    if kind == Type::STREAM { socket.listen(1) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_busy_port_is_found() {
        let taken = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let mut report = Report::default();
        bind(&mut report, "media", taken.local_addr().unwrap(), Type::DGRAM, "udp");
        let finding = &report.findings[0];
        assert!(!finding.ok && finding.mend.as_ref().unwrap().contains("media.port"), "{finding:?}");
        drop(taken);
        bind(&mut report, "http.listen", "127.0.0.1:0".parse().unwrap(), Type::STREAM, "tcp");
        assert!(report.findings[1].ok);
    }

    #[test]
    fn the_machine_is_described() {
        let mut report = Report::default();
        machine(&mut report);
        assert!(report.findings.len() >= 3, "{report:?}");
        assert!(report.findings.iter().all(|finding| finding.ok || finding.mend.is_some()));
    }
}
