//! What changes in the kernel's network, told as it happens: links, addresses, routes, rules, neighbours.

use std::{
    collections::HashMap,
    io::{self, Read as _},
    net::IpAddr,
    os::{fd::AsFd as _, unix::net::UnixStream},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rtnetlink::{
    packet_core::{NetlinkMessage, NetlinkPayload},
    packet_route::{
        RouteNetlinkMessage as Message,
        neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState},
    },
    sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE},
};

/// rtnetlink(7): RTNLGRP_LINK, NEIGH, IPV4_IFADDR, IPV4_ROUTE, IPV4_RULE, IPV6_IFADDR, IPV6_ROUTE, IPV6_RULE.
const GROUPS: [u32; 8] = [1, 3, 5, 7, 8, 9, 11, 19];

/// What comes together is told together: a link that goes takes its addresses and routes with it. Short against the
/// 0.3 s that nobody should notice.
const GATHER: Duration = Duration::from_millis(30);

/// Between two times of telling: a router's table that flaps must not keep a processor busy.
const PAUSE: Duration = Duration::from_millis(100);

/// Room for what happens while we look at what happened: thousands of routes at once.
const BUFFER: usize = 1 << 20;

/// Neighbours that are remembered, to tell a new hardware address from a refreshed one.
const NEIGHBOURS: usize = 16 << 10;

/// What has changed since it was told last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Interfaces: gone, new, up, down, renamed.
    pub links: bool,
    /// Of this host: gone or new.
    pub addresses: bool,
    /// Routes, rules, hardware addresses of neighbours: the way to somebody may be another.
    pub ways: bool,
}

impl Changes {
    /// Something was missed: everything may have changed.
    const ALL: Self = Self { links: true, addresses: true, ways: true };

    fn any(self) -> bool {
        self != Self::default()
    }
}

/// A subscription. Its thread ends when this is dropped.
pub struct Monitor {
    bell: Option<UnixStream>,
    thread: Option<JoinHandle<()>>,
}

impl Monitor {
    /// Calls `tell` on a thread of its own, in the network namespace of the calling thread.
    ///
    /// # Errors
    /// What the system says.
    pub fn start(tell: impl FnMut(Changes) + Send + 'static) -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind(&SocketAddr::new(0, 0))?;
        GROUPS.iter().try_for_each(|group| socket.add_membership(*group))?;
        // Best effort: what does not fit is noticed (ENOBUFS), and then everything is looked at.
        let _ = socket.set_rx_buf_sz(BUFFER as u32);
        socket.set_non_blocking(true)?;
        let (bell, rung) = UnixStream::pair()?;
        let reader = Reader { socket, neighbours: HashMap::new() };
        let run = move || {
            if let Err(error) = reader.run(rung, tell) {
                tracing::error!("changes of the network are not followed any more: {error}");
            }
        };
        let thread = thread::Builder::new().name("penstock-network".into()).spawn(run)?;
        Ok(Self { bell: Some(bell), thread: Some(thread) })
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        drop(self.bell.take());
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the thread that follows the network had panicked");
        }
    }
}

struct Reader {
    socket: Socket,
    /// Hardware addresses of neighbours that can be used, by interface and address.
    neighbours: HashMap<(u32, IpAddr), Vec<u8>>,
}

impl Reader {
    /// Until the bell's other end is closed.
    fn run(mut self, mut bell: UnixStream, mut tell: impl FnMut(Changes)) -> io::Result<()> {
        let (mut changes, mut due) = (Changes::default(), None::<Instant>);
        let mut next = Instant::now();
        loop {
            let wait = due.map(|due| due.saturating_duration_since(Instant::now()));
            let timeout = wait.map_or(PollTimeout::NONE, |wait| {
                PollTimeout::try_from(wait + Duration::from_millis(1)).unwrap_or(PollTimeout::ZERO)
            });
            if ready(&self.socket, &bell, timeout)? && bell.read(&mut [0])? == 0 {
                return Ok(());
            }
            self.read(&mut changes);
            if changes.any() && due.is_none() {
                due = Some(next.max(Instant::now() + GATHER));
            }
            if due.is_some_and(|due| Instant::now() >= due) {
                tell(std::mem::take(&mut changes));
                (due, next) = (None, Instant::now() + PAUSE);
            }
        }
    }

    /// All that has come.
    fn read(&mut self, changes: &mut Changes) {
        loop {
            match self.socket.recv_from_full() {
                Ok((datagram, _)) => self.datagram(&datagram, changes),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                // ENOBUFS: some were lost.
                Err(_) => {
                    self.neighbours.clear();
                    *changes = Changes::ALL;
                }
            }
        }
    }

    fn datagram(&mut self, datagram: &[u8], changes: &mut Changes) {
        let mut rest = datagram;
        while rest.len() >= 16 {
            let Ok(message) = NetlinkMessage::<Message>::deserialize(rest) else {
                // Of a kind that this library does not know.
                *changes = Changes::ALL;
                return;
            };
            let length = (message.header.length as usize).max(16).next_multiple_of(4);
            rest = rest.get(length..).unwrap_or_default();
            let NetlinkPayload::InnerMessage(message) = message.payload else { continue };
            match message {
                Message::NewLink(_) | Message::DelLink(_) => (changes.links, changes.ways) = (true, true),
                Message::NewAddress(_) | Message::DelAddress(_) => (changes.addresses, changes.ways) = (true, true),
                Message::NewNeighbour(neighbour) => changes.ways |= self.neighbour(&neighbour, true),
                Message::DelNeighbour(neighbour) => changes.ways |= self.neighbour(&neighbour, false),
                Message::NewRoute(_) | Message::DelRoute(_) | Message::NewRule(_) | Message::DelRule(_) => {
                    changes.ways = true;
                }
                _ => {}
            }
        }
    }

    /// Is a neighbour another one than before? The kernel tells of each that it merely asks again, every few seconds.
    fn neighbour(&mut self, message: &NeighbourMessage, there: bool) -> bool {
        let (mut address, mut mac) = (None, None);
        for attribute in &message.attributes {
            match attribute {
                NeighbourAttribute::Destination(NeighbourAddress::Inet(ip)) => address = Some(IpAddr::from(*ip)),
                NeighbourAttribute::Destination(NeighbourAddress::Inet6(ip)) => address = Some(IpAddr::from(*ip)),
                NeighbourAttribute::LinkLayerAddress(bytes) => mac = Some(bytes.clone()),
                _ => {}
            }
        }
        let usable = there && !matches!(message.header.state, NeighbourState::Incomplete | NeighbourState::Failed);
        let Some(address) = address else { return false };
        let key = (message.header.ifindex, address);
        match mac.filter(|_| usable) {
            Some(mac) => {
                if self.neighbours.len() >= NEIGHBOURS {
                    self.neighbours.clear();
                }
                self.neighbours.insert(key, mac.clone()).as_ref() != Some(&mac)
            }
            None => self.neighbours.remove(&key).is_some(),
        }
    }
}

/// Waits; says whether the bell was rung.
fn ready(socket: &Socket, bell: &UnixStream, timeout: PollTimeout) -> io::Result<bool> {
    let mut files = [PollFd::new(socket.as_fd(), PollFlags::POLLIN), PollFd::new(bell.as_fd(), PollFlags::POLLIN)];
    match poll(&mut files, timeout) {
        Ok(_) => Ok(files[1].revents().is_some_and(|events| !events.is_empty())),
        Err(nix::errno::Errno::EINTR) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use rtnetlink::packet_route::neighbour::NeighbourHeader;

    use super::*;

    fn neighbour(state: NeighbourState, mac: u8) -> NeighbourMessage {
        let mut message = NeighbourMessage::default();
        message.header = NeighbourHeader { ifindex: 2, state, ..NeighbourHeader::default() };
        message.attributes.push(NeighbourAttribute::Destination(NeighbourAddress::Inet([192, 0, 2, 7].into())));
        message.attributes.push(NeighbourAttribute::LinkLayerAddress(vec![2, 0, 0, 0, 0, mac]));
        message
    }

    #[test]
    fn a_neighbour_that_is_asked_again_is_no_change() -> io::Result<()> {
        let mut reader = Reader { socket: Socket::new(NETLINK_ROUTE)?, neighbours: HashMap::new() };
        let mut tell = |state, mac| reader.neighbour(&neighbour(state, mac), true);
        assert!(tell(NeighbourState::Reachable, 1));
        assert!(!tell(NeighbourState::Stale, 1) && !tell(NeighbourState::Probe, 1));
        assert!(tell(NeighbourState::Reachable, 2), "another hardware address");
        assert!(tell(NeighbourState::Failed, 2) && !tell(NeighbourState::Failed, 2));
        assert!(tell(NeighbourState::Reachable, 2));
        assert!(reader.neighbour(&neighbour(NeighbourState::Reachable, 2), false));
        Ok(())
    }
}
