//! AAC as `MP4A-LATM` (RFC 3016, RFC 6416): elements that may go over several packets, and may have the configuration
//! among them.

use super::{Collected, Config, MAX_UNIT, config::Mux, whole};
use crate::{Unfit, bits::Bits};

/// Longest element, and most packets of one.
const MAX_ELEMENT: usize = 2 * MAX_UNIT;
const MAX_PACKETS: usize = 32;

/// Takes packets apart.
#[derive(Debug)]
pub(crate) struct Latm {
    /// Elements may begin with a configuration.
    in_band: bool,
    mux: Option<Mux>,
    /// The begin of an element that goes on, its packets, and their timestamp.
    bytes: Vec<u8>,
    packets: usize,
    timestamp: u32,
    unit: Vec<u8>,
}

/// Why an element was not read to its end.
enum Stop {
    /// More may come with the next packet.
    Short,
    /// It will never be anything.
    Bad,
}

impl Latm {
    pub(crate) fn new(in_band: bool, mux: Option<Mux>) -> Self {
        Self { in_band, mux, bytes: vec![], packets: 0, timestamp: 0, unit: vec![] }
    }

    /// What is to be decoded, as far as it is known.
    pub(crate) fn config(&self) -> Option<Config> {
        self.mux.map(|mux| mux.config)
    }

    /// What was begun has no end.
    pub(crate) fn cut(&mut self) {
        self.bytes.clear();
        self.packets = 0;
    }

    /// `out` gets the place of each unit in the element, and its bytes.
    ///
    /// # Errors
    /// [`Unfit::BadUnit`], [`Unfit::Empty`], [`Unfit::TooLong`].
    pub(crate) fn packet(
        &mut self,
        timestamp: u32,
        marker: bool,
        payload: &[u8],
        out: &mut Collected<'_>,
    ) -> Result<(), Unfit> {
        if payload.is_empty() {
            return Err(Unfit::Empty);
        }
        if self.packets > 0 && self.timestamp != timestamp {
            self.cut();
        }
        self.timestamp = timestamp;
        if self.bytes.len() + payload.len() > MAX_ELEMENT || self.packets >= MAX_PACKETS {
            self.cut();
            return Err(Unfit::TooLong);
        }
        if self.packets == 0 {
            // Most elements are one packet, which is not copied.
            match self.element(payload, out) {
                Ok(()) => return Ok(()),
                Err(Stop::Short) if !marker => {}
                Err(_) => return Err(Unfit::BadUnit),
            }
            self.bytes.extend_from_slice(payload);
            self.packets = 1;
            return Ok(());
        }
        self.bytes.extend_from_slice(payload);
        self.packets += 1;
        let bytes = std::mem::take(&mut self.bytes);
        let read = self.element(&bytes, out);
        self.bytes = bytes;
        match read {
            Err(Stop::Short) if !marker => Ok(()),
            read => {
                self.cut();
                read.map_err(|_| Unfit::BadUnit)
            }
        }
    }

    /// AudioMuxElement (ISO/IEC 14496-3 §1.7.3.2). Nothing leaves before all of it is there.
    fn element(&mut self, bytes: &[u8], out: &mut Collected<'_>) -> Result<(), Stop> {
        let mut bits = Bits::new(bytes);
        let mut mux = self.mux;
        if self.in_band && !bits.flag().ok_or(Stop::Short)? {
            mux = Some(Mux::read(&mut bits).map_err(|_| Stop::Bad)?);
        }
        let Some(mux) = mux else { return Err(Stop::Bad) };
        let begin = bits.at();
        for emit in [false, true] {
            bits.seek(begin);
            for place in 0..mux.frames as usize {
                let len = length(&mut bits).ok_or(Stop::Short)?;
                if len > MAX_UNIT {
                    return Err(Stop::Bad);
                }
                if bits.at() + len * 8 > bytes.len() * 8 {
                    return Err(Stop::Short);
                }
                if emit {
                    self.unit.clear();
                    self.unit.extend((0..len).map_while(|_| bits.number(8)).map(|byte| byte as u8));
                    whole(place, &self.unit, out);
                } else {
                    bits.skip(len * 8);
                }
            }
        }
        self.mux = Some(mux);
        Ok(())
    }
}

/// PayloadLengthInfo(): bytes, as many as there are with 255 in front of the last.
fn length(bits: &mut Bits<'_>) -> Option<usize> {
    let mut len = 0;
    loop {
        let byte = bits.number(8)?;
        len += byte as usize;
        if byte < 255 {
            return Some(len);
        }
    }
}
