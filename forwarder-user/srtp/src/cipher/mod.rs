//! SRTP in userspace: AES-GCM (RFC 7714), AES counter mode with HMAC-SHA1 (RFC 3711).
//!
//! | file | does |
//! | --- | --- |
//! | `gcm` | AES-GCM: chooses the fastest |
//! | `avx512` | our own, for processors with VAES on AVX-512 |
//! | `counter_mode` | AES_CM_128_HMAC_SHA1_80 |
//! | here | packets |

#[cfg(target_arch = "x86_64")]
mod avx512;
mod counter_mode;
mod gcm;

use forwarder_common::{ExtendedSeq, nonce};

use self::{
    counter_mode::{CounterMode, TAG as CM_TAG},
    gcm::{Gcm, TAG as GCM_TAG},
};
use penstock_media::{MediaKey, Profile, prefetch::prefetch};

/// A session key of one direction, ready for use.
pub struct Cipher {
    salt: [u8; 12],
    algorithm: Algorithm,
}

enum Algorithm {
    Gcm(Gcm),
    /// Everything but outgoing media by the first.
    Other(Gcm, Box<dyn Seal>),
    Cm(Box<CounterMode>),
}

/// AES-GCM of another make, with a key that it has. Benchmarks compare with it.
pub trait Seal: Send + Sync {
    /// Seals `plain` with its tag into `sealed`, which is as long as both. `None`: it is not, or the code refuses. The
    /// caller uses each nonce once.
    #[must_use]
    fn seal(&self, nonce: [u8; 12], aad: &[u8], plain: &[u8], sealed: &mut [u8]) -> Option<()>;
}

/// Who seals media with AES-GCM.
#[derive(Clone, Copy, Debug, Default)]
pub enum Sealer {
    /// Our own code where the processor has AVX-512 with VAES, else ring.
    #[default]
    Fastest,
    /// What this makes of a key of 16 or 32 bytes. `None`: no memory.
    Other(fn(&[u8]) -> Option<Box<dyn Seal>>),
}

/// The `E` flag and index at the end of SRTCP (RFC 3711 §3.4).
const RTCP_INDEX: usize = 4;
/// RTCP header and sender SSRC, which stay in the clear.
const RTCP_HEADER: usize = 8;

impl Cipher {
    /// `None`: a key of the wrong length.
    pub fn new(key: &MediaKey) -> Option<Self> {
        Self::sealed_by(key, Sealer::default())
    }

    /// The same, with media sealed by whom `sealer` says.
    pub fn sealed_by(key: &MediaKey, sealer: Sealer) -> Option<Self> {
        if key.key.len() != key.profile.key_len() {
            return None;
        }
        let algorithm = match (key.profile, sealer) {
            (Profile::AesCm128HmacSha1_80, _) => Algorithm::Cm(Box::new(CounterMode::new(key)?)),
            (_, Sealer::Fastest) => Algorithm::Gcm(Gcm::new(&key.key)?),
            (_, Sealer::Other(make)) => Algorithm::Other(Gcm::new(&key.key)?, make(&key.key)?),
        };
        Some(Self { salt: key.gcm_salt(), algorithm })
    }

    /// By AES_CM_128_HMAC_SHA1_32: a key of AES_CM_128_HMAC_SHA1_80, and tags of four bytes on RTP. `None`: another
    /// profile's key.
    pub fn with_short_tags(key: &MediaKey) -> Option<Self> {
        let fits = key.profile == Profile::AesCm128HmacSha1_80 && key.key.len() == key.profile.key_len();
        let cipher = CounterMode::short(key).filter(|_| fits)?;
        Some(Self { salt: key.gcm_salt(), algorithm: Algorithm::Cm(Box::new(cipher)) })
    }

    /// Bytes that sealing adds to an RTP packet.
    pub fn tag_len(&self) -> usize {
        match &self.algorithm {
            Algorithm::Gcm(_) | Algorithm::Other(..) => GCM_TAG,
            Algorithm::Cm(cm) => cm.rtp_tag,
        }
    }

    /// Asks for the memory of the key, which lies behind this.
    pub fn prefetch(&self) {
        match &self.algorithm {
            Algorithm::Gcm(gcm) => gcm.prefetch(),
            Algorithm::Other(_, other) => prefetch((&raw const **other).cast::<u8>()),
            Algorithm::Cm(cm) => prefetch(&raw const **cm),
        }
    }

    /// Opens an RTP packet in place, whose header with CSRCs and extension has `header_len` bytes. The
    /// length of the payload; `None` if the tag is wrong, or the packet too short for one.
    pub fn open_rtp(&self, packet: &mut [u8], header_len: usize, ssrc: u32, index: ExtendedSeq) -> Option<usize> {
        let payload_len = packet.len().checked_sub(header_len + self.tag_len())?;
        match &self.algorithm {
            Algorithm::Gcm(gcm) | Algorithm::Other(gcm, _) => {
                let (header, body) = packet.split_at_mut(header_len);
                gcm.open(nonce::rtp(self.salt, ssrc, index), header, body)
            }
            Algorithm::Cm(cm) => {
                let (sealed, tag) = packet.split_at_mut(header_len + payload_len);
                cm.verify(sealed, &index.roc().to_be_bytes(), tag)?;
                cm.keystream(ssrc, index.0, &mut sealed[header_len..]);
                Some(payload_len)
            }
        }
    }

    /// Seals a payload into an RTP packet behind its header, which stands there, with room for payload and tag.
    /// `false`: the room is not just that.
    ///
    /// The caller owns the SSRC under this key, and uses each index for one plaintext only.
    #[must_use]
    pub fn seal_rtp(
        &self,
        packet: &mut [u8],
        header_len: usize,
        payload: &[u8],
        ssrc: u32,
        index: ExtendedSeq,
    ) -> bool {
        if packet.len() != header_len + payload.len() + self.tag_len() {
            return false;
        }
        let (header, body) = packet.split_at_mut(header_len);
        match &self.algorithm {
            Algorithm::Gcm(gcm) => gcm.seal(nonce::rtp(self.salt, ssrc, index), header, payload, body).is_some(),
            Algorithm::Other(_, other) => {
                other.seal(nonce::rtp(self.salt, ssrc, index), header, payload, body).is_some()
            }
            Algorithm::Cm(cm) => {
                let (packet, tag) = packet.split_at_mut(header_len + payload.len());
                packet[header_len..].copy_from_slice(payload);
                cm.keystream(ssrc, index.0, &mut packet[header_len..]);
                cm.tag(packet, &index.roc().to_be_bytes(), tag);
                true
            }
        }
    }

    /// Opens SRTCP: the compound packet in the clear. `None` if the tag is wrong. `index` is what stands in
    /// the packet, without the `E` flag, which the caller has seen to be set.
    pub fn open_rtcp(&self, packet: &[u8], ssrc: u32, index: u32) -> Option<Vec<u8>> {
        let (header, body) = packet.split_first_chunk::<RTCP_HEADER>()?;
        match &self.algorithm {
            Algorithm::Gcm(gcm) | Algorithm::Other(gcm, _) => {
                let (body, trailer) = body.split_last_chunk::<RTCP_INDEX>()?;
                let mut body = body.to_vec();
                let len = gcm.open(nonce::rtcp(self.salt, ssrc, index), &rtcp_aad(header, trailer), &mut body)?;
                Some([&header[..], &body[..len]].concat())
            }
            Algorithm::Cm(cm) => {
                let (sealed, tag) = packet.split_last_chunk::<CM_TAG>()?;
                cm.verify(sealed, &[], tag)?;
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
        match &self.algorithm {
            Algorithm::Gcm(gcm) | Algorithm::Other(gcm, _) => {
                let mut sealed = vec![0; body.len() + GCM_TAG];
                let nonce = nonce::rtcp(self.salt, ssrc, index);
                gcm.seal(nonce, &rtcp_aad(header, &trailer), body, &mut sealed)?;
                Some([&header[..], &sealed, &trailer].concat())
            }
            Algorithm::Cm(cm) => {
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
        match self.algorithm {
            Algorithm::Gcm(_) | Algorithm::Other(..) => RTCP_INDEX,
            Algorithm::Cm(_) => RTCP_INDEX + CM_TAG,
        }
    }
}

/// RFC 7714 §9.2: the header in the clear, then the `E` flag and index.
fn rtcp_aad(header: &[u8; RTCP_HEADER], trailer: &[u8; RTCP_INDEX]) -> [u8; RTCP_HEADER + RTCP_INDEX] {
    let mut aad = [0; RTCP_HEADER + RTCP_INDEX];
    aad[..RTCP_HEADER].copy_from_slice(header);
    aad[RTCP_HEADER..].copy_from_slice(trailer);
    aad
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
        let cm = CounterMode::new(&key).unwrap();
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
        let header = hex("800f1234decafbadcafebabe");
        let plain = [&header[..], &[0xab; 16]].concat();
        let mut packet = [&header[..], &[0; 26]].concat();
        assert!(cipher.seal_rtp(&mut packet, 12, &[0xab; 16], 0xcafe_babe, ExtendedSeq(0x1234)));
        let wanted = "800f1234decafbadcafebabe4e55dc4ce79978d88ca4d215949d2402b78d6acc99ea179b8dbb";
        assert_eq!(packet, hex(wanted));
        assert_eq!(cipher.open_rtp(&mut packet, 12, 0xcafe_babe, ExtendedSeq(0x1234)), Some(16));
        assert_eq!(packet[..28], plain);
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
    fn what_was_sealed_opens_unless_anything_changed() {
        for key in keys() {
            let cipher = Cipher::new(&key).unwrap();
            let index = ExtendedSeq(0x7_fffe);
            let mut sealed = vec![0x80; 12 + 100 + cipher.tag_len()];
            assert!(cipher.seal_rtp(&mut sealed, 12, &[0x80; 100], 5, index));
            assert!(!cipher.seal_rtp(&mut sealed.clone(), 12, &[0x80; 99], 5, index), "room for one byte more");
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
