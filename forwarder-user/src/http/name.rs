//! Names of streams in paths: `/NAME`, `/NAME/publish`, `/NAME/whip`, `/NAME/whip/SESSION`, where NAME may have slashes.

use axum::{
    extract::Request,
    http::{StatusCode, Uri, uri::PathAndQuery},
};

use super::reply::Failure;
use crate::config::{MAX_NAME_PARTS, stream_name_problem};

/// A name that is fit for a URL, a log line and a map.
///
/// # Errors
/// 400 with the rule that is broken.
pub(super) fn check(name: &str) -> Result<(), Failure> {
    stream_name_problem(name).map_or(Ok(()), |reason| Err(Failure::new(StatusCode::BAD_REQUEST, reason)))
}

/// Makes one segment of a name with slashes and takes a slash at the end away, so that routes find it: before they are
/// looked for.
pub(super) async fn fold(mut request: Request) -> Request {
    if let Some(path) = folded(request.uri().path()) {
        let query = request.uri().query().map(|query| format!("?{query}")).unwrap_or_default();
        let mut parts = request.uri().clone().into_parts();
        parts.path_and_query = PathAndQuery::try_from(format!("{path}{query}")).ok();
        if let Ok(uri) = Uri::from_parts(parts) {
            *request.uri_mut() = uri;
        }
    }
    request
}

/// A path with its name in one segment; `None` if it is as it should be.
fn folded(path: &str) -> Option<String> {
    let segments: Vec<&str> = path.strip_prefix('/')?.split('/').collect();
    // As MediaMTX has its pages.
    let (segments, slash) = match segments.split_last() {
        Some((&"", rest)) if !rest.is_empty() => (rest, true),
        _ => (&segments[..], false),
    };
    if matches!(segments, ["debug" | "healthz" | "metrics" | "favicon.ico" | "robots.txt", ..]) {
        return None;
    }
    if let Some(at) = segments.iter().position(|segment| matches!(*segment, "api" | "assets")) {
        return below_a_name(&segments[..at], &segments[at..]);
    }
    let is_role = |at: usize| matches!(segments.get(at), Some(&("whip" | "whep")));
    let name = match segments.len() {
        len if len >= 3 && is_role(len - 2) => len - 2,
        len if len >= 2 && (is_role(len - 1) || segments[len - 1] == "publish") => len - 1,
        len => len,
    };
    if (name < 2 && !slash) || name > MAX_NAME_PARTS {
        return None;
    }
    let (name, behind) = segments.split_at(name);
    let behind: String = behind.iter().map(|segment| format!("/{segment}")).collect();
    Some(format!("/{}{behind}", name.join("%2F")))
}

/// Pages ask for scripts and the API relative to themselves, so these may stand below any part of a name.
fn below_a_name(name: &[&str], ours: &[&str]) -> Option<String> {
    let path = match ours {
        ["api", "v1", "streams", asked @ .., "notes"] if asked.len() > 1 => {
            format!("/api/v1/streams/{}/notes", asked.join("%2F"))
        }
        _ if name.is_empty() => return None,
        ours => format!("/{}", ours.join("/")),
    };
    (name.len() <= MAX_NAME_PARTS).then_some(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules() {
        for good in ["a", "cam-1", "A.b_c", "-", &"x".repeat(64), "site/door", "a/b/c/d", "whip", "whip/1"] {
            check(good).unwrap();
        }
        let parts = ["/a", "a/", "a//b", "a/.b", "a/../b", "a/b/c/d/e", "a/whip", "a/whep/b", "a/publish", "a/api"];
        for bad in ["", ".hidden", "..", "a b", "ä", "a%", &"x".repeat(65), "api", "metrics", "healthz", "metrics/a"] {
            assert!(check(bad).is_err(), "{bad:?}");
        }
        assert!(parts.iter().all(|bad| check(bad).is_err()));
    }

    #[test]
    fn names_with_slashes_become_one_segment() {
        for (path, expected) in [
            ("/site/door", "/site%2Fdoor"),
            ("/site/door/", "/site%2Fdoor"),
            ("/cam/", "/cam"),
            ("/a/b/c/publish", "/a%2Fb%2Fc/publish"),
            ("/site/door/whep", "/site%2Fdoor/whep"),
            ("/site/door/whip/abc", "/site%2Fdoor/whip/abc"),
            ("/site/assets/play.js", "/assets/play.js"),
            ("/site/door/assets/play.js", "/assets/play.js"),
            ("/site/api/v1/streams/site/door/notes", "/api/v1/streams/site%2Fdoor/notes"),
            ("/site/api/v1/streams/site%2Fdoor/notes", "/api/v1/streams/site%2Fdoor/notes"),
            ("/api/v1/streams/site/door/notes", "/api/v1/streams/site%2Fdoor/notes"),
        ] {
            assert_eq!(folded(path).as_deref(), Some(expected), "{path}");
        }
        for path in [
            "/",
            "/cam",
            "/cam/whep",
            "/cam/whep/abc",
            "/cam/publish",
            "/whip/whip/whip",
            "/site%2Fdoor/whep",
            "/assets/play.js",
            "/api/v1/state",
            "/api/v1/streams/cam/notes",
            "/a/b/c/d/e",
            "/metrics",
            "*",
            "/debug/pprof/heap",
        ] {
            assert_eq!(folded(path), None, "{path}");
        }
    }
}
