//! Names of streams, as rights name them.

use regex::{Regex, RegexBuilder};
use serde::{Deserialize, Serialize};

/// Most memory for a compiled expression.
const COMPILED_BYTES: usize = 1 << 18;

/// Which streams a right is for: `` or `*` is all, `lobby` one, `cams/*` all that begin so (`*` stands for any
/// characters, `/` too), `~^cam[0-9]+$` those that a regular expression finds. Matching costs time linear in the name.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct Pattern {
    text: String,
    kind: Kind,
}

#[derive(Clone, Debug)]
enum Kind {
    All,
    One,
    Found(Box<Regex>),
}

impl Pattern {
    /// Reads one.
    ///
    /// # Errors
    /// No regular expression, or one that would take too much memory.
    pub fn new(text: &str) -> Result<Self, String> {
        let compile = |expression: &str| {
            let built = RegexBuilder::new(expression).size_limit(COMPILED_BYTES).build();
            built.map(|regex| Kind::Found(Box::new(regex))).map_err(|error| format!("{text:?}: {error}"))
        };
        let kind = match text {
            "" | "*" => Kind::All,
            _ => match text.strip_prefix('~') {
                Some(expression) => compile(expression)?,
                None if text.contains('*') => {
                    let parts: Vec<String> = text.split('*').map(regex::escape).collect();
                    compile(&format!("^{}$", parts.join(".*")))?
                }
                None => Kind::One,
            },
        };
        Ok(Self { text: text.to_owned(), kind })
    }

    /// Does it name this stream?
    pub fn matches(&self, stream: &str) -> bool {
        match &self.kind {
            Kind::All => true,
            Kind::One => self.text == stream,
            Kind::Found(regex) => regex.is_match(stream),
        }
    }
}

impl Default for Pattern {
    fn default() -> Self {
        Self { text: String::new(), kind: Kind::All }
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl TryFrom<String> for Pattern {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        Self::new(&text)
    }
}

impl From<Pattern> for String {
    fn from(pattern: Pattern) -> Self {
        pattern.text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_matched_whole_unless_an_expression_says_otherwise() {
        for (pattern, good, bad) in [
            ("", &["a", "b/c"][..], &[][..]),
            ("*", &["a", "b/c"], &[]),
            ("lobby", &["lobby"], &["lobby2", "Lobby", ""]),
            ("cams/*", &["cams/1", "cams/a/b"], &["cams", "xcams/1"]),
            ("a.*", &["a.b"], &["ab"]),
            ("*-door", &["front-door"], &["front-door2"]),
            ("~^cam[0-9]+$", &["cam1", "cam22"], &["cam", "xcam1"]),
            ("~cam", &["webcam7"], &["c"]),
        ] {
            let pattern = Pattern::new(pattern).unwrap();
            assert!(good.iter().all(|name| pattern.matches(name)), "{pattern:?}");
            assert!(!bad.iter().any(|name| pattern.matches(name)), "{pattern:?}");
        }
        assert!(Pattern::new("~(").is_err());
        assert!(Pattern::new("~(\\w{1000}){1000}").is_err(), "too large");
    }
}
