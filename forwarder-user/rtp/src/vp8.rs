//! VP8 (RFC 7741): payloads that are too long for a browser's path are cut, as their sender should have done.

use super::{MAX_PAYLOAD, Unfit};

/// S: a partition begins in this packet.
const START: u8 = 0x10;

/// Cuts a payload into pieces that fit.
///
/// # Errors
/// [`Unfit::Malformed`].
pub(crate) fn cut(marker: bool, payload: &[u8], send: &mut dyn FnMut(bool, &[u8])) -> Result<(), Unfit> {
    let len = descriptor_len(payload).filter(|len| *len < payload.len()).ok_or(Unfit::Malformed)?;
    if payload.len() <= MAX_PAYLOAD {
        send(marker, payload);
        return Ok(());
    }
    let (descriptor, data) = payload.split_at(len);
    let mut pieces = data.chunks(MAX_PAYLOAD - len).peekable();
    let mut piece = descriptor.to_vec();
    while let Some(data) = pieces.next() {
        piece.truncate(len);
        piece.extend_from_slice(data);
        send(marker && pieces.peek().is_none(), &piece);
        piece[0] &= !START;
    }
    Ok(())
}

/// Whether a keyframe begins in a payload: the first bit of its header (RFC 6386 §9.1) is 0.
pub(crate) fn is_key(payload: &[u8]) -> bool {
    /// S, and the partition's number.
    const FIRST_PARTITION: u8 = START | 0x0f;
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

#[cfg(test)]
mod tests {
    use super::*;

    fn pieces(payload: &[u8]) -> Vec<(bool, Vec<u8>)> {
        let mut sent = vec![];
        cut(true, payload, &mut |marker, piece| sent.push((marker, piece.to_vec()))).unwrap();
        sent
    }

    #[test]
    fn what_fits_passes_as_it_is() {
        let payload = [&[0x10][..], &[7; 1199]].concat();
        assert_eq!(pieces(&payload), [(true, payload)]);
    }

    #[test]
    fn what_is_too_long_is_cut_behind_its_descriptor() {
        for descriptor in
            [&[0x10][..], &[0x90, 0x80, 0x81, 2], &[0x90, 0x80, 3], &[0x90, 0xf0, 0x81, 2, 3, 4], &[0x80, 0x20, 9]]
        {
            let data: Vec<u8> = (0..3000u32).map(|at| at as u8).collect();
            let sent = pieces(&[descriptor, &data[..]].concat());
            assert_eq!(sent.iter().map(|(marker, _)| *marker).collect::<Vec<_>>(), [false, false, true]);
            let joined: Vec<u8> = sent.iter().flat_map(|(_, piece)| &piece[descriptor.len()..]).copied().collect();
            assert_eq!(joined, data);
            for (number, (_, piece)) in sent.iter().enumerate() {
                assert!(piece.len() <= MAX_PAYLOAD);
                assert_eq!(piece[0], if number == 0 { descriptor[0] } else { descriptor[0] & !START });
                assert_eq!(piece[1..descriptor.len()], descriptor[1..]);
            }
        }
    }

    #[test]
    fn descriptors_without_data_are_malformed() {
        for payload in [&[][..], &[0x10], &[0x90], &[0x90, 0x80], &[0x90, 0x80, 0x81], &[0x90, 0xf0, 1, 2, 3]] {
            assert_eq!(cut(true, payload, &mut |_, _| panic!("sent")), Err(Unfit::Malformed));
        }
    }
}
