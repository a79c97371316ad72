//! What reads bytes of strangers here, for `tests/fuzz`: without sockets and without the rest of a server.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, Waker},
};

use penstock_rtp::rtsp::transport::Transport;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{
    connection::{Connection, Incoming, Stream},
    push,
};
use crate::config::Secret;

/// What has come of a connection's bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Read {
    /// Messages and frames.
    pub items: usize,
    /// Bytes in frames and in messages' bodies.
    pub bytes: usize,
    /// The connection would have been closed for what it sent.
    pub refused: bool,
}

/// Reads a connection that brings `input` in pieces of so many bytes.
pub fn rtsp(input: &[u8], piece: usize) -> Read {
    let mut connection = Connection::new(Box::new(Pieces { left: input.to_vec(), piece }), Default::default());
    let mut context = Context::from_waker(Waker::noop());
    let mut read = Read::default();
    loop {
        let mut take = |incoming: Incoming<'_>| {
            read.items += 1;
            read.bytes += match incoming {
                Incoming::Frame(_, bytes) => bytes.len(),
                Incoming::Message(message) => message.body.len(),
            };
        };
        match connection.poll_receive(&mut context, &mut take) {
            Poll::Ready(Ok(())) => {}
            Poll::Ready(Err(error)) => {
                read.refused = !matches!(error, crate::ingest::error::SourceError::Closed);
                return read;
            }
            Poll::Pending => return read,
        }
    }
}

/// Whether a `Transport` header names any RTP.
pub fn transport(header: &str) -> bool {
    Transport::parse(header).next().is_some()
}

/// Whether somebody with this `Authorization` may publish where this is the password.
pub fn authorization(password: &str, header: &str) -> bool {
    push::is_admitted(&Secret::new(password), "rtsp://192.0.2.1:8554/name", header)
}

/// A stream whose other end has sent everything and closed.
struct Pieces {
    left: Vec<u8>,
    piece: usize,
}

impl Stream for Pieces {}

impl AsyncRead for Pieces {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, room: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let now = self.piece.min(self.left.len()).min(room.remaining());
        room.put_slice(&self.left[..now]);
        self.left.drain(..now);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Pieces {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
