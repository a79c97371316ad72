//! The password of those who publish and play: Basic (RFC 7617) and Digest (RFC 2617, and RFC 2069 as old cameras
//! know it). For a token of the configuration the user's name is of no importance.

use std::{future::pending, net::SocketAddr, sync::Arc};

use openssl::hash::MessageDigest;
use penstock_rtp::rtsp::{challenge::Challenge, message::Message, url::Url};

use crate::{
    config::{Action, Secret},
    ingest::rtsp::{answer::Refusal, digest_hex, random_hex},
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

    /// What a request with this `Authorization` shows. `uri`: as the request has it.
    pub(super) fn credentials(&self, method: &str, uri: &str, authorization: &str) -> Credentials {
        let given = authorization.trim();
        let scheme = given.split(|letter: char| letter.is_ascii_whitespace()).next().unwrap_or_default();
        if !scheme.eq_ignore_ascii_case("digest") {
            return Credentials::of_header(given).unwrap_or_else(|| Credentials::Token(Secret::default()));
        }
        let parsed = Challenge::parse(given.as_bytes());
        match parsed.first().and_then(|given| self.digest(method, uri, given)) {
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
        request: &Message,
        (method, uri): (&str, &str),
        (action, stream, peer): (Action, &str, SocketAddr),
    ) -> Result<Grant, Refusal> {
        let given = request.text("Authorization");
        let url = Url::parse(uri).ok();
        let query = url.as_ref().and_then(|(url, _)| url.query()).unwrap_or_default();
        let in_query = || Credentials::of_query(query).filter(|_| rights.reads_query());
        let credentials = match given.as_ref() {
            "" => in_query().unwrap_or(Credentials::None),
            given => self.credentials(method, uri, given),
        };
        let asker = Asker {
            action,
            stream: stream.to_owned(),
            address: peer.ip().to_canonical(),
            protocol: "rtsp",
            query: Secret::new(query),
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
    fn digest(&self, method: &str, requested: &str, given: &Challenge) -> Option<Digest> {
        let value = |name: &str| String::from_utf8_lossy(given.get(name).unwrap_or_default()).into_owned();
        let uri = value("uri");
        let path = Url::parse(requested).map(|(url, _)| url.path().to_owned()).unwrap_or_default();
        let same = uri == requested || uri == path || means_the_same(&uri, requested);
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
    digest_hex(MessageDigest::md5(), text.as_bytes()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use http_auth::{PasswordClient, PasswordParams};

    use super::*;

    fn admits(door: &Door, method: &str, uri: &str, authorization: &str) -> bool {
        door.credentials(method, uri, authorization).is_token(&Secret::new("s3cret"))
    }

    /// What a client answers to a challenge.
    fn answer(challenge: &str, password: &str, method: &str, uri: &str) -> String {
        let mut client = PasswordClient::try_from(challenge).unwrap();
        let parameters = PasswordParams { username: "me", password, uri, method, body: Some(&[]) };
        client.respond(&parameters).unwrap()
    }

    #[test]
    fn the_right_password_opens_by_both_schemes() {
        let url = "rtsp://host:8554/cam";
        let door = Door::new();
        for challenge in door.challenges(true) {
            let right = answer(&challenge, "s3cret", "ANNOUNCE", url);
            assert!(admits(&door, "ANNOUNCE", url, &right), "{right}");
            let wrong = answer(&challenge, "s3cre", "ANNOUNCE", url);
            assert!(!admits(&door, "ANNOUNCE", url, &wrong), "{wrong}");
        }
        let digest = answer(&door.challenges(true)[0], "s3cret", "ANNOUNCE", url);
        assert!(!admits(&door, "RECORD", url, &digest), "of another method");
        assert!(!admits(&door, "ANNOUNCE", "rtsp://host:8554/other", &digest));
        assert!(!admits(&Door::new(), "ANNOUNCE", url, &digest), "of another connection");
        assert_eq!(door.challenges(false), ["Basic realm=\"penstock\""]);
    }

    #[test]
    fn qop_is_understood() {
        let url = "rtsp://host/cam";
        let door = Door::new();
        let challenge = format!("{}, qop=\"auth\"", door.challenges(true)[0]);
        assert!(admits(&door, "ANNOUNCE", url, &answer(&challenge, "s3cret", "ANNOUNCE", url)));
    }

    #[test]
    fn nonsense_opens_nothing() {
        let url = "rtsp://host/cam";
        let door = Door::new();
        for text in ["", "Basic", "Basic !!!", "Basic czNjcmV0", "Digest", "Digest a=b", "Digest ,,,", "Bearer x"] {
            assert!(!admits(&door, "ANNOUNCE", url, text), "{text}");
        }
        assert!(admits(&door, "ANNOUNCE", url, "Bearer s3cret"));
    }
}
