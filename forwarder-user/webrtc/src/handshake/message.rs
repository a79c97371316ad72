//! Records and handshake messages of DTLS 1.2 in the clear (RFC 6347 §4.1, §4.2.2).

use std::ops::Range;

pub(super) const CHANGE_CIPHER_SPEC: u8 = 20;
pub(super) const HANDSHAKE: u8 = 22;

pub(super) const CLIENT_HELLO: u8 = 1;
pub(super) const SERVER_HELLO: u8 = 2;
pub(super) const HELLO_VERIFY_REQUEST: u8 = 3;
pub(super) const CERTIFICATE: u8 = 11;
pub(super) const SERVER_KEY_EXCHANGE: u8 = 12;
pub(super) const CERTIFICATE_REQUEST: u8 = 13;
pub(super) const SERVER_HELLO_DONE: u8 = 14;
pub(super) const CERTIFICATE_VERIFY: u8 = 15;
pub(super) const CLIENT_KEY_EXCHANGE: u8 = 16;

/// Type, version, epoch, sequence number, length.
pub(super) const RECORD_HEADER: usize = 13;
/// Type, length, message number, fragment offset, fragment length.
const MESSAGE_HEADER: usize = 12;
const VERSION: [u8; 2] = [0xfe, 0xfd];
/// Bytes of a message that are put into one record for the stack.
const PIECE: usize = 1200;

/// The longest message of a kind that is put together: certificates may carry a biography.
pub(super) fn longest(kind: u8) -> usize {
    match kind {
        CERTIFICATE => 16 << 10,
        CLIENT_HELLO | CERTIFICATE_REQUEST => 4 << 10,
        SERVER_HELLO_DONE => 0,
        _ => 2 << 10,
    }
}

/// A record, as it stands in a datagram.
pub(super) struct Record<'a> {
    pub(super) kind: u8,
    pub(super) epoch: u16,
    pub(super) content: &'a [u8],
    /// All of it.
    pub(super) bytes: &'a [u8],
}

/// The records of a datagram, as far as they are whole and of DTLS 1.0 or 1.2.
pub(super) fn records(mut datagram: &[u8]) -> impl Iterator<Item = Record<'_>> {
    std::iter::from_fn(move || {
        let header = datagram.first_chunk::<RECORD_HEADER>()?;
        let len = usize::from(u16::from_be_bytes([header[11], header[12]]));
        let (bytes, rest) = datagram.split_at_checked(RECORD_HEADER + len)?;
        datagram = rest;
        let known = matches!(header[1..3], [0xfe, 0xfd | 0xff]);
        let (kind, epoch) = (header[0], u16::from_be_bytes([header[3], header[4]]));
        known.then(|| Record { kind, epoch, content: &bytes[RECORD_HEADER..], bytes })
    })
}

/// A piece of a handshake message.
#[derive(Clone, Copy)]
pub(super) struct Fragment<'a> {
    pub(super) kind: u8,
    /// Number of the message in its sender's handshake.
    pub(super) number: u16,
    /// Length of the whole message.
    pub(super) len: usize,
    pub(super) offset: usize,
    pub(super) bytes: &'a [u8],
    /// Which of the datagrams so far it came in.
    pub(super) datagram: u64,
}

impl Fragment<'_> {
    pub(super) fn range(&self) -> Range<usize> {
        self.offset..self.offset + self.bytes.len()
    }
}

/// The fragments in a record's content, until one contradicts itself or is of a message that is too long.
pub(super) fn fragments(mut content: &[u8], datagram: u64) -> impl Iterator<Item = Fragment<'_>> {
    std::iter::from_fn(move || {
        let header = content.first_chunk::<MESSAGE_HEADER>()?;
        let number = |bytes: &[u8]| bytes.iter().fold(0, |number, byte| number << 8 | usize::from(*byte));
        let (len, offset, size) = (number(&header[1..4]), number(&header[6..9]), number(&header[9..12]));
        let (bytes, rest) = content.get(MESSAGE_HEADER..)?.split_at_checked(size)?;
        content = rest;
        let sound = len <= longest(header[0]) && offset + size <= len && (size > 0 || len == 0);
        let number = u16::from_be_bytes([header[4], header[5]]);
        sound.then_some(Fragment { kind: header[0], number, len, offset, bytes, datagram })
    })
}

/// The header of a message, or of a piece of it.
fn header(kind: u8, number: u16, len: usize, piece: &Range<usize>) -> [u8; MESSAGE_HEADER] {
    let [_, a, b, c] = (len as u32).to_be_bytes();
    let [_, d, e, f] = (piece.start as u32).to_be_bytes();
    let [_, g, h, i] = (piece.len() as u32).to_be_bytes();
    let [n, m] = number.to_be_bytes();
    [kind, a, b, c, n, m, d, e, f, g, h, i]
}

/// A message as it is hashed and signed: as if it had come in one piece (RFC 6347 §4.2.6).
pub(super) fn whole(kind: u8, number: u16, body: &[u8]) -> Vec<u8> {
    [&header(kind, number, body.len(), &(0..body.len())), body].concat()
}

/// A record of ours for the stack.
pub(super) fn record(kind: u8, sequence: u64, content: &[u8]) -> Vec<u8> {
    let sequence = sequence.to_be_bytes();
    [&[kind][..], &VERSION, &[0, 0], &sequence[2..], &(content.len() as u16).to_be_bytes(), content].concat()
}

/// A message in records, each a datagram for the stack. Their numbers are ours: those of the peer are in the clear
/// and shut nobody's window.
pub(super) fn datagrams(kind: u8, number: u16, body: &[u8], next: &mut u64) -> Vec<Vec<u8>> {
    let count = body.len().div_ceil(PIECE).max(1);
    let pieces = (0..count).map(|piece| piece * PIECE..((piece + 1) * PIECE).min(body.len()));
    let mut made = vec![];
    for piece in pieces {
        let content = [&header(kind, number, body.len(), &piece)[..], body.get(piece).unwrap_or_default()].concat();
        made.push(record(HANDSHAKE, *next, &content));
        *next += 1;
    }
    made
}
