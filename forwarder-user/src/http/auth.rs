//! Bearer tokens (RFC 6750), one per role.

use axum::http::{HeaderMap, StatusCode, header};

use super::reply::Failure;
use crate::config::Secret;

/// Lets a request pass if `token` is empty or the request carries it.
///
/// # Errors
/// 401 with a challenge.
pub(super) fn require(token: &Secret, headers: &HeaderMap) -> Result<(), Failure> {
    if token.is_empty() {
        return Ok(());
    }
    match bearer(headers) {
        Some(given) if token.matches(given) => Ok(()),
        Some(_) => Err(challenge("this is not the bearer token for it", r#"Bearer error="invalid_token""#)),
        None => Err(challenge("this needs a bearer token: send `Authorization: Bearer TOKEN`", "Bearer")),
    }
}

fn challenge(reason: &str, scheme: &'static str) -> Failure {
    Failure::new(StatusCode::UNAUTHORIZED, reason).with(header::WWW_AUTHENTICATE, scheme)
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
}
