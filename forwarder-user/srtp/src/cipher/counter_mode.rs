//! AES in counter mode with HMAC-SHA1 (RFC 3711), by RustCrypto.

use aes::Aes128;
use ctr::{
    Ctr128BE, CtrCore,
    cipher::{InnerIvInit as _, KeyInit as _, StreamCipher as _, StreamCipherCoreWrapper},
};
use hmac::{Hmac, Mac as _};
use sha1::Sha1;
use zeroize::Zeroizing;

use penstock_media::MediaKey;

/// Bytes of a tag.
pub(super) const TAG: usize = 10;

/// The same of RTP, for AES_CM_128_HMAC_SHA1_32 (RFC 4568 §6.2.2).
const SHORT_TAG: usize = 4;

/// AES_CM_128_HMAC_SHA1_80, or _32.
pub(super) struct CounterMode {
    cipher: Aes128,
    salt: Zeroizing<[u8; 14]>,
    /// Keyed, and copied for each packet.
    mac: Hmac<Sha1>,
    /// Bytes of an RTP packet's tag.
    pub(super) rtp_tag: usize,
}

impl CounterMode {
    /// `None`: a key of the wrong length.
    pub(super) fn new(key: &MediaKey) -> Option<Self> {
        Some(Self {
            cipher: Aes128::new_from_slice(&key.key).ok()?,
            salt: Zeroizing::new(key.salt),
            mac: Hmac::new_from_slice(&key.auth_key).ok()?,
            rtp_tag: TAG,
        })
    }

    /// With the short tags of AES_CM_128_HMAC_SHA1_32.
    pub(super) fn short(key: &MediaKey) -> Option<Self> {
        Self::new(key).map(|cipher| Self { rtp_tag: SHORT_TAG, ..cipher })
    }

    /// RFC 3711 §4.1.1: IV = salt · 2^16 ⊕ SSRC · 2^64 ⊕ index · 2^16; the low 16 bits count blocks.
    pub(super) fn keystream(&self, ssrc: u32, index: u64, data: &mut [u8]) {
        let mut iv = [0; 16];
        iv[..14].copy_from_slice(&self.salt[..]);
        for (byte, ssrc) in iv[4..8].iter_mut().zip(ssrc.to_be_bytes()) {
            *byte ^= ssrc;
        }
        for (byte, index) in iv[8..14].iter_mut().zip(&index.to_be_bytes()[2..]) {
            *byte ^= index;
        }
        let core = CtrCore::inner_iv_init(self.cipher.clone(), &iv.into());
        let mut stream: Ctr128BE<Aes128> = StreamCipherCoreWrapper::from_core(core);
        stream.apply_keystream(data);
    }

    /// RFC 3711 §4.2: over the packet, and the roll-over counter of RTP.
    fn authenticator(&self, packet: &[u8], more: &[u8]) -> Hmac<Sha1> {
        let mut mac = self.mac.clone();
        mac.update(packet);
        mac.update(more);
        mac
    }

    /// Whether a tag is right.
    pub(super) fn verify(&self, packet: &[u8], more: &[u8], tag: &[u8]) -> Option<()> {
        self.authenticator(packet, more).verify_truncated_left(tag).ok()
    }

    /// Writes the tag, or as much of it as there is room for.
    pub(super) fn tag(&self, packet: &[u8], more: &[u8], tag: &mut [u8]) {
        let full = self.authenticator(packet, more).finalize().into_bytes();
        tag.copy_from_slice(&full[..tag.len()]);
    }
}
