//! Somebody sends from the peer's address, at any time of a handshake, whatever he likes: it ends well nevertheless.
//!
//! OpenSSL looks at the clock of this machine, so all handshakes go on side by side, as in `matrix`.

#![expect(clippy::disallowed_methods, reason = "OpenSSL has timers of its own, by the clock of this machine")]

use std::time::Duration;

use super::matrix::Other;
use super::tests::{Client, certificate, dimpl_as};
use super::*;
use crate::allocations::Seeded;

/// How long all of them together may take.
const PATIENCE: Duration = Duration::from_secs(90);

/// The other side, and who it is.
enum Them {
    OpenSsl(Box<Other>),
    Dimpl(Box<dyn Client>),
}

impl Them {
    fn step(&mut self, now: Instant, received: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
        match self {
            Self::OpenSsl(other) => other.step(received),
            Self::Dimpl(client) => client.step(now, received),
        }
    }
}

/// What a stranger does, and nobody else.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Attack {
    /// The record with this number is changed on its way.
    Changed(usize),
    /// A changed copy of it comes before it.
    Before(usize),
    /// Records of another handshake of the same kind come before each datagram.
    Foreign,
    /// Records that pretend to be sealed, of whatever length.
    Sealed,
    /// Many of another handshake, mangled, with numbers that shut a replay window.
    Flood,
}

/// Two who shake hands, both of the kinds that are asked for.
struct Pair {
    ours: Dtls,
    theirs: Them,
    to_ours: Vec<Vec<u8>>,
    to_theirs: VecDeque<Vec<u8>>,
    connected: bool,
}

impl Pair {
    fn new(kind: Stack, active: bool, openssl: bool) -> Self {
        let now = Instant::now();
        let (theirs, certificate) = match openssl {
            true => {
                let identity = super::matrix::identity_of_p_256();
                let certificate = identity.certificate.to_der().unwrap();
                (Them::OpenSsl(Box::new(Other::usual(&identity, !active))), certificate)
            }
            false => {
                let own = certificate();
                (Them::Dimpl(dimpl_as(&own, !active, now)), own.certificate)
            }
        };
        let mut ours = Dtls::with(kind, super::tests::certificate());
        ours.start(now, active, &[Fingerprint::of(&certificate, Hash::Sha256).unwrap()]).unwrap();
        Self { ours, theirs, to_ours: vec![], to_theirs: VecDeque::new(), connected: false }
    }

    fn step(&mut self, mut way: impl FnMut(Vec<u8>) -> Vec<Vec<u8>>, what: &str) {
        let now = Instant::now();
        for datagram in std::mem::take(&mut self.to_ours).into_iter().flat_map(&mut way) {
            self.ours.receive(now, &datagram).unwrap_or_else(|error| panic!("{what}: {error}"));
            let event = self.ours.poll(now, &mut self.to_theirs).unwrap_or_else(|error| panic!("{what}: {error}"));
            self.connected |= matches!(event, Some(DtlsEvent::Connected(_)));
        }
        let event = self.ours.poll(now, &mut self.to_theirs).unwrap_or_else(|error| panic!("{what}: {error}"));
        self.connected |= matches!(event, Some(DtlsEvent::Connected(_)));
        self.to_ours = self.theirs.step(now, std::mem::take(&mut self.to_theirs).into());
    }
}

fn records(datagram: &[u8]) -> Vec<Vec<u8>> {
    let (mut rest, mut all) = (datagram, vec![]);
    while rest.len() >= 13 {
        let len = (13 + usize::from(u16::from_be_bytes([rest[11], rest[12]]))).min(rest.len());
        all.push(rest[..len].to_vec());
        rest = &rest[len..];
    }
    all
}

/// The records of a whole handshake between two others, of both sides.
fn foreign(active: bool) -> Vec<Vec<u8>> {
    let mut pair = Pair::new(Stack::Str0m, active, false);
    let mut all: Vec<Vec<u8>> = vec![];
    while !pair.connected {
        std::thread::sleep(Duration::from_millis(2));
        all.extend(pair.to_ours.iter().flat_map(|datagram| records(datagram)));
        pair.step(|datagram| vec![datagram], "foreign");
        all.extend(pair.to_theirs.iter().flat_map(|datagram| records(datagram)));
    }
    // Of a server that asks for cookies nobody can tell who has asked (decision 47).
    all.retain(|record| !active || (record[0], record.get(13)) != (22, Some(&3)));
    all
}

struct Run {
    what: String,
    attack: Attack,
    pair: Pair,
    seeded: Seeded,
    seen: usize,
    foreign: Vec<Vec<u8>>,
}

impl Run {
    fn is_done(&mut self) -> bool {
        let (attack, seen, seeded, foreign) = (self.attack, &mut self.seen, &mut self.seeded, &self.foreign);
        let way = |datagram: Vec<u8>| -> Vec<Vec<u8>> {
            let mut come = vec![];
            match attack {
                Attack::Sealed => come.extend((0..70).step_by(3).map(|len| {
                    let kind = [20, 21, 22, 23][seeded.below(4)];
                    let content: Vec<u8> = (0..len).map(|_| seeded.below(256) as u8).collect();
                    [&[kind, 0xfe, 0xfd, 0, 1, 0, 0, 0, 0, 0, seeded.below(256) as u8, 0, len], &content[..]].concat()
                })),
                Attack::Foreign => come.extend(foreign.iter().cloned()),
                Attack::Flood => come.extend((0..40).map(|_| {
                    let mut record = foreign[seeded.below(foreign.len())].clone();
                    record[5..11].fill(0xff);
                    if seeded.below(2) == 0 { seeded.mutate(&record) } else { record }
                })),
                _ => {}
            }
            let mut passed = vec![];
            for record in records(&datagram) {
                let mut changed = record.clone();
                let bit = seeded.below(8 * record.len());
                changed[bit / 8] ^= 1 << (bit % 8);
                let number = std::mem::replace(seen, *seen + 1);
                match attack {
                    Attack::Changed(which) if which == number => passed.extend(changed),
                    Attack::Before(which) if which == number => {
                        come.push(changed);
                        passed.extend(record);
                    }
                    _ => passed.extend(record),
                }
            }
            come.push(passed);
            come
        };
        self.pair.step(way, &self.what);
        self.pair.connected
    }
}

fn run_all(attacks: &[Attack], seeds: u64, roles: &[bool]) {
    let mut runs = vec![];
    for active in roles.iter().copied() {
        let foreign = foreign(active);
        for (kind, openssl) in
            [(Stack::OpenSsl, true), (Stack::OpenSsl, false), (Stack::Str0m, true), (Stack::Str0m, false)]
        {
            for (attack, seed) in attacks.iter().flat_map(|attack| (0..seeds).map(move |seed| (*attack, seed))) {
                let role = if active { "client" } else { "server" };
                let theirs = if openssl { "OpenSSL" } else { "dimpl" };
                runs.push(Run {
                    what: format!("we are {role} by {kind:?}, they are {theirs}: {attack:?}, seed {seed}"),
                    attack,
                    pair: Pair::new(kind, active, openssl),
                    seeded: Seeded(seed),
                    seen: 0,
                    foreign: foreign.clone(),
                });
            }
        }
    }
    let end = Instant::now() + PATIENCE;
    while !runs.is_empty() {
        runs.retain_mut(|run| !run.is_done());
        if Instant::now() >= end {
            let left: Vec<_> = runs.iter().map(|run| (&run.what, run.pair.ours.trouble())).collect();
            panic!("{} handshakes were never done: {left:#?}", left.len());
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Two ClientHellos, and what a client says besides; some more for those that come in pieces.
const RECORDS: usize = 10;

/// A client's messages are signed, all of them: whichever is changed on its way, the next one will do.
#[test]
fn whichever_record_of_a_client_is_changed_on_its_way() {
    let attacks: Vec<Attack> = (0..RECORDS).map(Attack::Changed).collect();
    run_all(&attacks, 6, &[false]);
}

#[test]
fn whichever_record_comes_changed_before_it_comes_as_it_is() {
    let attacks: Vec<Attack> = (0..RECORDS).map(Attack::Before).collect();
    run_all(&attacks, 6, &[false, true]);
}

#[test]
fn records_of_another_handshake_at_each_step() {
    run_all(&[Attack::Foreign, Attack::Flood, Attack::Sealed], 4, &[false, true]);
}
