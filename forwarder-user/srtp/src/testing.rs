//! SRTP as peers do it, for tests.

#![expect(clippy::unwrap_used, reason = "a test ends where it meets what it did not expect")]

use forwarder_common::ExtendedSeq;
use forwarder_common::rtp::RtpHeader;
use ring::aead::{AES_128_GCM, AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};

use penstock_media::{MediaKey, Profile};

/// Bytes of a hexadecimal string.
pub fn hex(text: &str) -> Vec<u8> {
    (0..text.len() / 2).map(|i| u8::from_str_radix(&text[2 * i..2 * i + 2], 16).unwrap()).collect()
}

/// Seals an RTP packet as a peer would. Written apart from the product code, as its oracle.
pub fn seal_rtp(key: &MediaKey, packet: &[u8], index: ExtendedSeq) -> Vec<u8> {
    let (header, len) = RtpHeader::parse(packet).unwrap();
    let mut sealed = packet[len..].to_vec();
    cipher(key).seal_in_place_append_tag(nonce(key, &header, index), Aad::from(&packet[..len]), &mut sealed).unwrap();
    [&packet[..len], &sealed].concat()
}

/// Opens one; `None` if the tag is wrong.
pub fn open_rtp(key: &MediaKey, packet: &[u8], index: ExtendedSeq) -> Option<Vec<u8>> {
    let (header, len) = RtpHeader::parse(packet)?;
    let mut body = packet[len..].to_vec();
    let plain = cipher(key).open_in_place(nonce(key, &header, index), Aad::from(&packet[..len]), &mut body).ok()?;
    Some([&packet[..len], plain].concat())
}

fn cipher(key: &MediaKey) -> LessSafeKey {
    let algorithm = if key.profile == Profile::AeadAes128Gcm { &AES_128_GCM } else { &AES_256_GCM };
    LessSafeKey::new(UnboundKey::new(algorithm, &key.key).unwrap())
}

fn nonce(key: &MediaKey, header: &RtpHeader, index: ExtendedSeq) -> Nonce {
    let iv = u128::from(header.ssrc()) << 48 | u128::from(index.0);
    let iv: [u8; 12] = iv.to_be_bytes()[4..].try_into().unwrap();
    Nonce::assume_unique_for_key(std::array::from_fn(|i| iv[i] ^ key.salt[i]))
}
