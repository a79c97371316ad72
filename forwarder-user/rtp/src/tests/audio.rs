//! Sound.

use penstock_media::codec::Codec;

use crate::{
    Unfit,
    testing::{Bench, has_no_hole, packet},
};

fn sound(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at * 7) as u8).collect()
}

#[test]
fn long_packets_are_cut_at_samples() {
    for len in [1200, 1201, 1460, 2048, 8000, 60_000] {
        let mut bench = Bench::new(Codec::Pcma, &[]);
        for number in 0..3u32 {
            bench.push(number * len as u32, number == 0, &sound(len)).unwrap();
            bench.wait(len as u64 / 8);
        }
        let sent = bench.end();
        assert!(has_no_hole(&sent));
        let mut expected = 0;
        for sent in &sent {
            assert!(sent.payload.len() <= 1200);
            assert_eq!(sent.timestamp, expected, "{len}");
            expected += sent.payload.len() as u32;
        }
        let joined: Vec<u8> = sent.iter().flat_map(|sent| sent.payload.clone()).collect();
        assert_eq!(joined, sound(len).repeat(3));
        assert_eq!(sent.iter().filter(|sent| sent.marker).count(), 1);
    }
}

#[test]
fn padding_is_taken_off_if_it_can_be() {
    let mut bench = Bench::new(Codec::Pcma, &[]);
    for (seq, payload, len) in [
        (1, &[1, 2, 3, 0, 2][..], Some(3)),
        (2, &[1, 2, 3, 0, 0], Some(5)),
        (3, &[1, 2, 3, 0, 6], Some(5)),
        (4, &[1, 2, 3, 0, 5], None),
        (5, &[], None),
    ] {
        let mut bytes = packet(1, seq, 160 * u32::from(seq), 96, payload);
        bytes[0] |= 0x20;
        bench.wait(20);
        let before = bench.sent.len();
        let result = bench.bytes(&bytes);
        match len {
            Some(len) => assert_eq!(bench.sent[before].payload.len(), len),
            None => assert_eq!(result, Err(Unfit::Empty)),
        }
    }
    assert!(has_no_hole(&bench.end()));
}

#[test]
fn csrcs_and_header_extensions_are_passed_over() {
    let mut bench = Bench::new(Codec::Pcmu, &[]);
    let mut bytes = packet(1, 1, 160, 96, &[]);
    bytes[0] |= 0x12;
    bytes.extend([0; 8]);
    bytes.extend([0xab, 0xac, 0, 3, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]);
    bytes.extend([7; 160]);
    bench.bytes(&bytes).unwrap();
    assert_eq!(bench.sent[0].payload, [7; 160]);
    for len in 0..36 {
        assert_eq!(bench.bytes(&bytes[..len]), Err(Unfit::Malformed));
    }
    assert_eq!(bench.bytes(&[0x80, 96, 0]), Err(Unfit::Malformed));
}

#[test]
fn opus_passes_whole() {
    let mut bench = Bench::new(Codec::Opus, &[]);
    bench.push(0, true, &[0x78; 80]).unwrap();
    // Silence, by one packet now and then.
    bench.wait(400);
    bench.push(19_200, false, &[0x78]).unwrap();
    assert_eq!(bench.push(20_160, false, &[0x78; 1445]), Err(Unfit::TooLong));
    assert_eq!(bench.push(21_120, false, &[]), Err(Unfit::Empty));
    let sent = bench.end();
    assert_eq!(sent.iter().map(|sent| (sent.timestamp, sent.marker)).collect::<Vec<_>>(), [(0, true), (19_200, false)]);
}

#[test]
fn a_clock_of_g722_that_counts_samples_is_mended() {
    let mut bench = Bench::new(Codec::G722, &[]);
    for number in 0..500u32 {
        bench.push(320 * number, false, &sound(160)).unwrap();
        bench.wait(20);
    }
    let sent = bench.end();
    assert!(sent[450..].windows(2).all(|two| two[1].timestamp - two[0].timestamp == 160));
}
