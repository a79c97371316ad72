//! SRTP in userspace: AES-GCM by ring (RFC 7714), AES counter mode with HMAC-SHA1 (RFC 3711) by RustCrypto.

use std::sync::{Mutex, PoisonError};

use aes::Aes128;
use ctr::{
    Ctr128BE, CtrCore,
    cipher::{InnerIvInit as _, KeyInit as _, StreamCipher as _, StreamCipherCoreWrapper},
};
use forwarder_common::{ExtendedSeq, nonce};
use hmac::{Hmac, Mac as _};
use openssl::{cipher as evp, cipher_ctx::CipherCtx, error::ErrorStack};
use ring::aead::{AES_128_GCM, AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use sha1::Sha1;
use zeroize::Zeroizing;

use super::{MediaKey, Profile};

/// A session key of one direction, ready for use.
pub enum Cipher {
    Gcm { key: Box<LessSafeKey>, salt: [u8; 12], openssl: Option<Box<Mutex<CipherCtx>>> },
    Cm(Box<CounterMode>),
}

/// Who seals media with AES-GCM. Everything else is ring's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sealer {
    #[default]
    Ring,
    /// What most servers of other makes do: for benchmarks.
    OpenSsl,
}

/// AES_CM_128_HMAC_SHA1_80.
pub struct CounterMode {
    cipher: Aes128,
    salt: Zeroizing<[u8; 14]>,
    /// Keyed, and copied for each packet.
    mac: Hmac<Sha1>,
}

/// The `E` flag and index at the end of SRTCP (RFC 3711 §3.4).
const RTCP_INDEX: usize = 4;
/// RTCP header and sender SSRC, which stay in the clear.
const RTCP_HEADER: usize = 8;
/// Tag of AES_CM_128_HMAC_SHA1_80.
const CM_TAG: usize = 10;

impl Cipher {
    /// `None`: a key of the wrong length.
    pub fn new(key: &MediaKey) -> Option<Self> {
        let algorithm = match key.profile {
            Profile::AeadAes128Gcm => &AES_128_GCM,
            Profile::AeadAes256Gcm => &AES_256_GCM,
            Profile::AesCm128HmacSha1_80 => {
                return Some(Cipher::Cm(Box::new(CounterMode {
                    cipher: Aes128::new_from_slice(&key.key).ok()?,
                    salt: Zeroizing::new(key.salt),
                    mac: Hmac::new_from_slice(&key.auth_key).ok()?,
                })));
            }
        };
        let unbound = UnboundKey::new(algorithm, &key.key).ok()?;
        Some(Cipher::Gcm { key: Box::new(LessSafeKey::new(unbound)), salt: key.gcm_salt(), openssl: None })
    }

    /// The same, with media sealed by whom `sealer` says.
    pub fn sealed_by(key: &MediaKey, sealer: Sealer) -> Option<Self> {
        let mut cipher = Self::new(key)?;
        if let (Cipher::Gcm { openssl: sealer, .. }, Sealer::OpenSsl) = (&mut cipher, sealer) {
            let algorithm = match key.profile {
                Profile::AeadAes128Gcm => evp::Cipher::aes_128_gcm(),
                _ => evp::Cipher::aes_256_gcm(),
            };
            let mut context = CipherCtx::new().ok()?;
            context.encrypt_init(Some(algorithm), Some(&key.key), None).ok()?;
            *sealer = Some(Box::new(Mutex::new(context)));
        }
        Some(cipher)
    }

    /// Bytes that sealing adds to an RTP packet.
    pub fn tag_len(&self) -> usize {
        match self {
            Cipher::Gcm { .. } => 16,
            Cipher::Cm(_) => CM_TAG,
        }
    }

    /// Opens an RTP packet in place, whose header with CSRCs and extension has `header_len` bytes. The
    /// length of the payload; `None` if the tag is wrong, or the packet too short for one.
    pub fn open_rtp(&self, packet: &mut [u8], header_len: usize, ssrc: u32, index: ExtendedSeq) -> Option<usize> {
        let payload_len = packet.len().checked_sub(header_len + self.tag_len())?;
        match self {
            Cipher::Gcm { key, salt, .. } => {
                let (header, body) = packet.split_at_mut(header_len);
                let nonce = Nonce::assume_unique_for_key(nonce::rtp(*salt, ssrc, index));
                key.open_in_place(nonce, Aad::from(&*header), body).ok()?;
            }
            Cipher::Cm(cm) => {
                let (sealed, tag) = packet.split_at_mut(header_len + payload_len);
                cm.authenticator(sealed, &index.roc().to_be_bytes()).verify_truncated_left(tag).ok()?;
                cm.keystream(ssrc, index.0, &mut sealed[header_len..]);
            }
        }
        Some(payload_len)
    }

    /// Seals an RTP packet in place: header, plaintext, and room for the tag. `false`: there is no room.
    ///
    /// The caller owns the SSRC under this key, and uses each index for one plaintext only.
    #[must_use]
    pub fn seal_rtp(&self, packet: &mut [u8], header_len: usize, ssrc: u32, index: ExtendedSeq) -> bool {
        let Some(end) = packet.len().checked_sub(self.tag_len()).filter(|end| *end >= header_len) else { return false };
        let (packet, tag) = packet.split_at_mut(end);
        let (header, payload) = packet.split_at_mut(header_len);
        match self {
            Cipher::Gcm { openssl: Some(context), salt, .. } => {
                let mut context = context.lock().unwrap_or_else(PoisonError::into_inner);
                return seal_by_openssl(&mut context, nonce::rtp(*salt, ssrc, index), header, payload, tag).is_ok();
            }
            Cipher::Gcm { key, salt, openssl: None } => {
                let nonce = Nonce::assume_unique_for_key(nonce::rtp(*salt, ssrc, index));
                let Ok(sealed) = key.seal_in_place_separate_tag(nonce, Aad::from(&*header), payload) else {
                    return false;
                };
                tag.copy_from_slice(sealed.as_ref());
            }
            Cipher::Cm(cm) => {
                cm.keystream(ssrc, index.0, payload);
                cm.tag(packet, &index.roc().to_be_bytes(), tag);
            }
        }
        true
    }

    /// Opens SRTCP: the compound packet in the clear. `None` if the tag is wrong. `index` is what stands in
    /// the packet, without the `E` flag, which the caller has seen to be set.
    pub fn open_rtcp(&self, packet: &[u8], ssrc: u32, index: u32) -> Option<Vec<u8>> {
        let (header, body) = packet.split_first_chunk::<RTCP_HEADER>()?;
        match self {
            Cipher::Gcm { key, salt, .. } => {
                let (body, trailer) = body.split_last_chunk::<RTCP_INDEX>()?;
                let nonce = Nonce::assume_unique_for_key(nonce::rtcp(*salt, ssrc, index));
                let mut body = body.to_vec();
                let plain = key.open_in_place(nonce, Aad::from(rtcp_aad(header, trailer)), &mut body).ok()?;
                Some([&header[..], plain].concat())
            }
            Cipher::Cm(cm) => {
                let (sealed, tag) = packet.split_last_chunk::<CM_TAG>()?;
                cm.authenticator(sealed, &[]).verify_truncated_left(tag).ok()?;
                let mut plain = sealed.split_last_chunk::<RTCP_INDEX>()?.0.to_vec();
                cm.keystream(ssrc, index.into(), plain.get_mut(RTCP_HEADER..)?);
                Some(plain)
            }
        }
    }

    /// Seals a compound packet under an index that has not been used before. `None`: it has no header.
    pub fn seal_rtcp(&self, compound: &[u8], ssrc: u32, index: u32) -> Option<Vec<u8>> {
        let (header, body) = compound.split_first_chunk::<RTCP_HEADER>()?;
        let trailer = (index | 0x8000_0000).to_be_bytes();
        match self {
            Cipher::Gcm { key, salt, .. } => {
                let nonce = Nonce::assume_unique_for_key(nonce::rtcp(*salt, ssrc, index));
                let mut sealed = body.to_vec();
                key.seal_in_place_append_tag(nonce, Aad::from(rtcp_aad(header, &trailer)), &mut sealed).ok()?;
                Some([&header[..], &sealed, &trailer].concat())
            }
            Cipher::Cm(cm) => {
                let mut sealed = compound.to_vec();
                cm.keystream(ssrc, index.into(), &mut sealed[RTCP_HEADER..]);
                sealed.extend(trailer);
                let mut tag = [0; CM_TAG];
                cm.tag(&sealed, &[], &mut tag);
                sealed.extend(tag);
                Some(sealed)
            }
        }
    }

    /// Where the `E` flag and index stand in an SRTCP packet of this profile: so many bytes before its end.
    pub fn rtcp_index_from_end(&self) -> usize {
        match self {
            Cipher::Gcm { .. } => RTCP_INDEX,
            Cipher::Cm(_) => RTCP_INDEX + CM_TAG,
        }
    }
}

fn seal_by_openssl(
    context: &mut CipherCtx,
    nonce: [u8; 12],
    header: &[u8],
    payload: &mut [u8],
    tag: &mut [u8],
) -> Result<(), ErrorStack> {
    context.encrypt_init(None, None, Some(&nonce))?;
    context.cipher_update(header, None)?;
    context.cipher_update_inplace(payload, payload.len())?;
    context.cipher_final(&mut [0; 16])?;
    context.tag(tag)
}

/// RFC 7714 §9.2: the header in the clear, then the `E` flag and index.
fn rtcp_aad(header: &[u8; RTCP_HEADER], trailer: &[u8; RTCP_INDEX]) -> [u8; RTCP_HEADER + RTCP_INDEX] {
    let mut aad = [0; RTCP_HEADER + RTCP_INDEX];
    aad[..RTCP_HEADER].copy_from_slice(header);
    aad[RTCP_HEADER..].copy_from_slice(trailer);
    aad
}

impl CounterMode {
    /// RFC 3711 §4.1.1: IV = salt · 2^16 ⊕ SSRC · 2^64 ⊕ index · 2^16; the low 16 bits count blocks.
    fn keystream(&self, ssrc: u32, index: u64, data: &mut [u8]) {
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

    fn tag(&self, packet: &[u8], more: &[u8], tag: &mut [u8]) {
        let full = self.authenticator(packet, more).finalize().into_bytes();
        tag.copy_from_slice(&full[..tag.len()]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(text: &str) -> Vec<u8> {
        (0..text.len() / 2).map(|i| u8::from_str_radix(&text[2 * i..2 * i + 2], 16).unwrap()).collect()
    }

    fn cm(key: &str, salt: &str, auth_key: &str) -> MediaKey {
        MediaKey {
            profile: Profile::AesCm128HmacSha1_80,
            key: hex(key),
            salt: hex(salt).try_into().unwrap(),
            auth_key: hex(auth_key),
        }
    }

    /// RFC 3711 §B.2: the session key there, SSRC and index 0.
    #[test]
    fn counter_mode_keystream_of_rfc_3711() {
        let key = cm("2B7E151628AED2A6ABF7158809CF4F3C", "F0F1F2F3F4F5F6F7F8F9FAFBFCFD", &"00".repeat(20));
        let Some(Cipher::Cm(cm)) = Cipher::new(&key) else { panic!("no counter mode") };
        let mut stream = vec![0; 48];
        cm.keystream(0, 0, &mut stream);
        let wanted = "E03EAD0935C95E80E166B16DD92B4EB4D23513162B02D0F72A43A2FE4A5F97AB41E95B3BB0A2E8DD477901E4FCA894C0";
        assert_eq!(stream, hex(wanted));
    }

    /// Packet of libsrtp's own test (`srtp_validate`): master key and salt of RFC 3711 §B.3, SSRC 0xcafebabe.
    #[test]
    fn packet_of_another_implementation() {
        let key = cm(
            "c61e7a93744f39ee10734afe3ff7a087",
            "30cbbc08863d8c85d49db34a9ae1",
            "cebe321f6ff7716b6fd4ab49af256a156d38baa4",
        );
        let cipher = Cipher::new(&key).unwrap();
        let plain = [&hex("800f1234decafbadcafebabe")[..], &[0xab; 16], &[0; 10]].concat();
        let mut packet = plain.clone();
        assert!(cipher.seal_rtp(&mut packet, 12, 0xcafe_babe, ExtendedSeq(0x1234)));
        let wanted = "800f1234decafbadcafebabe4e55dc4ce79978d88ca4d215949d2402b78d6acc99ea179b8dbb";
        assert_eq!(packet, hex(wanted));
        assert_eq!(cipher.open_rtp(&mut packet, 12, 0xcafe_babe, ExtendedSeq(0x1234)), Some(16));
        assert_eq!(packet[..28], plain[..28]);
    }

    fn keys() -> [MediaKey; 3] {
        let gcm = |profile: Profile| {
            let mut salt = [7; 14];
            salt[12..].fill(0);
            MediaKey { profile, key: vec![3; profile.key_len()], salt, auth_key: Vec::new() }
        };
        let cm =
            MediaKey { profile: Profile::AesCm128HmacSha1_80, key: vec![3; 16], salt: [7; 14], auth_key: vec![9; 20] };
        [gcm(Profile::AeadAes128Gcm), gcm(Profile::AeadAes256Gcm), cm]
    }

    #[test]
    fn openssl_seals_as_ring_does() {
        for key in &keys()[..2] {
            let (ring, openssl) = (Cipher::new(key).unwrap(), Cipher::sealed_by(key, Sealer::OpenSsl).unwrap());
            for (index, payload) in [0, 1, 15, 16, 100, 1100].into_iter().enumerate() {
                let packet: Vec<u8> = (0..12 + payload + 16).map(|at| at as u8).collect();
                let [mut one, mut other] = [packet.clone(), packet];
                assert!(ring.seal_rtp(&mut one, 12, 5, ExtendedSeq(index as u64)));
                assert!(openssl.seal_rtp(&mut other, 12, 5, ExtendedSeq(index as u64)));
                assert_eq!(one, other, "{payload} bytes");
            }
        }
    }

    #[test]
    fn what_was_sealed_opens_unless_anything_changed() {
        for key in keys() {
            let cipher = Cipher::new(&key).unwrap();
            let index = ExtendedSeq(0x7_fffe);
            let mut sealed = vec![0x80; 12 + 100 + cipher.tag_len()];
            assert!(cipher.seal_rtp(&mut sealed, 12, 5, index));
            assert_eq!(cipher.open_rtp(&mut sealed.clone(), 12, 5, index), Some(100));
            assert_eq!(cipher.open_rtp(&mut sealed.clone(), 12, 5, ExtendedSeq(index.0 + (1 << 16))), None);
            for at in 0..sealed.len() {
                let mut forged = sealed.clone();
                forged[at] ^= 1;
                assert_eq!(cipher.open_rtp(&mut forged, 12, 5, index), None, "byte {at}");
            }
            for len in 0..12 + cipher.tag_len() {
                assert_eq!(cipher.open_rtp(&mut sealed[..len].to_vec(), 12, 5, index), None);
            }
        }
    }

    #[test]
    fn rtcp_there_and_back() {
        for key in keys() {
            let cipher = Cipher::new(&key).unwrap();
            let compound: Vec<u8> = (0..28).collect();
            let sealed = cipher.seal_rtcp(&compound, 0x0405_0607, 77).unwrap();
            let at = sealed.len() - cipher.rtcp_index_from_end();
            assert_eq!(sealed[at..at + 4], (77u32 | 1 << 31).to_be_bytes());
            assert_eq!(cipher.open_rtcp(&sealed, 0x0405_0607, 77), Some(compound));
            for at in 0..sealed.len() {
                let mut forged = sealed.clone();
                forged[at] ^= 1;
                assert_eq!(cipher.open_rtcp(&forged, 0x0405_0607, 77), None, "byte {at}");
            }
            (0..sealed.len()).for_each(|len| assert_eq!(cipher.open_rtcp(&sealed[..len], 0x0405_0607, 77), None));
        }
    }
}
