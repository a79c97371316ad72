//! SRTP and SRTCP from an address that no session has: a NAT has given a peer another port, say, and its next ICE
//! check may be seconds away. Where only the peer can have made a packet, the address is asked whether the peer
//! receives there; that moves the session, and nothing else does.

use std::time::Instant;

use forwarder_common::rtp::{Protocol, RtpHeader};

use super::Task;
use super::feedback::sender;
use crate::stream::ids::Key;
use penstock_webrtc::peer::Pair;
use penstock_webrtc::rtcp::MAX_COMPOUND;

impl Task {
    pub(super) fn stray(&mut self, protocol: Protocol, pair: Pair, packet: &[u8], now: Instant) {
        let ssrc = match protocol {
            Protocol::Rtp => RtpHeader::parse(packet).map(|(header, _)| header.ssrc()),
            Protocol::Rtcp => sender(packet),
            _ => None,
        };
        let Some(key) = ssrc.and_then(|ssrc| self.sessions.by_ssrc(ssrc)) else { return };
        let Some((_, media)) = self.with_media(key) else { return };
        if !media.strays.take(now) {
            return;
        }
        let authentic = match protocol {
            Protocol::Rtp => self.is_of_publisher(key, packet),
            _ => packet.len() <= MAX_COMPOUND && media.opener.open(packet).is_ok(),
        };
        if let Some(session) = self.sessions.get_mut(key).filter(|_| authentic) {
            self.counters.strays_authentic += 1;
            session.peer.probe(now, pair);
            self.flush(key, now);
        }
    }

    /// Is this a new packet of a track that the engine has?
    fn is_of_publisher(&self, key: Key, packet: &[u8]) -> bool {
        let Some((header, _)) = RtpHeader::parse(packet) else { return false };
        let Some(session) = self.sessions.get(key) else { return false };
        let sources = session.publisher_tracks().iter().filter_map(|track| track.source.as_ref());
        let source = sources.into_iter().find(|source| source.ssrc == header.ssrc());
        let Some(stats) = source.and_then(|source| self.engine.publisher_stats(source.id)) else { return false };
        let opener = session.media.as_ref().and_then(|media| media.rtp.as_ref());
        // What is played back has an index that was there before.
        let index = stats.highest.estimate(header.seq()).filter(|index| *index > stats.highest);
        opener.zip(index).is_some_and(|(opener, index)| opener.authenticate(packet, index))
    }
}
