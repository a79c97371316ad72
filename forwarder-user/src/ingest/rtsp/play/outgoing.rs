//! A track as a player gets it: plain RTP with a source, sequence numbers and timestamps of its own.

use std::time::Instant;

use forwarder_common::rtp::FIXED_LEN;
use penstock_engine::Heard;
use penstock_webrtc::rtcp::{self, Sent};

use crate::ingest::play::Reference;

/// See the module.
pub(super) struct Outgoing {
    payload_type: u8,
    clock_rate: u32,
    ssrc: u32,
    reference: Reference,
    /// What is added to what comes of the present publisher, both wrapping.
    offsets: Option<Offsets>,
    /// Number and timestamp of the last packet, and when it left.
    last: Option<(u16, u32, Instant)>,
    packets: u32,
    octets: u32,
}

#[derive(Clone, Copy)]
struct Offsets {
    turn: u32,
    seq: u16,
    timestamp: u32,
}

impl Outgoing {
    pub(super) fn new(payload_type: u8, clock_rate: u32, ssrc: u32, reference: Reference) -> Self {
        Self { payload_type, clock_rate, ssrc, reference, offsets: None, last: None, packets: 0, octets: 0 }
    }

    /// Appends the packet. What was lost on the way here is a hole in the numbers; a publisher that follows another one
    /// goes on where that ended, as time went on.
    pub(super) fn write(&mut self, heard: &Heard, now: Instant, out: &mut Vec<u8>) {
        let (index, timestamp) = (heard.index.0 as u16, heard.header.timestamp());
        let offsets = match self.offsets.filter(|offsets| offsets.turn == heard.turn) {
            Some(offsets) => offsets,
            None => self.begin(heard.turn, index, timestamp, now),
        };
        let seq = index.wrapping_add(offsets.seq);
        let timestamp = timestamp.wrapping_add(offsets.timestamp);
        let header = heard.header.copy_as(self.payload_type, seq, timestamp, self.ssrc);
        out.reserve(FIXED_LEN + heard.payload.len());
        header.iter().for_each(|word| out.extend_from_slice(&word.to_ne_bytes()));
        out.extend_from_slice(&heard.payload);
        self.last = Some((seq, timestamp, now));
        self.packets = self.packets.wrapping_add(1);
        self.octets = self.octets.wrapping_add(heard.payload.len() as u32);
    }

    fn begin(&mut self, turn: u32, index: u16, timestamp: u32, now: Instant) -> Offsets {
        let (seq, expected) = match self.last {
            None => (index, timestamp),
            Some((seq, timestamp, at)) => {
                let elapsed = now.saturating_duration_since(at).as_nanos() * u128::from(self.clock_rate);
                let elapsed = (elapsed / 1_000_000_000) as u32;
                (seq.wrapping_add(1), timestamp.wrapping_add(elapsed.max(1)))
            }
        };
        let offsets = Offsets { turn, seq: seq.wrapping_sub(index), timestamp: expected.wrapping_sub(timestamp) };
        self.offsets = Some(offsets);
        offsets
    }

    /// A sender report (RFC 3550 §6.4.1), by which players bring sound and picture together. `None`: nothing was sent,
    /// or nobody knows the publisher's clock.
    pub(super) fn report(&self, cname: &str, now: Instant) -> Option<Vec<u8>> {
        let (moment, offsets) = (self.reference.get()?, self.offsets?);
        if moment.turn != offsets.turn || self.packets == 0 {
            return None;
        }
        let elapsed = now.saturating_duration_since(moment.at);
        let units = elapsed.as_nanos() * u128::from(self.clock_rate) / 1_000_000_000;
        let ntp = (elapsed.as_nanos() << 32) / 1_000_000_000;
        let sent = Sent {
            ssrc: self.ssrc,
            ntp: moment.ntp.wrapping_add(ntp as u64),
            rtp: moment.rtp.wrapping_add(offsets.timestamp).wrapping_add(units as u32),
            packets: self.packets,
            octets: self.octets,
        };
        rtcp::to_viewer(&[sent], cname).ok()
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use forwarder_common::{ExtendedSeq, RtpHeader};

    use super::*;
    use crate::ingest::play::Moment;

    fn heard(turn: u32, index: u64, timestamp: u32) -> Heard {
        let mut header = [0x80, 0xe0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9];
        header[4..8].copy_from_slice(&timestamp.to_be_bytes());
        let payload = Arc::from(&[1u8, 2, 3][..]);
        Heard { track: 0, turn, index: ExtendedSeq(index), header: RtpHeader::new(&header), payload }
    }

    fn written(outgoing: &mut Outgoing, heard: &Heard, now: Instant) -> (u16, u32) {
        let mut bytes = vec![];
        outgoing.write(heard, now, &mut bytes);
        assert_eq!((bytes[0], bytes[1], &bytes[8..]), (0x80, 0x80 | 96, &[0, 0, 0, 7, 1, 2, 3][..]));
        (u16::from_be_bytes([bytes[2], bytes[3]]), u32::from_be_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]))
    }

    #[test]
    fn holes_stay_and_a_new_publisher_goes_on() {
        let (reference, now) = (Reference::default(), Instant::now());
        let mut outgoing = Outgoing::new(96, 90_000, 7, reference.clone());
        let first = written(&mut outgoing, &heard(0, 65_535, 1000), now);
        let second = written(&mut outgoing, &heard(0, 65_538, 4000), now);
        assert_eq!((second.0.wrapping_sub(first.0), second.1.wrapping_sub(first.1)), (3, 3000));
        let later = now + Duration::from_secs(1);
        let third = written(&mut outgoing, &heard(1, 77, 5), later);
        assert_eq!((third.0.wrapping_sub(second.0), third.1.wrapping_sub(second.1)), (1, 90_000));
        assert_eq!(outgoing.report("x", later), None, "the clock of this publisher is not known");
        reference.set(Moment { turn: 1, at: later, ntp: 1 << 32, rtp: 5 });
        let report = outgoing.report("x", later + Duration::from_secs(2)).unwrap();
        assert_eq!(&report[..8], [0x80, 200, 0, 6, 0, 0, 0, 7]);
        assert_eq!(&report[8..16], [0, 0, 0, 3, 0, 0, 0, 0]);
        let rtp = u32::from_be_bytes(*report[16..].first_chunk().unwrap());
        assert_eq!(rtp.wrapping_sub(third.1), 180_000);
        assert_eq!(&report[20..28], [0, 0, 0, 3, 0, 0, 0, 9]);
    }
}
