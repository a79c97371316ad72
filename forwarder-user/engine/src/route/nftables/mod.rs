//! Rules of this host's firewall that could touch media, were it not below them: read by netlink (`nfnetlink`, subsystem
//! `nf_tables`), which `nft` and today's `iptables` fill alike.
//!
//! What a rule does is read as far as it decides whether it may concern packets to and from our port: protocol, ports,
//! our own addresses, the loopback. What else it looks at makes it one that concerns *some* peers. Nothing is evaluated
//! for a packet: this names what a person should look at.

mod rule;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, io,
    net::IpAddr,
};

use rtnetlink::sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};

use super::features::{attribute, attributes};

/// `NFNL_SUBSYS_NFTABLES << 8`, and the messages that ask for chains and rules (linux/netfilter/nf_tables.h).
const SUBSYSTEM: u16 = 10 << 8;
const GET_CHAIN: u16 = SUBSYSTEM | 4;
const GET_RULE: u16 = SUBSYSTEM | 7;

const REQUEST_DUMP: u16 = 0x301;
const ERROR: u16 = 2;
const DONE: u16 = 3;

/// Length of `nlmsghdr`, and of `nfgenmsg` behind it.
const HEADER: usize = 16;
const FAMILY_HEADER: usize = 4;

/// Chains and rules that are read, together: a host of a cluster may have tens of thousands.
const MOST: usize = 20_000;

/// `enum nft_chain_attributes`, `nft_hook_attributes`, `nft_rule_attributes`.
mod chain {
    pub(super) const TABLE: u16 = 1;
    pub(super) const NAME: u16 = 3;
    pub(super) const HOOK: u16 = 4;
    pub(super) const HOOK_NUMBER: u16 = 1;
}
mod attributes_of_rule {
    pub(super) const TABLE: u16 = 1;
    pub(super) const CHAIN: u16 = 2;
    pub(super) const HANDLE: u16 = 3;
    pub(super) const EXPRESSIONS: u16 = 4;
}

/// Whose packets are meant.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// UDP port of media.
    pub port: u16,
    /// Addresses that media uses here.
    pub addresses: &'a [IpAddr],
}

/// In which direction a chain sees packets of this host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Way {
    In,
    Out,
}

/// A rule that may concern our media.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// `ip nat PREROUTING`, as `nft list chain` takes it.
    pub chain: String,
    /// The rule's number in it (`nft -a`).
    pub handle: u64,
    /// What it does: `drops`, `redirects`, `limits the rate`, …
    pub does: String,
    /// It looks at more than protocol, port and our own addresses.
    pub some: bool,
}

impl Rule {
    /// Does it change addresses or ports?
    pub fn translates(&self) -> bool {
        ["redirect", "translate", "masquerade"].iter().any(|word| self.does.contains(word))
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whose = if self.some { "some" } else { "all" };
        write!(f, "{} handle {} {} ({whose} packets of our port)", self.chain, self.handle, self.does)
    }
}

/// What was found.
#[derive(Debug, Default)]
pub struct Found {
    /// Those that may concern our media, in the order of the kernel's tables.
    pub rules: Vec<Rule>,
    /// There are more than are read.
    pub more: bool,
}

/// Family, table, name.
type ChainKey = (u8, Vec<u8>, Vec<u8>);

/// Reads the rules of this thread's network namespace.
///
/// # Errors
/// What the kernel says: `EPERM` without CAP_NET_ADMIN, `EINVAL` or `EPROTONOSUPPORT` where it has no nf_tables.
pub fn read(subject: Subject<'_>) -> io::Result<Found> {
    let (chains, more_chains) = dump(GET_CHAIN)?;
    // Without one nobody can have rules that act.
    let base = chains.iter().filter_map(|message| base_chain(message));
    let mut ways: BTreeMap<ChainKey, BTreeSet<Way>> = BTreeMap::new();
    base.for_each(|(key, way)| ways.entry(key).or_default().extend([way]));
    if ways.is_empty() {
        return Ok(Found { more: more_chains, ..Found::default() });
    }
    let (messages, more_rules) = dump(GET_RULE)?;
    Ok(Found { rules: select(&messages, ways, subject), more: more_chains || more_rules })
}

/// Those that can be reached and do something.
fn select(messages: &[Vec<u8>], mut ways: BTreeMap<ChainKey, BTreeSet<Way>>, subject: Subject<'_>) -> Vec<Rule> {
    let rules: Vec<(ChainKey, u64, &[u8])> = messages.iter().filter_map(|message| rule_parts(message)).collect();
    let mut by_chain: BTreeMap<&ChainKey, Vec<&[u8]>> = BTreeMap::new();
    rules.iter().for_each(|(key, _, expressions)| by_chain.entry(key).or_default().push(expressions));
    let mut open: Vec<(ChainKey, Way)> =
        ways.iter().flat_map(|(key, ways)| ways.iter().map(|way| (key.clone(), *way))).collect();
    while let Some((key, way)) = open.pop() {
        for expressions in by_chain.get(&key).into_iter().flatten() {
            let Some(name) = rule::look(expressions, key.0, way, subject).and_then(|seen| seen.goes_to) else {
                continue;
            };
            let next = (key.0, key.1.clone(), name);
            if ways.entry(next.clone()).or_default().insert(way) {
                open.push((next, way));
            }
        }
    }
    let acting = rules.iter().filter_map(|(key, handle, expressions)| {
        let seen = ways.get(key)?.iter().find_map(|way| {
            let seen = rule::look(expressions, key.0, *way, subject)?;
            seen.does.map(|does| (does, seen.some))
        });
        let (does, some) = seen?;
        let (table, name) = (String::from_utf8_lossy(&key.1), String::from_utf8_lossy(&key.2));
        Some(Rule { chain: format!("{} {table} {name}", family(key.0)), handle: *handle, does, some })
    });
    acting.collect()
}

/// `NFPROTO_*` as `nft` names them.
const fn family(number: u8) -> &'static str {
    match number {
        1 => "inet",
        2 => "ip",
        5 => "netdev",
        7 => "bridge",
        10 => "ip6",
        _ => "other",
    }
}

/// A chain that has a hook, and which way it sees our packets: not one that sees only what is forwarded.
fn base_chain(message: &[u8]) -> Option<(ChainKey, Way)> {
    let family = *message.get(HEADER)?;
    let body = message.get(HEADER + FAMILY_HEADER..)?;
    let hook = attribute(body, chain::HOOK)?;
    let number = be32(attribute(hook, chain::HOOK_NUMBER)?)?;
    let way = match (family, number) {
        // netdev: ingress, egress.
        (5, 0) => Way::In,
        (5, 1) => Way::Out,
        (1 | 2 | 10, 0 | 1 | 5) => Way::In,
        (1 | 2 | 10, 3 | 4) => Way::Out,
        // A bridge's own: prerouting, input; output, postrouting.
        (7, 0 | 1) => Way::In,
        (7, 3 | 4) => Way::Out,
        _ => return None,
    };
    Some(((family, text(attribute(body, chain::TABLE)?), text(attribute(body, chain::NAME)?)), way))
}

fn rule_parts(message: &[u8]) -> Option<(ChainKey, u64, &[u8])> {
    use attributes_of_rule::{CHAIN, EXPRESSIONS, HANDLE, TABLE};
    let family = *message.get(HEADER)?;
    let body = message.get(HEADER + FAMILY_HEADER..)?;
    let key = (family, text(attribute(body, TABLE)?), text(attribute(body, CHAIN)?));
    let handle = attribute(body, HANDLE).and_then(|value| Some(u64::from_be_bytes(*value.first_chunk()?)));
    Some((key, handle.unwrap_or_default(), attribute(body, EXPRESSIONS)?))
}

/// Without the NUL at its end.
fn text(value: &[u8]) -> Vec<u8> {
    value.iter().copied().take_while(|byte| *byte != 0).collect()
}

fn be32(value: &[u8]) -> Option<u32> {
    Some(u32::from_be_bytes(*value.first_chunk()?))
}

/// All messages of an answer, and whether there were more than are read.
fn dump(kind: u16) -> io::Result<(Vec<Vec<u8>>, bool)> {
    let mut socket = Socket::new(NETLINK_NETFILTER)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    let mut request = Vec::with_capacity(HEADER + FAMILY_HEADER);
    request.extend(((HEADER + FAMILY_HEADER) as u32).to_ne_bytes());
    request.extend(kind.to_ne_bytes());
    request.extend(REQUEST_DUMP.to_ne_bytes());
    request.extend([0; 8]); // sequence and port: the socket is asked one question
    request.extend([0; 4]); // of all families
    socket.send(&request, 0)?;
    let mut messages = Vec::new();
    loop {
        let (datagram, _) = socket.recv_from_full()?;
        let mut rest = datagram.as_slice();
        while let Some(message) = next_message(&mut rest) {
            match u16::from_ne_bytes(*message.get(4..).and_then(<[u8]>::first_chunk).unwrap_or(&[0, 0])) {
                DONE => return Ok((messages, false)),
                ERROR => {
                    let code =
                        message.get(HEADER..).and_then(<[u8]>::first_chunk).map_or(0, |code| i32::from_ne_bytes(*code));
                    return if code == 0 { Ok((messages, false)) } else { Err(io::Error::from_raw_os_error(-code)) };
                }
                // The socket, and what is left of the answer, go with it.
                _ if messages.len() >= MOST => return Ok((messages, true)),
                _ => messages.push(message.to_vec()),
            }
        }
    }
}

/// Cuts the first message off, with its header.
fn next_message<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = u32::from_ne_bytes(*rest.first_chunk()?) as usize;
    let message = rest.get(..length).filter(|message| message.len() >= HEADER)?;
    *rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    Some(message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_cut_where_they_end() {
        let mut bytes = Vec::new();
        for (length, kind) in [(18u32, 7u16), (16, DONE)] {
            let start = bytes.len();
            bytes.extend(length.to_ne_bytes());
            bytes.extend(kind.to_ne_bytes());
            bytes.resize(start + (length as usize).next_multiple_of(4), 0);
        }
        let mut rest = bytes.as_slice();
        assert_eq!(next_message(&mut rest).map(<[u8]>::len), Some(18));
        assert_eq!(next_message(&mut rest).map(<[u8]>::len), Some(16));
        assert_eq!(next_message(&mut rest), None);
        for cut in 0..bytes.len() {
            let mut rest = &bytes[..cut];
            while next_message(&mut rest).is_some() {}
        }
    }

    #[test]
    fn a_namespace_without_rules_or_rights_has_none() {
        let found = read(Subject { port: 9, addresses: &[] });
        assert!(found.is_err() || found.is_ok_and(|found| !found.more));
    }
}
