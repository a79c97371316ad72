//! What a sequence parameter set says of the stream: its size, whether fields are coded, whether frames are reordered.

/// See the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sps {
    /// In pixels, as shown.
    pub width: u32,
    /// As shown.
    pub height: u32,
    /// Fields may be coded, two for a frame.
    pub interlaced: bool,
    /// Frames that may come before one that is shown before them. `None`: it does not say.
    pub reordered: Option<u32>,
    /// `profile_idc`.
    pub profile: u8,
}

/// Reads bits of a NAL unit, without its emulation prevention bytes.
pub(crate) struct Bits {
    bytes: Vec<u8>,
    at: usize,
}

impl Bits {
    /// `nal` without its header.
    pub(crate) fn new(nal: &[u8]) -> Self {
        let mut bytes = Vec::with_capacity(nal.len());
        let mut zeros = 0;
        for byte in nal {
            if zeros >= 2 && *byte == 3 {
                zeros = 0;
                continue;
            }
            zeros = if *byte == 0 { zeros + 1 } else { 0 };
            bytes.push(*byte);
        }
        Self { bytes, at: 0 }
    }

    fn bit(&mut self) -> Option<bool> {
        let byte = self.bytes.get(self.at / 8)?;
        let bit = byte >> (7 - self.at % 8) & 1;
        self.at += 1;
        Some(bit == 1)
    }

    fn bits(&mut self, count: usize) -> Option<u32> {
        (0..count).try_fold(0, |value: u32, _| Some(value << 1 | u32::from(self.bit()?)))
    }

    fn skip(&mut self, count: usize) {
        self.at += count;
    }

    /// ue(v) of H.264 §9.1.
    fn exp_golomb(&mut self) -> Option<u32> {
        let mut zeros = 0;
        while !self.bit()? {
            zeros += 1;
            if zeros > 31 {
                return None;
            }
        }
        Some(((1u64 << zeros | u64::from(self.bits(zeros)?)) - 1) as u32)
    }

    /// se(v), whose value nobody needs.
    fn skip_signed(&mut self) -> Option<()> {
        self.exp_golomb().map(|_| ())
    }

    fn signed(&mut self) -> Option<i64> {
        let code = i64::from(self.exp_golomb()?);
        Some(if code & 1 == 1 { (code + 1) / 2 } else { -code / 2 })
    }
}

/// H.264 §7.3.2.1.1.
pub(crate) fn h264(nal: &[u8]) -> Option<Sps> {
    let mut bits = Bits::new(nal.get(1..)?);
    let profile = bits.bits(8)? as u8;
    bits.skip(16);
    bits.exp_golomb()?;
    let mut chroma = 1;
    if matches!(profile, 100 | 110 | 122 | 244 | 44 | 83 | 86 | 118 | 128 | 138 | 139 | 134 | 135) {
        chroma = bits.exp_golomb()?;
        bits.skip(usize::from(chroma == 3));
        bits.exp_golomb()?;
        bits.exp_golomb()?;
        bits.skip(1);
        if bits.bit()? {
            for list in 0..if chroma == 3 { 12 } else { 8 } {
                if bits.bit()? {
                    skip_scaling_list(&mut bits, if list < 6 { 16 } else { 64 })?;
                }
            }
        }
    }
    bits.exp_golomb()?;
    match bits.exp_golomb()? {
        0 => drop(bits.exp_golomb()?),
        1 => {
            bits.skip(1);
            bits.skip_signed()?;
            bits.skip_signed()?;
            let count = bits.exp_golomb()?;
            if count > 255 {
                return None;
            }
            for _ in 0..count {
                bits.skip_signed()?;
            }
        }
        _ => {}
    }
    bits.exp_golomb()?;
    bits.skip(1);
    let (wide, high) = (bits.exp_golomb()?, bits.exp_golomb()?);
    let frames_only = bits.bit()?;
    if !frames_only {
        bits.skip(1);
    }
    bits.skip(1);
    let crop = if bits.bit()? { four(&mut bits)? } else { [0; 4] };
    let (unit_x, unit_y) = (if matches!(chroma, 1 | 2) { 2 } else { 1 }, if chroma == 1 { 2 } else { 1 });
    let fields: u32 = if frames_only { 1 } else { 2 };
    let cropped = |size: u32, unit: u32, by: [u32; 2]| {
        size.checked_sub(unit.checked_mul(by[0].checked_add(by[1])?)?).filter(|size| *size > 0)
    };
    Some(Sps {
        width: cropped(16u32.checked_mul(wide.checked_add(1)?)?, unit_x, [crop[0], crop[1]])?,
        height: cropped((16 * fields).checked_mul(high.checked_add(1)?)?, unit_y * fields, [crop[2], crop[3]])?,
        interlaced: !frames_only,
        reordered: None,
        profile,
    })
}

fn four(bits: &mut Bits) -> Option<[u32; 4]> {
    Some([bits.exp_golomb()?, bits.exp_golomb()?, bits.exp_golomb()?, bits.exp_golomb()?])
}

/// §7.3.2.1.1.1.
fn skip_scaling_list(bits: &mut Bits, size: usize) -> Option<()> {
    let (mut last, mut next) = (8, 8);
    for _ in 0..size {
        if next != 0 {
            next = (last + bits.signed()? + 256) % 256;
        }
        if next != 0 {
            last = next;
        }
    }
    Some(())
}

/// H.265 §7.3.2.2.1.
pub(crate) fn h265(nal: &[u8]) -> Option<Sps> {
    let mut bits = Bits::new(nal.get(2..)?);
    bits.skip(4);
    let layers = bits.bits(3)? as usize;
    bits.skip(1);
    // profile_tier_level, §7.3.3.
    bits.skip(3);
    let profile = bits.bits(5)? as u8;
    bits.skip(32 + 48 + 8);
    let mut sub = 0;
    for _ in 0..layers {
        let (has_profile, has_level) = (bits.bit()?, bits.bit()?);
        sub += if has_profile { 88 } else { 0 } + if has_level { 8 } else { 0 };
    }
    bits.skip(if layers > 0 { 2 * (8 - layers) } else { 0 } + sub);
    bits.exp_golomb()?;
    let chroma = bits.exp_golomb()?;
    bits.skip(usize::from(chroma == 3));
    let (wide, high) = (bits.exp_golomb()?, bits.exp_golomb()?);
    let crop = if bits.bit()? { four(&mut bits)? } else { [0; 4] };
    bits.exp_golomb()?;
    bits.exp_golomb()?;
    bits.exp_golomb()?;
    let first = if bits.bit()? { 0 } else { layers };
    let mut reordered = 0;
    for _ in first..=layers {
        bits.exp_golomb()?;
        reordered = bits.exp_golomb()?;
        bits.exp_golomb()?;
    }
    let (unit_x, unit_y) = (if matches!(chroma, 1 | 2) { 2 } else { 1 }, if chroma == 1 { 2 } else { 1 });
    let cropped = |size: u32, unit: u32, by: [u32; 2]| {
        size.checked_sub(unit.checked_mul(by[0].checked_add(by[1])?)?).filter(|size| *size > 0)
    };
    Some(Sps {
        width: cropped(wide, unit_x, [crop[0], crop[1]])?,
        height: cropped(high, unit_y, [crop[2], crop[3]])?,
        interlaced: false,
        reordered: Some(reordered),
        profile,
    })
}
