//! AAC of sources on its way to Opus. One thread does the work for all of them, which begins with the first; what comes
//! faster than it can be done is dropped, by its source and by all of them together.

use std::{
    cell::{Cell, OnceCell},
    collections::BTreeMap,
    sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    task::{Context, Poll},
    thread,
    time::{Duration, Instant},
};

use penstock_rtp::{
    Unfit,
    aac::{self, Config, Packing},
};
use tokio::sync::mpsc;

use super::pace::Pace;

/// Of the packets that are made.
pub(super) const PAYLOAD_TYPE: u8 = 111;
/// The same.
pub(super) const SSRC: u32 = 0;
/// Units of all sources that wait: some seconds of a dozen of them.
const JOBS: usize = 1024;
/// Packets of one source that wait.
const PACKETS: usize = 256;
/// A source may send so many times as fast as it plays: what a network has held back comes at once.
const HASTE: u32 = 8;
/// A unit that has waited for so long is of no use: who is behind shall be behind no more.
const LATE: Duration = Duration::from_secs(1);
/// Steps between packets that follow each other, at 48 kHz: up to half a second.
const STEPS: std::ops::Range<i32> = 1..24_000;

/// What all sources of a thread share.
#[derive(Default)]
pub(super) struct Sounds {
    jobs: OnceCell<SyncSender<Job>>,
    last: Cell<u64>,
}

/// A unit, and who wants it.
pub(super) struct Job {
    track: u64,
    config: Config,
    timestamp: u32,
    lost: bool,
    bytes: Vec<u8>,
    /// When it came.
    at: Instant,
    to: mpsc::Sender<Made>,
}

/// What has become of one.
pub(super) enum Made {
    /// An RTP packet.
    Packet(Vec<u8>),
    /// Nothing: it is no sound.
    Nothing,
    /// Nothing: there was no time for it.
    Late,
}

/// One track, while its source is connected.
pub(super) struct Sound {
    track: u64,
    receiver: aac::Receiver,
    jobs: SyncSender<Job>,
    to: mpsc::Sender<Made>,
    made: mpsc::Receiver<Made>,
    pace: Pace,
    /// Units that were no sound, since the last look.
    bad: u32,
    /// Timestamp and moment of the packet that was made last.
    last: Option<(u32, Instant)>,
}

impl Sounds {
    /// For a connection's track. `ordered`: its packets come as they were sent. `None`: the system gives no thread.
    pub(super) fn begin(&self, packing: &Packing, payload_type: u8, ordered: bool) -> Option<Sound> {
        let jobs = match self.jobs.get() {
            Some(jobs) => jobs.clone(),
            None => {
                let (jobs, received) = sync_channel(JOBS);
                let begun = thread::Builder::new().name("penstock-sound".into()).spawn(move || work(&received));
                if let Err(error) = begun {
                    tracing::error!("no thread for sound: {error}");
                    return None;
                }
                self.jobs.get_or_init(|| jobs).clone()
            }
        };
        self.last.set(self.last.get() + 1);
        let receiver = aac::Receiver::new(packing, payload_type, ordered);
        let (to, made) = mpsc::channel(PACKETS);
        let pace = Pace::new(units_a_second(receiver.config()));
        Some(Sound { track: self.last.get(), receiver, jobs, to, made, pace, bad: 0, last: None })
    }
}

fn units_a_second(config: Option<Config>) -> u64 {
    u64::from(config.map_or(96_000, |config| config.rate) * HASTE / 1024)
}

impl Sound {
    /// Payload type of the source.
    pub(super) fn payload_type(&self) -> u8 {
        self.receiver.payload_type()
    }

    /// Packets that were missing since the last call.
    pub(super) fn take_lost(&mut self) -> u64 {
        self.receiver.take_lost()
    }

    /// Units that were no sound since the last call.
    pub(super) fn take_bad(&mut self) -> u32 {
        std::mem::take(&mut self.bad)
    }

    /// A timestamp of the source's sender report, in the clock of what is made.
    pub(super) fn map(&self, ssrc: u32, timestamp: u32) -> Option<u32> {
        self.receiver.map(ssrc, timestamp)
    }

    /// Takes a packet of the source.
    ///
    /// # Errors
    /// Why nothing will come of it.
    pub(super) fn packet(&mut self, packet: &[u8], now: Instant) -> Result<(), Unfit> {
        let config = self.receiver.config();
        let (track, jobs, to, pace) = (self.track, &self.jobs, &self.to, &mut self.pace);
        let mut late = None;
        let mut units = vec![];
        self.receiver.packet(packet, now, &mut |unit| {
            if pace.admits(1, now) {
                units.push((unit.timestamp, unit.lost, unit.bytes.to_vec()));
            } else {
                late = Some(Unfit::Backlog);
            }
        })?;
        // What stands among the units may be known by now.
        let Some(config) = self.receiver.config().or(config) else { return Ok(()) };
        for (timestamp, lost, bytes) in units {
            match jobs.try_send(Job { track, config, timestamp, lost, bytes, at: now, to: to.clone() }) {
                Ok(()) => {}
                Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => late = Some(Unfit::Backlog),
            }
        }
        late.map_or(Ok(()), Err)
    }

    /// When a packet that was made would have come, had nobody needed time to make it: its timestamps are by samples, and
    /// run as they should however it came.
    pub(super) fn moment(&mut self, packet: &[u8], now: Instant) -> Instant {
        let timestamp =
            packet.get(4..8).and_then(|bytes| bytes.first_chunk()).map_or(0, |bytes| u32::from_be_bytes(*bytes));
        let moment = match self.last {
            Some((last, at)) if STEPS.contains(&(timestamp.wrapping_sub(last) as i32)) => {
                at + Duration::from_micros(u64::from(timestamp.wrapping_sub(last)) * 1000 / 48)
            }
            Some((_, at)) => now.max(at),
            None => now,
        };
        self.last = Some((timestamp, moment));
        moment
    }

    /// What has been made since it was asked last.
    pub(super) fn poll_made(&mut self, context: &mut Context<'_>) -> Option<Made> {
        let Poll::Ready(Some(made)) = self.made.poll_recv(context) else { return None };
        self.bad += u32::from(matches!(made, Made::Nothing));
        Some(made)
    }
}

/// The thread, until the last that could send has gone.
fn work(jobs: &Receiver<Job>) {
    let mut tracks = BTreeMap::new();
    while let Ok(job) = jobs.recv() {
        if job.at.elapsed() > LATE {
            let _ = job.to.try_send(Made::Late);
            continue;
        }
        if !tracks.contains_key(&job.track) {
            // Of connections that have ended.
            tracks.retain(|_, track: &mut Track| !track.to.is_closed());
        }
        let track = tracks.entry(job.track).or_insert_with(|| Track::new(job.to.clone()));
        track.unit(&job);
    }
}

/// One track's work.
struct Track {
    to: mpsc::Sender<Made>,
    #[cfg(feature = "aac")]
    converter: Option<penstock_sound::Converter>,
    #[cfg(feature = "aac")]
    changes: u8,
    #[cfg(feature = "aac")]
    seq: u16,
}

/// Decoders that one connection may have, one after the other: LATM may change what it is at any time.
#[cfg(feature = "aac")]
const CHANGES: u8 = 16;

#[cfg(feature = "aac")]
impl Track {
    fn new(to: mpsc::Sender<Made>) -> Self {
        Self { to, converter: None, changes: 0, seq: 0 }
    }

    fn unit(&mut self, job: &Job) {
        if self.converter.as_ref().is_none_or(|converter| converter.config() != job.config) && self.changes < CHANGES {
            self.changes += 1;
            self.converter = penstock_sound::Converter::new(job.config).ok();
        }
        let (to, seq) = (&self.to, &mut self.seq);
        let unit = aac::Unit { timestamp: job.timestamp, lost: job.lost, bytes: &job.bytes };
        let converter = self.converter.as_mut().filter(|converter| converter.config() == job.config);
        let done = converter.map(|converter| {
            converter.push(unit, &mut |timestamp, payload| {
                *seq = seq.wrapping_add(1);
                // Who does not fetch them has no use for them.
                let _ = to.try_send(Made::Packet(packet(*seq, timestamp, payload)));
            })
        });
        if !matches!(done, Some(Ok(()))) {
            let _ = to.try_send(Made::Nothing);
        }
    }
}

#[cfg(feature = "aac")]
fn packet(seq: u16, timestamp: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(12 + payload.len());
    bytes.extend([0x80, PAYLOAD_TYPE]);
    bytes.extend(seq.to_be_bytes());
    bytes.extend(timestamp.to_be_bytes());
    bytes.extend(SSRC.to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

/// The configuration does not let it come so far.
#[cfg(not(feature = "aac"))]
impl Track {
    fn new(to: mpsc::Sender<Made>) -> Self {
        Self { to }
    }

    fn unit(&self, job: &Job) {
        let _ = (job.config, job.timestamp, job.lost, &job.bytes, job.at);
        let _ = self.to.try_send(Made::Nothing);
    }
}

#[cfg(feature = "aac")]
#[cfg(test)]
mod tests {
    use penstock_rtp::description::{Description, Sound as Wanted, Writer};

    use super::*;

    fn packing() -> Packing {
        let sdp = b"m=audio 0 RTP/AVP 96\na=rtpmap:96 MPEG4-GENERIC/16000/1\na=fmtp:96 config=1408";
        let mut described = Description::parse_for(sdp, Writer::Server, Wanted::Opus).unwrap();
        described.tracks.remove(0).aac.unwrap()
    }

    fn packet(seq: u16, timestamp: u32) -> Vec<u8> {
        let mut bytes = vec![0x80, 96];
        bytes.extend(seq.to_be_bytes());
        bytes.extend(timestamp.to_be_bytes());
        bytes.extend([0, 0, 0, 9, 0, 16, 0, 16, 0xff, 0x00]);
        bytes
    }

    /// What comes back has our numbers; what comes too fast is dropped and does not hold up others.
    #[test]
    fn units_become_packets_and_floods_are_dropped() {
        let sounds = Sounds::default();
        // What comes in the future is never late.
        let (packing, now) = (packing(), Instant::now() + Duration::from_secs(3600));
        let mut flood = sounds.begin(&packing, 96, true).unwrap();
        let results: Vec<_> = (0..500u16).map(|seq| flood.packet(&packet(seq, u32::from(seq) * 1024), now)).collect();
        let passed = results.iter().filter(|result| result.is_ok()).count();
        assert!((40..80).contains(&passed), "{passed}");
        assert!(results.iter().flat_map(|result| result.err()).all(|why| why == Unfit::Backlog));

        let mut sound = sounds.begin(&packing, 96, true).unwrap();
        for seq in 0..20u16 {
            sound
                .packet(&packet(seq, u32::from(seq) * 1024), now + Duration::from_millis(u64::from(seq) * 64))
                .unwrap();
        }
        let (mut packets, mut bad) = (vec![], 0);
        let mut context = Context::from_waker(std::task::Waker::noop());
        // 20 units of 64 ms, of which the last waits for 20 ms to be whole.
        while packets.len() < 63 {
            match sound.poll_made(&mut context) {
                Some(Made::Packet(bytes)) => packets.push(bytes),
                Some(Made::Nothing) => bad += 1,
                Some(Made::Late) => panic!("late"),
                None => thread::yield_now(),
            }
        }
        assert_eq!((&packets[0][..4], &packets[62][..4]), (&[0x80, 111, 0, 1][..], &[0x80, 111, 0, 63][..]));
        assert!(bad <= 20 && sound.take_bad() == bad);
    }
}
