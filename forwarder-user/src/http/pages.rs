//! The web pages, embedded. Plain HTML and JavaScript without dependencies.

use std::sync::Arc;

use axum::{
    Router,
    extract::{Path, rejection::PathRejection},
    http::{HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};

use super::{App, name, reply::Failure};

/// Scripts and styles come from us alone; media is the peer connection's.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; \
                      connect-src 'self'; media-src 'self' blob: mediastream:; base-uri 'none'; form-action 'none'";

macro_rules! assets {
    ($($file:literal: $kind:literal;)+) => {
        /// Text of an embedded file and its media type.
        fn asset(file: &str) -> Option<(&'static str, &'static str)> {
            match file {
                $($file => Some((include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/assets/", $file)), $kind)),)+
                _ => None,
            }
        }
    };
}

assets! {
    "index.html": "text/html; charset=utf-8";
    "play.html": "text/html; charset=utf-8";
    "publish.html": "text/html; charset=utf-8";
    "penstock.css": "text/css; charset=utf-8";
    "session.js": "text/javascript; charset=utf-8";
    "stats.js": "text/javascript; charset=utf-8";
    "ui.js": "text/javascript; charset=utf-8";
    "index.js": "text/javascript; charset=utf-8";
    "play.js": "text/javascript; charset=utf-8";
    "publish.js": "text/javascript; charset=utf-8";
    "icon.svg": "image/svg+xml";
}

pub(super) fn routes() -> Router<Arc<App>> {
    Router::new()
        .route("/", get(|| async { file("index.html") }))
        .route("/{stream}", get(|stream| page(stream, "play.html")))
        .route("/{stream}/publish", get(|stream| page(stream, "publish.html")))
        .route("/{stream}/", get(|stream| without_slash(stream, "..", "")))
        .route("/{stream}/publish/", get(|stream| without_slash(stream, "../..", "/publish")))
        .route("/assets/{file}", get(|Path(name): Path<String>| async move { file(&name) }))
        .route("/favicon.ico", get(|| async { file("icon.svg") }))
}

/// The same without the slash at the end, from which the page's own relative addresses are right. Relative, so that it is
/// right behind a proxy that takes a part of the path away.
async fn without_slash(
    stream: Result<Path<String>, PathRejection>,
    up: &'static str,
    page: &'static str,
) -> Result<Response, Failure> {
    let Path(stream) = stream.map_err(|error| Failure::new(StatusCode::BAD_REQUEST, error.body_text()))?;
    name::check(&stream)?;
    Ok((StatusCode::PERMANENT_REDIRECT, [(header::LOCATION, format!("{up}/{stream}{page}"))]).into_response())
}

async fn page(stream: Result<Path<String>, PathRejection>, file_name: &str) -> Result<Response, Failure> {
    let Path(stream) = stream.map_err(|error| Failure::new(StatusCode::BAD_REQUEST, error.body_text()))?;
    name::check(&stream)?;
    file(file_name)
}

fn file(name: &str) -> Result<Response, Failure> {
    let Some((text, kind)) = asset(name) else {
        return Err(Failure::new(StatusCode::NOT_FOUND, "no such file"));
    };
    let headers = [
        (header::CONTENT_TYPE, kind),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        // Small files; a page and its scripts must be of one version.
        (header::CACHE_CONTROL, "no-cache"),
        (HeaderName::from_static("permissions-policy"), "camera=(self), microphone=(self), display-capture=(self)"),
    ];
    Ok((headers.map(|(name, value)| (name, HeaderValue::from_static(value))), text).into_response())
}
