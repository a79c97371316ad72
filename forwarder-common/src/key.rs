//! One session key (RFC 3711 §4.3) in the form in which the datapath uses it.

use crate::{aes, gf128};

/// Session key of one direction: AES round keys, salt, and the table of multiples of H.
/// 8,448 bytes; lives in the `KEYS` map. Secret: [`wipe`](Self::wipe) every copy after use. (It
/// cannot wipe itself on drop, because a map value must be `Copy`.)
#[repr(C)]
#[derive(Clone, Copy)]
pub struct SessionKey {
    /// AES rounds: 10 (128-bit key), 14 (256-bit key), or 0 in a free slot.
    pub rounds: u32,
    /// Session salt (RFC 7714 §8.1).
    pub salt: [u8; 12],
    /// Round keys in FIPS-197 order, each word with its first byte lowest; `4 * (rounds + 1)` words
    /// are used.
    pub round_keys: [u32; aes::ROUND_KEY_WORDS],
    /// GHASH: multiples of H, the encrypted zero block.
    pub ghash: gf128::Table,
}

impl SessionKey {
    /// What a slot without a key holds.
    pub const EMPTY: SessionKey = SessionKey {
        rounds: 0,
        salt: [0; 12],
        round_keys: [0; aes::ROUND_KEY_WORDS],
        ghash: [[[0; 2]; 16]; gf128::POSITIONS],
    };

    /// Expands a session key of 16 or 32 bytes. `None` for any other length.
    pub fn new(key: &[u8], salt: [u8; 12]) -> Option<Self> {
        let mut session = Self { salt, ..Self::EMPTY };
        session.rounds = aes::expand(key, &mut session.round_keys)?;
        let h = aes::encrypt(&session.round_keys, session.rounds, [0; 4]);
        let h = [u64::from(h[0]) | u64::from(h[1]) << 32, u64::from(h[2]) | u64::from(h[3]) << 32];
        gf128::fill(&mut session.ghash, h);
        Some(session)
    }

    /// Overwrites the secret, in a way that the compiler may not leave out.
    pub fn wipe(&mut self) {
        // SAFETY: `self` is a valid, exclusive, aligned place for one value of this type.
        unsafe { core::ptr::write_volatile(self, Self::EMPTY) };
        core::sync::atomic::compiler_fence(core::sync::atomic::Ordering::SeqCst);
    }
}

impl core::fmt::Debug for SessionKey {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "SessionKey({} rounds, redacted)", self.rounds)
    }
}

#[cfg(feature = "user")]
// SAFETY: `repr(C)` of integers without padding; every bit pattern is a valid value.
unsafe impl aya::Pod for SessionKey {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ExtendedSeq, nonce, rtp::FIXED_LEN};

    /// Seals `packet` (header, plaintext, 16 bytes of room) in the way the datapath does it.
    fn seal(key: &SessionKey, nonce: [u32; 3], packet: &mut [u8]) {
        let (aad, rest) = packet.split_at_mut(FIXED_LEN);
        let len = rest.len() - 16;
        let block = |bytes: &[u8]| {
            let mut padded = [0; 16];
            padded[..bytes.len()].copy_from_slice(bytes);
            gf128::from_bytes(padded)
        };
        let xor = |a: gf128::Block, b: gf128::Block| [a[0] ^ b[0], a[1] ^ b[1]];
        let counter = aes::CounterBlock::new(&key.round_keys, nonce);
        let mut y = gf128::multiply(&key.ghash, block(aad));
        for (i, bytes) in rest[..len].chunks_mut(16).enumerate() {
            let stream = counter.keystream(&key.round_keys, key.rounds, i as u32 + 2);
            let sealed = gf128::to_bytes(xor(block(bytes), stream));
            bytes.copy_from_slice(&sealed[..bytes.len()]);
            y = gf128::multiply(&key.ghash, xor(y, block(bytes)));
        }
        y = gf128::multiply(&key.ghash, xor(y, gf128::lengths(FIXED_LEN as u64, len as u64)));
        let tag = xor(y, counter.keystream(&key.round_keys, key.rounds, 1));
        rest[len..].copy_from_slice(&gf128::to_bytes(tag));
    }

    fn hex<const N: usize>(text: &str) -> [u8; N] {
        assert_eq!(text.len(), 2 * N);
        core::array::from_fn(|i| u8::from_str_radix(&text[2 * i..2 * i + 2], 16).unwrap())
    }

    const SALT: &str = "517569642070726f2071756f";
    const HEADER: &str = "8040f17b8041f8d35501a0b2";
    const PLAIN: &str = "47616c6c696120657374206f6d6e69732064697669736120696e207061727465732074726573";

    /// RFC 7714 §16.1.1 (128) and §16.2.1 (256).
    #[test]
    fn rfc_7714_rtp_examples() {
        let cases = [
            (
                16,
                "f24de3a3fb34de6cacba861c9d7e4bcabe633bd50d294e6f42a5f47a51c7d19b36de3adf8833899d7f27beb16a9152cf765ee4390cce",
            ),
            (
                32,
                "32b1de78a822fe12ef9f78fa332e33aab18012389a58e2f3b50b2a0276ffae0f1ba63799b87b7aa3db36dfffd6b0f9bb7878d7a76c13",
            ),
        ];
        for (len, expected) in cases {
            let bytes: [u8; 32] = core::array::from_fn(|i| i as u8);
            let key = SessionKey::new(&bytes[..len], hex(SALT)).unwrap();
            let mut packet = [0; 12 + 38 + 16];
            packet[..12].copy_from_slice(&hex::<12>(HEADER));
            packet[12..50].copy_from_slice(&hex::<38>(PLAIN));
            seal(&key, nonce::rtp_words(&key.salt, 0x5501_a0b2, ExtendedSeq(0xf17b)), &mut packet);
            assert_eq!(packet[12..], hex::<54>(expected));
        }
    }

    #[test]
    fn other_key_lengths_are_refused() {
        assert!(SessionKey::new(&[0; 24], [0; 12]).is_none());
        assert!(SessionKey::new(&[], [0; 12]).is_none());
    }

    #[test]
    fn wiped_key_is_empty() {
        let mut key = SessionKey::new(&[7; 32], [9; 12]).unwrap();
        key.wipe();
        assert_eq!((key.rounds, key.salt, key.round_keys), (0, [0; 12], [0; 60]));
        assert!(key.ghash.as_flattened().as_flattened().iter().all(|word| *word == 0));
    }
}
