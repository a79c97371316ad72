//! The producer: keeps every ring filled some packets ahead.
//!
//! All rings of a stream advance together, because outgoing indices follow from incoming ones by fixed
//! offsets. So there is one window for each publisher track: when its packets reach the index that the
//! window names, the kernel wakes this thread, which fills the rings of the publisher and of all its
//! subscribers up to the new end. Nothing moves, nobody wakes.

use std::{
    collections::HashMap,
    io::{self, ErrorKind, Read as _},
    os::{fd::AsFd as _, unix::net::UnixStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc,
    },
    time::{Duration, Instant},
};

use aya::maps::{MapData, RingBuf};
use forwarder_common::{
    ExtendedSeq,
    maps::{KeystreamLow, Window},
};
use memmap2::MmapRaw;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::{
    super::slots::Slots,
    compute::{self, Backend, Job, Key},
    install::{Change, Owner},
    ring::{ENTRY_BYTES, Ring},
    window::{self, BEHIND, Rate},
};
use crate::engine::Kind;

/// What the engine tells the producer.
pub enum Command {
    /// A publisher track: `next` is the first index that it may have.
    AddPublisher {
        handle: u32,
        source: Source,
        next: ExtendedSeq,
        kind: Kind,
    },
    /// One of its subscriber tracks: outgoing index = incoming index + offset, wrapping.
    AddSubscriber {
        publisher: u32,
        handle: u32,
        source: Source,
        offset: u64,
    },
    RemoveSubscriber {
        publisher: u32,
        handle: u32,
    },
    /// Its subscribers have been removed before.
    RemovePublisher {
        handle: u32,
    },
}

/// Whose keystream.
#[derive(Clone)]
pub struct Source {
    pub key: Arc<Key>,
    pub ssrc: u32,
}

/// Totals, for people and metrics.
#[derive(Debug, Default)]
pub struct Figures {
    /// Bytes in rings.
    pub memory: AtomicU64,
    pub rings: AtomicU64,
    /// Rings that the kernel has been shown, since the start.
    pub installed: AtomicU64,
    /// Tracks that got no ring: out of memory, or of the configured bound.
    pub refused: AtomicU64,
    pub filled: AtomicU64,
    pub wakeups: AtomicU64,
}

/// How the producer is set up.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Bytes that all rings together may take.
    pub memory: u64,
    /// Entries of each ring, instead of as many as its rate asks for. For tests.
    pub fixed_entries: Option<u32>,
}

struct TrackRing {
    owner: Owner,
    source: Source,
    /// Outgoing minus incoming index, wrapping; 0 for the publisher's own ring.
    offset: u64,
    /// `None`: there was no memory.
    ring: Option<Filled>,
    /// The ring before, which the kernel sees until this says that the new one is in its place.
    before: Option<(Filled, Arc<AtomicBool>)>,
}

/// A ring and how far it is filled.
struct Filled {
    ring: Ring,
    /// Everything below has been produced, in outgoing indices: each index once for a ring.
    produced: u64,
}

/// A publisher track's rings.
struct Stream {
    handle: u32,
    /// The publisher's first, then the subscribers'.
    rings: Vec<TrackRing>,
    /// Highest incoming index that the kernel has told.
    highest: u64,
    rate: Rate,
}

/// The thread.
pub struct Producer {
    pub low: RingBuf<MapData>,
    /// `WINDOWS`, an index for each publisher track slot.
    pub windows: MmapRaw,
    pub commands: mpsc::Receiver<Command>,
    /// Readable when there are commands; at its end when the engine is dropped.
    pub bell: UnixStream,
    pub installer: mpsc::Sender<Change>,
    pub settings: Settings,
    pub figures: Arc<Figures>,
    pub backend: Backend,
}

/// Least time between two rounds of refilling, while every window has more than a burst in stock.
const GATHER: Duration = Duration::from_millis(5);

impl Producer {
    /// Runs until the engine is dropped.
    pub fn run(mut self) {
        let mut streams = HashMap::new();
        loop {
            match self.wait() {
                Ok(true) => {}
                Ok(false) => return,
                Err(error) => {
                    return tracing::error!("the keystream producer ends, AES is in BPF from now on: {error}");
                }
            }
            while let Ok(command) = self.commands.try_recv() {
                self.command(&mut streams, command);
            }
            if !self.refill_low(&mut streams) {
                // What comes meanwhile is served together. Every window has more in stock than that.
                std::thread::sleep(GATHER);
            }
        }
    }

    /// Sleeps until the kernel or the engine wants something. `false`: the engine is dropped.
    fn wait(&mut self) -> io::Result<bool> {
        let mut files =
            [PollFd::new(self.low.as_fd(), PollFlags::POLLIN), PollFd::new(self.bell.as_fd(), PollFlags::POLLIN)];
        match poll(&mut files, PollTimeout::NONE) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        match self.bell.read(&mut [0; 256]) {
            Ok(0) => Ok(false),
            Ok(_) => Ok(true),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => Ok(true),
            Err(error) => Err(error),
        }
    }

    /// Serves the streams whose window runs low. Says whether one of them is so fast that the next
    /// round should not wait.
    fn refill_low(&mut self, streams: &mut HashMap<u32, Stream>) -> bool {
        let mut hurried = false;
        let now = Instant::now();
        while let Some(low) = self.low.next().and_then(|record| KeystreamLow::from_bytes(&record)) {
            self.figures.wakeups.fetch_add(1, Ordering::Relaxed);
            let Some(stream) = streams.get_mut(&low.track) else { continue };
            stream.rate.reached(stream.highest, low.index, now);
            stream.highest = stream.highest.max(low.index);
            hurried |= stream.rate.hurried(GATHER);
            self.refill(stream);
        }
        hurried
    }

    fn command(&mut self, streams: &mut HashMap<u32, Stream>, command: Command) {
        let now = Instant::now();
        match command {
            Command::AddPublisher { handle, source, next, kind } => {
                let owner = Owner::Publisher(handle);
                let highest = next.0.saturating_sub(1);
                // What a former track of the slot has left would be taken for packets of this one.
                if let Some([low, last]) = self.window(handle) {
                    low.store(u64::MAX, Ordering::SeqCst);
                    last.store(highest, Ordering::SeqCst);
                }
                let mut stream = Stream { handle, rings: Vec::new(), highest, rate: Rate::new(kind, now) };
                stream.rings.push(TrackRing { owner, source, offset: 0, ring: None, before: None });
                self.refill(&mut stream);
                streams.insert(Slots::<()>::slot(handle), stream);
            }
            Command::AddSubscriber { publisher, handle, source, offset } => {
                let Some(stream) = streams.get_mut(&Slots::<()>::slot(publisher)) else { return };
                let owner = Owner::Subscriber(handle);
                stream.rings.push(TrackRing { owner, source, offset, ring: None, before: None });
                let (rate, highest) = (&stream.rate, stream.highest);
                if let Some(ring) = stream.rings.last_mut() {
                    self.refill_ring(rate, highest, ring);
                }
            }
            Command::RemoveSubscriber { publisher, handle } => {
                let Some(stream) = streams.get_mut(&Slots::<()>::slot(publisher)) else { return };
                let gone = stream.rings.iter().position(|ring| ring.owner == Owner::Subscriber(handle));
                if let Some(ring) = gone.map(|place| stream.rings.swap_remove(place)) {
                    self.retire(ring);
                }
            }
            Command::RemovePublisher { handle } => {
                let slot = Slots::<()>::slot(handle);
                if streams.get(&slot).is_some_and(|stream| stream.handle == handle)
                    && let Some(stream) = streams.remove(&slot)
                {
                    stream.rings.into_iter().for_each(|ring| self.retire(ring));
                }
            }
        }
    }

    /// Fills all rings of a stream, and asks for the next wake-up.
    fn refill(&mut self, stream: &mut Stream) {
        /// Against a sender that is as fast as we are: its next packet wakes us again.
        const ROUNDS: usize = 8;
        for _ in 0..ROUNDS {
            let mut ahead = u32::MAX;
            for ring in &mut stream.rings {
                self.refill_ring(&stream.rate, stream.highest, ring);
                let entries = ring.ring.as_ref().map(|filled| filled.ring.entries());
                ahead = entries.map_or(ahead, |entries| ahead.min(entries.saturating_sub(BEHIND)));
            }
            let Some([low, highest]) = self.window(stream.handle).filter(|_| ahead != u32::MAX) else {
                // No rings, no wake-ups.
                return;
            };
            let next = stream.highest + window::step(ahead);
            low.store(next, Ordering::SeqCst);
            // Packets that came before this store have woken nobody, so they are looked for.
            let now = highest.load(Ordering::SeqCst);
            if now < next {
                return;
            }
            stream.highest = now;
        }
    }

    /// `low` and `highest` of a track's window.
    fn window(&self, handle: u32) -> Option<[&AtomicU64; 2]> {
        let at = Slots::<()>::slot(handle) as usize * size_of::<Window>();
        if at + size_of::<Window>() > self.windows.len() {
            return None;
        }
        // SAFETY: two aligned numbers within the mapping, which the kernel changes by atomic operations.
        let number =
            |place: usize| unsafe { AtomicU64::from_ptr(self.windows.as_mut_ptr().add(at).cast::<u64>().add(place)) };
        Some([number(0), number(1)])
    }

    /// Fills a track's ring, after it has got the size that it should have.
    fn refill_ring(&mut self, rate: &Rate, highest: u64, track: &mut TrackRing) {
        if track.before.as_ref().is_some_and(|(_, replaced)| replaced.load(Ordering::Acquire)) {
            // Wiped: the installer has waited for all packets that could have found it.
            track.before = None;
        }
        self.fit(rate, track);
        let outgoing = highest.wrapping_add(track.offset);
        // Wrapping can only mean that the publisher is behind the subscriber's first index.
        if outgoing > ExtendedSeq::MAX.0 {
            return;
        }
        for filled in track.ring.iter_mut().chain(track.before.iter_mut().map(|(filled, _)| filled)) {
            self.fill_up(&track.source, outgoing, filled);
        }
    }

    /// Fills a ring from where it stands up to its end.
    fn fill_up(&self, source: &Source, outgoing: u64, filled: &mut Filled) {
        let ring = &filled.ring;
        // Entries below wait for packets that are lost, or so late that AES may have them.
        let stale_below = ExtendedSeq((outgoing + 1).saturating_sub(BEHIND.into()));
        let end = (outgoing + 1 + u64::from(ring.entries() - BEHIND)).min(ExtendedSeq::MAX.0 + 1);
        let first = filled.produced.max(outgoing + 1);
        let mut jobs = Vec::with_capacity((end.saturating_sub(first)) as usize);
        for index in (first..end).map(ExtendedSeq) {
            let entry = ring.entry(index);
            // SAFETY: an entry of the ring; its state is atomic, and nothing else is touched before `begin`.
            if unsafe { (*entry).begin(stale_below) } {
                jobs.push(Job { index, entry });
            }
        }
        // SAFETY: the entries have been begun, so they are ours until they are published.
        unsafe { compute::fill(self.backend, &source.key, source.ssrc, &jobs) };
        for job in &jobs {
            // SAFETY: as above.
            unsafe { (*job.entry).publish(job.index) };
        }
        self.figures.filled.fetch_add(jobs.len() as u64, Ordering::Relaxed);
        filled.produced = filled.produced.max(end);
    }

    /// Gives a track the ring that its stream's rate asks for, as far as memory goes.
    fn fit(&mut self, rate: &Rate, track: &mut TrackRing) {
        let rings = self.figures.rings.load(Ordering::Relaxed) + u64::from(track.ring.is_none());
        // The bound is shared evenly among all rings: late comers make the others shrink.
        let bound = self.settings.memory / ENTRY_BYTES / rings.max(1);
        let wanted = self.settings.fixed_entries.unwrap_or_else(|| rate.entries(bound));
        let now = track.ring.as_ref().map_or(0, |filled| filled.ring.entries());
        let free = self.settings.memory.saturating_sub(self.figures.memory.load(Ordering::Relaxed));
        if wanted == 0 || track.before.is_some() || (now != 0 && !window::misfits(now, wanted)) {
            return;
        }
        let more = u64::from(wanted.saturating_sub(now)) * ENTRY_BYTES;
        if more > free && self.settings.fixed_entries.is_none() {
            self.figures.refused.fetch_add(1, Ordering::Relaxed);
            return;
        }
        match Ring::new(wanted) {
            Ok((ring, map)) => {
                self.count(Some(&ring), track.ring.as_ref().map(|filled| &filled.ring));
                let replaced = Arc::new(AtomicBool::new(false));
                // Until the kernel sees the new ring, both are filled. What they have in common is the same
                // keystream for the same indices, so it does not matter which of them a packet finds.
                let old = track.ring.replace(Filled { ring, produced: 0 });
                track.before = old.map(|old| (old, Arc::clone(&replaced)));
                let change =
                    Change { owner: track.owner, ring: Some((map, wanted)), done: Some(replaced), old: vec![] };
                let _ = self.installer.send(change);
            }
            Err(error) => {
                self.figures.refused.fetch_add(1, Ordering::Relaxed);
                tracing::warn!(entries = wanted, "no memory for a keystream ring: {error}");
            }
        }
    }

    fn count(&self, new: Option<&Ring>, old: Option<&Ring>) {
        let bytes = |ring: Option<&Ring>| ring.map_or(0, Ring::bytes);
        self.figures.memory.fetch_add(bytes(new), Ordering::Relaxed);
        self.figures.memory.fetch_sub(bytes(old), Ordering::Relaxed);
        self.figures.rings.fetch_add(new.is_some().into(), Ordering::Relaxed);
        self.figures.rings.fetch_sub(old.is_some().into(), Ordering::Relaxed);
    }

    fn retire(&mut self, track: TrackRing) {
        self.count(None, track.ring.as_ref().map(|filled| &filled.ring));
        let old: Vec<Ring> =
            track.ring.into_iter().chain(track.before.map(|(old, _)| old)).map(|old| old.ring).collect();
        if !old.is_empty() {
            let _ = self.installer.send(Change { owner: track.owner, ring: None, done: None, old });
        }
    }
}
