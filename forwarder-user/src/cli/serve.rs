//! `penstock serve`: start in order, say what was started and why, stop in reverse order.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context;
use rustls::server::ResolvesServerCert;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::mpsc,
    task::JoinHandle,
};

use super::{
    FAILED, FORCED, OK, announce,
    host::Host,
    limits,
    logging::{self, Level},
    network::{self, Chosen, Follower},
    options::Options,
    privileges::{self, Janitor},
    reload::{self, Reload},
    uplinks::{self, Xdp},
};
use penstock_engine::{
    Dscp, Engine, Events,
    auto::AutoEngine,
    io::tcp::Connections,
    kernel::{self, KernelEngine, StartError},
    repair,
    userspace::{self, UserspaceEngine},
};

use crate::{
    acme::{Keeper, Shown},
    config::{Config, EngineChoice, TransmitterChoice},
    doctor, hooks, http, ingest, memory,
    rights::Rights,
    stream::{self, Control, MediaAddress, StreamConfig, TcpPort},
    tls::Identity,
};

/// Runtime threads: HTTP and the control task, which is one task. A second thread would be woken for every timer
/// that the first one sets, and take turns with it.
const THREADS: usize = 1;

/// For requests in work when the server stops.
const HTTP_PATIENCE: Duration = Duration::from_secs(3);

/// For closing all sessions.
const DRAIN_PATIENCE: Duration = Duration::from_secs(5);

/// For the engine to let go of the interfaces.
const DETACH_PATIENCE: Duration = Duration::from_secs(5);

/// Serves until a signal.
///
/// # Errors
/// Why it could not start.
pub(super) fn run(options: &Options) -> anyhow::Result<u8> {
    let started = Instant::now();
    memory::prepare();
    let config = options.config()?;
    let level = logging::start(&config.log)?;
    privileges::harden();
    // Before there are threads: it is a fork.
    let janitor = Janitor::start(&config);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(THREADS)
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let code = runtime.block_on(serve(options, (config, janitor), level, started));
    // Nothing is waited for any more: what is left at a second signal is cut off.
    runtime.shutdown_background();
    logging::finish();
    code
}

/// What runs, in the order in which it was started.
struct Running {
    engine: Arc<dyn Engine>,
    control: Control,
    settings: http::Settings,
    task: JoinHandle<()>,
    http: http::Running,
    /// What the host had last.
    chosen: Chosen,
}

async fn serve(
    options: &Options,
    (config, janitor): (Config, Option<Janitor>),
    level: Level,
    started: Instant,
) -> anyhow::Result<u8> {
    let mut signals = Signals::new()?;
    // From here on it does not end the process, which it does by default.
    let mut hangup = signal(SignalKind::hangup()).context("cannot listen for SIGHUP")?;
    // A session has one connection, and another one while it moves.
    let by_tcp = if config.media.tcp_port == 0 { 0 } else { 2 * config.limits.sessions };
    limits::check(config.limits.http_connections + by_tcp)?;
    let tcp = (by_tcp > 0).then(|| Arc::new(Connections::new(by_tcp)));
    // Bound first, so that a port in use is found before anything touches the interfaces.
    let (identity, keeper) = identity(&config)?;
    let server = http::Server::bind(&config, identity.clone(), tcp.clone())?;
    let mut follower = Follower::start()?;
    let listening = tokio::select! {
        listening = listen(&config, server, &mut follower) => listening?,
        name = signals.next() => {
            tracing::info!("{name}: stopped before there was a network");
            return Ok(OK);
        }
    };
    let (sender, mut changes) = mpsc::channel(http::QUEUE);
    let challenges = keeper.as_ref().map(Keeper::shown);
    let mut running = start(&config, listening, (identity, challenges, janitor, tcp), sender).await?;
    privileges::give_up(&config, options.config.as_deref());
    let sources = config.sources().len();
    let (control, settings) = (running.control.clone(), running.settings.clone());
    let mut reload = Reload { config, level, control, settings, sources };
    memory::give_back();
    keeper.into_iter().for_each(Keeper::start);
    tracing::info!("ready after {} ms", started.elapsed().as_millis());
    let name = loop {
        tokio::select! {
            name = signals.next() => break name,
            _ = hangup.recv() => reload.run(options).await,
            Some(change) = changes.recv() => reload.change(change).await,
            () = follower.changed() => running.follow(&reload.config).await,
            _ = &mut running.task => {
                tracing::error!("the control task ended by itself, which is a bug: stopping");
                return Ok(FAILED);
            }
        }
    };
    tracing::info!("{name}: closing all sessions; a second signal ends at once");
    tokio::select! {
        () = running.stop() => {
            tracing::info!("stopped");
            Ok(OK)
        }
        name = signals.next() => {
            tracing::warn!("{name} again: ending at once; peers notice by their own timers");
            logging::finish();
            #[expect(clippy::disallowed_methods, reason = "asked for by a second signal; the kernel closes the links")]
            std::process::exit(FORCED.into());
        }
    }
}

type Certificates = Arc<dyn ResolvesServerCert>;

/// The certificate of HTTPS, and of RTSPS where that has none of its own; and whoever gets it, if nobody else does.
fn identity(config: &Config) -> anyhow::Result<(Option<Certificates>, Option<Keeper>)> {
    if config.acme.is_on() {
        let keeper = Keeper::new(&config.acme)?;
        return Ok((Some(keeper.shown()), Some(keeper)));
    }
    let wanted = !config.http.listen_tls.is_empty()
        || (!config.rtsp.listen_tls.is_empty() && config.rtsp.certificate.as_os_str().is_empty());
    if !wanted {
        return Ok((None, None));
    }
    let http = &config.http;
    let files = Identity::load(["http.certificate", "http.key"], &http.certificate, &http.key)?;
    Ok((Some(Arc::new(files)), None))
}

/// A host that has a network, and what listens there.
struct Listening {
    host: Host,
    http: Http,
    addresses: Vec<(SocketAddr, bool)>,
}

/// HTTP before the server is ready.
enum Http {
    /// Connections wait: it takes a moment.
    Bound(http::Server),
    /// They are told that there is no network yet.
    Waiting(http::Running),
}

impl Http {
    fn serve(self, router: http::Routers) -> http::Running {
        match self {
            Self::Bound(server) => server.serve(router),
            Self::Waiting(running) => {
                running.replace(router);
                running
            }
        }
    }
}

/// Waits for a network, if there is none yet.
async fn listen(config: &Config, server: http::Server, follower: &mut Follower) -> anyhow::Result<Listening> {
    let addresses = server.addresses();
    let host = Host::read().await?;
    if !network::is_missing(config, &host) {
        return Ok(Listening { host, http: Http::Bound(server), addresses });
    }
    let waiting = server.serve(http::waiting("the server waits: this host has no address that peers could reach"));
    let host = network::wait(config, follower).await?;
    Ok(Listening { host, http: Http::Waiting(waiting), addresses })
}

/// What is made before the rights are given up, and is used by what runs.
type Parts = (Option<Certificates>, Option<Arc<Shown>>, Option<Janitor>, Option<Arc<Connections>>);

async fn start(
    config: &Config,
    listening: Listening,
    (identity, challenges, janitor, tcp): Parts,
    changes: http::Changes,
) -> anyhow::Result<Running> {
    let Listening { host, http, addresses: listens } = listening;
    let chosen = network::choose(config, &host)?;
    let Chosen { interfaces, addresses } = chosen.clone();
    #[expect(clippy::disallowed_methods, reason = "the engine tells once of each session and track, which are bounded")]
    let (events, received) = mpsc::unbounded_channel();
    announce::warn(&doctor::glance(config, &interfaces, &addresses));
    let (engine, xdp) =
        start_engine(config, Chosen { interfaces, addresses: addresses.clone() }, janitor, events).await?;
    let settings = http::Settings::new(config);
    let mut of_streams = stream_settings(config, &addresses, settings.rights());
    of_streams.ingest.identity = identity;
    of_streams.tcp = tcp;
    let (control, task) = stream::spawn(of_streams, engine.clone(), received)
        .context("cannot open the media sockets and start the sources")?;
    announce::print(config, engine.as_ref(), &addresses, &listens, settings.rights());
    uplinks::print(config, &host.uplinks(), &addresses, &xdp);
    hooks::start(&config.hooks, control.listen());
    let http = http.serve(http::router(config, settings.clone(), control.clone(), changes, challenges)?);
    Ok(Running { engine, control, settings, task, http, chosen })
}

/// Attaches to the interfaces; those of the addresses if none is named.
async fn start_engine(
    config: &Config,
    Chosen { interfaces, addresses }: Chosen,
    janitor: Option<Janitor>,
    events: Events,
) -> anyhow::Result<(Arc<dyn Engine>, Xdp)> {
    let limits = kernel::Limits {
        sessions: config.limits.sessions,
        publisher_tracks: config.limits.publisher_tracks,
        subscriber_tracks: config.limits.subscriber_tracks,
        // The userspace engine takes what is beyond a pass.
        viewers_per_stream: config.limits.viewers_per_stream.min(config.kernel.copies_per_pass),
    };
    let (memory, track) = config.repair();
    let kept = repair::Settings { memory: Arc::new(repair::Memory::new(memory)), track };
    let userspace = userspace::Config {
        sessions: config.limits.sessions,
        // Sources are known beforehand, with a video and an audio track each, and twice that while one changes.
        publisher_tracks: config.limits.publisher_tracks + 4 * config.sources().len(),
        subscriber_tracks: config.limits.subscriber_tracks,
        viewers_per_stream: config.limits.viewers_per_stream,
        repair: kept.clone(),
        tcp: config.media.tcp_port != 0,
        ..userspace::Config::default()
    };
    let userspace = UserspaceEngine::new(userspace, events.clone());
    if config.media.engine == EngineChoice::Userspace {
        let why = "`media.engine` is \"userspace\"".to_owned();
        let indices: Vec<u32> =
            interfaces.iter().filter_map(|name| nix::net::if_::if_nametoindex(&**name).ok()).collect();
        let userspace = prepare(userspace, config, (!interfaces.is_empty()).then_some(indices)).await?;
        let xdp = Xdp::none(&why);
        return Ok((Arc::new(AutoEngine::new(None, userspace, why)), xdp));
    }
    let leave_interfaces = config.media.engine == EngineChoice::Auto && config.kernel.interfaces.is_empty();
    let settings = kernel::Config {
        interfaces,
        media_addresses: addresses,
        mode: config.kernel.mode.into(),
        generic_if_refused: config.media.engine == EngineChoice::Kernel,
        leave_interfaces,
        limits,
        keystream: Some(kernel::keystream::Settings {
            memory: config.kernel.keystream_memory_mb << 20,
            fixed_entries: None,
        }),
        pin_dir: config.kernel.pin_dir.clone(),
        unmounter: janitor.map(Janitor::unmounter),
        statistics: config.kernel.bpf_stats,
        repair: kept,
        ..kernel::Config::new(config.media.port)
    };
    // Loading waits for the kernel's verifier.
    let engine = tokio::task::spawn_blocking(move || KernelEngine::start(settings, events)).await?;
    match (engine, config.media.engine) {
        (engine, EngineChoice::Kernel) => {
            let engine = engine.context("the kernel engine does not start")?;
            let xdp = Xdp::of(&engine);
            Ok((Arc::new(engine), xdp))
        }
        (Ok(engine), _) => {
            let xdp = Xdp::of(&engine);
            let indices = engine.interfaces().iter().map(|interface| interface.index).collect();
            let userspace = prepare(userspace, config, Some(indices)).await?;
            Ok((Arc::new(AutoEngine::new(Some(engine), userspace, String::new())), xdp))
        }
        // Another server with these pins, or a limit that cannot be: an error here as well.
        (Err(error @ (StartError::Running { .. } | StartError::Limit { .. })), _) => Err(error.into()),
        (Err(error), _) => {
            announce::no_kernel_engine(&error);
            let userspace = prepare(userspace, config, None).await?;
            let why = error.to_string();
            Ok((Arc::new(AutoEngine::new(None, userspace, why)), Xdp::none("there is no kernel engine")))
        }
    }
}

/// Gives the userspace engine the transmitter of the configuration. `interfaces`: those that XDP may send
/// by.
async fn prepare(
    engine: UserspaceEngine,
    config: &Config,
    interfaces: Option<Vec<u32>>,
) -> anyhow::Result<UserspaceEngine> {
    let choice = config.media.transmitter;
    if choice == TransmitterChoice::Socket {
        engine.use_sockets("`media.transmitter` is \"socket\"".into());
        return Ok(engine);
    }
    // Loading waits for the kernel's verifier.
    tokio::task::spawn_blocking(move || match engine.use_xdp(interfaces) {
        Err(reason) if choice == TransmitterChoice::Xdp => {
            Err(anyhow::anyhow!("the xdp transmitter does not start: {reason}"))
        }
        Err(reason) => {
            tracing::info!("no xdp transmitter: {reason}");
            Ok(engine)
        }
        Ok(()) => Ok(engine),
    })
    .await?
}

/// The control task's part of the configuration.
fn stream_settings(config: &Config, addresses: &[IpAddr], rights: &Rights) -> StreamConfig {
    let mut settings = StreamConfig {
        max_sessions: config.limits.sessions,
        nack: config.repair().1 > 0,
        dtls: config.media.dtls,
        // The configuration has been checked.
        dscp: [config.media.dscp.audio, config.media.dscp.video].map(|dscp| Dscp::new(dscp).unwrap_or_default()),
        publisher_max: config.limits.publisher_max_kbps * 1000,
        socket_buffer: config.media.socket_buffer_kb * 1024,
        ingest: ingest::Settings {
            streams: config.sources(),
            rtsp: config.rtsp.clone(),
            identity: None,
            rights: rights.clone(),
            source_max_kbps: config.limits.source_max_kbps,
            recent_bytes: config.repair().1,
            gather: config.ingest.gather(),
            retry_max: config.ingest.retry_max(),
        },
        ..StreamConfig::new(media(config, addresses))
    };
    settings.set(reload::live(config));
    settings
}

/// Where sockets are bound, and what peers are told.
fn media(config: &Config, addresses: &[IpAddr]) -> Vec<MediaAddress> {
    let media = addresses.iter().map(|address| MediaAddress {
        bind: SocketAddr::new(*address, config.media.port),
        advertise: config.media.public_addresses.get(address).copied(),
        tcp: (config.media.tcp_port != 0)
            .then(|| TcpPort { port: config.media.tcp_port, shared: config.shares_tcp(*address) }),
    });
    media.collect()
}

impl Running {
    /// Something in the network has changed: offers what the host has now.
    async fn follow(&mut self, config: &Config) {
        if !network::is_followed(config) {
            return;
        }
        let host = match Host::read().await {
            Ok(host) => host,
            Err(error) => return tracing::warn!("addresses are not followed this time: {error:#}"),
        };
        // Without any, nobody is offered one, and the control task says so.
        let addresses = network::choose(config, &host).unwrap_or_default().addresses;
        if addresses != self.chosen.addresses {
            self.control.addresses(media(config, &addresses)).await;
            self.chosen.addresses = addresses;
        }
    }

    /// Stops in reverse order, within a bounded time.
    async fn stop(self) {
        self.http.stop(HTTP_PATIENCE).await;
        if tokio::time::timeout(DRAIN_PATIENCE, async {
            self.control.drain().await;
            let _ = self.task.await;
        })
        .await
        .is_err()
        {
            tracing::warn!("not all sessions could be closed in time");
        }
        // The last handle: detaches XDP and removes the pins. It waits for the kernel, so not here.
        let engine = self.engine;
        let detached = tokio::task::spawn_blocking(move || drop(engine));
        if tokio::time::timeout(DETACH_PATIENCE, detached).await.is_err() {
            tracing::warn!("the engine did not stop in time; XDP is detached when the process ends");
        }
    }
}

/// SIGTERM and SIGINT, in the order in which they come.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> anyhow::Result<Self> {
        let listen = |kind| signal(kind).context("cannot listen for signals");
        Ok(Self { terminate: listen(SignalKind::terminate())?, interrupt: listen(SignalKind::interrupt())? })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}
