//! Internet checksum (RFC 1071).
//!
//! A sum is kept unfolded in 64 bits, over 16-bit words in native byte order: the result then has
//! the byte order of memory and is stored natively.

/// Adds `bytes` to `sum`; an odd last byte counts as if a zero followed.
pub fn add(mut sum: u64, bytes: &[u8]) -> u64 {
    for pair in bytes.chunks(2) {
        let word = [pair[0], pair.get(1).copied().unwrap_or(0)];
        sum += u64::from(u16::from_ne_bytes(word));
    }
    sum
}

/// Folds to 16 bits, carries added in.
#[inline(always)]
pub const fn fold(sum: u64) -> u16 {
    let sum = (sum >> 32) + (sum & 0xffff_ffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    sum as u16
}

/// Adds two 64-bit words of eight bytes each without losing a carry.
#[inline(always)]
pub const fn add_block(sum: u64, block: [u64; 2]) -> u64 {
    sum + (block[0] & 0xffff_ffff) + (block[0] >> 32) + (block[1] & 0xffff_ffff) + (block[1] >> 32)
}

/// Sum of a piece that starts at an odd offset, given its sum from an even one (RFC 1071 §2 B).
#[inline(always)]
pub const fn odd(sum: u64) -> u64 {
    fold(sum).swap_bytes() as u64
}

/// The value for the checksum field.
#[inline(always)]
pub const fn finish(sum: u64) -> u16 {
    !fold(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 1071 §3.
    #[test]
    fn rfc_1071_example() {
        let sum = add(0, &[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]);
        assert_eq!(fold(sum).to_ne_bytes(), [0xdd, 0xf2]);
    }

    #[test]
    fn pieces_at_odd_offsets_are_swapped() {
        let bytes: [u8; 37] = core::array::from_fn(|i| (i * 73 + 5) as u8);
        for split in 0..bytes.len() {
            let (head, tail) = bytes.split_at(split);
            let tail = add(0, tail);
            let sum = add(0, head) + if split % 2 == 1 { odd(tail) } else { tail };
            assert_eq!(fold(sum), fold(add(0, &bytes)), "split at {split}");
        }
    }

    #[test]
    fn blocks_sum_like_bytes() {
        let bytes: [u8; 16] = core::array::from_fn(|i| 255 - i as u8);
        assert_eq!(fold(add_block(0, crate::gf128::from_bytes(bytes))), fold(add(0, &bytes)));
    }
}
