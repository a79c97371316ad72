//! The password of those who publish: Basic (RFC 7617) and Digest (RFC 2617, and RFC 2069 as old cameras
//! know it). The user's name is of no importance.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use openssl::hash::{MessageDigest, hash};
use penstock_rtp::rtsp::{challenge::Challenge, url::Url};

use crate::config::Secret;
use crate::ingest::rtsp::random_hex;

const REALM: &str = "penstock";

/// What a connection asks for. The nonce is the connection's own, so that what is heard on one is of no
/// use on another.
pub(super) struct Door<'a> {
    password: &'a Secret,
    nonce: String,
}

impl<'a> Door<'a> {
    /// An empty password lets everybody in.
    pub(super) fn new(password: &'a Secret) -> Self {
        Self { password, nonce: random_hex() }
    }

    /// Values of `WWW-Authenticate`, the better one first.
    pub(super) fn challenges(&self) -> [String; 2] {
        [
            format!("Digest realm=\"{REALM}\", nonce=\"{}\", algorithm=MD5", self.nonce),
            format!("Basic realm=\"{REALM}\""),
        ]
    }

    /// Whether a request with this `Authorization` may come in. `uri`: as the request has it.
    pub(super) fn admits(&self, method: &str, uri: &str, authorization: &str) -> bool {
        if self.password.is_empty() {
            return true;
        }
        let given = authorization.trim();
        let Some((scheme, rest)) = given.split_once(|letter: char| letter.is_ascii_whitespace()) else { return false };
        match scheme.to_ascii_lowercase().as_str() {
            "basic" => {
                let given = STANDARD.decode(rest.trim()).ok().and_then(|bytes| String::from_utf8(bytes).ok());
                given.and_then(|given| Some(self.password.matches(given.split_once(':')?.1))).unwrap_or(false)
            }
            "digest" => {
                let parsed = Challenge::parse(authorization.as_bytes());
                parsed.first().is_some_and(|given| self.is_right(method, uri, given))
            }
            _ => false,
        }
    }

    fn is_right(&self, method: &str, requested: &str, given: &Challenge) -> bool {
        let value = |name: &str| String::from_utf8_lossy(given.get(name).unwrap_or_default()).into_owned();
        let uri = value("uri");
        let path = Url::parse(requested).map(|(url, _)| url.path().to_owned()).unwrap_or_default();
        let same = uri == requested || uri == path || means_the_same(&uri, requested);
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
        !right.is_empty() && Secret::new(right).matches(&value("response"))
    }
}

/// Whether two URLs differ in how they are written only: in user and password, a port that need not be named.
fn means_the_same(one: &str, other: &str) -> bool {
    let parts = |text: &str| {
        let (url, _) = Url::parse(text).ok()?;
        Some((url.host().to_ascii_lowercase(), url.port(), url.path().to_owned(), url.query().map(str::to_owned)))
    };
    parts(one).is_some_and(|parts_of_one| Some(parts_of_one) == parts(other))
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
        let (password, url) = (Secret::new("s3cret"), "rtsp://host:8554/cam");
        let door = Door::new(&password);
        for challenge in door.challenges() {
            let right = answer(&challenge, "s3cret", "ANNOUNCE", url);
            assert!(door.admits("ANNOUNCE", url, &right), "{right}");
            let wrong = answer(&challenge, "s3cre", "ANNOUNCE", url);
            assert!(!door.admits("ANNOUNCE", url, &wrong), "{wrong}");
        }
        let digest = answer(&door.challenges()[0], "s3cret", "ANNOUNCE", url);
        assert!(!door.admits("RECORD", url, &digest), "of another method");
        assert!(!door.admits("ANNOUNCE", "rtsp://host:8554/other", &digest));
        assert!(!Door::new(&password).admits("ANNOUNCE", url, &digest), "of another connection");
    }

    #[test]
    fn qop_is_understood() {
        let (password, url) = (Secret::new("s3cret"), "rtsp://host/cam");
        let door = Door::new(&password);
        let challenge = format!("{}, qop=\"auth\"", door.challenges()[0]);
        assert!(door.admits("ANNOUNCE", url, &answer(&challenge, "s3cret", "ANNOUNCE", url)));
    }

    #[test]
    fn nonsense_opens_nothing() {
        let (password, url) = (Secret::new("s3cret"), "rtsp://host/cam");
        let door = Door::new(&password);
        for text in ["", "Basic", "Basic !!!", "Basic czNjcmV0", "Digest", "Digest a=b", "Digest ,,,", "Bearer s3cret"]
        {
            assert!(!door.admits("ANNOUNCE", url, text), "{text}");
        }
        assert!(Door::new(&Secret::default()).admits("ANNOUNCE", url, ""), "no password is set");
    }
}
