//! STUN and TURN servers that clients are told of.

use serde::{Deserialize, Serialize};

use super::Secret;

/// Longest time that credentials may be valid for, in seconds.
const MAX_TTL_S: u64 = 7 * 86_400;

/// A server of others, for clients on networks that let nothing else through.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IceServer {
    /// `stun:`, `stuns:` (RFC 7064), `turn:` or `turns:` (RFC 7065).
    pub url: String,
    /// Of TURN: a name that is always the same, with `credential`.
    #[serde(default)]
    pub username: String,
    /// The password for `username`.
    #[serde(default)]
    pub credential: Secret,
    /// Of TURN, instead of both: what it shares with us (`static-auth-secret` of coturn), so that each client gets a
    /// user name and a password of its own, which run out.
    #[serde(default)]
    pub secret: Secret,
    /// How long those are valid, in seconds.
    #[serde(default = "usual_ttl")]
    pub ttl_s: u64,
}

fn usual_ttl() -> u64 {
    86_400
}

impl IceServer {
    /// What is wrong with it.
    pub(super) fn problem(&self) -> Option<String> {
        let url = &self.url;
        let plain = |text: &str| text.bytes().all(|byte| byte.is_ascii_graphic() && !b"<>\"\\".contains(&byte));
        let (stun, turn) = (is_of(url, &["stun:", "stuns:"]), is_of(url, &["turn:", "turns:"]));
        let fixed = !self.username.is_empty() && !self.credential.is_empty();
        if !(stun || turn) || !plain(url) || url.len() > 256 {
            Some(format!(
                "{url:?} is no address of a STUN or TURN server, e.g. \"turn:turn.example:3478?transport=tcp\""
            ))
        } else if turn && self.secret.is_empty() && !fixed {
            Some(format!("{url} needs `secret`, or `username` and `credential`"))
        } else if !plain(&self.username) || !plain(self.credential.expose()) {
            Some(format!("user name and password of {url} must be ASCII without spaces and quotes"))
        } else if !(60..=MAX_TTL_S).contains(&self.ttl_s) {
            Some(format!("ttl_s of {url} is not between 60 and {MAX_TTL_S}"))
        } else {
            None
        }
    }
}

fn is_of(url: &str, schemes: &[&str]) -> bool {
    schemes.iter().any(|scheme| url.strip_prefix(scheme).is_some_and(|host| !host.is_empty()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_checked() {
        let problem = |text: &str| toml::from_str::<IceServer>(text).unwrap().problem().unwrap_or_default();
        assert_eq!(problem("url = \"stun:stun.example:3478\""), "");
        assert_eq!(problem("url = \"turns:turn.example?transport=tcp\"\nsecret = \"s\""), "");
        assert_eq!(problem("url = \"turn:turn.example\"\nusername = \"u\"\ncredential = \"p\""), "");
        assert!(problem("url = \"https://turn.example\"").contains("STUN or TURN"));
        assert!(problem("url = \"stun:\"").contains("STUN or TURN"));
        assert!(problem("url = \"stun:a>; rel=x\"").contains("STUN or TURN"));
        assert!(problem("url = \"turn:turn.example\"").contains("secret"));
        assert!(problem("url = \"turn:turn.example\"\nusername = \"u\"").contains("secret"));
        assert!(problem("url = \"turn:turn.example\"\nsecret = \"s\"\nttl_s = 1").contains("ttl_s"));
    }
}
