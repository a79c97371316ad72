//! Layers of one picture that a publisher can send side by side (simulcast, RFC 8853), of which we take one.
//!
//! Without a word of it in the answer, Chromium sends the layer that its page has named first, which on many pages is
//! the smallest. Which one is the largest no standard says. The names do where pages use the common ones; elsewhere
//! the first stays, as the one that the offerer prefers (RFC 8853 §5.2).

use super::offer::Section;

/// Names that people give to the largest layer, the surest first: LiveKit's and the examples' `q`, `h`, `f`, then
/// words. `h` is the larger one of two.
const LARGEST: [&str; 6] = ["f", "full", "high", "hi", "hd", "h"];

/// Header extension that names a packet's layer (RFC 8852 §4.1).
pub(super) const EXTENSION: &str = "urn:ietf:params:rtp-hdrext:sdes:rtp-stream-id";

/// Layers of a section that are read at most; browsers send three.
pub(super) const MAX_LAYERS: usize = 8;

/// What an offer says of its layers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Layers {
    /// Their names (`a=rid`), in the order of the offer.
    pub names: Vec<String>,
    /// Number of the header extension that tells them apart.
    pub extension: Option<u8>,
}

impl Layers {
    /// From the value of `a=simulcast`.
    pub(super) fn read(simulcast: &str, extension: Option<u8>) -> Self {
        let is_name = |name: &&str| {
            (1..=32).contains(&name.len())
                && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
        };
        let mut words = simulcast.split_ascii_whitespace();
        let list = words.find(|word| *word == "send").and_then(|_| words.next()).unwrap_or_default();
        // Of alternatives the first; `~` marks one that is paused for now.
        let names =
            list.split(';').filter_map(|layer| layer.split(',').next()).map(|name| name.trim_start_matches('~'));
        let names = names.filter(is_name).take(MAX_LAYERS).map(str::to_owned).collect();
        Self { names, extension }
    }
}

/// The number of the header extension that names layers, from the value of an `a=extmap`.
pub(super) fn extension(value: &str) -> Option<u8> {
    let (number, uri) = value.split_once(' ')?;
    let number = number.split('/').next()?.parse().ok()?;
    (uri.trim() == EXTENSION && (1..=14).contains(&number)).then_some(number)
}

/// The layer that is taken of a section, and the number of the extension that names it. `None`: it has no layers to
/// choose from.
pub fn layer(section: &Section) -> Option<(&str, u8)> {
    let Layers { names, extension } = &section.layers;
    let first = names.first().filter(|_| names.len() > 1)?;
    let known = LARGEST.iter().find_map(|largest| names.iter().find(|name| name.eq_ignore_ascii_case(largest)));
    Some((known.unwrap_or(first), (*extension)?))
}
