//! The media sockets: STUN, DTLS, RTCP, and the RTP that the engine leaves to us.

use std::io;
use std::net::SocketAddr;
use std::task::{Context, Poll};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::UdpSocket;

use super::config::MediaAddress;

/// Larger than any datagram that we take; longer ones arrive cut off and fail their checks.
pub(super) const DATAGRAM: usize = 2048;

/// One socket per local address.
pub(super) struct Sockets {
    sockets: Vec<UdpSocket>,
    /// Where each is bound, with the port that the system chose if the configuration left it open.
    bound: Vec<SocketAddr>,
    /// What peers are told.
    advertised: Vec<SocketAddr>,
    /// Where the next search for a readable socket starts, so that none starves the others.
    next: usize,
}

impl Sockets {
    pub(super) fn bind(addresses: &[MediaAddress], buffer: usize) -> io::Result<Self> {
        let mut this = Self { sockets: vec![], bound: vec![], advertised: vec![], next: 0 };
        for address in addresses {
            let socket = bind(address.bind, buffer)
                .map_err(|error| io::Error::new(error.kind(), format!("media socket {}: {error}", address.bind)))?;
            let bound = socket.local_addr()?;
            this.bound.push(bound);
            this.advertised.push(SocketAddr::new(address.advertise.unwrap_or(bound.ip()), bound.port()));
            this.sockets.push(socket);
        }
        if this.sockets.is_empty() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "no media address is configured"));
        }
        Ok(this)
    }

    /// Local address of a socket, as it stands in packets that we send.
    pub(super) fn bound(&self, socket: usize) -> Option<SocketAddr> {
        self.bound.get(socket).copied()
    }

    /// Addresses of all sockets as peers see them.
    pub(super) fn advertised(&self) -> &[SocketAddr] {
        &self.advertised
    }

    /// Waits until a socket has something to read; gives its index.
    pub(super) fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<usize> {
        let count = self.sockets.len();
        for step in 0..count {
            let index = (self.next + step) % count;
            if self.sockets[index].poll_recv_ready(cx).is_ready() {
                self.next = (index + 1) % count;
                return Poll::Ready(index);
            }
        }
        Poll::Pending
    }

    /// One datagram, if there is one.
    pub(super) fn receive(&self, socket: usize, buffer: &mut [u8; DATAGRAM]) -> Option<(usize, SocketAddr)> {
        loop {
            match self.sockets.get(socket)?.try_recv_from(buffer) {
                Ok((len, peer)) => return Some((len, canonical(peer))),
                // An ICMP error of an earlier send: of no use to us, and the queue goes on after it.
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
                Err(_) => return None,
            }
        }
    }

    /// Sends a datagram. `false`: the system did not take it; what matters is repeated anyway.
    pub(super) fn send(&self, socket: usize, peer: SocketAddr, bytes: &[u8]) -> bool {
        self.sockets.get(socket).is_some_and(|socket| socket.try_send_to(bytes, peer).is_ok())
    }
}

/// Flow labels differ from packet to packet and are no part of an address.
fn canonical(peer: SocketAddr) -> SocketAddr {
    match peer {
        SocketAddr::V6(mut v6) => {
            v6.set_flowinfo(0);
            SocketAddr::V6(v6)
        }
        v4 => v4,
    }
}

fn bind(address: SocketAddr, buffer: usize) -> io::Result<UdpSocket> {
    if address.ip().is_unspecified() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "a wildcard is no address that copies can leave from"));
    }
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    // Best effort: without CAP_NET_ADMIN the system caps these at net.core.{r,w}mem_max.
    let _ = socket.set_recv_buffer_size(buffer);
    let _ = socket.set_send_buffer_size(buffer);
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    UdpSocket::from_std(socket.into())
}
