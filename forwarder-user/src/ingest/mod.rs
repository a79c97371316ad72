//! Sources that are not WebRTC: cameras, which the server connects to by RTSP.
//!
//! | file | does |
//! | --- | --- |
//! | `source` | one source: connects, feeds the engine, tries again |
//! | `rtsp` | the conversation with a camera |
//! | `description` | what its SDP says |
//! | `rtp` | makes its RTP fit for browsers |
//! | `feed` | into the engine, in batches |
//! | `status`, `error` | what log and API say |
//!
//! All sources live on one thread. It reads what has arrived on all connections, has it sealed and sent in
//! one batch, and lets some milliseconds pass before it looks at the sockets again.

mod description;
mod error;
mod feed;
pub mod rtp;
mod rtsp;
mod sender_report;
mod source;
mod status;

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
    sync::{mpsc, watch},
    task::{JoinSet, LocalSet},
};

pub use status::{State, Status};

use crate::{
    config,
    engine::{Engine, PublisherTrackId},
    session::codec::Format,
};

/// What sources report to the control task.
#[derive(Debug)]
pub enum Event {
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
    /// The URL without credentials.
    pub url: String,
    pub on_demand: bool,
    wanted: watch::Sender<bool>,
    status: status::Shared,
}

impl Handle {
    /// Somebody watches, or nobody does.
    pub fn want(&self, wanted: bool) {
        self.wanted.send_if_modified(|old| std::mem::replace(old, wanted) != wanted);
    }

    pub fn status(&self) -> Status {
        self.status.get()
    }
}

/// All sources. Dropping it ends them.
#[derive(Default)]
pub struct Ingest {
    pub sources: BTreeMap<String, Handle>,
    events: Option<mpsc::UnboundedReceiver<Event>>,
    /// What comes within this time is sent together.
    gather: Duration,
    /// To the thread; dropped, it ends with its last source.
    begin: Option<mpsc::UnboundedSender<Begin>>,
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
    /// Starts the thread, if there is a source. After the engine has got its sockets. `gather`: what comes
    /// within this time is sent together.
    ///
    /// # Errors
    /// The engine takes no sources, or the system gives no thread.
    pub fn start(
        streams: &BTreeMap<String, config::Stream>,
        gather: Duration,
        engine: &Arc<dyn Engine>,
    ) -> io::Result<Self> {
        let mut ingest = Self::default();
        ingest.gather = gather;
        for (name, config) in streams {
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
        let (wanted, watched) = watch::channel(false);
        let status = status::Shared::default();
        let begin = Begin { name: name.into(), config: config.clone(), status: status.clone(), wanted: watched };
        let sent = self.begin.as_ref().is_some_and(|thread| thread.send(begin).is_ok());
        if !sent {
            return Err(io::Error::other("the thread of the sources has ended"));
        }
        let (url, on_demand) = (config.source.to_string(), config.on_demand);
        // The one before ends with its handle.
        self.sources.insert(name.into(), Handle { url, on_demand, wanted, status });
        Ok(())
    }

    fn start_thread(&mut self, engine: &Arc<dyn Engine>) -> io::Result<()> {
        let feeder = engine.feeder().ok_or_else(|| {
            io::Error::other("streams with a `source` need the userspace engine: set `media.engine` to \"auto\"")
        })?;
        let (events, received) = mpsc::unbounded_channel();
        let (begin, mut begins) = mpsc::unbounded_channel::<Begin>();
        let (engine, gather) = (Arc::clone(engine), self.gather);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let run = move || {
            let scratch = Rc::new(RefCell::new(vec![]));
            let feed = Rc::new(RefCell::new(feed::Feed::new(feeder)));
            let place = source::Place { engine, feed: Rc::clone(&feed), scratch, events };
            let local = LocalSet::new();
            local.spawn_local(feed::run(Rc::clone(&feed)));
            let all = async {
                let mut tasks = JoinSet::new();
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
            let sent = Rc::clone(&feed.borrow().sent);
            loop {
                let more = runtime.block_on(local.run_until(async {
                    tokio::select! {
                        () = &mut all => false,
                        () = sent.notified() => true,
                    }
                }));
                if !more {
                    break;
                }
                // Outside the runtime, so that nobody looks at the sockets and all that comes meanwhile is
                // found at one look. Connections, names and TLS wait too, which does not matter to them.
                thread::sleep(gather.saturating_sub(feed.borrow().batch_age()));
            }
            // Names that are still being resolved are not waited for.
            runtime.shutdown_background();
        };
        self.thread = Some(thread::Builder::new().name("penstock-ingest".into()).spawn(run)?);
        (self.events, self.begin) = (Some(received), Some(begin));
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
        self.begin = None;
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the thread of the sources had panicked");
        }
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
