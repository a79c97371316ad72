//! Sources that are not WebRTC: cameras that the server connects to by RTSP, those that publish here by RTSP,
//! and encoders that send plain RTP.
//!
//! | file | does |
//! | --- | --- |
//! | `source` | one source of the configuration: connects, tries again |
//! | `rtsp` | the conversation with a camera; the server for those that publish |
//! | `plain` | the ports for plain RTP |
//! | `probe` | a camera looked at without a server |
//! | `secure` | SRTP of sources |
//! | `udp` | a track's two ports, whoever uses them |
//! | `media` | a source's tracks and their packets |
//! | `sound` | AAC turned into Opus |
//! | `play` | what those who play by RTSP ask of the control task |
//! | `pace` | how fast a source may send |
//! | `lookout`, `reason` | why viewers may see nothing, while it plays |
//! | `feed` | into the engine, in batches |
//! | `thread` | the thread on which all of them live |
//! | `handle` | the control task's end of one |
//! | `status`, `error`, `totals` | what log, API and metrics say |
//!
//! All sources live on one thread (`thread`).

mod error;
mod feed;
mod handle;
mod lookout;
mod media;
mod pace;
mod place;
mod plain;
pub mod play;
pub mod probe;
mod reason;
mod rtsp;
mod secure;
mod sound;
mod source;
mod status;
mod thread;
mod totals;
mod udp;

use std::{
    collections::BTreeMap,
    io,
    sync::Arc,
    thread::JoinHandle,
    time::{Duration, Instant},
};

use rustls::server::ResolvesServerCert;
use tokio::sync::{mpsc, oneshot, watch};

pub use handle::Handle;
pub use rtsp::outside;
pub use status::{State, Status};
pub use totals::Totals;

use penstock_engine::{Engine, PublisherTrackId, Sources};
use penstock_media::codec::Format;

use crate::{config, rights::Rights};

/// What sources report to the control task.
#[derive(Debug)]
pub enum Event {
    /// Somebody wants to publish by RTSP. `Err`: why he must not, in words.
    Publish {
        /// The name that it wants.
        stream: String,
        /// Ours from then on, if the answer is `Ok`.
        handle: Handle,
        /// The publisher waits for it, a few seconds at most.
        reply: oneshot::Sender<Result<(), String>>,
    },
    /// A player by RTSP asks for something.
    Player {
        /// Who.
        player: play::PlayerId,
        /// What.
        asked: play::Asked,
    },
    /// Who published by RTSP has been gone for a while, and nobody watches.
    Released {
        /// The name that is free again.
        stream: String,
    },
    /// The source's tracks are in the engine, in place of those it had before.
    Described {
        /// Of this source.
        stream: String,
        /// All of them, at most one of each kind.
        tracks: Vec<SourceTrack>,
    },
    /// It has no media now; viewers that wait for a description need not wait longer.
    Failed {
        /// Of this source.
        stream: String,
        /// For the viewers that waited, without password.
        why: String,
    },
    /// The source's wall clock (NTP format) and the timestamp of the same moment as viewers know it.
    SenderReport {
        /// Of this source.
        stream: String,
        /// The one that the report is about.
        track: PublisherTrackId,
        /// Seconds since 1900 in the upper 32 bits, their fraction in the lower.
        ntp: u64,
        /// After the timeline has made it continuous.
        rtp: u32,
        /// When the report was read.
        at: Instant,
        /// Of this connection: the wall clock may be another one than before.
        first: bool,
    },
}

/// A track of a source.
#[derive(Clone, Debug)]
pub struct SourceTrack {
    /// As viewers are offered it, which may differ from the camera's own.
    pub format: Format,
    /// Of the userspace engine.
    pub id: PublisherTrackId,
}

/// What `Ingest` must be told.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// Streams with a source of their own.
    pub streams: BTreeMap<String, config::Stream>,
    /// The RTSP server, for those who publish here.
    pub rtsp: config::Rtsp,
    /// Certificates for RTSPS, where it has none of its own.
    pub identity: Option<Arc<dyn ResolvesServerCert>>,
    /// Who may publish and play.
    pub rights: Rights,
    /// Most that one source may send.
    pub source_max_kbps: u64,
    /// What each video track keeps of its last packets, for viewers that lost some.
    pub recent_bytes: usize,
    /// What comes within this time is read, sealed and sent together.
    pub gather: Duration,
    /// Longest wait between two attempts to reach a source that fails.
    pub retry_max: Duration,
}

/// All sources. Dropping it ends them.
#[derive(Default)]
pub struct Ingest {
    /// By stream; one that is dropped disconnects.
    pub sources: BTreeMap<String, Handle>,
    /// What the RTSP server has done, by name.
    pub rtsp: rtsp::push::Counters,
    /// What all sources have met.
    pub totals: Totals,
    settings: Settings,
    events: Option<mpsc::UnboundedReceiver<Event>>,
    /// To the thread; dropped, the thread ends with its last source.
    begin: Option<mpsc::UnboundedSender<thread::Begin>>,
    /// Dropped, it ends the RTSP server.
    running: Option<watch::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Ingest {
    /// Starts the thread, if there is something to do. After the engine has got its sockets.
    ///
    /// # Errors
    /// The engine takes no sources, an address is in use, or the system gives no thread.
    pub fn start(settings: &Settings, engine: &Arc<dyn Engine>) -> io::Result<Self> {
        let mut ingest = Self::default();
        ingest.settings = settings.clone();
        if settings.rtsp.is_open() {
            ingest.start_thread(engine)?;
        }
        for (name, config) in &settings.streams {
            ingest.add(name, config, engine)?;
        }
        Ok(ingest)
    }

    /// Begins with one more source, or with other settings of one.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub fn add(&mut self, name: &str, config: &config::Stream, engine: &Arc<dyn Engine>) -> io::Result<()> {
        if self.thread.is_none() {
            self.start_thread(engine)?;
        }
        let (handle, status, wanted) = Handle::new(config.origin(), config.on_demand, false);
        let begin = thread::Begin { name: name.into(), config: config.clone(), status, wanted };
        let sent = self.begin.as_ref().is_some_and(|thread| thread.send(begin).is_ok());
        if !sent {
            return Err(io::Error::other("the thread of the sources has ended"));
        }
        // The one before ends with its handle.
        self.sources.insert(name.into(), handle);
        Ok(())
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "sources and publishers are bounded, and each tells once what changed"
    )]
    fn start_thread(&mut self, engine: &Arc<dyn Engine>) -> io::Result<()> {
        let feeder = engine.sources().and_then(Sources::feeder).ok_or_else(|| {
            io::Error::other(
                "`rtsp.listen`, `rtsp.listen_tls` and streams with a source need the userspace engine: \
                 set `media.engine` to \"auto\"",
            )
        })?;
        let (events, received) = mpsc::unbounded_channel();
        let (begin, begins) = mpsc::unbounded_channel();
        let (running, stop) = watch::channel(());
        let work = thread::Work {
            engine: Arc::clone(engine),
            feeder,
            listeners: rtsp::push::bind(&self.settings.rtsp, self.settings.identity.clone())?,
            settings: self.settings.clone(),
            counted: self.rtsp.clone(),
            totals: self.totals.clone(),
            events,
            begins,
            stop,
        };
        self.thread = Some(work.start()?);
        (self.events, self.begin, self.running) = (Some(received), Some(begin), Some(running));
        Ok(())
    }

    /// The next event; never, if there is no source.
    pub async fn event(&mut self) -> Option<Event> {
        match &mut self.events {
            Some(events) => events.recv().await,
            None => std::future::pending().await,
        }
    }

    /// Ends all sources and waits for their goodbyes.
    pub fn stop(&mut self) {
        self.sources.clear();
        (self.begin, self.running) = (None, None);
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the thread of the sources had panicked");
        }
    }
}

impl Drop for Ingest {
    fn drop(&mut self) {
        self.stop();
    }
}
