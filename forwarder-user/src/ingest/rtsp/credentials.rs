//! What answers a challenge: Digest (RFC 7616, and RFC 2069 as old cameras know it) and Basic (RFC 7617).

use base64::{Engine as _, engine::general_purpose::STANDARD};
use openssl::hash::MessageDigest;
use penstock_rtp::rtsp::challenge::Challenge;

use super::{digest_hex, random_hex};
use crate::config::Secret;

/// A challenge that we can answer.
pub(super) struct Answerer {
    scheme: Scheme,
    challenge: Challenge,
    /// Requests that were answered for with this nonce.
    count: u32,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Scheme {
    Digest { digest: Algorithm, session: bool, qop: Option<&'static str> },
    Basic,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Algorithm {
    Md5,
    Sha256,
    Sha512_256,
}

impl Answerer {
    /// The first Digest among the fields that we know how to answer, or else Basic.
    pub(super) fn choose<'a>(fields: impl Iterator<Item = &'a [u8]>) -> Option<Self> {
        let challenges = fields.flat_map(Challenge::parse);
        let known = challenges.filter_map(|challenge| Some((scheme(&challenge)?, challenge)));
        let mut known: Vec<_> = known.map(|(scheme, challenge)| Self { scheme, challenge, count: 0 }).collect();
        let digest = known.iter().position(|known| known.scheme != Scheme::Basic);
        (!known.is_empty()).then(|| known.swap_remove(digest.unwrap_or(0)))
    }

    /// Whether only the nonce of the request before was too old.
    pub(super) fn is_stale(&self) -> bool {
        self.challenge.is_stale()
    }

    /// The value of `Authorization` for a request without a body. `None`: the system forbids the hash.
    pub(super) fn answer(&mut self, user: &str, password: &Secret, method: &str, uri: &str) -> Option<Vec<u8>> {
        self.count += 1;
        let Scheme::Digest { digest, session, qop } = self.scheme else {
            return Some(format!("Basic {}", STANDARD.encode(format!("{user}:{}", password.expose()))).into_bytes());
        };
        let text = |name| self.challenge.get(name).unwrap_or_default();
        let (realm, nonce) = (text("realm"), text("nonce"));
        let (count, cnonce) = (format!("{:08x}", self.count), random_hex());
        let joined = |parts: &[&[u8]]| digest.hex(&parts.join(&b':'));
        let mut secret = joined(&[user.as_bytes(), realm, password.expose().as_bytes()])?;
        if session {
            secret = joined(&[secret.as_bytes(), nonce, cnonce.as_bytes()])?;
        }
        let request = match qop {
            Some("auth-int") => joined(&[method.as_bytes(), uri.as_bytes(), digest.hex(b"")?.as_bytes()])?,
            _ => joined(&[method.as_bytes(), uri.as_bytes()])?,
        };
        let response = match qop {
            Some(qop) => {
                let parts = [secret.as_bytes(), nonce, count.as_bytes(), cnonce.as_bytes(), qop.as_bytes()];
                joined(&[&parts[..], &[request.as_bytes()]].concat())?
            }
            None => joined(&[secret.as_bytes(), nonce, request.as_bytes()])?,
        };
        let mut value = b"Digest ".to_vec();
        quote(&mut value, "username", user.as_bytes());
        for (name, text) in
            [("realm", realm), ("nonce", nonce), ("uri", uri.as_bytes()), ("response", response.as_bytes())]
        {
            value.extend_from_slice(b", ");
            quote(&mut value, name, text);
        }
        if let Some(given) = self.challenge.get("algorithm") {
            value.extend_from_slice(b", algorithm=");
            value.extend(given.iter().filter(|byte| byte.is_ascii_alphanumeric() || **byte == b'-'));
        }
        if let Some(opaque) = self.challenge.get("opaque") {
            value.extend_from_slice(b", ");
            quote(&mut value, "opaque", opaque);
        }
        if let Some(qop) = qop {
            value.extend_from_slice(format!(", qop={qop}, nc={count}, cnonce=\"{cnonce}\"").as_bytes());
        } else if session {
            value.extend_from_slice(format!(", cnonce=\"{cnonce}\"").as_bytes());
        }
        Some(value)
    }
}

impl Algorithm {
    /// In hexadecimal. `None`: the system forbids it.
    fn hex(self, text: &[u8]) -> Option<String> {
        let kind = match self {
            Self::Md5 => MessageDigest::md5(),
            Self::Sha256 => MessageDigest::sha256(),
            Self::Sha512_256 => MessageDigest::from_name("SHA512-256")?,
        };
        digest_hex(kind, text)
    }
}

fn scheme(challenge: &Challenge) -> Option<Scheme> {
    match challenge.scheme.as_str() {
        "basic" => Some(Scheme::Basic),
        "digest" => {
            challenge.get("nonce")?;
            let name = challenge.text("algorithm").to_ascii_lowercase();
            let (name, session) = name.strip_suffix("-sess").map_or((name.as_str(), false), |name| (name, true));
            let digest = match name {
                "" | "md5" => Algorithm::Md5,
                "sha-256" | "sha256" => Algorithm::Sha256,
                "sha-512-256" => Algorithm::Sha512_256,
                _ => return None,
            };
            let qop = challenge.text("qop").to_ascii_lowercase();
            let offers = |wanted: &str| qop.split([',', ' ']).any(|one| one.trim() == wanted);
            let qop = ["auth", "auth-int"].into_iter().find(|wanted| offers(wanted));
            Some(Scheme::Digest { digest, session, qop })
        }
        _ => None,
    }
}

/// `name="value"`.
fn quote(into: &mut Vec<u8>, name: &str, value: &[u8]) {
    into.extend_from_slice(name.as_bytes());
    into.extend_from_slice(b"=\"");
    for byte in value {
        if matches!(byte, b'"' | b'\\') {
            into.push(b'\\');
        }
        into.push(*byte);
    }
    into.push(b'"');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(fields: &[&str], user: &str, password: &str, method: &str, uri: &str) -> Option<String> {
        let mut answerer = Answerer::choose(fields.iter().map(|field| field.as_bytes()))?;
        String::from_utf8(answerer.answer(user, &Secret::new(password), method, uri)?).ok()
    }

    fn get<'a>(answer: &'a str, name: &str) -> &'a str {
        let (_, rest) = answer.split_once(&format!("{name}=")).unwrap_or_else(|| panic!("{name} of {answer}"));
        rest.trim_start_matches('"').split(['"', ',']).next().unwrap()
    }

    /// RFC 2617 §3.5 without qop, by RFC 2069.
    #[test]
    fn the_digest_of_old_cameras() {
        let field = r#"Digest realm="testrealm@host.com", nonce="dcd98b7102dd2f0e8b11d0f600bfb0c093", opaque="5c""#;
        let answer = answer(&[field], "Mufasa", "CircleOfLife", "GET", "/dir/index.html").unwrap();
        assert_eq!(get(&answer, "response"), "1949323746fe6a43ef61f9606e7febea");
        assert_eq!(
            (get(&answer, "opaque"), answer.contains("qop"), answer.contains("algorithm")),
            ("5c", false, false)
        );
    }

    /// Another implementation, which knows our `cnonce`, comes to the same.
    #[test]
    fn with_qop_and_other_hashes() {
        for (algorithm, hash) in
            [("MD5", Algorithm::Md5), ("SHA-256", Algorithm::Sha256), ("sha256", Algorithm::Sha256)]
        {
            let field = format!("Digest realm=\"r\", nonce=\"n\", qop=\"auth,auth-int\", algorithm={algorithm}");
            let answer = answer(&[&field], "me", "pw", "PLAY", "rtsp://h/").unwrap();
            let (secret, request) = (hash.hex(b"me:r:pw").unwrap(), hash.hex(b"PLAY:rtsp://h/").unwrap());
            let expected = format!("{secret}:n:00000001:{}:auth:{request}", get(&answer, "cnonce"));
            assert_eq!(get(&answer, "response"), hash.hex(expected.as_bytes()).unwrap(), "{answer}");
            assert_eq!((get(&answer, "algorithm"), get(&answer, "qop")), (algorithm, "auth"));
        }
    }

    #[test]
    fn the_challenge_that_can_be_read_is_answered() {
        let digest = r#"Digest realm="r" nonce="n""#;
        for fields in [
            &["Digest realm=\"r\", nonce=\"n\", algorithm=WHIRLPOOL", digest][..],
            &["Negotiate", "Basic realm=\"x\"", digest],
            &["Digest realm=\"no nonce\"", digest],
        ] {
            assert!(answer(fields, "me", "pw", "PLAY", "*").unwrap().starts_with("Digest "), "{fields:?}");
        }
        for fields in
            [&["Basic"][..], &["Basic realm=a b"], &["Digest \u{1}", "Basic realm=\"\u{e9}\""], &["\t basic\t"]]
        {
            assert_eq!(answer(fields, "me", "p:w", "PLAY", "*").as_deref(), Some("Basic bWU6cDp3"), "{fields:?}");
        }
        for fields in [&[][..], &["Bearer x"], &["Digest realm=\"r\""], &["\u{fffd}"]] {
            assert_eq!(answer(fields, "me", "pw", "PLAY", "*"), None, "{fields:?}");
        }
    }

    #[test]
    fn what_is_given_back_is_as_it_came() {
        let field = b"Digest realm=\"\xc9\xe3 \\\"q\\\"\", nonce=\"n\"";
        let mut answerer = Answerer::choose([&field[..]].into_iter()).unwrap();
        let value = answerer.answer("me", &Secret::new("pw"), "PLAY", "*").unwrap();
        let realm = b"realm=\"\xc9\xe3 \\\"q\\\"\"";
        assert!(value.windows(realm.len()).any(|window| window == realm));
        let mut session =
            Answerer::choose([&b"Digest realm=r, nonce=n, algorithm=MD5-sess, qop=auth"[..]].into_iter()).unwrap();
        let first = session.answer("me", &Secret::new("pw"), "PLAY", "*").unwrap();
        let second = session.answer("me", &Secret::new("pw"), "PLAY", "*").unwrap();
        assert!(String::from_utf8_lossy(&first).contains("nc=00000001"));
        assert!(String::from_utf8_lossy(&second).contains("nc=00000002"));
    }
}
