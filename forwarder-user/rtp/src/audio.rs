//! Sound: each packet is a frame by itself.

use super::{
    Incoming, MAX_PAYLOAD, Unfit,
    clock::Hint,
    frames::{Frames, Out},
};

/// Sound whose packets may be cut between any two bytes: of G.711 each is a sample, of G.722 two, and in all of them
/// one unit of the clock (RFC 3551 §4.5.2, §4.5.14).
///
/// # Errors
/// [`Unfit::Empty`].
pub(crate) fn bytewise(
    packet: &Incoming<'_>,
    former: &mut u32,
    frames: &mut Frames,
    out: &mut Out<'_>,
) -> Result<(), Unfit> {
    let len = packet.payload.len();
    if len == 0 {
        return Err(Unfit::Empty);
    }
    let duration = Some(std::mem::replace(former, len as u32)).filter(|former| *former > 0);
    frames.begin(packet.timestamp, Hint { duration, ..Hint::default() }, out);
    let size = len.div_ceil(len.div_ceil(MAX_PAYLOAD));
    for (number, piece) in packet.payload.chunks(size).enumerate() {
        frames.push_whole(piece, packet.marker && number == 0, (number * size) as u32, out);
    }
    Ok(())
}

/// Sound that cannot be cut.
///
/// # Errors
/// [`Unfit::Empty`], [`Unfit::TooLong`].
pub(crate) fn whole(packet: &Incoming<'_>, frames: &mut Frames, out: &mut Out<'_>) -> Result<(), Unfit> {
    packet.fits()?;
    frames.begin(packet.timestamp, Hint::default(), out);
    frames.push_whole(packet.payload, packet.marker, 0, out);
    Ok(())
}
