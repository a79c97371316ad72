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
    /// What peers are told.
    advertised: Arc<[SocketAddr]>,
    inbox: mpsc::Receiver<Datagram>,
    threads: Threads,
}

impl Sockets {
    /// Binds the sockets, tells the engine, and starts to read.
    pub(super) fn bind(addresses: &[MediaAddress], buffer: usize, engine: &dyn Engine) -> io::Result<Self> {
        let bind: Vec<SocketAddr> = addresses.iter().map(|address| address.bind).collect();
        let media = Arc::new(MediaSockets::bind(&bind, reading_threads(), buffer)?);
        let told = addresses.iter().zip(media.bound());
        let advertised =
            told.map(|(address, bound)| SocketAddr::new(address.advertise.unwrap_or(bound.ip()), bound.port()));
        let (sender, inbox) = mpsc::channel(QUEUE);
        engine.set_sockets(&media);
        let threads = Threads::start(&media, &sender, |_| engine.worker())?;
        Ok(Self { advertised: advertised.collect(), media, inbox, threads })
    }

    /// Local address of a socket, as it stands in packets that we send.
    pub(super) fn bound(&self, socket: usize) -> Option<SocketAddr> {
        self.media.bound().get(socket).copied()
    }

    /// Addresses of all sockets as peers see them.
    pub(super) fn advertised(&self) -> &Arc<[SocketAddr]> {
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
