//! RTCP in plaintext: what we read of it and what we write (RFC 3550 §6, RFC 4585, RFC 5104,
//! draft-alvestrand-rmcat-remb-03).

use rtcp_types::{
    Bye, Compound, Fir, Nack, PayloadFeedback, Pli, ReceiverReport, ReportBlock, ReportBlockBuilder, RtcpPacketParser,
    RtcpPacketWriterExt, RtcpWriteError, Sdes, SdesChunk, SdesItem, SenderReport, TransportFeedback,
};

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
        /// Ours: a viewer complains of what we sent.
        ssrc: u32,
        /// Low 16 bits of the outgoing index, PID or a bit of BLP (RFC 4585 §6.2.1).
        seq: u16,
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

/// The packet contradicts its own lengths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

/// Reads a compound packet, or a lone one (RFC 5506). Types that we do not use are passed over.
///
/// # Errors
/// [`Malformed`], also when a later part of the compound is.
pub fn parse(mut compound: &[u8]) -> Result<Vec<Incoming>, Malformed> {
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
    found.extend(nack.entries().map(|seq| Incoming::Missing { ssrc: feedback.media_ssrc(), seq }));
    Ok(())
}

fn read_feedback(packet: &[u8], found: &mut Vec<Incoming>) -> Result<(), Malformed> {
    let feedback = PayloadFeedback::parse(packet).map_err(|_| Malformed)?;
    match packet[0] & 0x1f {
        1 => found.push(Incoming::KeyframeRequest { ssrc: feedback.media_ssrc() }),
        4 => {
            let fir = feedback.parse_fci::<Fir>().map_err(|_| Malformed)?;
            found.extend(fir.entries().map(|entry| Incoming::KeyframeRequest { ssrc: entry.ssrc() }));
        }
        _ => {}
    }
    Ok(())
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
        /// Wraps at 256; a repeated number is a repeated request.
        seq: u8,
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
    fn what_we_write_to_viewers_reads_back() {
        let sent = |ssrc| Sent { ssrc, ntp: 0x8899_aabb_ccdd_eeff, rtp: 90_000, packets: 3, octets: 4 };
        let packet = to_viewer(&[sent(1), sent(2)], "cname").unwrap();
        let report = |ssrc| Incoming::SenderReport { ssrc, ntp: 0x8899_aabb_ccdd_eeff, rtp: 90_000 };
        assert_eq!(parse(&packet).unwrap(), [report(1), report(2)]);
        assert_eq!(parse(&bye(&[1, 2], "cname").unwrap()).unwrap(), []);
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
