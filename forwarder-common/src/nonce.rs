//! Nonces of AES-GCM in SRTP (RFC 7714).

use crate::ExtendedSeq;

/// Nonce of an RTP packet (RFC 7714 §8.1): `00 00 | SSRC | ROC | SEQ`, XORed with the salt.
///
/// Two packets under one key have the same nonce only if they share SSRC and index.
pub fn rtp(salt: [u8; 12], ssrc: u32, index: ExtendedSeq) -> [u8; 12] {
    let w = rtp_words(&salt, ssrc, index);
    let (a, b, c) = (w[0].to_le_bytes(), w[1].to_le_bytes(), w[2].to_le_bytes());
    [a[0], a[1], a[2], a[3], b[0], b[1], b[2], b[3], c[0], c[1], c[2], c[3]]
}

/// Same, as the little-endian words that [`crate::aes`] takes.
#[inline(always)]
pub fn rtp_words(salt: &[u8; 12], ssrc: u32, index: ExtendedSeq) -> [u32; 3] {
    let salt = |i: usize| u32::from_le_bytes([salt[i], salt[i + 1], salt[i + 2], salt[i + 3]]);
    [
        salt(0) ^ (ssrc >> 16).swap_bytes(),
        salt(4) ^ (ssrc << 16 | (index.0 >> 32) as u32 & 0xffff).swap_bytes(),
        salt(8) ^ (index.0 as u32).swap_bytes(),
    ]
}

/// Nonce of an RTCP packet (RFC 7714 §9.1): `00 00 | SSRC | 00 00 | 31-bit index`, XORed with the
/// salt. The E flag in front of the index on the wire is not part of it.
pub const fn rtcp(salt: [u8; 12], ssrc: u32, index: u32) -> [u8; 12] {
    let s = ssrc.to_be_bytes();
    let i = (index & 0x7fff_ffff).to_be_bytes();
    xor(salt, [0, 0, s[0], s[1], s[2], s[3], 0, 0, i[0], i[1], i[2], i[3]])
}

const fn xor(mut a: [u8; 12], b: [u8; 12]) -> [u8; 12] {
    let mut i = 0;
    while i < 12 {
        a[i] ^= b[i];
        i += 1;
    }
    a
}

#[cfg(test)]
mod tests {
    use super::*;

    const SALT: [u8; 12] = [0x51, 0x75, 0x69, 0x64, 0x20, 0x70, 0x72, 0x6f, 0x20, 0x71, 0x75, 0x6f];

    /// RFC 7714 §16.1.1.
    #[test]
    fn rtp_example() {
        let expected = [0x51, 0x75, 0x3c, 0x65, 0x80, 0xc2, 0x72, 0x6f, 0x20, 0x71, 0x84, 0x14];
        assert_eq!(rtp(SALT, 0x5501_a0b2, ExtendedSeq(0xf17b)), expected);
    }

    /// RFC 7714 §17.1.
    #[test]
    fn rtcp_example() {
        let expected = [0x51, 0x75, 0x24, 0x05, 0x52, 0x03, 0x72, 0x6f, 0x20, 0x71, 0x70, 0xbb];
        assert_eq!(rtcp(SALT, 0x4d61_7273, 0x0000_05d4), expected);
        assert_eq!(rtcp(SALT, 0x4d61_7273, 0x8000_05d4), expected);
    }
}
