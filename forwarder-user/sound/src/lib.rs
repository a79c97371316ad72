//! AAC made Opus: access units come in, packets of 20 ms go out, each with its timestamp. Pure: no threads, no sockets.
//!
//! | file | does |
//! | --- | --- |
//! | `decode` | access units to samples |
//! | `resample` | rates that Opus does not have |
//! | here | time: what is missing, what is too much; and the encoder |

mod decode;
mod resample;

use std::panic::{AssertUnwindSafe, catch_unwind};

use penstock_rtp::aac::{Config, Unit};
use ropus::{Application, Bitrate, Channels, Encoder};

use decode::{Decoder, SAMPLES};
use resample::Resampler;

/// Clock of what comes and leaves, Hz (RFC 7587 §4.1).
const CLOCK: u64 = 48_000;
/// Duration of a packet, in that clock: 20 ms, as browsers send them.
const FRAME: u64 = 960;
/// Bits a second for each channel: what is heard of a camera's microphone is not heard to be less.
const BITS: u32 = 48_000;
/// Of 0 to 10: beyond, nothing is gained at such a rate.
const COMPLEXITY: u8 = 5;
/// Longest packet: what leaves is cut nowhere.
const MAX_PACKET: usize = 1200;
/// What timestamps and the samples before them may differ by, as cameras stamp by the time of day: 60 ms.
const TOLERANCE: i32 = 2880;
/// The same behind a loss, which is filled: half a unit of the shortest.
const LOSS: i32 = 480;
/// More is no hole but another time: 500 ms.
const HOLE: i32 = 24_000;
/// Timestamps that are so often in a row not where samples are belong to no clock of sound: samples alone count then.
const STRAY: u8 = 12;
/// A decoder that panics so often gets nothing more.
const PANICS: u8 = 3;

/// Why a unit made no sound of its own. Silence of its length took its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SoundError {
    /// The decoder does not take it.
    #[error("it cannot be decoded")]
    Undecodable,
    /// The decoder or the encoder is given up.
    #[error("decoder or encoder have failed")]
    Broken,
}

/// One track.
pub struct Converter {
    config: Config,
    decoder: Decoder,
    resampler: Option<Resampler>,
    encoder: Encoder,
    /// Samples of a channel in a packet, as the encoder takes them.
    frame: usize,
    /// What the encoder's output lags behind its input, in `CLOCK`.
    delay: u32,
    line: Option<Line>,
    /// Units in a row whose timestamps were not where they should be.
    stray: u8,
    /// Interleaved samples of a unit, and those that wait for a whole packet.
    samples: Vec<f32>,
    pending: Vec<f32>,
    panics: u8,
}

/// What has come and gone since some timestamp without a break.
#[derive(Clone, Copy)]
struct Line {
    begin: u32,
    /// Samples of a channel that have come, at the source's rate.
    came: u64,
    /// Packets that have left.
    left: u64,
}

impl Converter {
    /// For units of this kind.
    ///
    /// # Errors
    /// [`SoundError::Broken`]: decoder or encoder do not begin.
    pub fn new(config: Config) -> Result<Self, SoundError> {
        let (rate, ratio) = rates(config.rate);
        let channels = if config.channels == 2 { Channels::Stereo } else { Channels::Mono };
        let encoder = Encoder::builder(rate, channels, Application::Audio)
            .bitrate(Bitrate::Bits(BITS * u32::from(config.channels)))
            .complexity(COMPLEXITY)
            .build()
            .map_err(|_| SoundError::Broken)?;
        let delay = (u64::from(encoder.lookahead()) * CLOCK / u64::from(rate)) as u32;
        Ok(Self {
            decoder: Decoder::new(config).ok_or(SoundError::Broken)?,
            resampler: ratio.map(|(up, down)| Resampler::new(up, down, config.channels.into())),
            encoder,
            frame: (u64::from(rate) * FRAME / CLOCK) as usize,
            delay,
            line: None,
            stray: 0,
            samples: vec![],
            pending: vec![],
            panics: 0,
            config,
        })
    }

    /// What it is for.
    pub fn config(&self) -> Config {
        self.config
    }

    /// Takes a unit; `out` gets timestamp and payload of each packet.
    ///
    /// # Errors
    /// [`SoundError`]; `out` may have got something nevertheless.
    pub fn push(&mut self, unit: Unit<'_>, out: &mut dyn FnMut(u32, &[u8])) -> Result<(), SoundError> {
        if self.panics >= PANICS {
            return Err(SoundError::Broken);
        }
        let Some(silence) = self.place(unit) else { return Ok(()) };
        // The decoder reads what strangers wrote: a mistake in it must not be one of all streams.
        let done = catch_unwind(AssertUnwindSafe(|| {
            self.fill(silence);
            self.encode(out);
            let decoded = self.decoder.decode(unit.bytes, &mut self.samples);
            if !decoded {
                self.samples.clear();
                self.samples.resize(SAMPLES * usize::from(self.config.channels), 0.0);
            }
            self.take();
            self.encode(out);
            if decoded { Ok(()) } else { Err(SoundError::Undecodable) }
        }));
        done.unwrap_or_else(|_| self.begin_anew())
    }

    /// Samples of silence in front of a unit; `None`: it has no place any more.
    fn place(&mut self, unit: Unit<'_>) -> Option<usize> {
        let rate = u64::from(self.config.rate);
        if let Some(line) = &self.line {
            let expected = line.begin.wrapping_add((line.came * CLOCK / rate) as u32);
            let ahead = unit.timestamp.wrapping_sub(expected) as i32;
            if self.stray >= STRAY {
                return Some(0);
            }
            self.stray = if (-TOLERANCE..TOLERANCE).contains(&ahead) { 0 } else { self.stray + 1 };
            let tolerance = if unit.lost { LOSS } else { TOLERANCE };
            if (tolerance..HOLE).contains(&ahead) {
                return Some((u64::from(ahead.unsigned_abs()) * rate / CLOCK) as usize);
            }
            if (-TOLERANCE..tolerance).contains(&ahead) {
                return Some(0);
            }
            // It has more samples than its timestamps leave room for.
            if (-HOLE..-TOLERANCE).contains(&ahead) {
                return None;
            }
        }
        self.line = Some(Line { begin: unit.timestamp, came: 0, left: 0 });
        self.pending.clear();
        if let Some(resampler) = &mut self.resampler {
            resampler.clear();
        }
        Some(0)
    }

    fn fill(&mut self, silence: usize) {
        if silence > 0 {
            self.samples.clear();
            self.samples.resize(silence * usize::from(self.config.channels), 0.0);
            self.take();
        }
    }

    /// Samples of the source's rate wait as those of the encoder's.
    fn take(&mut self) {
        let Some(line) = &mut self.line else { return };
        line.came += (self.samples.len() / usize::from(self.config.channels)) as u64;
        for sample in &mut self.samples {
            *sample = if sample.is_finite() { sample.clamp(-1.0, 1.0) } else { 0.0 };
        }
        match &mut self.resampler {
            None => self.pending.extend_from_slice(&self.samples),
            Some(resampler) => resampler.push(&self.samples, &mut self.pending),
        }
    }

    fn encode(&mut self, out: &mut dyn FnMut(u32, &[u8])) {
        let Some(line) = &mut self.line else { return };
        let len = self.frame * usize::from(self.config.channels);
        let mut packet = [0; MAX_PACKET];
        let whole = self.pending.len() / len * len;
        for frame in self.pending[..whole].chunks_exact(len) {
            let timestamp = line.begin.wrapping_add((line.left * FRAME) as u32).wrapping_sub(self.delay);
            line.left += 1;
            if let Ok(len) = self.encoder.encode_float(frame, &mut packet) {
                out(timestamp, packet.get(..len).unwrap_or_default());
            }
        }
        self.pending.drain(..whole);
    }

    /// Behind a panic nothing of what was at work is of use.
    fn begin_anew(&mut self) -> Result<(), SoundError> {
        let panics = self.panics + 1;
        match Self::new(self.config) {
            Ok(anew) => *self = Self { panics, ..anew },
            Err(_) => self.panics = PANICS,
        }
        Err(SoundError::Broken)
    }
}

/// A rate that Opus has, and how to get there: so many samples for so many.
const fn rates(rate: u32) -> (u32, Option<(usize, usize)>) {
    match rate {
        8_000 | 12_000 | 16_000 | 24_000 | 48_000 => (rate, None),
        7_350 => (8_000, Some((160, 147))),
        11_025 => (12_000, Some((160, 147))),
        22_050 => (24_000, Some((160, 147))),
        32_000 => (48_000, Some((3, 2))),
        64_000 => (48_000, Some((3, 4))),
        88_200 => (48_000, Some((80, 147))),
        96_000 => (48_000, Some((1, 2))),
        _ => (48_000, Some((160, 147))),
    }
}

#[cfg(test)]
mod tests;
