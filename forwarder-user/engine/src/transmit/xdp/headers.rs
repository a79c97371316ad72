//! Headers of a frame, from its path's template, as `forwarder-ebpf/src/rewrite.rs` writes them.

use forwarder_common::{checksum, maps::Path};

/// Length of the UDP header.
const UDP_LEN: usize = 8;
const IPV4_LEN: usize = 20;

/// Writes everything in front of a UDP payload of `len` bytes. The UDP checksum stays 0, which is final
/// for IPv4. `ds`: the DS field (RFC 2474). `None`: the frame has no room, or the path is broken.
pub(super) fn write(frame: &mut [u8], (path, ds): (&Path, u8), len: usize) -> Option<()> {
    let (header_len, l3) = (usize::from(path.header_len), usize::from(path.l3_offset));
    let header = frame.get_mut(..header_len)?;
    header.copy_from_slice(path.header.get(..header_len)?);
    let udp_len = u16::try_from(UDP_LEN + len).ok()?;
    if path.ip_version == 4 {
        let total_len = (IPV4_LEN as u16 + udp_len).to_be_bytes();
        let sum = u64::from(u16::from_ne_bytes(total_len)) + u64::from(u16::from(ds).to_be());
        let check = checksum::finish(u64::from(path.checksum_base) + sum);
        *header.get_mut(l3 + 1)? = ds;
        header.get_mut(l3 + 2..l3 + 4)?.copy_from_slice(&total_len);
        header.get_mut(l3 + 10..l3 + 12)?.copy_from_slice(&check.to_ne_bytes());
    } else {
        header.get_mut(l3..l3 + 2)?.copy_from_slice(&[0x60 | ds >> 4, ds << 4]);
        header.get_mut(l3 + 4..l3 + 6)?.copy_from_slice(&udp_len.to_be_bytes());
    }
    header.get_mut(header_len - 4..header_len - 2)?.copy_from_slice(&udp_len.to_be_bytes());
    Some(())
}

/// What is left to do when the payload of an IPv6 frame is finished.
#[derive(Clone, Copy)]
pub(super) struct Checksum {
    header_len: usize,
    /// Of the pseudo header and the ports.
    base: u32,
}

impl Checksum {
    /// `None`: over IPv4 it stays 0.
    pub(super) fn of(path: &Path) -> Option<Self> {
        (path.ip_version == 6).then_some(Self { header_len: path.header_len.into(), base: path.checksum_base })
    }

    /// Fills in the UDP checksum that IPv6 asks for (RFC 8200 §8.1). `None`: the frame is too short.
    pub(super) fn fill_in(&self, frame: &mut [u8]) -> Option<()> {
        let udp_len = (UDP_LEN + frame.len().checked_sub(self.header_len)?) as u16;
        // The length counts twice: in the pseudo header and in the UDP header.
        let base = u64::from(self.base) + 2 * u64::from(udp_len.to_be());
        let check = match checksum::finish(checksum::add(base, frame.get(self.header_len..)?)) {
            // 0 would mean "no checksum".
            0 => 0xffff,
            check => check,
        };
        frame.get_mut(self.header_len - 2..self.header_len)?.copy_from_slice(&check.to_ne_bytes());
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(local: &str, peer: &str, vlan: Option<u16>) -> Path {
        let (local, peer) = (local.parse().unwrap(), peer.parse().unwrap());
        Path::new(3, [2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2], vlan, local, peer).unwrap()
    }

    #[test]
    fn ipv4_headers_check_out() {
        for vlan in [None, Some(7)] {
            let path = path("192.0.2.1:5004", "198.51.100.9:6000", vlan);
            let mut frame = vec![0xaa; usize::from(path.header_len) + 100];
            write(&mut frame, (&path, 184), 100).unwrap();
            assert!(Checksum::of(&path).is_none());
            let l3 = usize::from(path.l3_offset);
            assert_eq!(frame[l3 + 1], 184);
            assert_eq!(frame[l3 + 2..l3 + 4], 128u16.to_be_bytes());
            assert_eq!(checksum::fold(checksum::add(0, &frame[l3..l3 + 20])), 0xffff);
            assert_eq!(frame[l3 + 24..l3 + 28], [0, 108, 0, 0]);
            assert!(frame[l3 + 28..].iter().all(|byte| *byte == 0xaa));
        }
    }

    #[test]
    fn ipv6_checksums_cover_pseudo_header_and_payload() {
        for len in [1, 99, 100, 1200] {
            let path = path("[fd00::1]:5004", "[fd00::2]:6000", None);
            let mut frame: Vec<u8> = (0..usize::from(path.header_len) + len).map(|i| (i * 7) as u8).collect();
            write(&mut frame, (&path, 0x88), len).unwrap();
            assert_eq!(frame[14..18], [0x68, 0x80, 0, 0]);
            Checksum::of(&path).unwrap().fill_in(&mut frame).unwrap();
            // Pseudo header: addresses, length, next header.
            let mut sum = checksum::add(0, &frame[22..54]);
            sum = checksum::add(sum, &((8 + len) as u32).to_be_bytes());
            sum = checksum::add(sum, &17u32.to_be_bytes());
            sum = checksum::add(sum, &frame[54..]);
            assert_eq!(checksum::fold(sum), 0xffff, "{len}");
        }
    }

    #[test]
    fn no_room_is_no_panic() {
        let path = path("[fd00::1]:5004", "[fd00::2]:6000", None);
        assert_eq!(write(&mut [0; 61], (&path, 0), 10), None);
        assert_eq!(Checksum::of(&path).unwrap().fill_in(&mut [0; 20]), None);
        assert_eq!(write(&mut [0; 100], (&path, 0), 70_000), None);
    }
}
