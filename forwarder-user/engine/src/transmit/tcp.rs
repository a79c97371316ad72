//! Sends by connections (`crate::tcp`): a run of packets to one peer at once, as many as it takes without waiting.

use std::{net::SocketAddr, ops::Range, sync::Arc};

use super::{Destination, Sent, Transmitter};
use crate::io::tcp::{Connections, PREFIX, TCP};

/// Bytes that are collected before they are sent in any case.
const BUFFER: usize = 64 << 10;

/// Packets to one peer.
#[derive(Debug)]
struct Run {
    peer: SocketAddr,
    frames: Range<usize>,
    packets: u64,
}

/// See the module.
pub struct TcpTransmitter {
    connections: Arc<Connections>,
    /// Frames: each packet with its length in front.
    buffer: Vec<u8>,
    runs: Vec<Run>,
    sent: Sent,
}

impl TcpTransmitter {
    /// Sends by all connections.
    pub fn new(connections: Arc<Connections>) -> Self {
        Self { connections, buffer: Vec::with_capacity(BUFFER), runs: vec![], sent: Sent::default() }
    }
}

impl Transmitter for TcpTransmitter {
    fn name(&self) -> &'static str {
        "tcp"
    }

    fn reaches(&self, to: &Destination) -> bool {
        to.socket == TCP
    }

    fn reserve(&mut self, to: &Destination, len: usize) -> Option<&mut [u8]> {
        let Ok(prefix) = u16::try_from(len) else {
            self.sent.dropped += 1;
            return None;
        };
        if self.buffer.len() + PREFIX + len > BUFFER {
            self.flush();
        }
        let (start, peer) = (self.buffer.len(), to.transport.peer);
        self.buffer.extend(prefix.to_be_bytes());
        self.buffer.resize(start + PREFIX + len, 0);
        let end = self.buffer.len();
        match self.runs.last_mut().filter(|run| run.peer == peer) {
            Some(run) => (run.frames.end, run.packets) = (end, run.packets + 1),
            None => self.runs.push(Run { peer, frames: start..end, packets: 1 }),
        }
        self.buffer.get_mut(start + PREFIX..end)
    }

    fn cancel(&mut self) {
        let Some(run) = self.runs.last_mut() else { return };
        let frames = self.buffer.get(run.frames.clone()).unwrap_or_default();
        let last = crate::io::tcp::last_frame(frames);
        run.frames.end -= last;
        run.packets -= 1;
        self.buffer.truncate(run.frames.end);
        if run.packets == 0 {
            self.runs.pop();
        }
        self.sent.dropped += 1;
    }

    fn flush(&mut self) {
        for run in self.runs.drain(..) {
            self.sent.calls += 1;
            let frames = self.buffer.get(run.frames).unwrap_or_default();
            let dropped = self.connections.send_media(run.peer, frames);
            self.sent.packets += run.packets - dropped.min(run.packets);
            self.sent.stalled += dropped;
        }
        self.buffer.clear();
    }

    fn sent(&self) -> Sent {
        self.sent
    }
}
