//! What a device can do with XDP, as the kernel's generic netlink family `netdev` says (6.3).
//!
//! The kernel leaves a device out of a broadcast, without a word or a counter, if it does not take
//! redirected frames at that moment: a veth whose other end has neither GRO nor an XDP program is
//! such a device. So we ask before we promise anybody media by it.

use std::io;

use rtnetlink::sys::{Socket, SocketAddr, protocols::NETLINK_GENERIC};

/// `GENL_ID_CTRL`, `CTRL_CMD_GETFAMILY`, `CTRL_ATTR_FAMILY_NAME`, `CTRL_ATTR_FAMILY_ID`.
const CONTROL: (u16, u8, u16, u16) = (0x10, 3, 2, 1);
/// `NETDEV_CMD_DEV_GET`, `NETDEV_A_DEV_IFINDEX`, `NETDEV_A_DEV_XDP_FEATURES`.
const DEVICE: (u8, u16, u16) = (1, 1, 3);
/// `NETDEV_XDP_ACT_NDO_XMIT`.
const TAKES_REDIRECTS: u64 = 4;

/// Length of `nlmsghdr`, and of the generic netlink header behind it.
const HEADER: usize = 16;
const GENERIC_HEADER: usize = 4;

const REQUEST: u16 = 1;
const ERROR: u16 = 2;

/// A connection to the family `netdev`.
pub(super) struct Features {
    socket: Socket,
    family: u16,
}

impl Features {
    /// # Errors
    /// What the kernel says; `ENOENT` before 6.3.
    pub(super) fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_GENERIC)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        let (control, command, name, id) = CONTROL;
        let answer = ask(&socket, control, command, name, b"netdev\0")?;
        let family = attribute(&answer, id).and_then(|value| Some(u16::from_ne_bytes(*value.first_chunk()?)));
        Ok(Self { socket, family: family.ok_or_else(malformed)? })
    }

    /// Does the device take frames that XDP programs redirect to it, right now?
    ///
    /// # Errors
    /// What the kernel says; `ENODEV` if there is no such device.
    pub(super) fn takes_redirects(&self, ifindex: u32) -> io::Result<bool> {
        let (command, index, features) = DEVICE;
        let answer = ask(&self.socket, self.family, command, index, &ifindex.to_ne_bytes())?;
        let features = attribute(&answer, features).and_then(|value| Some(u64::from_ne_bytes(*value.first_chunk()?)));
        Ok(features.ok_or_else(malformed)? & TAKES_REDIRECTS != 0)
    }
}

fn malformed() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "unexpected answer of the netlink family netdev")
}

/// Sends a request with one attribute; returns the attributes of the answer.
fn ask(socket: &Socket, family: u16, command: u8, attribute: u16, value: &[u8]) -> io::Result<Vec<u8>> {
    let padded = (4 + value.len()).next_multiple_of(4);
    let length = HEADER + GENERIC_HEADER + padded;
    let mut request = Vec::with_capacity(length);
    request.extend((length as u32).to_ne_bytes());
    request.extend(family.to_ne_bytes());
    request.extend(REQUEST.to_ne_bytes());
    request.extend([0; 8]); // sequence and port: the socket is asked one question at a time
    request.extend([command, 1, 0, 0]);
    request.extend(((4 + value.len()) as u16).to_ne_bytes());
    request.extend(attribute.to_ne_bytes());
    request.extend(value);
    request.resize(length, 0);
    socket.send(&request, 0)?;
    let (answer, _) = socket.recv_from_full()?;
    let kind = answer.get(4..6).and_then(|kind| Some(u16::from_ne_bytes(*kind.first_chunk()?)));
    let body = answer.get(HEADER..).ok_or_else(malformed)?;
    if kind == Some(ERROR) {
        let code = body.first_chunk().map(|code| i32::from_ne_bytes(*code)).ok_or_else(malformed)?;
        return Err(io::Error::from_raw_os_error(-code));
    }
    Ok(body.get(GENERIC_HEADER..).ok_or_else(malformed)?.to_vec())
}

/// `NLA_TYPE_MASK`: without the flags of attributes that have attributes, or are in network byte order.
const KIND: u16 = 0x3fff;

/// Value of the attribute `wanted`.
pub(super) fn attribute(bytes: &[u8], wanted: u16) -> Option<&[u8]> {
    attributes(bytes).find(|(kind, _)| *kind == wanted).map(|(_, value)| value)
}

/// All of them, by kind, up to the first that is cut short.
pub(super) fn attributes(mut rest: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let [l0, l1, k0, k1] = *rest.first_chunk()?;
        let (length, kind) = (usize::from(u16::from_ne_bytes([l0, l1])), u16::from_ne_bytes([k0, k1]));
        let value = rest.get(4..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind & KIND, value))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_found_behind_padding() {
        let attributes = [6, 0, 7, 0, 1, 2, 0, 0, 8, 0, 3, 0, 4, 0, 0, 0];
        assert_eq!(attribute(&attributes, 7), Some(&[1, 2][..]));
        assert_eq!(attribute(&attributes, 3), Some(&[4, 0, 0, 0][..]));
        assert_eq!(attribute(&attributes, 9), None);
        for cut in 0..attributes.len() {
            attribute(&attributes[..cut], 9);
            attribute(&attributes[..cut], 3);
        }
    }

    #[test]
    fn the_loopback_takes_no_redirects() {
        let features = Features::open().expect("the netlink family netdev (kernel 6.3) answers without privilege");
        assert!(!features.takes_redirects(1).expect("interface 1 is the loopback"));
        assert_eq!(features.takes_redirects(u32::MAX >> 1).unwrap_err().raw_os_error(), Some(libc::ENODEV));
    }
}
