//! Secrets and addresses taken out of text that others will read.

use std::{collections::BTreeMap, net::IpAddr, sync::LazyLock};

use regex::{Captures, Regex};

const REDACTED: &str = "(redacted)";
/// A secret that is shorter could be a word of the text.
const LEAST_SECRET: usize = 4;

/// What is secret wherever it stands, and what stays of it: the groups `keep` and `end`.
const SECRETS: [&str; 8] = [
    // User and password of a URL.
    r"(?P<keep>[a-zA-Z][a-zA-Z0-9+.-]*://)[^/\s]+(?P<end>@)",
    // Tokens in URLs.
    r"(?P<keep>[?&](?:token|jwt|access_token|password)=)[^&\s]+",
    // Headers.
    r"(?P<keep>\b(?:[Bb][Ee][Aa][Rr][Ee][Rr]|[Bb][Aa][Ss][Ii][Cc])\s+)[A-Za-z0-9._~+/=-]{6,}",
    // JSON Web Tokens, hashes of passwords, secrets of webhooks.
    r"(?P<keep>)eyJ[A-Za-z0-9_-]{6,}\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*",
    r"(?P<keep>)(?:argon2:)?\$argon2[a-z]*\$[^\s]*",
    r"(?P<keep>)whsec_[A-Za-z0-9+/=_-]+",
    // Keys in session descriptions (RFC 4568), credentials of ICE.
    r"(?P<keep>inline:)[A-Za-z0-9+/=|:]+",
    r"(?P<keep>a=ice-pwd:)\S+",
];

static PATTERNS: LazyLock<Vec<Regex>> =
    LazyLock::new(|| SECRETS.iter().filter_map(|pattern| Regex::new(pattern).ok()).collect());
/// What may be an address of IPv4 or IPv6, or of Ethernet.
static ADDRESS: LazyLock<Option<Regex>> = LazyLock::new(|| {
    Regex::new(r"[0-9A-Fa-f]{0,4}(?::[0-9A-Fa-f]{0,4}){2,7}(?:\.[0-9]{1,3}){0,3}|(?:[0-9]{1,3}\.){3}[0-9]{1,3}").ok()
});

/// Replaces the same by the same throughout.
pub(super) struct Mask {
    keep_addresses: bool,
    hidden: Vec<String>,
    addresses: BTreeMap<String, usize>,
}

impl Mask {
    pub(super) fn new(keep_addresses: bool) -> Self {
        Self { keep_addresses, hidden: Vec::new(), addresses: BTreeMap::new() }
    }

    /// A secret that is known: it goes wherever it stands.
    pub(super) fn hide(&mut self, secret: &str) {
        if secret.len() >= LEAST_SECRET {
            self.hidden.push(secret.to_owned());
        }
    }

    /// The text without them.
    pub(super) fn take(&mut self, text: &str) -> String {
        let mut text = text.to_owned();
        for secret in &self.hidden {
            text = text.replace(secret.as_str(), REDACTED);
        }
        for pattern in PATTERNS.iter() {
            text = pattern.replace_all(&text, format!("${{keep}}{REDACTED}${{end}}")).into_owned();
        }
        match ADDRESS.as_ref().filter(|_| !self.keep_addresses) {
            Some(pattern) => pattern.replace_all(&text, |found: &Captures<'_>| self.number(&found[0])).into_owned(),
            None => text,
        }
    }

    /// What stands in place of an address; of this host's own loopback, itself.
    fn number(&mut self, found: &str) -> String {
        let tells_nothing = |address: IpAddr| address.is_loopback() || address.is_unspecified();
        let is_ethernet = found.len() == 17 && found.split(':').all(|part| part.len() == 2);
        match found.parse::<IpAddr>() {
            Ok(address) if tells_nothing(address) => return found.to_owned(),
            Ok(_) => {}
            Err(_) if is_ethernet => {}
            // A time, or a part of a path.
            Err(_) => return found.to_owned(),
        }
        let next = self.addresses.len() + 1;
        let number = self.addresses.entry(found.to_lowercase()).or_insert(next);
        format!("address-{number}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_go_wherever_they_stand() {
        assert_eq!(PATTERNS.len(), SECRETS.len(), "each is one that the library reads");
        let mut mask = Mask::new(true);
        mask.hide("hunter22");
        for (text, expected) in [
            ("x rtsp://u:p@192.0.2.1/a y", "x rtsp://(redacted)@192.0.2.1/a y"),
            ("rtsp://u:p@ss@192.0.2.1/a@b", "rtsp://(redacted)@192.0.2.1/a@b"),
            ("/cam?token=abc&x=1", "/cam?token=(redacted)&x=1"),
            ("Authorization: Bearer abcdef.123", "Authorization: Bearer (redacted)"),
            ("authorization: basic dTpwYXNz", "authorization: basic (redacted)"),
            ("got eyJhbGciOi.eyJzdWIi.abc-_ here", "got (redacted) here"),
            ("= $argon2id$v=19$m=1,t=1,p=1$c2FsdA$aGFzaA x", "= (redacted) x"),
            ("inline:QUJDREVG|2^20", "inline:(redacted)^20"),
            ("the word hunter22.", "the word (redacted)."),
            ("a=ice-pwd:abcdefghijklmnopqrstuv", "a=ice-pwd:(redacted)"),
        ] {
            assert_eq!(mask.take(text), expected);
        }
    }

    #[test]
    fn addresses_have_numbers_that_stay() {
        let mut mask = Mask::new(false);
        let text = "192.0.2.1:5 [2001:db8::1]:6 192.0.2.1 02:00:5E:00:53:01 ::ffff:192.0.2.9";
        assert_eq!(mask.take(text), "address-1:5 [address-2]:6 address-1 address-3 address-4");
        assert_eq!(mask.take("2001:DB8::1"), "address-2");
        for same in ["127.0.0.1:8080 [::]:8080 [::1]", "12:34:56.789", "1.2.3", "penstock::stream", "0.1.0"] {
            assert_eq!(mask.take(same), same);
        }
    }
}
