//! What a stream may be called.

/// First path segments that are ours, or that clients ask for by themselves.
const RESERVED: [&str; 9] =
    ["api", "assets", "debug", "favicon.ico", "healthz", "metrics", "player.d.ts", "player.js", "robots.txt"];

/// Longest name, in characters.
const MAX_LEN: usize = forwarder_common::maps::NAME_LEN;

/// Why a name is not fit for a URL, a log line and a map: the rule that is broken.
pub fn stream_name_problem(name: &str) -> Option<String> {
    if name.is_empty() || name.len() > MAX_LEN {
        let len = name.chars().count();
        return Some(format!("a stream name has 1 to {MAX_LEN} characters, this one has {len}"));
    }
    if name.starts_with('.') || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b)) {
        return Some("a stream name consists of A-Z a-z 0-9 . _ - and does not start with a dot".into());
    }
    RESERVED.contains(&name).then(|| format!("{name:?} is reserved, choose another stream name"))
}
