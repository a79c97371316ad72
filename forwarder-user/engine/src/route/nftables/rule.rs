//! One rule: may it concern our packets, and what does it do?

use std::{collections::BTreeMap, net::IpAddr};

use super::{Subject, Way, attribute, attributes, be32, text};

/// `enum nft_expr_attributes`.
const NAME: u16 = 1;
const DATA: u16 = 2;
/// `NFTA_DATA_VALUE`, `NFTA_DATA_VERDICT`.
const VALUE: u16 = 1;
const VERDICT: u16 = 2;

/// `NF_DROP`, `NF_QUEUE`, `NFT_JUMP`, `NFT_GOTO`.
const DROP: i32 = 0;
const QUEUE: i32 = 3;
const JUMP: i32 = -3;
const GOTO: i32 = -4;

/// What a register was loaded with, as far as we can judge it.
#[derive(Clone, Debug)]
enum Loaded {
    Protocol,
    SourcePort,
    DestinationPort,
    /// So many bytes of the source or destination address, under a mask.
    Source(Option<Vec<u8>>),
    Destination(Option<Vec<u8>>),
    /// By index or name.
    Interface,
    /// The state of connection tracking.
    State,
    /// A constant.
    Constant(Vec<u8>),
    Other,
}

/// What became of a comparison.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Answer {
    Always,
    Never,
    Sometimes,
}

/// What a look at a rule has shown.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// `None`: nothing that media would miss.
    pub(super) does: Option<String>,
    /// It looks at more than we can judge.
    pub(super) some: bool,
    /// The chain that it jumps to.
    pub(super) goes_to: Option<Vec<u8>>,
    limits: bool,
    /// It asks connection tracking for the state: what it drops by that are no packets of peers who are connected.
    state: bool,
}

/// `None`: it cannot concern packets of ours that go this way.
pub(super) fn look(expressions: &[u8], family: u8, way: Way, subject: Subject<'_>) -> Option<Seen> {
    let (registers, seen) = (BTreeMap::new(), Seen::default());
    let mut look = Look { registers, family, way, subject, seen, other_port: false, new_port: None };
    for (_, expression) in attributes(expressions) {
        let name = text(attribute(expression, NAME)?);
        look.expression(&name, attribute(expression, DATA).unwrap_or_default())?;
    }
    // What comes to another port is ours if the rule makes it so.
    if look.other_port && look.new_port != Some(subject.port) {
        return None;
    }
    let mut seen = look.seen;
    if seen.state && seen.does.as_deref() == Some("drops") {
        seen.does = None;
    }
    if seen.limits {
        seen.does = Some(match seen.does {
            Some(does) => format!("limits the rate, and {does}"),
            None => "limits the rate".into(),
        });
    }
    Some(seen)
}

struct Look<'a> {
    registers: BTreeMap<u32, Loaded>,
    family: u8,
    way: Way,
    subject: Subject<'a>,
    seen: Seen,
    /// It concerns what comes to another port than ours.
    other_port: bool,
    /// The port that it gives to packets.
    new_port: Option<u16>,
}

impl Look<'_> {
    /// `None`: here it ends for packets of ours.
    fn expression(&mut self, name: &[u8], data: &[u8]) -> Option<()> {
        let number = |kind| attribute(data, kind).and_then(be32);
        match name {
            // NFTA_META_DREG, _KEY: NFT_META_L4PROTO; 4 to 7 are interfaces, by index or name.
            b"meta" => {
                let loaded = match number(2) {
                    Some(16) => Loaded::Protocol,
                    Some(4..=7) => Loaded::Interface,
                    _ => Loaded::Other,
                };
                self.load(number(1), loaded);
            }
            b"payload" => self.payload(data),
            // NFTA_CT_DREG, _KEY: NFT_CT_STATE.
            b"ct" => self.load(number(1), if number(2) == Some(0) { Loaded::State } else { Loaded::Other }),
            b"bitwise" => self.mask(data),
            b"cmp" => return self.compare(data),
            b"immediate" => self.immediate(data),
            b"range" | b"lookup" | b"dynset" | b"connlimit" | b"quota" | b"fib" | b"osf" | b"socket" => {
                self.seen.some = true;
            }
            b"limit" => self.seen.limits = true,
            b"match" => return self.extension(data),
            b"target" => self.target(&text(attribute(data, 1)?), attribute(data, 3).unwrap_or_default()),
            // NFTA_NAT_TYPE: SNAT, DNAT; _REG_PROTO_MIN.
            b"nat" if number(1) == Some(0) => self.does("translates sources"),
            b"nat" => {
                self.port_from(number(5));
                self.does("translates destinations");
            }
            // NFTA_REDIR_REG_PROTO_MIN.
            b"redir" => {
                self.port_from(number(1));
                self.does("redirects");
            }
            b"masq" => self.does("masquerades"),
            b"reject" => self.does("rejects"),
            b"queue" => self.does("queues to a program"),
            b"tproxy" | b"fwd" | b"dup" => self.does("sends elsewhere"),
            _ => {}
        }
        Some(())
    }

    fn does(&mut self, what: &str) {
        self.seen.does.get_or_insert_with(|| what.into());
    }

    fn load(&mut self, register: Option<u32>, loaded: Loaded) {
        if let Some(register) = register {
            self.registers.insert(register, loaded);
        }
    }

    /// `NFTA_PAYLOAD_DREG`, `_BASE` (link, network, transport), `_OFFSET`, `_LEN`, `_SREG`.
    fn payload(&mut self, data: &[u8]) {
        let number = |kind| attribute(data, kind).and_then(be32);
        let loaded = match (number(2), number(3), number(4)) {
            (Some(2), Some(0), Some(2)) => Loaded::SourcePort,
            (Some(2), Some(2), Some(2)) => Loaded::DestinationPort,
            // `ip protocol`, `ip6 nexthdr`.
            (Some(1), Some(9 | 6), Some(1)) => Loaded::Protocol,
            (Some(1), Some(12), Some(1..=4)) | (Some(1), Some(8), Some(5..=16)) => Loaded::Source(None),
            (Some(1), Some(16), Some(1..=4)) | (Some(1), Some(24), Some(1..=16)) => Loaded::Destination(None),
            _ => Loaded::Other,
        };
        self.load(number(1), loaded);
    }

    /// `NFTA_BITWISE_DREG`, `_MASK`.
    fn mask(&mut self, data: &[u8]) {
        let Some(register) = attribute(data, 2).and_then(be32) else { return };
        let mask = attribute(data, 4).and_then(|mask| attribute(mask, VALUE)).map(<[u8]>::to_vec);
        match self.registers.get_mut(&register) {
            Some(Loaded::Source(old) | Loaded::Destination(old)) => *old = mask,
            Some(Loaded::State) | None => {}
            Some(other) => *other = Loaded::Other,
        }
    }

    /// `NFTA_CMP_SREG`, `_OP` (equal, not equal, …), `_DATA`.
    fn compare(&mut self, data: &[u8]) -> Option<()> {
        let number = |kind| attribute(data, kind).and_then(be32);
        let value = attribute(data, 3).and_then(|data| attribute(data, VALUE)).unwrap_or_default();
        let loaded = number(1).and_then(|register| self.registers.get(&register)).unwrap_or(&Loaded::Other);
        if matches!(loaded, Loaded::State) {
            self.seen.state = true;
            return Some(());
        }
        let answer = match (number(2), self.equals(loaded, value)) {
            (Some(0), answer) => answer,
            (Some(1), Answer::Always) => Answer::Never,
            (Some(1), Answer::Never) => Answer::Always,
            _ => Answer::Sometimes,
        };
        let port = matches!(loaded, Loaded::DestinationPort) && self.way == Way::In;
        if port && answer == Answer::Never {
            self.other_port = true;
            return Some(());
        }
        self.take(answer)
    }

    fn port_from(&mut self, register: Option<u32>) {
        if let Some(Loaded::Constant(bytes)) = register.and_then(|register| self.registers.get(&register)) {
            self.new_port = bytes.first_chunk().map(|bytes| u16::from_be_bytes(*bytes));
        }
    }

    fn take(&mut self, answer: Answer) -> Option<()> {
        self.seen.some |= answer == Answer::Sometimes;
        (answer != Answer::Never).then_some(())
    }

    /// Have our packets this value?
    fn equals(&self, loaded: &Loaded, value: &[u8]) -> Answer {
        let surely = |yes: bool| if yes { Answer::Always } else { Answer::Never };
        match (loaded, self.way) {
            (Loaded::Protocol, _) => surely(value.first() == Some(&(libc::IPPROTO_UDP as u8))),
            (Loaded::DestinationPort, Way::In) | (Loaded::SourcePort, Way::Out) => {
                surely(value.first_chunk() == Some(&self.subject.port.to_be_bytes()))
            }
            (Loaded::Destination(mask), Way::In) | (Loaded::Source(mask), Way::Out) => {
                self.ours(mask.as_deref(), value)
            }
            // The loopback by its index or its name; XDP never sees it.
            (Loaded::Interface, _) if value == 1u32.to_ne_bytes() || text(value) == b"lo" => Answer::Never,
            _ => Answer::Sometimes,
        }
    }

    /// Is it the (beginning of the) address of all of ours, of some, or of none?
    fn ours(&self, mask: Option<&[u8]>, value: &[u8]) -> Answer {
        let matches = |address: &IpAddr| {
            let bytes = match address {
                IpAddr::V4(ip) => ip.octets().to_vec(),
                IpAddr::V6(ip) => ip.octets().to_vec(),
            };
            let mask = |at: usize| mask.map_or(0xff, |mask| mask.get(at).copied().unwrap_or(0xff));
            value.iter().enumerate().all(|(at, byte)| bytes.get(at).is_some_and(|own| own & mask(at) == *byte))
        };
        let same = |address: &&IpAddr| match self.family {
            2 => address.is_ipv4(),
            10 => address.is_ipv6(),
            _ => address.is_ipv4() == (value.len() <= 4),
        };
        let ours: Vec<bool> = self.subject.addresses.iter().filter(same).map(matches).collect();
        match (ours.iter().all(|one| *one), ours.iter().any(|one| *one)) {
            (_, false) => Answer::Never,
            (true, true) => Answer::Always,
            (false, true) => Answer::Sometimes,
        }
    }

    /// `NFTA_IMMEDIATE_DREG`, `_DATA`, and in it a value or `NFTA_VERDICT_CODE`, `_CHAIN`.
    fn immediate(&mut self, data: &[u8]) {
        let Some(content) = attribute(data, 2) else { return };
        if let Some(value) = attribute(content, VALUE) {
            self.load(attribute(data, 1).and_then(be32), Loaded::Constant(value.to_vec()));
        }
        let Some(verdict) = attribute(content, VERDICT) else { return };
        match attribute(verdict, 1).and_then(be32).map(u32::cast_signed) {
            Some(DROP) => self.does("drops"),
            Some(code) if code & 0xff == QUEUE && code > 0 => self.does("queues to a program"),
            Some(JUMP | GOTO) => self.seen.goes_to = attribute(verdict, 2).map(text),
            _ => {}
        }
    }

    /// An extension of iptables that looks: `NFTA_MATCH_NAME`, `_INFO`.
    fn extension(&mut self, data: &[u8]) -> Option<()> {
        match text(attribute(data, 1)?).as_slice() {
            // struct xt_udp: two source ports, two destination ports, what of it is inverted.
            b"udp" => {
                let info = attribute(data, 3).unwrap_or_default();
                let port = |at: usize| Some(u16::from_ne_bytes(*info.get(at..)?.first_chunk()?));
                let (from, to, inverted) = match self.way {
                    Way::In => (port(4)?, port(6)?, 2),
                    Way::Out => (port(0)?, port(2)?, 1),
                };
                let within = (from..=to).contains(&self.subject.port);
                let turned = info.get(8).is_some_and(|flags| flags & inverted != 0);
                match (within != turned, self.way) {
                    (true, _) => {}
                    (false, Way::In) => self.other_port = true,
                    (false, Way::Out) => return None,
                }
                Some(())
            }
            b"tcp" | b"icmp" | b"icmp6" | b"sctp" => None,
            b"limit" | b"hashlimit" => {
                self.seen.limits = true;
                Some(())
            }
            b"conntrack" | b"state" => {
                self.seen.state = true;
                Some(())
            }
            b"comment" => Some(()),
            _ => self.take(Answer::Sometimes),
        }
    }

    /// An extension of iptables that does something: `NFTA_TARGET_NAME`, `_INFO`.
    fn target(&mut self, name: &[u8], info: &[u8]) {
        // Where struct nf_nat_ipv4_multi_range_compat and struct nf_nat_range2 have the first port.
        let at = if info.len() < 36 { 16 } else { 36 };
        self.new_port = info.get(at..).and_then(<[u8]>::first_chunk).map(|port| u16::from_be_bytes(*port));
        match name {
            b"DROP" => self.does("drops"),
            b"REJECT" => self.does("rejects"),
            b"REDIRECT" => self.does("redirects"),
            b"DNAT" | b"NETMAP" => self.does("translates destinations"),
            b"SNAT" => self.does("translates sources"),
            b"MASQUERADE" => self.does("masquerades"),
            b"NFQUEUE" => self.does("queues to a program"),
            b"TPROXY" | b"TEE" => self.does("sends elsewhere"),
            b"DSCP" | b"TOS" => self.does("marks"),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nested(kind: u16, parts: &[Vec<u8>]) -> Vec<u8> {
        value(kind | 0x8000, &parts.concat())
    }

    fn value(kind: u16, bytes: &[u8]) -> Vec<u8> {
        let mut all = ((bytes.len() + 4) as u16).to_ne_bytes().to_vec();
        all.extend(kind.to_ne_bytes());
        all.extend(bytes);
        all.resize(all.len().next_multiple_of(4), 0);
        all
    }

    fn number(kind: u16, number: u32) -> Vec<u8> {
        value(kind, &number.to_be_bytes())
    }

    fn expression(name: &str, data: &[Vec<u8>]) -> Vec<u8> {
        nested(1, &[value(NAME, format!("{name}\0").as_bytes()), nested(DATA, data)])
    }

    fn is(register: u32, operator: u32, bytes: &[u8]) -> Vec<u8> {
        expression("cmp", &[number(1, register), number(2, operator), nested(3, &[value(VALUE, bytes)])])
    }

    fn port(offset: u32) -> Vec<u8> {
        expression("payload", &[number(1, 1), number(2, 2), number(3, offset), number(4, 2)])
    }

    fn protocol(number_: u8) -> Vec<u8> {
        [expression("meta", &[number(1, 1), number(2, 16)]), is(1, 0, &[number_])].concat()
    }

    fn verdict(code: i32, chain: Option<&str>) -> Vec<u8> {
        let chain = chain.map(|name| value(2, format!("{name}\0").as_bytes()));
        let parts: Vec<Vec<u8>> = std::iter::once(number(1, code.cast_unsigned())).chain(chain).collect();
        expression("immediate", &[number(1, 0), nested(2, &[nested(VERDICT, &parts)])])
    }

    fn seen(rule: &[Vec<u8>], way: Way) -> Option<(Option<String>, bool)> {
        let addresses = ["192.0.2.1".parse().unwrap()];
        let seen = look(&rule.concat(), 2, way, Subject { port: 8443, addresses: &addresses })?;
        Some((seen.does, seen.some))
    }

    #[test]
    fn rules_of_our_port_are_named_and_others_are_not() {
        let drops = |some| Some((Some("drops".to_owned()), some));
        let ours = 8443u16.to_be_bytes();
        assert_eq!(seen(&[protocol(17), port(2), is(1, 0, &ours), verdict(DROP, None)], Way::In), drops(false));
        assert_eq!(seen(&[protocol(17), port(2), is(1, 0, &[0, 53]), verdict(DROP, None)], Way::In), None);
        assert_eq!(seen(&[protocol(17), port(2), is(1, 1, &[0, 53]), verdict(DROP, None)], Way::In), drops(false));
        assert_eq!(seen(&[protocol(6), verdict(DROP, None)], Way::In), None);
        // Where a packet goes to, of those that leave, is a peer's port.
        assert_eq!(seen(&[protocol(17), port(2), is(1, 0, &[0, 53]), verdict(DROP, None)], Way::Out), drops(true));
        let source = |mask: &[u8], from: &[u8]| {
            let load = expression("payload", &[number(1, 1), number(2, 1), number(3, 12), number(4, 4)]);
            let mask = expression("bitwise", &[number(1, 1), number(2, 1), nested(4, &[value(VALUE, mask)])]);
            [load, mask, is(1, 0, from), expression("masq", &[])]
        };
        assert_eq!(seen(&source(&[255, 255, 0, 0], &[172, 17, 0, 0]), Way::Out), None, "another network");
        let masquerades = Some((Some("masquerades".into()), false));
        assert_eq!(seen(&source(&[255, 255, 255, 0], &[192, 0, 2, 0]), Way::Out), masquerades);
    }

    #[test]
    fn what_a_rule_does_is_said() {
        let state = expression("ct", &[number(1, 1), number(2, 0)]);
        let invalid = [state, is(1, 1, &[0; 4]), verdict(DROP, None)];
        assert_eq!(seen(&invalid, Way::In), Some((None, false)), "nothing of a peer who is connected");
        let limited = [expression("limit", &[]), verdict(DROP, None)];
        assert_eq!(seen(&limited, Way::In).unwrap().0.unwrap(), "limits the rate, and drops");
        let addresses = [];
        let subject = Subject { port: 8443, addresses: &addresses };
        let jump = look(&verdict(JUMP, Some("next")), 1, Way::In, subject).unwrap();
        assert_eq!((jump.goes_to.as_deref(), jump.does), (Some(&b"next"[..]), None));
        // struct xt_udp of `--dport 443`, and the target behind it.
        let info = [0, 0, 255, 255, 187, 1, 187, 1, 0, 0];
        let udp = expression("match", &[value(1, b"udp\0"), value(3, &info)]);
        let redirect = expression("target", &[value(1, b"REDIRECT\0")]);
        let rule = [udp, redirect].concat();
        let public = look(&rule, 2, Way::In, Subject { port: 443, addresses: &addresses }).unwrap();
        assert_eq!(public.does.as_deref(), Some("redirects"));
        assert!(look(&rule, 2, Way::In, subject).is_none());
        let to = expression("immediate", &[number(1, 2), nested(2, &[value(VALUE, &8443u16.to_be_bytes())])]);
        let rule = [protocol(17), port(2), is(1, 0, &[1, 187]), to, expression("redir", &[number(1, 2)])].concat();
        assert!(look(&rule, 1, Way::In, subject).is_some_and(|seen| seen.does.as_deref() == Some("redirects")));
    }

    #[test]
    fn nothing_that_is_cut_short_is_a_bug() {
        let rule = [protocol(17), port(2), is(1, 0, &[1, 2]), verdict(JUMP, Some("x"))].concat();
        for cut in 0..rule.len() {
            let _ = look(&rule[..cut], 2, Way::In, Subject { port: 8443, addresses: &[] });
        }
    }
}
