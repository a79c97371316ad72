//! Ethernet, 802.1Q, IP, UDP, RFC 7983: is this frame RTP for us?
//!
//! Nothing is changed here, and whatever is not ours passes to the network stack as it came.
//! IP and UDP checksums are not verified: the packet must match a known flow, and then its tag,
//! which is stronger than both.

use core::mem::offset_of;

use forwarder_common::{
    Counter, RtpHeader,
    maps::FlowKey,
    rtp::{FIXED_LEN, Protocol, protocol},
};
use network_types::{
    eth::EthHdr,
    ip::{Ipv4Hdr, Ipv6Hdr},
    udp::UdpHdr,
};

use crate::{maps::MEDIA_PORT, packet::Frame};

const VLAN_LEN: usize = 4;
const UDP: u8 = 17;
const FRAGMENT_HEADER: u8 = 44;
/// IPv6 extension headers other than the fragment header (IANA): hop-by-hop, routing, AH,
/// destination options, mobility, HIP, shim6.
const EXTENSION_HEADERS: [u8; 7] = [0, 43, 51, 60, 135, 139, 140];
/// More-fragments bit and fragment offset.
const FRAGMENT_BITS: u16 = 0x3fff;

/// An RTP packet to our port.
#[derive(Clone, Copy)]
pub struct Rtp {
    /// Where it starts in the frame.
    pub offset: usize,
    /// Its length by the UDP header; the frame may be longer.
    pub len: usize,
    pub header: RtpHeader,
}

/// 16 bytes of memory as two words: the BPF stack takes aligned accesses only, and LLVM would cut byte
/// arrays into others.
type Address = [u64; 2];

/// IP payload: where it is, and who sends it to whom.
struct IpPayload {
    offset: usize,
    len: usize,
    source: Address,
    destination: Address,
}

/// Finds the RTP packet in a frame and whose it is, or says what the frame is instead.
#[inline(always)]
pub fn classify(frame: &Frame) -> Result<(Rtp, FlowKey), Counter> {
    let (ether_type, offset) = ethernet(frame)?;
    let ip = match ether_type {
        0x0800 => ipv4(frame, offset)?,
        0x86dd => ipv6(frame, offset)?,
        _ => return Err(Counter::PassNotIp),
    };
    let udp: &UdpHdr = frame.view(ip.offset).ok_or(Counter::PassTruncated)?;
    if udp.dst_port() != MEDIA_PORT.load() {
        return Err(Counter::PassOtherPort);
    }
    let udp_len = usize::from(udp.len());
    if udp_len < UdpHdr::LEN || udp_len > ip.len {
        return Err(Counter::PassMalformedUdp);
    }
    let (offset, len) = (ip.offset + UdpHdr::LEN, udp_len - UdpHdr::LEN);
    let header = rtp(frame, offset, len)?;
    let flow = flow_key(&ip, udp, header.ssrc());
    Ok((Rtp { offset: frame.forget(offset), len, header }, flow))
}

/// EtherType, and where its payload starts. Of two stacked tags the second stays the EtherType, which
/// is then not IP.
#[inline(always)]
fn ethernet(frame: &Frame) -> Result<(u16, usize), Counter> {
    const AT: usize = offset_of!(EthHdr, ether_type);
    let tagged = |at| frame.read::<[u8; 2]>(at).map(u16::from_be_bytes).ok_or(Counter::PassTruncated);
    match tagged(AT)? {
        0x8100 => Ok((tagged(AT + VLAN_LEN)?, EthHdr::LEN + VLAN_LEN)),
        ether_type => Ok((ether_type, EthHdr::LEN)),
    }
}

#[inline(always)]
fn ipv4(frame: &Frame, offset: usize) -> Result<IpPayload, Counter> {
    let ip: &Ipv4Hdr = frame.view(offset).ok_or(Counter::PassTruncated)?;
    let total = usize::from(ip.tot_len());
    let header_len = usize::from(ip.vihl & 0x0f) * 4;
    if ip.version() != 4 || header_len < Ipv4Hdr::LEN || total < header_len || offset + total > frame.len() {
        return Err(Counter::PassMalformedIp);
    }
    if header_len > Ipv4Hdr::LEN {
        return Err(Counter::PassIpOptions);
    }
    if u16::from_be_bytes(ip.frags) & FRAGMENT_BITS != 0 {
        return Err(Counter::PassFragment);
    }
    if ip.proto != UDP {
        return Err(Counter::PassNotUdp);
    }
    Ok(IpPayload {
        offset: offset + Ipv4Hdr::LEN,
        len: total - Ipv4Hdr::LEN,
        source: mapped(ip.src_addr),
        destination: mapped(ip.dst_addr),
    })
}

/// IPv4 address as IPv4-mapped IPv6.
#[inline(always)]
fn mapped(address: [u8; 4]) -> Address {
    [0, 0xffff_0000 | u64::from(u32::from_le_bytes(address)) << 32]
}

#[inline(always)]
fn flow_key(ip: &IpPayload, udp: &UdpHdr, ssrc: u32) -> FlowKey {
    let ports = u64::from(u16::from_le_bytes(udp.src)) | u64::from(u16::from_le_bytes(udp.dst)) << 16;
    let last = ports | u64::from(ssrc.to_be()) << 32;
    // SAFETY: both are 40 bytes without padding, and every bit pattern is a valid key. The order is that
    // of the fields: peer, local, peer port, local port, SSRC.
    unsafe { core::mem::transmute([ip.source[0], ip.source[1], ip.destination[0], ip.destination[1], last]) }
}

#[inline(always)]
fn ipv6(frame: &Frame, offset: usize) -> Result<IpPayload, Counter> {
    let ip: &Ipv6Hdr = frame.view(offset).ok_or(Counter::PassTruncated)?;
    let len = usize::from(ip.payload_len());
    let payload = offset + Ipv6Hdr::LEN;
    if ip.version() != 6 || payload + len > frame.len() {
        return Err(Counter::PassMalformedIp);
    }
    match ip.next_hdr {
        UDP => Ok(IpPayload { offset: payload, len, source: words(ip.src_addr), destination: words(ip.dst_addr) }),
        FRAGMENT_HEADER => Err(Counter::PassFragment),
        other if EXTENSION_HEADERS.contains(&other) => Err(Counter::PassIpv6Extension),
        _ => Err(Counter::PassNotUdp),
    }
}

#[inline(always)]
fn words(address: [u8; 16]) -> Address {
    let value = u128::from_le_bytes(address);
    [value as u64, (value >> 64) as u64]
}

/// The fixed RTP header at `offset`, in a UDP payload of `len` bytes.
#[inline(always)]
fn rtp(frame: &Frame, offset: usize, len: usize) -> Result<RtpHeader, Counter> {
    let byte = |i: usize| if i < len { frame.read::<u8>(offset + i) } else { None };
    // An empty datagram is of no protocol; the second byte matters only behind an RTP first byte.
    let first = byte(0).ok_or(Counter::PassOtherProtocol)?;
    match protocol(first, byte(1).unwrap_or(0)) {
        Protocol::Stun => Err(Counter::PassStun),
        Protocol::Dtls => Err(Counter::PassDtls),
        Protocol::Rtcp => Err(Counter::PassRtcp),
        Protocol::Other => Err(Counter::PassOtherProtocol),
        Protocol::Rtp if len < FIXED_LEN => Err(Counter::PassTruncated),
        Protocol::Rtp => frame.view(offset).map(RtpHeader::new).ok_or(Counter::PassTruncated),
    }
}
