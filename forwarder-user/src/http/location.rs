//! Where a session is, as a client can use it.
//!
//! Clients join a `Location` in two ways. Browsers and most libraries go by RFC 3986. OBS before 31 takes what begins
//! with a slash for a path at the root, and joins everything else to the endpoint's address as it is. So a path from
//! the root is what all of them understand; and behind a proxy that takes a part of the path away, that part must stand in
//! it again. A proxy that does so says it (`X-Forwarded-Prefix`); if it says nothing, nobody can know.

use axum::{
    extract::{ConnectInfo, Request},
    http::HeaderMap,
};
use std::net::SocketAddr;

use super::App;

/// Longest prefix that is believed, in bytes.
const MAX_PREFIX: usize = 256;

/// What a client must put before our paths.
#[derive(Debug, Default)]
pub(super) struct Location {
    prefix: String,
}

impl Location {
    /// From a request, if a trusted proxy has sent it.
    pub(super) fn of(app: &App, request: &Request) -> Self {
        let peer = request.extensions().get::<ConnectInfo<SocketAddr>>().map(|peer| peer.0.ip());
        let trusted = peer.is_some_and(|peer| app.trusted.iter().any(|network| network.contains(peer)));
        let prefix = if trusted { prefix(request.headers()) } else { None };
        Self { prefix: prefix.unwrap_or_default() }
    }

    /// Path of a session from the root of the client's server.
    pub(super) fn of_session(&self, stream: &str, segment: &str, session: &str) -> String {
        format!("{}/{stream}/{segment}/{session}", self.prefix)
    }
}

/// The part of the path that proxies have taken away, without a slash at its end. Each adds its own in front of what it was
/// told, or in a list, the outermost first.
fn prefix(headers: &HeaderMap) -> Option<String> {
    let values = headers.get_all("x-forwarded-prefix").into_iter().filter_map(|value| value.to_str().ok());
    let mut all = String::new();
    for part in values.flat_map(|value| value.split(',')) {
        let part = part.trim().trim_matches('/');
        if !part.is_empty() {
            all.push('/');
            all.push_str(part);
        }
    }
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~/%".contains(&byte);
    // Two slashes would lead to another server.
    let good = all.len() <= MAX_PREFIX && all.bytes().all(plain) && !all.contains("//") && !all.contains("/..");
    good.then_some(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_are_put_together_and_nothing_else_is() {
        let read = |values: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append("x-forwarded-prefix", value.parse().unwrap());
            }
            prefix(&headers)
        };
        assert_eq!(read(&[]).as_deref(), Some(""));
        assert_eq!(read(&["/x/y"]).as_deref(), Some("/x/y"));
        assert_eq!(read(&["x/y/"]).as_deref(), Some("/x/y"));
        assert_eq!(read(&["/outer, /inner/"]).as_deref(), Some("/outer/inner"));
        assert_eq!(read(&["/outer", "/inner"]).as_deref(), Some("/outer/inner"));
        for bad in ["/a//b", "/../x", "http://evil.example", "/a b", "/a\"b", "/a?b"] {
            assert_eq!(read(&[bad]), None, "{bad}");
        }
        let location = Location { prefix: "/x".into() };
        assert_eq!(location.of_session("cam", "whip", "s1"), "/x/cam/whip/s1");
    }
}
