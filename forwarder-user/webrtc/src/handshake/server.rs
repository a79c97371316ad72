//! The peer is the client.
//!
//! A ClientHello is answered by a HelloVerifyRequest: who sends its cookie back receives at the peer's address
//! (RFC 6347 §4.2.1). All that follows of the client in the clear is signed by its certificate.

use std::collections::BTreeMap;
use std::time::Instant;

use super::hello::{self, Digest, Last};
use super::message::{
    self, CERTIFICATE, CERTIFICATE_REQUEST, CERTIFICATE_VERIFY, CLIENT_HELLO, CLIENT_KEY_EXCHANGE, Fragment, HANDSHAKE,
    HELLO_VERIFY_REQUEST, SERVER_HELLO, SERVER_HELLO_DONE, SERVER_KEY_EXCHANGE,
};
use super::signature;
use super::versions::Versions;
use super::{Budget, Common, ForStack};
use crate::sdp::is_meant;

/// HelloVerifyRequests in a second; whoever has asked for one, it is good for the peer.
const REPLIES: u32 = 20;
/// ClientHellos without a cookie that are remembered.
const SEEN: usize = 32;
/// And such with a cookie that were not seen without it.
const PROVEN: usize = 4;

/// See the module.
pub(super) struct Server {
    /// What asks for the cookie, as the stack has made it, and the cookie.
    request: Option<(Vec<u8>, Vec<u8>)>,
    asked: bool,
    replies: Budget,
    first: Versions,
    second: Versions,
    seen: Last<Digest>,
    proven: Last<Digest>,
    /// The one that the stack has, and what is signed so far.
    hello: Option<(Digest, Vec<u8>)>,
    /// Our own messages, by number, and all of them.
    ours: BTreeMap<u16, Versions>,
    signed: Option<Vec<u8>>,
    certificate: Versions,
    exchange: Versions,
    verify: Versions,
    given: bool,
}

impl Server {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            request: None,
            asked: false,
            replies: Budget::new(now, REPLIES),
            first: Versions::new(4),
            second: Versions::new(4),
            seen: Last::new(SEEN),
            proven: Last::new(PROVEN),
            hello: None,
            ours: BTreeMap::new(),
            signed: None,
            certificate: Versions::new(4),
            exchange: Versions::new(16),
            verify: Versions::new(8),
            given: false,
        }
    }

    pub(super) fn has_given_all(&self) -> bool {
        self.given
    }

    pub(super) fn has_hello(&self) -> bool {
        self.hello.is_some()
    }

    pub(super) fn wants_cookie(&self) -> bool {
        self.asked && self.request.is_none()
    }

    pub(super) fn reply(&mut self) -> Option<Vec<u8>> {
        let (request, _) = self.request.as_ref()?;
        std::mem::take(&mut self.asked).then(|| request.clone())
    }

    pub(super) fn take(&mut self, common: &mut Common, now: Instant, fragment: &Fragment<'_>) -> ForStack {
        match (fragment.kind, fragment.number) {
            (CLIENT_HELLO, 0) => self.ask(common, now, fragment),
            (CLIENT_HELLO, 1) => return self.hello(common, fragment),
            _ if self.given || self.signed.is_none() => {}
            (CERTIFICATE, 2) => return self.certificate(common, now, fragment),
            (CLIENT_KEY_EXCHANGE, 3) => {
                let whole = self.exchange.add(fragment);
                return if whole.is_empty() { vec![] } else { self.judge(common, now) };
            }
            (CERTIFICATE_VERIFY, 4) => {
                let whole = self.verify.add(fragment);
                return if whole.is_empty() { vec![] } else { self.judge(common, now) };
            }
            _ => common.ignore("a message that has no place in a client's handshake"),
        }
        vec![]
    }

    /// A ClientHello without a cookie, of whomever.
    fn ask(&mut self, common: &mut Common, now: Instant, fragment: &Fragment<'_>) {
        if self.hello.is_some() {
            return;
        }
        for place in self.first.add(fragment) {
            let hello = self.first.body(place).and_then(hello::parse).filter(|hello| hello.cookie.is_empty());
            match hello {
                Some(hello) => {
                    self.seen.add(hello.rest);
                    self.asked |= self.replies.take(now);
                }
                None => common.ignore("a ClientHello that contradicts itself"),
            }
        }
    }

    /// A ClientHello with a cookie. It is the client's if it is one that has come without it as well; another one may
    /// have been changed on its way, or what it answers was asked for by somebody else: the client will say it again.
    fn hello(&mut self, common: &mut Common, fragment: &Fragment<'_>) -> ForStack {
        let Some((_, cookie)) = self.request.as_ref().filter(|_| !self.given) else { return vec![] };
        for place in self.second.add(fragment) {
            let Some(body) = self.second.body(place) else { continue };
            let hello = hello::parse(body);
            let proven =
                hello.filter(|hello| hello.cookie.len() == cookie.len() && openssl::memcmp::eq(hello.cookie, cookie));
            let Some(proven) = proven else {
                common.ignore("a ClientHello without the cookie");
                continue;
            };
            let known = match &self.hello {
                Some((known, _)) => proven.rest == *known,
                None => self.seen.has(&proven.rest) || self.proven.has(&proven.rest),
            };
            if !known {
                self.proven.add(proven.rest);
                common.ignore("a ClientHello of another client");
                continue;
            }
            self.hello.get_or_insert_with(|| (proven.rest, message::whole(CLIENT_HELLO, 1, body)));
            return message::datagrams(CLIENT_HELLO, 1, body, &mut common.next);
        }
        vec![]
    }

    fn certificate(&mut self, common: &mut Common, now: Instant, fragment: &Fragment<'_>) -> ForStack {
        let mut meant = false;
        for place in self.certificate.add(fragment) {
            let own = self.certificate.body(place).and_then(signature::own_certificate);
            match own.is_some_and(|own| is_meant(&common.expected, own)) {
                true => meant = true,
                false => common.ignore("a certificate that is not the one of the offer"),
            }
        }
        if meant { self.judge(common, now) } else { vec![] }
    }

    fn judge(&mut self, common: &mut Common, now: Instant) -> ForStack {
        match self.find(common, now) {
            Some(found) => self.give(common, found),
            None => vec![],
        }
    }

    /// Which of what has come is the client's? Certificate, key and signature.
    fn find(&self, common: &mut Common, now: Instant) -> Option<[Vec<u8>; 3]> {
        let signed = self.signed.as_ref()?;
        let mut tried = false;
        for certificate in self.certificate.whole().rev() {
            let own = signature::own_certificate(&certificate.body);
            let Some(own) = own.filter(|own| is_meant(&common.expected, own)) else { continue };
            let first = message::whole(CERTIFICATE, 2, &certificate.body);
            for verify in self.verify.whole().rev() {
                for exchange in self.exchange.whole().rev() {
                    if !common.signatures.take(now) {
                        common.ignore("more signatures than are looked at in a second");
                        return None;
                    }
                    tried = true;
                    let keys = message::whole(CLIENT_KEY_EXCHANGE, 3, &exchange.body);
                    if signature::is_good(own, &verify.body, &[signed, &first, &keys]) {
                        return Some([certificate.body.clone(), exchange.body.clone(), verify.body.clone()]);
                    }
                }
            }
        }
        if tried {
            common.ignore("a signature that is not of the certificate");
        }
        None
    }

    fn give(&mut self, common: &mut Common, [certificate, exchange, verify]: [Vec<u8>; 3]) -> ForStack {
        let mut given = message::datagrams(CERTIFICATE, 2, &certificate, &mut common.next);
        given.extend(message::datagrams(CLIENT_KEY_EXCHANGE, 3, &exchange, &mut common.next));
        given.extend(message::datagrams(CERTIFICATE_VERIFY, 4, &verify, &mut common.next));
        given.push(common.change_cipher_spec());
        if let Some(hello) = self.ours.values().next().and_then(|versions| versions.whole().next()) {
            common.choose(&hello.body);
        }
        self.given = true;
        // None of it is needed any more.
        [&mut self.first, &mut self.second, &mut self.certificate, &mut self.exchange, &mut self.verify]
            .into_iter()
            .for_each(Versions::clear);
        (self.ours, self.signed) = (BTreeMap::new(), None);
        self.seen.take();
        given
    }

    /// Nothing goes out before somebody has shown that he receives it.
    pub(super) fn sent(&mut self, datagram: &[u8]) -> bool {
        let mut goes_out = self.hello.is_some();
        let messages = message::records(datagram).filter(|record| (record.epoch, record.kind) == (0, HANDSHAKE));
        for fragment in messages.flat_map(|record| message::fragments(record.content, 0)) {
            match fragment.kind {
                HELLO_VERIFY_REQUEST => {
                    goes_out = false;
                    // Version, and a vector.
                    let cookie = fragment.bytes.get(3..).map(<[u8]>::to_vec);
                    self.request = cookie.map(|cookie| (datagram.to_vec(), cookie));
                }
                SERVER_HELLO | CERTIFICATE | SERVER_KEY_EXCHANGE | CERTIFICATE_REQUEST | SERVER_HELLO_DONE => {
                    if !self.given {
                        self.ours.entry(fragment.number).or_insert(Versions::new(1)).add(&fragment);
                    }
                    if fragment.kind == SERVER_HELLO_DONE {
                        self.sign();
                    }
                }
                _ => {}
            }
        }
        goes_out
    }

    /// Our messages are complete: what the client signs begins with its ClientHello and these.
    fn sign(&mut self) {
        let Some((_, hello)) = self.hello.as_ref().filter(|_| self.signed.is_none() && !self.given) else { return };
        const KINDS: [u8; 5] = [SERVER_HELLO, CERTIFICATE, SERVER_KEY_EXCHANGE, CERTIFICATE_REQUEST, SERVER_HELLO_DONE];
        let mut signed = hello.clone();
        for (kind, (number, versions)) in KINDS.into_iter().zip(&self.ours) {
            let Some(version) = versions.whole().next() else { return };
            signed.extend(message::whole(kind, *number, &version.body));
        }
        self.signed = (self.ours.len() == KINDS.len()).then_some(signed);
    }
}
