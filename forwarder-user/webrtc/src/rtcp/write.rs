//! Writing what peers are told.

use rtcp_types::{
    Bye, Compound, Fir, PayloadFeedback, Pli, ReceiverReport, ReportBlock, ReportBlockBuilder, RtcpPacketWriterExt,
    RtcpWriteError, Sdes, SdesChunk, SdesItem, SenderReport, TransportFeedback, Twcc, TwccBuilder, TwccPacketStatus,
};

use super::{DELAY_SINCE_LAST_RECEIVER_REPORT, Reception};
use crate::arrivals::Report;

/// Items of one NACK: what is asked for at one time fits in a datagram.
const MAX_NACK_ITEMS: usize = 128;

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
pub(super) fn write_remb(packet: &mut Vec<u8>, our_ssrc: u32, bitrate: u64, ssrcs: &[u32]) {
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
