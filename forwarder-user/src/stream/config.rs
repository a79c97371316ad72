//! What the control task must be told.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::config::Public;
use crate::ingest;
use penstock_engine::Dscp;
use penstock_engine::io::tcp::Connections;
use penstock_media::codec::Codec;
use penstock_webrtc::dtls::Stack;

/// One UDP socket for STUN, DTLS, RTCP and RTP of unknown SSRCs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MediaAddress {
    /// Address and port that the socket is bound to. The address must not be a wildcard: it is
    /// the one from which copies leave. Port 0 lets the system choose (tests).
    pub bind: SocketAddr,
    /// What peers are told instead, where they see us through a 1:1 NAT or a forwarded port.
    pub advertise: Option<Public>,
    /// Whether they may connect by TCP as well.
    pub tcp: Option<TcpPort>,
}

/// Where peers may connect by TCP (RFC 6544), at the same address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcpPort {
    /// Its number; 0 lets the system choose (tests).
    pub port: u16,
    /// HTTP listens there, and hands such connections over.
    pub shared: bool,
}

impl MediaAddress {
    /// What peers are told of the socket that is bound to `bound`.
    pub(super) fn told(&self, bound: SocketAddr) -> SocketAddr {
        self.advertise.map_or(bound, |public| public.at(bound.port()))
    }

    /// What peers are told of the TCP port at `bound`. A port that is forwarded under another number is so for both, if
    /// they are the same here.
    pub(super) fn told_of_tcp(&self, bound: SocketAddr) -> SocketAddr {
        match self.advertise {
            Some(public) if bound.port() == self.bind.port() => public.at(bound.port()),
            Some(public) => SocketAddr::new(public.address, bound.port()),
            None => bound,
        }
    }
}

impl From<SocketAddr> for MediaAddress {
    fn from(bind: SocketAddr) -> Self {
        Self { bind, advertise: None, tcp: None }
    }
}

/// Settings of the control task. `StreamConfig::new` gives the defaults that the fields name.
#[derive(Clone, Debug)]
pub struct StreamConfig {
    /// Media sockets, one per local address, in the order in which peers are told of them.
    pub media: Vec<MediaAddress>,
    /// Publishers and viewers together; more are refused with 503. Default 1,000.
    pub max_sessions: usize,
    /// A session that has no keys after this time is dropped. Default 15 s.
    pub connect_timeout: Duration,
    /// How often RR go to publishers and SR to viewers. Default 1 s.
    pub report_interval: Duration,
    /// Same for viewers of a stream that has a source. Default 3 s.
    pub source_report_interval: Duration,
    /// How often REMB goes to publishers. Default 500 ms.
    pub remb_interval: Duration,
    /// First REMB of a publisher, bit/s; it doubles each second up to `remb_max`. Default 1.5 Mbit/s.
    pub remb_start: u64,
    /// Highest REMB, bit/s. Default 4 Mbit/s.
    pub remb_max: u64,
    /// Most that a publisher's media may have on average, bit/s. Default 100 Mbit/s.
    pub publisher_max: u64,
    /// Least time between two keyframe requests to a publisher. Default 500 ms.
    pub keyframe_interval: Duration,
    /// Whether what viewers lose is sent again, for which the engine keeps packets. Default true.
    pub nack: bool,
    /// Whether peers may have AES_CM_128_HMAC_SHA1_80. Default true.
    pub counter_mode: bool,
    /// Codecs that publishers are asked for, the best first. Default none: what every browser decodes.
    pub codecs: Vec<Codec>,
    /// Most viewers of some streams, by name. Default none.
    pub max_viewers: BTreeMap<String, usize>,
    /// Who makes DTLS handshakes. Default OpenSSL.
    pub dtls: Stack,
    /// How copies of sound and of pictures are marked. Default not at all.
    pub dscp: [Dscp; 2],
    /// How often a session with fresh consent renews its lease in the engine, and its route is looked
    /// at. The lease lasts 30 s, counted from here, so media never outlives consent by more. Default 6 s.
    pub refresh_interval: Duration,
    /// Receive and send buffer of each media socket, bytes, as far as the system grants it.
    /// Default 4 MiB.
    pub socket_buffer: usize,
    /// Peers by TCP, if any may come so. Default none.
    pub tcp: Option<Arc<Connections>>,
    /// Sources that are not WebRTC. Default none.
    pub ingest: ingest::Settings,
}

impl StreamConfig {
    /// Defaults for these sockets.
    pub fn new(media: Vec<MediaAddress>) -> Self {
        Self {
            media,
            max_sessions: 1000,
            connect_timeout: Duration::from_secs(15),
            report_interval: Duration::from_secs(1),
            source_report_interval: Duration::from_secs(3),
            remb_interval: Duration::from_millis(500),
            remb_start: 1_500_000,
            remb_max: 4_000_000,
            publisher_max: 100_000_000,
            keyframe_interval: Duration::from_millis(500),
            nack: true,
            counter_mode: true,
            codecs: vec![],
            max_viewers: BTreeMap::new(),
            dtls: Stack::default(),
            dscp: Default::default(),
            refresh_interval: Duration::from_secs(6),
            socket_buffer: 4 << 20,
            tcp: None,
            ingest: ingest::Settings::default(),
        }
    }
}

/// What of it may change while the server runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LiveConfig {
    /// As [`StreamConfig::report_interval`].
    pub report_interval: Duration,
    /// As [`StreamConfig::source_report_interval`].
    pub source_report_interval: Duration,
    /// As [`StreamConfig::remb_max`], bit/s.
    pub remb_max: u64,
    /// As [`StreamConfig::keyframe_interval`].
    pub keyframe_interval: Duration,
    /// As [`StreamConfig::counter_mode`]; asked at the end of each handshake.
    pub counter_mode: bool,
    /// As [`StreamConfig::codecs`].
    pub codecs: Vec<Codec>,
    /// As [`StreamConfig::max_viewers`]; those who are there stay.
    pub max_viewers: BTreeMap<String, usize>,
}

impl StreamConfig {
    /// Takes over new values; sessions that are there go on.
    pub fn set(&mut self, live: LiveConfig) {
        let LiveConfig {
            report_interval,
            source_report_interval,
            remb_max,
            keyframe_interval,
            counter_mode,
            codecs,
            max_viewers,
        } = live;
        self.codecs = codecs;
        self.max_viewers = max_viewers;
        self.report_interval = report_interval;
        self.source_report_interval = source_report_interval;
        self.remb_max = remb_max;
        self.keyframe_interval = keyframe_interval;
        self.counter_mode = counter_mode;
    }
}
