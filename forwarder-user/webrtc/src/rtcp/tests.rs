//! What is written reads back, what is damaged costs itself.

use super::read::MAX_FOUND;
use super::write::write_remb;
use super::*;
use crate::arrivals::Report;

const RECEPTION: Reception = Reception {
    ssrc: 0x1234_5678,
    fraction_lost: 7,
    cumulative_lost: -3,
    highest: 0x0001_ffff,
    jitter: 42,
    last_sr: 0x1122_3344,
    delay_since_last_sr: 65_536,
};

/// What a compound says in which nothing is malformed.
fn whole(compound: &[u8]) -> Vec<Incoming> {
    let parsed = parse(compound);
    assert_eq!(parsed.malformed, 0);
    parsed.found
}

#[test]
fn what_we_write_to_publishers_reads_back() {
    let feedback = [Feedback::Pli { ssrc: 5 }, Feedback::Fir { ssrc: 6, seq: 3 }];
    let packet = to_publisher(1, "cname", &[RECEPTION], &feedback).unwrap();
    let keyframe = |ssrc| Incoming::KeyframeRequest { ssrc };
    assert_eq!(whole(&packet), [Incoming::Reception(RECEPTION), keyframe(5), keyframe(6)]);
    let huge = Reception { cumulative_lost: i32::MAX, ..RECEPTION };
    let Incoming::Reception(read) = whole(&to_publisher(1, "c", &[huge], &[]).unwrap())[0] else {
        panic!("no report block")
    };
    assert_eq!(read.cumulative_lost, 0x7f_ffff, "24 bits, held at the limit");
}

#[test]
fn generic_nacks_name_packets_one_by_one() {
    // SSRC 1 lacks of SSRC 2: 65,534, the two after it, and the sixteenth.
    let nack = [0x81, 205, 0, 3, 0, 0, 0, 1, 0, 0, 0, 2, 0xff, 0xfe, 0x80, 0x03];
    let missing = |seq| Incoming::Missing { ssrc: 2, seq };
    assert_eq!(whole(&nack), [65_534, 65_535, 0, 14].map(missing));
    assert_eq!(parse(&nack[..12]), Parsed { malformed: 1, ..Parsed::default() });
}

#[test]
fn damaged_compounds_keep_the_bounds() {
    let feedback = [Feedback::Pli { ssrc: 5 }, Feedback::Fir { ssrc: 6, seq: 3 }];
    let mut whole = to_publisher(1, "cname", &[RECEPTION; 3], &feedback).unwrap();
    whole.extend([0x81, 205, 0, 3, 0, 0, 0, 1, 0, 0, 0, 2, 0xff, 0xfe, 0x80, 0x03]);
    let (mut seeded, mut read) = (crate::allocations::Seeded(7), 0);
    for _ in 0..20_000 {
        let damaged = seeded.mutate(&whole);
        let (parsed, _, bytes) = crate::allocations::count(|| parse(&damaged));
        assert!(bytes <= 64 * 1024 && parsed.found.len() <= MAX_FOUND);
        read += usize::from(parsed.malformed == 0);
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
        let (parsed, allocations, bytes) = crate::allocations::count(|| parse(&compound));
        assert!(parsed.found.len() <= MAX_FOUND && parsed.malformed == 0);
        assert!(allocations <= 32 && bytes <= 64 * 1024, "{allocations} allocations of {bytes} bytes");
    }
    let (parsed, _, bytes) = crate::allocations::count(|| parse(&header(1, 205, 60_000)));
    assert_eq!((parsed, bytes < 70_000), (Parsed { malformed: 1, ..Parsed::default() }, true));
}

#[test]
fn what_we_ask_publishers_for_reads_back() {
    let missing = [65_534, 65_535, 0, 14, 15, 200];
    let feedback = [Feedback::Nack { ssrc: 2, missing: missing.to_vec() }];
    let packet = to_publisher(1, "c", &[], &feedback).unwrap();
    let read = missing.map(|seq| Incoming::Missing { ssrc: 2, seq });
    assert_eq!(whole(&packet), read);
    let many: Vec<u16> = (0..5000).step_by(20).collect();
    let packet = to_publisher(1, "c", &[], &[Feedback::Nack { ssrc: 2, missing: many.clone() }]).unwrap();
    assert_eq!(whole(&packet).len(), many.len());
}

#[test]
fn what_we_write_to_viewers_reads_back() {
    let sent = |ssrc| Sent { ssrc, ntp: 0x8899_aabb_ccdd_eeff, rtp: 90_000, packets: 3, octets: 4 };
    let packet = to_viewer(&[sent(1), sent(2)], "cname").unwrap();
    let report = |ssrc| Incoming::SenderReport { ssrc, ntp: 0x8899_aabb_ccdd_eeff, rtp: 90_000 };
    assert_eq!(whole(&packet), [report(1), report(2)]);
    assert_eq!(whole(&bye(&[1, 2], "cname").unwrap()), []);
}

/// RFC 3611 §4.4, §4.5.
#[test]
fn receivers_learn_the_round_trip() {
    let block = [4, 0, 0, 2, 0, 0, 0x11, 0x22, 0x33, 0x44, 0, 0];
    let other = [9, 0, 0, 1, 1, 2, 3, 4];
    let xr = [&[0x80, 207, 0, 6, 0, 0, 0, 9][..], &other, &block].concat();
    assert_eq!(whole(&xr), [Incoming::ReferenceTime { ssrc: 9, ntp: 0x1122_3344 }]);
    for len in (4..xr.len()).step_by(4) {
        let mut cut = xr[..len].to_vec();
        cut[3] = (len / 4 - 1) as u8;
        assert!(parse(&cut).found.is_empty(), "{len}");
    }
    let mut packet = to_viewer(&[Sent { ssrc: 1, ntp: 2, rtp: 3, packets: 4, octets: 5 }], "c").unwrap();
    append_answers(&mut packet, 1, 9, 0x1122_3344, 65_536);
    let answer = [0x80, 207, 0, 5, 0, 0, 0, 1, 5, 0, 0, 3, 0, 0, 0, 9, 0x11, 0x22, 0x33, 0x44, 0, 1, 0, 0];
    assert!(packet.ends_with(&answer), "{packet:02x?}");
    assert_eq!(whole(&packet).len(), 1);
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
    assert_eq!(whole(&packet), []);
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
        assert_eq!(whole(&packet), []);
    }
}

#[test]
fn lengths_that_lie_are_malformed() {
    let packet = to_publisher(1, "cname", &[RECEPTION], &[Feedback::Pli { ssrc: 5 }]).unwrap();
    for len in 1..packet.len() {
        // A compound cut between two packets is a shorter compound.
        let whole = parse(&packet[..len]).malformed == 0;
        assert_eq!(whole, [32, 48].contains(&len), "{len} of {}", packet.len());
    }
    let mut version = packet;
    version[0] &= 0x3f;
    assert_eq!(parse(&version), Parsed { malformed: 1, ..Parsed::default() });
    assert_eq!(parse(&[0x81, 206, 0, 0]), Parsed { malformed: 1, ..Parsed::default() });
}

/// A keyframe that is asked for behind or before what is odd is asked for.
#[test]
fn a_malformed_packet_costs_itself() {
    let keyframe = Incoming::KeyframeRequest { ssrc: 5 };
    let mut packet = to_publisher(1, "cname", &[RECEPTION], &[Feedback::Pli { ssrc: 5 }]).unwrap();
    packet[0] |= 31;
    assert_eq!(parse(&packet), Parsed { found: vec![keyframe], malformed: 1 }, "31 blocks announced, one there");
    let pli = [0x81, 206, 0, 2, 0, 0, 0, 1, 0, 0, 0, 5];
    // Extended reports whose block is longer than they are, and whose words are no whole block.
    for odd in [&[0x80, 207, 0, 2, 0, 0, 0, 9, 4, 0, 0, 2][..], &[0x80, 207, 0, 0], &[0x84, 206, 0, 3, 0, 0, 0, 1]] {
        let [before, behind] = [[&pli[..], odd].concat(), [odd, &pli[..]].concat()];
        assert_eq!(parse(&before), Parsed { found: vec![keyframe], malformed: 1 }, "{odd:02x?}");
        let is_whole = odd.len() == 4 * (1 + usize::from(odd[3]));
        assert_eq!(parse(&behind).found.len(), usize::from(is_whole), "{odd:02x?}");
    }
}
