//! RTCP in plaintext: what we read of it and what we write (RFC 3550 §6, RFC 4585, RFC 5104,
//! draft-alvestrand-rmcat-remb-03, draft-holmer-rmcat-transport-wide-cc-extensions-01).

use rtcp_types::{
    Bye, Compound, Fir, Nack, PayloadFeedback, Pli, ReceiverReport, ReportBlock, ReportBlockBuilder, RtcpPacketParser,
    RtcpPacketWriterExt, RtcpWriteError, Sdes, SdesChunk, SdesItem, SenderReport, TransportFeedback, Twcc, TwccBuilder,
    TwccPacketStatus,
};

use crate::arrivals::Report;

/// Items of one NACK: what is asked for at one time fits in a datagram.
const MAX_NACK_ITEMS: usize = 128;

/// Types of extended report blocks (RFC 3611 §4.4 and §4.5).
const RECEIVER_REFERENCE_TIME: u8 = 4;
const DELAY_SINCE_LAST_RECEIVER_REPORT: u8 = 5;

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

/// One report block (RFC 3550 §6.4.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reception {
    /// Source that the block is about.
    pub ssrc: u32,
    /// Of 256.
    pub fraction_lost: u8,
    /// Signed 24 bits on the wire.
    pub cumulative_lost: i32,
    /// Low 32 bits of the extended sequence number.
    pub highest: u32,
    /// RTP clock units.
    pub jitter: u32,
    /// Middle 32 bits of the NTP time of the last SR; 0 if there was none.
    pub last_sr: u32,
    /// Since then, 1/65,536 s.
    pub delay_since_last_sr: u32,
}

/// Largest compound packet that is read, in bytes: RTCP fits into one packet of a network (RFC 3550 §6.1).
pub const MAX_COMPOUND: usize = 1500;
/// Most that is read of one compound. A NACK names 17 packets in 4 bytes, so that its sender could make us look for
/// thousands; nobody gets more than some hundred again in a second.
const MAX_FOUND: usize = 512;

/// The packet contradicts its own lengths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

/// Reads a compound packet, or a lone one (RFC 5506). Types that we do not use are passed over.
///
/// # Errors
/// [`Malformed`], also when a later part of the compound is, and beyond [`MAX_COMPOUND`].
pub fn parse(mut compound: &[u8]) -> Result<Vec<Incoming>, Malformed> {
    if compound.len() > MAX_COMPOUND {
        return Err(Malformed);
    }
    let mut found = vec![];
    while let Some(header) = compound.first_chunk::<4>() {
        let len = 4 * (1 + usize::from(u16::from_be_bytes([header[2], header[3]])));
        let (packet, rest) = compound.split_at_checked(len).ok_or(Malformed)?;
        if header[0] >> 6 != 2 {
            return Err(Malformed);
        }
        match header[1] {
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
            205 if header[0] & 0x1f == 1 => read_nack(packet, &mut found)?,
            206 => read_feedback(packet, &mut found)?,
            207 => read_extended(packet, &mut found)?,
            _ => {}
        }
        compound = rest;
    }
    if compound.is_empty() { Ok(found) } else { Err(Malformed) }
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

/// Feedback to a publisher.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Feedback {
    /// The sum of these SSRCs may have this bitrate, bit/s.
    Remb {
        /// For all of them together; written with 18 significant bits.
        bitrate: u64,
        /// At most 255.
        ssrcs: Vec<u32>,
    },
    /// Send a keyframe (RFC 4585 §6.3.1).
    Pli {
        /// The publisher's video source.
        ssrc: u32,
    },
    /// The same for those that negotiated only this (RFC 5104 §4.3.1). `seq` differs per request.
    Fir {
        /// The publisher's video source.
        ssrc: u32,
        /// Modulo 256.
        seq: u8,
    },
    /// Which packets of the transport have come, and when.
    Transport {
        /// Any source of the publisher's.
        ssrc: u32,
        /// Its last packet has come.
        report: Report,
        /// Counts these reports, modulo 256.
        count: u8,
    },
    /// These packets are missing (RFC 4585 §6.2.1). In ascending order, modulo 2^16.
    Nack {
        /// The publisher's source.
        ssrc: u32,
        /// At least one.
        missing: Vec<u16>,
    },
}

/// A compound to a publisher: RR, SDES, feedback.
///
/// # Errors
/// More than 31 blocks.
pub fn to_publisher(
    our_ssrc: u32,
    cname: &str,
    receptions: &[Reception],
    feedback: &[Feedback],
) -> Result<Vec<u8>, RtcpWriteError> {
    let report = receptions
        .iter()
        .fold(ReceiverReport::builder(our_ssrc), |report, reception| report.add_report_block(report_block(reception)));
    let mut packet = compound_with_sdes(Compound::builder().add_packet(report), &[our_ssrc], cname)?;
    for one in feedback {
        match one {
            Feedback::Remb { bitrate, ssrcs } => write_remb(&mut packet, our_ssrc, *bitrate, ssrcs),
            Feedback::Pli { ssrc } => {
                let pli = PayloadFeedback::builder_owned(Pli::builder()).sender_ssrc(our_ssrc).media_ssrc(*ssrc);
                append(&mut packet, &pli)?;
            }
            Feedback::Nack { ssrc, missing } => write_nack(&mut packet, our_ssrc, *ssrc, missing),
            Feedback::Transport { ssrc, report, count } => {
                let twcc = TransportFeedback::builder_owned(twcc(report, *count));
                append(&mut packet, &twcc.sender_ssrc(our_ssrc).media_ssrc(*ssrc))?;
            }
            Feedback::Fir { ssrc, seq } => {
                let fir = Fir::builder().add_ssrc(*ssrc, *seq);
                append(&mut packet, &PayloadFeedback::builder_owned(fir).sender_ssrc(our_ssrc))?;
            }
        }
    }
    Ok(packet)
}

/// What we tell a viewer of one SSRC (RFC 3550 §6.4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sent {
    /// Outgoing source, as in the answer's `a=ssrc`.
    pub ssrc: u32,
    /// Our wall clock, NTP format: seconds since 1900 in the upper 32 bits.
    pub ntp: u64,
    /// The same moment on the outgoing RTP clock.
    pub rtp: u32,
    /// Low 32 bits of the true count.
    pub packets: u32,
    /// Payload bytes without headers and padding, low 32 bits of the true count.
    pub octets: u32,
}

/// A compound to a viewer: one SR per SSRC, then SDES with one CNAME for all, by which receivers
/// know that audio and video belong together.
///
/// # Errors
/// More than 31 sources.
pub fn to_viewer(sent: &[Sent], cname: &str) -> Result<Vec<u8>, RtcpWriteError> {
    let reports = sent.iter().fold(Compound::builder(), |compound, sent| {
        let report = SenderReport::builder(sent.ssrc)
            .ntp_timestamp(sent.ntp)
            .rtp_timestamp(sent.rtp)
            .packet_count(sent.packets)
            .octet_count(sent.octets);
        compound.add_packet(report)
    });
    let ssrcs: Vec<u32> = sent.iter().map(|sent| sent.ssrc).collect();
    compound_with_sdes(reports, &ssrcs, cname)
}

/// Answers a receiver's reference time, by which it learns the round trip (RFC 3611 §4.5): behind a compound of ours.
/// `last`: what it sent, `delay`: since it came, 1/65,536 s.
pub fn append_answers(compound: &mut Vec<u8>, our_ssrc: u32, receiver: u32, last: u32, delay: u32) {
    compound.extend([0x80, 207, 0, 5]);
    compound.extend(our_ssrc.to_be_bytes());
    compound.extend([DELAY_SINCE_LAST_RECEIVER_REPORT, 0, 0, 3]);
    [receiver, last, delay].iter().for_each(|word| compound.extend(word.to_be_bytes()));
}

/// A compound that says that these sources are gone (RFC 3550 §6.6).
///
/// # Errors
/// More than 31 sources.
pub fn bye(ssrcs: &[u32], cname: &str) -> Result<Vec<u8>, RtcpWriteError> {
    let first = ssrcs.first().copied().unwrap_or_default();
    let report = Compound::builder().add_packet(ReceiverReport::builder(first));
    let mut packet = compound_with_sdes(report, &[first], cname)?;
    let bye = ssrcs.iter().fold(Bye::builder(), |bye, ssrc| bye.add_source(*ssrc));
    append(&mut packet, &bye)?;
    Ok(packet)
}

fn compound_with_sdes(
    compound: rtcp_types::CompoundBuilder<'_>,
    ssrcs: &[u32],
    cname: &str,
) -> Result<Vec<u8>, RtcpWriteError> {
    let mut packet = vec![];
    append(&mut packet, &compound)?;
    let sdes = ssrcs.iter().fold(Sdes::builder(), |sdes, ssrc| {
        sdes.add_chunk(SdesChunk::builder(*ssrc).add_item(SdesItem::builder(SdesItem::CNAME, cname)))
    });
    append(&mut packet, &sdes)?;
    Ok(packet)
}

fn append(packet: &mut Vec<u8>, part: &impl RtcpPacketWriterExt) -> Result<(), RtcpWriteError> {
    let start = packet.len();
    packet.resize(start + part.calculate_size()?, 0);
    part.write_into(&mut packet[start..])?;
    Ok(())
}

fn report_block(reception: &Reception) -> ReportBlockBuilder {
    // The wire has 24 bits, signed.
    let lost = reception.cumulative_lost.clamp(-0x80_0000, 0x7f_ffff) as u32 & 0xff_ffff;
    ReportBlock::builder(reception.ssrc)
        .fraction_lost(reception.fraction_lost)
        .cumulative_lost(lost)
        .extended_sequence_number(reception.highest)
        .interarrival_jitter(reception.jitter)
        .last_sender_report_timestamp(reception.last_sr)
        .delay_since_last_sender_report_timestamp(reception.delay_since_last_sr)
}

/// The draft's §3.1. Time is told from a multiple of 64 ms on, each packet's from the one before it.
fn twcc(report: &Report, count: u8) -> TwccBuilder {
    const TICKS: u64 = 256;
    let first = report.came.iter().flatten().next().copied().unwrap_or_default();
    let reference = first / TICKS;
    let mut last = reference * TICKS;
    let status = |at: &Option<u64>| match *at {
        None => TwccPacketStatus::NotReceived,
        Some(at) => {
            let delta = at as i64 - last as i64;
            last = at;
            // A report does not reach farther.
            TwccPacketStatus::Received { delta: delta.clamp(i16::MIN.into(), i16::MAX.into()) as i16 }
        }
    };
    let statuses: Vec<_> = report.came.iter().map(status).collect();
    Twcc::builder(report.first, reference as u32 & 0xff_ffff, count, &statuses, None)
}

/// RFC 4585 §6.2.1: a sequence number, and a bit for each of the 16 behind it.
fn write_nack(packet: &mut Vec<u8>, our_ssrc: u32, ssrc: u32, missing: &[u16]) {
    let mut items: Vec<(u16, u16)> = vec![];
    for seq in missing {
        match items.last_mut() {
            Some((first, more)) if (1..=16).contains(&seq.wrapping_sub(*first)) => {
                *more |= 1 << (seq.wrapping_sub(*first) - 1);
            }
            _ => items.push((*seq, 0)),
        }
    }
    for items in items.chunks(MAX_NACK_ITEMS) {
        packet.extend([0x81, 205]);
        packet.extend((2 + items.len() as u16).to_be_bytes());
        packet.extend(our_ssrc.to_be_bytes());
        packet.extend(ssrc.to_be_bytes());
        items.iter().for_each(|(first, more)| packet.extend([first.to_be_bytes(), more.to_be_bytes()].concat()));
    }
}

/// draft-alvestrand-rmcat-remb-03 §2.2: mantissa of 18 bits, exponent of 6.
fn write_remb(packet: &mut Vec<u8>, our_ssrc: u32, bitrate: u64, ssrcs: &[u32]) {
    let ssrcs = &ssrcs[..ssrcs.len().min(255)];
    let exponent = (64 - bitrate.leading_zeros()).saturating_sub(18);
    let mantissa = (bitrate >> exponent) as u32;
    packet.extend([0x8f, 206]);
    packet.extend((4 + ssrcs.len() as u16).to_be_bytes());
    packet.extend(our_ssrc.to_be_bytes());
    packet.extend([0; 4]);
    packet.extend(b"REMB");
    packet.extend((((ssrcs.len() as u32) << 24) | (exponent << 18) | mantissa).to_be_bytes());
    ssrcs.iter().for_each(|ssrc| packet.extend(ssrc.to_be_bytes()));
}

#[cfg(test)]
mod tests {
    use super::*;

    const RECEPTION: Reception = Reception {
        ssrc: 0x1234_5678,
        fraction_lost: 7,
        cumulative_lost: -3,
        highest: 0x0001_ffff,
        jitter: 42,
        last_sr: 0x1122_3344,
        delay_since_last_sr: 65_536,
    };

    #[test]
    fn what_we_write_to_publishers_reads_back() {
        let feedback = [Feedback::Pli { ssrc: 5 }, Feedback::Fir { ssrc: 6, seq: 3 }];
        let packet = to_publisher(1, "cname", &[RECEPTION], &feedback).unwrap();
        let keyframe = |ssrc| Incoming::KeyframeRequest { ssrc };
        assert_eq!(parse(&packet).unwrap(), [Incoming::Reception(RECEPTION), keyframe(5), keyframe(6)]);
        let huge = Reception { cumulative_lost: i32::MAX, ..RECEPTION };
        let Incoming::Reception(read) = parse(&to_publisher(1, "c", &[huge], &[]).unwrap()).unwrap()[0] else {
            panic!("no report block")
        };
        assert_eq!(read.cumulative_lost, 0x7f_ffff, "24 bits, held at the limit");
    }

    #[test]
    fn generic_nacks_name_packets_one_by_one() {
        // SSRC 1 lacks of SSRC 2: 65,534, the two after it, and the sixteenth.
        let nack = [0x81, 205, 0, 3, 0, 0, 0, 1, 0, 0, 0, 2, 0xff, 0xfe, 0x80, 0x03];
        let missing = |seq| Incoming::Missing { ssrc: 2, seq };
        assert_eq!(parse(&nack).unwrap(), [65_534, 65_535, 0, 14].map(missing));
        assert_eq!(parse(&nack[..12]), Err(Malformed));
    }

    #[test]
    fn damaged_compounds_keep_the_bounds() {
        let feedback = [Feedback::Pli { ssrc: 5 }, Feedback::Fir { ssrc: 6, seq: 3 }];
        let mut whole = to_publisher(1, "cname", &[RECEPTION; 3], &feedback).unwrap();
        whole.extend([0x81, 205, 0, 3, 0, 0, 0, 1, 0, 0, 0, 2, 0xff, 0xfe, 0x80, 0x03]);
        let (mut seeded, mut read) = (crate::allocations::Seeded(7), 0);
        for _ in 0..20_000 {
            let damaged = seeded.mutate(&whole);
            let (found, _, bytes) = crate::allocations::count(|| parse(&damaged));
            assert!(bytes <= 64 * 1024 && found.as_ref().map_or(0, Vec::len) <= MAX_FOUND);
            read += usize::from(found.is_ok());
        }
        assert!(read > 100, "{read} were read");
    }

    /// The most that one datagram can ask for.
    #[test]
    fn the_worst_compounds_cost_no_more_than_their_size() {
        let header = |format: u8, kind: u8, len: usize| {
            let mut packet = vec![0x80 | format, kind];
            packet.extend(((len / 4 - 1) as u16).to_be_bytes());
            packet.extend([0, 0, 0, 1, 0, 0, 0, 2]);
            packet.resize(len, 0xff);
            packet
        };
        let mut different = header(4, 206, MAX_COMPOUND);
        for (number, entry) in different[12..].chunks_exact_mut(8).enumerate() {
            entry[..4].copy_from_slice(&(number as u32).to_be_bytes());
        }
        let pli: Vec<u8> = (0..MAX_COMPOUND / 12).flat_map(|_| header(1, 206, 12)).collect();
        for compound in [header(1, 205, MAX_COMPOUND), header(4, 206, MAX_COMPOUND), different, pli] {
            let (found, allocations, bytes) = crate::allocations::count(|| parse(&compound));
            assert!(found.unwrap().len() <= MAX_FOUND);
            assert!(allocations <= 32 && bytes <= 64 * 1024, "{allocations} allocations of {bytes} bytes");
        }
        let (found, _, bytes) = crate::allocations::count(|| parse(&header(1, 205, 60_000)));
        assert_eq!((found, bytes < 70_000), (Err(Malformed), true));
    }

    #[test]
    fn what_we_ask_publishers_for_reads_back() {
        let missing = [65_534, 65_535, 0, 14, 15, 200];
        let feedback = [Feedback::Nack { ssrc: 2, missing: missing.to_vec() }];
        let packet = to_publisher(1, "c", &[], &feedback).unwrap();
        let read = missing.map(|seq| Incoming::Missing { ssrc: 2, seq });
        assert_eq!(parse(&packet).unwrap(), read);
        let many: Vec<u16> = (0..5000).step_by(20).collect();
        let packet = to_publisher(1, "c", &[], &[Feedback::Nack { ssrc: 2, missing: many.clone() }]).unwrap();
        assert_eq!(parse(&packet).unwrap().len(), many.len());
    }

    #[test]
    fn what_we_write_to_viewers_reads_back() {
        let sent = |ssrc| Sent { ssrc, ntp: 0x8899_aabb_ccdd_eeff, rtp: 90_000, packets: 3, octets: 4 };
        let packet = to_viewer(&[sent(1), sent(2)], "cname").unwrap();
        let report = |ssrc| Incoming::SenderReport { ssrc, ntp: 0x8899_aabb_ccdd_eeff, rtp: 90_000 };
        assert_eq!(parse(&packet).unwrap(), [report(1), report(2)]);
        assert_eq!(parse(&bye(&[1, 2], "cname").unwrap()).unwrap(), []);
    }

    /// RFC 3611 §4.4, §4.5.
    #[test]
    fn receivers_learn_the_round_trip() {
        let block = [4, 0, 0, 2, 0, 0, 0x11, 0x22, 0x33, 0x44, 0, 0];
        let other = [9, 0, 0, 1, 1, 2, 3, 4];
        let xr = [&[0x80, 207, 0, 6, 0, 0, 0, 9][..], &other, &block].concat();
        assert_eq!(parse(&xr).unwrap(), [Incoming::ReferenceTime { ssrc: 9, ntp: 0x1122_3344 }]);
        for len in (4..xr.len()).step_by(4) {
            let mut cut = xr[..len].to_vec();
            cut[3] = (len / 4 - 1) as u8;
            assert!(parse(&cut).is_err() || parse(&cut).unwrap().is_empty(), "{len}");
        }
        let mut packet = to_viewer(&[Sent { ssrc: 1, ntp: 2, rtp: 3, packets: 4, octets: 5 }], "c").unwrap();
        append_answers(&mut packet, 1, 9, 0x1122_3344, 65_536);
        let answer = [0x80, 207, 0, 5, 0, 0, 0, 1, 5, 0, 0, 3, 0, 0, 0, 9, 0x11, 0x22, 0x33, 0x44, 0, 1, 0, 0];
        assert!(packet.ends_with(&answer), "{packet:02x?}");
        assert_eq!(parse(&packet).unwrap().len(), 1);
    }

    /// As the draft's §3.1 has it, byte by byte.
    #[test]
    fn transport_feedback_has_reference_statuses_and_deltas() {
        // 64 ms and 2.5 ms after 2^24 of them; then 1 ms; missing; 1 s; back 1 ms.
        let base = (1u64 << 24) * 256 + 256 + 10;
        let came = vec![Some(base), Some(base + 4), None, Some(base + 4004), Some(base + 4000)];
        let feedback = Feedback::Transport { ssrc: 7, report: Report { first: 65_534, came }, count: 9 };
        let packet = to_publisher(1, "c", &[], &[feedback]).unwrap();
        let twcc = &packet[packet.len() - 28..];
        assert_eq!(twcc[..20], [0x8f, 205, 0, 6, 0, 0, 0, 1, 0, 0, 0, 7, 0xff, 0xfe, 0, 5, 0, 0, 1, 9]);
        // A vector of two bits each: small, small, missing, large, large.
        assert_eq!(twcc[20..22], [0b11_01_01_00, 0b10_10_00_00]);
        assert_eq!(twcc[22..28], [10, 4, 0x0f, 0xa0, 0xff, 0xfc]);
        assert_eq!(parse(&packet), Ok(vec![]));
    }

    #[test]
    fn the_longest_transport_feedback_fits_into_a_datagram() {
        let came: Vec<_> = (0..1024u64).map(|n| (n % 4 == 0 || n == 1023).then_some(n * 2000)).collect();
        let feedback = Feedback::Transport { ssrc: 7, report: Report { first: 0, came }, count: 0 };
        let packet = to_publisher(1, "0123456789abcdef", &[], &[feedback]).unwrap();
        assert!(packet.len() <= 1100, "{} bytes", packet.len());
    }

    /// draft-alvestrand-rmcat-remb-03 §2.2.
    #[test]
    fn remb_has_mantissa_and_exponent() {
        for bitrate in [0, 1, 262_143, 262_144, 1_500_000, 4_000_000, u64::MAX] {
            let mut packet = vec![];
            write_remb(&mut packet, 1, bitrate, &[7, 8]);
            assert_eq!(packet.len(), 4 * (1 + usize::from(u16::from_be_bytes([packet[2], packet[3]]))));
            let word = u32::from_be_bytes(packet[16..20].try_into().unwrap());
            assert_eq!((&packet[12..16], word >> 24), (&b"REMB"[..], 2));
            let read = u128::from(word & 0x3_ffff) << (word >> 18 & 0x3f);
            let error = u128::from(bitrate) - read;
            assert!(error <= u128::from(bitrate) >> 17, "{bitrate} reads as {read}");
            assert_eq!(parse(&packet), Ok(vec![]));
        }
    }

    #[test]
    fn lengths_that_lie_are_malformed() {
        let packet = to_publisher(1, "cname", &[RECEPTION], &[Feedback::Pli { ssrc: 5 }]).unwrap();
        for len in 1..packet.len() {
            // A compound cut between two packets is a shorter compound.
            let whole = parse(&packet[..len]).is_ok();
            assert_eq!(whole, [32, 48].contains(&len), "{len} of {}", packet.len());
        }
        let mut version = packet.clone();
        version[0] &= 0x3f;
        assert_eq!(parse(&version), Err(Malformed));
        let mut blocks = packet;
        blocks[0] |= 31;
        assert_eq!(parse(&blocks), Err(Malformed), "31 blocks announced, one there");
        assert_eq!(parse(&[0x81, 206, 0, 0]), Err(Malformed));
    }
}
