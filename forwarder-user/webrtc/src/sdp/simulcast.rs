//! Layers of one picture that a publisher can send side by side (simulcast, RFC 8853). All are taken.
//!
//! Without a word of it in the answer, Chromium sends the layer that its page has named first, which on many pages is
//! the smallest. Which one is the largest no standard says: their keyframes do (`layers`), and until those are seen the
//! names where they are the common ones; else the first, as the one that the offerer prefers (RFC 8853 §5.2).

use super::offer::Section;

/// Names that people give to the largest layer, the surest first: LiveKit's and the examples' `q`, `h`, `f`, then
/// words. `h` is the larger one of two.
const LARGEST: [&str; 6] = ["f", "full", "high", "hi", "hd", "h"];

/// Layers of a section that are taken at most; browsers send three.
pub(super) const MAX_LAYERS: usize = 8;

/// What an offer says of its layers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Layers {
    /// Their names (`a=rid`), in the order of the offer, each once.
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
        let offered =
            list.split(';').filter_map(|layer| layer.split(',').next()).map(|name| name.trim_start_matches('~'));
        let mut names: Vec<String> = vec![];
        for name in offered.filter(is_name) {
            if names.len() < MAX_LAYERS && !names.iter().any(|known| known == name) {
                names.push(name.to_owned());
            }
        }
        Self { names, extension }
    }
}

/// The layers that are taken of a section, the likeliest first, and the number of the extension that names them.
/// `None`: it has no layers to choose from, or they could not be told apart.
pub fn layers(section: &Section) -> Option<(Vec<&str>, u8)> {
    let Layers { names, extension } = &section.layers;
    let extension = extension.filter(|_| names.len() > 1)?;
    let rank = |name: &&str| LARGEST.iter().position(|largest| name.eq_ignore_ascii_case(largest));
    let mut names: Vec<&str> = names.iter().map(String::as_str).collect();
    names.sort_by_key(|name| rank(name).unwrap_or(LARGEST.len()));
    Some((names, extension))
}
