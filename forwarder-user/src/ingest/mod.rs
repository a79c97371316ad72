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
//! | `feed` | into the engine, in batches |
//! | `status`, `error`, `totals` | what log, API and metrics say |
//!
//! All sources live on one thread. It reads what has arrived on all connections, has it sealed and sent in
//! one batch, and lets some milliseconds pass before it looks at the sockets again.

mod error;
mod feed;
mod media;
mod pace;
mod place;
mod plain;
mod rtsp;
mod source;
mod status;
mod totals;
mod udp;

use std::{
    cell::RefCell,
    collections::BTreeMap,
    io,
    rc::Rc,
    sync::Arc,
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use tokio::{
    sync::{mpsc, oneshot, watch},
    task::{JoinSet, LocalSet},
};

pub use status::{State, Status};
pub use totals::Totals;

use penstock_engine::{Engine, PublisherTrackId};
use penstock_media::codec::Format;

use crate::config::{self, Secret};

/// Connections that are read between two looks at the sockets: one look finds most that a batch consists of.
const TASKS: u32 = 512;

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
    /// What each video track keeps of its last packets, for viewers that lost some.
    pub recent_bytes: usize,
    /// What comes within this time is read, sealed and sent together.
    pub gather: Duration,
}

/// All sources. Dropping it ends them.
#[derive(Default)]
pub struct Ingest {
    pub sources: BTreeMap<String, Handle>,
    /// What the RTSP server has done, by name.
    pub rtsp: rtsp::push::Counters,
    /// What all sources have met.
    pub totals: Totals,
    settings: Settings,
    events: Option<mpsc::UnboundedReceiver<Event>>,
    /// To the thread; dropped, the thread ends with its last source.
    begin: Option<mpsc::UnboundedSender<Begin>>,
    /// Dropped, it ends the RTSP server.
    running: Option<watch::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// A source that is to begin.
struct Begin {
    name: String,
    config: config::Stream,
    status: status::Shared,
    wanted: watch::Receiver<bool>,
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
        let begin = Begin { name: name.into(), config: config.clone(), status, wanted };
        let sent = self.begin.as_ref().is_some_and(|thread| thread.send(begin).is_ok());
        if !sent {
            return Err(io::Error::other("the thread of the sources has ended"));
        }
        // The one before ends with its handle.
        self.sources.insert(name.into(), handle);
        Ok(())
    }

    fn start_thread(&mut self, engine: &Arc<dyn Engine>) -> io::Result<()> {
        let feeder = engine.feeder().ok_or_else(|| {
            io::Error::other(
                "`rtsp.listen`, `rtsp.listen_tls` and streams with a source need the userspace engine: \
                 set `media.engine` to \"auto\"",
            )
        })?;
        let listeners = rtsp::push::bind(&self.settings.rtsp)?;
        let (events, received) = mpsc::unbounded_channel();
        let (begin, mut begins) = mpsc::unbounded_channel::<Begin>();
        let (running, stop) = watch::channel(());
        let (engine, settings, counted) = (Arc::clone(engine), self.settings.clone(), self.rtsp.clone());
        let totals = self.totals.clone();
        let runtime = tokio::runtime::Builder::new_current_thread().event_interval(TASKS).enable_all().build()?;
        let run = move || {
            let scratch = Rc::new(RefCell::new(vec![]));
            let feed = Rc::new(RefCell::new(feed::Feed::new(feeder)));
            let bytes_per_second = settings.source_max_kbps * 1000 / 8;
            let gather = settings.gather;
            let recent = settings.recent_bytes;
            let feed_of_all = Rc::clone(&feed);
            let place = place::Place { engine, feed: feed_of_all, scratch, events, totals, bytes_per_second, recent };
            let local = LocalSet::new();
            let all = async {
                let mut tasks = JoinSet::new();
                tasks.spawn_local(rtsp::push::run(listeners, settings, place.clone(), counted, stop));
                loop {
                    tokio::select! {
                        begun = begins.recv() => match begun {
                            Some(Begin { name, config, status, wanted }) => {
                                let source = source::Source::new(name, config, place.clone(), status, wanted);
                                tasks.spawn_local(source.run());
                            }
                            None => break,
                        },
                        Some(ended) = tasks.join_next() => report_panic(&ended),
                    }
                }
                while let Some(ended) = tasks.join_next().await {
                    report_panic(&ended);
                }
            };
            let mut all = std::pin::pin!(all);
            while runtime.block_on(local.run_until(async {
                let behind = feed.borrow().behind();
                tokio::select! {
                    () = &mut all => false,
                    () = batch(&feed) => true,
                    () = behind => true,
                }
            })) {
                let age = feed.borrow_mut().flush();
                // Outside the runtime, so that nobody looks at the sockets and all that comes meanwhile is
                // found at one look. Connections, names and TLS wait too, which does not matter to them.
                thread::sleep(gather.saturating_sub(age));
            }
            // Names that are still being resolved are not waited for.
            runtime.shutdown_background();
        };
        self.thread = Some(thread::Builder::new().name("penstock-ingest".into()).spawn(run)?);
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

/// Waits for packets, and then until all connections have been read that had something: the runtime runs a
/// limited number of tasks in turn, and a turn that brings nothing is taken for the last.
async fn batch(feed: &RefCell<feed::Feed>) {
    let bell = feed.borrow().bell();
    bell.notified().await;
    let mut seen = 0;
    while seen != feed.borrow().packets() {
        seen = feed.borrow().packets();
        tokio::task::yield_now().await;
    }
}

fn report_panic(ended: &Result<(), tokio::task::JoinError>) {
    if ended.is_err() {
        tracing::error!("the task of a source ended by a panic");
    }
}

impl Drop for Ingest {
    fn drop(&mut self) {
        self.stop();
    }
}
