//! A track's two UDP ports: RTP on the even one, RTCP on the next (RFC 3550 §11), unless told otherwise.

use std::{
    cell::RefCell,
    io,
    net::{IpAddr, SocketAddr},
    task::{Context, Poll},
};

use tokio::{io::ReadBuf, net::UdpSocket};

use penstock_rtp::Unfit;

use super::media::Packet;

/// Pairs that are tried before giving up.
const ATTEMPTS: usize = 32;
/// Datagrams read of one socket before others get their turn.
const BATCH: usize = 64;
/// Receive buffer, as far as the system grants it: a keyframe comes in one burst.
const RECEIVE_BUFFER: usize = 1 << 20;

/// See the module.
pub(super) struct Ports {
    rtp: UdpSocket,
    /// `None`: RTCP comes by the same port.
    rtcp: Option<UdpSocket>,
    first: u16,
    /// Who may send; `None`: everybody.
    peer: Option<IpAddr>,
}

thread_local!(
    /// Room for the longest datagram that there can be. All sources live on one thread, and what is in it does not
    /// outlive one packet.
    static ROOM: RefCell<Box<[u8]>> = RefCell::new(vec![0; 1 << 16].into());
);

impl Ports {
    /// Binds a pair on the address by which the camera is reached.
    ///
    /// # Errors
    /// No pair is free.
    pub(super) fn bind(local: IpAddr, peer: IpAddr) -> io::Result<Self> {
        let mut last = io::Error::from(io::ErrorKind::AddrInUse);
        for _ in 0..ATTEMPTS {
            let one = UdpSocket::from_std(socket(SocketAddr::new(local, 0))?)?;
            let port = one.local_addr()?.port();
            // The system gives any port; its neighbour completes the pair.
            let Ok(other) = socket(SocketAddr::new(local, port ^ 1)) else {
                last = io::Error::from(io::ErrorKind::AddrInUse);
                continue;
            };
            let other = UdpSocket::from_std(other)?;
            let (rtp, rtcp) = if port & 1 == 0 { (one, other) } else { (other, one) };
            return Ok(Self::new(rtp, Some(rtcp), port & !1, Some(peer)));
        }
        Err(last)
    }

    /// Takes sockets that are bound already. `peer`: who may send.
    pub(super) fn new(rtp: UdpSocket, rtcp: Option<UdpSocket>, first: u16, peer: Option<IpAddr>) -> Self {
        Self { rtp, rtcp, first, peer }
    }

    /// The RTP port.
    pub(super) fn first(&self) -> u16 {
        self.first
    }

    /// The server's ports are known, and `source`, if it sends from another address (RFC 2326 §12.39): something
    /// goes there, so that a firewall or NAT on the way lets the answers in.
    pub(super) fn connect(&mut self, ports: Option<(u16, u16)>, source: Option<IpAddr>) {
        // An address of none is what some write who do not know their own.
        if let Some(source) = source.filter(|source| !source.is_unspecified()) {
            self.peer = Some(source);
        }
        let (Some(peer), Some((rtp, rtcp))) = (self.peer, ports) else { return };
        // An empty RTP packet resp. receiver report; lost ones do no harm.
        let hello = [0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        if rtp != 0 {
            let _ = self.rtp.try_send_to(&hello, SocketAddr::new(peer, rtp));
        }
        if let Some(socket) = self.rtcp.as_ref().filter(|_| rtcp != 0) {
            let _ = socket.try_send_to(&[0x80, 201, 0, 1, 0, 0, 0, 0], SocketAddr::new(peer, rtcp));
        }
    }

    /// Sends a packet from the port of its kind. What the system does not take at once is lost, as on the way.
    pub(super) fn send(&self, packet: &[u8], to: SocketAddr, is_rtcp: bool) {
        let socket = self.rtcp.as_ref().filter(|_| is_rtcp).unwrap_or(&self.rtp);
        let _ = socket.try_send_to(packet, to);
    }

    /// Reads what has come. `true`: something has.
    pub(super) fn poll(
        &mut self,
        context: &mut Context<'_>,
        track: usize,
        take: &mut dyn FnMut(Packet<'_>),
    ) -> io::Result<bool> {
        ROOM.with_borrow_mut(|room| self.read(room, context, track, take))
    }

    fn read(
        &self,
        room: &mut [u8],
        context: &mut Context<'_>,
        track: usize,
        take: &mut dyn FnMut(Packet<'_>),
    ) -> io::Result<bool> {
        let mut any = false;
        for socket in [Some(&self.rtp), self.rtcp.as_ref()].into_iter().flatten() {
            for turn in 0..=BATCH {
                if turn == BATCH {
                    context.waker().wake_by_ref();
                    break;
                }
                let mut room = ReadBuf::new(room);
                let from = match socket.poll_recv_from(context, &mut room) {
                    Poll::Pending => break,
                    Poll::Ready(Ok(from)) => from,
                    // What an ICMP error says, media will say by its absence.
                    Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => continue,
                    Poll::Ready(Err(error)) => return Err(error),
                };
                if self.peer.is_some_and(|peer| from.ip().to_canonical() != peer.to_canonical()) {
                    take(Packet::Unfit(track, Unfit::WrongSender));
                    continue;
                }
                any = true;
                let packet = room.filled();
                take(if is_rtcp(packet) { Packet::Rtcp(track, packet) } else { Packet::Rtp(track, packet) });
            }
        }
        Ok(any)
    }
}

/// By its packet type (RFC 5761 §4), whichever port it comes to.
fn is_rtcp(packet: &[u8]) -> bool {
    packet.get(1).is_some_and(|kind| (192..=223).contains(kind))
}

fn socket(address: SocketAddr) -> io::Result<std::net::UdpSocket> {
    let socket = std::net::UdpSocket::bind(address)?;
    socket.set_nonblocking(true)?;
    enlarge(&socket)?;
    Ok(socket)
}

/// Makes room for bursts. Less than asked for is granted silently.
///
/// # Errors
/// The system's.
pub(super) fn enlarge(socket: &std::net::UdpSocket) -> io::Result<()> {
    socket2::SockRef::from(socket).set_recv_buffer_size(RECEIVE_BUFFER)
}
