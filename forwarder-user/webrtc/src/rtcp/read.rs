//! Reading what peers tell.

use rtcp_types::{
    Fir, Nack, PayloadFeedback, ReceiverReport, ReportBlock, RtcpPacketParser, SenderReport, TransportFeedback,
};

use super::{MAX_COMPOUND, RECEIVER_REFERENCE_TIME, Reception};

/// What a peer told us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Incoming {
    /// The peer's wall clock (NTP format) at an RTP timestamp of `ssrc`.
    SenderReport {
        /// Sender of the report and of the media.
        ssrc: u32,
        /// Seconds since 1900 in the upper 32 bits, their fraction in the lower.
        ntp: u64,
        /// The same moment on the clock of the media.
        rtp: u32,
    },
    /// How our `ssrc` arrives at the peer.
    Reception(Reception),
    /// The peer lacks a packet of `ssrc` (generic NACK).
    Missing {
        /// Ours.
        ssrc: u32,
        /// Of the packet.
        seq: u16,
    },
    /// The peer's wall clock, middle 32 bits of its NTP time, for [`append_answers`] (RFC 3611 §4.4). From a peer that
    /// sends nothing, and so learns the round trip by no report block.
    ReferenceTime {
        /// The peer's.
        ssrc: u32,
        /// 1/65,536 s.
        ntp: u32,
    },
    /// The peer cannot decode `ssrc` without a keyframe (PLI or FIR).
    KeyframeRequest {
        /// Ours: a viewer asks for what we sent.
        ssrc: u32,
    },
}

/// Most that is read of one compound. A NACK names 17 packets in 4 bytes, so that its sender could make us look for
/// thousands; nobody gets more than some hundred again in a second.
pub(super) const MAX_FOUND: usize = 512;

/// A compound, as far as it could be read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Parsed {
    /// In the order in which they came.
    pub found: Vec<Incoming>,
    /// Packets of the compound that contradict their own lengths, and a rest that is none. Each costs itself alone: a
    /// peer whose extended reports are odd still asks for keyframes.
    pub malformed: u64,
}

/// The packet contradicts its own lengths.
struct Malformed;

/// Reads a compound packet, or a lone one (RFC 5506). Types that we do not use are passed over; of what is longer than
/// [`MAX_COMPOUND`] nothing is read.
pub fn parse(mut compound: &[u8]) -> Parsed {
    let mut parsed = Parsed::default();
    if compound.len() > MAX_COMPOUND {
        return Parsed { malformed: 1, ..parsed };
    }
    while let Some((packet, rest)) = split(compound) {
        parsed.malformed += u64::from(read(packet, &mut parsed.found).is_err());
        compound = rest;
    }
    parsed.malformed += u64::from(!compound.is_empty());
    parsed
}

/// The first packet, and what is behind it. `None`: there is none, by its version or its length.
fn split(compound: &[u8]) -> Option<(&[u8], &[u8])> {
    let [first, _, high, low] = *compound.first_chunk::<4>()?;
    let len = 4 * (1 + usize::from(u16::from_be_bytes([high, low])));
    compound.split_at_checked(len).filter(|_| first >> 6 == 2)
}

fn read(packet: &[u8], found: &mut Vec<Incoming>) -> Result<(), Malformed> {
    let Some([first, kind, ..]) = packet.first_chunk::<4>() else { return Err(Malformed) };
    match kind {
        200 => {
            let report = SenderReport::parse(packet).map_err(|_| Malformed)?;
            let (ntp, rtp) = (report.ntp_timestamp(), report.rtp_timestamp());
            found.push(Incoming::SenderReport { ssrc: report.ssrc(), ntp, rtp });
            found.extend(report.report_blocks().map(|block| Incoming::Reception(reception(&block))));
        }
        201 => {
            let report = ReceiverReport::parse(packet).map_err(|_| Malformed)?;
            found.extend(report.report_blocks().map(|block| Incoming::Reception(reception(&block))));
        }
        205 if first & 0x1f == 1 => read_nack(packet, found)?,
        206 => read_feedback(packet, found)?,
        207 => read_extended(packet, found)?,
        _ => {}
    }
    Ok(())
}

/// RFC 4585 §6.2.1.
fn read_nack(packet: &[u8], found: &mut Vec<Incoming>) -> Result<(), Malformed> {
    let feedback = TransportFeedback::parse(packet).map_err(|_| Malformed)?;
    let nack = feedback.parse_fci::<Nack>().map_err(|_| Malformed)?;
    let missing = nack.entries().map(|seq| Incoming::Missing { ssrc: feedback.media_ssrc(), seq });
    found.extend(missing.take(MAX_FOUND.saturating_sub(found.len())));
    Ok(())
}

/// RFC 3611 §2: blocks behind the sender's SSRC, each with its type and its length in words.
fn read_extended(packet: &[u8], found: &mut Vec<Incoming>) -> Result<(), Malformed> {
    let ssrc = u32::from_be_bytes(*packet.get(4..).and_then(|rest| rest.first_chunk()).ok_or(Malformed)?);
    let mut blocks = packet.get(8..).ok_or(Malformed)?;
    while let Some([kind, _, high, low]) = blocks.first_chunk().copied() {
        let len = 4 * usize::from(u16::from_be_bytes([high, low]));
        let (block, rest) = blocks[4..].split_at_checked(len).ok_or(Malformed)?;
        if let (RECEIVER_REFERENCE_TIME, Some([_, _, a, b, c, d, ..])) = (kind, block.first_chunk::<8>()) {
            found.push(Incoming::ReferenceTime { ssrc, ntp: u32::from_be_bytes([*a, *b, *c, *d]) });
        }
        blocks = rest;
    }
    if blocks.is_empty() { Ok(()) } else { Err(Malformed) }
}

fn read_feedback(packet: &[u8], found: &mut Vec<Incoming>) -> Result<(), Malformed> {
    let feedback = PayloadFeedback::parse(packet).map_err(|_| Malformed)?;
    match packet[0] & 0x1f {
        1 => want_keyframe(feedback.media_ssrc(), found),
        4 => {
            let fir = feedback.parse_fci::<Fir>().map_err(|_| Malformed)?;
            fir.entries().for_each(|entry| want_keyframe(entry.ssrc(), found));
        }
        _ => {}
    }
    Ok(())
}

/// Once for each SSRC in a row: a request that is repeated asks for nothing more.
fn want_keyframe(ssrc: u32, found: &mut Vec<Incoming>) {
    let request = Incoming::KeyframeRequest { ssrc };
    if found.last() != Some(&request) && found.len() < MAX_FOUND {
        found.push(request);
    }
}

fn reception(block: &ReportBlock<'_>) -> Reception {
    Reception {
        ssrc: block.ssrc(),
        fraction_lost: block.fraction_lost(),
        // Sign extension of 24 bits.
        cumulative_lost: ((block.cumulative_lost() << 8) as i32) >> 8,
        highest: block.extended_sequence_number(),
        jitter: block.interarrival_jitter(),
        last_sr: block.last_sender_report_timestamp(),
        delay_since_last_sr: block.delay_since_last_sender_report_timestamp(),
    }
}
