//! A connection's bytes, cut into messages and the RTP between them (RFC 2326 §10.12) without copying what is whole
//! in the caller's buffer.
//!
//! Bytes that are neither are skipped to the next that look like the beginning of one: some cameras count their
//! frames wrong, and what follows is well (gortsplib PR 653). The allowance for that is bounded, and grows with what
//! was good.

use super::message::{self, Message, Start};

/// Longest head of a message.
pub const MAX_HEAD: usize = 32 << 10;
/// Longest body; descriptions have one or two kilobytes.
pub const MAX_BODY: usize = 64 << 10;
/// Messages that one read may bring; clients wait for their answers.
const MAX_MESSAGES: usize = 64;
/// Bytes that may be skipped before anything was good, and the most that may be at once.
const FIRST_ALLOWANCE: usize = 4 << 10;
const ALLOWANCE: usize = 64 << 10;
/// One byte in so many may be skipped after that.
const GOOD_FOR_ONE: usize = 8;
/// Longest method that is waited for.
const MAX_METHOD: usize = 24;

/// What stands in the stream.
#[derive(Debug)]
pub enum Incoming<'a> {
    /// A frame of an interleaved channel; it may be empty.
    Frame(u8, &'a [u8]),
    /// A request or an answer.
    Message(Message),
}

/// Why nothing more can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// More than one byte in eight is neither a frame nor a message.
    #[error("too many bytes that are neither a frame nor a message")]
    Stray,
    /// Its end did not come within [`MAX_HEAD`].
    #[error("a message's head beyond 32 KiB")]
    LongHead,
    /// `Content-Length` is above [`MAX_BODY`].
    #[error("a message's body beyond 64 KiB")]
    LongBody,
    /// A flood.
    #[error("too many messages at once")]
    Flood,
    /// The port is that of another server.
    #[error("the other end speaks HTTP: the port is not that of RTSP")]
    Http,
}

/// What is known of a connection's bytes. A message is looked at for its end once, and read once, however many pieces
/// it comes in: whoever sends it has not said who he is.
#[derive(Debug)]
pub struct Reader {
    /// Bytes in which the head does not end.
    searched: usize,
    /// Where the line begins that is being searched for.
    line: usize,
    /// The head that has come: its length, and that of its body. `None`: the body ends where something else begins.
    head: Option<(usize, Option<usize>)>,
    /// What was there was stray.
    lost: bool,
    /// Bytes that may still be skipped.
    allowance: usize,
    /// Good ones that do not make up one of them yet.
    good: usize,
    /// Bytes that were skipped, since this was asked last.
    skipped: u64,
    /// Lowest channel that is none, or 256.
    channels: usize,
    #[cfg(test)]
    looked_at: usize,
}

impl Default for Reader {
    fn default() -> Self {
        Self {
            searched: 0,
            line: 0,
            head: None,
            lost: false,
            allowance: FIRST_ALLOWANCE,
            good: 0,
            skipped: 0,
            channels: 256,
            #[cfg(test)]
            looked_at: 0,
        }
    }
}

/// What bytes begin with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Looks {
    Frame,
    Message,
    Stray,
    /// More bytes must come.
    Open,
}

impl Reader {
    /// Channels from this one on are used by nobody: a frame of one, behind stray bytes, is stray as well.
    pub fn set_channels(&mut self, channels: usize) {
        self.channels = channels;
    }

    /// Bytes that were skipped since this was asked last.
    pub fn take_skipped(&mut self) -> u64 {
        std::mem::take(&mut self.skipped)
    }

    /// Whether a head has come whose body has not.
    pub fn waits_for_body(&self) -> bool {
        self.head.is_some()
    }

    /// Hands out what is complete; the number of bytes used. What is not used must come again, with more behind it.
    ///
    /// # Errors
    /// [`ReadError`]: the connection is of no use any more.
    pub fn read(&mut self, bytes: &[u8], take: &mut dyn FnMut(Incoming<'_>)) -> Result<usize, ReadError> {
        let (mut used, mut messages) = (0, 0);
        loop {
            let rest = &bytes[used..];
            let looks = if self.head.is_some() { Looks::Message } else { self.look(rest) };
            match looks {
                Looks::Open => return Ok(used),
                Looks::Frame => {
                    let Some((channel, frame)) = whole_frame(rest) else { return Ok(used) };
                    take(Incoming::Frame(channel, frame));
                    self.earn(4 + frame.len());
                    used += 4 + frame.len();
                }
                Looks::Message => {
                    let Some(len) = self.message(rest, take)? else { return Ok(used) };
                    used += len;
                    messages += 1;
                    if messages > MAX_MESSAGES {
                        return Err(ReadError::Flood);
                    }
                }
                Looks::Stray => used += self.skip(rest)?,
            }
        }
    }

    /// Nothing more will come for a while, or ever: a message whose body is shorter than it says, or that does not
    /// say, is handed out with what there is. The number of bytes used.
    pub fn end(&mut self, bytes: &[u8], take: &mut dyn FnMut(Incoming<'_>)) -> usize {
        let Some((head, _)) = self.head.take() else { return 0 };
        (self.searched, self.line) = (0, 0);
        let (Some(text), Some(body)) = (bytes.get(..head), bytes.get(head..)) else { return 0 };
        if let Some(mut message) = Message::parse_head(text) {
            message.body = body.to_vec();
            take(Incoming::Message(message));
        }
        bytes.len()
    }

    fn earn(&mut self, bytes: usize) {
        self.lost = false;
        self.good += bytes;
        if self.allowance < ALLOWANCE {
            self.allowance = (self.allowance + self.good / GOOD_FOR_ONE).min(ALLOWANCE);
        }
        self.good %= GOOD_FOR_ONE;
    }

    /// Stray bytes, to the next that look like something. At least one.
    fn skip(&mut self, bytes: &[u8]) -> Result<usize, ReadError> {
        let stray = match bytes {
            // Some servers put a line end too many behind a message, which is nothing to speak of.
            [b'\r' | b'\n' | b' ' | b'\t', ..] if !self.lost => return Ok(1),
            _ => {
                self.lost = true;
                let next = (1..bytes.len()).find(|at| self.look(&bytes[*at..]) != Looks::Stray);
                next.unwrap_or(bytes.len())
            }
        };
        self.skipped += stray as u64;
        self.allowance = self.allowance.checked_sub(stray).ok_or(ReadError::Stray)?;
        Ok(stray)
    }

    /// Looks at a bounded number of bytes.
    fn look(&self, bytes: &[u8]) -> Looks {
        match bytes {
            [] => Looks::Open,
            [b'$', ..] if !self.lost => Looks::Frame,
            [b'$', ..] => self.look_at_frame(bytes),
            [b'A'..=b'Z' | b'a'..=b'z', ..] => look_at_message(bytes),
            _ => Looks::Stray,
        }
    }

    /// Behind stray bytes, a dollar sign may be one of them: the channel must be one in use, and its content RTP or
    /// RTCP of version 2.
    fn look_at_frame(&self, bytes: &[u8]) -> Looks {
        match *bytes {
            [_, channel, ..] if usize::from(channel) >= self.channels => Looks::Stray,
            [_, _, high, low, ..] if u16::from_be_bytes([high, low]) < 8 => Looks::Stray,
            [_, _, _, _, version, ..] if version >> 6 != 2 => Looks::Stray,
            [_, _, _, _, _, ..] => Looks::Frame,
            _ => Looks::Open,
        }
    }

    /// The message at the beginning, if all of it has come; its length.
    fn message(&mut self, bytes: &[u8], take: &mut dyn FnMut(Incoming<'_>)) -> Result<Option<usize>, ReadError> {
        let (head, body) = match self.head {
            Some(known) => known,
            None => {
                let Some(end) = self.head_end(bytes)? else { return Ok(None) };
                if is_http(&bytes[..end]) {
                    return Err(ReadError::Http);
                }
                let known = (end, body_len(&bytes[..end])?);
                self.head = Some(known);
                known
            }
        };
        let Some(body) = body.or_else(|| self.open_body(bytes).map(|end| end - head)) else {
            return if bytes.len() - head > MAX_BODY { Err(ReadError::LongBody) } else { Ok(None) };
        };
        let Some(content) = bytes.get(head..head + body) else { return Ok(None) };
        #[cfg(test)]
        {
            self.looked_at += head + body;
        }
        (self.head, self.searched, self.line) = (None, 0, 0);
        if let Some(mut message) = Message::parse_head(&bytes[..head]) {
            message.body = content.to_vec();
            take(Incoming::Message(message));
            self.earn(head + body);
        } else {
            self.skipped += (head + body) as u64;
            self.allowance = self.allowance.checked_sub(head + body).ok_or(ReadError::Stray)?;
        }
        Ok(Some(head + body))
    }

    /// Where a description without a length ends: where a line begins that is none of one.
    fn open_body(&mut self, bytes: &[u8]) -> Option<usize> {
        while let Some(at) = bytes[self.searched..].iter().position(|byte| *byte == b'\n') {
            let end = self.searched + at;
            let line = bytes[self.line..end].trim_ascii();
            if !line.is_empty() && line.get(1) != Some(&b'=') {
                return Some(self.line);
            }
            (self.searched, self.line) = (end + 1, end + 1);
        }
        self.searched = bytes.len();
        (bytes.get(self.line) == Some(&b'$')).then_some(self.line)
    }

    /// Where the head ends: behind an empty line, whatever ends lines.
    fn head_end(&mut self, bytes: &[u8]) -> Result<Option<usize>, ReadError> {
        let mut from = self.searched;
        while let Some(at) = bytes[from..].iter().position(|byte| *byte == b'\n') {
            let end = from + at;
            let empty = self.line > 0 && bytes[self.line..end].iter().all(|byte| *byte == b'\r');
            from = end + 1;
            self.line = from;
            if empty {
                self.searched = from;
                return Ok(Some(from));
            }
        }
        #[cfg(test)]
        {
            self.looked_at += bytes.len() - self.searched;
        }
        self.searched = bytes.len();
        if bytes.len() > MAX_HEAD { Err(ReadError::LongHead) } else { Ok(None) }
    }
}

/// Whether a head is of HTTP, an answer or a request.
fn is_http(head: &[u8]) -> bool {
    let line = message::lines(head).next().unwrap_or_default();
    let mut words = line.split(|byte| byte.is_ascii_whitespace()).filter(|word| !word.is_empty());
    let is_version = |word: &[u8]| word.get(..5).is_some_and(|begin| begin.eq_ignore_ascii_case(b"HTTP/"));
    words.clone().next().is_some_and(is_version) || words.next_back().is_some_and(is_version)
}

/// `None`: it has not come in full.
fn whole_frame(bytes: &[u8]) -> Option<(u8, &[u8])> {
    let [_, channel, len @ ..] = bytes.first_chunk::<4>()?;
    let len = usize::from(u16::from_be_bytes(*len));
    Some((*channel, bytes.get(4..4 + len)?))
}

/// An answer begins with its version, a request with a word, a blank and a URL, a path or `*`.
fn look_at_message(bytes: &[u8]) -> Looks {
    let is_part = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'/' | b'.');
    let word = &bytes[..bytes.len().min(MAX_METHOD)];
    let Some(end) = word.iter().position(|byte| !is_part(byte)) else {
        return if bytes.len() < MAX_METHOD { Looks::Open } else { Looks::Stray };
    };
    if !matches!(bytes[end], b' ' | b'\t') {
        return Looks::Stray;
    }
    let is_version = |word: &[u8]| ["RTSP", "HTTP"].iter().any(|name| word.eq_ignore_ascii_case(name.as_bytes()));
    let is_answer = word.get(..4).is_some_and(is_version);
    let behind = bytes[end..].iter().take(MAX_METHOD).find(|byte| !matches!(byte, b' ' | b'\t'));
    match behind {
        None if bytes.len() - end < MAX_METHOD => Looks::Open,
        Some(b'0'..=b'9') if is_answer => Looks::Message,
        Some(b'r' | b'R' | b'*' | b'/') if !is_answer && end >= 3 => Looks::Message,
        _ => Looks::Stray,
    }
}

/// `Content-Length` (RFC 2326 §12.14), the first that is a number. `None`: there is none, and a description follows.
fn body_len(head: &[u8]) -> Result<Option<usize>, ReadError> {
    let mut description = false;
    for (name, value) in message::lines(head).filter_map(message::split) {
        if name.eq_ignore_ascii_case("Content-Length") {
            let digits = value.iter().take_while(|byte| byte.is_ascii_digit()).count();
            let text = std::str::from_utf8(&value[..digits]).unwrap_or_default();
            match text.parse::<usize>() {
                Ok(len) if len <= MAX_BODY => return Ok(Some(len)),
                Err(_) if digits == 0 => {}
                _ => return Err(ReadError::LongBody),
            }
        }
        description |=
            name.eq_ignore_ascii_case("Content-Type") && value.to_ascii_lowercase().starts_with(b"application/sdp");
    }
    let is_ok = Message::parse_head(message::lines(head).next().unwrap_or_default());
    let is_ok = is_ok.is_some_and(|message| matches!(message.start, Start::Answer { status: 200, .. }));
    Ok(if description && is_ok { None } else { Some(0) })
}

#[cfg(test)]
mod tests;
