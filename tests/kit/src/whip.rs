//! HTTP client for WHIP (RFC 9725) and WHEP, as small as the peers and the tests need it.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use ureq::http;

use crate::place;

/// Longest wait for an answer. A server that is only slow must not fail a test on a busy machine.
const TIMEOUT: Duration = Duration::from_secs(20);

/// A client in a network namespace.
#[derive(Clone, Debug, Default)]
pub struct Client {
    /// As `ip netns` names it; `None` is where we are.
    pub namespace: Option<String>,
    /// Bearer token.
    pub token: Option<String>,
}

/// An answer, whatever its status.
#[derive(Clone, Debug)]
pub struct Reply {
    pub status: u16,
    pub headers: http::HeaderMap,
    pub body: String,
}

impl Reply {
    /// Value of a header, if it is there once and in ASCII.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The answer itself if its status is `status`.
    ///
    /// # Errors
    /// Another status; the message has the body, which says why.
    pub fn expect(self, status: u16) -> Result<Self> {
        ensure!(self.status == status, "expected {status}, got {}: {}", self.status, self.body.trim());
        Ok(self)
    }
}

/// A session, as its creation describes it.
#[derive(Clone, Debug)]
pub struct Session {
    /// From `Location`, absolute.
    pub url: String,
    /// As in the header, with quotes.
    pub etag: String,
}

impl Client {
    /// Any request. `body` goes with the content type that comes with it.
    ///
    /// # Errors
    /// No connection, no answer in time, not HTTP.
    pub fn request(
        &self,
        method: &str,
        url: &str,
        headers: &[(&str, &str)],
        body: Option<(&str, &[u8])>,
    ) -> Result<Reply> {
        let mut request = http::Request::builder().method(method).uri(url);
        if let Some(token) = &self.token {
            request = request.header("Authorization", format!("Bearer {token}"));
        }
        if let Some((content_type, _)) = body {
            request = request.header("Content-Type", content_type);
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        place::inside(self.namespace.as_deref(), || {
            // A connection of its own for each request, closed in the namespace that it belongs to.
            let config = ureq::Agent::config_builder()
                .http_status_as_error(false)
                .timeout_global(Some(TIMEOUT))
                .max_idle_connections(0)
                .allow_non_standard_methods(true)
                .build();
            let agent = ureq::Agent::new_with_config(config);
            let answer = match body {
                Some((_, bytes)) => agent.run(request.body(bytes)?),
                None => agent.run(request.body(())?),
            };
            let mut answer = answer.with_context(|| format!("{method} {url}"))?;
            let body = answer.body_mut().read_to_string().with_context(|| format!("{method} {url}"))?;
            Ok(Reply { status: answer.status().as_u16(), headers: answer.headers().clone(), body })
        })
    }

    /// POSTs an offer; the session and the SDP answer.
    ///
    /// # Errors
    /// As [`request`](Self::request); an answer that is not 201 with all that RFC 9725 §4.2 demands.
    pub fn post(&self, url: &str, offer: &str) -> Result<(Session, String)> {
        let reply = self.offer(url, offer)?.expect(201).with_context(|| format!("POST {url}"))?;
        ensure!(reply.header("content-type") == Some("application/sdp"), "201 without SDP");
        let location = reply.header("location").context("201 without Location")?;
        let etag = reply.header("etag").context("201 without ETag")?;
        let session = Session { url: absolute(url, location)?, etag: etag.into() };
        Ok((session, reply.body))
    }

    /// The same to a server of another make, whose answer need not be more than 2xx and SDP. Without a session, if it
    /// does not say where that is.
    ///
    /// # Errors
    /// As [`request`](Self::request); another status.
    pub fn post_leniently(&self, url: &str, offer: &str) -> Result<(Option<Session>, String)> {
        let reply = self.offer(url, offer)?;
        ensure!((200..300).contains(&reply.status), "POST {url}: {}: {}", reply.status, reply.body.trim());
        let location = reply.header("location").and_then(|location| absolute(url, location).ok());
        let etag = reply.header("etag").unwrap_or_default().to_owned();
        Ok((location.map(|url| Session { url, etag }), reply.body))
    }

    fn offer(&self, url: &str, offer: &str) -> Result<Reply> {
        self.request("POST", url, &[], Some(("application/sdp", offer.as_bytes())))
    }

    /// PATCHes candidates or new ICE credentials (RFC 9725 §4.3).
    ///
    /// # Errors
    /// As [`request`](Self::request). The status is the caller's to judge.
    pub fn patch(&self, session: &Session, if_match: Option<&str>, fragment: &str) -> Result<Reply> {
        let headers: Vec<_> = if_match.map(|etag| ("If-Match", etag)).into_iter().collect();
        let body = ("application/trickle-ice-sdpfrag", fragment.as_bytes());
        self.request("PATCH", &session.url, &headers, Some(body))
    }

    /// DELETEs the session.
    ///
    /// # Errors
    /// As [`request`](Self::request); any status but 200.
    pub fn delete(&self, session: &Session) -> Result<()> {
        self.request("DELETE", &session.url, &[], None)?.expect(200).map(drop)
    }
}

/// `location` relative to `base` (RFC 9110 §10.2.2), for the two forms that servers use.
fn absolute(base: &str, location: &str) -> Result<String> {
    if location.contains("://") {
        return Ok(location.into());
    }
    let uri: http::Uri = base.parse()?;
    let authority = uri.authority().context("an URL without a host")?;
    let scheme = uri.scheme_str().unwrap_or("http");
    if location.starts_with('/') {
        return Ok(format!("{scheme}://{authority}{location}"));
    }
    let parent = uri.path().rsplit_once('/').map_or("", |(parent, _)| parent);
    Ok(format!("{scheme}://{authority}{parent}/{location}"))
}
