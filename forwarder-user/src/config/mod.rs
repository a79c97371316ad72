//! The configuration file. `config/penstock.toml` explains every key; a test holds it equal to the
//! defaults here. Units are part of a key's name.

mod acme;
mod hooks;
mod ice;
mod load;
pub mod mediamtx;
mod name;
mod network;
mod pattern;
mod public;
mod rights;
pub mod saved;
mod secret;
mod source;

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use forwarder_common::maps::MAX_COPIES;
use penstock_media::codec::Codec;
use penstock_webrtc::dtls::Stack;
use serde::{Deserialize, Serialize};

pub use acme::{Acme, AcmeChallenge};
pub use hooks::Hooks;
pub use ice::IceServer;
pub use load::{
    ConfigError, ENV_ACME_EAB_KEY, ENV_API_TOKEN, ENV_HOOKS_SECRET, ENV_JWT_SECRET, ENV_PLAY_TOKEN, ENV_PUBLISH_TOKEN,
};
pub use name::{MAX_NAME_PARTS, stream_name_problem};
pub use network::Network;
pub use pattern::Pattern;
pub use public::Public;
pub use rights::{Action, Auth, AuthHttp, Jwt, Permission, User};
pub use secret::Secret;
pub use source::{RtspTransport, SourceUrl, Stream};

/// All settings. An empty file is a valid configuration.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// `[http]`.
    pub http: Http,
    /// `[acme]`: off unless it names something.
    pub acme: Acme,
    /// `[media]`.
    pub media: Media,
    /// `[kernel]`: without effect where the userspace engine is alone.
    pub kernel: Kernel,
    /// `[limits]`.
    pub limits: Limits,
    /// `[rtcp]`.
    pub rtcp: Rtcp,
    /// `[repair]`.
    pub repair: Repair,
    /// `[rtsp]` and `[streams.NAME]`.
    pub ingest: Ingest,
    /// `[auth]`, which the environment overrides.
    pub auth: Auth,
    /// `[jwt]`: off unless there is a key.
    pub jwt: Jwt,
    /// `[auth_http]`: off unless there is a URL.
    pub auth_http: AuthHttp,
    /// `[api]`.
    pub api: Api,
    /// `[hooks]`: nobody is told anything unless there is somebody.
    pub hooks: Hooks,
    /// `[log]`.
    pub log: Log,
    /// `[rtsp]`: nobody is let in unless there is an address.
    pub rtsp: Rtsp,
    /// Streams with a source or limits of their own, by name.
    pub streams: BTreeMap<String, Stream>,
    /// `[debug]`: off unless it is asked for.
    pub debug: Debug,
}

/// WHIP, WHEP, the web pages and the API.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Http {
    /// Addresses to listen on.
    pub listen: Vec<SocketAddr>,
    /// Same for HTTPS.
    pub listen_tls: Vec<SocketAddr>,
    /// PEM file of the certificate, those that lead to its issuer behind it.
    pub certificate: PathBuf,
    /// PEM file of its key.
    pub key: PathBuf,
    /// Addresses for `/healthz` alone.
    pub health_listen: Vec<SocketAddr>,
    /// Whether others than this host are sent from HTTP to HTTPS.
    pub redirect_to_https: bool,
    /// Web origins whose pages may use WHIP and WHEP (CORS); `*` is any.
    pub allowed_origins: Vec<String>,
    /// Longest wait for a complete request header, and for the next request on an idle connection.
    pub header_timeout_ms: u64,
    /// Longest time for a request's body and its answer.
    pub request_timeout_ms: u64,
    /// Proxies whose word is taken for whom they ask: `X-Forwarded-For`, or `Forwarded` (RFC 7239).
    pub trusted_proxies: Vec<Network>,
    /// Whether trusted proxies begin their connections with the PROXY protocol.
    pub proxy_protocol: bool,
    /// Whether `/` and `/api/v1/streams` list the live streams.
    pub index: bool,
    /// Whether everybody may use `/api/`, `/metrics` and `/debug/` while nobody has a right to it.
    pub open_management: bool,
    /// STUN and TURN servers that clients are told of (RFC 9725 §4.6).
    pub ice_servers: Vec<IceServer>,
}

/// The UDP side: STUN, DTLS, SRTP, SRTCP.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Media {
    /// UDP port on every media address.
    pub port: u16,
    /// TCP port on every media address, for peers that no UDP reaches; 0: none.
    pub tcp_port: u16,
    /// Local addresses; empty: the global addresses of the attached interfaces.
    pub addresses: Vec<IpAddr>,
    /// Default `auto`.
    pub engine: EngineChoice,
    /// How the userspace engine sends; default `auto`.
    pub transmitter: TransmitterChoice,
    /// Rules of this host's firewall hold for every packet: the userspace engine and sockets carry all media.
    pub respect_firewall: bool,
    /// SRTP profiles that peers may have. AES-GCM always.
    pub srtp_profiles: Vec<SrtpProfiles>,
    /// Codecs that publishers are asked for, the best first; empty: what every browser decodes.
    pub codecs: Vec<Codec>,
    /// Who makes DTLS handshakes.
    pub dtls: Stack,
    /// How copies are marked for the routers on their way (RFC 2474).
    pub dscp: DscpOf,
    /// Receive and send buffer of each media socket, as far as the system grants it.
    pub socket_buffer_kb: usize,
    /// Behind 1:1 NAT: local address → the address that peers reach it by.
    pub public_addresses: BTreeMap<IpAddr, Public>,
}

/// Differentiated services code points of copies, 0 to 63, by what is in them. Default 0: no mark.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DscpOf {
    /// Sound.
    pub audio: u8,
    /// Pictures.
    pub video: u8,
}

/// Which engine moves the media.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum EngineChoice {
    /// The kernel engine for each session that it can serve, the userspace engine for the others.
    #[default]
    Auto,
    /// The kernel engine alone: what it cannot serve is refused.
    Kernel,
    /// The userspace engine alone.
    Userspace,
}

/// How the userspace engine sends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum TransmitterChoice {
    /// By XDP where that is possible, by sockets elsewhere.
    #[default]
    Auto,
    /// By XDP; refuse to start where that is impossible. Peers that it cannot reach get theirs by sockets.
    Xdp,
    /// By sockets alone.
    Socket,
}

/// A family of SRTP protection profiles.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SrtpProfiles {
    /// AEAD_AES_128_GCM and AEAD_AES_256_GCM (RFC 7714).
    Gcm,
    /// AES_CM_128_HMAC_SHA1_80 (RFC 3711).
    #[serde(rename = "aes-cm-sha1-80")]
    AesCmSha1_80,
}

/// The XDP engine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Kernel {
    /// Interfaces to attach to; empty: those of the default routes.
    pub interfaces: Vec<String>,
    /// Default `auto`.
    pub mode: Mode,
    /// Most memory for keystream ahead of time, all sessions together, in MiB.
    pub keystream_memory_mb: u64,
    /// Viewers of one stream that the kernel engine serves.
    pub copies_per_pass: usize,
    /// Whether the kernel keeps run times of BPF programs while the server runs.
    pub bpf_stats: bool,
    /// Directory in which a private bpffs holds the maps for the inspection commands.
    pub pin_dir: PathBuf,
}

/// How XDP is attached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Native, and generic where the driver refuses native.
    #[default]
    Auto,
    /// In the driver; refuse to start otherwise.
    Native,
    /// In the stack, behind the driver. Slower; for tests.
    Generic,
}

impl From<Mode> for penstock_engine::kernel::Mode {
    fn from(mode: Mode) -> Self {
        match mode {
            Mode::Auto => Self::Auto,
            Mode::Native => Self::Native,
            Mode::Generic => Self::Generic,
        }
    }
}

/// Sizes of tables, fixed at start. What is beyond is refused with a reason.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Publishers and viewers together; default 1,024.
    pub sessions: usize,
    /// Incoming SSRCs; default 256.
    pub publisher_tracks: usize,
    /// Outgoing SSRCs, two for each viewer of a stream with sound; default 2,048.
    pub subscriber_tracks: usize,
    /// Both engines together; the kernel engine takes the first `kernel.copies_per_pass`. Default 2,048.
    pub viewers_per_stream: usize,
    /// Largest request body; a larger one gets 413. Default 65,536.
    pub http_body_bytes: usize,
    /// Open connections; beyond, new ones wait in the listen queue. Default 2,048.
    pub http_connections: usize,
    /// Signalling requests in work at a time; beyond, 503 with `Retry-After`. Default 1,024.
    pub http_requests: usize,
    /// What one source that is not WebRTC may send, kilobits per second.
    pub source_max_kbps: u64,
    /// Most that one publisher may send on average.
    pub publisher_max_kbps: u64,
}

/// Feedback to publishers and reports to viewers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Rtcp {
    /// Time between reports of one session.
    pub interval_ms: u64,
    /// Same for viewers of a stream that has a source.
    pub source_interval_ms: u64,
    /// The bit rate that publishers are told they may use (REMB).
    pub remb_max_kbps: u32,
    /// Least time between two keyframe requests to one publisher.
    pub pli_min_interval_ms: u64,
    /// Whether viewers get again what they lost.
    pub nack: bool,
    /// What each track keeps for it.
    pub nack_kb: usize,
}

/// What is kept of media for those who lose some of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Repair {
    /// Of all streams together.
    pub memory_mb: usize,
}

impl Config {
    /// Streams whose media comes from a camera or an encoder.
    pub fn sources(&self) -> BTreeMap<String, Stream> {
        let sources = self.streams.iter().filter(|(_, stream)| stream.has_source());
        sources.map(|(name, stream)| (name.clone(), stream.clone())).collect()
    }

    /// All that is secret, as far as it is there.
    pub fn secrets(&self) -> Vec<&Secret> {
        let (auth, http) = (&self.auth, &self.http);
        let named = [&auth.publish_token, &auth.play_token, &auth.api_token, &self.jwt.secret, &self.hooks.secret];
        let more = [&self.acme.eab_key].into_iter().chain(auth.users.iter().map(|user| &user.password));
        let ice = http.ice_servers.iter().flat_map(|server| [&server.secret, &server.credential]);
        named.into_iter().chain(more).chain(ice).filter(|secret| !secret.is_empty()).collect()
    }

    /// What engines keep of media for those who lose some of it, in bytes: all, and of one track.
    pub fn repair(&self) -> (usize, usize) {
        let memory = if self.rtcp.nack { self.repair.memory_mb << 20 } else { 0 };
        (memory, memory.min(self.rtcp.nack_kb * 1024))
    }
}

impl Default for Repair {
    fn default() -> Self {
        Self { memory_mb: 64 }
    }
}

/// Cameras and encoders that publish by RTSP (ANNOUNCE, RECORD).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Rtsp {
    /// Addresses to listen on; empty: none are taken.
    pub listen: Vec<SocketAddr>,
    /// Same with TLS (RTSPS).
    pub listen_tls: Vec<SocketAddr>,
    /// PEM files for TLS: the chain of certificates, our own first, and its key. Empty: those of `http`.
    pub certificate: PathBuf,
    /// PEM file of the private key.
    pub key: PathBuf,
    /// Open connections.
    pub connections: usize,
    /// What becomes of sound that browsers do not play.
    pub audio: penstock_rtp::description::Sound,
    /// New viewers begin with the last keyframe of what is published here.
    pub keyframe_cache: bool,
    /// Most memory for it, for each stream.
    pub keyframe_cache_kb: usize,
}

impl Rtsp {
    /// Whether anybody may come at all.
    pub fn is_open(&self) -> bool {
        !self.listen.is_empty() || !self.listen_tls.is_empty()
    }

    /// Size of a stream's keyframe cache; 0: it has none.
    pub fn kept_bytes(&self) -> usize {
        if self.keyframe_cache { self.keyframe_cache_kb * 1024 } else { 0 }
    }
}

/// What is changed by the API.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Api {
    /// Where streams are kept that outlive the process; empty: nowhere.
    pub streams_file: PathBuf,
}

/// Profiles of the running process.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Debug {
    /// Whether `/debug/pprof/` is there.
    pub profiles: bool,
    /// Whether others than this host may ask for it.
    pub remote: bool,
}

/// What is written to standard error.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    /// A level, or directives as `info,penstock::stream=debug`.
    pub level: String,
    /// Default `text`.
    pub format: LogFormat,
}

/// Shape of a log line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// One line for people, coloured on a terminal.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

impl Default for Http {
    fn default() -> Self {
        Self {
            listen: vec![SocketAddr::from((Ipv6Addr::UNSPECIFIED, 8080))],
            listen_tls: Vec::new(),
            certificate: PathBuf::new(),
            key: PathBuf::new(),
            health_listen: Vec::new(),
            redirect_to_https: false,
            allowed_origins: vec!["*".into()],
            header_timeout_ms: 10_000,
            request_timeout_ms: 10_000,
            trusted_proxies: Vec::new(),
            proxy_protocol: false,
            index: true,
            open_management: false,
            ice_servers: Vec::new(),
        }
    }
}

impl Http {
    /// Where HTTPS is, as the first of its addresses says.
    pub fn https_port(&self) -> Option<u16> {
        self.listen_tls.first().map(SocketAddr::port)
    }

    /// [`header_timeout_ms`](Self::header_timeout_ms) as a duration.
    pub fn header_timeout(&self) -> Duration {
        Duration::from_millis(self.header_timeout_ms)
    }

    /// [`request_timeout_ms`](Self::request_timeout_ms) as a duration.
    pub fn request_timeout(&self) -> Duration {
        Duration::from_millis(self.request_timeout_ms)
    }
}

impl Default for Media {
    fn default() -> Self {
        Self {
            port: 8443,
            tcp_port: 0,
            addresses: Vec::new(),
            engine: EngineChoice::Auto,
            transmitter: TransmitterChoice::Auto,
            respect_firewall: false,
            srtp_profiles: vec![SrtpProfiles::Gcm, SrtpProfiles::AesCmSha1_80],
            codecs: Vec::new(),
            dtls: Stack::default(),
            dscp: DscpOf::default(),
            socket_buffer_kb: 4096,
            public_addresses: BTreeMap::new(),
        }
    }
}

impl Config {
    /// Whether HTTP listens at this address and `media.tcp_port`, so that both share it.
    pub fn shares_tcp(&self, address: IpAddr) -> bool {
        let covers = |list: &[SocketAddr]| {
            let here = || list.iter().filter(|at| at.port() == self.media.tcp_port).map(SocketAddr::ip);
            // `[::]` takes IPv4 too, unless another one does.
            let both = here().all(|ip| ip.is_ipv6());
            here().any(|ip| ip == address || ip.is_unspecified() && (ip.is_ipv4() == address.is_ipv4() || both))
        };
        self.media.tcp_port != 0 && (covers(&self.http.listen) || covers(&self.http.listen_tls))
    }
}

impl Default for Kernel {
    fn default() -> Self {
        Self {
            interfaces: Vec::new(),
            mode: Mode::Auto,
            keystream_memory_mb: 128,
            copies_per_pass: MAX_COPIES,
            bpf_stats: false,
            pin_dir: "/run/penstock/bpf".into(),
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            sessions: 1024,
            publisher_tracks: 256,
            subscriber_tracks: 2048,
            viewers_per_stream: 2048,
            http_body_bytes: 64 * 1024,
            http_connections: 2048,
            http_requests: 1024,
            source_max_kbps: 100_000,
            publisher_max_kbps: 100_000,
        }
    }
}

impl Default for Rtcp {
    fn default() -> Self {
        Self {
            interval_ms: 1000,
            source_interval_ms: 3000,
            remb_max_kbps: 4_000,
            pli_min_interval_ms: 500,
            nack: true,
            nack_kb: 1024,
        }
    }
}

impl Rtcp {
    /// [`interval_ms`](Self::interval_ms) as a duration.
    pub fn interval(&self) -> Duration {
        Duration::from_millis(self.interval_ms)
    }

    /// [`source_interval_ms`](Self::source_interval_ms) as a duration.
    pub fn source_interval(&self) -> Duration {
        Duration::from_millis(self.source_interval_ms)
    }

    /// [`pli_min_interval_ms`](Self::pli_min_interval_ms) as a duration.
    pub fn pli_min_interval(&self) -> Duration {
        Duration::from_millis(self.pli_min_interval_ms)
    }
}

/// Reading from sources.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Ingest {
    /// What comes from all sources within this time is read, sealed and sent together.
    pub gather_ms: u64,
    /// Longest wait between two attempts to reach a source that fails.
    pub retry_max_s: u64,
}

impl Default for Ingest {
    fn default() -> Self {
        Self { gather_ms: 5, retry_max_s: 30 }
    }
}

impl Ingest {
    /// [`gather_ms`](Self::gather_ms) as a duration; 0: nothing waits for company.
    pub fn gather(&self) -> Duration {
        Duration::from_millis(self.gather_ms)
    }

    /// [`retry_max_s`](Self::retry_max_s) as a duration.
    pub fn retry_max(&self) -> Duration {
        Duration::from_secs(self.retry_max_s)
    }
}

impl Default for Rtsp {
    fn default() -> Self {
        Self {
            listen: Vec::new(),
            listen_tls: Vec::new(),
            certificate: PathBuf::new(),
            key: PathBuf::new(),
            connections: 256,
            audio: Default::default(),
            keyframe_cache: false,
            keyframe_cache_kb: source::default_keyframe_cache_kb(),
        }
    }
}

impl Default for Log {
    fn default() -> Self {
        Self { level: "info".into(), format: LogFormat::Text }
    }
}
