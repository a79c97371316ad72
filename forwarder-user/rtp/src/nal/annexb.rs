//! Start codes (H.264 Annex B), which RTP has no use for and some sources send all the same.

use super::NalCodec;

/// Where the next start code of three bytes stands. Inside a NAL unit there is none: emulation prevention sees to it.
/// What looks like one, but has nothing behind it that could be a NAL unit, is none.
pub(crate) fn find<C: NalCodec>(bytes: &[u8]) -> Option<usize> {
    let mut at = 0;
    // The third byte of a start code is 1: bytes above it cannot be part of one.
    while let Some(third) = bytes.get(at + 2) {
        match third {
            0 => at += 1,
            1 if bytes[at] == 0 && bytes[at + 1] == 0 && is_unit::<C>(&bytes[at + 3..]) => return Some(at),
            _ => at += 3,
        }
    }
    None
}

/// Whether a unit can follow a start code: of fragments, it may be in the next one.
fn is_unit<C: NalCodec>(bytes: &[u8]) -> bool {
    bytes.is_empty() || C::can_begin(bytes)
}

/// The same where so many zeros stand before: the end of what comes before a start code, and the begin of what comes
/// behind it.
pub(crate) fn find_behind<C: NalCodec>(zeros: usize, bytes: &[u8]) -> Option<(usize, usize)> {
    let more = bytes.iter().take_while(|byte| **byte == 0).count();
    if zeros + more >= 2 && bytes.get(more) == Some(&1) && is_unit::<C>(&bytes[more + 1..]) {
        return Some((0, more + 1));
    }
    find::<C>(bytes).map(|at| (at, at + 3))
}

/// Whether bytes begin with a start code.
pub(crate) fn begins_with<C: NalCodec>(bytes: &[u8]) -> bool {
    bytes.first_chunk() == Some(&[0, 0]) && find::<C>(bytes.get(..bytes.len().min(16)).unwrap_or_default()).is_some()
}

/// The NAL units between start codes, without zeros behind them; none is empty.
pub(crate) struct Split<'a, C> {
    rest: &'a [u8],
    codec: std::marker::PhantomData<C>,
}

impl<'a, C: NalCodec> Split<'a, C> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes, codec: std::marker::PhantomData }
    }
}

impl<'a, C: NalCodec> Iterator for Split<'a, C> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        loop {
            let rest = std::mem::take(&mut self.rest);
            if rest.is_empty() {
                return None;
            }
            let unit = match find::<C>(rest) {
                Some(at) => {
                    self.rest = &rest[at + 3..];
                    &rest[..at]
                }
                None => rest,
            };
            let zeros = unit.iter().rev().take_while(|byte| **byte == 0).count();
            let unit = &unit[..unit.len() - zeros];
            if !unit.is_empty() {
                return Some(unit);
            }
        }
    }
}
