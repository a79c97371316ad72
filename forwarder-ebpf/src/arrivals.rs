//! Notes when a packet came, for feedback to its sender: `forwarder_common::arrivals`.
//!
//! Once for a packet, behind its tag: a forged one must not tell a sender how wide its line is. Tracks without the
//! extension pay one comparison.

use aya_ebpf::bindings::xdp_md;
use forwarder_common::{maps::PublisherTrack, rtp::ONE_BYTE};

use crate::{classify::Rtp, maps::ARRIVALS, packet::Frame};

/// Elements of a header extension that are looked at; browsers send two or three.
const ELEMENTS: usize = 8;

/// Notes an authentic packet of the track in this slot.
#[inline(always)]
pub fn note(frame: &Frame, rtp: &Rtp, track: &PublisherTrack, slot: u32, now_ns: u64) {
    if track.sequence_extension == 0 || !rtp.header.has_extension() {
        return;
    }
    let start = rtp.offset + rtp.header.len_with_csrcs();
    let span = start as u64 | (track.sequence_extension as u64) << 16;
    arrivals_note(frame.context(), slot, span, now_ns);
}

/// Global to the verifier, as the functions of `gcm` are. The packet's number, or what is no number.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn arrivals_note(ctx: *mut xdp_md, slot: u32, span: u64, now_ns: u64) -> u64 {
    match find(&Frame::of(ctx), (span & 0xffff) as usize, (span >> 16 & 0xff) as u8) {
        Some(number) => {
            if let Some(arrivals) = ARRIVALS.get(slot) {
                arrivals.note(number, now_ns);
            }
            number as u64
        }
        None => u64::MAX,
    }
}

/// The element with this number of the extension that starts here (RFC 8285 §4.2), two bytes long. We have not agreed to
/// the other form of extensions.
#[inline(always)]
fn find(frame: &Frame, start: usize, wanted: u8) -> Option<u16> {
    let [a, b, c, d]: [u8; 4] = frame.read(start)?;
    if u16::from_be_bytes([a, b]) != ONE_BYTE {
        return None;
    }
    let end = start + 4 + 4 * u16::from_be_bytes([c, d]) as usize;
    let mut at = start + 4;
    for _ in 0..ELEMENTS {
        // Each round is the same to the verifier, whatever the one before has seen.
        at = frame.forget(at);
        if at >= end {
            return None;
        }
        let first: u8 = frame.read(at)?;
        if first >> 4 == wanted {
            return frame.read(at + 1).map(u16::from_be_bytes);
        }
        // Padding stands alone.
        at += if first == 0 { 1 } else { 2 + (first & 15) as usize };
    }
    None
}
