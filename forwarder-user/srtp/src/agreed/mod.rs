//! Master keys that a description names: `a=crypto` (SDES, RFC 4568) and `a=key-mgmt` (MIKEY, RFC 3830 and 4567). Whoever
//! reads the description has the key, so it is worth as much as the connection by which it came.

pub mod mikey;
mod sdes;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use zeroize::Zeroizing;

use penstock_media::Profile;

/// What a sender seals with.
#[derive(Clone, PartialEq, Eq)]
pub struct Agreed {
    /// Of the key; the tags may be shorter.
    pub profile: Profile,
    /// AES_CM_128_HMAC_SHA1_32: four bytes of tag on RTP.
    pub short_tags: bool,
    /// Master key, `profile.key_len()` bytes.
    pub key: Zeroizing<Vec<u8>>,
    /// Master salt, `profile.salt_len()` bytes.
    pub salt: Zeroizing<Vec<u8>>,
    /// Roll-over counters by SSRC. Of others, it is 0.
    pub rocs: Vec<(u32, u32)>,
    /// Bytes of the master key identifier in each packet.
    pub mki: usize,
}

impl std::fmt::Debug for Agreed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Agreed({}, redacted)", self.profile.name())
    }
}

/// Why there is no key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyError {
    /// None is named.
    Missing,
    /// What names it cannot be read.
    Malformed,
    /// It is for something that we do not do, in words.
    Unsupported(&'static str),
}

impl std::fmt::Display for KeyError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Missing => f.write_str("no key is described (a=crypto, a=key-mgmt)"),
            Self::Malformed => f.write_str("its key cannot be read"),
            Self::Unsupported(what) => write!(f, "its key is not taken: {what}"),
        }
    }
}

impl Agreed {
    /// The first key that can be used. `crypto`, `key_mgmt`: values of the attributes of that name.
    ///
    /// # Errors
    /// [`KeyError`]: why the last one cannot.
    pub fn choose<'a>(
        crypto: impl IntoIterator<Item = &'a str>,
        key_mgmt: impl IntoIterator<Item = &'a str>,
    ) -> Result<Self, KeyError> {
        let mut error = KeyError::Missing;
        for found in key_mgmt.into_iter().map(Self::from_key_mgmt).chain(crypto.into_iter().map(sdes::parse)) {
            match found {
                Ok(key) => return Ok(key),
                Err(why) => error = why,
            }
        }
        Err(error)
    }

    /// Of `a=key-mgmt` (`mikey BASE64`), or of the field `KeyMgmt` (`prot=mikey;uri="…";data="BASE64"`, RFC 4567 §3.2).
    ///
    /// # Errors
    /// [`KeyError`].
    pub fn from_key_mgmt(value: &str) -> Result<Self, KeyError> {
        let value = value.trim();
        let parameter = |name: &str| {
            let mut parts = value.split(';').filter_map(|part| part.trim().split_once('='));
            parts
                .find(|(key, _)| key.trim().eq_ignore_ascii_case(name))
                .map(|(_, value)| value.trim().trim_matches('"'))
        };
        let (protocol, data) = match value.split_once(char::is_whitespace) {
            Some((protocol, data)) if !protocol.contains('=') => (protocol, data.trim()),
            _ => (parameter("prot").ok_or(KeyError::Malformed)?, parameter("data").ok_or(KeyError::Malformed)?),
        };
        if !protocol.eq_ignore_ascii_case("mikey") {
            return Err(KeyError::Unsupported("key management other than MIKEY"));
        }
        mikey::parse(&decode(data).ok_or(KeyError::Malformed)?)
    }

    /// Of a key with its salt behind it.
    fn new(profile: Profile, short_tags: bool, both: &[u8]) -> Result<Self, KeyError> {
        let (key, salt) = both.split_at_checked(profile.key_len()).ok_or(KeyError::Malformed)?;
        let salt = salt.get(..profile.salt_len()).ok_or(KeyError::Malformed)?;
        Ok(Self {
            profile,
            short_tags,
            key: Zeroizing::new(key.to_vec()),
            salt: Zeroizing::new(salt.to_vec()),
            rocs: vec![],
            mki: 0,
        })
    }
}

/// Base64, of which some leave out the end.
fn decode(text: &str) -> Option<Zeroizing<Vec<u8>>> {
    /// Longer than any key message.
    const MAX: usize = 8192;
    let text = text.trim().trim_end_matches('=');
    if text.len() > MAX {
        return None;
    }
    let padding = ["", "", "==", "="].get(text.len() % 4)?;
    STANDARD.decode(format!("{text}{padding}")).ok().map(Zeroizing::new)
}
