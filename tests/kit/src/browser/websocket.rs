//! As much of a WebSocket client (RFC 6455) as a driver on the same machine needs: text messages both ways.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;

use anyhow::{Context, Result, ensure};

use super::connection::Send;

/// Larger messages than this are no answers of a browser: a screenshot has some MB.
const LONGEST: u64 = 256 << 20;

const CONTINUATION: u8 = 0;
const TEXT: u8 = 1;
const CLOSE: u8 = 8;

/// Opens one on a connection that is there. What sends a message, and the messages that come.
pub fn open(
    mut stream: TcpStream,
    path: &str,
) -> Result<(Send, impl Iterator<Item = Vec<u8>> + std::marker::Send + 'static)> {
    let host = stream.peer_addr()?;
    // Any 16 bytes will do: it is no secret, and the server is our own child.
    let key = "cGVuc3RvY2sgYnJvd3Nlcg==";
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )?;
    let mut from = BufReader::new(stream.try_clone()?);
    let mut status = String::new();
    from.read_line(&mut status).context("no answer")?;
    ensure!(status.contains(" 101 "), "no WebSocket: {status}");
    let mut line = String::new();
    while from.read_line(&mut line)? > 2 {
        line.clear();
    }
    let send = move |message: &[u8]| stream.write_all(&frame(message));
    Ok((Box::new(send), std::iter::from_fn(move || receive(&mut from).ok().flatten())))
}

/// Hides nothing from anybody; Firefox takes no frame whose mask is zero.
const MASK: [u8; 4] = [1, 2, 3, 4];

/// One masked text frame (RFC 6455 §5.3).
fn frame(message: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x80 | TEXT];
    // The shortest form of a length is the only one that is allowed (RFC 6455 §5.2).
    match message.len() {
        short @ ..126 => frame.push(0x80 | short as u8),
        middle @ 126..0x1_0000 => {
            frame.push(0x80 | 126);
            frame.extend((middle as u16).to_be_bytes());
        }
        long => {
            frame.push(0x80 | 127);
            frame.extend((long as u64).to_be_bytes());
        }
    }
    frame.extend(MASK);
    frame.extend(message.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    frame
}

/// The next message; `None` when the other side closes.
fn receive(from: &mut BufReader<TcpStream>) -> io::Result<Option<Vec<u8>>> {
    let mut message = Vec::new();
    loop {
        let mut head = [0; 2];
        from.read_exact(&mut head)?;
        let (last, kind) = (head[0] & 0x80 != 0, head[0] & 0x0f);
        let length = match head[1] & 0x7f {
            126 => u64::from(u16::from_be_bytes(bytes(from)?)),
            127 => u64::from_be_bytes(bytes(from)?),
            short => u64::from(short),
        };
        if kind == CLOSE || length > LONGEST {
            return Ok(None);
        }
        let mut payload = Vec::new();
        from.by_ref().take(length).read_to_end(&mut payload)?;
        // Pings have no answer here: nobody sends them on a loopback.
        if kind == TEXT || kind == CONTINUATION {
            message.append(&mut payload);
            if last {
                return Ok(Some(message));
            }
        }
    }
}

fn bytes<const N: usize>(from: &mut impl io::Read) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    from.read_exact(&mut bytes)?;
    Ok(bytes)
}
