//! Reads bit by bit: slice headers, parameter sets, frame headers. All of it comes from outside: each reader stops at the
//! end of what is there.

/// See the module.
pub(crate) struct Bits<'a> {
    bytes: &'a [u8],
    at: usize,
}

/// Most zeros in front of a number in a slice header or a sequence header.
const SHORT: u32 = 24;
/// The same in a parameter set: the most that there can be.
const LONG: u32 = 31;

impl<'a> Bits<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    pub(crate) fn bit(&mut self) -> Option<u32> {
        let byte = self.bytes.get(self.at / 8)?;
        let bit = byte >> (7 - self.at % 8) & 1;
        self.at += 1;
        Some(bit.into())
    }

    pub(crate) fn flag(&mut self) -> Option<bool> {
        self.bit().map(|bit| bit == 1)
    }

    /// An unsigned number of so many bits, at most 32.
    pub(crate) fn number(&mut self, bits: u32) -> Option<u32> {
        (0..bits).try_fold(0, |value, _| Some(value << 1 | self.bit()?))
    }

    /// What is behind the end is missed by whoever reads next.
    pub(crate) fn skip(&mut self, count: usize) {
        self.at += count;
    }

    /// Bits that are behind.
    pub(crate) fn at(&self) -> usize {
        self.at
    }

    /// Goes on from there.
    pub(crate) fn seek(&mut self, at: usize) {
        self.at = at;
    }

    /// ue(v) of H.264 §9.1.
    pub(crate) fn exp_golomb(&mut self) -> Option<u32> {
        self.exp_golomb_after(SHORT)
    }

    /// The same in a parameter set.
    pub(crate) fn long_exp_golomb(&mut self) -> Option<u32> {
        self.exp_golomb_after(LONG)
    }

    fn exp_golomb_after(&mut self, most: u32) -> Option<u32> {
        let mut zeros = 0;
        while self.bit()? == 0 {
            zeros += 1;
            if zeros > most {
                return None;
            }
        }
        Some((1u32 << zeros | self.number(zeros)?) - 1)
    }

    /// se(v) of H.264 §9.1.1, of a parameter set.
    pub(crate) fn signed(&mut self) -> Option<i64> {
        let code = i64::from(self.long_exp_golomb()?);
        Some(if code & 1 == 1 { (code + 1) / 2 } else { -code / 2 })
    }
}

/// A NAL unit without the bytes that keep start codes out of it: 3 behind two zeros (H.264 §7.4.1).
pub(crate) fn unescape(nal: &[u8]) -> Vec<u8> {
    let mut zeros = 0;
    let keep = |byte: &&u8| {
        let escape = zeros >= 2 && **byte == 3;
        zeros = if **byte == 0 { zeros + 1 } else { 0 };
        !escape
    };
    nal.iter().filter(keep).copied().collect()
}
