//! Sources that are not WebRTC: cameras that the server connects to by RTSP, those that publish here by RTSP,
//! and encoders that send plain RTP.
//!
//! | file | does |
//! | --- | --- |
//! | `source` | one source of the configuration: connects, tries again |
//! | `rtsp` | the conversation with a camera; the server for those that publish |
//! | `plain` | the ports for plain RTP |
//! | `udp` | a track's two ports, whoever uses them |
//! | `media` | a source's tracks and their packets |
//! | `pace` | how fast a source may send |
//! | `description` | what its SDP says |
//! | `rtp` | makes its RTP fit for browsers |
//! | `feed` | into the engine, in batches |
//! | `status`, `error` | what log and API say |
//!
//! All sources live on one thread, which reads what has arrived on all connections before it seals.

mod description;
mod error;
mod feed;
mod media;
mod pace;
mod place;
mod plain;
pub mod rtp;
mod rtsp;
mod sender_report;
mod source;
mod status;
mod udp;

use std::{
    cell::RefCell,
    collections::BTreeMap,
    io,
    rc::Rc,
    sync::Arc,
    thread::{self, JoinHandle},
    time::Instant,
};

use tokio::{
    sync::{mpsc, oneshot, watch},
    task::LocalSet,
};

pub use status::{State, Status};

use crate::{
    config::{self, Secret},
    engine::{Engine, PublisherTrackId},
    session::codec::Format,
};

/// What sources report to the control task.
#[derive(Debug)]
pub enum Event {
    /// Somebody wants to publish by RTSP. `Err`: why he must not, in words.
    Publish { stream: String, handle: Handle, reply: oneshot::Sender<Result<(), String>> },
    /// Who published by RTSP has been gone for a while, and nobody watches.
    Released { stream: String },
    /// The source's tracks are in the engine, in place of those it had before.
    Described { stream: String, tracks: Vec<SourceTrack> },
    /// It has no media now; viewers that wait for a description need not wait longer.
    Failed { stream: String, why: String },
    /// The source's wall clock (NTP format) and the timestamp of the same moment as viewers know it.
    SenderReport { stream: String, track: PublisherTrackId, ntp: u64, rtp: u32, at: Instant, first: bool },
}

/// A track of a source.
#[derive(Clone, Debug)]
pub struct SourceTrack {
    pub format: Format,
    pub id: PublisherTrackId,
}

/// The control task's end of one source.
#[derive(Debug)]
pub struct Handle {
    /// The URL without credentials, or words.
    pub url: String,
    pub on_demand: bool,
    /// It publishes here by RTSP.
    pub pushed: bool,
    wanted: watch::Sender<bool>,
    status: status::Shared,
}

impl Handle {
    /// With the source's own ends.
    fn new(url: String, on_demand: bool, pushed: bool) -> (Self, status::Shared, watch::Receiver<bool>) {
        let (wanted, watched) = watch::channel(false);
        let status = status::Shared::default();
        (Self { url, on_demand, pushed, wanted, status: status.clone() }, status, watched)
    }

    /// Somebody watches, or nobody does.
    pub fn want(&self, wanted: bool) {
        self.wanted.send_if_modified(|old| std::mem::replace(old, wanted) != wanted);
    }

    pub fn status(&self) -> Status {
        self.status.get()
    }
}

/// What `Ingest` must be told.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// Streams with a source of their own.
    pub streams: BTreeMap<String, config::Stream>,
    pub rtsp: config::Rtsp,
    /// The password for those who publish; empty: none is needed.
    pub publish_token: Secret,
    /// Most that one source may send.
    pub source_max_kbps: u64,
}

/// All sources. Dropping it ends them.
#[derive(Default)]
pub struct Ingest {
    pub sources: BTreeMap<String, Handle>,
    /// What the RTSP server has done, by name.
    pub rtsp: rtsp::push::Counters,
    events: Option<mpsc::UnboundedReceiver<Event>>,
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
        if settings.streams.is_empty() && settings.rtsp.listen.is_empty() {
            return Ok(Self::default());
        }
        let feeder = engine.feeder().ok_or_else(|| {
            io::Error::other(
                "`rtsp.listen` and streams with a source need the userspace engine: set `media.engine` to \"auto\"",
            )
        })?;
        let listeners = rtsp::push::bind(&settings.rtsp.listen)?;
        let (events, received) = mpsc::unbounded_channel();
        let (running, stop) = watch::channel(());
        let counters = rtsp::push::Counters::default();
        let (mut sources, mut begun) = (BTreeMap::new(), vec![]);
        for (name, config) in &settings.streams {
            let (handle, status, watched) = Handle::new(config.origin(), config.on_demand, false);
            begun.push((name.clone(), config.clone(), status, watched));
            sources.insert(name.clone(), handle);
        }
        let (engine, settings, counted) = (Arc::clone(engine), settings.clone(), counters.clone());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let run = move || {
            let scratch = Rc::new(RefCell::new(vec![]));
            let feed = Rc::new(RefCell::new(feed::Feed::new(feeder)));
            let bytes_per_second = settings.source_max_kbps * 1000 / 8;
            let place = place::Place { engine, feed: Rc::clone(&feed), scratch, events, bytes_per_second };
            let local = LocalSet::new();
            let mut tasks = vec![];
            for (name, config, status, wanted) in begun {
                tasks.push(local.spawn_local(source::Source::new(name, config, place.clone(), status, wanted).run()));
            }
            local.spawn_local(feed::run(feed));
            tasks.push(local.spawn_local(rtsp::push::run(listeners, settings, place, counted, stop)));
            runtime.block_on(local.run_until(async {
                for task in tasks {
                    if task.await.is_err() {
                        tracing::error!("the task of a source ended by a panic");
                    }
                }
            }));
            // Names that are still being resolved are not waited for.
            runtime.shutdown_background();
        };
        let thread = thread::Builder::new().name("penstock-ingest".into()).spawn(run)?;
        let running = Some(running);
        Ok(Self { sources, rtsp: counters, events: Some(received), running, thread: Some(thread) })
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
        self.running = None;
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
