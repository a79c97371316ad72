//! Headers of one copy: Ethernet, 802.1Q, IP and UDP from the path's template, and RTP.

use forwarder_common::{
    checksum,
    maps::Path,
    rtp::{FIXED_LEN, TAG_LEN},
};

use crate::packet::Frame;

const UDP_LEN: usize = 8;
const IPV4_LEN: usize = 20;
const IPV6_LEN: usize = 40;

/// Writes everything in front of the payload, which starts at `payload`. `None`: the frame has no room, or the path is broken.
///
/// `ds`: the DS field (RFC 2474), which a template has as 0. The UDP checksum stays 0, which is final for IPv4; over IPv6 `seal` fills it in.
#[inline(always)]
pub fn rewrite(
    frame: &Frame,
    (path, ds): (&Path, u8),
    rtp: [u32; 3],
    payload_len: usize,
    payload: usize,
) -> Option<()> {
    let header_len = usize::from(path.header_len);
    let surplus = payload as i32 - (header_len + FIXED_LEN) as i32;
    if surplus != 0 {
        frame.adjust_head(surplus)?;
    }
    let udp_len = (UDP_LEN + FIXED_LEN + payload_len + TAG_LEN) as u16;
    // One instance per length, so that every copy has a constant size.
    match header_len {
        42 => ipv4::<42>(frame, path, ds, udp_len)?,
        46 => ipv4::<46>(frame, path, ds, udp_len)?,
        62 => ipv6::<62>(frame, path, ds, udp_len)?,
        66 => ipv6::<66>(frame, path, ds, udp_len)?,
        _ => return None,
    }
    frame.write(header_len, rtp)
}

#[inline(always)]
fn ipv4<const N: usize>(frame: &Frame, path: &Path, ds: u8, udp_len: u16) -> Option<()> {
    let ip = N - UDP_LEN - IPV4_LEN;
    let total_len = (IPV4_LEN as u16 + udp_len).to_be();
    let check =
        checksum::finish(u64::from(path.checksum_base) + u64::from(total_len) + u64::from(u16::from(ds).to_be()));
    template::<N>(frame, path)?;
    frame.write(ip + 1, ds)?;
    frame.write(ip + 2, total_len)?;
    frame.write(ip + 10, check)?;
    frame.write(N - 4, udp_len.to_be())
}

#[inline(always)]
fn ipv6<const N: usize>(frame: &Frame, path: &Path, ds: u8, udp_len: u16) -> Option<()> {
    let ip = N - UDP_LEN - IPV6_LEN;
    template::<N>(frame, path)?;
    frame.write(ip, [0x60 | ds >> 4, ds << 4])?;
    frame.write(ip + 4, udp_len.to_be())?;
    frame.write(N - 4, udp_len.to_be())
}

#[inline(always)]
fn template<const N: usize>(frame: &Frame, path: &Path) -> Option<()> {
    let header: &[u8; N] = path.header.first_chunk()?;
    frame.write(0, *header)
}
