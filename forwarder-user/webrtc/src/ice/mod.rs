//! Which address gets a session's media, and whether its peer is still there (decision 28).
//!
//! Of str0m's agent only the credentials and the integrity of requests are used. What it does by itself as a lite
//! agent stands in the way: it keeps the old pair while priorities are equal, believes the source address of
//! whoever has the password once, keeps a pair for each address that was ever seen, and gives up after 15 s. Here:
//!
//! - The latest authenticated nomination wins, whatever its priority. One that is only repeated does not.
//! - Once DTLS has sent something, another address must echo a Binding request of ours first, of which the
//!   transaction id cannot be guessed: only who receives there can.
//! - No more than [`MAX_PAIRS`] pairs are remembered, and no more than [`REQUESTS`] requests are sent in
//!   [`REQUESTS_TIME`].

mod check;
mod request;
#[cfg(test)]
mod tests;

use std::time::{Duration, Instant};

use str0m::ice::{IceAgent, IceCreds, StunMessage, TransId};

pub use check::Check;

use super::dtls;
use super::peer::{Datagram, Pair};

/// Pairs of addresses that one session's checks may come by at a time. The one that was silent longest makes way.
pub(crate) const MAX_PAIRS: usize = 8;
/// Binding requests that one session may make us send in [`REQUESTS_TIME`], wherever its checks pretend to come
/// from: fewer bytes than it must send us.
pub(crate) const REQUESTS: u32 = 20;
pub(crate) const REQUESTS_TIME: Duration = Duration::from_secs(10);
/// When a request is sent again, doubled each time. Short: media waits for the answer.
const FIRST_RETRY: Duration = Duration::from_millis(100);
/// How often a request is sent before the address counts as one that does not answer.
const TRIES: u32 = 5;
/// Checks on a pair that was nominated before, without one on the chosen pair in between, after which the peer
/// has gone back to it.
const RETURNED: u32 = 2;

/// A pair by which authenticated checks came.
struct Known {
    pair: Pair,
    /// Its last check had USE-CANDIDATE.
    nominated: bool,
    last: Instant,
    /// Checks since the last one on the chosen pair.
    alone: u32,
}

/// A pair that must show that somebody receives there.
struct Test {
    pair: Pair,
    id: TransId,
    tries: u32,
    /// When the request is sent again, or given up.
    next: Instant,
}

/// ICE of one session, as a lite agent, and what goes beyond (see the module).
pub(crate) struct Ice {
    agent: IceAgent,
    /// As the offer or the latest restart says.
    remote: Option<IceCreds>,
    known: Vec<Known>,
    chosen: Option<Pair>,
    /// From now on only a test moves the session.
    committed: bool,
    test: Option<Test>,
    /// When the last authenticated check or answer came.
    alive: Option<Instant>,
    requests: (Instant, u32),
    send: Vec<Datagram>,
}

impl Ice {
    /// With credentials of its own.
    pub(crate) fn new(now: Instant) -> Self {
        let mut agent = IceAgent::with_hmac(IceCreds::new(), dtls::provider().sha1_hmac_provider);
        agent.set_ice_lite(true);
        Self {
            agent,
            remote: None,
            known: vec![],
            chosen: None,
            committed: false,
            test: None,
            alive: None,
            requests: (now, 0),
            send: vec![],
        }
    }

    /// The peer's credentials, of the offer.
    pub(crate) fn accept(&mut self, ufrag: &str, pwd: &str) {
        let remote = IceCreds { ufrag: ufrag.to_owned(), pass: pwd.to_owned() };
        self.agent.set_remote_credentials(remote.clone());
        self.remote = Some(remote);
    }

    /// Other credentials on both sides. Media goes on where it goes until another pair is nominated.
    pub(crate) fn restart(&mut self, ufrag: &str, pwd: &str) {
        self.agent.ice_restart(IceCreds::new(), true);
        self.accept(ufrag, pwd);
        self.known.clear();
        self.test = None;
    }

    /// Our credentials: user name fragment and password.
    pub(crate) fn local(&self) -> (&str, &str) {
        let credentials = self.agent.local_credentials();
        (&credentials.ufrag, &credentials.pass)
    }

    /// Where DTLS and media go, once a pair was nominated.
    pub(crate) fn chosen(&self) -> Option<Pair> {
        self.chosen
    }

    /// Something has been sent there that must not go anywhere else just because a check says so.
    pub(crate) fn commit(&mut self) {
        self.committed = true;
    }

    /// When the peer last showed that it is there.
    pub(crate) fn alive(&self) -> Option<Instant> {
        self.alive
    }

    /// Whether a request has our user name, the peer's, and the integrity of our password.
    pub(crate) fn is_authentic(&self, check: &Check<'_>) -> bool {
        let (ufrag, password) = self.local();
        let names = check.local() == ufrag && self.remote.as_ref().is_some_and(|remote| remote.ufrag == check.remote());
        names && check.is_of(password)
    }

    /// Takes a check that [`is_authentic`](Self::is_authentic), and answers it.
    pub(crate) fn check(&mut self, now: Instant, pair: Pair, check: &Check<'_>) {
        let (bytes, counts) = check.answer(pair.peer, self.local().1);
        self.send.push(Datagram { socket: pair.socket, peer: pair.peer, bytes });
        if !counts {
            return;
        }
        self.alive = Some(now);
        if self.is_news(now, pair, check.nominates()) {
            self.nominate(now, pair);
        }
    }

    /// Enters a check. Does it say that media shall go there, and did the one before it not?
    fn is_news(&mut self, now: Instant, pair: Pair, nominates: bool) -> bool {
        if self.chosen == Some(pair) {
            self.known.iter_mut().for_each(|known| known.alone = 0);
        }
        let Some(known) = self.known.iter_mut().find(|known| known.pair == pair) else {
            self.remember(Known { pair, nominated: nominates, last: now, alone: 1 });
            return nominates;
        };
        let before = std::mem::replace(&mut known.nominated, nominates);
        known.last = now;
        known.alone = known.alone.saturating_add(1);
        // Who nominates several pairs repeats it with every check, on all of them.
        nominates && (!before || known.alone >= RETURNED)
    }

    fn remember(&mut self, new: Known) {
        if self.known.len() >= MAX_PAIRS {
            let chosen = self.chosen;
            let oldest = self.known.iter().enumerate().filter(|(_, known)| Some(known.pair) != chosen);
            if let Some((place, _)) = oldest.min_by_key(|(_, known)| known.last) {
                self.known.swap_remove(place);
            }
        }
        self.known.push(new);
    }

    fn nominate(&mut self, now: Instant, pair: Pair) {
        if self.chosen == Some(pair) {
            // Back where it was: a move that is being tested is off.
            self.test = None;
        } else if self.committed {
            self.probe(now, pair);
        } else {
            self.chosen = Some(pair);
        }
    }

    /// Asks whether the peer is at this pair. If so, media goes there.
    pub(crate) fn probe(&mut self, now: Instant, pair: Pair) {
        if self.chosen == Some(pair) || self.test.as_ref().is_some_and(|test| test.pair == pair) {
            return;
        }
        self.test = Some(Test { pair, id: request::random_id(), tries: 0, next: now });
        self.timeout(now);
    }

    /// Takes an answer to a request of ours. Whether it is one, and authentic; then media goes there.
    pub(crate) fn answer(&mut self, now: Instant, pair: Pair, message: &StunMessage<'_>) -> bool {
        let Some(remote) = &self.remote else { return false };
        let tested = self.test.as_ref().is_some_and(|test| test.pair == pair && test.id == message.trans_id());
        if !tested || !message.is_successful_binding_response() || !request::verify(message, &remote.pass) {
            return false;
        }
        self.test = None;
        self.alive = Some(now);
        self.chosen = Some(pair);
        self.known.iter_mut().for_each(|known| known.alone = 0);
        true
    }

    /// The id of the request whose answer is awaited.
    pub(crate) fn awaited(&self) -> Option<TransId> {
        self.test.as_ref().map(|test| test.id)
    }

    /// When to call [`timeout`](Self::timeout).
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.test.as_ref().map(|test| test.next)
    }

    /// Sends what is due.
    pub(crate) fn timeout(&mut self, now: Instant) {
        let Some(test) = self.test.as_mut().filter(|test| test.next <= now) else { return };
        if now.duration_since(self.requests.0) >= REQUESTS_TIME {
            self.requests = (now, 0);
        }
        if test.tries == TRIES || self.requests.1 >= REQUESTS {
            self.test = None;
            return;
        }
        let (Pair { socket, peer }, id) = (test.pair, test.id);
        test.next = now + FIRST_RETRY * (1 << test.tries);
        test.tries += 1;
        self.requests.1 += 1;
        let Some(remote) = &self.remote else { return };
        let bytes = request::binding_request(id, &remote.ufrag, self.local().0, &remote.pass);
        self.send.extend(bytes.map(|bytes| Datagram { socket, peer, bytes }));
    }

    /// What is to be sent.
    pub(crate) fn poll(&mut self) -> Vec<Datagram> {
        std::mem::take(&mut self.send)
    }

    /// Pairs that are remembered.
    #[cfg(test)]
    pub(crate) fn pairs(&self) -> usize {
        self.known.len()
    }
}
