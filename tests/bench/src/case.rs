//! What the contenders have to do.

use std::time::Duration;

use anyhow::{Result, ensure};

/// Where packets come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Origin {
    /// Publishers in the network, by SRTP.
    Srtp,
    /// The process itself, in the clear, as from a camera.
    Source,
}

/// Streams, their packets and their viewers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Case {
    pub origin: Origin,
    pub streams: u32,
    /// Of each stream.
    pub viewers: u32,
    /// Bytes of RTP payload.
    pub payload: usize,
    /// Packets per second of each stream.
    pub rate: f64,
    /// Packets of a stream that come at once: a frame of the video.
    pub burst: u32,
    /// Packets of each [`KEY_EVERY`]th frame, a keyframe; 0: it is as the others.
    pub key: u32,
}

/// Frames from one keyframe to the next: two seconds.
pub const KEY_EVERY: u64 = 60;

/// Copies per second that the fan-out cases ask for, unless one packet a copy would be too many.
const COPIES: f64 = 40_000.0;
/// Packets per second at a fan-out of one.
const PACKETS: f64 = 10_000.0;

impl Case {
    /// One stream to many viewers.
    pub fn fan_out(viewers: u32, payload: usize) -> Self {
        let rate = (COPIES / f64::from(viewers)).min(PACKETS);
        Self { origin: Origin::Srtp, streams: 1, viewers, payload, rate, burst: 1, key: 0 }
    }

    /// Video of 2 Mbit/s as encoders make it: 30 frames a second of six packets, and every two seconds a keyframe of
    /// 100 KB at once. `streams` publishers, each with so many viewers.
    pub fn video(streams: u32, viewers: u32) -> Self {
        let (burst, key) = (6, 91);
        let rate = 30.0 * mean_frame(burst, key);
        Self { origin: Origin::Srtp, streams, viewers, payload: 1100, rate, burst, key }
    }

    /// Cameras at 1 Mbit/s, each with a viewer: 110 packets a second of 1,100 bytes, four a frame.
    pub fn cameras(streams: u32, origin: Origin) -> Self {
        Self { origin, streams, viewers: 1, payload: 1100, rate: 110.0, burst: 4, key: 0 }
    }

    /// As the command line and the report name it.
    pub fn name(&self) -> String {
        match (self.streams, self.origin) {
            (1, _) if self.key != 0 => format!("{}xvideo", self.viewers),
            (streams, _) if self.key != 0 => format!("{streams}-videos"),
            (1, _) => format!("{}x{}", self.viewers, self.payload),
            (streams, Origin::Srtp) => format!("{streams}-publishers"),
            (streams, Origin::Source) => format!("{streams}-sources"),
        }
    }

    /// For people.
    pub fn title(&self) -> String {
        match (self.streams, self.origin) {
            (1, _) if self.key != 0 => {
                format!("1 video of 2 Mbit/s with keyframes of 100 KB, {} viewers", self.viewers)
            }
            (streams, _) if self.key != 0 => {
                format!("{streams} videos of 2 Mbit/s with keyframes of 100 KB, 1 viewer each")
            }
            (1, _) => format!("1 stream, {} viewers, {} B", self.viewers, self.payload),
            (streams, Origin::Srtp) => format!("{streams} SRTP publishers at 1 Mbit/s, 1 viewer each"),
            (streams, Origin::Source) => format!("{streams} sources in the process at 1 Mbit/s, 1 viewer each"),
        }
    }

    /// Viewers of all streams.
    pub fn all_viewers(&self) -> u32 {
        self.streams * self.viewers
    }

    /// Copies per second.
    pub fn copies(&self) -> f64 {
        self.rate * f64::from(self.all_viewers())
    }

    /// When packets are due: `(time since the start, stream, number in the stream)`, in order of time. The
    /// streams' frames are spread evenly.
    pub fn schedule(&self, length: Duration) -> impl Iterator<Item = (Duration, u32, u64)> + use<> {
        let (streams, burst) = (u64::from(self.streams), u64::from(self.burst));
        let key = if self.key == 0 { burst } else { u64::from(self.key) };
        let period = mean_frame(self.burst, self.key) / self.rate;
        let frames = (length.as_secs_f64() / period) as u64 * streams;
        (0..frames).flat_map(move |frame| {
            let due = Duration::from_secs_f64(frame as f64 / streams as f64 * period);
            let (stream, number) = ((frame % streams) as u32, frame / streams);
            // Keyframes before this one.
            let keys = number.div_ceil(KEY_EVERY);
            let first = keys * key + (number - keys) * burst;
            let packets = if number.is_multiple_of(KEY_EVERY) { key } else { burst };
            (0..packets).map(move |packet| (due, stream, first + packet))
        })
    }

    /// Sequence numbers of a stream that are told apart when its copies are timed: those of a third of a
    /// second. A power of two, so that it divides the number space.
    pub fn window(&self) -> u32 {
        ((self.rate / 3.0) as u32).next_power_of_two().clamp(64, 32_768)
    }

    /// Checks what the benchmark itself cannot do.
    ///
    /// # Errors
    /// Says which limit.
    pub fn check(&self) -> Result<()> {
        ensure!(self.all_viewers() <= 2048, "at most 2048 viewers");
        ensure!(self.streams <= 4096, "at most 4096 streams");
        ensure!((12..=1400).contains(&self.payload), "payloads have 12 to 1400 bytes");
        Ok(())
    }
}

/// Packets of a frame, on average.
fn mean_frame(burst: u32, key: u32) -> f64 {
    let key = if key == 0 { burst } else { key };
    (f64::from(key) + f64::from(burst) * (KEY_EVERY - 1) as f64) / KEY_EVERY as f64
}

/// The cases of a run.
pub fn all(quick: bool) -> Vec<Case> {
    if quick {
        return vec![Case::fan_out(64, 1100), Case::cameras(64, Origin::Srtp), Case::cameras(512, Origin::Source)];
    }
    let fan_outs = [1, 8, 64, 512].into_iter().flat_map(|viewers| [100, 500, 1100].map(|payload| (viewers, payload)));
    let mut cases: Vec<Case> = fan_outs.map(|(viewers, payload)| Case::fan_out(viewers, payload)).collect();
    cases.extend([1, 64, 200].map(|viewers| Case::video(1, viewers)));
    cases.push(Case::video(512, 1));
    for streams in [64, 256, 512] {
        cases.extend([Origin::Srtp, Origin::Source].map(|origin| Case::cameras(streams, origin)));
    }
    cases
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schedules_have_the_rate_and_are_in_order() {
        for case in all(false) {
            case.check().unwrap();
            let schedule: Vec<_> = case.schedule(Duration::from_secs(2)).collect();
            let wanted = 2.0 * case.rate * f64::from(case.streams);
            assert!(case.key == 0 || (case.rate * 8800.0 - 2e6).abs() < 1e5, "{} packets a second", case.rate);
            assert!(
                (schedule.len() as f64 - wanted).abs() <= wanted * 0.05 + 2.0,
                "{}: {}",
                case.name(),
                schedule.len()
            );
            assert!(schedule.is_sorted_by_key(|(due, _, _)| *due), "{}", case.name());
            let numbers: Vec<u64> = schedule.iter().filter(|packet| packet.1 == 0).map(|packet| packet.2).collect();
            assert!(numbers.iter().copied().eq(0..numbers.len() as u64), "{}", case.name());
        }
    }
}
