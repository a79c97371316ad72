//! Load generator, server and receivers, each in a network namespace of its own.

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::{Context, Result};
use tests_kit::{
    netns::{End, NetNs, veth},
    srtp::Key,
};

/// UDP port of the server.
pub const MEDIA_PORT: u16 = 8443;
/// Publisher `s` sends from this port + `s`.
pub const PUBLISHER_PORT: u16 = 20_000;
/// Viewer `v` of stream `s` listens at this port + `s` × viewers + `v`.
pub const VIEWER_PORT: u16 = 30_000;
/// Index of the packet before a publisher's first one. Outgoing indices are the same as incoming ones,
/// so that a copy's sequence number says which packet it is.
pub const BEFORE_FIRST: u64 = 1000;
/// Length of the RTP header.
pub const HEADER: usize = 12;
/// Payload type of all media.
pub const PAYLOAD_TYPE: u8 = 96;

const GENERATOR: Ipv4Addr = Ipv4Addr::new(10, 81, 0, 2);
const TO_GENERATOR: Ipv4Addr = Ipv4Addr::new(10, 81, 0, 1);
const TO_RECEIVERS: Ipv4Addr = Ipv4Addr::new(10, 82, 0, 1);
const RECEIVERS: Ipv4Addr = Ipv4Addr::new(10, 82, 0, 2);

/// Ethernet addresses, so that frames can be made before there is a network.
pub const SERVER_IN_MAC: [u8; 6] = [2, 0, 0, 81, 0, 1];
pub const GENERATOR_MAC: [u8; 6] = [2, 0, 0, 81, 0, 2];
pub const SERVER_OUT_MAC: [u8; 6] = [2, 0, 0, 82, 0, 1];
pub const RECEIVER_MAC: [u8; 6] = [2, 0, 0, 82, 0, 2];

/// Interfaces of the server.
pub const IN: &str = "s0";
pub const OUT: &str = "s1";
/// What is at their far ends.
pub const GENERATOR_INTERFACE: &str = "g0";
pub const RECEIVER_INTERFACE: &str = "v0";

/// Where the server hears publishers, and from where it sends to viewers.
pub fn locals() -> [SocketAddr; 2] {
    [TO_GENERATOR, TO_RECEIVERS].map(|ip| (ip, MEDIA_PORT).into())
}

/// Address of a publisher.
pub fn publisher(stream: u32) -> SocketAddr {
    (GENERATOR, PUBLISHER_PORT + stream as u16).into()
}

/// Address of a viewer, by its number among all.
pub fn viewer(number: u32) -> SocketAddr {
    (RECEIVERS, VIEWER_PORT + number as u16).into()
}

/// Key of a publisher.
pub fn publisher_key(stream: u32) -> Key {
    Key::test(16, 1 << 20 | stream)
}

/// Key of a viewer.
pub fn viewer_key(number: u32) -> Key {
    Key::test(16, 1 << 21 | number)
}

/// SSRC of a publisher.
pub fn publisher_ssrc(stream: u32) -> u32 {
    0x1000_0000 | stream
}

/// SSRC of what a viewer receives.
pub fn viewer_ssrc(number: u32) -> u32 {
    0x2000_0000 | number
}

/// RTP timestamp of a packet.
pub fn timestamp(index: u64) -> u32 {
    (index as u32).wrapping_mul(900)
}

/// RTP header and plaintext of any packet, to be [`stamp`]ed.
pub fn blank(payload: usize) -> Vec<u8> {
    let mut packet = vec![0x80, PAYLOAD_TYPE | 0x80];
    packet.extend((packet.len()..HEADER + payload).map(|place| (place * 7) as u8));
    packet
}

/// Makes a packet the one with this index: in the header, and in the first bytes of the payload.
pub fn stamp(packet: &mut [u8], stream: u32, ssrc: u32, index: u64) {
    packet[2..4].copy_from_slice(&(index as u16).to_be_bytes());
    packet[4..8].copy_from_slice(&timestamp(index).to_be_bytes());
    packet[8..12].copy_from_slice(&ssrc.to_be_bytes());
    packet[12..16].copy_from_slice(&stream.to_be_bytes());
    packet[16..24].copy_from_slice(&index.to_be_bytes());
}

/// How packets get to the receivers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// As XDP frames: the receiver's end has an XDP program.
    Xdp,
    /// From the network stack, which leaves checksums to the device, as with most network cards.
    Stack,
    /// Either way, whole: someone reads them.
    Whole,
}

/// The networks. Dropping them removes everything.
pub struct Scene {
    pub server: NetNs,
    pub generator: NetNs,
    pub receivers: NetNs,
}

impl Scene {
    /// Makes generator ── server ── receivers.
    ///
    /// # Errors
    /// Without root, or when `ip` fails.
    pub fn new(arrival: Arrival) -> Result<Self> {
        let (server, generator, receivers) =
            (NetNs::new("server")?, NetNs::new("generator")?, NetNs::new("receivers")?);
        for namespace in [&server, &generator, &receivers] {
            // Its announcements would be counted as the server's traffic.
            let quiet = || std::fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1");
            namespace.run(quiet).context("switching IPv6 off")?;
        }
        let links = [
            ((IN, TO_GENERATOR, SERVER_IN_MAC), (&generator, GENERATOR_INTERFACE, GENERATOR, GENERATOR_MAC)),
            ((OUT, TO_RECEIVERS, SERVER_OUT_MAC), (&receivers, RECEIVER_INTERFACE, RECEIVERS, RECEIVER_MAC)),
        ];
        for ((near, near_ip, near_mac), (namespace, far, far_ip, far_mac)) in links {
            let (here, there) = (format!("{near_ip}/24"), format!("{far_ip}/24"));
            veth(
                End { namespace: &server, interface: near, addresses: &[&here] },
                End { namespace, interface: far, addresses: &[&there] },
            )?;
            server.ip(["link", "set", near, "address", &text(near_mac)])?;
            namespace.ip(["link", "set", far, "address", &text(far_mac)])?;
            // Nobody asks for addresses while something is measured.
            let (near_mac, far_mac, near_ip, far_ip) =
                (text(near_mac), text(far_mac), near_ip.to_string(), far_ip.to_string());
            server.ip(["neigh", "replace", &far_ip, "lladdr", &far_mac, "dev", near, "nud", "permanent"])?;
            namespace.ip(["neigh", "replace", &near_ip, "lladdr", &near_mac, "dev", far, "nud", "permanent"])?;
        }
        if arrival == Arrival::Stack {
            server.ethtool(["-K", OUT, "tx", "on"])?;
            receivers.ethtool(["-K", RECEIVER_INTERFACE, "gro", "off"])?;
        }
        Ok(Self { server, generator, receivers })
    }

    /// Packets that did not fit into a ring or a buffer.
    ///
    /// # Errors
    /// When `ip` fails.
    pub fn overflows(&self) -> Result<u64> {
        let mut packets = 0;
        for namespace in [&self.server, &self.generator, &self.receivers] {
            packets += namespace.drops()?.values().sum::<u64>();
        }
        Ok(packets)
    }
}

fn text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}
