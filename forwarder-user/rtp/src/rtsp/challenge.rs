//! Challenges (`WWW-Authenticate`) and what answers them (`Authorization`), read as the field sends them: commas that
//! are missing, names that are not quoted, bytes of any encoding (RFC 7235 §2.1, RFC 7616 §3.3, RFC 7617 §2).

/// A scheme and its parameters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Challenge {
    /// In small letters.
    pub scheme: String,
    parameters: Vec<(String, Vec<u8>)>,
}

/// Parameters of Digest. What stands before `=` elsewhere may be a part of a name.
const NAMES: [&str; 13] = [
    "realm",
    "nonce",
    "opaque",
    "algorithm",
    "qop",
    "stale",
    "domain",
    "uri",
    "response",
    "username",
    "cnonce",
    "nc",
    "charset",
];
const SCHEMES: [&str; 4] = ["digest", "basic", "bearer", "negotiate"];
/// Most challenges, and most parameters of one.
const MAX: usize = 16;

impl Challenge {
    /// The challenges of one field.
    pub fn parse(field: &[u8]) -> Vec<Self> {
        let (mut found, mut rest) = (Vec::<Self>::new(), field);
        while found.len() <= MAX {
            let from = rest.iter().position(|byte| !is_gap(*byte)).unwrap_or(rest.len());
            let (word, behind) = word(&rest[from..]);
            if word.is_empty() {
                // A sign that begins no word.
                let Some((_, behind)) = rest.get(from..).and_then(<[u8]>::split_first) else { break };
                rest = behind;
                continue;
            }
            let value = behind.trim_ascii_start().strip_prefix(b"=");
            match (value, found.last_mut()) {
                (Some(value), Some(challenge)) if !is_scheme(&word) => {
                    let (value, behind) = self::value(value.trim_ascii_start());
                    if challenge.parameters.len() < MAX {
                        challenge.parameters.push((word, value));
                    }
                    rest = behind;
                }
                (None, _) => {
                    // The first word of all is a scheme, whichever; later ones only those that are known.
                    if found.is_empty() || is_scheme(&word) {
                        found.push(Self { scheme: word, parameters: vec![] });
                    }
                    rest = behind;
                }
                (Some(_), _) => rest = &behind[1.min(behind.len())..],
            }
        }
        found
    }

    /// A parameter; its first value counts.
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        self.parameters.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_slice())
    }

    /// A parameter whose bytes are text.
    pub fn text(&self, name: &str) -> &str {
        self.get(name).and_then(|value| std::str::from_utf8(value).ok()).unwrap_or_default()
    }

    /// `stale`: the nonce is too old, the password was right.
    pub fn is_stale(&self) -> bool {
        self.text("stale").eq_ignore_ascii_case("true")
    }
}

fn is_gap(byte: u8) -> bool {
    byte.is_ascii_whitespace() || matches!(byte, b',' | b';')
}

fn is_scheme(word: &str) -> bool {
    SCHEMES.contains(&word)
}

/// A word in small letters, and what stands behind it.
fn word(bytes: &[u8]) -> (String, &[u8]) {
    let end = bytes.iter().position(|byte| !byte.is_ascii_alphanumeric() && !matches!(byte, b'-' | b'_'));
    let (word, rest) = bytes.split_at(end.unwrap_or(bytes.len()));
    (String::from_utf8_lossy(word).to_ascii_lowercase(), rest)
}

/// A value, quoted or not, and what stands behind it.
fn value(bytes: &[u8]) -> (Vec<u8>, &[u8]) {
    match bytes.strip_prefix(b"\"") {
        Some(quoted) => quoted_value(quoted),
        None => plain_value(bytes),
    }
}

fn quoted_value(bytes: &[u8]) -> (Vec<u8>, &[u8]) {
    let mut value = vec![];
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'"' => {
                // The quote that should end it is missing, if this one begins the next value.
                if let Some(len) = next_parameter(&value) {
                    let behind = at - (value.len() - len);
                    value.truncate(len);
                    return (value, &bytes[behind..]);
                }
                return (value, &bytes[at + 1..]);
            }
            b'\\' if bytes.get(at + 1).is_some_and(|next| matches!(next, b'"' | b'\\')) => {
                value.push(bytes[at + 1]);
                at += 1;
            }
            byte => value.push(*byte),
        }
        at += 1;
    }
    (value, &[])
}

/// Where `, name=` begins that ends a text.
fn next_parameter(text: &[u8]) -> Option<usize> {
    let text = text.strip_suffix(b"=")?;
    let comma = text.iter().rposition(|byte| *byte == b',')?;
    let name = std::str::from_utf8(text[comma + 1..].trim_ascii()).ok()?;
    NAMES.iter().any(|known| known.eq_ignore_ascii_case(name)).then_some(comma)
}

/// Up to a comma, or up to a blank before the next parameter or scheme.
fn plain_value(bytes: &[u8]) -> (Vec<u8>, &[u8]) {
    let comma = bytes.iter().position(|byte| *byte == b',').unwrap_or(bytes.len());
    let text = &bytes[..comma];
    let begins = |at: &usize| {
        let (word, behind) = word(&text[at + 1..]);
        is_scheme(&word) || (NAMES.contains(&word.as_str()) && behind.trim_ascii_start().starts_with(b"="))
    };
    let end = (0..text.len()).filter(|at| text[*at].is_ascii_whitespace()).find(begins).unwrap_or(comma);
    (text[..end].trim_ascii().to_vec(), &bytes[end..])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(field: &str, parameters: &[(&str, &str)]) {
        let found = Challenge::parse(field.as_bytes());
        let challenge = found.last().unwrap_or_else(|| panic!("{field}"));
        for (name, value) in parameters {
            assert_eq!(challenge.text(name), *value, "{name} of {field}: {challenge:?}");
        }
    }

    #[test]
    fn challenges_as_the_field_has_them() {
        for field in [
            r#"Digest realm="IP Camera", nonce="abc", algorithm=MD5, stale="FALSE""#,
            r#"Digest realm="IP Camera" nonce="abc" algorithm=MD5"#,
            "Digest\trealm=IP Camera,\tnonce=abc , algorithm=\"MD5\"",
            "Digest realm=IP Camera nonce=abc algorithm=MD5",
            r#"digest Realm = "IP Camera",,Nonce="abc";ALGORITHM=MD5,"#,
            r#"Digest realm="IP Camera, nonce="abc", algorithm=MD5"#,
            r#"Digest realm="IP Camera", nonce="abc", algorithm=MD5, !, domain"#,
        ] {
            one(field, &[("realm", "IP Camera"), ("nonce", "abc"), ("algorithm", "MD5")]);
        }
        one(
            r#"Digest realm="a \"b\" \c", qop="auth,auth-int", stale=TRUE"#,
            &[("realm", "a \"b\" \\c"), ("qop", "auth,auth-int")],
        );
        assert!(Challenge::parse(b"Digest nonce=\"x\", stale=TRUE")[0].is_stale());
    }

    #[test]
    fn several_in_one_field() {
        let found = Challenge::parse(br#"Basic realm="a", Digest realm="b c", nonce="n", Basic"#);
        let schemes: Vec<&str> = found.iter().map(|challenge| challenge.scheme.as_str()).collect();
        assert_eq!(schemes, ["basic", "digest", "basic"]);
        assert_eq!(found[1].text("realm"), "b c");
        assert_eq!(Challenge::parse(b"Basic")[0].get("realm"), None);
        assert_eq!(Challenge::parse(b"Basic realm=my cam Digest realm=x nonce=y")[1].text("nonce"), "y");
        assert_eq!(Challenge::parse(b"NewScheme a=b")[0].scheme, "newscheme");
    }

    #[test]
    fn bytes_of_any_encoding() {
        let found = Challenge::parse(b"Digest realm=\"\xc9\xe3\xcf\xf1\xcd\xb7\", nonce=\"n\"");
        assert_eq!(found[0].get("realm"), Some(&b"\xc9\xe3\xcf\xf1\xcd\xb7"[..]));
        assert_eq!(found[0].text("nonce"), "n");
    }

    #[test]
    fn nonsense_ends() {
        for field in ["", "=", ",,,", "\"\"\"\"", "Digest =", "Digest =\"", "a=b=c=d", "Digest realm=\"", "\u{e9}"] {
            assert!(Challenge::parse(field.as_bytes()).len() < 3, "{field}");
        }
        let long = format!("Digest {}", "realm=\"x\" basic ".repeat(5000));
        assert!(Challenge::parse(long.as_bytes()).len() <= MAX + 1);
        let blanks = format!("Digest realm={}", "x ".repeat(30_000));
        assert_eq!(Challenge::parse(blanks.as_bytes()).len(), 1);
    }
}
