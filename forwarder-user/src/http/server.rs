//! Listening sockets and connections: bounded in number and in time.

mod health;

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    pin::{Pin, pin},
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{Router, extract::ConnectInfo};
use hyper::server::conn::{http1, http2};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use rustls::{ServerConfig, server::ResolvesServerCert};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    task::JoinSet,
    time::timeout,
};
use tokio_rustls::TlsAcceptor;
use tower_http::add_extension::AddExtension;

use self::health::Health;
use super::{patient::Patient, proxied};
use penstock_engine::{
    block::{Share, Shares},
    io::tcp::Connections,
};

use crate::{
    config::{AcmeChallenge, Config, Network},
    tls,
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

/// Requests at a time on one connection by HTTP/2; so many may a page ask for, and no more work is there for one.
const STREAMS: u32 = 64;
/// How often a connection by HTTP/2 is asked whether its peer is still there.
const PING: Duration = Duration::from_secs(30);

/// How a request came, as an extension of it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Link {
    /// By TLS.
    pub(super) encrypted: bool,
    /// From this host, as far as the connection tells.
    pub(super) local: bool,
}

/// Pause after the system ran out of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Sockets that are bound but not yet served.
pub struct Server {
    /// Those with a configuration speak TLS.
    listeners: Vec<(TcpListener, Option<Arc<ServerConfig>>)>,
    /// For `/healthz` and nothing else, with connections of their own.
    health: Vec<TcpListener>,
    proxy_protocol: bool,
    header_timeout: Duration,
    connections: Arc<Semaphore>,
    shares: Arc<Shares>,
    trusted: Vec<Network>,
    /// Media by TCP, and at which port it comes to our listeners.
    media: Option<(Arc<Connections>, u16)>,
}

/// What answers.
pub struct Routers {
    /// Everything.
    pub all: Router,
    /// `/healthz` alone.
    pub health: Router,
}

/// Sockets in service.
pub struct Running {
    stop: watch::Sender<bool>,
    router: watch::Sender<Router>,
    health: watch::Sender<Router>,
    accepting: JoinSet<()>,
}

impl Server {
    /// Binds all addresses of the configuration on the current tokio runtime. `media`: who takes over connections that
    /// are media.
    ///
    /// # Errors
    /// The address and why it cannot be bound; the file and why it cannot be used.
    pub fn bind(
        config: &Config,
        identity: Option<Arc<dyn ResolvesServerCert>>,
        media: Option<Arc<Connections>>,
    ) -> io::Result<Self> {
        let open = |key: &'static str, addresses: &[SocketAddr], tls: Option<Arc<ServerConfig>>| {
            let open = |address: &SocketAddr| {
                let listener = listen(*address, addresses)
                    .map_err(|error| io::Error::new(error.kind(), format!("{key} {address}: {error}")))?;
                Ok((listener, tls.clone()))
            };
            addresses.iter().map(open).collect::<io::Result<Vec<_>>>()
        };
        let all: [&[u8]; 3] = [b"h2", b"http/1.1", tls::ACME_PROTOCOL];
        let by_tls = config.acme.is_on() && config.acme.challenge == AcmeChallenge::TlsAlpn01;
        let protocols = if by_tls { &all[..] } else { &all[..2] };
        let tls = identity.map(|identity| tls::config(identity, protocols)).transpose()?;
        let mut listeners = open("http.listen", &config.http.listen, None)?;
        if tls.is_some() {
            listeners.extend(open("http.listen_tls", &config.http.listen_tls, tls)?);
        }
        Ok(Self {
            listeners,
            health: open("http.health_listen", &config.http.health_listen, None)?
                .into_iter()
                .map(|(listener, _)| listener)
                .collect(),
            proxy_protocol: config.http.proxy_protocol,
            header_timeout: config.http.header_timeout(),
            connections: Arc::new(Semaphore::new(config.limits.http_connections)),
            shares: Shares::of(config.limits.http_connections, LEAST_SHARE),
            trusted: config.http.trusted_proxies.clone(),
            media: media.map(|media| (media, config.media.tcp_port)),
        })
    }

    /// Addresses as bound, with the port that the system chose where 0 was asked for, and whether by TLS.
    pub fn addresses(&self) -> Vec<(SocketAddr, bool)> {
        let bound = self.listeners.iter();
        bound.filter_map(|(listener, tls)| Some((listener.local_addr().ok()?, tls.is_some()))).collect()
    }

    /// Serves until [`Running::stop`].
    pub fn serve(self, routers: Routers) -> Running {
        let (stop, stopped) = watch::channel(false);
        let (router, all) = watch::channel(routers.all);
        let (health, only_health) = watch::channel(routers.health);
        let mut accepting = JoinSet::new();
        let of_health = Health { router: only_health, header_timeout: self.header_timeout, stopped: stopped.clone() };
        if let Err(error) = of_health.serve(self.health) {
            tracing::error!("http.health_listen is not served: {error}");
        }
        for (listener, tls) in self.listeners {
            let port = listener.local_addr().map_or(0, |bound| bound.port());
            let media = self.media.as_ref().filter(|(_, shared)| *shared == port);
            let acceptor = Acceptor {
                media: media.map(|(media, _)| Arc::clone(media)),
                listener,
                tls: tls.map(TlsAcceptor::from),
                proxy_protocol: self.proxy_protocol,
                router: all.clone(),
                header_timeout: self.header_timeout,
                connections: self.connections.clone(),
                shares: self.shares.clone(),
                trusted: self.trusted.clone(),
                told: Instant::now(),
                stopped: stopped.clone(),
            };
            accepting.spawn(acceptor.run());
        }
        Running { stop, router, health, accepting }
    }
}

impl Running {
    /// Connections from now on are answered by other routers.
    pub fn replace(&self, routers: Routers) {
        drop(self.router.send_replace(routers.all));
        drop(self.health.send_replace(routers.health));
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
    tls: Option<TlsAcceptor>,
    proxy_protocol: bool,
    router: watch::Receiver<Router>,
    header_timeout: Duration,
    connections: Arc<Semaphore>,
    shares: Arc<Shares>,
    /// Proxies: everybody behind one has its address.
    trusted: Vec<Network>,
    /// Who shares the port, if anybody does.
    media: Option<Arc<Connections>>,
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
        if self.is_trusted(peer) {
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
        let (router, stopped) = (self.router.borrow().clone(), self.stopped.clone());
        let (tls, patience) = (self.tls.clone(), self.header_timeout);
        let media = self.media.clone();
        // What a stranger would say is not asked for.
        let proxied = (self.proxy_protocol && self.is_trusted(peer)).then(|| self.shares.clone());
        let same = stream.local_addr().is_ok_and(|local| local.ip().to_canonical() == peer.ip());
        let local = same || peer.ip().is_loopback();
        async move {
            let _place = place;
            let mut stream = stream;
            if let Some(media) = media.filter(|_| proxied.is_none()) {
                match is_media(&stream, patience).await {
                    Some(false) => {}
                    Some(true) => return hand_over(stream, peer, &media),
                    None => return,
                }
            }
            let mut from = (peer, None);
            if let Some(shares) = proxied {
                match told(&mut stream, peer, &shares, patience).await {
                    Ok(told) => from = told,
                    Err(error) => return tracing::debug!(%peer, "HTTP connection refused: {error}"),
                }
            }
            let link = Link { encrypted: tls.is_some(), local: local && from.0 == peer };
            let service = AddExtension::new(AddExtension::new(router, ConnectInfo(from.0)), link);
            let stream = Patient::new(stream, WRITE_PATIENCE);
            let Some(tls) = tls else { return by_http1(stream, service, patience, stopped).await };
            match timeout(patience, tls.accept(stream)).await {
                Ok(Ok(stream)) if stream.get_ref().1.alpn_protocol() == Some(b"h2") => {
                    by_http2(stream, service, stopped).await;
                }
                // The handshake was all that the authority wanted to see (RFC 8737 §3).
                Ok(Ok(mut stream)) if stream.get_ref().1.alpn_protocol() == Some(tls::ACME_PROTOCOL) => {
                    let _ = timeout(patience, stream.shutdown()).await;
                }
                Ok(Ok(stream)) => by_http1(stream, service, patience, stopped).await,
                Ok(Err(error)) => tracing::debug!(%peer, "no TLS: {error}"),
                Err(_) => tracing::debug!(%peer, "no TLS in time"),
            }
        }
    }

    fn is_trusted(&self, peer: SocketAddr) -> bool {
        self.trusted.iter().any(|network| network.contains(peer.ip()))
    }
}

/// Does a connection begin as a frame of media does: with the length of a short packet (RFC 4571)? HTTP begins with a
/// letter, TLS with 22. `None`: nothing came in time.
async fn is_media(stream: &TcpStream, patience: Duration) -> Option<bool> {
    let mut first = [0];
    match timeout(patience, stream.peek(&mut first)).await.ok()? {
        Ok(1) => Some(first[0] <= 1),
        _ => Some(false),
    }
}

fn hand_over(stream: TcpStream, peer: SocketAddr, media: &Connections) {
    // Refused, it has just broken.
    if let Ok(stream) = stream.into_std() {
        media.adopt(stream, peer);
    }
}

/// Whom a trusted proxy connects, and his share of the connections.
async fn told(
    stream: &mut TcpStream,
    peer: SocketAddr,
    shares: &Arc<Shares>,
    patience: Duration,
) -> io::Result<(SocketAddr, Option<Share>)> {
    let header = timeout(patience, proxied::read(stream)).await;
    match header.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?? {
        None => Ok((peer, None)),
        Some(client) => match shares.take(client.ip().into()) {
            Some(share) => Ok((client, Some(share))),
            None => Err(io::Error::other(format!("{client} has its share of `limits.http_connections`"))),
        },
    }
}

type Service = AddExtension<AddExtension<Router, ConnectInfo<SocketAddr>>, Link>;

async fn by_http1<S>(stream: S, service: Service, header_timeout: Duration, stopped: watch::Receiver<bool>)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(header_timeout)
        .max_buf_size(HEADER_BYTES)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(service));
    drive(connection, |connection| connection.graceful_shutdown(), stopped).await;
}

async fn by_http2<S>(stream: S, service: Service, stopped: watch::Receiver<bool>)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let connection = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS)
        .max_header_list_size(HEADER_BYTES as u32)
        .keep_alive_interval(PING)
        .keep_alive_timeout(WRITE_PATIENCE)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(service));
    drive(connection, |connection| connection.graceful_shutdown(), stopped).await;
}

/// Serves a connection to its end, to the end of its life, or of the server's.
async fn drive<C>(connection: C, shut_down: fn(Pin<&mut C>), mut stopped: watch::Receiver<bool>)
where
    C: Future<Output = hyper::Result<()>>,
{
    let mut connection = pin!(connection);
    let ended = async {
        tokio::select! {
            () = raised(&mut stopped) => {}
            () = tokio::time::sleep(LIFE) => {}
        }
    };
    let served = tokio::select! {
        served = connection.as_mut() => served,
        () = ended => {
            shut_down(connection.as_mut());
            // The request that is in work is the last one.
            timeout(LIFE, connection).await.unwrap_or(Ok(()))
        }
    };
    if let Err(error) = served {
        tracing::debug!(%error, "HTTP connection ended");
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
