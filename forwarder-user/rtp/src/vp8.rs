//! VP8 (RFC 7741): payloads that are too long for a browser's path are cut, as their sender should have done.

use super::{
    Incoming, MAX_PAYLOAD, Unfit,
    clock::Hint,
    frames::{Frames, Out},
};

/// S: a partition begins in this packet.
const START: u8 = 0x10;
/// S, and the partition's number.
const FIRST_PARTITION: u8 = START | 0x0f;

/// Takes a payload.
///
/// # Errors
/// [`Unfit::Empty`], [`Unfit::Malformed`].
pub(crate) fn packet(
    packet: &Incoming<'_>,
    timestamp: &mut Option<u32>,
    frames: &mut Frames,
    out: &mut Out<'_>,
) -> Result<(), Unfit> {
    let payload = packet.payload;
    let first = *payload.first().ok_or(Unfit::Empty)?;
    let len = descriptor_len(payload).filter(|len| *len < payload.len()).ok_or(Unfit::Malformed)?;
    let begins = first & FIRST_PARTITION == START;
    let ended = frames.was_marked();
    let another = match *timestamp {
        None => true,
        Some(former) if former != packet.timestamp => begins || ended || frames.lacks_packets(),
        Some(_) => begins && ended,
    };
    if another {
        frames.begin(packet.timestamp, Hint::default(), out);
        frames.keyframes += u64::from(is_key(payload));
        *timestamp = Some(packet.timestamp);
    }
    if payload.len() <= MAX_PAYLOAD {
        frames.push(payload, packet.marker, out);
        return Ok(());
    }
    let (descriptor, data) = payload.split_at(len);
    let mut pieces = data.chunks(MAX_PAYLOAD - len).peekable();
    let mut piece = descriptor.to_vec();
    while let Some(data) = pieces.next() {
        piece.truncate(len);
        piece.extend_from_slice(data);
        frames.push(&piece, packet.marker && pieces.peek().is_none(), out);
        piece[0] &= !START;
    }
    Ok(())
}

/// Whether a keyframe begins in a payload: the first bit of its header (RFC 6386 §9.1) is 0.
pub(crate) fn is_key(payload: &[u8]) -> bool {
    let begins = payload.first().is_some_and(|first| first & FIRST_PARTITION == START);
    let header = descriptor_len(payload).and_then(|len| payload.get(len));
    begins && header.is_some_and(|header| header & 1 == 0)
}

/// What stands behind the payload descriptor.
pub(crate) fn data(payload: &[u8]) -> Option<&[u8]> {
    payload.get(descriptor_len(payload)?..)
}

/// Length of the payload descriptor (§4.2), at most 6 bytes.
fn descriptor_len(payload: &[u8]) -> Option<usize> {
    let first = *payload.first()?;
    if first & 0x80 == 0 {
        return Some(1);
    }
    let extensions = *payload.get(1)?;
    let mut len = 2;
    if extensions & 0x80 != 0 {
        // The picture id has 15 bits if its own first bit says so.
        len += if payload.get(len)? & 0x80 == 0 { 1 } else { 2 };
    }
    len += usize::from(extensions & 0x40 != 0);
    len += usize::from(extensions & 0x30 != 0);
    Some(len)
}
