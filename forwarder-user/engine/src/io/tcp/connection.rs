//! One connection, as those see it who send by it: the control task and the threads of media.

use std::{
    io,
    net::{Shutdown, SocketAddr},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use socket2::SockRef;
use tokio::{net::TcpStream, sync::Notify};

use super::frames::frames;

/// What waits here of media while the system takes nothing more: beyond, packets are dropped.
const MEDIA_ROOM: usize = 64 << 10;
/// What may wait with what the control task says: a viewer whose picture is dropped must still be heard and told.
const CONTROL_ROOM: usize = MEDIA_ROOM + (16 << 10);

/// A connection. Nobody who sends by it ever waits.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) stream: TcpStream,
    pub(super) local: SocketAddr,
    pub(super) peer: SocketAddr,
    /// A session's peer has shown by ICE that it is here.
    admitted: AtomicBool,
    /// It is to be closed.
    ending: AtomicBool,
    /// Bytes that the system has not taken; the first may be the rest of a packet.
    waiting: Mutex<Vec<u8>>,
    /// Something waits, or it is to be closed.
    pub(super) bell: Notify,
}

impl Connection {
    pub(super) fn new(stream: TcpStream, local: SocketAddr, peer: SocketAddr) -> Self {
        Self {
            stream,
            local,
            peer,
            admitted: AtomicBool::new(false),
            ending: AtomicBool::new(false),
            waiting: Mutex::default(),
            bell: Notify::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<u8>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn is_admitted(&self) -> bool {
        self.admitted.load(Relaxed)
    }

    /// Whether it was not before.
    pub(super) fn admit(&self) -> bool {
        !self.admitted.swap(true, Relaxed)
    }

    pub(super) fn is_ending(&self) -> bool {
        self.ending.load(Relaxed)
    }

    pub(super) fn has_waiting(&self) -> bool {
        !self.lock().is_empty()
    }

    /// Ends it, behind what the system takes now of what waits.
    pub(super) fn end(&self) {
        self.ending.store(true, Relaxed);
        self.bell.notify_one();
    }

    /// Sends frames of media: as many packets as there is room for. Returns how many were dropped.
    pub(super) fn send_media(&self, frames: &[u8]) -> u64 {
        self.send(frames, MEDIA_ROOM)
    }

    /// Sends a frame of the control task. `false`: there is no room.
    pub(super) fn send_control(&self, frame: &[u8]) -> bool {
        self.send(frame, CONTROL_ROOM) == 0
    }

    fn send(&self, bytes: &[u8], room: usize) -> u64 {
        if self.is_ending() {
            return frames(bytes).count() as u64;
        }
        let mut waiting = self.lock();
        let mut rest = bytes;
        if waiting.is_empty() {
            let taken = match self.write(bytes) {
                Ok(taken) => taken,
                Err(_) => {
                    drop(waiting);
                    self.end();
                    return frames(bytes).count() as u64;
                }
            };
            if taken == bytes.len() {
                return 0;
            }
            // Of a packet that has begun the rest must follow.
            let mut whole = 0;
            for frame in frames(bytes) {
                if whole >= taken {
                    break;
                }
                whole += frame.len();
            }
            waiting.extend_from_slice(bytes.get(taken..whole).unwrap_or_default());
            rest = bytes.get(whole..).unwrap_or_default();
        }
        let mut dropped = 0;
        for frame in frames(rest) {
            match waiting.len() + frame.len() <= room {
                true => waiting.extend_from_slice(frame),
                false => dropped += 1,
            }
        }
        drop(waiting);
        self.bell.notify_one();
        dropped
    }

    /// How much the system takes at once.
    fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        match self.stream.try_write(bytes) {
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => Ok(0),
            other => other,
        }
    }

    /// Gives the system what it takes of what waits.
    pub(super) fn flush(&self) -> io::Result<()> {
        let mut waiting = self.lock();
        let taken = self.write(&waiting)?;
        waiting.drain(..taken);
        if waiting.is_empty() {
            *waiting = Vec::new();
        }
        Ok(())
    }

    /// Says to the peer that nothing more comes.
    pub(super) fn say_goodbye(&self) {
        // What is lost here the peer learns by its own timers.
        let _ = self.flush();
        let _ = SockRef::from(&self.stream).shutdown(Shutdown::Write);
    }
}
