//! What a DTLS client's first message tells before the handshake begins: which SRTP profiles it knows
//! (RFC 5764 §4.1.1). ClientHellos come in fragments (RFC 6347 §4.2.3), of OpenSSL as small as 230 bytes.

use std::collections::BTreeMap;

/// Datagrams that are looked at before the question is given up.
const MAX_DATAGRAMS: usize = 16;
/// Largest ClientHello that is put together, in bytes.
const MAX_LEN: usize = 8192;

/// A ClientHello as far as it has arrived.
#[derive(Debug, Default)]
pub(crate) struct ClientHello {
    /// Fragments by offset.
    pieces: BTreeMap<usize, Vec<u8>>,
    len: usize,
    datagrams: usize,
}

/// What is known so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Knows {
    /// SRTP, and of it the counter mode of RFC 3711 alone.
    CounterModeOnly,
    /// An AES-GCM profile, or no SRTP at all, or it cannot be found out.
    Other,
    /// Parts are missing.
    NotYet,
}

impl ClientHello {
    /// Takes the next datagram.
    pub(crate) fn push(&mut self, datagram: &[u8]) -> Knows {
        self.datagrams += 1;
        match self.fragments(datagram) {
            Some(()) if self.len <= MAX_LEN && self.datagrams <= MAX_DATAGRAMS => {}
            _ => return Knows::Other,
        }
        let beginning = self.beginning();
        let mut rest = &beginning[..];
        match srtp_profiles(&mut rest) {
            Some(profiles) if profiles.chunks_exact(2).any(|profile| matches!(profile, [0, 7 | 8])) => Knows::Other,
            Some(_) => Knows::CounterModeOnly,
            None if beginning.len() < self.len => Knows::NotYet,
            None => Knows::Other,
        }
    }

    /// Enters the fragments of a datagram. `None`: it has other things too.
    fn fragments(&mut self, mut datagram: &[u8]) -> Option<()> {
        const HANDSHAKE: u8 = 22;
        const CLIENT_HELLO: u8 = 1;
        while !datagram.is_empty() {
            // Type, version, epoch and sequence number, then length.
            let record = take(&mut datagram, 11)?;
            let mut content = take_vector(&mut datagram, 2)?;
            // Type, length (3), message number (2), fragment offset (3), fragment length (3).
            let header = take(&mut content, 9)?;
            let fragment = take_vector(&mut content, 3)?;
            if record[0] != HANDSHAKE || header[0] != CLIENT_HELLO {
                return None;
            }
            self.len = number(&header[1..4]);
            self.pieces.insert(number(&header[6..9]), fragment.to_vec());
        }
        Some(())
    }

    /// The message as far as it has come without a gap.
    fn beginning(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.len);
        for (offset, piece) in &self.pieces {
            let known = bytes.len().checked_sub(*offset).and_then(|known| piece.get(known..));
            match known {
                Some(new) => bytes.extend_from_slice(new),
                None if *offset > bytes.len() => break,
                None => {}
            }
        }
        bytes
    }
}

/// The list of the extension use_srtp, if it has come.
fn srtp_profiles<'a>(hello: &mut &'a [u8]) -> Option<&'a [u8]> {
    const USE_SRTP: u16 = 14;
    // Version and random; then session id, cookie, cipher suites and compression methods.
    take(hello, 34)?;
    for length_bytes in [1, 1, 2, 1] {
        take_vector(hello, length_bytes)?;
    }
    // Length of all extensions.
    take(hello, 2)?;
    loop {
        let kind = take(hello, 2)?;
        let mut content = take_vector(hello, 2)?;
        if kind == USE_SRTP.to_be_bytes() {
            return take_vector(&mut content, 2);
        }
    }
}

fn take<'a>(bytes: &mut &'a [u8], len: usize) -> Option<&'a [u8]> {
    let (taken, rest) = bytes.split_at_checked(len)?;
    *bytes = rest;
    Some(taken)
}

/// A vector of TLS: its length in `length_bytes` bytes, then that many bytes.
fn take_vector<'a>(bytes: &mut &'a [u8], length_bytes: usize) -> Option<&'a [u8]> {
    let len = number(take(bytes, length_bytes)?);
    take(bytes, len)
}

fn number(bytes: &[u8]) -> usize {
    bytes.iter().fold(0, |number, byte| number << 8 | usize::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Body of a ClientHello with these SRTP profiles.
    fn hello(profiles: &[u16]) -> Vec<u8> {
        let list: Vec<u8> = profiles.iter().flat_map(|profile| profile.to_be_bytes()).collect();
        let mut srtp = (list.len() as u16).to_be_bytes().to_vec();
        srtp.extend(list);
        srtp.push(0);
        let mut extensions = vec![0, 23, 0, 0, 0, 14];
        extensions.extend((srtp.len() as u16).to_be_bytes());
        extensions.extend(srtp);
        let mut body = vec![0xfe, 0xfd];
        body.extend([7; 32]);
        body.extend([0, 2, 1, 2, 0, 2, 0xc0, 0x2b, 1, 0]);
        body.extend((extensions.len() as u16).to_be_bytes());
        body.extend(extensions);
        body
    }

    /// The record with one fragment.
    fn record(body: &[u8], from: usize, to: usize) -> Vec<u8> {
        let three = |number: usize| (number as u32).to_be_bytes()[1..].to_vec();
        let mut message = vec![22, 0xfe, 0xff, 0, 0, 0, 0, 0, 0, 0, 0];
        message.extend((to - from + 12).to_be_bytes()[6..].iter());
        message.push(1);
        message.extend(three(body.len()));
        message.extend([0, 0]);
        message.extend(three(from));
        message.extend(three(to - from));
        message.extend(&body[from..to]);
        message
    }

    fn whole(profiles: &[u16]) -> Knows {
        let body = hello(profiles);
        ClientHello::default().push(&record(&body, 0, body.len()))
    }

    #[test]
    fn tells_who_knows_no_gcm() {
        assert_eq!(whole(&[1]), Knows::CounterModeOnly);
        assert_eq!(whole(&[1, 2]), Knows::CounterModeOnly);
        assert_eq!(whole(&[1, 7]), Knows::Other);
        assert_eq!(whole(&[8, 7, 1]), Knows::Other);
    }

    #[test]
    fn fragments_in_any_order_and_twice() {
        let body = hello(&[1]);
        let (first, second, third) = (record(&body, 0, 20), record(&body, 20, 50), record(&body, 50, body.len()));
        let mut hello = ClientHello::default();
        assert_eq!(hello.push(&third), Knows::NotYet);
        assert_eq!(hello.push(&first), Knows::NotYet);
        assert_eq!(hello.push(&first), Knows::NotYet);
        assert_eq!(hello.push(&second), Knows::CounterModeOnly);
        let all = [first, second, third].concat();
        assert_eq!(ClientHello::default().push(&all), Knows::CounterModeOnly);
    }

    #[test]
    fn what_cannot_be_read_is_nobodys() {
        let body = hello(&[1]);
        let message = record(&body, 0, body.len());
        for len in 1..message.len() {
            assert_eq!(ClientHello::default().push(&message[..len]), Knows::Other, "{len} bytes");
        }
        for cut in 0..body.len() {
            assert_ne!(ClientHello::default().push(&record(&body[..cut], 0, cut)), Knows::NotYet, "{cut} bytes");
        }
        assert_eq!(ClientHello::default().push(&[20; 64]), Knows::Other);
        let mut waiting = ClientHello::default();
        let first = record(&body, 0, 20);
        assert!((0..MAX_DATAGRAMS).all(|_| waiting.push(&first) == Knows::NotYet));
        assert_eq!(waiting.push(&first), Knows::Other);
    }
}
