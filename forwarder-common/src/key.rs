//! One session key (RFC 3711 §4.3) in the form in which the datapath uses it.

/// Rows of the GHASH table: 32 nibble positions of a block.
pub const GHASH_POSITIONS: usize = 32;

/// Session key of one direction: AES round keys, salt, and the table of multiples of H.
/// 8,448 bytes; lives in the `KEYS` map. Secret.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct SessionKey {
    /// AES rounds: 10 (128-bit key) or 14 (256-bit key).
    pub rounds: u32,
    /// Session salt (RFC 7714 §8.1).
    pub salt: [u8; 12],
    /// Round keys in FIPS-197 order; `4 * (rounds + 1)` words are used.
    pub round_keys: [u32; 60],
    /// `ghash[position][nibble]`: the product of H with the block that has `nibble` at nibble
    /// `position` and zeros elsewhere.
    pub ghash: [[[u64; 2]; 16]; GHASH_POSITIONS],
}

#[cfg(feature = "user")]
// SAFETY: `repr(C)` of integers without padding; every bit pattern is a valid value.
unsafe impl aya::Pod for SessionKey {}
