//! Cross-origin use by browsers, and OPTIONS (RFC 9725 §4.2).

use std::time::Duration;

use axum::{
    extract::Request,
    http::{HeaderValue, Method, header},
    middleware::Next,
    response::Response,
};
use tower_http::cors::{AllowOrigin, CorsLayer};

use super::signalling::{ALLOWED, ALLOWED_OF_SESSION};

use super::body::{ACCEPT_PATCH, ACCEPT_POST, FRAGMENT_TYPE, NOTE, SDP_TYPE};

/// Answers preflight requests and marks answers as readable by pages of the allowed origins.
pub(super) fn layer(origins: &[String]) -> CorsLayer {
    let origin = if origins.iter().any(|origin| origin == "*") {
        AllowOrigin::any()
    } else {
        AllowOrigin::list(origins.iter().filter_map(|origin| HeaderValue::from_str(origin).ok()))
    };
    CorsLayer::new()
        .allow_origin(origin)
        .allow_methods([Method::GET, Method::HEAD, Method::POST, Method::PATCH, Method::DELETE, Method::OPTIONS])
        .allow_headers([header::AUTHORIZATION, header::CONTENT_TYPE, header::IF_MATCH])
        .expose_headers([
            header::LOCATION,
            header::ETAG,
            header::LINK,
            header::RETRY_AFTER,
            ACCEPT_PATCH,
            ACCEPT_POST,
            NOTE,
        ])
        .max_age(Duration::from_secs(86_400))
}

/// Adds to the answer of an OPTIONS request what the resource takes.
pub(super) async fn describe_options(request: Request, next: Next) -> Response {
    let options = request.method() == Method::OPTIONS;
    let path = request.uri().path().to_owned();
    let mut response = next.run(request).await;
    if options && response.status().is_success() {
        let mut segments = path.trim_matches('/').split('/').skip(1);
        let (allow, accept) = match (segments.next(), segments.next()) {
            _ if path.starts_with("/api/") => ("GET, HEAD, OPTIONS", None),
            (_, Some(_session)) => (ALLOWED_OF_SESSION, Some((ACCEPT_PATCH, FRAGMENT_TYPE))),
            _ => (ALLOWED, Some((ACCEPT_POST, SDP_TYPE))),
        };
        let headers = response.headers_mut();
        headers.insert(header::ALLOW, HeaderValue::from_static(allow));
        headers.extend(accept.map(|(name, value)| (name, HeaderValue::from_static(value))));
    }
    response
}
