//! Interfaces and addresses of this host, for what the configuration leaves open.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Context, bail};
use futures::TryStreamExt;
use penstock_engine::bpf::MAX_INTERFACES;
use rtnetlink::{
    Handle, RouteMessageBuilder,
    packet_route::{
        AddressFamily,
        address::{AddressAttribute, AddressFlags, AddressMessage, AddressScope},
        link::{InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage},
        route::{RouteAttribute, RouteMessage, RouteType},
    },
};

/// `RT_TABLE_LOCAL`: addresses of this host.
const LOCAL_TABLE: u8 = 255;

/// Addresses that peers are told, at most: each is a candidate that they try.
const MOST_ADDRESSES: usize = 16;

/// What rtnetlink says of this network namespace.
#[derive(Debug, Default)]
pub(super) struct Host {
    links: Vec<Link>,
    /// Interface index and address, only those that peers elsewhere may reach.
    addresses: Vec<(u32, IpAddr)>,
    /// Interfaces of default routes, of all tables.
    default_routes: Vec<u32>,
}

#[derive(Debug)]
struct Link {
    index: u32,
    name: String,
    usable: bool,
    /// Why XDP is not wanted on it, beside others on which it is.
    unfit: Option<&'static str>,
    /// The device that XDP would be on: the parent of a VLAN.
    device: u32,
}

/// An interface by which peers may be met.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Uplink {
    pub(super) name: String,
    /// Global ones.
    pub(super) addresses: Vec<IpAddr>,
    /// Why it is not among those chosen for XDP, where nobody names them.
    pub(super) left_out: Option<&'static str>,
}

impl Host {
    /// Asks the kernel.
    ///
    /// # Errors
    /// What the kernel says.
    pub(super) async fn read() -> anyhow::Result<Self> {
        let (connection, handle, _) = rtnetlink::new_connection().context("cannot open a netlink socket")?;
        let connection = tokio::spawn(connection);
        let host = Self::ask(&handle).await.context("cannot read interfaces and addresses by netlink");
        connection.abort();
        host
    }

    async fn ask(handle: &Handle) -> Result<Self, rtnetlink::Error> {
        let links: Vec<LinkMessage> = handle.link().get().execute().try_collect().await?;
        let addresses: Vec<AddressMessage> = handle.address().get().execute().try_collect().await?;
        let v4 = RouteMessageBuilder::<Ipv4Addr>::new().build();
        let v6 = RouteMessageBuilder::<Ipv6Addr>::new().build();
        let mut routes: Vec<RouteMessage> = handle.route().get(v4).execute().try_collect().await?;
        routes.extend(handle.route().get(v6).execute().try_collect::<Vec<_>>().await?);
        Ok(Self {
            links: links.iter().filter_map(link).collect(),
            addresses: addresses.iter().filter_map(global_address).collect(),
            default_routes: routes.iter().flat_map(default_route).collect(),
        })
    }

    /// What the configuration leaves open: interfaces to attach to, and addresses for media.
    ///
    /// Interfaces: those of the default routes, else the only one there is. With addresses given,
    /// none, which to the engine means those of the addresses. Addresses: the global ones of the
    /// interfaces.
    ///
    /// # Errors
    /// An interface or address does not exist, or none can be chosen; says what there is.
    pub(super) fn choose(
        &self,
        interfaces: &[String],
        addresses: &[IpAddr],
    ) -> anyhow::Result<(Vec<String>, Vec<IpAddr>)> {
        if let Some(missing) = interfaces.iter().find(|name| self.links.iter().all(|link| link.name != **name)) {
            bail!("there is no interface {missing:?} here; there are: {}", self.names());
        }
        if !addresses.is_empty() {
            return Ok((interfaces.to_vec(), addresses.to_vec()));
        }
        let interfaces = if interfaces.is_empty() { self.default_interfaces()? } else { interfaces.to_vec() };
        let addresses = self.global_addresses(&interfaces)?;
        Ok((interfaces, addresses))
    }

    /// Has it an address that peers could reach, on these interfaces or, without any named, at all?
    pub(super) fn has_addresses(&self, interfaces: &[String]) -> bool {
        let named = |link: &Link| interfaces.is_empty() || interfaces.contains(&link.name);
        let usable = |index: u32| self.links.iter().any(|link| link.index == index && link.usable && named(link));
        self.addresses.iter().any(|(index, _)| usable(*index))
    }

    /// What a person should know of each interface that is up and has an address or a default route: its name, its
    /// addresses, and why XDP is not wanted on it, if that is so.
    pub(super) fn uplinks(&self) -> Vec<Uplink> {
        let wanted = self.wanted();
        let usable = self.links.iter().filter(|link| link.usable);
        let uplinks = usable.filter_map(|link| {
            let addresses: Vec<IpAddr> =
                self.addresses.iter().filter(|(index, _)| *index == link.index).map(|(_, address)| *address).collect();
            let leads = self.default_routes.contains(&link.index);
            if addresses.is_empty() && !leads {
                return None;
            }
            let unwanted = || link.unfit.unwrap_or("XDP is on as many interfaces as it can be");
            let left_out = (!wanted.contains(&link.name)).then(unwanted);
            Some(Uplink { name: link.name.clone(), addresses, left_out })
        });
        uplinks.collect()
    }

    /// Interfaces for XDP: those of default routes, and those that have an address which peers are told, as far as
    /// there is room. On some XDP makes no sense unless they lead somewhere.
    fn wanted(&self) -> Vec<String> {
        let leads = |link: &&Link| self.default_routes.contains(&link.index);
        let has_address = |link: &&Link| self.addresses.iter().any(|(index, _)| *index == link.index);
        let usable = || self.links.iter().filter(|link| link.usable);
        let others = usable().filter(|link| !leads(link) && has_address(link) && link.unfit.is_none());
        let (mut devices, mut names) = (Vec::new(), Vec::new());
        for link in usable().filter(leads).chain(others) {
            if !devices.contains(&link.device) {
                if devices.len() == MAX_INTERFACES {
                    continue;
                }
                devices.push(link.device);
            }
            names.push(link.name.clone());
        }
        names
    }

    /// The same where no interface must be attached to: every address of the host is offered, those of the interfaces
    /// of default routes first, and XDP is wanted wherever peers may be met.
    ///
    /// # Errors
    /// As [`choose`](Self::choose), of what was given.
    pub(super) fn choose_any(
        &self,
        interfaces: &[String],
        addresses: &[IpAddr],
    ) -> anyhow::Result<(Vec<String>, Vec<IpAddr>)> {
        if !interfaces.is_empty() || !addresses.is_empty() {
            return self.choose(interfaces, addresses);
        }
        let usable: Vec<String> = self.links.iter().filter(|link| link.usable).map(|link| link.name.clone()).collect();
        let all = self.global_addresses(&usable)?;
        let interfaces = self.wanted();
        let Ok((_, mut addresses)) = self.choose(&[], &[]) else { return Ok((interfaces, all)) };
        let more: Vec<IpAddr> = all.into_iter().filter(|address| !addresses.contains(address)).collect();
        addresses.extend(more);
        addresses.truncate(MOST_ADDRESSES);
        Ok((interfaces, addresses))
    }

    fn default_interfaces(&self) -> anyhow::Result<Vec<String>> {
        let usable: Vec<&Link> = self.links.iter().filter(|link| link.usable).collect();
        let mut chosen: Vec<&Link> =
            usable.iter().filter(|link| self.default_routes.contains(&link.index)).copied().collect();
        if chosen.is_empty() && usable.len() == 1 {
            chosen = usable;
        }
        if chosen.is_empty() {
            bail!(
                "no interface has a default route, so you must choose: `--interface NAME` or `kernel.interfaces`; \
                 there are: {}",
                self.names()
            );
        }
        Ok(chosen.into_iter().map(|link| link.name.clone()).collect())
    }

    fn global_addresses(&self, interfaces: &[String]) -> anyhow::Result<Vec<IpAddr>> {
        let index = |name: &String| self.links.iter().find(|link| link.name == *name).map(|link| link.index);
        let attached: Vec<u32> = interfaces.iter().filter_map(index).collect();
        let found = self.addresses.iter().filter(|(index, _)| attached.contains(index));
        let found: Vec<IpAddr> = found.map(|(_, address)| *address).collect();
        if found.is_empty() {
            bail!(
                "{} has no global address: give it one (`ip address add …`) or name those to use in `media.addresses`",
                interfaces.join(", ")
            );
        }
        Ok(found)
    }

    fn names(&self) -> String {
        let usable: Vec<&str> = self.links.iter().filter(|link| link.usable).map(|link| link.name.as_str()).collect();
        if usable.is_empty() { "none that is up".into() } else { usable.join(", ") }
    }
}

fn link(message: &LinkMessage) -> Option<Link> {
    let name = message.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::IfName(name) => Some(name.clone()),
        _ => None,
    })?;
    let flags = message.header.flags;
    let usable = flags.contains(LinkFlags::Up) && !flags.contains(LinkFlags::Loopback);
    let (mut kind, mut parent, mut port) = (None, None, false);
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::LinkInfo(info) => {
                kind = info.iter().find_map(|info| if let LinkInfo::Kind(kind) = info { Some(kind) } else { None });
            }
            LinkAttribute::Link(index) => parent = Some(*index),
            LinkAttribute::Controller(index) => port = *index != 0,
            _ => {}
        }
    }
    let unfit = match kind {
        _ if message.header.link_layer_type != LinkLayerType::Ether => Some("it is no Ethernet device"),
        Some(InfoKind::Bridge) => Some("a bridge has generic XDP only"),
        // Of a VRF it would be the VRF that has the routes, and the port that has the packets.
        _ if port => Some("it is a port of another interface"),
        _ => None,
    };
    let device = parent.filter(|_| kind == Some(&InfoKind::Vlan)).unwrap_or(message.header.index);
    Some(Link { index: message.header.index, name, usable, unfit, device })
}

fn global_address(message: &AddressMessage) -> Option<(u32, IpAddr)> {
    let mut flags = AddressFlags::from_bits_retain(message.header.flags.bits().into());
    let (mut local, mut address) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            // The 32 flag bits; the header has room for eight.
            AddressAttribute::Flags(all) => flags = *all,
            // Our end of a point-to-point link, where `Address` is the other one.
            AddressAttribute::Local(ip) => local = Some(*ip),
            AddressAttribute::Address(ip) => address = Some(*ip),
            _ => {}
        }
    }
    let ip = local.or(address)?;
    // For IPv6 the bit of `Secondary` means a temporary address (RFC 8981), soon to be gone.
    let temporary = ip.is_ipv6() && flags.contains(AddressFlags::Secondary);
    let unready = flags.intersects(AddressFlags::Deprecated | AddressFlags::Tentative | AddressFlags::Dadfailed);
    let global = message.header.scope == AddressScope::Universe;
    (global && !temporary && !unready).then_some((message.header.index, ip))
}

/// Interfaces of a default route, of all its hops, in whatever table: rules may send some peers by it.
fn default_route(message: &RouteMessage) -> Vec<u32> {
    let header = &message.header;
    let family = matches!(header.address_family, AddressFamily::Inet | AddressFamily::Inet6);
    let default = header.destination_prefix_length == 0 && header.kind == RouteType::Unicast;
    if !family || !default || header.table == LOCAL_TABLE {
        return Vec::new();
    }
    let interfaces = message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Oif(index) => Some(vec![*index]),
        RouteAttribute::MultiPath(hops) => Some(hops.iter().map(|hop| hop.interface_index).collect()),
        _ => None,
    });
    interfaces.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host() -> Host {
        let link = |index, name: &str, usable| Link { index, name: name.into(), usable, unfit: None, device: index };
        Host {
            links: vec![link(1, "lo", false), link(2, "eth0", true), link(3, "eth1", true), link(4, "eth2", false)],
            addresses: vec![(2, "192.0.2.1".parse().unwrap()), (2, "2001:db8::1".parse().unwrap())],
            default_routes: vec![2],
        }
    }

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).into()).collect()
    }

    #[test]
    fn what_is_left_open_is_found() {
        let (interfaces, addresses) = host().choose(&[], &[]).unwrap();
        assert_eq!((interfaces, addresses.len()), (names(&["eth0"]), 2));
        let (interfaces, addresses) = host().choose(&names(&["eth0"]), &[]).unwrap();
        assert_eq!((interfaces, addresses.len()), (names(&["eth0"]), 2));
        let mut single = Host { default_routes: vec![], ..host() };
        single.links.truncate(2);
        assert_eq!(single.choose(&[], &[]).unwrap().0, ["eth0"]);
    }

    #[test]
    fn what_is_given_stays() {
        let given = ["198.51.100.1".parse().unwrap()];
        assert_eq!(host().choose(&names(&["eth1"]), &given).unwrap(), (names(&["eth1"]), given.to_vec()));
        assert_eq!(host().choose(&[], &given).unwrap(), (vec![], given.to_vec()));
    }

    #[test]
    fn every_address_is_offered_and_none_means_waiting() {
        let all = Host { default_routes: vec![], ..host() };
        let offered: Vec<IpAddr> = all.addresses.iter().map(|a| a.1).collect();
        assert_eq!(all.choose_any(&[], &[]).unwrap(), (names(&["eth0"]), offered), "eth1 has no address");
        let mut two = host();
        two.addresses.insert(0, (3, "198.51.100.1".parse().unwrap()));
        let (interfaces, addresses) = two.choose_any(&[], &[]).unwrap();
        assert_eq!((interfaces, addresses.len()), (names(&["eth0", "eth1"]), 3));
        assert_eq!(addresses[2], two.addresses[0].1, "that of the default route comes first");
        let alone = Host { addresses: vec![], links: vec![], default_routes: vec![] };
        assert!(alone.choose_any(&[], &[]).is_err() && !alone.has_addresses(&[]));
        assert!(alone.choose_any(&names(&["eth9"]), &[]).is_err());
        assert!(two.has_addresses(&names(&["eth1"])) && !two.has_addresses(&names(&["eth2"])));
    }

    #[test]
    fn xdp_is_wanted_where_peers_may_be_met() {
        let mut host = host();
        let more =
            (5..20).map(|index| Link { index, name: format!("v{index}"), usable: true, unfit: None, device: index });
        host.links.extend(more);
        host.addresses.extend((5..20).map(|index| (index, IpAddr::from([10, 0, index as u8, 1]))));
        host.links[4].unfit = Some("a bridge has generic XDP only");
        // VLANs of one device are one attachment.
        host.links[5].device = 2;
        let wanted = host.wanted();
        assert_eq!((wanted[0].as_str(), wanted[1].as_str(), wanted.len()), ("eth0", "v6", MAX_INTERFACES + 1));
        let uplinks = host.uplinks();
        let why = |name: &str| uplinks.iter().find(|uplink| uplink.name == name).and_then(|uplink| uplink.left_out);
        assert_eq!((why("eth0"), why("v5")), (None, Some("a bridge has generic XDP only")));
        assert!(why("v19").is_some_and(|why| why.contains("as many")) && uplinks.iter().all(|one| one.name != "eth1"));
        // What leads somewhere is tried in any case, and what it says is told.
        host.default_routes.push(5);
        assert_eq!(host.wanted()[1], "v5");
    }

    #[test]
    fn refusals_say_what_there_is() {
        let refusal = |host: Host, interfaces: &[&str]| host.choose(&names(interfaces), &[]).unwrap_err().to_string();
        let unknown = refusal(host(), &["eth9"]);
        assert!(unknown.contains("eth9") && unknown.contains("eth0, eth1"), "{unknown}");
        assert!(refusal(host(), &["eth1"]).contains("media.addresses"));
        assert!(refusal(Host { default_routes: vec![], ..host() }, &[]).contains("--interface"));
    }

    #[tokio::test]
    async fn reads_this_host() {
        let host = Host::read().await.unwrap();
        assert!(host.links.iter().any(|link| link.name == "lo" && !link.usable));
        assert!(host.addresses.iter().all(|(_, address)| !address.is_loopback()));
    }
}
