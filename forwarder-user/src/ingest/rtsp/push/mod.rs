//! The RTSP server for cameras and encoders that publish here (RFC 2326, ANNOUNCE and RECORD). Who wants to play goes on
//! in `play`.
//!
//! `conversation` is one connection, `auth` its password, `name` what its URLs mean.
//! Here: the listening, and which streams are being published.

mod auth;
mod conversation;
mod name;

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    io,
    net::{SocketAddr, TcpListener as StdListener},
    rc::Rc,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use penstock_rtp::rtsp::message::Message;
use rustls::server::ResolvesServerCert;
use socket2::{SockRef, TcpKeepalive};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{oneshot, watch},
    task::spawn_local,
    time::{sleep, timeout},
};
use tokio_rustls::TlsAcceptor;

pub(super) use self::{
    auth::{Door, taken_away},
    name::path,
};
use super::{
    answer::{Ends, Refusal},
    connection::Stream as Bytes,
    handshake,
};
use penstock_engine::block::Shares;

use crate::{
    config::{self, stream_name_problem},
    ingest::{Event, Handle, Settings, error::SourceError, media::Media, place::Place, play::PlayerId, status::State},
    lines::Lines,
    tls,
};

/// A stream keeps its tracks for so long after its publisher has gone, and while somebody watches.
const LINGER: Duration = Duration::from_secs(10);
/// How often it is looked for streams that nobody needs any more.
const SWEEP: Duration = Duration::from_secs(2);
/// Connections that one address may have in any case: a site's cameras come from one.
const LEAST_SHARE: usize = 64;
/// Lines of the log in ten seconds that strangers cause.
const LINES: usize = 40;
/// For the control task's word.
const PATIENCE: Duration = Duration::from_secs(5);

/// See [`outside`](super::outside).
pub(super) fn is_admitted(password: &config::Secret, uri: &str, authorization: &str) -> bool {
    Door::new().credentials("ANNOUNCE", uri, authorization).is_token(password)
}

/// What the server has done, by name. Written by its thread, read by the control task.
#[derive(Clone, Debug, Default)]
pub struct Counters(Arc<Mutex<BTreeMap<&'static str, u64>>>);

impl Counters {
    pub(super) fn add(&self, name: &'static str) {
        self.add_many(name, 1);
    }

    pub(super) fn add_many(&self, name: &'static str, n: u64) {
        if n > 0 {
            *self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(name).or_default() += n;
        }
    }

    /// As they are now.
    pub fn get(&self) -> BTreeMap<&'static str, u64> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The ports.
pub(crate) struct Ports {
    plain: Vec<StdListener>,
    tls: Vec<StdListener>,
    /// For the latter.
    acceptor: Option<TlsAcceptor>,
}

/// Opens the ports.
///
/// # Errors
/// One is in use, or the certificate cannot be used.
pub(crate) fn bind(settings: &config::Rtsp, identity: Option<Arc<dyn ResolvesServerCert>>) -> io::Result<Ports> {
    let open = |key: &str, addresses: &[SocketAddr]| {
        let open = |address: &SocketAddr| {
            let listener = StdListener::bind(address)
                .map_err(|error| io::Error::new(error.kind(), format!("{key}: {address}: {error}")))?;
            listener.set_nonblocking(true)?;
            Ok(listener)
        };
        addresses.iter().map(open).collect::<io::Result<Vec<_>>>()
    };
    let (plain, tls) = (open("rtsp.listen", &settings.listen)?, open("rtsp.listen_tls", &settings.listen_tls)?);
    let own = !settings.certificate.as_os_str().is_empty();
    let identity: Option<Arc<dyn ResolvesServerCert>> = match (tls.is_empty(), own) {
        (true, _) => None,
        (false, false) => identity,
        (false, true) => {
            let names = ["rtsp.certificate", "rtsp.key"];
            Some(Arc::new(tls::Identity::load(names, &settings.certificate, &settings.key)?))
        }
    };
    let acceptor = identity.map(|identity| tls::config(identity, &[]).map(TlsAcceptor::from)).transpose()?;
    Ok(Ports { plain, tls, acceptor })
}

/// What all connections share.
pub(super) struct Server {
    pub(super) settings: Settings,
    pub(super) place: Place,
    pub(super) counters: Counters,
    /// The last one's.
    player: Cell<PlayerId>,
    connections: Cell<usize>,
    /// Nobody has them all.
    shares: Arc<Shares>,
    /// Lines of the log about requests that were refused, and connections that are gone.
    lines: RefCell<Lines>,
    streams: RefCell<BTreeMap<String, Stream>>,
}

/// A stream that is published here, or was.
enum Stream {
    Live,
    Left(Box<Published>, Instant),
}

/// What a stream has: its tracks, and the control task's wish.
struct Published {
    media: Media,
    wanted: watch::Receiver<bool>,
}

/// Serves until the other end of `stop` is dropped.
pub(in crate::ingest) async fn run(
    ports: Ports,
    settings: Settings,
    place: Place,
    counters: Counters,
    mut stop: watch::Receiver<()>,
) {
    let connections = Cell::new(0);
    let shares = Shares::of(settings.rtsp.connections, LEAST_SHARE);
    let player = Cell::new(0);
    let server = Rc::new(Server {
        settings,
        place,
        counters,
        player,
        connections,
        shares,
        lines: RefCell::new(Lines::new(Instant::now(), LINES)),
        streams: RefCell::default(),
    });
    let Ports { plain, tls, acceptor } = ports;
    let plain = plain.into_iter().map(|listener| (listener, None));
    for (listener, acceptor) in plain.chain(tls.into_iter().map(|listener| (listener, acceptor.clone()))) {
        match TcpListener::from_std(listener) {
            Ok(listener) => drop(spawn_local(Rc::clone(&server).listen(listener, acceptor))),
            Err(error) => tracing::error!("an RTSP port cannot be used: {error}"),
        }
    }
    loop {
        tokio::select! {
            () = sleep(SWEEP) => server.sweep(),
            _ = stop.changed() => return,
        }
    }
}

impl Server {
    /// With an acceptor by TLS.
    async fn listen(self: Rc<Self>, listener: TcpListener, acceptor: Option<TlsAcceptor>) {
        loop {
            match listener.accept().await {
                Ok((stream, peer)) => self.accept(stream, peer, acceptor.clone()),
                // Out of descriptors, most likely: what is open goes on.
                Err(error) => {
                    tracing::warn!("an RTSP connection cannot be accepted: {error}");
                    sleep(Duration::from_secs(1)).await;
                }
            }
        }
    }

    fn accept(self: &Rc<Self>, stream: TcpStream, peer: SocketAddr, acceptor: Option<TlsAcceptor>) {
        self.counters.add("connections");
        if self.connections.get() >= self.settings.rtsp.connections {
            self.counters.add("refused_too_many_connections");
            if acceptor.is_none() {
                // A new socket takes so little at once, or else it hears nothing.
                let _ = stream.try_write(b"RTSP/1.0 503 Too many connections\r\nContent-Length: 0\r\n\r\n");
            }
            return;
        }
        let Some(share) = self.shares.take(peer.ip().into()) else {
            self.counters.add("refused_too_many_of_one_address");
            return;
        };
        let keepalive = TcpKeepalive::new().with_time(Duration::from_secs(15));
        let prepared = stream
            .set_nodelay(true)
            .and_then(|()| SockRef::from(&stream).set_tcp_keepalive(&keepalive))
            .and_then(|()| stream.local_addr());
        let Ok(local) = prepared else { return };
        let place = Open::new(self);
        spawn_local(async move {
            let _share = share;
            let encrypted = acceptor.is_some();
            let stream: Box<dyn Bytes> = match acceptor {
                None => Box::new(stream),
                Some(acceptor) => match handshake(acceptor.accept(stream)).await {
                    Ok(stream) => Box::new(stream),
                    Err(reason) => {
                        return place.0.gone("", peer, &SourceError::Tls { host: peer.to_string(), reason });
                    }
                },
            };
            conversation::run(&place.0, stream, Ends { local, peer, encrypted }).await;
        });
    }

    /// A number for one more player.
    pub(super) fn next_player(&self) -> PlayerId {
        self.player.set(self.player.get() + 1);
        self.player.get()
    }

    /// Counts a refusal, and answers it.
    pub(super) fn refuse(
        &self,
        peer: SocketAddr,
        method: &str,
        Refusal(name, status, words): &Refusal,
        door: &Door,
    ) -> Message {
        self.counters.add(name);
        let words: String = words.chars().filter(|c| !c.is_control()).take(200).collect();
        let method: String = method.chars().filter(|c| !c.is_control()).take(24).collect();
        // Clients ask without a password first, and wait to be asked for it.
        if *name == "asked_for_password" {
            tracing::debug!(%peer, method, "an RTSP client is asked for its password");
        } else {
            self.tell(name, peer, |kept_back| {
                tracing::info!(%peer, method, status, kept_back, "RTSP request refused: {words}");
            });
        }
        let mut answer = Message::answer(*status, &words);
        if *status == 401 {
            for challenge in door.challenges(self.settings.rights.takes_digest()) {
                answer.push("WWW-Authenticate", challenge);
            }
        }
        answer
    }

    /// A connection has ended so.
    fn gone(&self, stream: &str, peer: SocketAddr, error: &SourceError) {
        self.tell(error.name(), peer, |kept_back| {
            tracing::info!(stream, %peer, error = error.name(), kept_back, "RTSP connection gone: {error}");
        });
        self.counters.add(error.name());
    }

    /// Writes a line that anybody can cause.
    fn tell(&self, kind: &'static str, peer: SocketAddr, write: impl FnOnce(Option<u64>)) {
        match self.lines.borrow_mut().take(Instant::now(), kind, peer.ip().into()) {
            Some(0) => write(None),
            Some(kept_back) => write(Some(kept_back)),
            None => {}
        }
    }

    /// Lets go of streams that nobody has published for a while and nobody watches.
    fn sweep(&self) {
        self.streams.borrow_mut().retain(|name, stream| {
            let Stream::Left(published, since) = stream else { return true };
            if published.wanted.has_changed().is_err() {
                return false;
            }
            let wanted = *published.wanted.borrow() || since.elapsed() < LINGER;
            if !wanted {
                let _ = self.place.events.send(Event::Released { stream: name.clone() });
            }
            wanted
        });
    }

    /// Reserves a stream for a publisher. `Err`: why he must not have it.
    async fn claim(self: &Rc<Self>, name: &str, peer: SocketAddr) -> Result<Claim, String> {
        if let Some(problem) = stream_name_problem(name) {
            return Err(problem);
        }
        let former = match self.streams.borrow_mut().insert(name.to_owned(), Stream::Live) {
            Some(Stream::Live) => return Err(format!("{name} has a publisher already")),
            Some(Stream::Left(published, _)) => Some(*published),
            None => None,
        };
        let mut claim = Claim { server: Rc::clone(self), name: name.to_owned(), published: None };
        claim.published = match former.filter(|former| former.wanted.has_changed().is_ok()) {
            Some(former) => Some(former),
            None => Some(self.ask(name).await?),
        };
        if let Some(published) = &mut claim.published {
            published.media.origin = format!("rtsp from {peer}");
            let mut status = published.media.status.lock();
            status.peer = Some(peer);
            status.state = State::Connecting;
        }
        Ok(claim)
    }

    /// The control task knows who else may have the name.
    async fn ask(&self, name: &str) -> Result<Published, String> {
        let (handle, status, wanted) = Handle::new("pushed by RTSP".into(), false, true);
        let (reply, answer) = oneshot::channel();
        let _ = self.place.events.send(Event::Publish { stream: name.to_owned(), handle, reply });
        let busy = || "the server is busy or stops".to_owned();
        timeout(PATIENCE, answer).await.map_err(|_| busy())?.map_err(|_| busy())??;
        let keep = self.settings.rtsp.kept_bytes();
        let media = Media::new(name.to_owned(), String::new(), status, self.place.clone(), keep);
        Ok(Published { media, wanted })
    }
}

/// One of the connections that may be open.
struct Open(Rc<Server>);

impl Open {
    fn new(server: &Rc<Server>) -> Self {
        server.connections.set(server.connections.get() + 1);
        Self(Rc::clone(server))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.connections.set(self.0.connections.get() - 1);
    }
}

/// A publisher's hold on a stream. Dropped, another may have it.
struct Claim {
    server: Rc<Server>,
    name: String,
    published: Option<Published>,
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut streams = self.server.streams.borrow_mut();
        match self.published.take() {
            Some(published) => {
                let mut status = published.media.status.lock();
                status.peer = None;
                status.state = State::Waiting;
                drop(status);
                streams.insert(std::mem::take(&mut self.name), Stream::Left(Box::new(published), Instant::now()));
            }
            None => drop(streams.remove(&self.name)),
        }
    }
}
