//! Encryption of one copy, and the UDP checksum that IPv6 asks for.

use forwarder_common::{
    Counter, ExtendedSeq, SessionKey, checksum,
    keystream::Entry,
    maps::Path,
    nonce,
    rtp::{FIXED_LEN, TAG_LEN},
};

use crate::{counters, gcm, packet::Frame, tower::Tower};

/// Encrypts the payload behind the headers that `rewrite` has written, and adds the tag.
/// `None`: the frame is too short.
#[inline(always)]
#[expect(clippy::too_many_arguments, reason = "inlined; a struct of them would lie on the stack, which is full")]
pub fn seal(
    frame: &Frame,
    path: &Path,
    key: &SessionKey,
    (ssrc, index): (u32, ExtendedSeq),
    rtp: [u32; 3],
    payload_len: usize,
    ahead: Option<&'static Entry>,
    tower: Option<Tower>,
) -> Option<()> {
    let header_len = usize::from(path.header_len);
    let layout = gcm::Layout { aad_offset: header_len, aad_len: FIXED_LEN, payload_len };
    let sealed = match (ahead, tower) {
        (Some(entry), Some(tower)) => {
            counters::add(Counter::SealedByRows, 1);
            tower.seal(frame, entry, rtp, layout, path.ip_version == 6)?
        }
        _ => gcm::seal(frame, key, nonce::rtp_words(&key.salt, ssrc, index), layout, ahead)?,
    };
    udp_checksum(frame, path, rtp, payload_len, sealed)
}

/// Writes the UDP checksum, where there must be one.
#[inline(always)]
pub fn udp_checksum(frame: &Frame, path: &Path, rtp: [u32; 3], payload_len: usize, sealed: gcm::Sealed) -> Option<()> {
    let header_len = usize::from(path.header_len);
    if path.ip_version != 6 {
        return Some(());
    }
    // The ciphertext starts at an even offset of the datagram; the tag does if its length is even.
    let tag = checksum::add_block(0, sealed.tag);
    let tag = if payload_len % 2 == 1 { checksum::odd(tag) } else { tag };
    let header = u64::from(rtp[0]) + u64::from(rtp[1]) + u64::from(rtp[2]);
    // The length counts twice: in the pseudo header and in the UDP header.
    let udp_len = ((8 + FIXED_LEN + payload_len + TAG_LEN) as u16).to_be();
    let base = u64::from(path.checksum_base) + 2 * u64::from(udp_len);
    let check = match checksum::finish(base + header + sealed.sum + tag) {
        // RFC 8200 §8.1: 0 would mean "no checksum".
        0 => 0xffff,
        check => check,
    };
    frame.write(header_len - 2, check)
}
