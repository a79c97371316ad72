//! What a sequence parameter set says of the stream: its size, whether fields are coded, whether frames are reordered.

use super::bits::{Bits, unescape};

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

/// H.264 §7.3.2.1.1.
pub(crate) fn h264(nal: &[u8]) -> Option<Sps> {
    let nal = unescape(nal.get(1..)?);
    let mut bits = Bits::new(&nal);
    let profile = bits.number(8)? as u8;
    bits.skip(16);
    bits.long_exp_golomb()?;
    let mut chroma = 1;
    if matches!(profile, 100 | 110 | 122 | 244 | 44 | 83 | 86 | 118 | 128 | 138 | 139 | 134 | 135) {
        chroma = bits.long_exp_golomb()?;
        bits.skip(usize::from(chroma == 3));
        bits.long_exp_golomb()?;
        bits.long_exp_golomb()?;
        bits.skip(1);
        if bits.flag()? {
            for list in 0..if chroma == 3 { 12 } else { 8 } {
                if bits.flag()? {
                    skip_scaling_list(&mut bits, if list < 6 { 16 } else { 64 })?;
                }
            }
        }
    }
    bits.long_exp_golomb()?;
    match bits.long_exp_golomb()? {
        0 => drop(bits.long_exp_golomb()?),
        1 => {
            bits.skip(1);
            bits.long_exp_golomb()?;
            bits.long_exp_golomb()?;
            let count = bits.long_exp_golomb()?;
            if count > 255 {
                return None;
            }
            for _ in 0..count {
                bits.long_exp_golomb()?;
            }
        }
        _ => {}
    }
    bits.long_exp_golomb()?;
    bits.skip(1);
    let (wide, high) = (bits.long_exp_golomb()?, bits.long_exp_golomb()?);
    let frames_only = bits.flag()?;
    if !frames_only {
        bits.skip(1);
    }
    bits.skip(1);
    let crop = if bits.flag()? { four(&mut bits)? } else { [0; 4] };
    let (unit_x, unit_y) = unit(chroma);
    let fields: u32 = if frames_only { 1 } else { 2 };
    Some(Sps {
        width: cropped(16u32.checked_mul(wide.checked_add(1)?)?, unit_x, [crop[0], crop[1]])?,
        height: cropped((16 * fields).checked_mul(high.checked_add(1)?)?, unit_y * fields, [crop[2], crop[3]])?,
        interlaced: !frames_only,
        reordered: None,
        profile,
    })
}

/// A size less what is cut off on both sides, in units of so many pixels.
fn cropped(size: u32, unit: u32, by: [u32; 2]) -> Option<u32> {
    size.checked_sub(unit.checked_mul(by[0].checked_add(by[1])?)?).filter(|size| *size > 0)
}

/// Pixels of a unit in which the window is cut, by the chroma format.
fn unit(chroma: u32) -> (u32, u32) {
    (if matches!(chroma, 1 | 2) { 2 } else { 1 }, if chroma == 1 { 2 } else { 1 })
}

fn four(bits: &mut Bits<'_>) -> Option<[u32; 4]> {
    Some([bits.long_exp_golomb()?, bits.long_exp_golomb()?, bits.long_exp_golomb()?, bits.long_exp_golomb()?])
}

/// §7.3.2.1.1.1.
fn skip_scaling_list(bits: &mut Bits<'_>, size: usize) -> Option<()> {
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

/// What stands first in a set of H.265: how many sub-layers less one, profile, width and height.
fn h265_begin(bits: &mut Bits<'_>) -> Option<(u32, u8, (u32, u32))> {
    bits.skip(4);
    let layers = bits.number(3)?;
    bits.skip(1);
    // profile_tier_level, §7.3.3.
    bits.skip(3);
    let profile = bits.number(5)? as u8;
    bits.skip(32 + 48 + 8);
    let mut sub = 0;
    for _ in 0..layers {
        let (has_profile, has_level) = (bits.flag()?, bits.flag()?);
        sub += if has_profile { 88 } else { 0 } + if has_level { 8 } else { 0 };
    }
    bits.skip(if layers > 0 { 2 * (8 - layers as usize) } else { 0 } + sub);
    bits.long_exp_golomb()?;
    let chroma = bits.long_exp_golomb()?;
    bits.skip(usize::from(chroma == 3));
    let (wide, high) = (bits.long_exp_golomb()?, bits.long_exp_golomb()?);
    let crop = if bits.flag()? { four(bits)? } else { [0; 4] };
    let (unit_x, unit_y) = unit(chroma);
    let size = (cropped(wide, unit_x, [crop[0], crop[1]])?, cropped(high, unit_y, [crop[2], crop[3]])?);
    Some((layers, profile, size))
}

/// Width and height, also of a set that is cut off behind them.
pub(crate) fn h265_size(nal: &[u8]) -> Option<(u32, u32)> {
    let nal = unescape(nal.get(2..)?);
    let (_, _, size) = h265_begin(&mut Bits::new(&nal))?;
    Some(size)
}

/// H.265 §7.3.2.2.1.
pub(crate) fn h265(nal: &[u8]) -> Option<Sps> {
    let nal = unescape(nal.get(2..)?);
    let mut bits = Bits::new(&nal);
    let (layers, profile, (width, height)) = h265_begin(&mut bits)?;
    bits.long_exp_golomb()?;
    bits.long_exp_golomb()?;
    bits.long_exp_golomb()?;
    let first = if bits.flag()? { 0 } else { layers };
    let mut reordered = 0;
    for _ in first..=layers {
        bits.long_exp_golomb()?;
        reordered = bits.long_exp_golomb()?;
        bits.long_exp_golomb()?;
    }
    Some(Sps { width, height, interlaced: false, reordered: Some(reordered), profile })
}
