//! Listening sockets and connections: bounded in number and in time.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{Router, extract::ConnectInfo};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    task::JoinSet,
};
use tower_http::add_extension::AddExtension;

use super::patient::Patient;
use crate::{
    block::{Share, Shares},
    config::{Config, Network},
};

/// Connections that the kernel completes while we are busy.
const BACKLOG: i32 = 1024;

/// Largest request line and headers; beyond, 431.
const HEADER_BYTES: usize = 32 * 1024;

/// Time in which a connection's peer must take something of its answer.
const WRITE_PATIENCE: Duration = Duration::from_secs(10);

/// Longest life of a connection, whatever goes on by it. Nothing here takes a minute but a profile, of ten at most.
const LIFE: Duration = Duration::from_secs(900);

/// What a connection beyond its address's share is told.
const FULL: &[u8] =
    b"HTTP/1.1 503 Too many connections\r\nRetry-After: 2\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";

/// How often it is said, at most, that connections were closed.
const TELL_EVERY: Duration = Duration::from_secs(10);

/// Connections of one address that are allowed in any case.
const LEAST_SHARE: usize = 16;

/// Pause after the system ran out of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Sockets that are bound but not yet served.
pub struct Server {
    listeners: Vec<TcpListener>,
    header_timeout: Duration,
    connections: Arc<Semaphore>,
    shares: Arc<Shares>,
    trusted: Vec<Network>,
}

/// Sockets in service.
pub struct Running {
    stop: watch::Sender<bool>,
    router: watch::Sender<Router>,
    accepting: JoinSet<()>,
}

impl Server {
    /// Binds all addresses of the configuration on the current tokio runtime.
    ///
    /// # Errors
    /// The address and why it cannot be bound.
    pub fn bind(config: &Config) -> io::Result<Self> {
        let listeners = config.http.listen.iter().map(|address| {
            listen(*address, &config.http.listen)
                .map_err(|error| io::Error::new(error.kind(), format!("http.listen {address}: {error}")))
        });
        Ok(Self {
            listeners: listeners.collect::<io::Result<_>>()?,
            header_timeout: config.http.header_timeout(),
            connections: Arc::new(Semaphore::new(config.limits.http_connections)),
            shares: Shares::of(config.limits.http_connections, LEAST_SHARE),
            trusted: config.http.trusted_proxies.clone(),
        })
    }

    /// Addresses as bound: with the port that the system chose where 0 was asked for.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.listeners.iter().filter_map(|listener| listener.local_addr().ok()).collect()
    }

    /// Serves until [`Running::stop`].
    pub fn serve(self, router: Router) -> Running {
        let (stop, stopped) = watch::channel(false);
        let (router, routers) = watch::channel(router);
        let mut accepting = JoinSet::new();
        for listener in self.listeners {
            let acceptor = Acceptor {
                listener,
                router: routers.clone(),
                header_timeout: self.header_timeout,
                connections: self.connections.clone(),
                shares: self.shares.clone(),
                trusted: self.trusted.clone(),
                told: Instant::now(),
                stopped: stopped.clone(),
            };
            accepting.spawn(acceptor.run());
        }
        Running { stop, router, accepting }
    }
}

impl Running {
    /// Connections from now on are answered by another router.
    pub fn replace(&self, router: Router) {
        drop(self.router.send_replace(router));
    }

    /// Accepts nothing more, lets requests in work finish for up to `patience`, closes everything.
    pub async fn stop(mut self, patience: Duration) {
        self.stop.send_replace(true);
        let finished = async { while self.accepting.join_next().await.is_some() {} };
        // What is not done in time is aborted with the set.
        let _ = tokio::time::timeout(patience, finished).await;
    }
}

struct Acceptor {
    listener: TcpListener,
    router: watch::Receiver<Router>,
    header_timeout: Duration,
    connections: Arc<Semaphore>,
    shares: Arc<Shares>,
    /// Proxies: everybody behind one has its address.
    trusted: Vec<Network>,
    /// When it was last said that connections were refused.
    told: Instant,
    stopped: watch::Receiver<bool>,
}

impl Acceptor {
    async fn run(mut self) {
        let mut open = JoinSet::new();
        loop {
            tokio::select! {
                () = raised(&mut self.stopped) => break,
                Some(_) = open.join_next() => {}
                accepted = accept(&self.listener, &self.connections) => match accepted {
                    Ok((stream, peer, permit)) => {
                        if let Some(share) = self.share(&stream, peer) {
                            drop(open.spawn(self.connection(stream, peer, (permit, share))));
                        }
                    }
                    Err(error) => {
                        tracing::warn!(%error, "cannot accept HTTP connections");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                },
            }
        }
        drop(self.listener);
        while open.join_next().await.is_some() {}
    }

    /// A part of the connections for whoever comes. `None`: he has his share. Trusted proxies have no limit.
    fn share(&mut self, stream: &TcpStream, peer: SocketAddr) -> Option<Option<Share>> {
        if self.trusted.iter().any(|network| network.contains(peer.ip())) {
            return Some(None);
        }
        let share = self.shares.take(peer.ip().into());
        if share.is_none() {
            // A new socket takes so little at once, or else it hears nothing.
            let _ = stream.try_write(FULL);
        }
        if share.is_none() && self.told.elapsed() >= TELL_EVERY {
            self.told = Instant::now();
            let refused = self.shares.refused();
            tracing::warn!(%peer, "{refused} HTTP connections closed: their addresses have their share of `limits.http_connections`");
        }
        share.map(Some)
    }

    fn connection(
        &self,
        stream: TcpStream,
        peer: SocketAddr,
        place: (OwnedSemaphorePermit, Option<Share>),
    ) -> impl Future<Output = ()> + use<> {
        let service = TowerToHyperService::new(AddExtension::new(self.router.borrow().clone(), ConnectInfo(peer)));
        let mut stopped = self.stopped.clone();
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(self.header_timeout)
            .max_buf_size(HEADER_BYTES)
            .serve_connection(TokioIo::new(Patient::new(stream, WRITE_PATIENCE)), service);
        async move {
            let _place = place;
            let mut connection = std::pin::pin!(connection);
            let ended = async {
                tokio::select! {
                    () = raised(&mut stopped) => {}
                    () = tokio::time::sleep(LIFE) => {}
                }
            };
            let served = tokio::select! {
                served = connection.as_mut() => served,
                () = ended => {
                    connection.as_mut().graceful_shutdown();
                    // The request that is in work is the last one.
                    tokio::time::timeout(LIFE, connection).await.unwrap_or(Ok(()))
                }
            };
            if let Err(error) = served {
                tracing::debug!(%error, "HTTP connection ended");
            }
        }
    }
}

/// Waits for the flag, or for the end of whoever could raise it.
async fn raised(flag: &mut watch::Receiver<bool>) {
    let _ = flag.wait_for(|raised| *raised).await;
}

async fn accept(
    listener: &TcpListener,
    connections: &Arc<Semaphore>,
) -> io::Result<(TcpStream, SocketAddr, OwnedSemaphorePermit)> {
    let permit = connections.clone().acquire_owned().await.map_err(io::Error::other)?;
    let (stream, peer) = listener.accept().await?;
    // An IPv4 client of a socket for both is an IPv4 client.
    Ok((stream, SocketAddr::new(peer.ip().to_canonical(), peer.port()), permit))
}

/// Listens at one of the addresses of `all`. `[::]` takes IPv4 too, unless another one of them does at this port; where
/// the kernel has no IPv6, it takes IPv4 alone.
fn listen(address: SocketAddr, all: &[SocketAddr]) -> io::Result<TcpListener> {
    let alone = all.iter().all(|other| other.is_ipv6() || other.port() != address.port());
    let any = address.ip() == Ipv6Addr::UNSPECIFIED && alone;
    match bind(address, !any) {
        Err(error) if any && error.raw_os_error() == Some(libc::EAFNOSUPPORT) => {
            bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, address.port())), true)
        }
        other => other,
    }
}

fn bind(address: SocketAddr, only_v6: bool) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        // `0.0.0.0:8080` and `[::]:8080` may stand side by side.
        socket.set_only_v6(only_v6)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_wildcard_of_ipv6_takes_ipv4_too_unless_told_otherwise() {
        let any: SocketAddr = "[::]:0".parse().unwrap();
        let port = |listener: &TcpListener| listener.local_addr().unwrap().port();
        let both = listen(any, &[any]).unwrap();
        assert!(TcpStream::connect(("127.0.0.1", port(&both))).await.is_ok());
        // Side by side, each has its own.
        let alone = listen(any, &[any, "0.0.0.0:0".parse().unwrap()]).unwrap();
        if alone.local_addr().unwrap().is_ipv6() {
            assert!(TcpStream::connect(("127.0.0.1", port(&alone))).await.is_err());
        }
    }
}
