//! The password of those who publish: Basic (RFC 7617) and Digest (RFC 2617, and RFC 2069 as old cameras
//! know it). The user's name is of no importance.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use http_auth::ChallengeRef;
use openssl::hash::{MessageDigest, hash};
use url::Url;

use super::random_hex;
use crate::config::Secret;

const REALM: &str = "penstock";

/// What a connection asks for. The nonce is the connection's own, so that what is heard on one is of no
/// use on another.
pub(in crate::ingest::rtsp) struct Door<'a> {
    password: &'a Secret,
    nonce: String,
}

impl<'a> Door<'a> {
    /// An empty password lets everybody in.
    pub(in crate::ingest::rtsp) fn new(password: &'a Secret) -> Self {
        Self { password, nonce: random_hex() }
    }

    /// Values of `WWW-Authenticate`, the better one first.
    pub(in crate::ingest::rtsp) fn challenges(&self) -> [String; 2] {
        [
            format!("Digest realm=\"{REALM}\", nonce=\"{}\", algorithm=MD5", self.nonce),
            format!("Basic realm=\"{REALM}\""),
        ]
    }

    /// Whether a request with this `Authorization` may come in.
    pub(in crate::ingest::rtsp) fn admits(&self, method: &str, url: &Url, authorization: &str) -> bool {
        if self.password.is_empty() {
            return true;
        }
        let Some((scheme, rest)) = authorization.trim().split_once(' ') else { return false };
        match scheme.to_ascii_lowercase().as_str() {
            "basic" => {
                let given = STANDARD.decode(rest.trim()).ok().and_then(|bytes| String::from_utf8(bytes).ok());
                given.and_then(|given| Some(self.password.matches(given.split_once(':')?.1))).unwrap_or(false)
            }
            "digest" => {
                let parsed = http_auth::parse_challenges(authorization);
                parsed.is_ok_and(|parsed| parsed.first().is_some_and(|given| self.is_right(method, url, given)))
            }
            _ => false,
        }
    }

    fn is_right(&self, method: &str, url: &Url, given: &ChallengeRef<'_>) -> bool {
        let value = |name: &str| {
            let found = given.params.iter().find(|(key, _)| key.eq_ignore_ascii_case(name));
            found.map(|(_, value)| value.to_unescaped()).unwrap_or_default()
        };
        let uri = value("uri");
        let same = Url::parse(&uri).is_ok_and(|given| given == *url) || uri == url.path();
        if !same || value("realm") != REALM || value("nonce") != self.nonce || self.nonce.is_empty() {
            return false;
        }
        let secret = md5(&format!("{}:{REALM}:{}", value("username"), self.password.expose()));
        let request = md5(&format!("{method}:{uri}"));
        let nonce = &self.nonce;
        let right = match value("qop").as_str() {
            "" => md5(&format!("{secret}:{nonce}:{request}")),
            qop => md5(&format!("{secret}:{nonce}:{}:{}:{qop}:{request}", value("nc"), value("cnonce"))),
        };
        Secret::new(right).matches(&value("response"))
    }
}

/// In hexadecimal. An empty text, which nothing matches, where MD5 is forbidden.
fn md5(text: &str) -> String {
    let digest = hash(MessageDigest::md5(), text.as_bytes());
    digest.map(|digest| digest.iter().map(|byte| format!("{byte:02x}")).collect()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use http_auth::{PasswordClient, PasswordParams};

    use super::*;

    /// What a client answers to a challenge.
    fn answer(challenge: &str, password: &str, method: &str, uri: &str) -> String {
        let mut client = PasswordClient::try_from(challenge).unwrap();
        let parameters = PasswordParams { username: "me", password, uri, method, body: Some(&[]) };
        client.respond(&parameters).unwrap()
    }

    #[test]
    fn the_right_password_opens_by_both_schemes() {
        let (password, url) = (Secret::new("s3cret"), Url::parse("rtsp://host:8554/cam").unwrap());
        let door = Door::new(&password);
        for challenge in door.challenges() {
            let right = answer(&challenge, "s3cret", "ANNOUNCE", url.as_str());
            assert!(door.admits("ANNOUNCE", &url, &right), "{right}");
            let wrong = answer(&challenge, "s3cre", "ANNOUNCE", url.as_str());
            assert!(!door.admits("ANNOUNCE", &url, &wrong), "{wrong}");
        }
        let digest = answer(&door.challenges()[0], "s3cret", "ANNOUNCE", url.as_str());
        assert!(!door.admits("RECORD", &url, &digest), "of another method");
        assert!(!door.admits("ANNOUNCE", &Url::parse("rtsp://host:8554/other").unwrap(), &digest));
        assert!(!Door::new(&password).admits("ANNOUNCE", &url, &digest), "of another connection");
    }

    #[test]
    fn qop_is_understood() {
        let (password, url) = (Secret::new("s3cret"), Url::parse("rtsp://host/cam").unwrap());
        let door = Door::new(&password);
        let challenge = format!("{}, qop=\"auth\"", door.challenges()[0]);
        assert!(door.admits("ANNOUNCE", &url, &answer(&challenge, "s3cret", "ANNOUNCE", url.as_str())));
    }

    #[test]
    fn nonsense_opens_nothing() {
        let (password, url) = (Secret::new("s3cret"), Url::parse("rtsp://host/cam").unwrap());
        let door = Door::new(&password);
        for text in ["", "Basic", "Basic !!!", "Basic czNjcmV0", "Digest", "Digest a=b", "Digest ,,,", "Bearer s3cret"]
        {
            assert!(!door.admits("ANNOUNCE", &url, text), "{text}");
        }
        assert!(Door::new(&Secret::default()).admits("ANNOUNCE", &url, ""), "no password is set");
    }
}
