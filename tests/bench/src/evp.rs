//! AES-GCM by OpenSSL's EVP, as most servers of other makes seal: for benchmarks.

use std::sync::{Mutex, PoisonError};

use openssl::{cipher::Cipher, cipher_ctx::CipherCtx, error::ErrorStack};

use super::gcm::TAG;

/// A key for sealing.
pub struct Evp(Mutex<CipherCtx>);

impl Evp {
    /// A key of 16 or 32 bytes. `None`: it has another length, or there is no memory.
    pub fn new(key: &[u8]) -> Option<Self> {
        let algorithm = match key.len() {
            16 => Cipher::aes_128_gcm(),
            32 => Cipher::aes_256_gcm(),
            _ => return None,
        };
        let mut context = CipherCtx::new().ok()?;
        context.encrypt_init(Some(algorithm), Some(key), None).ok()?;
        Some(Self(Mutex::new(context)))
    }

    /// As [`super::gcm::Gcm::seal`].
    #[must_use]
    pub fn seal(&self, nonce: [u8; 12], aad: &[u8], plain: &[u8], sealed: &mut [u8]) -> Option<()> {
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
