//! AAC as `mpeg4-generic` (RFC 3640): access units behind a section of headers that says how long each is.

use super::{Collected, MAX_UNIT, adts, whole};
use crate::{Unfit, bits::Bits, rtsp};

/// Most access units of a packet.
const MAX_UNITS: usize = 64;

/// Lengths of the fields of AU headers, in bits (§3.2.1, §4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fields {
    size: u32,
    index: u32,
    index_delta: u32,
    cts: u32,
    dts: u32,
    random_access: bool,
    state: u32,
    auxiliary: u32,
    /// Of each unit, where headers do not say it.
    constant: usize,
}

impl Fields {
    /// Reads `a=fmtp`. The modes AAC-hbr and AAC-lbr have lengths of their own (§3.3.5, §3.3.6); without any, those of
    /// AAC-hbr are meant, which nearly all senders use.
    ///
    /// # Errors
    /// What cannot be read, in words.
    pub(crate) fn read(fmtp: &str) -> Result<Self, String> {
        let number = |name: &str| rtsp::parameter(fmtp, name).and_then(rtsp::number);
        let mode = rtsp::parameter(fmtp, "mode").unwrap_or_default();
        let constant = number("constantSize").unwrap_or(0);
        let usual = match mode.to_ascii_lowercase().as_str() {
            "aac-lbr" => (6, 2),
            "aac-hbr" | "" => (13, 3),
            _ => (0, 0),
        };
        let usual = if constant > 0 { (0, 0) } else { usual };
        let bits = |name: &str, usual: u64| {
            let value = number(name).unwrap_or(usual);
            u32::try_from(value).ok().filter(|bits| *bits <= 32).ok_or_else(|| format!("with a {name} of {value}"))
        };
        Ok(Self {
            size: bits("sizeLength", usual.0)?,
            index: bits("indexLength", usual.1)?,
            index_delta: bits("indexDeltaLength", usual.1)?,
            cts: bits("CTSDeltaLength", 0)?,
            dts: bits("DTSDeltaLength", 0)?,
            random_access: number("randomAccessIndication") == Some(1),
            state: bits("streamStateIndication", 0)?,
            auxiliary: bits("auxiliaryDataSizeLength", 0)?,
            constant: usize::try_from(constant).unwrap_or(0).min(MAX_UNIT),
        })
    }

    fn has_headers(&self) -> bool {
        self.size + self.index + self.index_delta + self.cts + self.dts + self.state > 0 || self.random_access
    }

    /// The size that a header says. `None`: it is cut off.
    fn header(&self, bits: &mut Bits<'_>, first: bool) -> Option<usize> {
        let size = bits.number(self.size)? as usize;
        bits.number(if first { self.index } else { self.index_delta })?;
        for len in [self.cts, self.dts] {
            if len > 0 && bits.flag()? {
                bits.number(len)?;
            }
        }
        if self.random_access {
            bits.bit()?;
        }
        bits.number(self.state)?;
        Some(size)
    }

    /// Where access units begin, and what headers say of their sizes.
    fn sizes(&self, payload: &[u8], sizes: &mut Vec<usize>) -> Option<usize> {
        sizes.clear();
        let mut begin = 0;
        if self.has_headers() {
            let len = usize::from(u16::from_be_bytes([*payload.first()?, *payload.get(1)?]));
            begin = 2 + len.div_ceil(8);
            let mut bits = Bits::new(payload.get(2..begin)?);
            while bits.at() < len && sizes.len() < MAX_UNITS {
                sizes.push(self.header(&mut bits, sizes.is_empty())?);
            }
        }
        if self.auxiliary > 0 {
            let len = Bits::new(payload.get(begin..)?).number(self.auxiliary)?;
            begin += (self.auxiliary + len).div_ceil(8) as usize;
        }
        Some(begin)
    }
}

/// Takes packets apart.
#[derive(Debug)]
pub(crate) struct Generic {
    fields: Fields,
    sizes: Vec<usize>,
    /// A unit of which parts are here: its length, and the source's timestamp.
    part: Option<(usize, u32)>,
    bytes: Vec<u8>,
}

/// Frames of a file (ADTS) without any AU headers (mpv#5669): no section of headers can be as long as their first two
/// bytes would say.
fn frames(mut payload: &[u8], out: &mut Collected<'_>) {
    for place in 0..MAX_UNITS {
        let Some((_, len)) = adts(payload).filter(|(_, len)| *len <= payload.len()) else { break };
        let (frame, rest) = payload.split_at(len);
        whole(place, frame, out);
        payload = rest;
    }
}

impl Generic {
    pub(crate) fn new(fields: Fields) -> Self {
        Self { fields, sizes: vec![], part: None, bytes: vec![] }
    }

    /// What was begun has no end.
    pub(crate) fn cut(&mut self) {
        self.part = None;
    }

    /// `out` gets the place of each unit in the packet, and its bytes.
    ///
    /// # Errors
    /// [`Unfit::BadUnit`], [`Unfit::Empty`].
    pub(crate) fn packet(&mut self, timestamp: u32, payload: &[u8], out: &mut Collected<'_>) -> Result<(), Unfit> {
        if adts(payload).is_some_and(|(_, len)| len <= payload.len()) {
            self.part = None;
            frames(payload, out);
            return Ok(());
        }
        let begin = self.fields.sizes(payload, &mut self.sizes).ok_or(Unfit::BadUnit)?;
        let mut rest = payload.get(begin..).ok_or(Unfit::BadUnit)?;
        if rest.is_empty() {
            return Err(Unfit::Empty);
        }
        if self.fields.size == 0 {
            let size = if self.fields.constant > 0 { self.fields.constant } else { rest.len() };
            self.sizes.clear();
            self.sizes.resize((rest.len() / size).min(MAX_UNITS), size);
        }
        if let [size] = self.sizes[..]
            && size > rest.len()
        {
            return self.fragment(size, timestamp, rest, out);
        }
        self.part = None;
        for (place, size) in self.sizes.iter().enumerate() {
            // The last may be shorter than it says: what is there is tried.
            let (unit, after) = rest.split_at((*size).min(rest.len()));
            rest = after;
            if !unit.is_empty() {
                whole(place, unit, out);
            }
        }
        Ok(())
    }

    /// §3.1: a unit that is too long for a packet stands in several of one timestamp, each with its whole length.
    fn fragment(&mut self, size: usize, timestamp: u32, bytes: &[u8], out: &mut Collected<'_>) -> Result<(), Unfit> {
        if size > MAX_UNIT {
            return Err(Unfit::TooLong);
        }
        if self.part != Some((size, timestamp)) {
            self.part = Some((size, timestamp));
            self.bytes.clear();
        }
        self.bytes.extend_from_slice(bytes);
        if self.bytes.len() >= size {
            self.part = None;
            whole(0, &self.bytes[..size], out);
        }
        Ok(())
    }
}
