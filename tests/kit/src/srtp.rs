//! SRTP with AEAD_AES_128_GCM and AEAD_AES_256_GCM (RFC 7714) by `ring`: the reference that the
//! datapath is held against. Written from the RFC, it shares no code with the product.

use ring::{
    aead::{AES_128_GCM, AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey},
    rand::{SecureRandom, SystemRandom},
};

/// Length of the tag (RFC 7714 §6).
pub const TAG: usize = 16;

/// A session key and salt of one direction, 16 or 32 bytes of key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    pub key: Vec<u8>,
    pub salt: [u8; 12],
}

impl Key {
    /// A fixed key that differs for every `seed`.
    pub fn test(len: usize, seed: u32) -> Self {
        let mut random = Random::new(u64::from(seed) << 8 | len as u64);
        let key = random.bytes(len);
        let mut salt = [0; 12];
        salt.copy_from_slice(&random.bytes(12));
        Self { key, salt }
    }

    /// A key from the system's random numbers.
    pub fn random(len: usize) -> Self {
        let random = SystemRandom::new();
        let (mut key, mut salt) = (vec![0; len], [0; 12]);
        random.fill(&mut key).and_then(|()| random.fill(&mut salt)).expect("random numbers");
        Self { key, salt }
    }

    fn aead(&self) -> LessSafeKey {
        let algorithm = if self.key.len() == 16 { &AES_128_GCM } else { &AES_256_GCM };
        LessSafeKey::new(UnboundKey::new(algorithm, &self.key).expect("key of 16 or 32 bytes"))
    }

    /// RFC 7714 §8.1: two zero bytes, SSRC, ROC, SEQ, XORed with the salt. `index` is ROC and SEQ.
    fn nonce(&self, ssrc: u32, index: u64) -> Nonce {
        let mut bytes = [0; 12];
        bytes[2..6].copy_from_slice(&ssrc.to_be_bytes());
        bytes[6..10].copy_from_slice(&((index >> 16) as u32).to_be_bytes());
        bytes[10..12].copy_from_slice(&(index as u16).to_be_bytes());
        for (byte, salt) in bytes.iter_mut().zip(self.salt) {
            *byte ^= salt;
        }
        Nonce::assume_unique_for_key(bytes)
    }

    /// The SRTP packet of an RTP header (with CSRCs and extension), its payload and its index.
    pub fn seal(&self, header: &[u8], payload: &[u8], index: u64) -> Vec<u8> {
        let mut body = payload.to_vec();
        let tag = self
            .aead()
            .seal_in_place_separate_tag(self.nonce(ssrc(header), index), Aad::from(header), &mut body)
            .expect("payload of sane size");
        [header, &body, tag.as_ref()].concat()
    }

    /// The payload of an SRTP packet whose header has `header_len` bytes; `None` if the tag is wrong.
    pub fn open(&self, packet: &[u8], header_len: usize, index: u64) -> Option<Vec<u8>> {
        if packet.len() < header_len + TAG {
            return None;
        }
        let (header, body) = packet.split_at(header_len);
        let mut body = body.to_vec();
        let nonce = self.nonce(ssrc(header), index);
        let payload = self.aead().open_in_place(nonce, Aad::from(header), &mut body).ok()?;
        Some(payload.to_vec())
    }
}

fn ssrc(header: &[u8]) -> u32 {
    u32::from_be_bytes([header[8], header[9], header[10], header[11]])
}

/// Repeatable test data (splitmix64).
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `end`.
    pub fn below(&mut self, end: usize) -> usize {
        (self.number() % end as u64) as usize
    }

    pub fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.number() as u8).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 7714 §16.1.1 and §16.2.1, so that the reference has a reference.
    #[test]
    fn rfc_7714_rtp_examples() {
        let decode = |text: &str| hex::decode(text).unwrap();
        let header = decode("8040f17b8041f8d35501a0b2");
        let plain = b"Gallia est omnis divisa in partes tres";
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
            let key = Key { key: (0..len).collect(), salt: *b"Quid pro quo" };
            let packet = key.seal(&header, plain, 0xf17b);
            assert_eq!(packet[12..], decode(expected));
            assert_eq!(key.open(&packet, 12, 0xf17b).as_deref(), Some(plain.as_slice()));
            assert_eq!(key.open(&packet, 12, 0xf17c), None);
        }
    }
}
