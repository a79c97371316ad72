//! What a stream may be called.

/// First path segments that are ours, or that clients ask for by themselves.
const RESERVED: [&str; 9] =
    ["api", "assets", "debug", "favicon.ico", "healthz", "metrics", "player.d.ts", "player.js", "robots.txt"];

/// Parts that stand behind a name in URLs, and so in none of a name's parts but the first.
const ACTIONS: [&str; 5] = ["whip", "whep", "publish", "api", "assets"];

/// Longest name, in characters.
const MAX_LEN: usize = forwarder_common::maps::NAME_LEN;

/// Most parts, between slashes.
pub const MAX_NAME_PARTS: usize = 4;

/// Why a name is not fit for a URL, a log line and a map: the rule that is broken.
pub fn stream_name_problem(name: &str) -> Option<String> {
    if name.is_empty() || name.len() > MAX_LEN {
        let len = name.chars().count();
        return Some(format!("a stream name has 1 to {MAX_LEN} characters, this one has {len}"));
    }
    let is_letter = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    let fits = |part: &str| !part.is_empty() && !part.starts_with('.') && part.bytes().all(is_letter);
    let mut parts = name.split('/');
    if parts.clone().count() > MAX_NAME_PARTS || !parts.clone().all(fits) {
        return Some(format!(
            "a stream name consists of A-Z a-z 0-9 . _ - and does not start with a dot; slashes may part it, into \
             {MAX_NAME_PARTS} such names at most"
        ));
    }
    let first = parts.next().filter(|first| RESERVED.contains(first));
    let reserved = first.or_else(|| parts.find(|part| ACTIONS.contains(part)));
    reserved.map(|part| format!("{part:?} is reserved, choose another stream name"))
}
