//! Constructors of the map values that hold addresses, so that only this crate knows the layouts.

use core::net::{IpAddr, SocketAddr};

use crate::{
    checksum,
    maps::{FlowKey, MAX_HEADER, Path, USUAL_MTU},
    rtp::{FIXED_LEN, TAG_LEN},
};

/// Hops that an outgoing packet may take, as Linux sends by default.
const HOP_LIMIT: u8 = 64;
const UDP: u8 = 17;

/// An address as the maps keep it: 16 bytes, IPv4 as IPv4-mapped IPv6.
pub const fn address_bytes(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

impl FlowKey {
    /// Key of an incoming SSRC (host byte order).
    pub const fn new(local: SocketAddr, peer: SocketAddr, ssrc: u32) -> Self {
        Self {
            peer: address_bytes(peer.ip()),
            local: address_bytes(local.ip()),
            peer_port: peer.port().to_be_bytes(),
            local_port: local.port().to_be_bytes(),
            ssrc: ssrc.to_be_bytes(),
        }
    }
}

/// Largest RTP payload of a packet of `mtu` bytes, of which `headers` are IP and UDP.
fn max_payload(headers: usize, mtu: u32) -> u16 {
    (mtu as usize).saturating_sub(headers + FIXED_LEN + TAG_LEN).min(usize::from(u16::MAX)) as u16
}

impl Path {
    /// The same by an interface that takes IP packets of `mtu` bytes.
    pub fn with_mtu(mut self, mtu: u32) -> Self {
        self.max_payload = max_payload(usize::from(self.header_len - self.l3_offset), mtu);
        self
    }

    /// Path from `local` to `peer`, by the interface `egress_ifindex` with address `source_mac`,
    /// over the next hop `destination_mac`. `vlan` is the 802.1Q tag control (priority and id).
    ///
    /// `None` if one address is IPv4 and the other IPv6; IPv4-mapped IPv6 counts as IPv4.
    pub fn new(
        egress_ifindex: u32,
        source_mac: [u8; 6],
        destination_mac: [u8; 6],
        vlan: Option<u16>,
        local: SocketAddr,
        peer: SocketAddr,
    ) -> Option<Self> {
        let mut header = Writer { bytes: [0; MAX_HEADER], len: 0 };
        header.put(&destination_mac);
        header.put(&source_mac);
        if let Some(tag) = vlan {
            header.put(&[0x81, 0x00]);
            header.put(&tag.to_be_bytes());
        }
        let (ip_version, l3_offset, sum) = match (local.ip().to_canonical(), peer.ip().to_canonical()) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                header.put(&[0x08, 0x00]);
                let l3 = header.len;
                // Total length, and the checksum over it, are written per packet. "Don't fragment"
                // makes the datagram atomic, so its identification may stay 0 (RFC 6864 §4.1).
                header.put(&[0x45, 0, 0, 0, 0, 0, 0x40, 0, HOP_LIMIT, UDP, 0, 0]);
                header.put(&source.octets());
                header.put(&destination.octets());
                (4, l3, checksum::add(0, &header.bytes[l3..header.len]))
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                header.put(&[0x86, 0xdd]);
                let l3 = header.len;
                header.put(&[0x60, 0, 0, 0, 0, 0, UDP, HOP_LIMIT]);
                header.put(&source.octets());
                header.put(&destination.octets());
                let sum = checksum::add(0, &header.bytes[l3 + 8..header.len]);
                let sum = checksum::add(sum, &local.port().to_be_bytes());
                let sum = checksum::add(sum, &peer.port().to_be_bytes());
                (6, l3, checksum::add(sum, &[0, UDP]))
            }
            _ => return None,
        };
        header.put(&local.port().to_be_bytes());
        header.put(&peer.port().to_be_bytes());
        header.put(&[0; 4]);
        Some(Self {
            egress_ifindex,
            header_len: header.len as u8,
            l3_offset: l3_offset as u8,
            ip_version,
            reserved: 0,
            checksum_base: u32::from(checksum::fold(sum)),
            header: header.bytes,
            max_payload: max_payload(header.len - l3_offset, USUAL_MTU),
        })
    }
}

/// Appends to a header. What does not fit would be a bug of `MAX_HEADER` and panics in any test.
struct Writer {
    bytes: [u8; MAX_HEADER],
    len: usize,
}

impl Writer {
    fn put(&mut self, bytes: &[u8]) {
        self.bytes[self.len..self.len + bytes.len()].copy_from_slice(bytes);
        self.len += bytes.len();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCE: [u8; 6] = [2, 0, 0, 0, 0, 1];
    const DESTINATION: [u8; 6] = [2, 0, 0, 0, 0, 2];

    fn path(vlan: Option<u16>, local: &str, peer: &str) -> Option<Path> {
        Path::new(7, SOURCE, DESTINATION, vlan, local.parse().unwrap(), peer.parse().unwrap())
    }

    #[test]
    fn header_lengths() {
        for (vlan, len, l3) in [(None, 42, 14), (Some(5), 46, 18)] {
            let v4 = path(vlan, "10.0.0.1:5000", "10.0.0.2:6000").unwrap();
            assert_eq!((v4.header_len, v4.l3_offset, v4.ip_version), (len, l3, 4));
            let v6 = path(vlan, "[fd00::1]:5000", "[fd00::2]:6000").unwrap();
            assert_eq!((v6.header_len, v6.l3_offset, v6.ip_version), (len + 20, l3, 6));
            assert_eq!(&v6.header[usize::from(len) + 12..usize::from(len) + 20], [0x13, 0x88, 0x17, 0x70, 0, 0, 0, 0]);
        }
    }

    #[test]
    fn ipv4_base_and_total_length_give_a_valid_header() {
        let p = path(Some(0x2005), "192.0.2.1:5000", "198.51.100.7:6000").unwrap();
        assert_eq!(p.header[12..18], [0x81, 0, 0x20, 5, 8, 0]);
        let mut ip = [0; 20];
        ip.copy_from_slice(&p.header[18..38]);
        let total = 1168u16;
        ip[2..4].copy_from_slice(&total.to_be_bytes());
        let check = checksum::finish(u64::from(p.checksum_base) + u64::from(total.to_be()));
        ip[10..12].copy_from_slice(&check.to_ne_bytes());
        assert_eq!(checksum::fold(checksum::add(0, &ip)), 0xffff);
    }

    #[test]
    fn mixed_families_have_no_path() {
        assert!(path(None, "10.0.0.1:1", "[fd00::2]:2").is_none());
        assert!(path(None, "10.0.0.1:1", "[::ffff:10.0.0.2]:2").is_some_and(|p| p.ip_version == 4));
    }

    #[test]
    fn flow_key_is_network_order() {
        let key = FlowKey::new("10.0.0.1:5000".parse().unwrap(), "[fd00::2]:6000".parse().unwrap(), 0x0102_0304);
        assert_eq!(key.local, [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 0, 0, 1]);
        assert_eq!((key.peer[0], key.peer[15]), (0xfd, 2));
        assert_eq!((key.local_port, key.peer_port, key.ssrc), ([0x13, 0x88], [0x17, 0x70], [1, 2, 3, 4]));
    }
}
