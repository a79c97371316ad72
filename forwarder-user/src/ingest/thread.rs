//! The thread on which all sources live. It reads what has arrived on all connections, has it sealed and sent in one
//! batch, and lets some milliseconds pass before it looks at the sockets again.

use std::{
    cell::RefCell,
    future::Future,
    io,
    pin::{Pin, pin},
    rc::Rc,
    sync::Arc,
    thread::{self, JoinHandle},
};

use penstock_engine::{Engine, Feeder};
use tokio::{
    runtime::{Builder, Runtime},
    sync::{mpsc, watch},
    task::{JoinError, JoinSet, LocalSet},
};

use super::{Event, Settings, Totals, feed::Feed, place::Place, rtsp::push, source::Source, status};
use crate::config;

/// Connections that are read between two looks at the sockets: one look finds most that a batch consists of.
const TASKS: u32 = 512;

/// A source that is to begin.
pub(super) struct Begin {
    pub(super) name: String,
    pub(super) config: config::Stream,
    pub(super) status: status::Shared,
    pub(super) wanted: watch::Receiver<bool>,
}

/// All that the thread needs.
pub(super) struct Work {
    pub(super) engine: Arc<dyn Engine>,
    pub(super) feeder: Box<dyn Feeder>,
    /// Of the RTSP server.
    pub(super) listeners: push::Ports,
    pub(super) settings: Settings,
    pub(super) counted: push::Counters,
    pub(super) totals: Totals,
    pub(super) events: mpsc::UnboundedSender<Event>,
    /// Closed, the thread ends with its last source.
    pub(super) begins: mpsc::UnboundedReceiver<Begin>,
    /// Ends the RTSP server.
    pub(super) stop: watch::Receiver<()>,
}

impl Work {
    /// Starts the thread.
    ///
    /// # Errors
    /// The system gives none, or no runtime.
    pub(super) fn start(self) -> io::Result<JoinHandle<()>> {
        let runtime = Builder::new_current_thread().event_interval(TASKS).enable_all().build()?;
        thread::Builder::new().name("penstock-ingest".into()).spawn(move || self.run(runtime))
    }

    fn run(self, runtime: Runtime) {
        let Self { engine, feeder, listeners, settings, counted, totals, events, begins, stop } = self;
        let gather = settings.gather;
        let feed = Rc::new(RefCell::new(Feed::new(feeder)));
        let place = Place {
            engine,
            feed: Rc::clone(&feed),
            scratch: Rc::default(),
            events,
            totals,
            sounds: Rc::default(),
            bytes_per_second: settings.source_max_kbps * 1000 / 8,
            recent: settings.recent_bytes,
            retry_max: settings.retry_max,
        };
        let local = LocalSet::new();
        let server = push::run(listeners, settings, place.clone(), counted, stop);
        let mut all = pin!(supervise(server, begins, &place));
        while runtime.block_on(local.run_until(turn(all.as_mut(), &feed))) {
            let age = feed.borrow_mut().flush();
            // Outside the runtime, so that nobody looks at the sockets and all that comes meanwhile is
            // found at one look. Connections, names and TLS wait too, which does not matter to them.
            thread::sleep(gather.saturating_sub(age));
        }
        // Names that are still being resolved are not waited for.
        runtime.shutdown_background();
    }
}

/// Runs the RTSP server, and sources as they are wanted, until there is none and none will come.
async fn supervise(
    server: impl Future<Output = ()> + 'static,
    mut begins: mpsc::UnboundedReceiver<Begin>,
    place: &Place,
) {
    let mut tasks = JoinSet::new();
    tasks.spawn_local(server);
    loop {
        tokio::select! {
            begun = begins.recv() => {
                let Some(Begin { name, config, status, wanted }) = begun else { break };
                tasks.spawn_local(Source::new(name, config, place.clone(), status, wanted).run());
            }
            Some(ended) = tasks.join_next() => report_panic(&ended),
        }
    }
    while let Some(ended) = tasks.join_next().await {
        report_panic(&ended);
    }
}

/// Until there is something to send. `false`: all has ended.
async fn turn(all: Pin<&mut impl Future<Output = ()>>, feed: &RefCell<Feed>) -> bool {
    let behind = feed.borrow().behind();
    tokio::select! {
        () = all => false,
        () = batch(feed) => true,
        () = behind => true,
    }
}

/// Waits for packets, and then until all connections have been read that had something: the runtime runs a
/// limited number of tasks in turn, and a turn that brings nothing is taken for the last.
async fn batch(feed: &RefCell<Feed>) {
    let bell = feed.borrow().bell();
    bell.notified().await;
    let mut seen = 0;
    while seen != feed.borrow().packets() {
        seen = feed.borrow().packets();
        tokio::task::yield_now().await;
    }
}

fn report_panic(ended: &Result<(), JoinError>) {
    if ended.is_err() {
        tracing::error!("the task of a source ended by a panic");
    }
}
