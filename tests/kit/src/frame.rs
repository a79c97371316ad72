//! Builds and reads Ethernet frames with RTP in UDP, without the product's parsers and checksums:
//! what a fixture says about a frame must not come from the code under test.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result, bail, ensure};

/// IP protocol number of UDP.
pub const UDP: u8 = 17;

/// EtherType of an 802.1Q tag.
pub const DOT1Q: u16 = 0x8100;

/// A UDP datagram in its frame. [`build`](Self::build) computes lengths and checksums; fixtures
/// that need wrong ones patch the bytes.
#[derive(Clone, Debug)]
pub struct Frame {
    pub destination_mac: [u8; 6],
    pub source_mac: [u8; 6],
    /// (EtherType of the tag, tag control), outermost first.
    pub tags: Vec<(u16, u16)>,
    pub source: SocketAddr,
    pub destination: SocketAddr,
    /// DS field (RFC 2474), of a frame that came.
    pub ds: u8,
    /// IPv4 options, a multiple of 4 bytes.
    pub ip_options: Vec<u8>,
    /// IPv4 flags and fragment offset field.
    pub fragment: u16,
    /// IPv6 extension headers: (type, whole header with any first byte: it is filled in).
    pub extensions: Vec<(u8, Vec<u8>)>,
    /// Transport protocol that the IP header announces.
    pub protocol: u8,
    /// UDP payload.
    pub payload: Vec<u8>,
    /// Bytes behind the IP packet: Ethernet padding.
    pub trailer: Vec<u8>,
}

impl Frame {
    /// A plain datagram.
    pub fn new(source: SocketAddr, destination: SocketAddr, payload: Vec<u8>) -> Self {
        Self {
            destination_mac: [2, 0, 0, 0, 0, 1],
            source_mac: [2, 0, 0, 0, 0, 2],
            tags: Vec::new(),
            source,
            destination,
            ds: 0,
            ip_options: Vec::new(),
            fragment: 0,
            extensions: Vec::new(),
            protocol: UDP,
            payload,
            trailer: Vec::new(),
        }
    }

    /// Offset of the IP header.
    pub fn l3(&self) -> usize {
        14 + 4 * self.tags.len()
    }

    /// Offset of the UDP header.
    pub fn l4(&self) -> usize {
        let ip = match self.source {
            SocketAddr::V4(_) => 20 + self.ip_options.len(),
            SocketAddr::V6(_) => 40 + self.extensions.iter().map(|(_, header)| header.len()).sum::<usize>(),
        };
        self.l3() + ip
    }

    /// Offset of the UDP payload.
    pub fn l5(&self) -> usize {
        self.l4() + 8
    }

    /// The bytes on the wire, without the frame check sequence.
    pub fn build(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.l5() + self.payload.len());
        out.extend(self.destination_mac);
        out.extend(self.source_mac);
        for (ethertype, control) in &self.tags {
            out.extend(ethertype.to_be_bytes());
            out.extend(control.to_be_bytes());
        }
        let udp_len = 8 + self.payload.len();
        match (self.source.ip(), self.destination.ip()) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                out.extend([0x08, 0x00]);
                let header_len = 20 + self.ip_options.len();
                let mut ip = vec![0x40 | (header_len / 4) as u8, 0];
                ip.extend(((header_len + udp_len) as u16).to_be_bytes());
                ip.extend([0x12, 0x34]);
                ip.extend(self.fragment.to_be_bytes());
                ip.extend([63, self.protocol, 0, 0]);
                ip.extend(source.octets());
                ip.extend(destination.octets());
                ip.extend(&self.ip_options);
                let sum = checksum(&ip);
                ip[10..12].copy_from_slice(&sum.to_be_bytes());
                out.extend(ip);
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                out.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
                let len = self.extensions.iter().map(|(_, header)| header.len()).sum::<usize>() + udp_len;
                out.extend((len as u16).to_be_bytes());
                out.push(self.extensions.first().map_or(self.protocol, |(kind, _)| *kind));
                out.push(63);
                out.extend(source.octets());
                out.extend(destination.octets());
                for (i, (_, header)) in self.extensions.iter().enumerate() {
                    out.push(self.extensions.get(i + 1).map_or(self.protocol, |(kind, _)| *kind));
                    out.extend(&header[1..]);
                }
            }
            other => panic!("a frame has one IP version: {other:?}"),
        }
        let mut udp = Vec::with_capacity(udp_len);
        udp.extend(self.source.port().to_be_bytes());
        udp.extend(self.destination.port().to_be_bytes());
        udp.extend((udp_len as u16).to_be_bytes());
        udp.extend([0, 0]);
        udp.extend(&self.payload);
        let sum = udp_checksum(self.source.ip(), self.destination.ip(), &udp);
        udp[6..8].copy_from_slice(&sum.to_be_bytes());
        out.extend(udp);
        out.extend(&self.trailer);
        out
    }

    /// Reads a frame that someone else built, and checks everything in it that can be wrong:
    /// lengths, IPv4 header checksum, UDP checksum (0 only in IPv4).
    ///
    /// # Errors
    /// Names the field.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let mut tags = Vec::new();
        let mut at = 12;
        let ethertype = loop {
            let ethertype = be16(bytes, at)?;
            at += 2;
            if ethertype != DOT1Q {
                break ethertype;
            }
            tags.push((ethertype, be16(bytes, at)?));
            at += 2;
        };
        let ip = &bytes[at..];
        let (source, destination, header_len, ip_len, fragment) = match ethertype {
            0x0800 => {
                ensure!(ip.len() >= 20 && ip[0] == 0x45, "IPv4 header of 20 bytes");
                ensure!(checksum(&ip[..20]) == 0, "IPv4 header checksum");
                ensure!(ip[9] == UDP, "protocol {}", ip[9]);
                (address::<4>(ip, 12), address::<4>(ip, 16), 20, usize::from(be16(ip, 2)?), be16(ip, 6)?)
            }
            0x86dd => {
                ensure!(ip.len() >= 40 && ip[0] >> 4 == 6, "IPv6 header");
                ensure!(ip[6] == UDP, "next header {}", ip[6]);
                (address::<16>(ip, 8), address::<16>(ip, 24), 40, 40 + usize::from(be16(ip, 4)?), 0)
            }
            other => bail!("EtherType {other:#06x}"),
        };
        ensure!(ip.len() >= ip_len && ip_len >= header_len + 8, "IP length {ip_len} of {} bytes", ip.len());
        let udp = &ip[header_len..ip_len];
        ensure!(usize::from(be16(udp, 4)?) == udp.len(), "UDP length {} of {}", be16(udp, 4)?, udp.len());
        match be16(udp, 6)? {
            0 => ensure!(ethertype == 0x0800, "UDP checksum 0 in IPv6 (RFC 8200 §8.1)"),
            // A right checksum makes the sum all ones, so its complement is 0.
            _ => ensure!(raw_udp_checksum(source, destination, udp) == 0, "UDP checksum"),
        }
        Ok(Self {
            destination_mac: bytes[..6].try_into()?,
            source_mac: bytes[6..12].try_into()?,
            tags,
            source: SocketAddr::new(source, be16(udp, 0)?),
            destination: SocketAddr::new(destination, be16(udp, 2)?),
            ds: if ethertype == 0x0800 { ip[1] } else { ip[0] << 4 | ip[1] >> 4 },
            ip_options: Vec::new(),
            fragment,
            extensions: Vec::new(),
            protocol: UDP,
            payload: udp[8..].to_vec(),
            trailer: ip[ip_len..].to_vec(),
        })
    }
}

fn be16(bytes: &[u8], at: usize) -> Result<u16> {
    let pair = bytes.get(at..at + 2).with_context(|| format!("frame ends before byte {}", at + 2))?;
    Ok(u16::from_be_bytes([pair[0], pair[1]]))
}

fn address<const N: usize>(bytes: &[u8], at: usize) -> IpAddr
where
    IpAddr: From<[u8; N]>,
{
    let octets: [u8; N] = bytes[at..at + N].try_into().expect("N bytes");
    IpAddr::from(octets)
}

/// RFC 1071, in big-endian words.
fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    !(sum as u16)
}

fn raw_udp_checksum(source: IpAddr, destination: IpAddr, udp: &[u8]) -> u16 {
    let mut bytes = Vec::with_capacity(40 + udp.len());
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            bytes.extend(source.octets());
            bytes.extend(destination.octets());
            bytes.extend([0, UDP]);
            bytes.extend((udp.len() as u16).to_be_bytes());
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            bytes.extend(source.octets());
            bytes.extend(destination.octets());
            bytes.extend((udp.len() as u32).to_be_bytes());
            bytes.extend([0, 0, 0, UDP]);
        }
        other => panic!("a datagram has one IP version: {other:?}"),
    }
    bytes.extend(udp);
    checksum(&bytes)
}

fn udp_checksum(source: IpAddr, destination: IpAddr, udp: &[u8]) -> u16 {
    match raw_udp_checksum(source, destination, udp) {
        0 => 0xffff,
        sum => sum,
    }
}

/// An RTP header (RFC 3550 §5.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rtp {
    pub padding: bool,
    pub csrcs: Vec<u32>,
    /// (profile, contents: a multiple of 4 bytes)
    pub extension: Option<(u16, Vec<u8>)>,
    pub marker: bool,
    pub payload_type: u8,
    pub seq: u16,
    pub timestamp: u32,
    pub ssrc: u32,
}

impl Rtp {
    /// A header with nothing optional.
    pub fn new(payload_type: u8, seq: u16, timestamp: u32, ssrc: u32) -> Self {
        Self { padding: false, csrcs: Vec::new(), extension: None, marker: false, payload_type, seq, timestamp, ssrc }
    }

    /// The bytes of the header with CSRC list and extension.
    pub fn build(&self) -> Vec<u8> {
        let flags = u8::from(self.padding) << 5 | u8::from(self.extension.is_some()) << 4;
        let mut out = vec![0x80 | flags | self.csrcs.len() as u8, u8::from(self.marker) << 7 | self.payload_type];
        out.extend(self.seq.to_be_bytes());
        out.extend(self.timestamp.to_be_bytes());
        out.extend(self.ssrc.to_be_bytes());
        out.extend(self.csrcs.iter().flat_map(|csrc| csrc.to_be_bytes()));
        if let Some((profile, contents)) = &self.extension {
            out.extend(profile.to_be_bytes());
            out.extend(((contents.len() / 4) as u16).to_be_bytes());
            out.extend(contents);
        }
        out
    }

    /// Reads a header without CSRC list and extension, the only kind that the datapath sends.
    ///
    /// # Errors
    /// When it has either, is not version 2, or is too short.
    pub fn parse_plain(packet: &[u8]) -> Result<Self> {
        ensure!(packet.len() >= 12, "{} bytes of RTP", packet.len());
        ensure!(packet[0] & 0xdf == 0x80, "first RTP byte {:#04x}", packet[0]);
        let word = |at: usize| u32::from_be_bytes([packet[at], packet[at + 1], packet[at + 2], packet[at + 3]]);
        Ok(Self {
            padding: packet[0] & 0x20 != 0,
            marker: packet[1] & 0x80 != 0,
            ..Self::new(packet[1] & 0x7f, be16(packet, 2)?, word(4), word(8))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAIRS: [(&str, &str); 2] = [("10.0.0.1:4000", "10.0.0.2:5000"), ("[fd00::1]:4000", "[fd00::2]:5000")];

    #[test]
    fn frames_survive_the_way_there_and_back() -> Result<()> {
        for (source, destination) in PAIRS {
            for len in [0, 1, 2, 101] {
                let mut frame = Frame::new(source.parse()?, destination.parse()?, vec![0xa5; len]);
                frame.tags = vec![(DOT1Q, 0x2005)];
                frame.trailer = vec![0; 3];
                let bytes = frame.build();
                assert_eq!(bytes.len(), frame.l5() + len + 3);
                assert_eq!(Frame::parse(&bytes)?.build(), bytes);
            }
        }
        Ok(())
    }

    #[test]
    fn parse_finds_each_wrong_checksum() -> Result<()> {
        for (source, destination) in PAIRS {
            let frame = Frame::new(source.parse()?, destination.parse()?, vec![7; 33]);
            let bytes = frame.build();
            for at in (frame.l3()..bytes.len()).filter(|at| ![frame.l4() + 6, frame.l4() + 7].contains(at)) {
                // Traffic class, flow label and hop limit are in no checksum of IPv6.
                let unprotected = frame.source.is_ipv6() && [0, 1, 2, 3, 7].contains(&(at - frame.l3()));
                let mut wrong = bytes.clone();
                wrong[at] ^= 0x01;
                assert!(unprotected || Frame::parse(&wrong).is_err(), "byte {at}");
            }
        }
        Ok(())
    }

    #[test]
    fn rtp_headers() -> Result<()> {
        let mut rtp = Rtp::new(96, 0xfffe, 0x0102_0304, 0x0506_0708);
        (rtp.marker, rtp.padding) = (true, true);
        assert_eq!(rtp.build(), [0xa0, 0xe0, 0xff, 0xfe, 1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(Rtp::parse_plain(&rtp.build())?, rtp);
        rtp.csrcs = vec![9];
        rtp.extension = Some((0xbede, vec![1, 2, 3, 4]));
        let expected = [0xb1, 0xe0, 0xff, 0xfe, 1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 0, 9, 0xbe, 0xde, 0, 1, 1, 2, 3, 4];
        assert_eq!(rtp.build(), expected);
        assert!(Rtp::parse_plain(&rtp.build()).is_err());
        Ok(())
    }
}
