//! What this host does to packets in its network stack, and XDP goes past: named, so that nobody relies on it.

use std::{fs, net::IpAddr};

use aya::programs::{SchedClassifier, TcAttachType};
use penstock_engine::{
    bpf::probe::Link,
    route::{
        Netlink,
        nftables::{self, Rule, Subject},
    },
};

use super::report::{Need, Report};
use crate::config::{Config, EngineChoice, TransmitterChoice};

/// Rules that are named one by one; of more it is said how many.
const SHOWN: usize = 12;

/// Queueing disciplines that are there by default, and at most order what leaves.
const USUAL: [&str; 9] = ["noqueue", "noop", "mq", "pfifo_fast", "pfifo", "bfifo", "fq_codel", "fq", "pfifo_head_drop"];

const MEND: &str = "media in XDP goes past it. What acts on every packet: `penstock serve --respect-firewall`. \
                    Otherwise: docs/operations.md, \"What XDP goes past\"";

/// Rules, queueing disciplines and translation that concern our port and that media will not see, unless XDP has no
/// part in media.
pub(super) fn examine(report: &mut Report, config: &Config, links: &[Link], addresses: &[IpAddr]) {
    let media = &config.media;
    if media.engine == EngineChoice::Userspace && media.transmitter == TransmitterChoice::Socket {
        report.good(Need::Advice, "firewall and shaping", "sockets carry all media: rules hold for every packet");
        return;
    }
    let before = report.findings.len();
    rules(report, Subject { port: media.port, addresses });
    legacy(report);
    tracking(report);
    queues(report, links);
    if report.findings.len() == before {
        report.good(Need::Advice, "firewall and shaping", "nothing is known that media in XDP would go past");
    }
}

fn rules(report: &mut Report, subject: Subject<'_>) {
    let found = match nftables::read(subject) {
        Ok(found) => found,
        Err(error) if error.raw_os_error() == Some(libc::EPERM) => {
            let found = "not looked at: without CAP_NET_ADMIN its rules cannot be read, nor XDP be used";
            report.good(Need::Advice, "firewall", found);
            return;
        }
        // A kernel without nf_tables has no such rules.
        Err(_) => return,
    };
    for rule in found.rules.iter().take(SHOWN) {
        report.bad(Need::Advice, format!("firewall {}", rule.chain), rule.to_string(), mend(rule));
    }
    if let Some(more) = found.rules.len().checked_sub(SHOWN).filter(|more| *more > 0) {
        report.bad(Need::Advice, "firewall", format!("and {more} more such rules"), MEND);
    }
    if found.more {
        report.bad(Need::Advice, "firewall", "has too many rules for all of them to be read", MEND);
    }
}

/// What is translated is served by sockets, as long as connection tracking may be asked.
fn mend(rule: &Rule) -> &'static str {
    if rule.translates() {
        "peers that it translates are served by sockets, as `engine` in /api/v1/state says; tell peers the address that \
         they see by `media.public_addresses`"
    } else {
        MEND
    }
}

/// Tables of iptables from before nf_tables.
fn legacy(report: &mut Report) {
    for (command, file) in
        [("iptables-legacy", "/proc/net/ip_tables_names"), ("ip6tables-legacy", "/proc/net/ip6_tables_names")]
    {
        let tables = fs::read_to_string(file).unwrap_or_default();
        let tables: Vec<&str> = tables.split_whitespace().collect();
        if !tables.is_empty() {
            let found = format!("tables {}, whose rules are not read: `{command}-save` shows them", tables.join(", "));
            report.bad(Need::Advice, format!("firewall {command}"), found, MEND);
        }
    }
}

/// Said where connections are tracked: an entry lives by checks and RTCP alone.
fn tracking(report: &mut Report) {
    let read = |name: &str| {
        let number = fs::read_to_string(format!("/proc/sys/net/netfilter/{name}")).ok()?;
        number.trim().parse::<u64>().ok()
    };
    let (Some(count), Some(most)) = (read("nf_conntrack_count"), read("nf_conntrack_max")) else { return };
    let check = "connection tracking";
    if count > 0 && count * 10 >= most * 9 {
        let found = format!("{count} of {most} entries: new peers will be refused by this host");
        report.bad(Need::Advice, check, found, "sysctl net.netfilter.nf_conntrack_max, or `notrack` for our port");
    } else if count > 0 {
        report.good(Need::Advice, check, format!("{count} of {most} entries; it sees checks and RTCP, not media"));
    }
}

/// Shaping, filters and programs of tc on our interfaces.
fn queues(report: &mut Report, links: &[Link]) {
    let qdiscs = Netlink::open().and_then(|mut netlink| netlink.qdiscs()).unwrap_or_default();
    for link in links {
        let kinds = qdiscs.iter().filter(|(index, kind)| *index == link.index && !USUAL.contains(&kind.as_str()));
        let mut kinds: Vec<&str> = kinds.map(|(_, kind)| kind.as_str()).collect();
        kinds.sort_unstable();
        kinds.dedup();
        if !kinds.is_empty() {
            let check = format!("interface {}: tc", link.name);
            let found = format!("{}: neither queues, shapes nor filters what XDP receives and sends", kinds.join(", "));
            report.bad(Need::Advice, check, found, MEND);
        }
        let programs: Vec<String> = [("ingress", TcAttachType::Ingress), ("egress", TcAttachType::Egress)]
            .into_iter()
            .filter_map(|(name, at)| {
                let (_, programs) = SchedClassifier::query_tcx(&link.name, at).ok()?;
                (!programs.is_empty()).then(|| format!("{} at {name}", programs.len()))
            })
            .collect();
        if !programs.is_empty() {
            let found = format!("BPF programs of tcx, {}: they do not see what XDP sends", programs.join(", "));
            report.bad(Need::Advice, format!("interface {}: tcx", link.name), found, MEND);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_alone_go_past_nothing() {
        let mut config = Config::default();
        config.media.engine = EngineChoice::Userspace;
        config.media.transmitter = TransmitterChoice::Socket;
        let mut report = Report::default();
        examine(&mut report, &config, &[], &[]);
        assert!(report.findings.len() == 1 && report.findings[0].ok, "{report:?}");
    }

    #[test]
    fn something_is_always_said() {
        let mut report = Report::default();
        examine(&mut report, &Config::default(), &[], &["192.0.2.1".parse().unwrap()]);
        assert!(!report.findings.is_empty());
        assert!(report.findings.iter().all(|finding| finding.need == Need::Advice), "{report:?}");
    }
}
