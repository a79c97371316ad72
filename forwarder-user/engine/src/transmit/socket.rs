//! Sends by system calls: consecutive packets to one peer as one segmented datagram (UDP GSO), what is
//! left as batches (sendmmsg).

use std::{io::IoSlice, net::SocketAddr, os::fd::AsRawFd as _, sync::Arc};

use nix::errno::Errno;
use nix::sys::socket::{ControlMessage, MsgFlags, MultiHeaders, SockaddrStorage, sendmmsg, sendmsg};
use quinn_udp::{Transmit, UdpSockRef, UdpSocketState};

use super::{Destination, Sent, Transmitter};
use crate::io::{self, MediaSockets};

/// Messages that are collected, and that one system call sends.
const MESSAGES: usize = 256;
/// Bytes that are collected before they are sent in any case: so many packets of the usual length.
const BUFFER: usize = MESSAGES * 1152;
/// Largest UDP payload, and with it the largest run of segments.
const MAX_DATAGRAM: usize = 65_000;

/// Packets of one size to one peer; the last may be shorter.
#[derive(Clone, Copy, Debug)]
struct Message {
    socket: usize,
    peer: SocketAddr,
    start: usize,
    len: usize,
    segment: usize,
    /// The DS field of all of them.
    ds: u8,
}

impl Message {
    fn segments(&self) -> usize {
        self.len.div_ceil(self.segment)
    }
}

/// See the module.
pub struct SocketTransmitter {
    sockets: Arc<MediaSockets>,
    states: Vec<Option<UdpSocketState>>,
    thread: usize,
    gso: bool,
    buffer: Vec<u8>,
    used: usize,
    messages: Vec<Message>,
    headers: MultiHeaders<SockaddrStorage>,
    /// With room for a mark.
    marked: MultiHeaders<SockaddrStorage>,
    sent: Sent,
}

// SAFETY: the headers point into memory that belongs to them, and are used by one thread at a time.
unsafe impl Send for SocketTransmitter {}

impl SocketTransmitter {
    /// Sends from the sockets of `thread`. Without `gso`, each packet is a datagram of its own from the
    /// start.
    pub fn new(sockets: Arc<MediaSockets>, thread: usize, gso: bool) -> Self {
        Self {
            states: Vec::new(),
            sockets,
            thread,
            gso,
            buffer: vec![0; BUFFER],
            used: 0,
            messages: Vec::with_capacity(MESSAGES),
            headers: MultiHeaders::preallocate(MESSAGES, None),
            marked: MultiHeaders::preallocate(MESSAGES, Some(nix::cmsg_space!(i32))),
            sent: Sent::default(),
        }
    }

    /// What the sockets up to this one can do: asked before their first packet.
    fn know(&mut self, socket: usize) {
        while self.states.len() <= socket {
            let one = self.sockets.get(self.states.len(), self.thread);
            let Some(one) = one else { return };
            self.states.push(io::state(one).ok());
        }
    }

    /// The message that another packet of `len` bytes may join.
    fn joins(&self, to: &Destination, len: usize) -> bool {
        let max = |socket: usize| self.states.get(socket)?.as_ref().map(UdpSocketState::max_gso_segments);
        let Some(last) = self.messages.last().filter(|_| self.gso) else { return false };
        last.socket == to.socket
            && last.peer == to.transport.peer
            && last.ds == to.dscp.field()
            && len <= last.segment
            && last.len.is_multiple_of(last.segment)
            && last.len + len <= MAX_DATAGRAM
            && last.segments() < max(to.socket).unwrap_or(1)
    }

    /// Sends a run of segments. `false`: it goes packet by packet.
    fn send_segments(&mut self, message: &Message) -> bool {
        let (Some(Some(state)), Some(socket)) =
            (self.states.get(message.socket), self.sockets.get(message.socket, self.thread))
        else {
            return false;
        };
        let contents = &self.buffer[message.start..message.start + message.len];
        if message.ds != 0 {
            self.sent.calls += 1;
            return match send_marked(socket, contents, message) {
                Ok(()) => {
                    self.sent.packets += message.segments() as u64;
                    true
                }
                Err(Errno::EAGAIN) => {
                    self.sent.dropped += message.segments() as u64;
                    true
                }
                Err(_) => false,
            };
        }
        let transmit = Transmit {
            destination: message.peer,
            ecn: None,
            contents,
            segment_size: Some(message.segment),
            src_ip: None,
        };
        self.sent.calls += 1;
        match state.try_send(UdpSockRef::from(socket), &transmit) {
            Ok(()) => self.sent.packets += message.segments() as u64,
            // A full queue is full for single packets too.
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                self.sent.dropped += message.segments() as u64;
            }
            // The device takes no segments, which quinn-udp remembers; or the path to this peer takes none of this length,
            // and single packets may be divided on their way.
            Err(_) => return false,
        }
        true
    }

    /// Sends single packets of one socket.
    fn send_singles(&mut self, packets: &[Message]) {
        let Some(socket) = packets.first().and_then(|first| self.sockets.get(first.socket, self.thread)) else {
            self.sent.dropped += packets.len() as u64;
            return;
        };
        let mut rest = packets;
        while !rest.is_empty() {
            let now = &rest[..rest.len().min(MESSAGES)];
            let slices: Vec<[IoSlice<'_>; 1]> = now
                .iter()
                .map(|message| [IoSlice::new(&self.buffer[message.start..message.start + message.len])])
                .collect();
            let peers: Vec<Option<SockaddrStorage>> = now.iter().map(|message| Some(message.peer.into())).collect();
            self.sent.calls += 1;
            let flags = MsgFlags::MSG_DONTWAIT;
            let marks = marks(packets.first());
            let headers = if marks.is_empty() { &mut self.headers } else { &mut self.marked };
            let done = match sendmmsg(socket.as_raw_fd(), headers, &slices, &peers, &marks, flags) {
                Ok(results) => results.count(),
                Err(nix::errno::Errno::EINTR) => 0,
                // The first packet was refused: it is lost, and the next ones get their chance. With a
                // full queue that would be one call for each.
                Err(error) => {
                    let lost = if error == nix::errno::Errno::EAGAIN { now.len() } else { 1 };
                    match error {
                        nix::errno::Errno::EMSGSIZE => self.sent.too_big += lost as u64,
                        _ => self.sent.dropped += lost as u64,
                    }
                    rest = &rest[lost..];
                    continue;
                }
            };
            self.sent.packets += done as u64;
            rest = &rest[done..];
        }
    }
}

/// How a packet's DS field is said to the system; not at all, if it is 0. What it refers to lives as long as the program.
fn marks(message: Option<&Message>) -> Vec<ControlMessage<'static>> {
    let Some(Message { ds, peer, .. }) = message.filter(|message| message.ds != 0) else { return vec![] };
    let place = usize::from(*ds);
    vec![match peer.ip().to_canonical().is_ipv4() {
        true => ControlMessage::Ipv4Tos(&FIELDS.0[place]),
        false => ControlMessage::Ipv6TClass(&FIELDS.1[place]),
    }]
}

/// All DS fields, as IPv4 and IPv6 take them.
static FIELDS: ([u8; 256], [i32; 256]) = {
    let (mut narrow, mut wide, mut value) = ([0; 256], [0; 256], 0);
    while value < 256 {
        (narrow[value], wide[value]) = (value as u8, value as i32);
        value += 1;
    }
    (narrow, wide)
};

/// A run of segments with a DS field.
fn send_marked(socket: &std::net::UdpSocket, contents: &[u8], message: &Message) -> Result<(), Errno> {
    let segment = message.segment as u16;
    let mut control = marks(Some(message));
    control.push(ControlMessage::UdpGsoSegments(&segment));
    let peer = SockaddrStorage::from(message.peer);
    let slices = [IoSlice::new(contents)];
    sendmsg(socket.as_raw_fd(), &slices, &control, MsgFlags::MSG_DONTWAIT, Some(&peer)).map(drop)
}

impl Transmitter for SocketTransmitter {
    fn name(&self) -> &'static str {
        "socket"
    }

    fn reaches(&self, _: &Destination) -> bool {
        true
    }

    fn reserve(&mut self, to: &Destination, len: usize) -> Option<&mut [u8]> {
        if len == 0 || len > BUFFER {
            self.sent.dropped += 1;
            return None;
        }
        if self.used + len > BUFFER || self.messages.len() == MESSAGES {
            self.flush();
        }
        let start = self.used;
        if self.joins(to, len)
            && let Some(last) = self.messages.last_mut()
        {
            last.len += len;
        } else {
            self.know(to.socket);
            let (peer, ds) = (to.transport.peer, to.dscp.field());
            self.messages.push(Message { socket: to.socket, peer, start, len, segment: len, ds });
        }
        self.used += len;
        self.buffer.get_mut(start..start + len)
    }

    fn cancel(&mut self) {
        let Some(last) = self.messages.last_mut() else { return };
        let rest = match last.len % last.segment {
            0 => last.segment,
            short => short,
        };
        last.len -= rest;
        self.used -= rest;
        if last.len == 0 {
            self.messages.pop();
        }
        self.sent.dropped += 1;
    }

    fn flush(&mut self) {
        let messages = std::mem::take(&mut self.messages);
        let mut singles: Vec<Message> = Vec::with_capacity(messages.len());
        for message in &messages {
            let changes = singles.last().is_some_and(|last| (last.socket, last.ds) != (message.socket, message.ds));
            if changes || message.segments() > 1 {
                self.send_singles(&singles);
                singles.clear();
            }
            if message.segments() > 1 && self.send_segments(message) {
                continue;
            }
            let end = message.start + message.len;
            singles.extend((message.start..end).step_by(message.segment).map(|start| {
                let len = message.segment.min(end - start);
                Message { start, len, segment: len, ..*message }
            }));
        }
        self.send_singles(&singles);
        self.messages = messages;
        self.messages.clear();
        self.used = 0;
    }

    fn sent(&self) -> Sent {
        self.sent
    }
}

#[cfg(test)]
mod tests {
    use std::{net::UdpSocket, time::Duration};

    use super::*;
    use crate::{Dscp, Transport};

    fn sizes(gso: bool, packets: &[(usize, usize)]) -> (Vec<Vec<usize>>, Sent) {
        let sockets = Arc::new(MediaSockets::bind(&["127.0.0.1:0".parse().unwrap()], 1, 1 << 20).unwrap());
        let peers: Vec<UdpSocket> = (0..3).map(|_| UdpSocket::bind("127.0.0.1:0").unwrap()).collect();
        let mut transmitter = SocketTransmitter::new(Arc::clone(&sockets), 0, gso);
        for (number, (peer, len)) in packets.iter().enumerate() {
            let transport = Transport::udp(sockets.bound()[0], peers[*peer].local_addr().unwrap());
            let to = Destination { socket: 0, transport, path: None, dscp: Dscp::default() };
            transmitter.reserve(&to, *len).unwrap().fill(number as u8);
        }
        transmitter.flush();
        let mut buffer = [0; 2048];
        let received = |(peer, socket): (usize, &UdpSocket)| {
            socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
            let wanted = packets.iter().enumerate().filter(|(_, (to, _))| *to == peer);
            let sizes = wanted.map(|(number, _)| {
                let len = socket.recv(&mut buffer).unwrap();
                assert!(buffer[..len].iter().all(|byte| *byte == number as u8), "order, or content");
                len
            });
            sizes.collect()
        };
        (peers.iter().enumerate().map(received).collect(), transmitter.sent())
    }

    #[test]
    fn packets_arrive_as_they_were_in_order() {
        let packets = [(0, 1000), (0, 1000), (0, 400), (0, 1000), (1, 700), (1, 900), (2, 50), (0, 1000), (0, 1000)];
        let wanted = vec![vec![1000, 1000, 400, 1000, 1000, 1000], vec![700, 900], vec![50]];
        for gso in [false, true] {
            let (sizes, sent) = sizes(gso, &packets);
            assert_eq!(sizes, wanted, "gso {gso}");
            assert_eq!((sent.packets, sent.dropped), (9, 0));
            assert_eq!(sent.calls, if gso { 3 } else { 1 }, "gso {gso}");
        }
    }

    #[test]
    fn packets_have_the_mark_of_what_is_in_them() {
        use std::os::fd::AsRawFd as _;

        use nix::sys::socket::{ControlMessageOwned, recvmsg, setsockopt, sockopt};

        for local in ["127.0.0.1:0", "[::1]:0"] {
            let sockets = Arc::new(MediaSockets::bind(&[local.parse().unwrap()], 1, 1 << 20).unwrap());
            let peer = UdpSocket::bind(local).unwrap();
            peer.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            match peer.local_addr().unwrap().is_ipv4() {
                true => setsockopt(&peer, sockopt::IpRecvTos, &true).unwrap(),
                false => setsockopt(&peer, sockopt::Ipv6RecvTClass, &true).unwrap(),
            }
            let transport = Transport::udp(sockets.bound()[0], peer.local_addr().unwrap());
            for gso in [false, true] {
                let mut transmitter = SocketTransmitter::new(Arc::clone(&sockets), 0, gso);
                let sent = [(0, 900), (34, 900), (34, 900), (34, 100), (46, 80), (0, 700), (0, 700)];
                for (dscp, len) in sent {
                    let to = Destination { socket: 0, transport, path: None, dscp: Dscp::new(dscp).unwrap() };
                    transmitter.reserve(&to, len).unwrap().fill(1);
                }
                transmitter.flush();
                for (number, (dscp, len)) in sent.into_iter().enumerate() {
                    let mut room = [0; 2048];
                    let mut slices = [std::io::IoSliceMut::new(&mut room)];
                    let mut control = nix::cmsg_space!(i32, i32);
                    let message =
                        recvmsg::<()>(peer.as_raw_fd(), &mut slices, Some(&mut control), MsgFlags::empty()).unwrap();
                    let field = message.cmsgs().unwrap().find_map(|control| match control {
                        ControlMessageOwned::Ipv4Tos(field) => Some(field),
                        ControlMessageOwned::Ipv6TClass(field) => Some(field as u8),
                        _ => None,
                    });
                    assert_eq!((message.bytes, field), (len, Some(dscp << 2)), "{local}, gso {gso}, packet {number}");
                }
                assert_eq!((transmitter.sent().packets, transmitter.sent().dropped), (7, 0));
            }
        }
    }

    #[test]
    fn cancelled_packets_leave_no_trace() {
        let sockets = Arc::new(MediaSockets::bind(&["127.0.0.1:0".parse().unwrap()], 1, 1 << 20).unwrap());
        let peer = UdpSocket::bind("127.0.0.1:0").unwrap();
        peer.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        let transport = Transport::udp(sockets.bound()[0], peer.local_addr().unwrap());
        let to = Destination { socket: 0, transport, path: None, dscp: Dscp::default() };
        let mut transmitter = SocketTransmitter::new(sockets, 0, true);
        for (len, keep) in [(100, false), (200, true), (200, false), (80, false), (200, true), (80, true)] {
            transmitter.reserve(&to, len).unwrap().fill(7);
            if !keep {
                transmitter.cancel();
            }
        }
        transmitter.flush();
        let mut buffer = [0; 2048];
        let sizes: Vec<usize> = std::iter::from_fn(|| peer.recv(&mut buffer).ok()).collect();
        assert_eq!(sizes, [200, 200, 80]);
        assert_eq!(transmitter.sent().dropped, 3);
    }
}
