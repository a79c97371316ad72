//! AES-GCM by OpenSSL's EVP, as most servers of other makes seal.

use std::sync::{Mutex, PoisonError};

use openssl::{cipher::Cipher, cipher_ctx::CipherCtx, error::ErrorStack};

use penstock_srtp::cipher::{Seal, Sealer};
use tests_kit::srtp::TAG;

/// For the configuration of an engine.
pub const SEALER: Sealer = Sealer::Other(|key| Some(Box::new(Evp::new(key)?)));

/// A key for sealing.
struct Evp(Mutex<CipherCtx>);

impl Evp {
    /// A key of 16 or 32 bytes. `None`: it has another length, or there is no memory.
    fn new(key: &[u8]) -> Option<Self> {
        let algorithm = match key.len() {
            16 => Cipher::aes_128_gcm(),
            32 => Cipher::aes_256_gcm(),
            _ => return None,
        };
        let mut context = CipherCtx::new().ok()?;
        context.encrypt_init(Some(algorithm), Some(key), None).ok()?;
        Some(Self(Mutex::new(context)))
    }
}

impl Seal for Evp {
    fn seal(&self, nonce: [u8; 12], aad: &[u8], plain: &[u8], sealed: &mut [u8]) -> Option<()> {
        let (body, tag) = sealed.split_last_chunk_mut::<TAG>()?;
        if body.len() != plain.len() {
            return None;
        }
        body.copy_from_slice(plain);
        let mut context = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        seal(&mut context, &nonce, aad, body, tag).ok()
    }
}

fn seal(
    context: &mut CipherCtx,
    nonce: &[u8; 12],
    aad: &[u8],
    body: &mut [u8],
    tag: &mut [u8; TAG],
) -> Result<(), ErrorStack> {
    context.encrypt_init(None, None, Some(nonce))?;
    context.cipher_update(aad, None)?;
    context.cipher_update_inplace(body, body.len())?;
    context.cipher_final(&mut [0; TAG])?;
    context.tag(tag)
}

#[cfg(test)]
mod tests {
    use forwarder_common::ExtendedSeq;
    use penstock_media::{MediaKey, Profile};
    use penstock_srtp::cipher::Cipher;

    use super::*;

    #[test]
    fn it_seals_as_our_own_does() {
        for profile in [Profile::AeadAes128Gcm, Profile::AeadAes256Gcm] {
            let mut salt = [7; 14];
            salt[12..].fill(0);
            let key = MediaKey { profile, key: vec![3; profile.key_len()], salt, auth_key: Vec::new() };
            let (own, openssl) = (Cipher::new(&key).unwrap(), Cipher::sealed_by(&key, SEALER).unwrap());
            for (index, len) in [0, 1, 15, 16, 100, 1100].into_iter().enumerate() {
                let payload: Vec<u8> = (0..len).map(|at| at as u8).collect();
                let mut packets = [vec![0x80; 12 + len + 16], vec![0x80; 12 + len + 16]];
                for (cipher, packet) in [&own, &openssl].into_iter().zip(&mut packets) {
                    assert!(cipher.seal_rtp(packet, 12, &payload, 5, ExtendedSeq(index as u64)));
                }
                assert_eq!(packets[0], packets[1], "{len} bytes");
            }
        }
    }
}
