//! Does this host translate a peer's packets (redirect, DNAT, masquerade)? Asked of the kernel's connection tracking
//! (`nfnetlink`, subsystem `ctnetlink`). Copies that XDP sends go past such rules, and would leave by other addresses
//! than those that the peer's checks have found.

use std::{
    fs, io,
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use rtnetlink::sys::{Socket, SocketAddr as NetlinkAddr, protocols::NETLINK_NETFILTER};

use super::{features::attribute, path::canonical};
use crate::Transport;

/// `NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_GET`.
const GET: u16 = 1 << 8 | 1;
const REQUEST: u16 = 1;
const ERROR: u16 = 2;
/// Of an attribute that has attributes.
const NESTED: u16 = 0x8000;

/// `enum ctattr_type`, `ctattr_tuple`, `ctattr_ip`, `ctattr_l4proto` of linux/netfilter/nfnetlink_conntrack.h.
const TUPLE_ORIGINAL: u16 = 1;
const TUPLE_REPLY: u16 = 2;
const TUPLE_IP: u16 = 1;
const TUPLE_PROTOCOL: u16 = 2;
const IP_V4: (u16, u16) = (1, 2);
const IP_V6: (u16, u16) = (3, 4);
const PROTOCOL: u16 = 1;
const PORTS: (u16, u16) = (2, 3);

/// Length of `nlmsghdr`, and of `nfgenmsg` behind it.
const HEADER: usize = 16;
const FAMILY_HEADER: usize = 4;

/// How long it is believed that nothing is tracked.
const RECENT: Duration = Duration::from_secs(1);

/// A connection to the kernel's connection tracking.
#[derive(Default)]
pub(super) struct Conntrack {
    socket: Option<Socket>,
    idle: Option<Instant>,
    /// This process may not ask, or the kernel has nobody who answers; each question might make it look for a module.
    refused: bool,
}

/// Who sends to whom.
type Tuple = (SocketAddr, SocketAddr);

impl Conntrack {
    /// What the peer sees us as, if that is not the local address. `None` also where nothing is tracked, or this process
    /// may not ask.
    pub(super) fn translated(&mut self, transport: Transport) -> Option<SocketAddr> {
        if self.refused || self.idle.is_some_and(|at| at.elapsed() < RECENT) {
            return None;
        }
        if !is_tracking() {
            self.idle = Some(Instant::now());
            return None;
        }
        let (local, peer) = (canonical(transport.local), canonical(transport.peer));
        let (original, reply) = match self.ask(local, peer) {
            Ok(tuples) => tuples,
            Err(error) => {
                self.refused = error.raw_os_error() != Some(libc::ENOENT);
                if self.refused {
                    tracing::debug!("connection tracking is not asked: {error}");
                }
                return None;
            }
        };
        // The connection was begun by the peer, as far as the kernel knows, or by us.
        let seen = if reply == (local, peer) { original.1 } else { reply.1 };
        (seen != local).then_some(seen)
    }

    /// Both tuples of the connection whose packets from here are `local` to `peer`.
    fn ask(&mut self, local: SocketAddr, peer: SocketAddr) -> io::Result<(Tuple, Tuple)> {
        if self.socket.is_none() {
            let mut socket = Socket::new(NETLINK_NETFILTER)?;
            socket.bind_auto()?;
            socket.connect(&NetlinkAddr::new(0, 0))?;
            self.socket = Some(socket);
        }
        let socket = self.socket.as_ref().ok_or(io::ErrorKind::NotConnected)?;
        socket.send(&request(local, peer), 0)?;
        let (answer, _) = socket.recv_from_full()?;
        read(&answer)
    }
}

/// Has the network namespace of this thread any entries? Where it has none, to ask would make the kernel load what tracks.
fn is_tracking() -> bool {
    let count = fs::read_to_string("/proc/sys/net/netfilter/nf_conntrack_count").ok();
    count.and_then(|count| count.trim().parse::<u64>().ok()).is_some_and(|count| count > 0)
}

fn request(local: SocketAddr, peer: SocketAddr) -> Vec<u8> {
    let (source, destination) = if local.is_ipv4() { IP_V4 } else { IP_V6 };
    let ip = [value(source, &bytes(local.ip())), value(destination, &bytes(peer.ip()))].concat();
    let protocol = [
        value(PROTOCOL, &[libc::IPPROTO_UDP as u8]),
        value(PORTS.0, &local.port().to_be_bytes()),
        value(PORTS.1, &peer.port().to_be_bytes()),
    ]
    .concat();
    let tuple = [value(TUPLE_IP | NESTED, &ip), value(TUPLE_PROTOCOL | NESTED, &protocol)].concat();
    let tuple = value(TUPLE_REPLY | NESTED, &tuple);
    let family = if local.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    let length = HEADER + FAMILY_HEADER + tuple.len();
    let mut request = Vec::with_capacity(length);
    request.extend((length as u32).to_ne_bytes());
    request.extend(GET.to_ne_bytes());
    request.extend(REQUEST.to_ne_bytes());
    request.extend([0; 8]); // sequence and port: the socket is asked one question at a time
    request.extend([family as u8, 0, 0, 0]);
    request.extend(tuple);
    request
}

/// An attribute, padded.
fn value(kind: u16, bytes: &[u8]) -> Vec<u8> {
    let mut all = Vec::with_capacity(4 + bytes.len());
    all.extend(((4 + bytes.len()) as u16).to_ne_bytes());
    all.extend(kind.to_ne_bytes());
    all.extend(bytes);
    all.resize(all.len().next_multiple_of(4), 0);
    all
}

fn bytes(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().into(),
        IpAddr::V6(ip) => ip.octets().into(),
    }
}

fn read(answer: &[u8]) -> io::Result<(Tuple, Tuple)> {
    let malformed = || io::Error::new(io::ErrorKind::InvalidData, "unexpected answer of connection tracking");
    let kind = answer.get(4..6).and_then(|kind| Some(u16::from_ne_bytes(*kind.first_chunk()?)));
    let body = answer.get(HEADER..).ok_or_else(malformed)?;
    if kind == Some(ERROR) {
        let code = body.first_chunk().map_or(0, |code| i32::from_ne_bytes(*code));
        return Err(io::Error::from_raw_os_error(-code));
    }
    let attributes = body.get(FAMILY_HEADER..).ok_or_else(malformed)?;
    let both = || Some((tuple(attribute(attributes, TUPLE_ORIGINAL)?)?, tuple(attribute(attributes, TUPLE_REPLY)?)?));
    both().ok_or_else(malformed)
}

fn tuple(attributes: &[u8]) -> Option<Tuple> {
    let ip = attribute(attributes, TUPLE_IP)?;
    let address = |v4: u16, v6: u16| match (attribute(ip, v4), attribute(ip, v6)) {
        (Some(bytes), _) => Some(IpAddr::from(*bytes.first_chunk::<4>()?)),
        (None, Some(bytes)) => Some(IpAddr::from(*bytes.first_chunk::<16>()?)),
        (None, None) => None,
    };
    let protocol = attribute(attributes, TUPLE_PROTOCOL)?;
    let port = |kind: u16| Some(u16::from_be_bytes(*attribute(protocol, kind)?.first_chunk()?));
    let source = SocketAddr::new(address(IP_V4.0, IP_V6.0)?, port(PORTS.0)?);
    let destination = SocketAddr::new(address(IP_V4.1, IP_V6.1)?, port(PORTS.1)?);
    Some((source, destination))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_can_be_read() {
        for (local, peer) in [("192.0.2.1:8443", "198.51.100.7:5000"), ("[2001:db8::1]:8443", "[2001:db8::7]:5000")] {
            let (local, peer): (SocketAddr, SocketAddr) = (local.parse().unwrap(), peer.parse().unwrap());
            let request = request(local, peer);
            let asked = attribute(&request[HEADER + FAMILY_HEADER..], TUPLE_REPLY).and_then(tuple);
            assert_eq!(asked, Some((local, peer)));
            // Nothing that is cut short is read as something.
            for cut in 0..request.len() {
                let _ = read(&request[..cut]);
            }
        }
    }

    #[test]
    fn a_host_that_translates_nothing_says_so() {
        let (local, peer) = ("192.0.2.1:8443".parse().unwrap(), "198.51.100.7:5000".parse().unwrap());
        assert_eq!(Conntrack::default().translated(Transport::udp(local, peer)), None);
    }
}
