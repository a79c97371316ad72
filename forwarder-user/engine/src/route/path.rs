//! How copies reach a peer: the kernel's route and neighbour as a [`Path`] of the datapath.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::{Arc, PoisonError, RwLock},
};

use forwarder_common::maps::{Path, USUAL_MTU, xdp_mode};

use super::{link::Link, netlink::Netlink};
use crate::Transport;

/// What IP packets with media have at most, of nearly every peer: 1,200 to 1,300 bytes of RTP, tag and headers.
const USUAL_PACKET: u32 = 1400;

/// An interface that carries our program.
#[derive(Clone, Debug)]
pub struct Attached {
    /// The kernel's, in the namespace of the server.
    pub index: u32,
    /// For messages.
    pub name: String,
    /// One of [`xdp_mode`].
    pub mode: u8,
}

/// The interfaces that carry our program, as they are now: one that was made anew has another index. Clones share them.
#[derive(Clone, Debug)]
pub struct Interfaces(Arc<RwLock<Arc<[Attached]>>>);

impl Interfaces {
    /// Those of the start.
    pub fn new(attached: Vec<Attached>) -> Self {
        Self(Arc::new(RwLock::new(attached.into())))
    }

    /// All at this moment.
    pub fn get(&self) -> Arc<[Attached]> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The one of this name is another one now.
    pub fn replace(&self, new: &Attached) {
        let mut all = self.0.write().unwrap_or_else(PoisonError::into_inner);
        *all = all.iter().map(|one| if one.name == new.name { new.clone() } else { one.clone() }).collect();
    }
}

/// By which devices frames may leave.
#[derive(Clone, Debug)]
pub enum Devices {
    /// Those that carry our program.
    Attached(Interfaces),
    /// Those that take redirected frames; if there is a list (of interface indices), only these.
    Redirecting(Option<Vec<u32>>),
}

/// A route that the datapath can serve; the neighbour need not be known yet.
#[derive(Clone, Copy, Debug)]
pub struct Route {
    /// The device that our program is on: the parent of a VLAN subinterface.
    egress: u32,
    vlan: Option<u16>,
    source_mac: [u8; 6],
    /// Of the interface.
    mtu: u32,
    /// Device and address whose hardware address is the destination.
    neighbour: (u32, IpAddr),
    transport: Transport,
}

/// Why XDP does not serve such a peer.
const BY_TCP: &str = "its media goes by TCP";

/// Finds the way to a peer.
///
/// # Errors
/// A reason for people: no route, an address of this host, a rule that translates, a device without our program …
pub fn find(netlink: &mut Netlink, devices: &Devices, transport: Transport) -> Result<Route, String> {
    if transport.tcp {
        return Err(BY_TCP.into());
    }
    let route = netlink.route(transport).map_err(|error| no_route(netlink, transport, &error))?;
    let link = netlink.recent_link(route.ifindex).map_err(|error| format!("its interface is gone: {error}"))?;
    if route.local || link.loopback {
        return Err("the peer is on this host, and XDP does not see the loopback".into());
    }
    if let Some(seen) = netlink.translated(transport) {
        return Err(format!("this host translates its packets (NAT): it sees {seen}, and XDP goes past that rule"));
    }
    let mtu = route.mtu.unwrap_or(link.mtu).min(link.mtu);
    if let Some(mtu) = netlink.narrow(canonical(transport.peer).ip(), mtu, USUAL_PACKET) {
        return Err(format!(
            "the path to it takes packets of {mtu} bytes at most (path MTU), and XDP cannot divide what is larger: \
             sockets send that in fragments"
        ));
    }
    let (egress, vlan) = device(&link, devices)?;
    takes_copies(netlink, devices, (egress, &link.name))?;
    let source_mac = link.mac.ok_or_else(|| format!("{} is not an Ethernet device", link.name))?;
    let mtu = if link.mtu == 0 { USUAL_MTU } else { link.mtu };
    Ok(Route { egress, vlan, source_mac, mtu, neighbour: (route.ifindex, route.next_hop), transport })
}

/// The device that serves a link, and the tag that its frames get.
fn device(link: &Link, devices: &Devices) -> Result<(u32, Option<u16>), String> {
    let (egress, tag) = match link.vlan {
        Some(vlan) if vlan.service_tag => {
            return Err(format!("{} uses 802.1ad tags, which are not supported", link.name));
        }
        Some(vlan) => (vlan.parent, Some(vlan.id)),
        None => (link.index, None),
    };
    match devices {
        Devices::Attached(attached) if !is_attached(&attached.get(), egress) => {
            Err(not_attached(link, &attached.get()))
        }
        Devices::Redirecting(Some(list)) if !list.contains(&egress) => {
            Err(format!("it leaves by {}, which is not ours: add it to `kernel.interfaces`", link.name))
        }
        _ => Ok((egress, tag)),
    }
}

/// Native XDP leaves devices out of a broadcast that do not take redirected frames, silently.
fn takes_copies(netlink: &mut Netlink, devices: &Devices, (egress, name): (u32, &str)) -> Result<(), String> {
    let name = match devices {
        Devices::Attached(attached) => {
            let native = |one: &Attached| one.index == egress && one.mode == xdp_mode::NATIVE;
            if !attached.get().iter().any(native) {
                return Ok(());
            }
            name
        }
        Devices::Redirecting(_) => name,
    };
    match netlink.took_redirects(egress) {
        Ok(Some(true)) => Ok(()),
        Ok(None) if matches!(devices, Devices::Attached(_)) => Ok(()),
        Ok(None) => Err(format!("this kernel does not tell whether {name} takes redirected frames (6.3 does)")),
        Ok(Some(false)) => Err(format!(
            "{name} takes no redirected frames. Of a veth pair the other end needs GRO before it goes up (ethtool -K \
             OTHER-END gro on; then down and up) or an XDP program; some drivers want an XDP program on the device \
             itself; for others set `kernel.mode` to generic"
        )),
        Err(error) => Err(format!("the XDP features of {name} cannot be asked: {error}")),
    }
}

fn is_attached(attached: &[Attached], index: u32) -> bool {
    attached.iter().any(|interface| interface.index == index)
}

fn not_attached(link: &Link, attached: &[Attached]) -> String {
    let names: Vec<&str> = attached.iter().map(|interface| interface.name.as_str()).collect();
    format!("it leaves by {}, and XDP is only on {}: add it to `kernel.interfaces`", link.name, names.join(", "))
}

fn no_route(netlink: &mut Netlink, transport: Transport, error: &io::Error) -> String {
    let local = transport.local.ip().to_canonical();
    if netlink.addresses().is_ok_and(|own| own.iter().all(|(_, address)| *address != local)) {
        return format!("{local} is no address of this host");
    }
    match error.raw_os_error() {
        Some(libc::ENETUNREACH) => "there is no route to it".into(),
        _ => format!("the route lookup failed: {error}"),
    }
}

impl Route {
    /// The finished path, or `None` while the neighbour is not resolved.
    ///
    /// # Errors
    /// A reason for people.
    pub fn path(&self, netlink: &mut Netlink) -> Result<Option<Path>, String> {
        let (device, address) = self.neighbour;
        let mac = netlink.neighbour(device, address).map_err(|error| format!("neighbour lookup failed: {error}"))?;
        let Some(mac) = mac else { return Ok(None) };
        let (local, peer) = (canonical(self.transport.local), canonical(self.transport.peer));
        let path = Path::new(self.egress, self.source_mac, mac, self.vlan, local, peer);
        path.map(|path| Some(path.with_mtu(self.mtu)))
            .ok_or_else(|| "its address is of another IP version than ours".into())
    }

    /// Asks the kernel to resolve the neighbour; the answer comes later.
    pub fn resolve(&self, netlink: &mut Netlink) -> io::Result<()> {
        netlink.resolve_neighbour(self.neighbour.0, self.neighbour.1)
    }
}

/// The address with IPv4-mapped IPv6 turned into IPv4, as it is on the wire.
pub const fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::route::link::Vlan;

    #[test]
    fn vlan_subinterfaces_leave_by_their_parent_with_a_tag() {
        let eth0 = Attached { index: 2, name: "eth0".into(), mode: xdp_mode::NATIVE };
        let attached = Devices::Attached(Interfaces::new(vec![eth0]));
        let eth0 = Link { index: 2, name: "eth0".into(), ..Link::default() };
        let tagged = |parent, service_tag| Link {
            index: 9,
            name: "vlan".into(),
            vlan: Some(Vlan { parent, id: 7, service_tag }),
            ..Link::default()
        };
        assert_eq!(device(&eth0, &attached), Ok((2, None)));
        assert_eq!(device(&tagged(2, false), &attached), Ok((2, Some(7))));
        assert!(device(&tagged(2, true), &attached).is_err_and(|reason| reason.contains("802.1ad")));
        assert!(device(&tagged(3, false), &attached).is_err_and(|reason| reason.contains("XDP is only on eth0")));
        assert_eq!(device(&tagged(3, false), &Devices::Redirecting(None)), Ok((3, Some(7))));
        let other = device(&eth0, &Devices::Redirecting(Some(vec![3])));
        assert!(other.is_err_and(|reason| reason.contains("eth0, which is not ours")));
    }
}
