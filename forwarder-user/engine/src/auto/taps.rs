//! Plaintext of kernel publishers for the userspace engine: who needs it, and the thread that carries it.

use std::{
    collections::HashMap,
    io::{self, Read as _},
    os::{fd::AsFd as _, unix::net::UnixStream},
    sync::{Arc, PoisonError, RwLock},
    thread::{self, JoinHandle},
};

use aya::maps::{MapData, RingBuf};
use forwarder_common::maps::TapRecord;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::AutoEngine;
use crate::{
    Engine as _, EngineError, PublisherTrackId,
    contract::{Feeder as _, NewSource},
    elsewhere::Elsewhere,
    kernel::{KernelEngine, rtx::Unwrapper},
    userspace::Forwarder,
};

/// Sources of the userspace engine by the kernel track that feeds them.
pub(super) type Taps = RwLock<HashMap<PublisherTrackId, PublisherTrackId>>;

/// The thread that carries plaintext from the kernel to the userspace engine.
pub(super) struct Reader {
    bell: Option<UnixStream>,
    thread: Option<JoinHandle<()>>,
}

impl AutoEngine {
    pub(super) fn start_reader(&self) -> io::Result<()> {
        let Some(kernel) = &self.kernel else { return Ok(()) };
        let Some(taps) = kernel.take_taps() else { return Ok(()) };
        let unwrapper = kernel.unwrapper();
        let feeder = self.userspace.feeder_beside_the_kernel().ok_or_else(|| io::Error::other("no media sockets"))?;
        let (bell, rung) = UnixStream::pair()?;
        let sources = Arc::clone(&self.taps);
        let run = move || {
            if let Err(error) = carry(taps, (feeder, unwrapper), &sources, rung) {
                tracing::error!("plaintext from the kernel is not read any more: {error}");
            }
        };
        let thread = thread::Builder::new().name("penstock-taps".into()).spawn(run)?;
        let mut reader = self.reader.lock().unwrap_or_else(PoisonError::into_inner);
        *reader = Some(Reader { bell: Some(bell), thread: Some(thread) });
        Ok(())
    }

    /// The source that a kernel track feeds, which begins to if it does not yet.
    pub(super) fn tap(&self, kernel: &KernelEngine, track: PublisherTrackId) -> Result<PublisherTrackId, EngineError> {
        let mut taps = self.taps.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(source) = taps.get(&track) {
            return Ok(*source);
        }
        let (clock_rate, last) = kernel.source(track).ok_or(EngineError::Unknown("publisher track"))?;
        let keep = self.userspace.keeps_last();
        let source = self.userspace.add_source(NewSource { clock_rate, last, keep, ordered: false })?;
        if let Err(error) = kernel.set_tap(track, true) {
            self.userspace.remove_publisher_track(source);
            return Err(error);
        }
        taps.insert(track, source);
        Ok(source)
    }

    /// Ends the tap of a kernel track, if nobody needs it any more.
    pub(super) fn untap(&self, track: PublisherTrackId, in_any_case: bool) {
        let mut taps = self.taps.write().unwrap_or_else(PoisonError::into_inner);
        let Some(source) = taps.get(&track).copied() else { return };
        if !in_any_case && self.userspace.is_wanted(source) {
            return;
        }
        taps.remove(&track);
        drop(taps);
        if let Some(kernel) = &self.kernel {
            // Fails when the track has ended, and then nothing is tapped.
            let _ = kernel.set_tap(track, false);
        }
        self.userspace.remove_publisher_track(source);
    }
}

/// Runs until the bell's other end is closed.
fn carry(
    mut taps: RingBuf<MapData>,
    (mut feeder, mut unwrapper): (Forwarder, Unwrapper),
    sources: &Taps,
    mut bell: UnixStream,
) -> io::Result<()> {
    let mut place = Elsewhere::new();
    loop {
        let mut files = [PollFd::new(taps.as_fd(), PollFlags::POLLIN), PollFd::new(bell.as_fd(), PollFlags::POLLIN)];
        match poll(&mut files, PollTimeout::NONE) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        if files[1].revents().is_some_and(|events| !events.is_empty()) && bell.read(&mut [0])? == 0 {
            return Ok(());
        }
        // What has arrived together is one batch.
        while let Some(record) = taps.next() {
            let Some((tap, index, header, payload)) = TapRecord::parse(&record) else { continue };
            place.came_from(TapRecord::cpu(&record));
            let track = KernelEngine::tapped(tap);
            let source = sources.read().unwrap_or_else(PoisonError::into_inner).get(&track).copied();
            match source {
                Some(source) => feeder.push(source, index, &header, payload, false),
                // Nobody's plaintext but ours, or of a tap that has just ended.
                None => unwrapper.take(track, &header, payload),
            }
        }
        feeder.flush();
    }
}

impl Drop for AutoEngine {
    fn drop(&mut self) {
        let reader = self.reader.get_mut().unwrap_or_else(PoisonError::into_inner);
        let Some(reader) = reader else { return };
        drop(reader.bell.take());
        if reader.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the thread that reads taps had panicked");
        }
    }
}
