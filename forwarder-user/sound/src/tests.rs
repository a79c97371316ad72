//! A tone that begins after 0.3 s, as FFmpeg encodes it, and what nobody should send.

use ropus::{DecodeMode, Decoder as Opus};

use super::*;

const TONES: [(u32, u8, &[u8]); 3] = [
    (8_000, 1, include_bytes!("tests/tone-8000.aac")),
    (16_000, 1, include_bytes!("tests/tone-16000.aac")),
    (44_100, 2, include_bytes!("tests/tone-44100.aac")),
];

/// The units of a file of frames (ADTS, ISO/IEC 14496-3 §1.A.3.2).
fn units(mut file: &[u8]) -> Vec<Vec<u8>> {
    let mut units = vec![];
    while file.len() > 7 {
        let len = usize::from(file[3] & 3) << 11 | usize::from(file[4]) << 3 | usize::from(file[5]) >> 5;
        units.push(file[7..len].to_vec());
        file = &file[len..];
    }
    units
}

/// Packets, and the samples of the first channel, each at 48 kHz behind `begin`.
#[derive(Default)]
struct Listener {
    packets: Vec<(u32, usize)>,
    heard: Vec<(i64, i16)>,
}

struct Bench {
    converter: Converter,
    opus: Opus,
    begin: u32,
    listener: Listener,
}

impl Bench {
    fn new(rate: u32, channels: u8) -> Self {
        Self {
            converter: Converter::new(config(rate, channels)).unwrap(),
            opus: Opus::new(48_000, Channels::Mono).unwrap(),
            begin: u32::MAX - 5000,
            listener: Listener::default(),
        }
    }

    /// `at`: behind `begin`, at the clock of Opus.
    fn push(&mut self, at: i64, lost: bool, bytes: &[u8]) -> Result<(), SoundError> {
        let (listener, opus, begin) = (&mut self.listener, &mut self.opus, self.begin);
        let unit = Unit { timestamp: begin.wrapping_add(at as u32), lost, bytes };
        self.converter.push(unit, &mut |timestamp, payload| {
            assert!(!payload.is_empty() && payload.len() <= MAX_PACKET);
            listener.packets.push((timestamp, payload.len()));
            let mut pcm = [0; 960];
            assert_eq!(opus.decode(payload, &mut pcm, DecodeMode::Normal).unwrap(), 960);
            let first = i64::from(timestamp.wrapping_sub(begin) as i32);
            listener.heard.extend(pcm.iter().enumerate().map(|(at, sample)| (first + at as i64, *sample)));
        })
    }
}

fn config(rate: u32, channels: u8) -> Config {
    let index = [96_000, 88_200, 64_000, 48_000, 44_100, 32_000, 24_000, 22_050, 16_000, 12_000, 11_025, 8_000, 7_350];
    assert!(index.contains(&rate));
    Config { rate, channels }
}

fn at(unit: usize, rate: u32) -> i64 {
    unit as i64 * 1024 * 48_000 / i64::from(rate)
}

/// The tone is heard as long, as high, as loud and at the same time as it was encoded.
#[test]
fn a_tone_is_heard_when_it_was() {
    for (rate, channels, file) in TONES {
        let mut bench = Bench::new(rate, channels);
        for (number, unit) in units(file).iter().enumerate() {
            bench.push(at(number, rate), false, unit).unwrap();
        }
        let Listener { packets, heard } = bench.listener;
        assert!(packets.windows(2).all(|pair| pair[1].0.wrapping_sub(pair[0].0) == 960), "{packets:?}");
        let bytes: usize = packets.iter().map(|packet| packet.1).sum();
        assert!(bytes * 8 * 50 / packets.len() <= 50_000 * usize::from(channels), "{bytes}");
        // FFmpeg's encoder begins with 1,024 samples of nothing.
        let begins = at(1, rate) + 14_400;
        let first = heard.iter().find(|(_, sample)| sample.unsigned_abs() > 3000).unwrap().0;
        assert!((first - begins).abs() < 480, "{rate}: at {first}, not {begins}");
        let tone: Vec<i16> =
            heard.iter().filter(|(at, _)| (begins + 2400..begins + 16_800).contains(at)).map(|s| s.1).collect();
        let crossings = tone.windows(2).filter(|pair| pair[0] < 0 && pair[1] >= 0).count();
        assert!(
            (tone.len() / 48 - 2..=tone.len() / 48 + 2).contains(&crossings),
            "{rate}: {crossings} of {}",
            tone.len()
        );
        let loudest = tone.iter().map(|sample| sample.unsigned_abs()).max().unwrap();
        assert!((10_000..20_000).contains(&loudest), "{rate}: {loudest}");
    }
}

/// Cameras stamp by the time of day, lose units, begin anew, and have clocks that are too fast or too slow.
#[test]
fn time_goes_on_as_the_timestamps_say() {
    let units = units(TONES[1].2);
    let push_all = |times: &dyn Fn(usize) -> i64, lost: &dyn Fn(usize) -> bool, rounds: usize| {
        let mut bench = Bench::new(16_000, 1);
        for number in 0..rounds {
            bench.push(times(number), lost(number), &units[number % units.len()]).unwrap();
        }
        let packets = bench.listener.packets;
        let steps: Vec<i32> = packets.windows(2).map(|pair| pair[1].0.wrapping_sub(pair[0].0) as i32).collect();
        let last = packets.last().unwrap().0.wrapping_sub(bench.begin);
        (steps, i64::from(last as i32))
    };
    let regular = |number: usize| at(number, 16_000);
    // 20 ms more or less.
    let (steps, _) = push_all(&|number| regular(number) + [-960, 0, 960, 300][number % 4], &|_| false, 100);
    assert!(steps.iter().all(|step| *step == 960));
    // One unit of ten is lost: its time is filled.
    let (steps, last) = push_all(&|number| regular(number + number / 9), &|number| number % 9 == 0, 90);
    assert!(steps.iter().all(|step| *step == 960));
    assert!((last - regular(99)).abs() < 4000, "{last}");
    // Clocks that are 2 % off.
    for rate in [98, 102] {
        let (steps, last) = push_all(&|number| regular(number) * rate / 100, &|_| false, 600);
        assert!(steps.iter().all(|step| *step == 960), "{rate}");
        assert!((last - regular(600) * rate / 100).abs() < 8000, "{rate}: {last}");
    }
    // A clock that is none: samples go on by themselves.
    let (steps, last) = push_all(&|number| (number as i64 * 77_777) % 1_000_003, &|_| false, 600);
    assert!(steps[100..].iter().all(|step| *step == 960));
    assert!(last != 0);
    // Another time altogether.
    let (steps, last) =
        push_all(&|number| if number < 50 { regular(number) } else { regular(number) + 480_000 }, &|_| false, 100);
    assert_eq!(steps.iter().filter(|step| **step != 960).count(), 1);
    assert!((last - regular(100) - 480_000).abs() < 5000, "{last}");
}

/// Units that are none are silence: time goes on, and what follows is heard.
#[test]
fn what_cannot_be_decoded_is_silence() {
    let units = units(TONES[1].2);
    let mut bench = Bench::new(16_000, 1);
    let mut failed = 0;
    let mut state = 7u32;
    for number in 0..2000usize {
        let mut unit = units[number % units.len()].clone();
        if number % 3 != 0 && number < 1900 {
            for _ in 0..1 + number % 5 {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                let len = unit.len();
                unit[state as usize % len] = (state >> 13) as u8;
            }
            unit.truncate(1 + state as usize % unit.len());
        }
        failed += usize::from(bench.push(at(number, 16_000), false, &unit).is_err());
    }
    assert!(failed > 100 && bench.converter.panics < PANICS, "{failed}, {}", bench.converter.panics);
    let packets = &bench.listener.packets;
    assert!(packets.windows(2).all(|pair| pair[1].0.wrapping_sub(pair[0].0) == 960));
    assert!(packets.len() > 6350, "{}", packets.len());
    let loud = bench.listener.heard.iter().rev().take(48_000).any(|(_, sample)| sample.unsigned_abs() > 10_000);
    assert!(loud, "the last second is heard");
}

/// Every rate and number of channels that a description can name has a converter.
#[test]
fn every_rate_is_there() {
    for rate in [96_000, 88_200, 64_000, 48_000, 44_100, 32_000, 24_000, 22_050, 16_000, 12_000, 11_025, 8_000, 7_350] {
        for channels in [1, 2] {
            let mut bench = Bench::new(rate, channels);
            for number in 0..20 {
                let _ = bench.push(at(number, rate), false, &[0; 8]);
            }
            let seconds = 20.0 * 1024.0 / f64::from(rate);
            let packets = bench.listener.packets.len() as f64;
            assert!((packets - seconds * 50.0).abs() < 3.0, "{rate}: {packets}");
        }
    }
}
