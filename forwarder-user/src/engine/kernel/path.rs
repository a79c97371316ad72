//! How copies reach a peer: the kernel's route and neighbour as a [`Path`] of the datapath.

use std::{
    io,
    net::{IpAddr, SocketAddr},
};

use forwarder_common::maps::Path;

use super::{
    attach::Attached,
    netlink::{Link, Netlink},
};
use crate::engine::Transport;

/// A route that the datapath can serve; the neighbour need not be known yet.
#[derive(Clone, Copy, Debug)]
pub struct Route {
    /// The device that our program is on: the parent of a VLAN subinterface.
    egress: u32,
    vlan: Option<u16>,
    source_mac: [u8; 6],
    /// Device and address whose hardware address is the destination.
    neighbour: (u32, IpAddr),
    transport: Transport,
}

/// Finds the way to a peer.
///
/// # Errors
/// A reason for people: no route, an address of this host, a device without our program …
pub fn find(netlink: &mut Netlink, attached: &[Attached], transport: Transport) -> Result<Route, String> {
    let route = netlink.route(transport).map_err(|error| no_route(transport, &error))?;
    let link = netlink.link(route.ifindex).map_err(|error| format!("its interface is gone: {error}"))?;
    if route.local || link.loopback {
        return Err("the peer is on this host, and XDP does not see the loopback".into());
    }
    let (egress, vlan) = match link.vlan {
        Some(vlan) if vlan.service_tag => {
            return Err(format!("{} uses 802.1ad tags, which are not supported", link.name));
        }
        // A program on the subinterface itself (generic mode) sees frames without their tag.
        Some(vlan) if !is_attached(attached, link.index) => (vlan.parent, Some(vlan.id)),
        _ => (link.index, None),
    };
    if !is_attached(attached, egress) {
        return Err(not_attached(&link, attached));
    }
    let source_mac = link.mac.ok_or_else(|| format!("{} is not an Ethernet device", link.name))?;
    Ok(Route { egress, vlan, source_mac, neighbour: (route.ifindex, route.next_hop), transport })
}

fn is_attached(attached: &[Attached], index: u32) -> bool {
    attached.iter().any(|interface| interface.index == index)
}

fn not_attached(link: &Link, attached: &[Attached]) -> String {
    let names: Vec<&str> = attached.iter().map(|interface| interface.name.as_str()).collect();
    format!("it leaves by {}, and XDP is only on {}: add it to `kernel.interfaces`", link.name, names.join(", "))
}

fn no_route(transport: Transport, error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::EINVAL) => format!("{} is no address of this host", transport.local.ip()),
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
        path.map(Some).ok_or_else(|| "its address is of another IP version than ours".into())
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
