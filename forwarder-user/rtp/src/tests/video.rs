//! VP8, VP9 and AV1; what parameter sets say.

use penstock_media::codec::Codec;

use crate::{
    MAX_PAYLOAD, Sps, Unfit, sps,
    testing::{Bench, Sent, has_no_hole},
};

/// Writes what parameter sets are made of.
#[derive(Default)]
struct Bits {
    bytes: Vec<u8>,
    count: usize,
}

impl Bits {
    fn put(mut self, value: u32, count: usize) -> Self {
        for at in (0..count).rev() {
            if self.count.is_multiple_of(8) {
                self.bytes.push(0);
            }
            *self.bytes.last_mut().unwrap() |= ((value >> at & 1) as u8) << (7 - self.count % 8);
            self.count += 1;
        }
        self
    }

    fn golomb(self, value: u32) -> Self {
        let len = 32 - (value + 1).leading_zeros() as usize;
        self.put(0, len - 1).put(value + 1, len)
    }

    /// With emulation prevention bytes.
    fn nal(self, header: &[u8]) -> Vec<u8> {
        let (mut nal, mut zeros) = (header.to_vec(), 0);
        for byte in self.put(1, 1).bytes {
            if zeros >= 2 && byte <= 3 {
                nal.push(3);
                zeros = 0;
            }
            zeros = if byte == 0 { zeros + 1 } else { 0 };
            nal.push(byte);
        }
        nal
    }
}

/// 720x576, and in fields or not (H.264 §7.3.2.1.1).
pub(super) fn sps_h264(interlaced: bool) -> Vec<u8> {
    let begin = Bits::default().put(77, 8).put(0, 8).put(30, 8).golomb(0).golomb(0).golomb(2).golomb(1).put(0, 1);
    let size = begin.golomb(44).golomb(if interlaced { 17 } else { 35 }).put(u32::from(!interlaced), 1);
    let size = if interlaced { size.put(0, 1) } else { size };
    size.put(1, 1).put(0, 1).put(0, 1).nal(&[0x67])
}

#[test]
fn a_sequence_parameter_set_of_h264() {
    for interlaced in [false, true] {
        let expected = Sps { width: 720, height: 576, interlaced, reordered: None, profile: 77 };
        assert_eq!(sps::h264(&sps_h264(interlaced)), Some(expected));
    }
    // High profile, 1920x1088 of which 8 lines are cut off, scaling lists, poc type 1.
    let begin = Bits::default().put(100, 8).put(0, 8).put(40, 8).golomb(0).golomb(1).golomb(0).golomb(0).put(0, 1);
    let lists = (0..16).fold(begin.put(1, 1).put(1, 1), |bits, _| bits.golomb(0)).put(0, 7);
    let poc = lists.golomb(3).golomb(1).put(1, 1).golomb(4).golomb(4).golomb(2).golomb(1).golomb(1);
    let size = poc.golomb(4).put(0, 1).golomb(119).golomb(67).put(1, 1).put(1, 1).put(1, 1);
    let nal = size.golomb(0).golomb(0).golomb(0).golomb(4).put(0, 1).nal(&[0x67]);
    let read = sps::h264(&nal).unwrap();
    assert_eq!((read.width, read.height, read.profile), (1920, 1080, 100));
    for len in 0..nal.len() - 2 {
        assert_eq!(sps::h264(&nal[..len]), None, "{len}");
    }
}

#[test]
fn a_sequence_parameter_set_of_h265() {
    let begin = Bits::default().put(0, 4).put(1, 3).put(1, 1).put(0, 3).put(1, 5).put(0x6000_0000, 32);
    let level = begin.put(0, 24).put(0, 24).put(93, 8);
    // A sublayer with profile and level.
    let layers = level.put(3, 2).put(0, 14).put(0, 32).put(0, 32).put(0, 24).put(90, 8);
    let size = layers.golomb(0).golomb(1).golomb(1280).golomb(728).put(1, 1).golomb(0).golomb(0).golomb(0).golomb(4);
    let orders =
        size.golomb(0).golomb(0).golomb(4).put(1, 1).golomb(4).golomb(0).golomb(0).golomb(5).golomb(2).golomb(0);
    let nal = orders.put(0, 32).nal(&[33 << 1, 1]);
    let expected = Sps { width: 1280, height: 720, interlaced: false, reordered: Some(2), profile: 1 };
    assert_eq!(sps::h265(&nal), Some(expected));
    for len in 0..nal.len() - 6 {
        assert_eq!(sps::h265(&nal[..len]), None, "{len}");
    }
}

/// Timestamps at which markers stand.
fn ends(sent: &[Sent]) -> Vec<u32> {
    sent.iter().filter(|sent| sent.marker).map(|sent| sent.timestamp).collect()
}

#[test]
fn frames_of_vp8_end_where_they_end() {
    let markers: [fn(bool) -> bool; 3] = [|last| last, |_| false, |_| true];
    for marker in markers {
        for still in [false, true] {
            let mut bench = Bench::new(Codec::Vp8, &[]);
            for frame in 0..30u32 {
                for packet in 0..3 {
                    // With a picture id, and without.
                    let descriptor: &[u8] = if packet == 0 { &[0x90, 0x80, frame as u8] } else { &[0x00] };
                    let payload = [descriptor, &[frame as u8; 100]].concat();
                    let timestamp = if still { 5 } else { 3600 * frame };
                    bench.push(timestamp, marker(packet == 2), &payload).unwrap();
                }
                bench.wait(40);
            }
            let sent = bench.end();
            assert!(has_no_hole(&sent) && sent.len() == 90);
            if still && !marker(true) {
                continue;
            }
            let before_last = &sent[..87];
            assert!(before_last.chunks(3).all(|frame| frame[2].marker && !frame[0].marker && !frame[1].marker));
            let ends = ends(before_last);
            assert!(ends.windows(2).all(|two| two[0] < two[1]), "{ends:?}");
            assert!(still || ends.windows(2).all(|two| two[1] - two[0] == 3600));
        }
    }
}

#[test]
fn vp8_that_is_too_long_is_cut_behind_its_descriptor() {
    for descriptor in
        [&[0x10][..], &[0x90, 0x80, 0x81, 2], &[0x90, 0x80, 3], &[0x90, 0xf0, 0x81, 2, 3, 4], &[0x80, 0x20, 9]]
    {
        let data: Vec<u8> = (0..3000u32).map(|at| at as u8).collect();
        let mut bench = Bench::new(Codec::Vp8, &[]);
        bench.push(0, true, &[descriptor, &data[..]].concat()).unwrap();
        let sent = bench.end();
        assert_eq!(sent.iter().map(|sent| sent.marker).collect::<Vec<_>>(), [false, false, true]);
        let joined: Vec<u8> = sent.iter().flat_map(|sent| &sent.payload[descriptor.len()..]).copied().collect();
        assert_eq!(joined, data);
        for (number, sent) in sent.iter().enumerate() {
            assert!(sent.payload.len() <= MAX_PAYLOAD);
            assert_eq!(sent.payload[0], if number == 0 { descriptor[0] } else { descriptor[0] & !0x10 });
            assert_eq!(sent.payload[1..descriptor.len()], descriptor[1..]);
        }
    }
}

#[test]
fn vp8_descriptors_without_data_are_malformed() {
    let mut bench = Bench::new(Codec::Vp8, &[]);
    for payload in [&[0x10][..], &[0x90], &[0x90, 0x80], &[0x90, 0x80, 0x81], &[0x90, 0xf0, 1, 2, 3]] {
        assert_eq!(bench.push(0, true, payload), Err(Unfit::Malformed));
    }
    assert_eq!(bench.push(0, true, &[]), Err(Unfit::Empty));
}

#[test]
fn other_video_ends_where_its_timestamp_changes() {
    for codec in [Codec::Vp9, Codec::Av1] {
        let mut bench = Bench::new(codec, &[]);
        for packet in 0..40u32 {
            bench.push(3600 * (packet / 2), false, &[7; 50]).unwrap();
        }
        assert_eq!(bench.push(0, true, &[7; 1445]), Err(Unfit::TooLong));
        let sent = bench.end();
        assert!(has_no_hole(&sent));
        assert_eq!(ends(&sent), (0..19).map(|frame| 3600 * frame).collect::<Vec<_>>());
    }
}
