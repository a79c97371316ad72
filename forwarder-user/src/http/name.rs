//! Names of streams: the first segment of every path.

use axum::http::StatusCode;

use super::reply::Failure;

/// First path segments that are ours, or that clients ask for by themselves.
const RESERVED: [&str; 7] = ["api", "assets", "debug", "favicon.ico", "healthz", "metrics", "robots.txt"];

/// Longest name, in characters.
const MAX_LEN: usize = forwarder_common::maps::NAME_LEN;

/// A name that is fit for a URL, a log line and a map.
///
/// # Errors
/// 400 with the rule that is broken.
pub fn check(name: &str) -> Result<(), Failure> {
    let refuse = |reason: String| Err(Failure::new(StatusCode::BAD_REQUEST, reason));
    if name.is_empty() || name.len() > MAX_LEN {
        return refuse(format!("a stream name has 1 to {MAX_LEN} characters, this one has {}", name.chars().count()));
    }
    if name.starts_with('.') || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b)) {
        return refuse("a stream name consists of A-Z a-z 0-9 . _ - and does not start with a dot".into());
    }
    if RESERVED.contains(&name) {
        return refuse(format!("{name:?} is reserved, choose another stream name"));
    }
    Ok(())
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
