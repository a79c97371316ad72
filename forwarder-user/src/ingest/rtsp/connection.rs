//! An RTSP connection: messages, and RTP between them (RFC 2326 §10.12), read without copying what is
//! whole in the reader's buffer.

use std::{
    future::poll_fn,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
    time::Duration,
};

use rtsp_types::{Message, Request, Response};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadBuf},
    net::TcpStream,
    time::timeout,
};
use tokio_openssl::SslStream;
use tokio_rustls::server::TlsStream;

use crate::ingest::{error::SourceError, place::Scratch};

/// Longest RTSP message; descriptions have one or two kilobytes.
const MAX_MESSAGE: usize = 64 << 10;
/// Longest part of it before the body.
const MAX_HEAD: usize = 16 << 10;
/// Messages that one read may bring; clients wait for their answers.
const MAX_MESSAGES: usize = 64;
/// Room for one read.
pub(crate) const READ_BUFFER: usize = 128 << 10;
/// A camera that does not take our few bytes for so long is gone.
const WRITE_PATIENCE: Duration = Duration::from_secs(5);

/// TCP or TLS.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Unpin {}

impl Stream for TcpStream {}
impl Stream for SslStream<TcpStream> {}
impl Stream for TlsStream<TcpStream> {}
#[cfg(test)]
impl Stream for tokio::io::DuplexStream {}

/// What stands in the stream.
#[derive(Debug)]
pub(crate) enum Incoming<'a> {
    /// A frame of an interleaved channel; it may be empty.
    Frame(u8, &'a [u8]),
    Message(Message<Vec<u8>>),
}

/// See the module.
pub(crate) struct Connection {
    stream: Box<dyn Stream>,
    scratch: Scratch,
    /// The begin of a frame or message that had not arrived in full.
    rest: Vec<u8>,
    /// What is known of that message.
    begun: Begun,
}

/// A message that is arriving. It is looked at for its end once, and read once, however many pieces it comes in:
/// whoever sends it has not said who he is.
#[derive(Debug, Default)]
struct Begun {
    /// Bytes in which the head does not end.
    searched: usize,
    /// Its length, once the head has come.
    len: Option<usize>,
}

impl Connection {
    pub(crate) fn new(stream: Box<dyn Stream>, scratch: Scratch) -> Self {
        Self { stream, scratch, rest: vec![], begun: Begun::default() }
    }

    /// Sends a request.
    ///
    /// # Errors
    /// [`SourceError::Io`], [`SourceError::Timeout`].
    pub(crate) async fn send(&mut self, request: &Request<Vec<u8>>) -> Result<(), SourceError> {
        let mut bytes = vec![];
        request.write(&mut bytes).map_err(|_| SourceError::Garbage("a header that cannot be written"))?;
        self.write(&bytes).await
    }

    /// Answers a request.
    ///
    /// # Errors
    /// As [`send`](Self::send).
    pub(crate) async fn answer(&mut self, answer: &Response<Vec<u8>>) -> Result<(), SourceError> {
        let mut bytes = vec![];
        answer.write(&mut bytes).map_err(|_| SourceError::Garbage("a header that cannot be written"))?;
        self.write(&bytes).await
    }

    /// Sends frames of interleaved channels.
    ///
    /// # Errors
    /// As [`send`](Self::send).
    pub(crate) async fn send_frames(&mut self, frames: &[u8]) -> Result<(), SourceError> {
        if frames.is_empty() { Ok(()) } else { self.write(frames).await }
    }

    async fn write(&mut self, bytes: &[u8]) -> Result<(), SourceError> {
        match timeout(WRITE_PATIENCE, self.stream.write_all(bytes)).await {
            Ok(written) => Ok(written?),
            Err(_) => Err(SourceError::Timeout("our message, which is not even taken")),
        }
    }

    /// Waits for bytes, once, and hands out what is complete.
    ///
    /// # Errors
    /// [`SourceError::Closed`], [`SourceError::Garbage`], [`SourceError::Io`].
    pub(crate) async fn receive(&mut self, take: &mut dyn FnMut(Incoming<'_>)) -> Result<(), SourceError> {
        poll_fn(|context| self.poll_receive(context, take)).await
    }

    /// As [`receive`](Self::receive).
    pub(crate) fn poll_receive(
        &mut self,
        context: &mut Context<'_>,
        take: &mut dyn FnMut(Incoming<'_>),
    ) -> Poll<Result<(), SourceError>> {
        let scratch = Rc::clone(&self.scratch);
        let mut scratch = scratch.borrow_mut();
        scratch.resize(READ_BUFFER, 0);
        let mut room = ReadBuf::new(&mut scratch);
        match Pin::new(&mut self.stream).poll_read(context, &mut room) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Err(error)) => return Poll::Ready(Err(error.into())),
            Poll::Ready(Ok(())) => {}
        }
        let read = room.filled();
        if read.is_empty() {
            return Poll::Ready(Err(SourceError::Closed));
        }
        Poll::Ready(self.take_in(read, take))
    }

    /// Hands out what is complete with these bytes, and keeps the rest.
    fn take_in(&mut self, read: &[u8], take: &mut dyn FnMut(Incoming<'_>)) -> Result<(), SourceError> {
        let waited = !self.rest.is_empty();
        if waited {
            self.rest.extend_from_slice(read);
        }
        let bytes = if waited { &self.rest[..] } else { read };
        let used = parse(bytes, &mut self.begun, take)?;
        if used > 0 || !waited {
            // Of exactly the size that is needed, which for most reads is none: hundreds of connections would
            // keep what each needed once.
            self.rest = bytes[used..].to_vec();
        }
        Ok(())
    }
}

/// Hands out what is complete; the number of bytes used.
fn parse(bytes: &[u8], begun: &mut Begun, take: &mut dyn FnMut(Incoming<'_>)) -> Result<usize, SourceError> {
    let (mut used, mut messages) = (0, 0);
    loop {
        let rest = &bytes[used..];
        match rest.first() {
            None => return Ok(used),
            Some(b'$') => {
                let Some([_, channel, len @ ..]) = rest.first_chunk::<4>() else { return Ok(used) };
                let len = usize::from(u16::from_be_bytes(*len));
                let Some(frame) = rest.get(4..4 + len) else { return Ok(used) };
                take(Incoming::Frame(*channel, frame));
                used += 4 + len;
            }
            // Some servers put a line end too many behind a message.
            Some(b'\r' | b'\n') => used += 1,
            Some(b'A'..=b'Z') => {
                let Some(message) = begun.len(rest)?.and_then(|len| rest.get(..len)) else { return Ok(used) };
                messages += 1;
                if messages > MAX_MESSAGES {
                    return Err(SourceError::Garbage("too many messages at once"));
                }
                *begun = Begun::default();
                take(Incoming::Message(read_message(message)?));
                used += message.len();
            }
            Some(_) => return Err(SourceError::Garbage("bytes that are neither a frame nor a message")),
        }
    }
}

fn read_message(message: &[u8]) -> Result<Message<Vec<u8>>, SourceError> {
    #[cfg(test)]
    tests::READ.with(|read| read.set(read.get() + message.len()));
    let read = Message::<Vec<u8>>::parse(message).ok().filter(|(_, len)| *len == message.len());
    read.map(|(message, _)| message).ok_or(SourceError::Garbage("a malformed message"))
}

impl Begun {
    /// The length of the message at the begin of `bytes`, which had been searched so far already.
    fn len(&mut self, bytes: &[u8]) -> Result<Option<usize>, SourceError> {
        const END: &[u8] = b"\r\n\r\n";
        if self.len.is_some() {
            return Ok(self.len);
        }
        let from = self.searched.saturating_sub(END.len() - 1);
        let unseen = bytes.get(from..).unwrap_or_default();
        #[cfg(test)]
        tests::READ.with(|read| read.set(read.get() + unseen.len()));
        let Some(end) = unseen.windows(END.len()).position(|window| window == END) else {
            self.searched = bytes.len();
            return if bytes.len() > MAX_HEAD {
                Err(SourceError::Garbage("a message's head beyond 16 KiB"))
            } else {
                Ok(None)
            };
        };
        let head = from + end + END.len();
        let len = head + body_len(&bytes[..head])?;
        if len > MAX_MESSAGE {
            return Err(SourceError::Garbage("a message beyond 64 KiB"));
        }
        self.len = Some(len);
        Ok(self.len)
    }
}

/// `Content-Length` (RFC 2326 §12.14).
fn body_len(head: &[u8]) -> Result<usize, SourceError> {
    const NAME: &[u8] = b"content-length";
    let field = head.split(|byte| *byte == b'\n').find_map(|line| {
        let colon = line.iter().position(|byte| *byte == b':')?;
        let (name, value) = line.split_at(colon);
        name.trim_ascii().eq_ignore_ascii_case(NAME).then_some(&value[1..])
    });
    let Some(value) = field else { return Ok(0) };
    let len = std::str::from_utf8(value.trim_ascii()).ok().and_then(|value| value.parse().ok());
    len.filter(|len| *len <= MAX_MESSAGE).ok_or(SourceError::Garbage("a Content-Length that is none"))
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    thread_local!(
        /// Bytes of messages that were looked at, once for each time.
        pub static READ: Cell<usize> = const { Cell::new(0) };
    );

    /// A connection without a stream, which is given bytes.
    fn fed<'a>(mut pieces: impl Iterator<Item = &'a [u8]>) -> (Result<usize, SourceError>, usize) {
        let (here, _there) = tokio::io::duplex(1);
        let mut connection = Connection::new(Box::new(here), Scratch::default());
        let mut messages = 0;
        let before = READ.with(Cell::get);
        let result = pieces.try_for_each(|piece| {
            connection.take_in(piece, &mut |incoming| messages += usize::from(matches!(incoming, Incoming::Message(_))))
        });
        (result.map(|()| messages), READ.with(Cell::get) - before)
    }

    /// What comes out does not depend on where the network cuts.
    #[test]
    fn the_same_comes_out_however_the_bytes_are_cut() {
        let message = b"OPTIONS * RTSP/1.0\r\nCSeq: 7\r\nContent-Length: 5\r\n\r\nhello\r\n";
        let stream = [&message[..], b"$\x01\x00\x03abc", message, b"$\x00\x00\x00", message].concat();
        let mut seed = 11u64;
        for _ in 0..500 {
            let (here, _there) = tokio::io::duplex(1);
            let mut connection = Connection::new(Box::new(here), Scratch::default());
            let (mut rest, mut taken) = (&stream[..], vec![]);
            while !rest.is_empty() {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let (piece, behind) = rest.split_at((1 + (seed >> 33) as usize % 40).min(rest.len()));
                let mut take = |incoming: Incoming<'_>| {
                    taken.push(match incoming {
                        Incoming::Frame(channel, frame) => format!("{channel}: {frame:?}"),
                        Incoming::Message(message) => format!("{message:?}"),
                    });
                };
                connection.take_in(piece, &mut take).unwrap();
                rest = behind;
            }
            assert_eq!(taken.len(), 5);
            assert!(taken[0] == taken[2] && taken[2] == taken[4] && taken[1] == "1: [97, 98, 99]", "{taken:?}");
        }
    }

    /// Once for its end, once for what it says: not once for each piece.
    #[test]
    fn a_message_is_read_once_however_many_pieces_it_comes_in() {
        let body = "x".repeat(60_000);
        let message = format!("ANNOUNCE rtsp://h/x RTSP/1.0\r\nCSeq: 1\r\nContent-Length: 60000\r\n\r\n{body}");
        for size in [1, 7, 1000, 60_000, 100_000] {
            let (messages, read) = fed(message.as_bytes().chunks(size));
            assert_eq!(messages.unwrap(), 1);
            assert!(read <= 5 * message.len(), "{read} bytes looked at in pieces of {size}");
        }
        let head = format!("OPTIONS * RTSP/1.0\r\n{}", "A: b\r\n".repeat(10_000));
        let (refused, read) = fed(head.as_bytes().chunks(1));
        assert!(matches!(refused, Err(SourceError::Garbage(_))) && read <= 5 * MAX_HEAD, "{read} bytes looked at");
        let flood = "OPTIONS * RTSP/1.0\r\n\r\n".repeat(1000);
        assert!(matches!(fed([flood.as_bytes()].into_iter()).0, Err(SourceError::Garbage(_))));
        let lie = b"OPTIONS * RTSP/1.0\r\nContent-Length: 99999999999999999999\r\n\r\n";
        assert!(matches!(fed([&lie[..]].into_iter()).0, Err(SourceError::Garbage(_))));
    }

    fn take(bytes: &[u8]) -> (Result<usize, SourceError>, Vec<String>) {
        let mut taken = vec![];
        let used = parse(bytes, &mut Begun::default(), &mut |incoming| {
            taken.push(match incoming {
                Incoming::Frame(channel, frame) => format!("{channel}:{}", frame.len()),
                Incoming::Message(Message::Response(response)) => {
                    format!("{} {}", u16::from(response.status()), response.body().len())
                }
                Incoming::Message(other) => format!("{other:?}"),
            });
        });
        (used, taken)
    }

    #[test]
    fn frames_and_messages_in_one_stream() {
        let message = b"RTSP/1.0 200 OK\r\nCSeq: 1\r\nContent-Length: 3\r\n\r\nabc\r\n";
        let bytes = [&[b'$', 0, 0, 2, 1, 2][..], message, &[b'$', 1, 0, 0, b'$', 3, 0, 9, 1]].concat();
        let (used, taken) = take(&bytes);
        assert_eq!(taken, ["0:2", "200 3", "1:0"]);
        assert_eq!(used.unwrap(), bytes.len() - 5, "the last frame is not complete");
    }

    #[test]
    fn the_longest_frame_fits() {
        let mut bytes = vec![b'$', 0, 0xff, 0xff];
        bytes.resize(4 + 65_535, 7);
        assert_eq!(take(&bytes).1, ["0:65535"]);
        bytes.pop();
        assert_eq!(take(&bytes).0.unwrap(), 0);
    }

    #[test]
    fn garbage_is_an_error() {
        assert!(matches!(take(b"\x80\x60garbage").0, Err(SourceError::Garbage(_))));
        assert!(matches!(take(b"HELLO\r\n\r\n").0, Err(SourceError::Garbage(_))));
        let endless = [b"RTSP/1.0 200 ".to_vec(), vec![b'x'; MAX_MESSAGE]].concat();
        assert!(matches!(take(&endless).0, Err(SourceError::Garbage(_))));
        assert_eq!(take(b"RTSP/1.0 200").0.unwrap(), 0);
    }
}
