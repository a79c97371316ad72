//! Questions to rtnetlink, one at a time: links, addresses, routes, neighbours.
//!
//! Blocking on purpose. The kernel answers such a request within the `send` system call, and the
//! engine asks from plain threads and from inside the control task alike, where an asynchronous
//! client would need a runtime of its own.

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use rtnetlink::{
    packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload},
    packet_route::{
        AddressFamily, RouteNetlinkMessage as Message,
        address::{AddressAttribute, AddressMessage},
        link::{LinkAttribute, LinkExtentMask, LinkMessage},
        neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState},
        route::{RouteAddress, RouteAttribute, RouteMessage, RouteMetric, RouteType, RouteVia},
        tc::{TcAttribute, TcMessage},
    },
    sys::{Socket, SocketAddr as NetlinkAddr, protocols::NETLINK_ROUTE},
};

use super::{
    conntrack::Conntrack,
    features::Features,
    link::{Link, as_link},
};
use crate::Transport;

/// Interfaces change seldom, and hundreds of sessions that are refreshed within seconds leave by the same few.
const RECENT: Duration = Duration::from_secs(1);

/// How long a narrow path is remembered, and how many of them.
const REMEMBERED: Duration = Duration::from_secs(3600);
const MOST_NARROW: usize = 4096;

/// `RT_TABLE_LOCAL`: addresses of this host.
const LOCAL_TABLE: u8 = 255;

/// Where the kernel would send a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// Interface that the packet leaves by, before VLAN subinterfaces are resolved.
    pub ifindex: u32,
    /// The neighbour to hand the packet to: a gateway or the destination itself.
    pub next_hop: IpAddr,
    /// The destination is an address of this host.
    pub local: bool,
    /// What a packet may have on the whole way, where the kernel knows it: from ICMP, or since the route says so.
    pub mtu: Option<u32>,
}

/// A connection to rtnetlink in the network namespace of the thread that opened it.
pub struct Netlink {
    socket: Socket,
    sequence: u32,
    /// `None` on kernels that do not tell (before 6.3).
    features: Option<Features>,
    conntrack: Conntrack,
    recent_links: Recent<Link>,
    /// Devices that take redirected frames.
    recent_takers: Recent<()>,
    narrow: Narrow,
}

/// What was said of interfaces, by index, and when.
#[derive(Default)]
struct Recent<T>(HashMap<u32, (Instant, T)>);

impl<T: Clone> Recent<T> {
    fn get(&self, index: u32) -> Option<T> {
        self.0.get(&index).filter(|(at, _)| at.elapsed() < RECENT).map(|(_, said)| said.clone())
    }

    fn keep(&mut self, index: u32, said: T) -> T {
        self.0.insert(index, (Instant::now(), said.clone()));
        said
    }
}

/// Peers behind narrow paths.
#[derive(Default)]
struct Narrow(HashMap<IpAddr, (Instant, u32)>);

impl Narrow {
    fn tell(&mut self, peer: IpAddr, mtu: u32, usual: u32, now: Instant) -> Option<u32> {
        if mtu < usual {
            if self.0.len() >= MOST_NARROW {
                self.0.retain(|_, (at, _)| now.duration_since(*at) < REMEMBERED);
            }
            if self.0.len() < MOST_NARROW {
                self.0.insert(peer, (now, mtu));
            }
            return Some(mtu);
        }
        let known = self.0.get(&peer).filter(|(at, _)| now.duration_since(*at) < REMEMBERED);
        known.map(|(_, mtu)| *mtu)
    }
}

impl Netlink {
    /// # Errors
    /// What `socket`, `bind` or `connect` say.
    pub fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&NetlinkAddr::new(0, 0))?;
        Ok(Self {
            socket,
            sequence: 0,
            features: Features::open().ok(),
            conntrack: Conntrack::default(),
            recent_links: Recent::default(),
            recent_takers: Recent::default(),
            narrow: Narrow::default(),
        })
    }

    /// Something has changed: what was said of interfaces is asked again.
    pub fn forget(&mut self) {
        self.recent_links.0.clear();
        self.recent_takers.0.clear();
    }

    /// Sends one request and returns what came back before its acknowledgement.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn request(&mut self, message: Message, flags: u16) -> io::Result<Vec<Message>> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut request = NetlinkMessage::from(message);
        request.header.flags = NLM_F_REQUEST | flags;
        request.header.sequence_number = self.sequence;
        request.finalize();
        let mut bytes = vec![0; request.buffer_len()];
        request.serialize(&mut bytes);
        self.socket.send(&bytes, 0)?;

        let mut answers = Vec::new();
        loop {
            let (datagram, _) = self.socket.recv_from_full()?;
            if self.read_datagram(&datagram, &mut answers)? {
                return Ok(answers);
            }
        }
    }

    /// Adds the messages of one datagram; says whether the answer is complete.
    fn read_datagram(&self, datagram: &[u8], answers: &mut Vec<Message>) -> io::Result<bool> {
        let mut rest = datagram;
        while rest.len() >= 16 {
            let answer = NetlinkMessage::<Message>::deserialize(rest)
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))?;
            // Netlink pads each message to four bytes.
            let length = (answer.header.length as usize).max(16).next_multiple_of(4);
            rest = rest.get(length..).unwrap_or_default();
            if answer.header.sequence_number != self.sequence {
                continue;
            }
            match answer.payload {
                NetlinkPayload::InnerMessage(message) => answers.push(message),
                NetlinkPayload::Error(error) if error.code.is_some() => return Err(error.to_io()),
                NetlinkPayload::Error(_) | NetlinkPayload::Done(_) => return Ok(true),
                _ => {}
            }
        }
        Ok(false)
    }

    /// Does the device take redirected frames? `None`: this kernel does not tell (before 6.3).
    ///
    /// # Errors
    /// What the kernel says.
    pub fn takes_redirects(&self, ifindex: u32) -> io::Result<Option<bool>> {
        self.features.as_ref().map(|features| features.takes_redirects(ifindex)).transpose()
    }

    /// Same; a device that took some within the last second is believed to do so still.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn took_redirects(&mut self, ifindex: u32) -> io::Result<Option<bool>> {
        if self.recent_takers.get(ifindex).is_some() {
            return Ok(Some(true));
        }
        let takes = self.takes_redirects(ifindex)?;
        if takes == Some(true) {
            self.recent_takers.keep(ifindex, ());
        }
        Ok(takes)
    }

    /// All interfaces.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn links(&mut self) -> io::Result<Vec<Link>> {
        let answers = self.request(Message::GetLink(without_statistics(0)), NLM_F_DUMP)?;
        Ok(answers.into_iter().filter_map(as_link).collect())
    }

    /// One interface.
    ///
    /// # Errors
    /// What the kernel says; `ENODEV` if it does not exist.
    pub fn link(&mut self, index: u32) -> io::Result<Link> {
        let answers = self.request(Message::GetLink(without_statistics(index)), NLM_F_ACK)?;
        let link = answers.into_iter().find_map(as_link);
        link.ok_or_else(|| io::Error::from_raw_os_error(libc::ENODEV))
    }

    /// Same, as it was within the last second.
    ///
    /// # Errors
    /// As [`link`](Self::link).
    pub fn recent_link(&mut self, index: u32) -> io::Result<Link> {
        match self.recent_links.get(index) {
            Some(link) => Ok(link),
            None => self.link(index).map(|link| self.recent_links.keep(index, link)),
        }
    }

    /// What a packet to this peer may have, if that is less than `usual`: as a route says it now, or one has said within
    /// the last hour. The kernel forgets what ICMP has told after ten minutes, whether or not it is still true.
    pub(super) fn narrow(&mut self, peer: IpAddr, mtu: u32, usual: u32) -> Option<u32> {
        self.narrow.tell(peer, mtu, usual, Instant::now())
    }

    /// What a peer sees us as, where this host translates its packets.
    pub fn translated(&mut self, transport: Transport) -> Option<SocketAddr> {
        self.conntrack.translated(transport)
    }

    /// Queueing disciplines by the index of their interface and kind (`fq_codel`, `tbf`, `clsact`, …), those within
    /// others too.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn qdiscs(&mut self) -> io::Result<Vec<(u32, String)>> {
        let answers = self.request(Message::GetQueueDiscipline(TcMessage::default()), NLM_F_DUMP)?;
        let qdisc = |answer| {
            let Message::NewQueueDiscipline(message) = answer else { return None };
            let kind = message.attributes.into_iter().find_map(|attribute| match attribute {
                TcAttribute::Kind(kind) => Some(kind),
                _ => None,
            });
            Some((u32::try_from(message.header.index).ok()?, kind?))
        };
        Ok(answers.into_iter().filter_map(qdisc).collect())
    }

    /// Every address of this host with the index of its interface.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn addresses(&mut self) -> io::Result<Vec<(u32, IpAddr)>> {
        let answers = self.request(Message::GetAddress(AddressMessage::default()), NLM_F_DUMP)?;
        let mut addresses = Vec::new();
        for answer in answers {
            let Message::NewAddress(message) = answer else { continue };
            // IFA_LOCAL is our end of a point-to-point IPv4 link, where IFA_ADDRESS is the peer's.
            let local = message.attributes.iter().find_map(|attribute| match attribute {
                AddressAttribute::Local(address) => Some(*address),
                _ => None,
            });
            let address = local.or(message.attributes.iter().find_map(|attribute| match attribute {
                AddressAttribute::Address(address) => Some(*address),
                _ => None,
            }));
            addresses.extend(address.map(|address| (message.header.index, address)));
        }
        Ok(addresses)
    }

    /// Interfaces of the default routes of all tables, IPv4 first.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn default_routes(&mut self) -> io::Result<Vec<u32>> {
        let mut interfaces = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut message = RouteMessage::default();
            message.header.address_family = family;
            for answer in self.request(Message::GetRoute(message), NLM_F_DUMP)? {
                let Message::NewRoute(route) = answer else { continue };
                let header = &route.header;
                if header.destination_prefix_length != 0
                    || header.table == LOCAL_TABLE
                    || header.kind != RouteType::Unicast
                {
                    continue;
                }
                for attribute in &route.attributes {
                    match attribute {
                        RouteAttribute::Oif(index) => interfaces.push(*index),
                        RouteAttribute::MultiPath(hops) => {
                            interfaces.extend(hops.iter().map(|hop| hop.interface_index));
                        }
                        _ => {}
                    }
                }
            }
        }
        Ok(interfaces)
    }

    /// The route of a UDP packet, policy routing included.
    ///
    /// # Errors
    /// What the kernel says: `ENETUNREACH`, `EHOSTUNREACH`, `EINVAL` if the local address is not ours.
    pub fn route(&mut self, transport: Transport) -> io::Result<Route> {
        let (local, peer) = (transport.local.ip().to_canonical(), transport.peer.ip().to_canonical());
        let bits = if peer.is_ipv4() { 32 } else { 128 };
        let mut message = RouteMessage::default();
        message.header.address_family = family(peer);
        message.header.destination_prefix_length = bits;
        message.attributes.push(RouteAttribute::Destination(RouteAddress::from(peer)));
        if !local.is_unspecified() {
            message.header.source_prefix_length = bits;
            message.attributes.push(RouteAttribute::Source(RouteAddress::from(local)));
        }
        message.attributes.push(RouteAttribute::IpProto(libc::IPPROTO_UDP as u8));
        message.attributes.push(RouteAttribute::Sport(transport.local.port()));
        message.attributes.push(RouteAttribute::Dport(transport.peer.port()));
        let answers = self.request(Message::GetRoute(message), NLM_F_ACK)?;
        let route = answers.into_iter().find_map(|answer| match answer {
            Message::NewRoute(route) => as_route(&route, peer),
            _ => None,
        });
        route.ok_or_else(|| io::Error::from_raw_os_error(libc::ENETUNREACH))
    }

    /// The neighbour's hardware address, if the kernel knows it.
    ///
    /// # Errors
    /// What the kernel says, except that an unknown neighbour is `None`.
    pub fn neighbour(&mut self, ifindex: u32, address: IpAddr) -> io::Result<Option<[u8; 6]>> {
        let answers = match self.request(Message::GetNeighbour(neighbour_message(ifindex, address)), NLM_F_ACK) {
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(None),
            other => other?,
        };
        for answer in answers {
            let Message::NewNeighbour(message) = answer else { continue };
            // A failed or unfinished resolution may still show an old address.
            if matches!(message.header.state, NeighbourState::Incomplete | NeighbourState::Failed) {
                continue;
            }
            for attribute in message.attributes {
                if let NeighbourAttribute::LinkLayerAddress(mac) = attribute {
                    return Ok(mac.try_into().ok());
                }
            }
        }
        Ok(None)
    }

    /// Makes the kernel resolve a neighbour, as a packet to it would, without sending a packet.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn resolve_neighbour(&mut self, ifindex: u32, address: IpAddr) -> io::Result<()> {
        let mut message = neighbour_message(ifindex, address);
        message.header.flags = NeighbourFlags::Use;
        self.request(Message::NewNeighbour(message), NLM_F_ACK | NLM_F_CREATE).map(|_| ())
    }
}

fn family(address: IpAddr) -> AddressFamily {
    if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}

fn without_statistics(index: u32) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message.attributes.push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
    message
}

fn neighbour_message(ifindex: u32, address: IpAddr) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = family(address);
    message.header.ifindex = ifindex;
    let address = match address {
        IpAddr::V4(address) => NeighbourAddress::Inet(address),
        IpAddr::V6(address) => NeighbourAddress::Inet6(address),
    };
    message.attributes.push(NeighbourAttribute::Destination(address));
    message
}

fn as_route(message: &RouteMessage, destination: IpAddr) -> Option<Route> {
    let mut route =
        Route { ifindex: 0, next_hop: destination, local: message.header.kind == RouteType::Local, mtu: None };
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Oif(index) => route.ifindex = *index,
            RouteAttribute::Metrics(metrics) => {
                route.mtu = metrics.iter().find_map(|metric| match metric {
                    RouteMetric::Mtu(mtu) => Some(*mtu),
                    _ => None,
                });
            }
            RouteAttribute::Gateway(RouteAddress::Inet(address)) => route.next_hop = (*address).into(),
            RouteAttribute::Gateway(RouteAddress::Inet6(address)) => route.next_hop = (*address).into(),
            RouteAttribute::Via(RouteVia::Inet(address)) => route.next_hop = (*address).into(),
            RouteAttribute::Via(RouteVia::Inet6(address)) => route.next_hop = (*address).into(),
            _ => {}
        }
    }
    (route.ifindex != 0).then_some(route)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn narrow_paths_are_remembered_for_an_hour() {
        let (mut narrow, now) = (Narrow::default(), Instant::now());
        let peer: IpAddr = "192.0.2.7".parse().expect("an address");
        assert_eq!(narrow.tell(peer, 1500, 1400, now), None);
        assert_eq!(narrow.tell(peer, 900, 1400, now), Some(900));
        assert_eq!(narrow.tell(peer, 1500, 1400, now + REMEMBERED / 2), Some(900));
        assert_eq!(narrow.tell(peer, 1500, 1400, now + REMEMBERED), None);
        for number in 0..2 * MOST_NARROW as u32 {
            narrow.tell(IpAddr::from(number.to_be_bytes()), 900, 1400, now);
        }
        assert!(narrow.0.len() <= MOST_NARROW);
    }

    #[test]
    fn the_loopback_answers() -> io::Result<()> {
        let mut netlink = Netlink::open()?;
        let links = netlink.links()?;
        let loopback = links.iter().find(|link| link.loopback).expect("a loopback");
        assert_eq!(netlink.link(loopback.index)?.name, loopback.name);
        assert_eq!(loopback.mac, None);
        let gone = netlink.link(0x7fff_0000).map_err(|error| error.raw_os_error());
        assert_eq!(gone.err(), Some(Some(libc::ENODEV)));
        Ok(())
    }
}
