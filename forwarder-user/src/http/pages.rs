//! The web pages and the player, embedded. Plain HTML and JavaScript without dependencies.
//!
//! Every address in them is relative, so that a proxy may serve them under any path: a page is told how many segments
//! it lies below the root, and scripts know where they came from.

use std::{
    collections::HashMap,
    io::Write,
    sync::{Arc, LazyLock},
};

use axum::{
    Router,
    extract::{OriginalUri, Path, rejection::PathRejection},
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use flate2::{Compression, write::GzEncoder};

use super::{App, name, reply::Failure};

/// Scripts and styles come from us alone; media is the peer connection's. Any page may embed ours: nothing in it acts
/// for a person who is logged in.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; \
                      connect-src 'self'; media-src 'self' blob: mediastream:; base-uri 'none'; form-action 'none'";
/// What a page writes for the way to the root.
const ROOT: &str = "{root}";

const HTML: &str = "text/html; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";

macro_rules! assets {
    ($($file:literal: $kind:expr;)+) => {
        /// All of them.
        #[cfg(test)]
        pub(super) const FILES: &[&str] = &[$($file),+];

        /// Text of an embedded file and its media type.
        fn asset(file: &str) -> Option<(&'static str, &'static str)> {
            match file {
                $($file => Some((include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/assets/", $file)), $kind)),)+
                _ => None,
            }
        }

        /// The files that are the same for everybody, as gzip.
        static PACKED: LazyLock<HashMap<&'static str, Vec<u8>>> = LazyLock::new(|| {
            let files = [$(($file, asset($file))),+];
            files.into_iter().filter_map(|(name, asset)| Some((name, packed(asset?.0)?))).collect()
        });
    };
}

assets! {
    "index.html": HTML;
    "play.html": HTML;
    "publish.html": HTML;
    "penstock.css": "text/css; charset=utf-8";
    "capture.js": SCRIPT;
    "index.js": SCRIPT;
    "play.js": SCRIPT;
    "playback.js": SCRIPT;
    "player.js": SCRIPT;
    "publish.js": SCRIPT;
    "session.js": SCRIPT;
    "stats.js": SCRIPT;
    "table.js": SCRIPT;
    "ui.js": SCRIPT;
    "player.d.ts": "text/plain; charset=utf-8";
    "icon.svg": "image/svg+xml";
}

pub(super) fn routes() -> Router<Arc<App>> {
    let watch = |stream, uri| page(stream, uri, "play.html");
    let publish = |stream, uri| page(stream, uri, "publish.html");
    Router::new()
        .route("/", get(|OriginalUri(uri): OriginalUri| async move { html("index.html", uri.path()) }))
        .route("/{stream}", get(watch))
        .route("/{stream}/publish", get(publish))
        .route("/player.js", get(|headers: HeaderMap| async move { file("player.js", &headers) }))
        .route("/player.d.ts", get(|headers: HeaderMap| async move { file("player.d.ts", &headers) }))
        .route(
            "/assets/{file}",
            get(|Path(name): Path<String>, headers: HeaderMap| async move { file(&name, &headers) }),
        )
        .route("/favicon.ico", get(|headers: HeaderMap| async move { file("icon.svg", &headers) }))
}

async fn page(
    stream: Result<Path<String>, PathRejection>,
    OriginalUri(uri): OriginalUri,
    file: &str,
) -> Result<Response, Failure> {
    let Path(stream) = stream.map_err(|error| Failure::new(StatusCode::BAD_REQUEST, error.body_text()))?;
    name::check(&stream)?;
    html(file, uri.path())
}

/// A page that is asked for at `path`.
pub(super) fn html(name: &str, path: &str) -> Result<Response, Failure> {
    let Some((text, kind)) = asset(name) else { return Err(no_such_file()) };
    let text = text.replace(ROOT, &to_root(path));
    let mut headers = common(kind);
    // For a page whose origin is none of ours (an iframe in a sandbox), what it loads is of a stranger.
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    headers.insert(
        HeaderName::from_static("permissions-policy"),
        HeaderValue::from_static("camera=(self), microphone=(self), display-capture=(self)"),
    );
    Ok((headers, text).into_response())
}

/// The way from a page at `path` to the root, as a relative reference.
fn to_root(path: &str) -> String {
    match path.matches('/').count() {
        0 | 1 => "./".into(),
        depth => "../".repeat(depth - 1),
    }
}

/// A file that is the same for everybody. Pages of other origins may load it: the player is for them.
fn file(name: &str, asked: &HeaderMap) -> Result<Response, Failure> {
    let Some((text, kind)) = asset(name).filter(|(_, kind)| *kind != HTML) else { return Err(no_such_file()) };
    let mut headers = common(kind);
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    headers.insert(HeaderName::from_static("cross-origin-resource-policy"), HeaderValue::from_static("cross-origin"));
    headers.insert(header::VARY, HeaderValue::from_static("accept-encoding"));
    match PACKED.get(name).filter(|_| takes_gzip(asked)) {
        Some(packed) => {
            headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
            Ok((headers, packed.as_slice()).into_response())
        }
        None => Ok((headers, text).into_response()),
    }
}

fn common(kind: &'static str) -> HeaderMap {
    let headers = [
        (header::CONTENT_TYPE, kind),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        // Small files; a page and its scripts must be of one version.
        (header::CACHE_CONTROL, "no-cache"),
    ];
    headers.into_iter().map(|(name, value)| (name, HeaderValue::from_static(value))).collect()
}

/// Whether `Accept-Encoding` has gzip (RFC 9110 §12.5.3); a weight of zero is a no.
fn takes_gzip(headers: &HeaderMap) -> bool {
    let values = headers.get_all(header::ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|coding| {
        let (name, weight) = coding.split_once(';').unwrap_or((coding, ""));
        let weight = weight.trim().strip_prefix("q=").map_or(Ok(1.0), str::parse::<f32>);
        name.trim().eq_ignore_ascii_case("gzip") && weight.is_ok_and(|weight| weight > 0.0)
    })
}

fn packed(text: &str) -> Option<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(text.as_bytes()).ok()?;
    encoder.finish().ok()
}

fn no_such_file() -> Failure {
    Failure::new(StatusCode::NOT_FOUND, "no such file")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_depth_finds_the_root() {
        let cases = [("/", "./"), ("/a", "./"), ("/a/", "../"), ("/a/b", "../"), ("/a/b/", "../../")];
        for (path, root) in cases {
            assert_eq!(to_root(path), root, "{path}");
        }
    }

    #[test]
    fn gzip_is_for_those_who_ask() {
        for (asked, packed) in
            [("gzip", true), ("br, GZIP;q=0.5", true), ("gzip;q=0", false), ("br", false), ("", false)]
        {
            let headers = HeaderMap::from_iter([(header::ACCEPT_ENCODING, HeaderValue::from_static(asked))]);
            assert_eq!(takes_gzip(&headers), packed, "{asked:?}");
        }
    }
}
