//! A value that is never printed and is compared in constant time.

use ring::{hmac, rand::SystemRandom};
use serde::{Deserialize, Serialize, Serializer};
use zeroize::{Zeroize, ZeroizeOnDrop};

/// A bearer token. Empty means that there is none.
#[derive(Clone, Default, PartialEq, Eq, Deserialize, Zeroize, ZeroizeOnDrop)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// Takes any text; [`is_token`](Self::is_token) says whether it can be used.
    pub fn new(value: impl Into<String>) -> Self {
        Self(value.into())
    }

    /// Whether no token is set.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether it could be sent in an `Authorization` header: the `b64token` of RFC 6750 §2.1.
    pub fn is_token(&self) -> bool {
        self.0.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._~+/=".contains(&b))
    }

    /// The Argon2id hash that stands for a password (PHC format). `None`: it is no hash.
    pub fn hash(&self) -> Option<&str> {
        // As MediaMTX writes them.
        let hash = self.0.strip_prefix("argon2:").unwrap_or(&self.0);
        hash.starts_with("$argon2").then_some(hash)
    }

    /// The value itself, for whoever has to send it.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Compares without telling by its duration where the two differ.
    pub fn matches(&self, given: &str) -> bool {
        // A MAC under a key that nobody knows makes the time of the comparison independent of both.
        let Ok(key) = hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new()) else { return false };
        let tag = hmac::sign(&key, self.0.as_bytes());
        hmac::verify(&key, given.as_bytes(), tag.as_ref()).is_ok()
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.is_empty() { "none" } else { "redacted" })
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(if self.is_empty() { "" } else { "(redacted)" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compares_and_hides() {
        let secret = Secret::new("s3cret");
        assert!(secret.matches("s3cret"));
        assert!(!secret.matches("s3cre"));
        assert!(!secret.matches("s3creT"));
        assert!(!secret.matches(""));
        assert_eq!(format!("{secret:?}"), "redacted");
        assert_eq!(serde_json::to_string(&secret).unwrap(), "\"(redacted)\"");
        assert!(!Secret::new("white space").is_token());
    }
}
