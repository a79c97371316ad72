//! Packets in a stream of bytes (RFC 4571): each has its length in front, in two bytes.

/// Longest packet that is taken. Media stays within what a datagram holds; DTLS records may be longer.
pub const MAX_PACKET: usize = 4096;

/// Bytes in front of each packet.
pub(crate) const PREFIX: usize = 2;

/// A peer announces a packet above [`MAX_PACKET`]: whatever it speaks, it is not this.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a packet of {0} bytes")]
pub struct TooLong(pub usize);

/// Finds the packets of one connection, however its bytes are cut.
#[derive(Debug, Default)]
pub struct Deframer {
    /// The beginning of a packet of which the rest has not come.
    begun: Vec<u8>,
}

impl Deframer {
    /// Takes the next bytes, and gives each packet that they complete; empty ones are left out. `each` may change them.
    ///
    /// # Errors
    /// [`TooLong`]: nothing that follows can be read.
    pub fn take(&mut self, mut bytes: &mut [u8], mut each: impl FnMut(&mut [u8])) -> Result<(), TooLong> {
        while !self.begun.is_empty() && !bytes.is_empty() {
            let whole = whole(&self.begun)?.unwrap_or(PREFIX);
            let (now, rest) = bytes.split_at_mut((whole - self.begun.len()).min(bytes.len()));
            self.begun.extend_from_slice(now);
            bytes = rest;
            if self::whole(&self.begun)? == Some(self.begun.len()) {
                if let Some(packet) = self.begun.get_mut(PREFIX..).filter(|packet| !packet.is_empty()) {
                    each(packet);
                }
                self.begun.clear();
            }
        }
        while let Some(whole) = whole(bytes)?.filter(|whole| *whole <= bytes.len()) {
            let (frame, rest) = bytes.split_at_mut(whole);
            if let Some(packet) = frame.get_mut(PREFIX..).filter(|packet| !packet.is_empty()) {
                each(packet);
            }
            bytes = rest;
        }
        self.begun.extend_from_slice(bytes);
        if self.begun.is_empty() {
            // Hundreds of connections keep nothing between two packets.
            self.begun = Vec::new();
        }
        Ok(())
    }
}

/// Length of the frame that begins here, its prefix included. `None`: its prefix is not there yet.
fn whole(frame: &[u8]) -> Result<Option<usize>, TooLong> {
    match frame.first_chunk() {
        None => Ok(None),
        Some(prefix) => match usize::from(u16::from_be_bytes(*prefix)) {
            len if len > MAX_PACKET => Err(TooLong(len)),
            len => Ok(Some(PREFIX + len)),
        },
    }
}

/// Frames in a row, each whole with its prefix.
pub(crate) fn frames(mut bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let len = PREFIX + usize::from(u16::from_be_bytes(*bytes.first_chunk()?));
        let (frame, rest) = bytes.split_at_checked(len)?;
        bytes = rest;
        Some(frame)
    })
}

/// Length of the last of them.
pub(crate) fn last_frame(bytes: &[u8]) -> usize {
    frames(bytes).last().map_or(0, <[u8]>::len)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn framed(packets: &[&[u8]]) -> Vec<u8> {
        packets.iter().flat_map(|packet| [&(packet.len() as u16).to_be_bytes()[..], packet].concat()).collect()
    }

    fn read(bytes: &[u8], cut: usize) -> Result<Vec<Vec<u8>>, TooLong> {
        let (mut deframer, mut packets) = (Deframer::default(), vec![]);
        for part in bytes.chunks(cut) {
            deframer.take(&mut part.to_vec(), |packet| packets.push(packet.to_vec()))?;
        }
        assert!(deframer.begun.is_empty());
        Ok(packets)
    }

    #[test]
    fn packets_are_found_however_the_bytes_are_cut() {
        let long = vec![7; MAX_PACKET];
        let packets: [&[u8]; 5] = [b"one", b"", &long, b"x", b"the last"];
        let wanted: Vec<&[u8]> = packets.iter().copied().filter(|packet| !packet.is_empty()).collect();
        for cut in [1, 2, 3, 5, 100, 4097, 10_000] {
            assert_eq!(read(&framed(&packets), cut).unwrap(), wanted, "{cut}");
        }
        assert_eq!(frames(&framed(&packets)).count(), 5);
    }

    #[test]
    fn what_is_too_long_ends_it_and_takes_no_memory() {
        let mut bytes = framed(&[b"ok"]);
        bytes.extend([0xff, 0xff, 1, 2, 3]);
        for cut in [1, 2, 3, 100] {
            assert_eq!(read(&bytes, cut), Err(TooLong(0xffff)));
        }
        let http = b"GET / HTTP/1.1\r\n";
        assert!(read(http, 100).is_err());
    }
}
