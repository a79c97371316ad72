//! `Link` headers that name STUN and TURN servers (RFC 9725 §4.6), with credentials that run out.
//!
//! User name and password of TURN are made as its servers check them: the time at which they run out, and its HMAC-SHA1
//! under the secret that both know ("TURN REST API", draft-uberti-behave-turn-rest). Only who may open a session gets them.

use std::time::{SystemTime, UNIX_EPOCH};

use axum::http::{HeaderMap, HeaderValue, header};
use base64::{Engine, engine::general_purpose::STANDARD};
use ring::hmac;

use crate::config::IceServer;

/// Adds a header for each server.
pub(super) fn link(headers: &mut HeaderMap, servers: &[IceServer]) {
    #[expect(clippy::disallowed_methods, reason = "the TURN server compares with its wall clock")]
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    for server in servers {
        if let Ok(value) = HeaderValue::from_str(&value(server, now)) {
            headers.append(header::LINK, value);
        }
    }
}

fn value(server: &IceServer, now: u64) -> String {
    let bare = format!("<{}>; rel=\"ice-server\"", server.url);
    let (username, password) = if server.secret.is_empty() {
        (server.username.clone(), server.credential.expose().to_owned())
    } else {
        limited(server, now)
    };
    match username.is_empty() {
        true => bare,
        false => {
            format!("{bare}; username=\"{username}\"; credential=\"{password}\"; credential-type=\"password\"")
        }
    }
}

/// User name and password until `ttl_s` from now.
fn limited(server: &IceServer, now: u64) -> (String, String) {
    let name = if server.username.is_empty() { "penstock" } else { &server.username };
    let username = format!("{}:{name}", now + server.ttl_s);
    let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, server.secret.expose().as_bytes());
    let password = STANDARD.encode(hmac::sign(&key, username.as_bytes()));
    (username, password)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_as_rfc_9725_has_them() {
        let server = |text: &str| toml::from_str::<IceServer>(text).unwrap();
        assert_eq!(value(&server("url = \"stun:a.example\""), 0), "<stun:a.example>; rel=\"ice-server\"");
        let fixed = server("url = \"turn:a.example?transport=udp\"\nusername = \"u\"\ncredential = \"p\"");
        let link = "<turn:a.example?transport=udp>; rel=\"ice-server\"; username=\"u\"; credential=\"p\"; \
                    credential-type=\"password\"";
        assert_eq!(value(&fixed, 0), link);
        // As `openssl dgst -sha1 -hmac north -binary | base64` says of "1000086400:penstock".
        let limited = value(&server("url = \"turn:a.example\"\nsecret = \"north\""), 1_000_000_000);
        assert!(
            limited.contains("username=\"1000086400:penstock\"; credential=\"gDoh+x+K/XggGGxBxWmth6Yf7G4=\""),
            "{limited}"
        );
    }
}
