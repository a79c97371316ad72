//! What is to be decoded: AudioSpecificConfig and StreamMuxConfig (ISO/IEC 14496-3 §1.6.2.1, §1.7.3.2.3).

use crate::bits::Bits;

/// Sampling frequencies by their index (table 1.18).
const RATES: [u32; 13] =
    [96_000, 88_200, 64_000, 48_000, 44_100, 32_000, 24_000, 22_050, 16_000, 12_000, 11_025, 8_000, 7_350];

/// Object types (table 1.17).
const MAIN: u32 = 1;
const LC: u32 = 2;
const SBR: u32 = 5;
const PS: u32 = 29;

/// AAC-LC in frames of 1,024 samples, of one or two channels. Of HE-AAC it is the part that every decoder knows, with
/// half of the rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// Samples of a channel in a second: one of the thirteen of the standard.
    pub rate: u32,
    /// 1 or 2.
    pub channels: u8,
}

impl Config {
    /// What a decoder is told.
    pub fn audio_specific_config(self) -> [u8; 2] {
        let index = RATES.iter().position(|rate| *rate == self.rate).unwrap_or(4) as u8;
        [(LC as u8) << 3 | index >> 1, index << 7 | self.channels << 3]
    }

    /// Of a rate and channels that `a=rtpmap` names.
    pub(crate) fn of(rate: u32, channels: u32) -> Option<Self> {
        let channels = u8::try_from(channels).ok().filter(|channels| matches!(channels, 1 | 2))?;
        RATES.contains(&rate).then_some(Self { rate, channels })
    }

    /// Reads an AudioSpecificConfig.
    ///
    /// # Errors
    /// What it is, in words, when it is nothing that is decoded here.
    pub(crate) fn read(bits: &mut Bits<'_>) -> Result<Self, String> {
        let cut = || "its configuration is cut off".to_owned();
        let (kind, rate) = (object_type(bits).ok_or_else(cut)?, rate(bits).ok_or_else(cut)?);
        let channels = bits.number(4).ok_or_else(cut)?;
        let kind = if matches!(kind, SBR | PS) {
            rate_of_extension(bits).ok_or_else(cut)?;
            object_type(bits).ok_or_else(cut)?
        } else {
            kind
        };
        // Cameras say Main and send LC (kerberos-io/agent#159); what is Main indeed is found when it is decoded.
        if !matches!(kind, MAIN | LC) {
            return Err(format!("of object type {kind}, not AAC-LC"));
        }
        let short = bits.flag().ok_or_else(cut)?;
        if bits.flag().ok_or_else(cut)? {
            bits.skip(14);
        }
        let extended = bits.flag().ok_or_else(cut)?;
        if short || extended {
            return Err("in frames of 960 samples, or with extensions".into());
        }
        Self::of(rate, channels).ok_or_else(|| format!("{rate} Hz in channels of configuration {channels}"))
    }
}

fn object_type(bits: &mut Bits<'_>) -> Option<u32> {
    match bits.number(5)? {
        31 => Some(32 + bits.number(6)?),
        kind => Some(kind),
    }
}

fn rate(bits: &mut Bits<'_>) -> Option<u32> {
    match bits.number(4)? {
        15 => bits.number(24),
        index => Some(RATES.get(index as usize).copied().unwrap_or(0)),
    }
}

/// What may stand behind a configuration, and says that there is SBR (§1.6.6.1).
fn skip_extension(bits: &mut Bits<'_>) {
    const SIGN: u32 = 0x2b7;
    let begin = bits.at();
    if bits.number(11) != Some(SIGN) {
        return bits.seek(begin);
    }
    if object_type(bits) == Some(SBR) && bits.flag() == Some(true) {
        let _ = rate_of_extension(bits);
    }
}

/// The rate with SBR is of no importance: without it, half of it is played.
fn rate_of_extension(bits: &mut Bits<'_>) -> Option<u32> {
    rate(bits)
}

/// How access units stand in LATM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mux {
    pub(crate) config: Config,
    /// Access units of one element.
    pub(crate) frames: u32,
}

impl Mux {
    /// Reads a StreamMuxConfig: one program of one layer, whose frames say their length.
    ///
    /// # Errors
    /// As [`Config::read`].
    pub(crate) fn read(bits: &mut Bits<'_>) -> Result<Self, String> {
        let cut = || "its configuration is cut off".to_owned();
        let version = bits.flag().ok_or_else(cut)?;
        if version && bits.flag().ok_or_else(cut)? {
            return Err("LATM of a version to come".into());
        }
        if version {
            value(bits).ok_or_else(cut)?;
        }
        let together = bits.flag().ok_or_else(cut)?;
        let frames = bits.number(6).ok_or_else(cut)? + 1;
        let (programs, layers) = (bits.number(4).ok_or_else(cut)?, bits.number(3).ok_or_else(cut)?);
        if !together || programs > 0 || layers > 0 {
            return Err("LATM of several programs or layers".into());
        }
        let config = if version {
            let len = value(bits).ok_or_else(cut)? as usize;
            let end = bits.at() + len;
            let config = Config::read(bits)?;
            bits.skip(end.checked_sub(bits.at()).ok_or_else(cut)?);
            config
        } else {
            let config = Config::read(bits)?;
            skip_extension(bits);
            config
        };
        // Some leave out the zeros at the end (mediamtx#1881).
        if bits.number(3).unwrap_or(0) != 0 {
            return Err("LATM whose frames do not say their length".into());
        }
        bits.skip(8);
        // What stands behind the units and is none has a length, which nobody needs: an element is a packet.
        if bits.flag() == Some(true) {
            if version { value(bits) } else { escaped(bits) }.ok_or_else(cut)?;
        }
        if bits.flag() == Some(true) {
            bits.skip(8);
        }
        Ok(Self { config, frames })
    }
}

/// LatmGetValue().
fn value(bits: &mut Bits<'_>) -> Option<u32> {
    let bytes = bits.number(2)? + 1;
    bits.number(bytes * 8)
}

/// otherDataLenBits of version 0.
fn escaped(bits: &mut Bits<'_>) -> Option<u32> {
    let mut value = 0u32;
    loop {
        let more = bits.flag()?;
        value = value.checked_mul(256)?.checked_add(bits.number(8)?)?;
        if !more {
            return Some(value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(hex: &str) -> Result<Config, String> {
        Config::read(&mut Bits::new(&super::super::hex(hex).unwrap_or_default()))
    }

    #[test]
    fn configurations_of_the_field() {
        for (text, rate, channels) in [
            ("1210", 44_100, 2),
            ("1208", 44_100, 1),
            ("1190", 48_000, 2),
            ("1408", 16_000, 1),
            ("1588", 8_000, 1),
            // With the rate in 24 bits.
            ("178056221000", 44_100, 2),
            // HE-AAC, said beforehand and said behind.
            ("2b118800", 24_000, 2),
            ("131056e59800", 24_000, 2),
            ("eb098800", 24_000, 1),
            ("0c08", 16_000, 1),
        ] {
            let config = read(text).unwrap();
            assert_eq!((config.rate, config.channels), (rate, channels), "{text}");
            let told = config.audio_specific_config();
            assert_eq!(Config::read(&mut Bits::new(&told)), Ok(config));
        }
        for (text, words) in [
            ("", "cut off"),
            ("12", "cut off"),
            ("1a10", "object type 3"),
            ("f8e85000", "object type 39"),
            ("1200", "configuration 0"),
            ("1230", "configuration 6"),
            ("1214", "960"),
            ("16f0", "0 Hz"),
        ] {
            let why = read(text).unwrap_err();
            assert!(why.contains(words), "{text}: {why}");
        }
    }

    #[test]
    fn multiplexes_of_the_field() {
        let read = |text: &str| Mux::read(&mut Bits::new(&super::super::hex(text).unwrap_or_default()));
        for (text, rate, channels) in [
            ("400024203fc0", 44_100, 2),
            ("40002320adca00", 48_000, 2),
            ("400028103fc0", 16_000, 1),
            ("40002410", 44_100, 1),
        ] {
            let mux = read(text).unwrap();
            assert_eq!(mux, Mux { config: Config { rate, channels }, frames: 1 }, "{text}");
        }
        for (text, words) in [
            ("", "cut off"),
            ("4000", "cut off"),
            ("400024", "cut off"),
            ("c0", "to come"),
            ("0000", "several"),
            ("40002420ff", "length"),
        ] {
            let why = read(text).unwrap_err();
            assert!(why.contains(words), "{text}: {why}");
        }
    }
}
