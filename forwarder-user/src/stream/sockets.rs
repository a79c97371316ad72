//! The control task's part of the media sockets: STUN, DTLS, RTCP, and the RTP that the engine leaves to us.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::sync::mpsc;

use super::config::MediaAddress;
use penstock_engine::io::tcp::{self, Connections};
use penstock_engine::io::{Datagram, MediaSockets, Threads, reading_threads};
use penstock_engine::{Engine, Transport};
use penstock_webrtc::peer::{self, Locals, Pair};

const _: () = assert!(tcp::TCP == peer::TCP, "one number for all peers by TCP");

/// Datagrams that may wait for the control task; more are dropped and counted.
const QUEUE: usize = 4096;

/// One group of sockets per local address, and the connections of peers by TCP.
pub(super) struct Sockets {
    media: Arc<MediaSockets>,
    /// What peers are told.
    advertised: Arc<Locals>,
    inbox: mpsc::Receiver<Datagram>,
    threads: Threads,
}

impl Sockets {
    /// Binds the sockets, tells the engine, and starts to read. `connections`: those by TCP, if there may be any.
    pub(super) fn bind(
        addresses: &[MediaAddress],
        connections: Option<&Arc<Connections>>,
        buffer: usize,
        engine: &dyn Engine,
    ) -> io::Result<Self> {
        let bind: Vec<SocketAddr> = addresses.iter().map(|address| address.bind).collect();
        let media = Arc::new(MediaSockets::bind(&bind, reading_threads(), buffer)?);
        if let Some(connections) = connections {
            media.set_tcp(Arc::clone(connections));
        }
        let told = addresses.iter().zip(media.bound());
        let mut advertised = Locals::udp(told.map(|(address, bound)| Some(address.told(bound))));
        let tcp = addresses.iter().filter_map(|address| listen(&media, address));
        advertised.tcp = tcp.collect::<io::Result<_>>()?;
        let (sender, inbox) = mpsc::channel(QUEUE);
        engine.set_sockets(&media);
        let threads = Threads::start(&media, &sender, |_| engine.worker())?;
        Ok(Self { advertised: Arc::new(advertised), media, inbox, threads })
    }

    /// Where a session's media goes and comes from; `None`: that socket, or connection, is not there (any more).
    pub(super) fn transport(&self, pair: Pair) -> Option<Transport> {
        let local = self.bound(pair)?;
        Some(if pair.socket == tcp::TCP { Transport::tcp(local, pair.peer) } else { Transport::udp(local, pair.peer) })
    }

    /// Our address towards a peer, as it stands in packets that we send.
    pub(super) fn bound(&self, pair: Pair) -> Option<SocketAddr> {
        match pair.socket {
            tcp::TCP => self.media.tcp()?.local(pair.peer),
            socket => self.media.local(socket),
        }
    }

    /// The host's addresses are these now: new ones get sockets, and those that are gone are not told to anybody any
    /// more. Says which came and which went, as peers see them.
    pub(super) fn change(&mut self, addresses: &[MediaAddress]) -> (Vec<SocketAddr>, Vec<SocketAddr>) {
        let mut advertised = vec![None; self.media.count()];
        let mut tcp = vec![];
        for address in addresses {
            let number = match self.media.add(address.bind) {
                Ok(number) => number,
                Err(error) => {
                    tracing::warn!("an address of this host is not offered: {error}");
                    continue;
                }
            };
            advertised.resize(advertised.len().max(number + 1), None);
            advertised[number] = Some(address.told(address.bind));
            match listen(&self.media, address) {
                Some(Ok(told)) => tcp.push(told),
                Some(Err(error)) => tracing::warn!("an address of this host is not offered by TCP: {error}"),
                None => {}
            }
        }
        let before: Vec<SocketAddr> = self.advertised.udp.iter().flatten().copied().collect();
        let now: Vec<SocketAddr> = advertised.iter().flatten().copied().collect();
        self.advertised = Arc::new(Locals { udp: advertised.into(), tcp: tcp.into() });
        self.threads.look_again();
        let but = |some: &[SocketAddr], others: &[SocketAddr]| {
            some.iter().filter(|address| !others.contains(address)).copied().collect()
        };
        (but(&now, &before), but(&before, &now))
    }

    /// Addresses of all sockets as peers see them.
    pub(super) fn advertised(&self) -> &Arc<Locals> {
        &self.advertised
    }

    /// Peers by TCP, if any may come so.
    pub(super) fn tcp(&self) -> Option<&Connections> {
        self.media.tcp().map(Arc::as_ref)
    }

    /// The next datagram.
    pub(super) async fn receive(&mut self) -> Option<Datagram> {
        self.inbox.recv().await
    }

    /// Another one, if it is there already.
    pub(super) fn try_receive(&mut self) -> Option<Datagram> {
        self.inbox.try_recv().ok()
    }

    /// Sends a datagram. `false`: the system did not take it; what matters is repeated anyway.
    pub(super) fn send(&self, socket: usize, peer: SocketAddr, bytes: &[u8]) -> bool {
        self.media.send(socket, peer, bytes)
    }

    /// Datagrams that were dropped because the control task was too slow.
    pub(super) fn overrun(&self) -> u64 {
        self.threads.counters.control_queue_full.load(std::sync::atomic::Ordering::Relaxed)
    }
}

/// Listens for peers by TCP at an address, if they may come there and nobody else listens for us; says what they are
/// told.
fn listen(media: &MediaSockets, address: &MediaAddress) -> Option<io::Result<SocketAddr>> {
    let (port, connections) = (address.tcp?, media.tcp()?);
    let wanted = SocketAddr::new(address.bind.ip(), port.port);
    let bound = if port.shared { Ok(wanted) } else { connections.listen(wanted) };
    Some(bound.map(|bound| address.told_of_tcp(bound)))
}
