//! The control task's part of the media sockets: STUN, DTLS, RTCP, and the RTP that the engine leaves to us.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::sync::mpsc;

use super::config::MediaAddress;
use penstock_engine::Engine;
use penstock_engine::io::{Datagram, MediaSockets, Threads, reading_threads};

/// Datagrams that may wait for the control task; more are dropped and counted.
const QUEUE: usize = 4096;

/// One group of sockets per local address.
pub(super) struct Sockets {
    media: Arc<MediaSockets>,
    /// What peers are told, by number of the socket. `None`: the host has lost that address.
    advertised: Arc<[Option<SocketAddr>]>,
    inbox: mpsc::Receiver<Datagram>,
    threads: Threads,
}

impl Sockets {
    /// Binds the sockets, tells the engine, and starts to read.
    pub(super) fn bind(addresses: &[MediaAddress], buffer: usize, engine: &dyn Engine) -> io::Result<Self> {
        let bind: Vec<SocketAddr> = addresses.iter().map(|address| address.bind).collect();
        let media = Arc::new(MediaSockets::bind(&bind, reading_threads(), buffer)?);
        let told = addresses.iter().zip(media.bound());
        let advertised = told.map(|(address, bound)| Some(address.told(bound)));
        let (sender, inbox) = mpsc::channel(QUEUE);
        engine.set_sockets(&media);
        let threads = Threads::start(&media, &sender, |_| engine.worker())?;
        Ok(Self { advertised: advertised.collect(), media, inbox, threads })
    }

    /// Local address of a socket, as it stands in packets that we send.
    pub(super) fn bound(&self, socket: usize) -> Option<SocketAddr> {
        self.media.local(socket)
    }

    /// The host's addresses are these now: new ones get sockets, and those that are gone are not told to anybody any
    /// more. Says which came and which went, as peers see them.
    pub(super) fn change(&mut self, addresses: &[MediaAddress]) -> (Vec<SocketAddr>, Vec<SocketAddr>) {
        let mut advertised = vec![None; self.media.count()];
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
        }
        let before: Vec<SocketAddr> = self.advertised.iter().flatten().copied().collect();
        let now: Vec<SocketAddr> = advertised.iter().flatten().copied().collect();
        self.advertised = advertised.into();
        self.threads.look_again();
        let but = |some: &[SocketAddr], others: &[SocketAddr]| {
            some.iter().filter(|address| !others.contains(address)).copied().collect()
        };
        (but(&now, &before), but(&before, &now))
    }

    /// Addresses of all sockets as peers see them.
    pub(super) fn advertised(&self) -> &Arc<[Option<SocketAddr>]> {
        &self.advertised
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
