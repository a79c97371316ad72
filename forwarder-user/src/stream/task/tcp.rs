//! Connections of peers by TCP: who is a session's peer stays as long as the session. And what is said of those whom
//! nothing reaches.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::Task;
use crate::stream::session::Session;
use penstock_engine::io::tcp::{Connections, TCP};
use penstock_webrtc::peer::Pair;

impl Task {
    fn connections(&self, pair: Pair) -> Option<&Connections> {
        self.sockets.tcp().filter(|_| pair.socket == TCP)
    }

    /// An authenticated check has come by it.
    pub(super) fn admit_connection(&self, pair: Pair) {
        if let Some(connections) = self.connections(pair) {
            connections.admit(pair.peer);
        }
    }

    /// A check has come by it that is of no session's peer.
    pub(super) fn refuse_connection(&self, pair: Pair) {
        if let Some(connections) = self.connections(pair) {
            connections.refuse(pair.peer);
        }
    }

    /// Takes over what the thread of the connections has counted.
    pub(super) fn count_connections(&mut self) {
        let Some(tcp) = self.sockets.tcp() else { return };
        let read = |count: &AtomicU64| count.load(Relaxed);
        let of = &tcp.counters;
        self.counters.tcp_refused = read(&of.refused);
        self.counters.tcp_expired = read(&of.expired);
        self.counters.tcp_unwanted = read(&of.unwanted);
        self.counters.tcp_malformed = read(&of.malformed);
    }

    /// It is no session's (any more).
    pub(super) fn end_connection(&self, pair: Pair) {
        if let Some(connections) = self.connections(pair) {
            connections.end(pair.peer);
        }
    }
}

/// Why a session has not got its keys in time, and what whoever runs the server can do about it.
pub(super) fn why_unconnected(session: &Session, by_tcp: bool) -> String {
    match session.peer.trouble() {
        Some((trouble, times)) => format!("it had no keys in time ({times} datagrams ignored, last: {trouble})"),
        None if session.has_begun() => "it had no keys in time".into(),
        None => {
            let other_ways =
                if by_tcp { "TURN (`http.ice_servers`)" } else { "`media.tcp_port`, or TURN (`http.ice_servers`)" };
            format!(
                "no ICE check came from its peer: the media port is closed on the way, or its network lets no UDP through; \
                 {other_ways} can help"
            )
        }
    }
}
