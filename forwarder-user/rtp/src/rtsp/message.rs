//! A request or an answer. Whoever reads one asks for the fields that he needs by name; a line that is none costs
//! itself only.

use std::borrow::Cow;

/// Most header lines that are kept; what is beyond is skipped.
const MAX_FIELDS: usize = 128;
/// Longest line that is kept. Fields that are needed have some hundred bytes.
const MAX_LINE: usize = 8 << 10;

/// What a message begins with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Start {
    /// A request.
    Request {
        /// As it came: methods are case-sensitive (§6.1), but not with all who send them.
        method: String,
        /// A URL, a path or `*`.
        uri: String,
    },
    /// An answer.
    Answer {
        /// Three digits (§7.1.1).
        status: u16,
        /// May be empty.
        reason: String,
    },
}

/// A request or an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Its first line.
    pub start: Start,
    fields: Vec<(String, Vec<u8>)>,
    /// What `Content-Length` covers.
    pub body: Vec<u8>,
    /// Lines that were none of a header, or one too many.
    pub skipped: u32,
}

impl Message {
    /// A request to be sent.
    pub fn request(method: &str, uri: &str) -> Self {
        Self::new(Start::Request { method: method.into(), uri: uri.into() })
    }

    /// An answer to be sent.
    pub fn answer(status: u16, reason: &str) -> Self {
        Self::new(Start::Answer { status, reason: reason.into() })
    }

    fn new(start: Start) -> Self {
        Self { start, fields: vec![], body: vec![], skipped: 0 }
    }

    /// With one more field.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<Vec<u8>>) -> Self {
        self.push(name, value);
        self
    }

    /// Adds a field.
    pub fn push(&mut self, name: &str, value: impl Into<Vec<u8>>) {
        self.fields.push((name.to_owned(), value.into()));
    }

    /// Reads a head, with or without the empty line at its end. `None`: its first line is neither of a request nor of
    /// an answer.
    pub fn parse_head(head: &[u8]) -> Option<Self> {
        let mut lines = lines(head).skip_while(|line| line.trim_ascii().is_empty());
        let mut message = Self::new(start(lines.next()?)?);
        for line in lines.filter(|line| !line.is_empty()) {
            if line.len() > MAX_LINE || message.fields.len() >= MAX_FIELDS || !message.take(line) {
                message.skipped += 1;
            }
        }
        Some(message)
    }

    /// `false`: the line is none of a header.
    fn take(&mut self, line: &[u8]) -> bool {
        let field = split(line);
        let indented = line[0] == b' ' || line[0] == b'\t';
        // A blank in front makes a line the rest of the one before (RFC 2616 §4.2), but for those who indent all.
        if indented && !field.is_some_and(|(name, _)| is_known(name)) {
            let Some((_, value)) = self.fields.last_mut().filter(|(_, value)| value.len() < MAX_LINE) else {
                return false;
            };
            value.push(b' ');
            value.extend_from_slice(line.trim_ascii());
            return true;
        }
        let Some((name, value)) = field else { return false };
        self.fields.push((name.to_owned(), value.to_vec()));
        true
    }

    /// Every value of a field as it came, in order.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        self.fields.iter().filter(move |(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_slice())
    }

    /// The first value of a field that is not empty; an empty text if there is none.
    pub fn text(&self, name: &str) -> Cow<'_, str> {
        self.get(name).unwrap_or_default()
    }

    /// The first value of a field that is not empty.
    pub fn get(&self, name: &str) -> Option<Cow<'_, str>> {
        let value = self.fields.iter().find(|(key, value)| key.eq_ignore_ascii_case(name) && !value.is_empty());
        value.map(|(_, value)| String::from_utf8_lossy(value))
    }

    /// `CSeq` (§12.17).
    pub fn cseq(&self) -> Option<u64> {
        super::number(&self.text("CSeq"))
    }

    /// The bytes to send.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = match &self.start {
            Start::Request { method, uri } => format!("{} {} RTSP/1.0\r\n", line_of(method), line_of(uri)),
            Start::Answer { status, reason } => format!("RTSP/1.0 {status} {}\r\n", line_of(reason)),
        }
        .into_bytes();
        for (name, value) in &self.fields {
            bytes.extend_from_slice(name.as_bytes());
            bytes.extend_from_slice(b": ");
            // What was copied from the other end must not become lines of ours.
            bytes.extend(value.iter().filter(|byte| !matches!(byte, b'\r' | b'\n' | 0)));
            bytes.extend_from_slice(b"\r\n");
        }
        if !self.body.is_empty() || matches!(self.start, Start::Answer { .. }) {
            bytes.extend_from_slice(format!("Content-Length: {}\r\n", self.body.len()).as_bytes());
        }
        bytes.extend_from_slice(b"\r\n");
        bytes.extend_from_slice(&self.body);
        bytes
    }
}

/// Without what would end a line.
fn line_of(text: &str) -> String {
    text.chars().filter(|letter| !letter.is_control()).collect()
}

/// Lines of a head, whatever their ends.
pub(super) fn lines(head: &[u8]) -> impl Iterator<Item = &[u8]> {
    head.split(|byte| *byte == b'\n').map(|line| {
        let end = line.iter().rposition(|byte| *byte != b'\r').map_or(0, |last| last + 1);
        &line[..end]
    })
}

/// Name and value of a header line. `None`: it is none.
pub(super) fn split(line: &[u8]) -> Option<(&str, &[u8])> {
    let colon = line.iter().position(|byte| *byte == b':')?;
    let (name, value) = line.split_at(colon);
    let name = std::str::from_utf8(name).ok()?.trim();
    let is_token = |byte: u8| byte.is_ascii_graphic() && !b"()<>@,;\\\"/[]?={}".contains(&byte);
    (!name.is_empty() && name.bytes().all(is_token)).then(|| (name, value[1..].trim_ascii()))
}

/// Fields that somebody here asks for.
fn is_known(name: &str) -> bool {
    const NAMES: [&str; 13] = [
        "CSeq",
        "Session",
        "Transport",
        "Content-Length",
        "Content-Type",
        "Content-Base",
        "Content-Location",
        "WWW-Authenticate",
        "Authorization",
        "Public",
        "Location",
        "RTP-Info",
        "KeyMgmt",
    ];
    NAMES.iter().any(|known| known.eq_ignore_ascii_case(name))
}

fn start(line: &[u8]) -> Option<Start> {
    let line = String::from_utf8_lossy(&line[..line.len().min(MAX_LINE)]);
    let line = line.trim();
    let (first, rest) = line.split_once(|letter: char| letter.is_ascii_whitespace())?;
    let is_version = |word: &str| word.get(..4).is_some_and(|word| word.eq_ignore_ascii_case("RTSP"));
    if is_version(first) {
        // Whatever the version says: nobody speaks another.
        let rest = rest.trim_start();
        let status = super::number(rest).and_then(|status| u16::try_from(status).ok());
        let status = status.filter(|status| (100..1000).contains(status))?;
        let reason = rest.trim_start_matches(|letter: char| letter.is_ascii_digit()).trim();
        return Some(Start::Answer { status, reason: reason.into() });
    }
    let rest = rest.trim();
    // A URL may have blanks that nobody has escaped.
    let uri = match rest.rsplit_once(|letter: char| letter.is_ascii_whitespace()) {
        Some((uri, version)) if is_version(version) => uri.trim_end(),
        _ => rest,
    };
    (!uri.is_empty()).then(|| Start::Request { method: first.into(), uri: uri.into() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(head: &str) -> Message {
        Message::parse_head(head.as_bytes()).unwrap_or_else(|| panic!("{head:?}"))
    }

    #[test]
    fn first_lines_as_the_field_has_them() {
        for (line, status, reason) in [
            ("RTSP/1.0 200 OK", 200, "OK"),
            ("RTSP/1.0 200", 200, ""),
            ("RTSP/2.0 404 Not Found", 404, "Not Found"),
            ("RTSP/1.1\t401  Unauthorized ", 401, "Unauthorized"),
            ("rtsp/1.0 200 OK", 200, "OK"),
            ("RTSP 454 Session", 454, "Session"),
            ("  RTSP/1.0 200 OK", 200, "OK"),
        ] {
            let expected = Start::Answer { status, reason: reason.into() };
            assert_eq!(answer(line).start, expected, "{line}");
        }
        for (line, method, uri) in [
            ("OPTIONS * RTSP/1.0", "OPTIONS", "*"),
            ("ANNOUNCE rtsp://h/a b RTSP/1.0", "ANNOUNCE", "rtsp://h/a b"),
            ("PLAY  rtsp://h/x", "PLAY", "rtsp://h/x"),
        ] {
            assert_eq!(answer(line).start, Start::Request { method: method.into(), uri: uri.into() }, "{line}");
        }
        for line in ["", "RTSP/1.0", "RTSP/1.0 OK", "RTSP/1.0 20", "OPTIONS", "RTSP/1.0 99999999999999999999 x"] {
            assert_eq!(Message::parse_head(line.as_bytes()), None, "{line}");
        }
    }

    /// OvenMediaEngine PR 1936 (LF), ireader/media-server#341 (a line without a name), gortsplib#437 (a blank behind
    /// CSeq), homebridge-foscam#6 (no CSeq).
    #[test]
    fn fields_as_the_field_has_them() {
        let message = answer(
            "RTSP/1.0 200 OK\nCseq: 3 \nThu, Jun 13 2024\n\u{e9}: x\nsession : 12; timeout=60\r\r\nServer:\n\
             \x20Session: 13\nX: a\n\tb\n no colon\nno colon\n\r\n",
        );
        assert_eq!(message.cseq(), Some(3));
        assert_eq!(message.text("Session"), "12; timeout=60");
        assert_eq!(message.all("session").count(), 2, "an indented line is a line");
        assert_eq!(message.text("X"), "a b no colon", "and what is no field continues the one before");
        assert_eq!((message.get("Server"), message.get("Public")), (None, None));
        assert_eq!(message.skipped, 3);
        assert_eq!(answer("RTSP/1.0 200 OK\r\n\r\n").cseq(), None);
    }

    #[test]
    fn bytes_beyond_utf_8_are_kept_as_they_came() {
        let message = Message::parse_head(b"RTSP/1.0 401 \xff\r\nWWW-Authenticate: Basic realm=\"\xe9\"\r\n").unwrap();
        assert_eq!(message.all("www-authenticate").next(), Some(&b"Basic realm=\"\xe9\""[..]));
        assert!(message.text("WWW-Authenticate").contains('\u{fffd}'));
    }

    #[test]
    fn long_and_many_lines_cost_themselves() {
        let many = format!("RTSP/1.0 200 OK\r\nX: {}\r\n{}CSeq: 9\r\n", "x".repeat(9000), "A: b\r\n".repeat(100));
        let message = answer(&many);
        assert_eq!((message.cseq(), message.skipped), (Some(9), 1));
        let more = format!("RTSP/1.0 200 OK\r\n{}", "A: b\r\n".repeat(1000));
        assert_eq!(answer(&more).skipped as usize, 1000 - MAX_FIELDS);
        let folded = format!("RTSP/1.0 200 OK\r\nA: b\r\n{}", " cccccccc\r\n".repeat(5000));
        assert!(answer(&folded).text("A").len() <= MAX_LINE + 9);
    }

    #[test]
    fn what_is_written_is_read_again_and_has_no_lines_of_others() {
        let mut sent =
            Message::request("SETUP", "rtsp://h/x\r\nEvil: 1").with("CSeq", "7").with("Session", "a\r\nB: c");
        sent.body = b"abc".to_vec();
        let bytes = sent.to_bytes();
        let head = bytes.strip_suffix(b"abc").unwrap();
        let read = Message::parse_head(head).unwrap();
        assert_eq!(read.text("Session"), "aB: c");
        assert_eq!((read.get("Evil"), read.get("B")), (None, None));
        assert_eq!(read.text("Content-Length"), "3");
        assert!(Message::answer(200, "OK").to_bytes().ends_with(b"Content-Length: 0\r\n\r\n"));
    }
}
