//! Checks of peers (RFC 8445 §7.1, RFC 8489), read by what a lite agent needs of them, and the answers to them.
//!
//! The reader of str0m's ICE wants a PRIORITY in each request. A controlled lite agent has no use for it, and FFmpeg 8.0 sends
//! none.

use std::net::{IpAddr, SocketAddr};

use crate::dtls;

const HEADER: usize = 20;
const COOKIE: [u8; 4] = [0x21, 0x12, 0xa4, 0x42];
const BINDING_REQUEST: [u8; 2] = [0, 1];
const BINDING_RESPONSE: u16 = 0x0101;
const BINDING_ERROR: u16 = 0x0111;
const USERNAME: u16 = 0x0006;
const MESSAGE_INTEGRITY: u16 = 0x0008;
const ERROR_CODE: u16 = 0x0009;
const UNKNOWN_ATTRIBUTES: u16 = 0x000a;
const XOR_MAPPED_ADDRESS: u16 = 0x0020;
const USE_CANDIDATE: u16 = 0x0025;
const FINGERPRINT: u16 = 0x8028;
const ICE_CONTROLLED: u16 = 0x8029;
/// Attributes that we understand, or may meet in a request; below 0x8000 all others must be told (RFC 8489 §6.3.1).
const KNOWN: [u16; 14] = [
    0x0001, // MAPPED-ADDRESS
    USERNAME,
    MESSAGE_INTEGRITY,
    ERROR_CODE,
    UNKNOWN_ATTRIBUTES,
    0x0014, // REALM
    0x0015, // NONCE
    0x001c, // MESSAGE-INTEGRITY-SHA256
    0x001d, // PASSWORD-ALGORITHM
    0x001e, // USERHASH
    XOR_MAPPED_ADDRESS,
    0x0024, // PRIORITY
    USE_CANDIDATE,
    0x002a, // what some have sent for ICE-CONTROLLING
];
/// Attributes that a message may have. Honest ones have ten.
const MAX_ATTRIBUTES: usize = 32;
/// Unknown ones that are named in the answer.
const MAX_UNKNOWN: usize = 8;
const SHA1: usize = 20;

/// A Binding request.
#[derive(Debug)]
pub struct Check<'a> {
    bytes: &'a [u8],
    id: [u8; 12],
    local: &'a str,
    remote: &'a str,
    /// Where MESSAGE-INTEGRITY begins, and its value.
    integrity: Option<(usize, [u8; SHA1])>,
    nominates: bool,
    controlled: bool,
    unknown: Vec<u16>,
}

impl<'a> Check<'a> {
    /// Reads a message. `None`: it is no Binding request with a user name, or malformed.
    pub fn parse(bytes: &'a [u8]) -> Option<Self> {
        let header = bytes.first_chunk::<HEADER>()?;
        let len = usize::from(u16::from_be_bytes([header[2], header[3]]));
        if header[..2] != BINDING_REQUEST || header[4..8] != COOKIE || HEADER + len != bytes.len() {
            return None;
        }
        let mut check = Self {
            bytes,
            id: *header[8..].first_chunk()?,
            local: "",
            remote: "",
            integrity: None,
            nominates: false,
            controlled: false,
            unknown: vec![],
        };
        let (mut at, mut count) = (HEADER, 0);
        while at < bytes.len() {
            let [a, b, c, d] = *bytes.get(at..)?.first_chunk()?;
            let (kind, len) = (u16::from_be_bytes([a, b]), usize::from(u16::from_be_bytes([c, d])));
            let value = bytes.get(at + 4..)?.get(..len)?;
            check.attribute(at, kind, value)?;
            at += 4 + len.next_multiple_of(4);
            count += 1;
            if count > MAX_ATTRIBUTES || at > bytes.len() {
                return None;
            }
        }
        (!check.local.is_empty()).then_some(check)
    }

    fn attribute(&mut self, at: usize, kind: u16, value: &'a [u8]) -> Option<()> {
        if kind == FINGERPRINT {
            let right = crc32(self.bytes.get(..at)?, self.bytes.len() == at + 8) ^ 0x5354_554e;
            return (value == right.to_be_bytes()).then_some(());
        }
        if self.integrity.is_some() {
            // RFC 8489 §14.5: what is behind it counts for nothing.
            return Some(());
        }
        match kind {
            USERNAME if self.local.is_empty() => {
                (self.local, self.remote) = std::str::from_utf8(value).ok()?.split_once(':')?;
            }
            MESSAGE_INTEGRITY => self.integrity = Some((at, *value.first_chunk().filter(|_| value.len() == SHA1)?)),
            USE_CANDIDATE => self.nominates = true,
            ICE_CONTROLLED => self.controlled = true,
            kind if kind < 0x8000 && !KNOWN.contains(&kind) && self.unknown.len() < MAX_UNKNOWN => {
                self.unknown.push(kind);
            }
            _ => {}
        }
        Some(())
    }

    /// Our user name fragment, by which the session is found.
    pub fn local(&self) -> &str {
        self.local
    }

    /// The peer's.
    pub(super) fn remote(&self) -> &str {
        self.remote
    }

    /// USE-CANDIDATE.
    pub(super) fn nominates(&self) -> bool {
        self.nominates
    }

    /// Has it the integrity of this password?
    pub(super) fn is_of(&self, password: &str) -> bool {
        let Some((at, given)) = self.integrity else { return false };
        openssl::memcmp::eq(&integrity(self.bytes.get(..at).unwrap_or_default(), password), &given)
    }

    /// What the peer gets, and whether its check counts.
    pub(super) fn answer(&self, from: SocketAddr, password: &str) -> (Vec<u8>, bool) {
        if !self.unknown.is_empty() {
            let unknown: Vec<u8> = self.unknown.iter().flat_map(|kind| kind.to_be_bytes()).collect();
            let error = error(420, "Unknown Attribute");
            return (self.reply(BINDING_ERROR, &[(ERROR_CODE, error), (UNKNOWN_ATTRIBUTES, unknown)], password), false);
        }
        if self.controlled {
            // Who has no other than lite agents to talk to is always the controlling one (RFC 8445 §6.1.1).
            return (self.reply(BINDING_ERROR, &[(ERROR_CODE, error(487, "Role Conflict"))], password), false);
        }
        (self.reply(BINDING_RESPONSE, &[(XOR_MAPPED_ADDRESS, mapped(from, self.id))], password), true)
    }

    fn reply(&self, kind: u16, attributes: &[(u16, Vec<u8>)], password: &str) -> Vec<u8> {
        let mut bytes = [&kind.to_be_bytes()[..], &[0, 0], &COOKIE, &self.id].concat();
        attributes.iter().for_each(|(kind, value)| put(&mut bytes, *kind, value));
        let integrity = integrity(&bytes, password);
        put(&mut bytes, MESSAGE_INTEGRITY, &integrity);
        let print = crc32(&bytes, true) ^ 0x5354_554e;
        put(&mut bytes, FINGERPRINT, &print.to_be_bytes());
        bytes
    }
}

/// Adds an attribute; the header's length follows.
fn put(bytes: &mut Vec<u8>, kind: u16, value: &[u8]) {
    bytes.extend(kind.to_be_bytes());
    bytes.extend((value.len() as u16).to_be_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    let len = bytes.len();
    set_len(bytes, len);
}

/// The message says that it is so long, with its header.
fn set_len(bytes: &mut [u8], len: usize) {
    if let Some(place) = bytes.get_mut(2..4) {
        place.copy_from_slice(&((len - HEADER) as u16).to_be_bytes());
    }
}

/// MESSAGE-INTEGRITY of what stands before it (RFC 8489 §14.5): the length counts as if it were the end.
fn integrity(before: &[u8], password: &str) -> [u8; SHA1] {
    let mut header = before.to_vec();
    set_len(&mut header, before.len() + 4 + SHA1);
    dtls::provider().sha1_hmac_provider.sha1_hmac(password.as_bytes(), &[&header])
}

fn error(code: u16, reason: &str) -> Vec<u8> {
    [&[0, 0, (code / 100) as u8, (code % 100) as u8][..], reason.as_bytes()].concat()
}

/// RFC 8489 §14.2.
fn mapped(address: SocketAddr, id: [u8; 12]) -> Vec<u8> {
    let mask = [&COOKIE[..], &id].concat();
    let port = address.port() ^ u16::from_be_bytes([COOKIE[0], COOKIE[1]]);
    let (family, octets) = match address.ip().to_canonical() {
        IpAddr::V4(v4) => (1, v4.octets().to_vec()),
        IpAddr::V6(v6) => (2, v6.octets().to_vec()),
    };
    let octets = octets.iter().zip(mask).map(|(octet, mask)| octet ^ mask);
    [0, family].into_iter().chain(port.to_be_bytes()).chain(octets).collect()
}

/// CRC-32 of a message before its FINGERPRINT (RFC 8489 §14.7). `last`: the header's length is to count it.
fn crc32(before: &[u8], last: bool) -> u32 {
    let mut crc = !0;
    let len = (before.len() + 8 - HEADER.min(before.len() + 8)) as u16;
    for (place, byte) in before.iter().enumerate() {
        let byte = match place {
            2 if last => (len >> 8) as u8,
            3 if last => len as u8,
            _ => *byte,
        };
        crc ^= u32::from(byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 };
        }
    }
    !crc
}

#[cfg(test)]
mod tests {
    use str0m::ice::{StunMessage, TransId};

    use super::super::request;
    use super::*;

    /// A request with these attributes, sealed by hand.
    fn made(attributes: &[(u16, &[u8])], password: &str) -> Vec<u8> {
        let mut bytes = [&BINDING_REQUEST[..], &[0, 0], &COOKIE, &[7; 12]].concat();
        attributes.iter().for_each(|(kind, value)| put(&mut bytes, *kind, value));
        let sum = integrity(&bytes, password);
        put(&mut bytes, MESSAGE_INTEGRITY, &sum);
        let print = crc32(&bytes, true) ^ 0x5354_554e;
        put(&mut bytes, FINGERPRINT, &print.to_be_bytes());
        bytes
    }

    const FROM: &str = "192.0.2.7:4000";

    fn answered(bytes: &[u8]) -> (StunMessage<'_>, SocketAddr) {
        (StunMessage::parse(bytes).unwrap(), FROM.parse().unwrap())
    }

    /// What str0m's crate writes we read, and what we write it reads.
    #[test]
    fn both_sides_agree() {
        for from in [FROM, "[2001:db8::5]:9"] {
            let request = StunMessage::binding_request("ours:theirs", TransId::new(), true, 1, 1, true);
            let bytes = request::sealed(request, "secret").unwrap();
            let check = Check::parse(&bytes).unwrap();
            assert!((check.local(), check.remote(), check.nominates()) == ("ours", "theirs", true));
            assert!(check.is_of("secret") && !check.is_of("other"));
            let (reply, counts) = check.answer(from.parse().unwrap(), "secret");
            let reply = StunMessage::parse(&reply).unwrap();
            assert!(counts && reply.is_successful_binding_response() && request::verify(&reply, "secret"));
            assert_eq!(reply.mapped_address(), from.parse().ok());
        }
    }

    #[test]
    fn a_check_without_priority_counts() {
        let bytes = made(&[(USERNAME, b"ours:theirs"), (USE_CANDIDATE, &[])], "secret");
        let check = Check::parse(&bytes).unwrap();
        assert!(check.is_of("secret") && check.nominates() && check.answer(FROM.parse().unwrap(), "secret").1);
    }

    /// RFC 8489 §6.3.1.
    #[test]
    fn what_must_be_understood_and_is_not_is_told() {
        let unknown: &[(u16, &[u8])] =
            &[(USERNAME, b"ours:theirs"), (0x7123, &[1, 2, 3]), (0xc057, &[0]), (0x0033, &[])];
        let bytes = made(unknown, "secret");
        let check = Check::parse(&bytes).unwrap();
        let (reply, counts) = check.answer(FROM.parse().unwrap(), "secret");
        assert!(!counts && reply[..2] == BINDING_ERROR.to_be_bytes());
        let has = |attribute: &[u8]| reply.windows(attribute.len()).any(|bytes| bytes == attribute);
        assert!(has(&[0, 9, 0, 21, 0, 0, 4, 20]) && has(&[0, 10, 0, 4, 0x71, 0x23, 0, 0x33]), "{reply:02x?}");
        let (message, _) = answered(&reply);
        assert!(request::verify(&message, "secret"));
    }

    #[test]
    fn damaged_messages_are_none_or_not_authentic() {
        let bytes = made(&[(USERNAME, b"ours:theirs"), (0x0024, &[0, 0, 0, 1])], "secret");
        for len in 0..bytes.len() {
            assert!(Check::parse(&bytes[..len]).is_none(), "{len}");
            let mut damaged = bytes.clone();
            damaged[len] ^= 0x40;
            // FINGERPRINT stands behind the integrity: without it a check is as good.
            let behind = len >= bytes.len() - 8;
            assert!(behind || Check::parse(&damaged).is_none_or(|check| !check.is_of("secret")), "{len}");
        }
        let mut seeded = crate::allocations::Seeded(9);
        for _ in 0..20_000 {
            let damaged = seeded.mutate(&bytes);
            if let Some(check) = Check::parse(&damaged) {
                let _ = check.answer(FROM.parse().unwrap(), "secret");
            }
        }
        let many: Vec<(u16, &[u8])> = (0..40).map(|_| (0x8050, &[][..])).collect();
        assert!(Check::parse(&made(&many, "secret")).is_none());
    }
}
