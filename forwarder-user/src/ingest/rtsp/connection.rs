//! An RTSP connection: messages, and RTP between them (RFC 2326 §10.12), read without copying what is
//! whole in the reader's buffer.

use std::{
    future::poll_fn,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
    time::Duration,
};

use rtsp_types::{Message, ParseError, Request, Response};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadBuf},
    net::TcpStream,
    time::timeout,
};
use tokio_openssl::SslStream;

use crate::ingest::{error::SourceError, place::Scratch};

/// Longest RTSP message; descriptions have one or two kilobytes.
const MAX_MESSAGE: usize = 64 << 10;
/// Most that waits for its end: a frame is no longer than 65,539 bytes, and a message as said above.
const MAX_REST: usize = 4 + (64 << 10);
/// Room for one read behind that.
pub(crate) const READ_BUFFER: usize = MAX_REST + (128 << 10);
/// A camera that does not take our few bytes for so long is gone.
const WRITE_PATIENCE: Duration = Duration::from_secs(5);

/// TCP or TLS.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Unpin {}

impl Stream for TcpStream {}
impl Stream for SslStream<TcpStream> {}

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
}

impl Connection {
    pub(crate) fn new(stream: Box<dyn Stream>, scratch: Scratch) -> Self {
        Self { stream, scratch, rest: vec![] }
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
        let before = self.rest.len();
        let mut room = ReadBuf::new(&mut scratch[before..]);
        match Pin::new(&mut self.stream).poll_read(context, &mut room) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Err(error)) => return Poll::Ready(Err(error.into())),
            Poll::Ready(Ok(())) => {}
        }
        let read = room.filled().len();
        if read == 0 {
            return Poll::Ready(Err(SourceError::Closed));
        }
        let bytes = &mut scratch[..before + read];
        bytes[..before].copy_from_slice(&self.rest);
        // Of exactly the size that is needed, which for most reads is none: hundreds of connections would
        // keep what each needed once.
        self.rest = vec![];
        let parsed = parse(bytes, take);
        Poll::Ready(parsed.map(|used| self.rest = bytes[used..].to_vec()))
    }
}

/// Hands out what is complete; the number of bytes used.
fn parse(bytes: &[u8], take: &mut dyn FnMut(Incoming<'_>)) -> Result<usize, SourceError> {
    let mut used = 0;
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
            Some(b'A'..=b'Z') => match Message::<Vec<u8>>::parse(rest) {
                Ok((message, len)) => {
                    take(Incoming::Message(message));
                    used += len;
                }
                Err(ParseError::Incomplete(_)) if rest.len() <= MAX_MESSAGE => return Ok(used),
                Err(ParseError::Incomplete(_)) => return Err(SourceError::Garbage("a message beyond 64 KiB")),
                Err(ParseError::Error) => return Err(SourceError::Garbage("a malformed message")),
            },
            Some(_) => return Err(SourceError::Garbage("bytes that are neither a frame nor a message")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(bytes: &[u8]) -> (Result<usize, SourceError>, Vec<String>) {
        let mut taken = vec![];
        let used = parse(bytes, &mut |incoming| {
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
        assert!(bytes.len() <= MAX_REST);
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
