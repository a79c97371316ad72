//! The list at start: by which interfaces peers may come, what XDP does there, and what peers are told of it.

use std::net::IpAddr;

use penstock_engine::kernel::{KernelEngine, mode_name};

use super::host::Uplink;
use crate::config::Config;

/// Interfaces that are listed one by one; a host of containers may have hundreds.
const SHOWN: usize = 24;

/// Where XDP is.
pub(super) struct Xdp {
    /// Names of interfaces, and in which mode.
    attached: Vec<(String, &'static str)>,
    /// Names of those where it was to be, and why it is not.
    left: Vec<(String, String)>,
    /// Why it is nowhere.
    none: Option<String>,
}

impl Xdp {
    pub(super) fn of(engine: &KernelEngine) -> Self {
        let attached = engine.interfaces().iter().map(|one| (one.name.clone(), mode_name(one.mode))).collect();
        Self { attached, left: engine.left_out().to_vec(), none: None }
    }

    pub(super) fn none(why: &str) -> Self {
        Self { attached: Vec::new(), left: Vec::new(), none: Some(why.into()) }
    }

    /// What there is to say of an interface.
    fn on(&self, config: &Config, uplink: &Uplink) -> String {
        let named = |(name, _): &&(String, String)| *name == uplink.name;
        if let Some(why) = &self.none {
            return format!("no XDP: {why}");
        }
        if let Some((_, mode)) = self.attached.iter().find(|(name, _)| *name == uplink.name) {
            return format!("XDP {mode}");
        }
        let why = match (self.left.iter().find(named), uplink.left_out) {
            (Some((_, why)), _) => why.as_str(),
            (None, _) if !config.kernel.interfaces.is_empty() => "it is not in `kernel.interfaces`",
            (None, Some(why)) => why,
            // A VLAN, whose frames XDP sees with their tags.
            (None, None) => return "XDP on the interface below it".into(),
        };
        format!("no XDP, peers there are served from userspace: {why}")
    }
}

/// Logs it.
pub(super) fn print(config: &Config, uplinks: &[Uplink], offered: &[IpAddr], xdp: &Xdp) {
    lines(config, uplinks, offered, xdp).iter().for_each(|line| tracing::info!("{line}"));
}

fn lines(config: &Config, uplinks: &[Uplink], offered: &[IpAddr], xdp: &Xdp) -> Vec<String> {
    let line = |uplink: &Uplink| {
        let (told, others): (Vec<&IpAddr>, Vec<&IpAddr>) =
            uplink.addresses.iter().partition(|address| offered.contains(address));
        let list = |addresses: &[&IpAddr]| addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let told = if told.is_empty() { "nothing is offered".into() } else { format!("offered {}", list(&told)) };
        let others = if others.is_empty() { String::new() } else { format!("; not offered {}", list(&others)) };
        format!("interface {}: {}; {told}{others}", uplink.name, xdp.on(config, uplink))
    };
    let mut lines: Vec<String> = uplinks.iter().take(SHOWN).map(line).collect();
    if let Some(more) = uplinks.len().checked_sub(SHOWN).filter(|more| *more > 0) {
        lines.push(format!("and {more} more interfaces"));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_interface_says_what_it_has_and_why_not() {
        let uplink = |name: &str, address: [u8; 4], left_out| Uplink {
            name: name.into(),
            addresses: vec![address.into()],
            left_out,
        };
        let uplinks = [
            uplink("eth0", [192, 0, 2, 1], None),
            uplink("eth1", [198, 51, 100, 1], None),
            uplink("docker0", [172, 17, 0, 1], Some("a bridge has generic XDP only")),
        ];
        let offered = [uplinks[0].addresses[0], uplinks[2].addresses[0]];
        let xdp = Xdp {
            attached: vec![("eth0".into(), "native")],
            left: vec![("eth1".into(), "native XDP: its driver has none".into())],
            none: None,
        };
        let mut config = Config::default();
        assert_eq!(
            lines(&config, &uplinks, &offered, &xdp),
            [
                "interface eth0: XDP native; offered 192.0.2.1",
                "interface eth1: no XDP, peers there are served from userspace: native XDP: its driver has none; \
                 nothing is offered; not offered 198.51.100.1",
                "interface docker0: no XDP, peers there are served from userspace: a bridge has generic XDP only; \
                 offered 172.17.0.1",
            ]
        );
        config.kernel.interfaces = vec!["eth0".into()];
        assert!(lines(&config, &uplinks, &offered, &xdp)[2].contains("it is not in `kernel.interfaces`"));
        let none = Xdp::none("there is no kernel engine");
        assert!(lines(&config, &uplinks, &offered, &none)[0].starts_with("interface eth0: no XDP: there is no"));
    }
}
