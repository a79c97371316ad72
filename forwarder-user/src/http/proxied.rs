//! The PROXY protocol of HAProxy, versions 1 and 2: what a proxy says of whom it connects, before anything else. Read
//! only from proxies that are trusted, and then it must be there.

use std::{
    io,
    net::{IpAddr, SocketAddr},
};

use ppp::{HeaderResult, v1, v2};
use tokio::io::{AsyncRead, AsyncReadExt as _};

/// Beginning of version 2.
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// Longest header of version 1.
const MOST_V1: usize = 107;
/// Longest part of version 2 behind its length; the specification has 216 bytes of addresses, and more for extensions.
const MOST_V2: usize = 1024;

/// Who is connected. `None`: the proxy itself (a health check of its own), or nobody with an address.
///
/// # Errors
/// No such header, a malformed one, or the end of the connection.
pub(super) async fn read(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<SocketAddr>> {
    let mut header = vec![0; SIGNATURE.len()];
    stream.read_exact(&mut header).await?;
    if header == SIGNATURE {
        let mut rest = [0; 4];
        stream.read_exact(&mut rest).await?;
        let length = usize::from(u16::from_be_bytes([rest[2], rest[3]]));
        if length > MOST_V2 {
            return Err(malformed("too long"));
        }
        header.extend_from_slice(&rest);
        let begin = header.len();
        header.resize(begin + length, 0);
        stream.read_exact(&mut header[begin..]).await?;
    } else {
        // What comes behind it is not ours to read.
        while header.last() != Some(&b'\n') {
            if header.len() >= MOST_V1 || !header.starts_with(b"PROXY ") {
                return Err(malformed("there is none"));
            }
            header.push(stream.read_u8().await?);
        }
    }
    source(&header)
}

fn source(header: &[u8]) -> io::Result<Option<SocketAddr>> {
    let at = |address: IpAddr, port| Some(SocketAddr::new(address.to_canonical(), port));
    match HeaderResult::parse(header) {
        HeaderResult::V1(Ok(header)) => Ok(match header.addresses {
            v1::Addresses::Tcp4(ends) => at(ends.source_address.into(), ends.source_port),
            v1::Addresses::Tcp6(ends) => at(ends.source_address.into(), ends.source_port),
            v1::Addresses::Unknown => None,
        }),
        HeaderResult::V2(Ok(header)) if header.command == v2::Command::Local => Ok(None),
        HeaderResult::V2(Ok(header)) => Ok(match header.addresses {
            v2::Addresses::IPv4(ends) => at(ends.source_address.into(), ends.source_port),
            v2::Addresses::IPv6(ends) => at(ends.source_address.into(), ends.source_port),
            v2::Addresses::Unix(_) | v2::Addresses::Unspecified => None,
        }),
        HeaderResult::V1(Err(error)) => Err(malformed(&error.to_string())),
        HeaderResult::V2(Err(error)) => Err(malformed(&error.to_string())),
    }
}

fn malformed(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("PROXY header: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn parsed(bytes: &[u8]) -> Result<(Option<String>, usize), String> {
        let mut rest = bytes;
        let source = read(&mut rest).await.map_err(|error| error.to_string())?;
        Ok((source.map(|address| address.to_string()), rest.len()))
    }

    #[tokio::test]
    async fn both_versions_are_read_and_not_a_byte_more() {
        let client = Some("192.0.2.7:4711".to_owned());
        let v1 = b"PROXY TCP4 192.0.2.7 198.51.100.1 4711 443\r\nGET / HTTP/1.1\r\n";
        assert_eq!(parsed(v1).await, Ok((client.clone(), 16)));
        assert_eq!(
            parsed(b"PROXY TCP6 2001:db8::7 ::1 4711 443\r\n").await,
            Ok((Some("[2001:db8::7]:4711".into()), 0))
        );
        assert_eq!(parsed(b"PROXY UNKNOWN\r\nx").await, Ok((None, 1)));
        let v2 = |command: u8, family: u8, rest: &[u8]| {
            let mut all = SIGNATURE.to_vec();
            all.extend([0x20 | command, family]);
            all.extend((rest.len() as u16).to_be_bytes());
            all.extend(rest);
            all.push(b'!');
            all
        };
        let ends = [192, 0, 2, 7, 198, 51, 100, 1, 0x12, 0x67, 1, 187];
        assert_eq!(parsed(&v2(1, 0x11, &ends)).await, Ok((client, 1)));
        assert_eq!(parsed(&v2(0, 0, &[])).await, Ok((None, 1)));
        assert!(parsed(&v2(1, 0x11, &ends[..7])).await.is_err());
        assert!(parsed(&v2(1, 0x11, &[0; 2000])).await.unwrap_err().contains("too long"));
    }

    #[tokio::test]
    async fn who_sends_none_is_refused() {
        let long = [b"PROXY TCP4 ", &b"1"[..]].concat().into_iter().chain([b'1'; 500]).collect::<Vec<u8>>();
        for bad in [
            &b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"[..],
            b"PROXY",
            b"PROXY TCP4 x y z\r\n",
            b"PROXY TCP4 1.2.3.4 1.2.3.4 99999 1\r\n",
            &long,
            b"",
        ] {
            assert!(parsed(bad).await.is_err(), "{bad:?}");
        }
    }
}
