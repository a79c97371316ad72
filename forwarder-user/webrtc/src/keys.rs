//! From what a DTLS handshake gave to the session keys of SRTP.

use penstock_media::Profile;
use penstock_srtp::kdf::{self, Keys};
use str0m::crypto::dtls::SrtpProfile;

use super::dtls::Keying;

/// The SRTP profile that a handshake chose is none that we can carry.
#[derive(Debug, thiserror::Error)]
#[error("no SRTP profile in common: {0}")]
pub struct UnsupportedProfile(pub &'static str);

/// Derives the session keys (RFC 5764 §4.2).
///
/// # Errors
/// [`UnsupportedProfile`] for anything but the two GCM profiles and AES_CM_128_HMAC_SHA1_80.
pub fn derive(keying: &Keying) -> Result<Keys, UnsupportedProfile> {
    let profile = match keying.profile {
        SrtpProfile::AEAD_AES_128_GCM => Profile::AeadAes128Gcm,
        SrtpProfile::AEAD_AES_256_GCM => Profile::AeadAes256Gcm,
        SrtpProfile::AES128_CM_SHA1_80 => Profile::AesCm128HmacSha1_80,
        _ => return Err(UnsupportedProfile("an unknown SRTP profile")),
    };
    let keys = kdf::derive(profile, &keying.material, keying.we_are_client);
    keys.ok_or(UnsupportedProfile("keying material of the wrong length"))
}

#[cfg(test)]
mod tests {
    use zeroize::Zeroizing;

    use super::*;

    #[test]
    fn other_profiles_and_lengths_are_refused() {
        let keying = |profile, len| Keying { profile, material: Zeroizing::new(vec![1; len]), we_are_client: false };
        let cm = derive(&keying(SrtpProfile::AES128_CM_SHA1_80, 60)).unwrap().outgoing.rtp;
        assert_eq!(cm.profile, Profile::AesCm128HmacSha1_80);
        assert!(derive(&keying(SrtpProfile::AES128_CM_SHA1_80, 56)).is_err());
        assert!(derive(&keying(SrtpProfile::AEAD_AES_128_GCM, 55)).is_err());
        assert!(
            !format!("{:?}", keying(SrtpProfile::AEAD_AES_128_GCM, 56)).contains('1'.to_string().repeat(2).as_str())
        );
    }
}
