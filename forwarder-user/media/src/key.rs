//! SRTP profiles, and the session keys of one direction.

use zeroize::{Zeroize, ZeroizeOnDrop};

/// SRTP protection profile (RFC 5764 §4.1.2, RFC 7714 §14.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
pub enum Profile {
    /// RFC 7714 §14.2, number 7: 16-byte key, 12-byte salt, 16-byte tag.
    #[serde(rename = "AEAD_AES_128_GCM")]
    AeadAes128Gcm,
    /// RFC 7714 §14.2, number 8: 32-byte key, 12-byte salt, 16-byte tag.
    #[serde(rename = "AEAD_AES_256_GCM")]
    AeadAes256Gcm,
    /// What OBS and GStreamer offer. Served by the userspace engine alone.
    #[serde(rename = "AES_CM_128_HMAC_SHA1_80")]
    AesCm128HmacSha1_80,
}

impl Profile {
    /// Session key length in bytes.
    pub const fn key_len(self) -> usize {
        match self {
            Profile::AeadAes128Gcm | Profile::AesCm128HmacSha1_80 => 16,
            Profile::AeadAes256Gcm => 32,
        }
    }

    /// Session salt length in bytes.
    pub const fn salt_len(self) -> usize {
        match self {
            Profile::AeadAes128Gcm | Profile::AeadAes256Gcm => 12,
            Profile::AesCm128HmacSha1_80 => 14,
        }
    }

    /// Length of the session authentication key in bytes; the AEAD profiles have none.
    pub const fn auth_key_len(self) -> usize {
        match self {
            Profile::AeadAes128Gcm | Profile::AeadAes256Gcm => 0,
            Profile::AesCm128HmacSha1_80 => 20,
        }
    }

    /// Bytes that SRTP adds to an RTP packet: the tag.
    pub const fn tag_len(self) -> usize {
        match self {
            Profile::AeadAes128Gcm | Profile::AeadAes256Gcm => 16,
            Profile::AesCm128HmacSha1_80 => 10,
        }
    }

    /// IANA name.
    pub const fn name(self) -> &'static str {
        match self {
            Profile::AeadAes128Gcm => "AEAD_AES_128_GCM",
            Profile::AeadAes256Gcm => "AEAD_AES_256_GCM",
            Profile::AesCm128HmacSha1_80 => "AES_CM_128_HMAC_SHA1_80",
        }
    }

    /// IANA number.
    pub const fn number(self) -> u8 {
        match self {
            Profile::AeadAes128Gcm => 7,
            Profile::AeadAes256Gcm => 8,
            Profile::AesCm128HmacSha1_80 => 1,
        }
    }
}

/// SRTP session key and salt of one direction (RFC 3711 §4.3). Zeroed on drop, never printed.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct MediaKey {
    /// Says how much of the other fields counts.
    #[zeroize(skip)]
    pub profile: Profile,
    /// `profile.key_len()` bytes.
    pub key: Vec<u8>,
    /// `profile.salt_len()` bytes count, the rest is 0.
    pub salt: [u8; 14],
    /// `profile.auth_key_len()` bytes.
    pub auth_key: Vec<u8>,
}

impl MediaKey {
    /// The salt of an AEAD profile (RFC 7714 §8.1).
    pub fn gcm_salt(&self) -> [u8; 12] {
        std::array::from_fn(|i| self.salt[i])
    }
}

impl std::fmt::Debug for MediaKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "MediaKey({}, redacted)", self.profile.name())
    }
}
