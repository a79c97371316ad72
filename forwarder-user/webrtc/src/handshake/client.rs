//! The peer is the server.
//!
//! Its certificate has signed the randoms and its key (RFC 8422 §5.4), which shows which of what has come is of its
//! handshake with us. What is beside them in its messages is not signed before the end, so of versions that contradict
//! each other one that came in the same datagram as something signed is taken, or the one that has come more often:
//! servers send again what is not answered.

use std::time::{Duration, Instant};

use super::message::{
    self, CERTIFICATE, CERTIFICATE_REQUEST, CLIENT_HELLO, Fragment, HANDSHAKE, HELLO_VERIFY_REQUEST, SERVER_HELLO,
    SERVER_HELLO_DONE, SERVER_KEY_EXCHANGE,
};
use super::signature;
use super::versions::{Version, Versions};
use super::{Common, ForStack};
use crate::sdp::is_meant;

/// A server that wants a cookie asks for it again when it is not sent; one that does not has answered by then.
const ASKS_AGAIN: Duration = Duration::from_millis(500);
/// Places of a server's messages. It asks for a certificate or it does not (RFC 5246 §7.4.4), as FFmpeg does not: then
/// its ServerHelloDone has the number that the question would have.
const REQUEST: usize = 3;
const DONE: usize = 4;
const DONE_WITHOUT_REQUEST: usize = 5;

/// The place of a message by its kind, and its number since the ServerHello.
const fn place(kind: u8, number: u16) -> Option<usize> {
    match (kind, number) {
        (SERVER_HELLO, 0) => Some(0),
        (CERTIFICATE, 1) => Some(1),
        (SERVER_KEY_EXCHANGE, 2) => Some(2),
        (CERTIFICATE_REQUEST, 3) => Some(REQUEST),
        (SERVER_HELLO_DONE, 4) => Some(DONE),
        (SERVER_HELLO_DONE, 3) => Some(DONE_WITHOUT_REQUEST),
        _ => None,
    }
}

/// See the module.
pub(super) struct Client {
    /// Of our ClientHello.
    random: Option<[u8; 32]>,
    request: Versions,
    /// When a HelloVerifyRequest came first.
    asked: Option<Instant>,
    /// Number of the ServerHello: 1 behind a HelloVerifyRequest.
    begin: u16,
    messages: [Versions; 6],
    given: bool,
    changed: bool,
}

impl Client {
    pub(super) fn new() -> Self {
        Self {
            random: None,
            request: Versions::new(4),
            asked: None,
            begin: 0,
            messages: [const { Versions::new(4) }; 6],
            given: false,
            changed: false,
        }
    }

    pub(super) fn has_given_all(&self) -> bool {
        self.given
    }

    /// The first sealed record of the server has come, and the stack is to be ready for it.
    pub(super) fn is_to_change(&mut self) -> bool {
        !std::mem::replace(&mut self.changed, true)
    }

    /// All that the stack sends goes out.
    pub(super) fn sent(&mut self, datagram: &[u8]) -> bool {
        let messages = message::records(datagram).filter(|record| (record.epoch, record.kind) == (0, HANDSHAKE));
        for fragment in messages.flat_map(|record| message::fragments(record.content, 0)) {
            if (fragment.kind, fragment.offset) == (CLIENT_HELLO, 0) {
                // Behind two bytes of version.
                self.random = fragment.bytes.get(2..).and_then(|rest| rest.first_chunk().copied()).or(self.random);
            }
        }
        true
    }

    pub(super) fn take(&mut self, common: &mut Common, now: Instant, fragment: &Fragment<'_>) -> ForStack {
        if self.given {
            return vec![];
        }
        if (fragment.kind, fragment.number, self.begin) == (HELLO_VERIFY_REQUEST, 0, 0) {
            return self.asked_for_cookie(common, now, fragment);
        }
        let place = fragment.number.checked_sub(self.begin).and_then(|number| place(fragment.kind, number));
        let Some(versions) = place.and_then(|place| self.messages.get_mut(place)) else {
            common.ignore("a message that has no place in a server's handshake");
            return vec![];
        };
        if versions.add(fragment).is_empty() { vec![] } else { self.judge(common, now) }
    }

    fn asked_for_cookie(&mut self, common: &mut Common, now: Instant, fragment: &Fragment<'_>) -> ForStack {
        let since = *self.asked.get_or_insert(now);
        let whole = self.request.add(fragment);
        if now.duration_since(since) < ASKS_AGAIN || whole.is_empty() {
            return vec![];
        }
        let Some(request) = best(self.request.whole()).filter(|request| request.sightings > 1) else { return vec![] };
        let given = message::datagrams(HELLO_VERIFY_REQUEST, 0, &request.body, &mut common.next);
        self.begin = 1;
        self.messages.iter_mut().for_each(Versions::clear);
        given
    }

    /// Is all there, and which of it is the server's?
    fn judge(&mut self, common: &mut Common, now: Instant) -> ForStack {
        let Some(random) = self.random else { return vec![] };
        let is_there = |place: usize| self.messages[place].whole().next().is_some();
        let ends = is_there(DONE_WITHOUT_REQUEST) || is_there(REQUEST) && is_there(DONE);
        if !ends || !(0..REQUEST).all(is_there) {
            return vec![];
        }
        let [hellos, certificates, exchanges, requests, done, done_without] = &self.messages;
        let meant = |certificate: &&Version| {
            signature::own_certificate(&certificate.body).is_some_and(|own| is_meant(&common.expected, own))
        };
        let Some(certificate) = best(certificates.whole().filter(meant)) else {
            common.ignore("a certificate that is not the one of the offer, or two that contradict each other");
            return vec![];
        };
        let Some(own) = signature::own_certificate(&certificate.body) else { return vec![] };
        let mut good: Vec<(&Version, &Version)> = vec![];
        for hello in hellos.whole() {
            for exchange in exchanges.whole() {
                if !common.signatures.take(now) {
                    common.ignore("more signatures than are looked at in a second");
                    return vec![];
                }
                if is_signed(own, &random, &hello.body, &exchange.body) {
                    good.push((hello, exchange));
                }
            }
        }
        let hello = best(good.iter().map(|(hello, _)| *hello));
        let exchange = best(good.iter().map(|(_, exchange)| *exchange));
        let not_signed = hello.zip(exchange).and_then(|(hello, exchange)| {
            let signed = [hello.datagram, exchange.datagram, certificate.datagram];
            let end = likely(&signed, || done.whole().filter(|_| is_there(REQUEST)).chain(done_without.whole()))?;
            let asks = done.whole().any(|version| std::ptr::eq(version, end));
            Some(if asks { Some(likely(&signed, || requests.whole())?) } else { None })
        });
        let Some(((hello, exchange), request)) = hello.zip(exchange).zip(not_signed) else {
            common.ignore("a signature that is not of the certificate, or messages that contradict each other");
            return vec![];
        };
        let signed = [
            (SERVER_HELLO, &hello.body[..]),
            (CERTIFICATE, &certificate.body[..]),
            (SERVER_KEY_EXCHANGE, &exchange.body[..]),
        ];
        let request = request.map(|request| (CERTIFICATE_REQUEST, &request.body[..]));
        let numbered = signed.into_iter().chain(request).chain([(SERVER_HELLO_DONE, &[][..])]).zip(self.begin..);
        let given = numbered
            .flat_map(|((kind, body), number)| message::datagrams(kind, number, body, &mut common.next))
            .collect();
        common.choose(&hello.body);
        self.given = true;
        self.messages.iter_mut().for_each(Versions::clear);
        given
    }
}

/// Has the server signed this key for a handshake with these randoms?
fn is_signed(certificate: &[u8], client: &[u8; 32], hello: &[u8], exchange: &[u8]) -> bool {
    let server = hello.get(2..34);
    let parts = signature::behind_parameters(exchange).and_then(|end| exchange.split_at_checked(end));
    let Some((server, (parameters, signed))) = server.zip(parts) else { return false };
    signature::is_good(certificate, signed, &[client, server, parameters])
}

/// Of what is not signed: the one that came in the same datagram as something signed, or else more often.
fn likely<'a, I: Iterator<Item = &'a Version>>(signed: &[u64], versions: impl Fn() -> I) -> Option<&'a Version> {
    best(versions().filter(|version| signed.contains(&version.datagram))).or_else(|| best(versions()))
}

/// The one that has come more often than all others.
fn best<'a>(versions: impl Iterator<Item = &'a Version>) -> Option<&'a Version> {
    let mut all: Vec<&Version> = versions.collect();
    all.sort_by_key(|version| std::cmp::Reverse(version.sightings));
    all.dedup_by(|a, b| std::ptr::eq(*a, *b));
    let second = all.get(1).map_or(0, |second| second.sightings);
    all.first().copied().filter(|first| first.sightings > second)
}
