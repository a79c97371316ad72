//! AAC as cameras and encoders send it: access units out of their packets, each with a timestamp of Opus' clock. What
//! browsers play is made of them elsewhere; here is nothing but where they begin and end.

mod config;
mod generic;
mod latm;

use std::time::Instant;

pub use config::Config;

use crate::{
    Unfit, parse, rtsp,
    sequence::{Packet, Sequence},
};
use config::Mux;
use generic::{Fields, Generic};
use latm::Latm;

/// Longest access unit: 6,144 bits for each of two channels, and as much for whoever does not know that.
pub const MAX_UNIT: usize = 8192;
/// Samples of a channel in a unit.
const SAMPLES: u32 = 1024;
/// Clock of what leaves, Hz (RFC 7587 §4.1).
const OPUS_CLOCK: i64 = 48_000;

/// Takes the place of a unit among those of its packet, and its bytes.
type Collected<'a> = dyn FnMut(usize, &[u8]) + 'a;

/// How AAC comes, as a description says it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packing {
    clock_rate: u32,
    kind: Kind,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Kind {
    Generic(Fields, Config),
    Latm { in_band: bool, mux: Option<Mux> },
}

impl Packing {
    /// Of `a=rtpmap` and `a=fmtp`; `None`: it is no AAC.
    ///
    /// # Errors
    /// Why it cannot be decoded, in words.
    pub(crate) fn read(name: &str, rate: u32, channels: u32, fmtp: &str) -> Option<Result<Self, String>> {
        let kind = if name.eq_ignore_ascii_case("MPEG4-GENERIC") {
            generic(rate, channels, fmtp)
        } else if name.eq_ignore_ascii_case("MP4A-LATM") {
            latm(rate, channels, fmtp)
        } else {
            return None;
        };
        // A clock that nobody can have is a mistake of writing.
        let known = (1000..=1_000_000).contains(&rate);
        Some(kind.map(|kind| Self { clock_rate: if known { rate } else { 90_000 }, kind }))
    }
}

fn generic(rate: u32, channels: u32, fmtp: &str) -> Result<Kind, String> {
    let told = rtsp::parameter(fmtp, "config").and_then(hex).filter(|bytes| !bytes.is_empty());
    let config = match told {
        Some(bytes) => Config::read(&mut crate::bits::Bits::new(&bytes))?,
        None => Config::of(rate, channels.max(1)).ok_or_else(|| format!("{rate} Hz, without `config`"))?,
    };
    Ok(Kind::Generic(Fields::read(fmtp)?, config))
}

fn latm(rate: u32, channels: u32, fmtp: &str) -> Result<Kind, String> {
    let told = rtsp::parameter(fmtp, "config").and_then(hex).filter(|bytes| !bytes.is_empty());
    let mux = told.map(|bytes| Mux::read(&mut crate::bits::Bits::new(&bytes))).transpose();
    // RFC 6416 §6.1: among the elements, unless it is said to be elsewhere.
    let in_band = rtsp::parameter(fmtp, "cpresent").and_then(rtsp::number) != Some(0);
    match mux {
        Ok(mux) if mux.is_some() || in_band => Ok(Kind::Latm { in_band, mux }),
        // mediamtx#3590: nowhere at all.
        Ok(_) => match Config::of(rate, channels.max(1)) {
            Some(config) => Ok(Kind::Latm { in_band, mux: Some(Mux { config, frames: 1 }) }),
            None => Err("without `config`".into()),
        },
        Err(_) if in_band => Ok(Kind::Latm { in_band, mux: None }),
        Err(why) => Err(why),
    }
}

/// Bytes in hexadecimal, whatever stands behind them.
fn hex(text: &str) -> Option<Vec<u8>> {
    let digits: Vec<u32> = text.chars().map_while(|letter| letter.to_digit(16)).take(512).collect();
    let pairs = digits.chunks_exact(2).map(|pair| (pair[0] << 4 | pair[1]) as u8).collect();
    (!digits.is_empty()).then_some(pairs)
}

/// An access unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unit<'a> {
    /// At 48 kHz, continuous over the wrap of the source's.
    pub timestamp: u32,
    /// Something before it is lost.
    pub lost: bool,
    /// A raw_data_block.
    pub bytes: &'a [u8],
}

/// A track's packets on their way to access units.
#[derive(Debug)]
pub struct Receiver {
    payload_type: u8,
    sequence: Sequence,
    clock: Clock,
    kind: Taker,
    lost: bool,
    missing: u64,
}

#[derive(Debug)]
enum Taker {
    Generic(Generic, Config),
    Latm(Latm),
}

impl Receiver {
    /// Of a description's track. `ordered`: packets come as they were sent.
    pub fn new(packing: &Packing, payload_type: u8, ordered: bool) -> Self {
        let kind = match &packing.kind {
            Kind::Generic(fields, config) => Taker::Generic(Generic::new(*fields), *config),
            Kind::Latm { in_band, mux } => Taker::Latm(Latm::new(*in_band, *mux)),
        };
        let mut sequence = Sequence::new();
        sequence.set_ordered(ordered);
        let clock = Clock { rate: packing.clock_rate.into(), newest: None };
        Self { payload_type, sequence, clock, kind, lost: false, missing: 0 }
    }

    /// What the units are, as far as it is known.
    pub fn config(&self) -> Option<Config> {
        match &self.kind {
            Taker::Generic(_, config) => Some(*config),
            Taker::Latm(latm) => latm.config(),
        }
    }

    /// Payload type of the source.
    pub fn payload_type(&self) -> u8 {
        self.payload_type
    }

    /// Packets that were missing since the last call.
    pub fn take_lost(&mut self) -> u64 {
        std::mem::take(&mut self.missing)
    }

    /// A timestamp of the source's sender report in the clock of the units. `None`: of another SSRC.
    pub fn map(&self, ssrc: u32, timestamp: u32) -> Option<u32> {
        self.clock.map(timestamp).filter(|_| self.sequence.is_current(ssrc))
    }

    /// Takes an RTP packet; `out` gets each unit that is whole.
    ///
    /// # Errors
    /// Why there is none.
    pub fn packet(&mut self, packet: &[u8], now: Instant, out: &mut dyn FnMut(Unit<'_>)) -> Result<(), Unfit> {
        let (header, payload) = parse(packet).ok_or(Unfit::Malformed)?;
        let ours = header.payload_type() == self.payload_type;
        let step = self.sequence.accept(Packet { header: &header, payload, ours }, now)?;
        self.missing += u64::from(step.lost);
        if step.lost > 0 || step.restarted {
            self.lost = true;
            match &mut self.kind {
                Taker::Generic(generic, _) => generic.cut(),
                Taker::Latm(latm) => latm.cut(),
            }
        }
        let (timestamp, marker) = (header.timestamp(), header.marker());
        let begin = self.clock.advance(timestamp);
        let (lost, mut first) = (self.lost, true);
        let mut any = false;
        let rate = self.config().map(|config| config.rate);
        let mut unit = |place: usize, bytes: &[u8], rate: Option<u32>| {
            // Several units of a packet follow each other without a gap (RFC 3640 §3.2.1.1).
            let apart = i64::from(SAMPLES) * OPUS_CLOCK / i64::from(rate.unwrap_or(48_000).max(1));
            let timestamp = begin.wrapping_add((place as i64 * apart) as u32);
            any = true;
            out(Unit { timestamp, lost: lost && std::mem::take(&mut first), bytes });
        };
        let taken = match &mut self.kind {
            Taker::Generic(generic, _) => {
                generic.packet(timestamp, payload, &mut |place, bytes| unit(place, bytes, rate))
            }
            Taker::Latm(latm) => latm.packet(timestamp, marker, payload, &mut |place, bytes| unit(place, bytes, rate)),
        };
        self.lost &= !any;
        taken
    }
}

/// A unit as a decoder takes it: some senders leave the header of a file's frame before it (ADTS, ISO/IEC 14496-3
/// §1.A.3.2), which no raw_data_block begins like.
fn whole(place: usize, unit: &[u8], out: &mut Collected<'_>) {
    let header = adts(unit).map_or(0, |(header, _)| header);
    out(place, unit.get(header..).unwrap_or_default());
}

/// Length of a frame's header, and of the whole frame, where there is one.
fn adts(bytes: &[u8]) -> Option<(usize, usize)> {
    let [0xff, second, _, fourth, fifth, sixth, ..] = *bytes else { return None };
    let header = if second & 1 == 1 { 7 } else { 9 };
    let len = usize::from(fourth & 3) << 11 | usize::from(fifth) << 3 | usize::from(sixth) >> 5;
    (second & 0xf6 == 0xf0 && len > header).then_some((header, len))
}

/// The source's timestamps as those of Opus.
#[derive(Debug)]
struct Clock {
    rate: i64,
    /// The newest timestamp, and the same without its wraps.
    newest: Option<(u32, i64)>,
}

impl Clock {
    fn extended(&self, timestamp: u32) -> i64 {
        match self.newest {
            None => timestamp.into(),
            Some((newest, extended)) => extended + i64::from(timestamp.wrapping_sub(newest) as i32),
        }
    }

    fn at_opus(&self, extended: i64) -> u32 {
        (i128::from(extended) * i128::from(OPUS_CLOCK)).div_euclid(i128::from(self.rate)) as u32
    }

    fn advance(&mut self, timestamp: u32) -> u32 {
        let extended = self.extended(timestamp);
        self.newest = Some((timestamp, extended));
        self.at_opus(extended)
    }

    fn map(&self, timestamp: u32) -> Option<u32> {
        self.newest.map(|_| self.at_opus(self.extended(timestamp)))
    }
}

#[cfg(test)]
mod tests;
