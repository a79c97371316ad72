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
use forwarder_common::maps::{KeystreamLow, Window};
use memmap2::MmapRaw;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::{
    command::{Command, Owner},
    compute::Backend,
    figures::Figures,
    install::Change,
    ring::{ENTRY_BYTES, Ring},
    stream::{Filled, Stream, TrackRing},
    window::{self, BEHIND, Burst, LEAST, Longest, Rate},
};
use crate::slots::Slots;

/// How the producer is set up.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Bytes that all rings together may take.
    pub memory: u64,
    /// Entries of each ring, instead of as many as its rate asks for. For tests.
    pub fixed_entries: Option<u32>,
}

/// The thread.
pub(super) struct Producer {
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
    /// Entries that a ring may have at present.
    pub level: u32,
    /// Bytes of the rings that tracks have. What [`Figures::memory`] has more of gets free soon.
    pub held: u64,
}

/// Least time between two rounds of refilling, while every window has more than a burst in stock.
const GATHER: Duration = Duration::from_millis(5);

/// Rings of a stream that are filled without a pause, in some 30 µs: 200 of them take a third of a
/// millisecond, for which a thread with media would have to wait.
const RINGS_IN_A_ROW: usize = 16;

/// While rings change places, all streams are looked at this often.
const SETTLE_MS: u8 = 20;

/// After so many packets a stream without any ring is tried again.
const NO_RING_STEP: u64 = 64;

/// This part of the memory is not shared out: it is for new rings whose old ones are still in place.
const RESERVE: u64 = 8;

/// Bytes of a ring.
fn bytes(ring: Option<&Filled>) -> u64 {
    ring.map_or(0, |filled| u64::from(filled.ring.entries()) * ENTRY_BYTES)
}

impl Producer {
    /// Runs until the engine is dropped.
    pub(super) fn run(mut self) {
        let mut streams = HashMap::new();
        loop {
            match self.wait() {
                Ok(true) => {}
                Ok(false) => return,
                Err(error) => {
                    return tracing::error!("the keystream producer ends, AES is in BPF from now on: {error}");
                }
            }
            let level = self.level;
            while let Ok(command) = self.commands.try_recv() {
                self.command(&mut streams, command);
            }
            let hurried = self.refill_low(&mut streams);
            if self.settling() || self.level < level {
                streams.values_mut().for_each(|stream| self.refill(stream));
            }
            if !hurried {
                // What comes meanwhile is served together. Every window has more in stock than that.
                std::thread::sleep(GATHER);
            }
        }
    }

    /// Sleeps until the kernel or the engine wants something, or rings may have changed places.
    /// `false`: the engine is dropped.
    fn wait(&mut self) -> io::Result<bool> {
        let mut files =
            [PollFd::new(self.low.as_fd(), PollFlags::POLLIN), PollFd::new(self.bell.as_fd(), PollFlags::POLLIN)];
        match poll(&mut files, if self.settling() { PollTimeout::from(SETTLE_MS) } else { PollTimeout::NONE }) {
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
            // Not what the record says: it may be of a track that had the slot before.
            let Some([_, highest, ..]) = self.window(stream.handle) else { continue };
            stream.highest = stream.highest.max(highest.load(Ordering::SeqCst));
            stream.rate.reached(stream.highest, now);
            stream.burst.reached(stream.highest, now);
            hurried |= stream.rate.hurried(GATHER);
            let entries = stream.rate.entries(stream.burst.largest());
            if window::misfits(stream.wanted, entries) {
                stream.wanted = entries;
                self.share(streams);
            }
            if let Some(stream) = streams.get_mut(&low.track) {
                self.refill(stream);
            }
        }
        hurried
    }

    /// Shares the memory out anew, after somebody wants more or less of it.
    fn share(&mut self, streams: &HashMap<u32, Stream>) {
        let wanted = streams.values().map(|stream| (stream.rings.len() as u64, stream.wanted));
        self.level = window::level(wanted, self.shared_memory() / ENTRY_BYTES);
    }

    fn shared_memory(&self) -> u64 {
        self.settings.memory - self.settings.memory / RESERVE
    }

    /// Are there rings that are on their way out?
    fn settling(&self) -> bool {
        self.figures.memory.load(Ordering::Relaxed) > self.held
    }

    fn command(&mut self, streams: &mut HashMap<u32, Stream>, command: Command) {
        let now = Instant::now();
        match command {
            Command::AddPublisher { handle, source, next, kind } => {
                let owner = Owner::Publisher(handle);
                let highest = next.0.saturating_sub(1);
                // What a former track of the slot has left would be taken for packets of this one.
                let longest = Longest::new(highest);
                if let Some([low, last, longest_seen, served]) = self.window(handle) {
                    low.store(u64::MAX, Ordering::SeqCst);
                    last.store(highest, Ordering::SeqCst);
                    longest_seen.store(0, Ordering::SeqCst);
                    served.store(16 * longest.blocks() as u64, Ordering::SeqCst);
                }
                let rate = Rate::new(kind, highest, now);
                let (wanted, burst) = (rate.entries(0), Burst::new(highest, now));
                let mut stream = Stream { handle, rings: Vec::new(), highest, wanted, rate, burst, longest };
                stream.rings.push(TrackRing::new(owner, source, 0));
                let slot = Slots::<()>::slot(handle);
                streams.insert(slot, stream);
                self.share(streams);
                if let Some(stream) = streams.get_mut(&slot) {
                    self.refill(stream);
                }
            }
            Command::AddSubscriber { publisher, handle, source, offset } => {
                let slot = Slots::<()>::slot(publisher);
                let Some(stream) = streams.get_mut(&slot) else { return };
                stream.rings.push(TrackRing::new(Owner::Subscriber(handle), source, offset));
                self.share(streams);
                let Some(stream) = streams.get_mut(&slot) else { return };
                let (wanted, highest, blocks) = (stream.wanted, stream.highest, stream.longest.blocks());
                if let Some(ring) = stream.rings.last_mut() {
                    let filled = self.refill_ring(wanted, highest, blocks, ring);
                    self.figures.filled.fetch_add(filled, Ordering::Relaxed);
                }
            }
            Command::RemoveSubscriber { publisher, handle } => {
                let Some(stream) = streams.get_mut(&Slots::<()>::slot(publisher)) else { return };
                let gone = stream.rings.iter().position(|ring| ring.owner == Owner::Subscriber(handle));
                if let Some(mut ring) = gone.map(|place| stream.rings.swap_remove(place)) {
                    self.retire(&mut ring);
                }
                self.share(streams);
            }
            Command::RemovePublisher { handle } => {
                let slot = Slots::<()>::slot(handle);
                if streams.get(&slot).is_some_and(|stream| stream.handle == handle)
                    && let Some(mut stream) = streams.remove(&slot)
                {
                    stream.rings.iter_mut().for_each(|ring| self.retire(ring));
                }
                self.share(streams);
            }
        }
    }

    /// Fills all rings of a stream, and asks for the next wake-up.
    fn refill(&mut self, stream: &mut Stream) {
        /// Against a sender that is as fast as we are: its next packet wakes us again.
        const ROUNDS: usize = 8;
        for _ in 0..ROUNDS {
            let Some([_, _, longest, _]) = self.window(stream.handle) else { return };
            if stream.longest.seen(longest.load(Ordering::SeqCst), stream.highest) {
                longest.store(0, Ordering::SeqCst);
            }
            let blocks = stream.longest.blocks();
            let (mut ahead, mut filled) = (u32::MAX, 0);
            for (n, ring) in stream.rings.iter_mut().enumerate() {
                if n % RINGS_IN_A_ROW == RINGS_IN_A_ROW - 1 {
                    // Whoever waits for this processor has a packet, and here there is no hurry.
                    std::thread::yield_now();
                }
                filled += self.refill_ring(stream.wanted, stream.highest, blocks, ring);
                let entries = ring.ring.as_ref().map(|filled| filled.ring.entries());
                ahead = entries.map_or(ahead, |entries| ahead.min(entries.saturating_sub(BEHIND)));
            }
            // Together, so that whoever looks sees all rings of the stream equally full.
            self.figures.filled.fetch_add(filled, Ordering::Relaxed);
            let next = stream.highest + if ahead == u32::MAX { NO_RING_STEP } else { window::step(ahead) };
            let Some([low, highest, longest, served]) = self.window(stream.handle) else { return };
            served.store(16 * blocks as u64, Ordering::SeqCst);
            low.store(next, Ordering::SeqCst);
            // Packets that came before these stores have woken nobody, so they are looked for.
            let (now, long) = (highest.load(Ordering::SeqCst), longest.load(Ordering::SeqCst));
            stream.highest = stream.highest.max(now);
            if now < next && long <= 16 * blocks as u64 {
                return;
            }
        }
    }

    /// The numbers of a track's [`Window`], in their order.
    fn window(&self, handle: u32) -> Option<[&AtomicU64; 4]> {
        let at = Slots::<()>::slot(handle) as usize * size_of::<Window>();
        if at + size_of::<Window>() > self.windows.len() {
            return None;
        }
        // SAFETY: aligned numbers within the mapping, which the kernel changes by atomic operations.
        let number =
            |place: usize| unsafe { AtomicU64::from_ptr(self.windows.as_mut_ptr().add(at).cast::<u64>().add(place)) };
        Some([number(0), number(1), number(2), number(3)])
    }

    /// Fills a track's ring, after it has got the size that it should have. Returns how many entries that
    /// took.
    fn refill_ring(&mut self, wanted: u32, highest: u64, blocks: usize, track: &mut TrackRing) -> u64 {
        if track.before.as_ref().is_some_and(|(_, replaced)| replaced.load(Ordering::Acquire)) {
            // The installer has waited for all packets that could have found it.
            track.before = None;
        }
        self.fit(wanted, track);
        track.fill_up(highest, blocks, self.backend)
    }

    /// Gives a track the ring that its stream's rate asks for, as far as memory goes.
    fn fit(&mut self, wanted: u32, track: &mut TrackRing) {
        let wanted = self.settings.fixed_entries.unwrap_or_else(|| wanted.min(self.level));
        let now = track.ring.as_ref().map_or(0, |filled| filled.ring.entries());
        let shrinks = now > self.level && self.settings.fixed_entries.is_none();
        if track.before.is_some() || (now != 0 && !shrinks && !window::misfits(now, wanted)) {
            return;
        }
        let used = self.figures.memory.load(Ordering::Relaxed);
        let room = |memory: u64| u32::try_from(memory.saturating_sub(used) / ENTRY_BYTES).unwrap_or(u32::MAX);
        let entries = match self.settings.fixed_entries {
            Some(fixed) => fixed,
            // A newcomer takes what there is, and grows when the others have shrunk.
            None if now == 0 => wanted.min(room(self.shared_memory())),
            None => wanted,
        };
        if entries > room(self.settings.memory) || (entries < LEAST && self.settings.fixed_entries.is_none()) {
            self.figures.refused.fetch_add(1, Ordering::Relaxed);
            // If nothing gets free by itself, somebody goes without for a moment.
            if shrinks && !self.settling() {
                self.retire(track);
            }
            return;
        }
        match Ring::new(entries, &self.figures) {
            Ok((ring, map)) => {
                let replaced = Arc::new(AtomicBool::new(false));
                // Until the kernel sees the new ring, both are filled. What they have in common is the same
                // keystream for the same indices, so it does not matter which of them a packet finds.
                let old = track.ring.replace(Filled { ring, produced: 0, blocks: 0 });
                self.held = self.held + bytes(track.ring.as_ref()) - bytes(old.as_ref());
                self.figures.rings.fetch_add(old.is_none().into(), Ordering::Relaxed);
                track.before = old.map(|old| (old, Arc::clone(&replaced)));
                let change =
                    Change { owner: track.owner, ring: Some((map, entries)), done: Some(replaced), old: vec![] };
                let _ = self.installer.send(change);
            }
            Err(error) => {
                self.figures.refused.fetch_add(1, Ordering::Relaxed);
                tracing::warn!(entries, "no memory for a keystream ring: {error}");
            }
        }
    }

    /// Takes a track's rings away.
    fn retire(&mut self, track: &mut TrackRing) {
        let (ring, before) = (track.ring.take(), track.before.take());
        self.figures.rings.fetch_sub(ring.is_some().into(), Ordering::Relaxed);
        self.held -= bytes(ring.as_ref());
        let old: Vec<Ring> = ring.into_iter().chain(before.map(|(old, _)| old)).map(|old| old.ring).collect();
        if !old.is_empty() {
            let _ = self.installer.send(Change { owner: track.owner, ring: None, done: None, old });
        }
    }
}
