//! RTSP URLs (RFC 2326 §3.2) as people and cameras write them. Text that has a meaning for the camera only, path and
//! query, stays as it is.

use std::fmt;

/// Longest URL.
const MAX_LEN: usize = 2048;

/// An `rtsp` or `rtsps` URL without user and password.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Url {
    text: String,
    secure: bool,
    /// Without the brackets of IPv6.
    host: String,
    port: Option<u16>,
    /// Where the path begins in `text`.
    path: usize,
}

/// User and password of a URL, decoded.
#[derive(PartialEq, Eq)]
pub struct Credentials {
    /// May be empty.
    pub user: String,
    /// May be empty.
    pub password: String,
}

/// Without the password.
impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("redacted")
    }
}

/// Why a text is no URL. Its words have nothing of the text but the scheme.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    /// There is no `://`, or something else than a name before it.
    #[error("has no scheme: it must begin with rtsp:// or rtsps://")]
    NoScheme,
    /// Another scheme.
    #[error("has the scheme {0:?}: it must be rtsp or rtsps")]
    Scheme(String),
    /// There is none.
    #[error("names no host")]
    NoHost,
    /// Or its port.
    #[error(
        "has a host or port that is none; in a user or password, write @ as %40, : as %3A, / as %2F, ? as %3F, # as %23 \
         and % as %25"
    )]
    Host,
    /// Beyond 2 KiB.
    #[error("is too long")]
    Long,
}

impl Url {
    /// Reads a URL. The last `@` before the path ends the user's part; where what follows it is no host, a later one
    /// does, so that a password may have `@`, `:`, `/`, `?` and `#` as they are.
    ///
    /// # Errors
    /// [`UrlError`].
    pub fn parse(text: &str) -> Result<(Self, Option<Credentials>), UrlError> {
        let text = text.trim();
        if text.len() > MAX_LEN {
            return Err(UrlError::Long);
        }
        let (scheme, rest) = text.split_once("://").ok_or(UrlError::NoScheme)?;
        if scheme.is_empty() || !scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte)) {
            return Err(UrlError::NoScheme);
        }
        let secure = match scheme.to_ascii_lowercase().as_str() {
            "rtsp" => false,
            "rtsps" => true,
            other => return Err(UrlError::Scheme(other.chars().take(16).collect())),
        };
        let (user, host, port, path) = split(rest)?;
        let scheme = if secure { "rtsps" } else { "rtsp" };
        let shown = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
        let mut text = format!("{scheme}://{shown}");
        if let Some(port) = port {
            text += &format!(":{port}");
        }
        let begin = text.len();
        escape(path, &mut text);
        let credentials = user.map(|user| {
            let (user, password) = user.split_once(':').unwrap_or((user, ""));
            Credentials { user: decode(user), password: decode(password) }
        });
        Ok((Self { text, secure, host: host.to_owned(), port, path: begin }, credentials))
    }

    /// The URL, as it is sent.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// `rtsps`.
    pub fn is_secure(&self) -> bool {
        self.secure
    }

    /// Name or address, without brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port, or that of the scheme.
    pub fn port(&self) -> u16 {
        self.port.unwrap_or(if self.secure { 322 } else { 554 })
    }

    /// Without query; empty, or with a slash in front.
    pub fn path(&self) -> &str {
        self.text[self.path..].split('?').next().unwrap_or_default()
    }

    /// Behind the question mark.
    pub fn query(&self) -> Option<&str> {
        Some(self.text[self.path..].split_once('?')?.1)
    }

    /// What an `a=control` means (RFC 2326 §C.1.1): itself if it is absolute; else it is appended as it stands, since
    /// cameras have query strings in it and in the base, which the rules for relative URLs would cut off. `None`: it
    /// is absolute and no URL.
    pub fn control(&self, control: &str) -> Option<Self> {
        let control = control.trim();
        if matches!(control, "" | "*") {
            return Some(self.clone());
        }
        if is_absolute(control) {
            // Credentials go by the header only, whatever the server copies into its description.
            return Some(Self::parse(control).ok()?.0);
        }
        if control.starts_with('?') {
            // A query takes the place of the base's own.
            let before = self.text.split('?').next().unwrap_or_default();
            return Some(Self::parse(&format!("{before}{control}")).ok()?.0);
        }
        let slash = if self.text.ends_with('/') || control.starts_with('/') { "" } else { "/" };
        Some(Self::parse(&format!("{}{slash}{control}", self.text)).ok()?.0)
    }

    /// What a `Location`, `Content-Base` or `Content-Location` means (RFC 3986 §5.2, without the dots): its user and
    /// password as well. `None`: it is no URL.
    pub fn resolve(&self, reference: &str) -> Option<(Self, Option<Credentials>)> {
        let reference = reference.trim().trim_matches(['"', '<', '>', ',']);
        let before_path = &self.text[..self.path];
        let text = match reference {
            "" => return None,
            absolute if is_absolute(absolute) => absolute.to_owned(),
            other if other.contains("://") => return None,
            host if host.starts_with("//") => format!("{}:{host}", if self.secure { "rtsps" } else { "rtsp" }),
            path if path.starts_with('/') => format!("{before_path}{path}"),
            query if query.starts_with('?') => format!("{before_path}{}{query}", self.path()),
            relative => {
                let folder = self.path().rsplit_once('/').map_or("", |(folder, _)| folder);
                format!("{before_path}{folder}/{relative}")
            }
        };
        Self::parse(&text).ok()
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Whether a reference has a scheme of ours.
fn is_absolute(text: &str) -> bool {
    let begins = |scheme: &str| text.get(..scheme.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(scheme));
    begins("rtsp://") || begins("rtsps://")
}

/// User's part, host, port, and what follows.
type Parts<'a> = (Option<&'a str>, &'a str, Option<u16>, &'a str);

fn split(rest: &str) -> Result<Parts<'_>, UrlError> {
    let end = |text: &str| text.find(['/', '?', '#']).unwrap_or(text.len());
    let begin = rest[..end(rest)].rfind('@').map_or(0, |at| at + 1);
    // The usual one, and then each later one.
    let later = rest.match_indices('@').map(|(at, _)| at + 1).filter(|at| *at > begin);
    for begin in std::iter::once(begin).chain(later) {
        let behind = &rest[begin..];
        let (place, path) = behind.split_at(end(behind));
        if let Some((host, port)) = host_and_port(place) {
            let user = begin.checked_sub(1).map(|at| &rest[..at]);
            return Ok((user, host, port, path));
        }
    }
    let place = &rest[begin..begin + end(&rest[begin..])];
    Err(if place.is_empty() { UrlError::NoHost } else { UrlError::Host })
}

fn host_and_port(place: &str) -> Option<(&str, Option<u16>)> {
    let (host, port) = match place.strip_prefix('[') {
        Some(literal) => {
            let (host, behind) = literal.split_once(']')?;
            // A zone (RFC 6874) is the system's affair.
            host.split('%').next()?.parse::<std::net::Ipv6Addr>().ok()?;
            (host, if behind.is_empty() { "" } else { behind.strip_prefix(':')? })
        }
        None => place.split_once(':').unwrap_or((place, "")),
    };
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || !byte.is_ascii() || b"-._~".contains(&byte);
    if host.is_empty() || !(place.starts_with('[') || host.bytes().all(is_name)) {
        return None;
    }
    let port = if port.is_empty() { None } else { Some(port.parse().ok().filter(|port| *port != 0)?) };
    Some((host, port))
}

/// A path and query as they go into a request: no blanks, no control characters, no bytes beyond ASCII, no fragment.
fn escape(path: &str, text: &mut String) {
    for byte in path.split('#').next().unwrap_or_default().bytes() {
        if byte.is_ascii_graphic() {
            text.push(char::from(byte));
        } else {
            *text += &format!("%{byte:02X}");
        }
    }
}

/// `%41` → `A`; a percent sign without two digits is one.
pub fn decode(text: &str) -> String {
    let (mut bytes, mut rest) = (Vec::with_capacity(text.len()), text.as_bytes());
    while let [first, behind @ ..] = rest {
        let digit = |at: usize| behind.get(at).and_then(|byte| char::from(*byte).to_digit(16));
        match (first, digit(0), digit(1)) {
            (b'%', Some(high), Some(low)) => {
                bytes.push((high << 4 | low) as u8);
                rest = &behind[2..];
            }
            _ => {
                bytes.push(*first);
                rest = behind;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Url {
        Url::parse(text).unwrap_or_else(|error| panic!("{text}: {error}")).0
    }

    #[test]
    fn passwords_as_people_have_them() {
        for (text, user, password, rest) in [
            ("rtsp://me:p@ss:w/rd@host/", "me", "p@ss:w/rd", "rtsp://host/"),
            ("rtsp://me:a@b@10.0.0.1:554/x", "me", "a@b", "rtsp://10.0.0.1:554/x"),
            ("rtsp://me:wo/rd@host/x", "me", "wo/rd", "rtsp://host/x"),
            ("rtsp://me:wo?rd#1@host:8554", "me", "wo?rd#1", "rtsp://host:8554"),
            ("rtsp://me:p%40s%3a%2f@host/x", "me", "p@s:/", "rtsp://host/x"),
            ("rtsp://me:100%@host/x", "me", "100%", "rtsp://host/x"),
            ("rtsp://me@host/x", "me", "", "rtsp://host/x"),
            ("rtsp://:word@host/x", "", "word", "rtsp://host/x"),
            ("rtsp://me:w@host/live@2", "me", "w", "rtsp://host/live@2"),
            ("rtsp://me:w@[2001:db8::1]/a?b=c@d", "me", "w", "rtsp://[2001:db8::1]/a?b=c@d"),
            ("rtsp://admin:a:b:c@1.2.3.4", "admin", "a:b:c", "rtsp://1.2.3.4"),
        ] {
            let (url, credentials) = Url::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
            let credentials = credentials.unwrap();
            assert_eq!((credentials.user.as_str(), credentials.password.as_str()), (user, password), "{text}");
            assert_eq!(url.as_str(), rest, "{text}");
        }
    }

    #[test]
    fn addresses_in_every_form() {
        for (text, host, port, path, query) in [
            ("rtsp://h", "h", 554, "", None),
            ("RTSPS://h?x=1", "h", 322, "", Some("x=1")),
            ("rtsp://h:8554/", "h", 8554, "/", None),
            ("rtsp://h:/a b", "h", 554, "/a%20b", None),
            (" rtsp://[::1]:554/a#b ", "::1", 554, "/a", None),
            ("rtsp://[fe80::1%eth0]/a", "fe80::1%eth0", 554, "/a", None),
            ("rtsp://host/live@2?a=/b@c", "host", 554, "/live@2", Some("a=/b@c")),
            ("rtsp://a_b.c-d/\u{e9}", "a_b.c-d", 554, "/%C3%A9", None),
        ] {
            let (url, credentials) = Url::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
            assert!(credentials.is_none(), "{text}");
            assert_eq!((url.host(), url.port(), url.path(), url.query()), (host, port, path, query), "{text}");
        }
    }

    #[test]
    fn what_is_no_url_is_named_without_the_password() {
        for (text, words) in [
            ("me:s3cret@host", "no scheme"),
            ("http://me:s3cret@host/", "\"http\""),
            ("rtsp://me:s3cret@host:99999/", "%40"),
            ("rtsp://me:s3cret@/", "no host"),
            ("rtsp://", "no host"),
            ("rtsp://[::1", "host or port"),
            ("rtsp://h\u{20}x/", "host or port"),
            ("me:s3cret@rtsp://x", "no scheme"),
        ] {
            let error = Url::parse(text).unwrap_err().to_string();
            assert!(error.contains(words) && !error.contains("s3cret"), "{text}: {error}");
        }
        assert_eq!(Url::parse(&format!("rtsp://h/{}", "@".repeat(5000))), Err(UrlError::Long));
    }

    #[test]
    fn controls_are_absolute_or_appended() {
        for (base, control, expected) in [
            ("rtsp://h/path?x=1", "trackID=1", "rtsp://h/path?x=1/trackID=1"),
            ("rtsp://h/path/", "trackID=1", "rtsp://h/path/trackID=1"),
            ("rtsp://h/path", "/trackID=1", "rtsp://h/path/trackID=1"),
            ("rtsp://h/path", "rtsp://u:p@other:1/x", "rtsp://other:1/x"),
            ("rtsp://h/path", "?ctype=video", "rtsp://h/path?ctype=video"),
            ("rtsp://h/path?a=1", "?ctype=video", "rtsp://h/path?ctype=video"),
            ("rtsp://h", "?ctype=video", "rtsp://h?ctype=video"),
            ("rtsp://h", "track1", "rtsp://h/track1"),
            ("rtsp://h/path", " * ", "rtsp://h/path"),
        ] {
            assert_eq!(url(base).control(control).unwrap().as_str(), expected, "{base} {control}");
        }
        assert!(url("rtsp://h/").control("rtsp://[").is_none());
    }

    #[test]
    fn references_of_answers() {
        for (reference, expected) in [
            ("rtsp://other/x", Some("rtsp://other/x")),
            ("\"rtsp://other/x/\"", Some("rtsp://other/x/")),
            ("/y/", Some("rtsp://h:8554/y/")),
            ("y", Some("rtsp://h:8554/a/y")),
            ("?z=1", Some("rtsp://h:8554/a/b?z=1")),
            ("//other/x", Some("rtsp://other/x")),
            ("http://other/x", None),
            ("", None),
        ] {
            let found = url("rtsp://h:8554/a/b?c").resolve(reference).map(|(url, _)| url.to_string());
            assert_eq!(found.as_deref(), expected, "{reference}");
        }
        assert!(url("rtsp://h").resolve("rtsp://me:w@other/").is_some_and(|(_, credentials)| credentials.is_some()));
    }
}
