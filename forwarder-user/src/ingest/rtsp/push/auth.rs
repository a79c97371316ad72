//! The password of those who publish: Basic (RFC 7617) and Digest (RFC 2617, and RFC 2069 as old cameras
//! know it). For a token of the configuration the user's name is of no importance.

use std::{future::pending, net::SocketAddr, sync::Arc};

use http_auth::ChallengeRef;
use openssl::hash::{MessageDigest, hash};
use rtsp_types::{Request, headers::AUTHORIZATION};
use url::Url;

use super::{conversation::Refusal, random_hex};
use crate::{
    config::{Action, Secret},
    rights::{Asker, Credentials, Denied, Grant, Rights, Watch},
};

const REALM: &str = "penstock";

/// What a connection asks for. The nonce is the connection's own, so that what is heard on one is of no
/// use on another.
pub(in crate::ingest::rtsp) struct Door {
    nonce: String,
}

/// What a client has made of its password.
struct Digest {
    method: String,
    uri: String,
    username: String,
    nonce: String,
    qop: String,
    nc: String,
    cnonce: String,
    response: String,
}

impl Door {
    /// With a nonce of its own.
    pub(in crate::ingest::rtsp) fn new() -> Self {
        Self { nonce: random_hex() }
    }

    /// Values of `WWW-Authenticate`, the better one first. Without `digest`, the password itself is needed.
    pub(super) fn challenges(&self, digest: bool) -> Vec<String> {
        let better = format!("Digest realm=\"{REALM}\", nonce=\"{}\", algorithm=MD5", self.nonce);
        digest.then_some(better).into_iter().chain([format!("Basic realm=\"{REALM}\"")]).collect()
    }

    /// What a request with this `Authorization` shows.
    pub(super) fn credentials(&self, method: &str, url: &Url, authorization: &str) -> Credentials {
        let scheme = authorization.trim().split_once(' ').map_or("", |(scheme, _)| scheme);
        if !scheme.eq_ignore_ascii_case("digest") {
            return Credentials::of_header(authorization).unwrap_or_else(|| Credentials::Token(Secret::default()));
        }
        let parsed = http_auth::parse_challenges(authorization).unwrap_or_default();
        let digest = parsed.first().and_then(|given| self.digest(method, url, given));
        match digest {
            Some(digest) => {
                let name = digest.username.clone();
                Credentials::Digest(name, Arc::new(move |password| digest.is_of(password)))
            }
            None => Credentials::Digest(String::new(), Arc::new(|_| false)),
        }
    }

    /// Asks whether a request may do to a stream what it wants to.
    ///
    /// # Errors
    /// Why not.
    pub(in crate::ingest::rtsp) async fn admit(
        &self,
        rights: &Rights,
        request: &Request<Vec<u8>>,
        url: &Url,
        (action, stream, peer): (Action, &str, SocketAddr),
    ) -> Result<Grant, Refusal> {
        let given = request.header(&AUTHORIZATION).map_or("", |value| value.as_str());
        let in_query = || Credentials::of_query(url.query()?).filter(|_| rights.reads_query());
        let credentials = match given {
            "" => in_query().unwrap_or(Credentials::None),
            _ => self.credentials(request.method().into(), url, given),
        };
        let asker = Asker {
            action,
            stream: stream.to_owned(),
            address: peer.ip().to_canonical(),
            protocol: "rtsp",
            query: Secret::new(url.query().unwrap_or_default()),
            credentials,
        };
        rights.ask(asker, true).await.map_err(|denied| match denied {
            // The first request of every client that waits to be asked.
            Denied::Nothing => Refusal("asked_for_password", 401, "a password is needed".into()),
            Denied::Wrong(_) => Refusal("refused_password", 401, "this is not the password".into()),
            Denied::NotAllowed(why) => Refusal("refused_right", 403, why),
            Denied::Unknown(why) => Refusal("refused_undecided", 503, why.into()),
        })
    }

    /// `None`: of another request, or of another connection.
    fn digest(&self, method: &str, url: &Url, given: &ChallengeRef<'_>) -> Option<Digest> {
        let value = |name: &str| {
            let found = given.params.iter().find(|(key, _)| key.eq_ignore_ascii_case(name));
            found.map(|(_, value)| value.to_unescaped()).unwrap_or_default()
        };
        let uri = value("uri");
        let same = Url::parse(&uri).is_ok_and(|given| given == *url) || uri == url.path();
        if !same || value("realm") != REALM || value("nonce") != self.nonce || self.nonce.is_empty() {
            return None;
        }
        Some(Digest {
            method: method.to_owned(),
            uri,
            username: value("username"),
            nonce: self.nonce.clone(),
            qop: value("qop"),
            nc: value("nc"),
            cnonce: value("cnonce"),
            response: value("response"),
        })
    }
}

impl Digest {
    fn is_of(&self, password: &Secret) -> bool {
        let Self { method, uri, username, nonce, qop, nc, cnonce, response } = self;
        if password.is_empty() {
            return false;
        }
        let secret = md5(&format!("{username}:{REALM}:{}", password.expose()));
        let request = md5(&format!("{method}:{uri}"));
        let right = match qop.as_str() {
            "" => md5(&format!("{secret}:{nonce}:{request}")),
            qop => md5(&format!("{secret}:{nonce}:{nc}:{cnonce}:{qop}:{request}")),
        };
        !right.is_empty() && Secret::new(right).matches(response)
    }
}

/// For ever, where a right cannot be taken away.
pub(in crate::ingest::rtsp) async fn taken_away(watch: Option<Watch>) {
    let taken = match watch {
        Some(watch) => watch.is_taken_away().await,
        None => false,
    };
    if !taken {
        pending().await
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

    fn admits(door: &Door, method: &str, url: &Url, authorization: &str) -> bool {
        door.credentials(method, url, authorization).is_token(&Secret::new("s3cret"))
    }

    /// What a client answers to a challenge.
    fn answer(challenge: &str, password: &str, method: &str, uri: &str) -> String {
        let mut client = PasswordClient::try_from(challenge).unwrap();
        let parameters = PasswordParams { username: "me", password, uri, method, body: Some(&[]) };
        client.respond(&parameters).unwrap()
    }

    #[test]
    fn the_right_password_opens_by_both_schemes() {
        let url = Url::parse("rtsp://host:8554/cam").unwrap();
        let door = Door::new();
        for challenge in door.challenges(true) {
            let right = answer(&challenge, "s3cret", "ANNOUNCE", url.as_str());
            assert!(admits(&door, "ANNOUNCE", &url, &right), "{right}");
            let wrong = answer(&challenge, "s3cre", "ANNOUNCE", url.as_str());
            assert!(!admits(&door, "ANNOUNCE", &url, &wrong), "{wrong}");
        }
        let digest = answer(&door.challenges(true)[0], "s3cret", "ANNOUNCE", url.as_str());
        assert!(!admits(&door, "RECORD", &url, &digest), "of another method");
        assert!(!admits(&door, "ANNOUNCE", &Url::parse("rtsp://host:8554/other").unwrap(), &digest));
        assert!(!admits(&Door::new(), "ANNOUNCE", &url, &digest), "of another connection");
        assert_eq!(door.challenges(false), ["Basic realm=\"penstock\""]);
    }

    #[test]
    fn qop_is_understood() {
        let url = Url::parse("rtsp://host/cam").unwrap();
        let door = Door::new();
        let challenge = format!("{}, qop=\"auth\"", door.challenges(true)[0]);
        assert!(admits(&door, "ANNOUNCE", &url, &answer(&challenge, "s3cret", "ANNOUNCE", url.as_str())));
    }

    #[test]
    fn nonsense_opens_nothing() {
        let url = Url::parse("rtsp://host/cam").unwrap();
        let door = Door::new();
        for text in ["", "Basic", "Basic !!!", "Basic czNjcmV0", "Digest", "Digest a=b", "Digest ,,,", "Bearer x"] {
            assert!(!admits(&door, "ANNOUNCE", &url, text), "{text}");
        }
        assert!(admits(&door, "ANNOUNCE", &url, "Bearer s3cret"));
    }
}
