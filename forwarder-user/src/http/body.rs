//! Request bodies: right type, bounded, in time, UTF-8.

use std::time::Duration;

use axum::{
    body::Body,
    extract::Request,
    http::{HeaderMap, HeaderName, StatusCode, header},
};
use futures::StreamExt;

use super::{App, reply::Failure};

/// Body of an offer and an answer.
pub(super) const SDP_TYPE: &str = "application/sdp";
/// Body of a PATCH (RFC 8840).
pub(super) const FRAGMENT_TYPE: &str = "application/trickle-ice-sdpfrag";

/// Tells which body types a POST may have; no constant of the `http` crate.
pub(super) const ACCEPT_POST: HeaderName = HeaderName::from_static("accept-post");
/// Same for PATCH (RFC 5789 §3.1).
pub(super) const ACCEPT_PATCH: HeaderName = HeaderName::from_static("accept-patch");
/// Of a 201: what the viewer gets not, and what it can do about it, in a sentence of ASCII. The rest plays.
pub(super) const NOTE: HeaderName = HeaderName::from_static("penstock-note");

/// How much of an oversized body is read and thrown away, so that the client is done with sending
/// and sees the answer instead of a reset connection.
const DISCARD_BYTES: usize = 16 << 20;
const DISCARD_TIME: Duration = Duration::from_secs(5);

/// Reads a text body of the type `expected`.
///
/// # Errors
/// 415 with the header `accept`, 413, 408, 400.
pub(super) async fn text(
    app: &App,
    request: Request,
    expected: &'static str,
    accept: HeaderName,
) -> Result<String, Failure> {
    let given = content_type(request.headers());
    if !given.eq_ignore_ascii_case(expected) {
        let given = if given.is_empty() { "none".into() } else { format!("{given:?}") };
        let reason = format!("the Content-Type must be {expected}, the request has {given}");
        discard_request(request).await;
        return Err(Failure::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, reason).with(accept, expected));
    }
    let settings = app.settings.current();
    let limit = settings.body_bytes;
    if content_length(request.headers()).is_some_and(|length| length > limit as u64) {
        discard_request(request).await;
        return Err(too_large(limit));
    }
    let bytes = tokio::time::timeout(settings.timeout, collect(request.into_body(), limit))
        .await
        .map_err(|_| close(StatusCode::REQUEST_TIMEOUT, "the body did not arrive in time"))??;
    let text =
        String::from_utf8(bytes).map_err(|_| Failure::new(StatusCode::BAD_REQUEST, "the body is not UTF-8 text"))?;
    if text.trim().is_empty() {
        return Err(Failure::new(StatusCode::BAD_REQUEST, format!("the body is empty, it must be {expected}")));
    }
    Ok(text)
}

/// The bytes of a body of whatever length it says or does not say.
async fn collect(body: Body, limit: usize) -> Result<Vec<u8>, Failure> {
    let mut stream = body.into_data_stream();
    let mut bytes = Vec::new();
    while let Some(chunk) = stream.next().await {
        let chunk =
            chunk.map_err(|error| close(StatusCode::BAD_REQUEST, format!("the body is broken off: {error}")))?;
        if bytes.len() + chunk.len() > limit {
            discard(Body::from_stream(stream)).await;
            return Err(too_large(limit));
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}

fn too_large(limit: usize) -> Failure {
    close(
        StatusCode::PAYLOAD_TOO_LARGE,
        format!("the body is larger than {limit} bytes (`limits.http_body_bytes` in the configuration)"),
    )
}

/// A failure after which the connection cannot be used again.
fn close(status: StatusCode, reason: impl Into<String>) -> Failure {
    Failure::new(status, reason).with(header::CONNECTION, "close")
}

/// The media type without parameters; empty if there is none.
fn content_type(headers: &HeaderMap) -> &str {
    let value = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    value.split(';').next().unwrap_or_default().trim()
}

fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

async fn discard_request(request: Request) {
    // A client that sent `Expect: 100-continue` has not begun, and shall not.
    if !request.headers().contains_key(header::EXPECT) {
        discard(request.into_body()).await;
    }
}

async fn discard(body: Body) {
    let mut stream = body.into_data_stream();
    let mut left = DISCARD_BYTES;
    let drain = async {
        while let Some(Ok(chunk)) = stream.next().await {
            match left.checked_sub(chunk.len()) {
                Some(rest) => left = rest,
                None => return,
            }
        }
    };
    // Running out of time is as good as having read it all: the connection is closed either way.
    let _ = tokio::time::timeout(DISCARD_TIME, drain).await;
}
