//! From one rate to another, by a windowed sinc with a table for each place between two samples.

/// Samples on each side of a place that its value is made of, as long as no frequency need be cut off.
const REACH: usize = 16;
/// Shape of the window (Kaiser): what is beyond half of the rate is 80 dB lower.
const BETA: f64 = 8.0;

/// See the module.
pub(crate) struct Resampler {
    up: usize,
    down: usize,
    channels: usize,
    /// Samples of a channel that each value is made of.
    taps: usize,
    /// `taps` numbers for each of `up` places.
    table: Vec<f32>,
    /// Interleaved samples that are still needed.
    waiting: Vec<f32>,
    /// Place of the next value behind the first of them, in parts of `up`.
    phase: usize,
}

impl Resampler {
    /// `up` samples for each `down`.
    pub(crate) fn new(up: usize, down: usize, channels: usize) -> Self {
        let cut = (up as f64 / down as f64).min(1.0);
        let half = (REACH as f64 / cut).ceil() as usize;
        let taps = 2 * half;
        let mut table = Vec::with_capacity(taps * up);
        for phase in 0..up {
            let place = (half - 1) as f64 + phase as f64 / up as f64;
            let values: Vec<f64> = (0..taps).map(|tap| weight(tap as f64 - place, half as f64, cut)).collect();
            let sum: f64 = values.iter().sum();
            table.extend(values.iter().map(|value| (value / sum) as f32));
        }
        let mut resampler = Self { up, down, channels, taps, table, waiting: vec![], phase: 0 };
        resampler.clear();
        resampler
    }

    /// What was before is forgotten: the next value is that of the next sample.
    pub(crate) fn clear(&mut self) {
        self.phase = 0;
        self.waiting.clear();
        self.waiting.resize((self.taps / 2 - 1) * self.channels, 0.0);
    }

    /// Takes interleaved samples, and gives those that follow from what is there.
    pub(crate) fn push(&mut self, samples: &[f32], out: &mut Vec<f32>) {
        self.waiting.extend_from_slice(samples);
        let mut first = 0;
        while let Some(window) = self.waiting.get(first * self.channels..(first + self.taps) * self.channels) {
            let weights = &self.table[self.phase * self.taps..][..self.taps];
            for channel in 0..self.channels {
                let of_channel = window.iter().skip(channel).step_by(self.channels);
                out.push(of_channel.zip(weights).map(|(sample, weight)| sample * weight).sum());
            }
            self.phase += self.down;
            first += self.phase / self.up;
            self.phase %= self.up;
        }
        self.waiting.drain(..(first * self.channels).min(self.waiting.len()));
    }
}

/// What a sample so far away counts.
fn weight(distance: f64, half: f64, cut: f64) -> f64 {
    let x = distance * cut * std::f64::consts::PI;
    let sinc = if x.abs() < 1e-9 { 1.0 } else { x.sin() / x };
    let edge = 1.0 - (distance / half).powi(2);
    if edge <= 0.0 { 0.0 } else { sinc * bessel(BETA * edge.sqrt()) / bessel(BETA) }
}

/// Modified Bessel function of the first kind, order zero.
fn bessel(x: f64) -> f64 {
    let (mut sum, mut term) = (1.0, 1.0);
    for k in 1..40 {
        term *= (x / (2.0 * f64::from(k))).powi(2);
        sum += term;
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A tone stays that tone, in its place, at its loudness.
    #[test]
    fn tones_stay_what_they_are() {
        for (up, down, from) in
            [(160, 147, 44_100.0), (3, 2, 32_000.0), (3, 4, 64_000.0), (80, 147, 88_200.0), (1, 2, 96_000.0)]
        {
            let to = from * up as f64 / down as f64;
            let tone = |at: usize, rate: f64| (at as f64 / rate * 1000.0 * std::f64::consts::TAU).sin() * 0.5;
            let mut resampler = Resampler::new(up, down, 2);
            let mut out = vec![];
            for block in 0..20 {
                let samples: Vec<f32> = (0..1024).flat_map(|at| [tone(block * 1024 + at, from) as f32, 0.25]).collect();
                resampler.push(&samples, &mut out);
            }
            let expected = 20 * 1024 * up / down;
            assert!(out.len() / 2 <= expected && out.len() / 2 + 80 > expected, "{} of {expected}", out.len() / 2);
            for (at, pair) in out.chunks(2).enumerate().skip(100) {
                assert!((f64::from(pair[0]) - tone(at, to)).abs() < 0.002, "{up}/{down}: {at}");
                assert!((pair[1] - 0.25).abs() < 0.001);
            }
        }
    }

    /// What the lower rate cannot have is gone, and does not come back as another tone.
    #[test]
    fn what_is_too_high_is_gone() {
        let mut resampler = Resampler::new(1, 2, 1);
        let samples: Vec<f32> =
            (0..9600).map(|at| (f64::from(at) / 96_000.0 * 40_000.0 * std::f64::consts::TAU).sin() as f32).collect();
        let mut out = vec![];
        resampler.push(&samples, &mut out);
        let loudest = out[100..].iter().fold(0.0f32, |most, sample| most.max(sample.abs()));
        assert!(loudest < 0.001, "{loudest}");
    }
}
