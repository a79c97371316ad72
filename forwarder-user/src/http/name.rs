//! Names of streams: the first segment of every path.

use axum::http::StatusCode;

use super::reply::Failure;
use crate::config::stream_name_problem;

/// A name that is fit for a URL, a log line and a map.
///
/// # Errors
/// 400 with the rule that is broken.
pub(super) fn check(name: &str) -> Result<(), Failure> {
    stream_name_problem(name).map_or(Ok(()), |reason| Err(Failure::new(StatusCode::BAD_REQUEST, reason)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules() {
        for good in ["a", "cam-1", "A.b_c", "-", &"x".repeat(64)] {
            check(good).unwrap();
        }
        for bad in ["", ".hidden", "..", "a/b", "a b", "ä", "a%", &"x".repeat(65), "api", "metrics", "healthz"] {
            assert!(check(bad).is_err(), "{bad:?}");
        }
    }
}
