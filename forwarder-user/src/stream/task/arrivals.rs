//! Which packets of publishers have come and when, told to them: transport-wide feedback, by which an encoder sees a
//! queue grow before anything is lost.
//!
//! The engines note when an authentic packet came, in the program that opens it where that is the kernel; what comes up
//! to us, before an SSRC is learnt or of a type that nobody takes, is noted here. A packet that carries the number and is
//! left out looks lost to its sender.

use std::time::{Duration, Instant};

use forwarder_common::rtp::extension;

use super::Task;
use crate::stream::ids::Key;
use crate::stream::session::Session;
use penstock_engine::clock::boottime_ns;
use penstock_webrtc::arrivals::Arrivals;
use penstock_webrtc::rtcp::{self, Feedback};

/// Time between two reports.
const INTERVAL: Duration = Duration::from_millis(50);

/// What one publisher is told.
pub(in crate::stream) struct Reports {
    arrivals: Arrivals,
    /// Reports so far, modulo 256.
    count: u8,
    next: Instant,
}

impl Reports {
    pub(super) fn new(now: Instant) -> Self {
        Self { arrivals: Arrivals::default(), count: 0, next: now + INTERVAL }
    }

    /// When to look.
    pub(super) fn due(&self) -> Instant {
        self.next
    }
}

impl Session {
    /// Is it to be told which packets of its transport have come?
    pub(super) fn has_transport_feedback(&self) -> bool {
        self.publisher_tracks().iter().any(|track| track.sequence.is_some())
    }
}

impl Task {
    /// An authentic packet of a publisher came up to us.
    pub(super) fn note_arrival(&mut self, key: Key, packet: &[u8]) {
        let Some(session) = self.sessions.get_mut(key) else { return };
        // Sections of a bundle number their extensions alike (RFC 9143 §9.2).
        let number = session.publisher_tracks().iter().find_map(|track| track.sequence);
        let transport = session.media.as_mut().and_then(|media| media.transport.as_mut());
        if let (Some(transport), Some([a, b])) = (transport, number.and_then(|number| extension(packet, number))) {
            transport.arrivals.came(u16::from_be_bytes([*a, *b]), boottime_ns());
        }
    }

    /// Tells a publisher what has come since the last time, if it is time.
    pub(super) fn report_arrivals(&mut self, key: Key, now: Instant) {
        let Some(session) = self.sessions.get_mut(key) else { return };
        let sources = session.publisher_tracks().iter().filter_map(|track| track.source.as_ref());
        let repairs = sources.clone().filter_map(|source| source.repairs).map(|(_, id)| id);
        let ids: Vec<_> = sources.clone().map(|source| source.id).chain(repairs).collect();
        let ssrc = sources.map(|source| source.ssrc).next();
        let Some(media) = session.media.as_mut() else { return };
        let Some(transport) = media.transport.as_mut().filter(|transport| transport.next <= now) else { return };
        for id in ids {
            self.engine.arrivals(id, &mut |number, at_ns| transport.arrivals.came(number, at_ns));
        }
        let reports = transport.arrivals.reports();
        transport.next = now + INTERVAL;
        let mut packets = Vec::with_capacity(reports.len());
        for report in reports {
            let came = report.came.iter().flatten().count() as u64;
            self.counters.packets_told_received += came;
            self.counters.packets_told_missing += report.came.len() as u64 - came;
            let feedback = Feedback::Transport { ssrc: ssrc.unwrap_or_default(), report, count: transport.count };
            transport.count = transport.count.wrapping_add(1);
            let plain = rtcp::to_publisher(media.ssrc, &session.cname, &[], &[feedback]).ok();
            packets.extend(plain.and_then(|plain| media.sealer.seal(&plain)));
        }
        let pair = media.pair;
        self.counters.transport_feedback_sent += packets.len() as u64;
        packets.iter().for_each(|packet| self.send(pair.socket, pair.peer, packet));
    }
}
