//! `penstock serve`: start in order, say what was started and why, stop in reverse order.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    str::FromStr,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context;
use clap::Args;
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
    reload::{self, Reload},
};
use crate::{
    config::{Config, EngineChoice, Mode, TransmitterChoice},
    doctor,
    engine::{
        Engine, Events,
        auto::AutoEngine,
        kernel::{self, KernelEngine, StartError},
        userspace::{self, UserspaceEngine},
    },
    http, ingest, memory,
    stream::{self, Control, MediaAddress, StreamConfig},
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

const EXAMPLES: &str = "\
Examples:
  penstock serve
      the interface of the default route, HTTP on 0.0.0.0:8080, media on UDP port 8443
  penstock serve --interface eth0 --interface eth1 --http '[::]:8080' --media 9000
  penstock serve --media 192.0.2.10:8443
      media on this address only
  PENSTOCK_PUBLISH_TOKEN=secret penstock serve --config /etc/penstock.toml

The kernel engine needs root, or CAP_BPF, CAP_NET_ADMIN, CAP_PERFMON and CAP_SYS_ADMIN (for its
bpffs). Without these rights the userspace engine serves, at a higher cost. SIGTERM or SIGINT closes all sessions, detaches XDP and removes the pins; a second signal ends it at once. SIGHUP reads
the configuration again: keys marked [live] in config/penstock.toml.";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Options {
    /// Configuration file; without one, the defaults
    #[arg(long, short, value_name = "FILE", env = "PENSTOCK_CONFIG")]
    pub(super) config: Option<PathBuf>,

    /// Interface to attach XDP to; may be repeated (kernel.interfaces)
    #[arg(long, short, value_name = "NAME")]
    interface: Vec<String>,

    /// Address for HTTP; may be repeated (http.listen)
    #[arg(long, value_name = "ADDRESS:PORT")]
    http: Vec<SocketAddr>,

    /// UDP port, address, or both, for media; may be repeated (media.port, media.addresses)
    #[arg(long, value_name = "[ADDRESS][:PORT]")]
    media: Vec<MediaOption>,

    /// How XDP is attached (kernel.mode)
    #[arg(long, value_enum)]
    mode: Option<Mode>,

    /// What moves the media (media.engine)
    #[arg(long, value_enum)]
    engine: Option<EngineChoice>,

    /// How the userspace engine sends (media.transmitter)
    #[arg(long, value_enum)]
    transmitter: Option<TransmitterChoice>,

    /// Directory for the maps' pins (kernel.pin_dir)
    #[arg(long, value_name = "DIR", env = "PENSTOCK_PIN_DIR")]
    pin_dir: Option<PathBuf>,

    /// Log level or directives (log.level)
    #[arg(long, value_name = "LEVEL", env = "PENSTOCK_LOG")]
    log: Option<String>,
}

/// `8443`, `192.0.2.10`, `192.0.2.10:8443`, `[2001:db8::1]:8443`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct MediaOption {
    address: Option<IpAddr>,
    port: Option<u16>,
}

impl FromStr for MediaOption {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(port) = text.trim_start_matches(':').parse() {
            return Ok(Self { address: None, port: Some(port) });
        }
        if let Ok(address) = text.trim_matches(['[', ']']).parse() {
            return Ok(Self { address: Some(address), port: None });
        }
        let both: SocketAddr = text
            .parse()
            .map_err(|_| format!("{text:?} is none of PORT, ADDRESS, ADDRESS:PORT (IPv6 with port: [ADDRESS]:PORT)"))?;
        Ok(Self { address: Some(both.ip()), port: Some(both.port()) })
    }
}

impl Options {
    /// The file, or the defaults, with the options of the command line on top.
    pub(super) fn config(&self) -> anyhow::Result<Config> {
        let mut config = match &self.config {
            Some(file) => Config::load(file)?,
            None => Config::from_defaults()?,
        };
        if !self.interface.is_empty() {
            config.kernel.interfaces = self.interface.clone();
        }
        if !self.http.is_empty() {
            config.http.listen = self.http.clone();
        }
        let addresses: Vec<IpAddr> = self.media.iter().filter_map(|media| media.address).collect();
        if !addresses.is_empty() {
            config.media.addresses = addresses;
        }
        let mut ports: Vec<u16> = self.media.iter().filter_map(|media| media.port).collect();
        ports.dedup();
        match ports[..] {
            [] => {}
            [port] => config.media.port = port,
            _ => anyhow::bail!("--media: all addresses have the same port, but {ports:?} are given"),
        }
        config.kernel.mode = self.mode.unwrap_or(config.kernel.mode);
        config.media.engine = self.engine.unwrap_or(config.media.engine);
        config.media.transmitter = self.transmitter.unwrap_or(config.media.transmitter);
        if let Some(directory) = &self.pin_dir {
            config.kernel.pin_dir = std::path::absolute(directory)?;
        }
        if let Some(level) = &self.log {
            config.log.level = level.clone();
        }
        config.check("command line")?;
        Ok(config)
    }
}

/// Serves until a signal.
///
/// # Errors
/// Why it could not start.
pub fn run(options: &Options) -> anyhow::Result<u8> {
    let started = Instant::now();
    memory::prepare();
    let config = options.config()?;
    let level = logging::start(&config.log)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(THREADS)
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let code = runtime.block_on(serve(options, config, level, started))?;
    // Nothing is waited for any more: what is left at a second signal is cut off.
    runtime.shutdown_background();
    Ok(code)
}

/// What runs, in the order in which it was started.
struct Running {
    engine: Arc<dyn Engine>,
    control: Control,
    settings: http::Settings,
    task: JoinHandle<()>,
    http: http::Running,
}

async fn serve(options: &Options, config: Config, level: Level, started: Instant) -> anyhow::Result<u8> {
    let mut signals = Signals::new()?;
    // From here on it does not end the process, which it does by default.
    let mut hangup = signal(SignalKind::hangup()).context("cannot listen for SIGHUP")?;
    let mut running = start(&config).await?;
    let sources = config.streams.len();
    let (control, settings) = (running.control.clone(), running.settings.clone());
    let mut reload = Reload { config, level, control, settings, sources };
    memory::give_back();
    tracing::info!("ready after {} ms", started.elapsed().as_millis());
    let name = loop {
        tokio::select! {
            name = signals.next() => break name,
            _ = hangup.recv() => reload.run(options).await,
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
            std::process::exit(FORCED.into());
        }
    }
}

async fn start(config: &Config) -> anyhow::Result<Running> {
    limits::raise_open_files(config.limits.http_connections);
    let host = Host::read().await?;
    let (interfaces, addresses) = match config.media.engine {
        EngineChoice::Kernel => host.choose(&config.kernel.interfaces, &config.media.addresses)?,
        _ => host.choose_any(&config.kernel.interfaces, &config.media.addresses)?,
    };
    // Bound first, so that a port in use is found before anything touches the interfaces.
    let server = http::Server::bind(config)?;

    let (events, received) = mpsc::unbounded_channel();
    announce::warn(&doctor::glance(&interfaces, &addresses));
    let engine = start_engine(config, interfaces, &addresses, events).await?;
    let (control, task) = stream::spawn(settings(config, &addresses), engine.clone(), received)
        .context("cannot open the media sockets and start the sources")?;
    announce::print(config, engine.as_ref(), &addresses, &server.addresses());
    let settings = http::Settings::new(config);
    let http = server.serve(http::router(config, settings.clone(), control.clone())?);
    Ok(Running { engine, control, settings, task, http })
}

/// Attaches to the interfaces; those of the addresses if none is named.
async fn start_engine(
    config: &Config,
    interfaces: Vec<String>,
    addresses: &[IpAddr],
    events: Events,
) -> anyhow::Result<Arc<dyn Engine>> {
    let limits = kernel::Limits {
        sessions: config.limits.sessions,
        publisher_tracks: config.limits.publisher_tracks,
        subscriber_tracks: config.limits.subscriber_tracks,
        // The userspace engine takes what is beyond a pass.
        viewers_per_stream: config.limits.viewers_per_stream.min(config.kernel.copies_per_pass),
    };
    let userspace = userspace::Config {
        sessions: config.limits.sessions,
        // Sources are known beforehand, with a video and an audio track each, and twice that while one changes.
        publisher_tracks: config.limits.publisher_tracks + 4 * config.streams.len(),
        subscriber_tracks: config.limits.subscriber_tracks,
        viewers_per_stream: config.limits.viewers_per_stream,
        ..userspace::Config::default()
    };
    let userspace = UserspaceEngine::new(userspace, events.clone());
    if config.media.engine == EngineChoice::Userspace {
        let why = "`media.engine` is \"userspace\"".to_owned();
        let indices: Vec<u32> =
            interfaces.iter().filter_map(|name| nix::net::if_::if_nametoindex(&**name).ok()).collect();
        let userspace = prepare(userspace, config, (!interfaces.is_empty()).then_some(indices)).await?;
        return Ok(Arc::new(AutoEngine::new(None, userspace, why)));
    }
    let settings = kernel::Config {
        interfaces,
        media_addresses: addresses.to_vec(),
        mode: config.kernel.mode,
        generic_if_refused: config.media.engine == EngineChoice::Kernel,
        limits,
        keystream: Some(kernel::keystream::Settings {
            memory: config.kernel.keystream_memory_mb << 20,
            fixed_entries: None,
        }),
        pin_dir: config.kernel.pin_dir.clone(),
        statistics: config.kernel.bpf_stats,
        ..kernel::Config::new(config.media.port)
    };
    // Loading waits for the kernel's verifier.
    let engine = tokio::task::spawn_blocking(move || KernelEngine::start(settings, events)).await?;
    match (engine, config.media.engine) {
        (engine, EngineChoice::Kernel) => Ok(Arc::new(engine.context("the kernel engine does not start")?)),
        (Ok(engine), _) => {
            let indices = engine.interfaces().iter().map(|interface| interface.index).collect();
            let userspace = prepare(userspace, config, Some(indices)).await?;
            Ok(Arc::new(AutoEngine::new(Some(engine), userspace, String::new())))
        }
        // Another server with these pins, or a limit that cannot be: an error here as well.
        (Err(error @ (StartError::Running { .. } | StartError::Limit { .. })), _) => Err(error.into()),
        (Err(error), _) => {
            announce::no_kernel_engine(&error);
            let userspace = prepare(userspace, config, None).await?;
            Ok(Arc::new(AutoEngine::new(None, userspace, error.to_string())))
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
fn settings(config: &Config, addresses: &[IpAddr]) -> StreamConfig {
    let media = addresses.iter().map(|address| MediaAddress {
        bind: SocketAddr::new(*address, config.media.port),
        advertise: config.media.public_addresses.get(address).copied(),
    });
    let mut settings = StreamConfig {
        max_sessions: config.limits.sessions,
        socket_buffer: config.media.socket_buffer_kb * 1024,
        ingest: ingest::Settings {
            streams: config.streams.clone(),
            rtsp: config.rtsp.clone(),
            publish_token: config.auth.publish_token.clone(),
            source_max_kbps: config.limits.source_max_kbps,
            recent_bytes: config.rtcp.recent_bytes(),
            gather: config.ingest.gather(),
        },
        ..StreamConfig::new(media.collect())
    };
    settings.set(reload::live(config));
    settings
}

impl Running {
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

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        options: Options,
    }

    fn config(arguments: &[&str]) -> anyhow::Result<Config> {
        let arguments = std::iter::once("penstock").chain(arguments.iter().copied());
        Cli::try_parse_from(arguments)?.options.config()
    }

    #[test]
    fn media_option_takes_port_address_or_both() {
        let parse = |text: &str| text.parse::<MediaOption>().map(|media| (media.address, media.port));
        let v4 = Some("192.0.2.1".parse().unwrap());
        let v6 = Some("2001:db8::1".parse().unwrap());
        assert_eq!(parse("9000"), Ok((None, Some(9000))));
        assert_eq!(parse(":9000"), Ok((None, Some(9000))));
        assert_eq!(parse("192.0.2.1"), Ok((v4, None)));
        assert_eq!(parse("192.0.2.1:9000"), Ok((v4, Some(9000))));
        assert_eq!(parse("2001:db8::1"), Ok((v6, None)));
        assert_eq!(parse("[2001:db8::1]:9000"), Ok((v6, Some(9000))));
        assert!(parse("eth0").unwrap_err().contains("ADDRESS:PORT"));
    }

    #[test]
    fn options_win_over_the_file() {
        let file = tempfile("[http]\nlisten = [\"127.0.0.1:1\"]\n[media]\nport = 2\n");
        let path = file.to_str().unwrap();
        let plain = config(&["--config", path]).unwrap();
        assert_eq!((plain.http.listen[0].port(), plain.media.port), (1, 2));
        let options =
            ["--config", path, "--http", "127.0.0.1:3", "--media", "192.0.2.1:4", "-i", "eth7", "--mode", "generic"];
        let config = config(&options).unwrap();
        assert_eq!((config.http.listen[0].port(), config.media.port), (3, 4));
        assert_eq!(config.media.addresses, ["192.0.2.1".parse::<IpAddr>().unwrap()]);
        assert_eq!((config.kernel.interfaces[0].as_str(), config.kernel.mode), ("eth7", Mode::Generic));
        std::fs::remove_file(file).unwrap();
    }

    #[test]
    fn contradictions_are_refused() {
        assert!(config(&["--media", "1", "--media", "2"]).unwrap_err().to_string().contains("same port"));
        assert!(config(&["--media", "0"]).unwrap_err().to_string().contains("media.port"));
        assert!(config(&["--config", "/nonexistent"]).is_err());
    }

    fn tempfile(text: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("penstock-serve-{}.toml", std::process::id()));
        std::fs::write(&path, text).unwrap();
        path
    }
}
