//! Streams as a source might send them, by chance, and what must be true of all of them.

use penstock_media::codec::Codec;

use super::*;
use crate::testing::{Bench, Random, frames_h264, has_no_hole, packet};

/// What one source does, the same for all of its life.
struct Source {
    /// 0: right. 1: none. 2: on each unit. 3: on each packet.
    markers: usize,
    /// 0: right. 1: sets stamped 0. 2: another for each packet. 3: they stand still. 4: set now and then.
    timestamps: usize,
    /// 0: by ones. 1: anew at keyframes. 2: they stand still.
    numbers: usize,
    /// Largest payload.
    size: usize,
    /// One payload in so many of another type.
    foreign: usize,
    aggregates: bool,
    start_codes: bool,
    sets: bool,
}

impl Source {
    fn new(random: &mut Random) -> Self {
        let timestamps = random.below(5);
        // With neither numbers nor timestamps, delimiters that are alike are taken for one that came twice.
        let numbers = if timestamps == 3 { 0 } else { random.below(3) };
        Self {
            markers: random.below(4),
            timestamps,
            numbers,
            size: [60, 300, 1000, 1200, 1400, 4000][random.below(6)],
            foreign: 2 + random.below(20),
            aggregates: random.one_in(2),
            start_codes: random.one_in(4),
            sets: random.one_in(2),
        }
    }

    /// Units of a frame.
    fn frame(&self, number: u32, random: &mut Random) -> Vec<Vec<u8>> {
        let key = number.is_multiple_of(10);
        let mut nals: Vec<Vec<u8>> = vec![];
        if self.aggregates && number.is_multiple_of(3) {
            nals.push(AUD.to_vec());
        }
        if key && self.sets {
            nals.extend([SPS.to_vec(), PPS.to_vec()]);
        }
        if random.one_in(5) {
            nals.push([SEI, &[number as u8 | 0x40, 1]].concat());
        }
        let (first, next) = if key { (IDR, IDR_2) } else { (P, P_2) };
        for slice in 0..1 + random.below(3) {
            let begin = if slice == 0 { first } else { next };
            // No two are alike.
            let begin = [begin, &[number as u8 | 0x40, slice as u8 | 0x40]].concat();
            let len = 6 + random.below(if slice == 0 { 4000 } else { 1500 });
            nals.push([long(&begin, len), vec![number as u8 | 0x40, 1]].concat());
        }
        nals
    }

    /// Payloads, each with whether a unit ends in it.
    fn payloads(&self, nals: &[Vec<u8>]) -> Vec<(Vec<u8>, bool)> {
        if self.start_codes {
            let joined = nals.join(&[0, 0, 0, 1][..]);
            return self.unit(&joined);
        }
        let leads = nals.iter().take_while(|nal| nal[0] & 0x1f > 5).count();
        if self.aggregates && leads > 1 {
            let lead: Vec<&[u8]> = nals[..leads].iter().map(Vec::as_slice).collect();
            let rest = nals[leads..].iter().flat_map(|nal| self.unit(nal));
            return std::iter::once((stap(&lead), true)).chain(rest).collect();
        }
        nals.iter().flat_map(|nal| self.unit(nal)).collect()
    }

    fn unit(&self, nal: &[u8]) -> Vec<(Vec<u8>, bool)> {
        if nal.len() <= self.size {
            return vec![(nal.to_vec(), true)];
        }
        let parts = fragments(nal, self.size);
        let last = parts.len() - 1;
        parts.into_iter().enumerate().map(|(at, part)| (part, at == last)).collect()
    }

    fn timestamp(&self, frame: u32, packet: u32, lead: bool) -> u32 {
        let right = 3600 * frame;
        match self.timestamps {
            1 if lead => 0,
            2 => right + packet,
            3 => 9,
            4 => right.wrapping_add(frame / 13 * 1_000_000_007),
            _ => right,
        }
    }

    fn marker(&self, unit: bool, frame: bool) -> bool {
        match self.markers {
            0 => frame,
            1 => false,
            2 => unit,
            _ => true,
        }
    }
}

fn play(seed: u64) {
    let mut random = Random(seed);
    let source = Source::new(&mut random);
    let mut bench = Bench::new(Codec::H264, &[SPS, PPS]);
    let mut expected = vec![];
    for number in 0..40 {
        if source.numbers == 1 && number % 10 == 0 {
            bench.seq = 0;
        }
        let nals = source.frame(number, &mut random);
        let payloads = source.payloads(&nals);
        let count = payloads.len();
        for (at, (payload, unit)) in payloads.iter().enumerate() {
            if random.one_in(source.foreign) {
                let foreign = packet(1, bench.seq, 1, 72, &[9; 20]);
                bench.seq = bench.seq.wrapping_add(u16::from(source.numbers != 2));
                let _ = bench.bytes(&foreign);
            }
            let lead = !source.start_codes && payload[0] & 0x1f > 5 && payload[0] & 0x1f != 28;
            let timestamp = source.timestamp(number, at as u32, lead);
            let marker = source.marker(*unit, at + 1 == count);
            bench.push(timestamp, marker, payload).unwrap_or_else(|why| {
                panic!(
                    "seed {seed}, frame {number}: {why:?} {at} of {count}, {} bytes, {:x?}",
                    payload.len(),
                    &payload[..2]
                )
            });
            if source.numbers == 2 {
                bench.seq -= 1;
            }
        }
        bench.wait(40);
        expected.push(nals);
    }
    let sent = bench.end();
    assert!(has_no_hole(&sent), "seed {seed}");
    let frames = frames_h264(&sent);
    assert_eq!(frames.len(), 40, "seed {seed}: markers {}, timestamps {}", source.markers, source.timestamps);
    for (number, (frame, nals)) in frames.iter().zip(&expected).enumerate() {
        // Sets of ours stand in front of keyframes without.
        // Zeros behind a unit mean nothing.
        let trimmed = |nal: &Vec<u8>| nal[..nal.iter().rposition(|byte| *byte != 0).unwrap() + 1].to_vec();
        let slices = |nals: &[Vec<u8>]| -> Vec<Vec<u8>> {
            nals.iter().filter(|nal| !matches!(nal[0] & 0x1f, 7 | 8)).map(trimmed).collect()
        };
        let lens = |nals: &[Vec<u8>]| nals.iter().map(|nal| (nal[0], nal.len())).collect::<Vec<_>>();
        assert!(
            slices(&frame.nals) == slices(nals),
            "seed {seed}, frame {number}: {:?} instead of {:?}",
            lens(&frame.nals),
            lens(nals)
        );
        let sets = frame.nals.iter().filter(|nal| matches!(nal[0] & 0x1f, 7 | 8)).count();
        assert_eq!(sets, if number % 10 == 0 { 2 } else { 0 }, "seed {seed}, frame {number}");
        assert!(frame.ended || number == 39, "seed {seed}, frame {number}");
    }
    assert!(frames.windows(2).all(|two| two[0].timestamp < two[1].timestamp), "seed {seed}");
    if matches!(source.timestamps, 0 | 1 | 4) {
        assert!(frames.windows(2).all(|two| two[1].timestamp - two[0].timestamp == 3600), "seed {seed}");
    }
}

#[test]
fn whatever_a_source_does_whole_frames_leave() {
    for seed in 0..600 {
        play(seed);
    }
}

/// Nothing that comes makes it panic, send what is too long, go back in numbers, or hold more than it may.
#[test]
fn nonsense_does_no_harm() {
    for (seed, codec) in (0..300)
        .flat_map(|seed| [Codec::H264, Codec::H265, Codec::Vp8, Codec::Vp9, Codec::Pcmu].map(|codec| (seed, codec)))
    {
        let mut random = Random(seed);
        let mut bench = Bench::new(codec, &[SPS, PPS]);
        bench.pipeline.set_ordered(random.one_in(2));
        for _ in 0..100 {
            let len = random.below(60);
            let mut bytes: Vec<u8> = (0..len).map(|_| random.below(256) as u8).collect();
            let types = [0x67, 0x68, 0x65, 0x41, 0x7c, 0x78, 0x79, 0x7d, 0, 98, 96, 38, 2, 0x90, 0x10, 0x06, 0x0c];
            if let Some(first) = bytes.first_mut().filter(|_| !random.one_in(5)) {
                *first = types[random.below(types.len())];
            }
            if random.one_in(3) && len > 8 {
                bytes[4..7].copy_from_slice(&[0, 0, 1]);
            }
            if random.one_in(10) {
                bench.seq = random.below(65_536) as u16;
            }
            let _ = bench.push(random.below(4) as u32 * 1_000_000_000, random.one_in(3), &bytes);
            bench.wait(random.below(100) as u64);
        }
        let sent = bench.end();
        assert!(sent.windows(2).all(|two| two[0].index < two[1].index));
        assert!(sent.iter().all(|sent| sent.payload.len() <= 1400 && !sent.payload.is_empty()));
    }
}
