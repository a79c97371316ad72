//! Payloads that fit: a NAL unit in fragments (FU-A, RFC 6184 §5.8; FU, RFC 7798 §4.4.3) of at most 1,200 bytes.

use super::NalCodec;
use crate::{
    MAX_PAYLOAD,
    frames::{Frames, Out},
};

/// Start and end bits of a fragment's header.
pub(crate) const START: u8 = 0x80;
pub(crate) const END: u8 = 0x40;

/// A whole NAL unit, in fragments if it is too long.
pub(crate) fn send_nal<C: NalCodec>(
    scratch: &mut Vec<u8>,
    nal: &[u8],
    marker: bool,
    frames: &mut Frames,
    out: &mut Out<'_>,
) {
    if nal.len() <= MAX_PAYLOAD {
        return frames.push(nal, marker, out);
    }
    let (nal_header, rest) = nal.split_at(C::HEADER);
    let part = Part { header: C::fragment_header(nal_header), bits: START | END, rest, marker };
    send_fragments::<C>(scratch, &part, frames, out);
}

/// A part of a NAL unit.
pub(crate) struct Part<'a> {
    /// Of its fragments, without start and end bits.
    pub header: [u8; 3],
    /// Whether it has the unit's start and its end.
    pub bits: u8,
    pub rest: &'a [u8],
    /// Of its last fragment.
    pub marker: bool,
}

/// In equal pieces: a short last one would cost a packet's overhead all the same.
pub(crate) fn send_fragments<C: NalCodec>(
    scratch: &mut Vec<u8>,
    part: &Part<'_>,
    frames: &mut Frames,
    out: &mut Out<'_>,
) {
    let header_len = C::HEADER + 1;
    let parts = part.rest.len().div_ceil(MAX_PAYLOAD - header_len).max(1);
    let size = part.rest.len().div_ceil(parts).max(1);
    let mut chunks = part.rest.chunks(size).peekable();
    let mut start = part.bits & START;
    while let Some(chunk) = chunks.next() {
        let last = chunks.peek().is_none();
        scratch.clear();
        scratch.extend_from_slice(&part.header[..header_len]);
        scratch[C::HEADER] |= start | if last { part.bits & END } else { 0 };
        scratch.extend_from_slice(chunk);
        frames.push(scratch, part.marker && last, out);
        start = 0;
    }
}
