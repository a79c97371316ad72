//! An RTSP connection: messages, and RTP between them (RFC 2326 §10.12), read without copying what is
//! whole in the reader's buffer.

use std::{
    future::poll_fn,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
    time::Duration,
};

use penstock_rtp::rtsp::{message::Message, reader::Reader};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadBuf},
    net::TcpStream,
    time::timeout,
};
use tokio_openssl::SslStream;
use tokio_rustls::server::TlsStream;

pub(crate) use penstock_rtp::rtsp::reader::Incoming;

use crate::ingest::{error::SourceError, place::Scratch};

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

/// See the module.
pub(crate) struct Connection {
    stream: Box<dyn Stream>,
    scratch: Scratch,
    /// The begin of a frame or message that had not arrived in full.
    rest: Vec<u8>,
    reader: Reader,
}

impl Connection {
    pub(crate) fn new(stream: Box<dyn Stream>, scratch: Scratch) -> Self {
        Self { stream, scratch, rest: vec![], reader: Reader::default() }
    }

    /// Sends a request or an answer.
    ///
    /// # Errors
    /// [`SourceError::Io`], [`SourceError::Timeout`].
    pub(crate) async fn send(&mut self, message: &Message) -> Result<(), SourceError> {
        self.write(&message.to_bytes()).await
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

    /// See [`Reader::set_channels`].
    pub(crate) fn set_channels(&mut self, channels: usize) {
        self.reader.set_channels(channels);
    }

    /// Bytes that were neither a frame nor a message, since this was asked last.
    pub(crate) fn take_skipped(&mut self) -> u64 {
        self.reader.take_skipped()
    }

    /// Whether a message's head has come whose body has not.
    pub(crate) fn waits_for_body(&self) -> bool {
        self.reader.waits_for_body()
    }

    /// Nothing more is expected of a body: its message is handed out with what there is.
    pub(crate) fn end_body(&mut self, take: &mut dyn FnMut(Incoming<'_>)) {
        let used = self.reader.end(&self.rest, take);
        self.rest.drain(..used.min(self.rest.len()));
    }

    /// Waits for bytes, once, and hands out what is complete.
    ///
    /// # Errors
    /// [`SourceError::Closed`], [`SourceError::Unreadable`], [`SourceError::Io`].
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
        let used = self.reader.read(bytes, take)?;
        if used > 0 || !waited {
            // Of exactly the size that is needed, which for most reads is none: hundreds of connections would
            // keep what each needed once.
            self.rest = bytes[used..].to_vec();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What comes out does not depend on where the network cuts, and nothing is kept that is not needed.
    #[test]
    fn what_is_not_whole_is_kept_and_no_more() {
        let stream = [b"OPTIONS * RTSP/1.0\r\nCSeq: 7\r\n\r\n", &b"$\x01\x00\x03abc"[..]].concat();
        for size in 1..=stream.len() {
            let (here, _there) = tokio::io::duplex(1);
            let (mut connection, mut taken) = (Connection::new(Box::new(here), Scratch::default()), 0);
            for piece in stream.chunks(size) {
                connection.take_in(piece, &mut |_| taken += 1).unwrap();
            }
            assert_eq!((taken, connection.rest.capacity()), (2, 0), "pieces of {size}");
        }
    }
}
