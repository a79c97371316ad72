//! ICE and DTLS with one peer: `ice`, and DTLS beside it.
//!
//! Not str0m's `Rtc`: that would also keep buffers, statistics and timers of media, which never passes here,
//! 20 KB a session (decision 21).

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use str0m::config::DtlsCert;
use str0m::ice::{StunMessage, TransId};

use super::dtls::{Dtls, DtlsEvent, Keying, Stack};
use super::ice::{Check, Ice};
use super::sdp::{LocalDescription, RemoteDescription, Setup};

/// A datagram to send.
#[derive(Clone, Debug)]
pub struct Datagram {
    /// Index of our socket, or [`TCP`].
    pub socket: usize,
    /// Destination, as the socket takes it.
    pub peer: SocketAddr,
    /// UDP payload: a STUN message or DTLS records.
    pub bytes: Vec<u8>,
}

/// Number of the socket that stands for all TCP connections, which differ by the peer's address.
pub const TCP: usize = usize::MAX;

/// Where peers are told to send.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Locals {
    /// Our sockets' addresses as peers see them; the index is that of the socket. `None`: not offered.
    pub udp: Box<[Option<SocketAddr>]>,
    /// Where they may connect by TCP, best first.
    pub tcp: Box<[SocketAddr]>,
}

impl Locals {
    /// Those of UDP alone.
    pub fn udp(addresses: impl IntoIterator<Item = Option<SocketAddr>>) -> Self {
        Self { udp: addresses.into_iter().collect(), tcp: Box::default() }
    }

    fn has(&self, socket: usize) -> bool {
        match socket {
            TCP => !self.tcp.is_empty(),
            socket => self.udp.get(socket).copied().flatten().is_some(),
        }
    }
}

/// Which socket of ours talks to which address of the peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Pair {
    /// Index of our socket, in the order of the addresses that the peer was told, or [`TCP`].
    pub socket: usize,
    /// Where its packets come from as we see it, which a NAT may have made.
    pub peer: SocketAddr,
}

/// What happened.
#[derive(Debug)]
pub enum PeerEvent {
    /// DTLS is complete and the peer's certificate is the one of its offer.
    Connected(Keying, Pair),
    /// The peer is at another pair, and has shown it.
    Moved(Pair),
    /// The peer closed DTLS, or our own closing is complete.
    Closed,
}

/// What [`Peer::poll`] gives.
#[derive(Debug, Default)]
pub struct Polled {
    /// To be sent in this order.
    pub datagrams: Vec<Datagram>,
    /// In the order in which they happened.
    pub events: Vec<PeerEvent>,
    /// When to call [`Peer::timeout`] at the latest.
    pub deadline: Option<Instant>,
}

/// ICE or DTLS failed in a way that ends the session. The text is for the log.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct PeerError(String);

/// ICE and DTLS with one peer.
pub struct Peer {
    ice: Ice,
    dtls: Dtls,
    /// What DTLS sends before ICE has nominated a pair.
    unsent: VecDeque<Vec<u8>>,
    locals: Arc<Locals>,
    /// As the offer says, with the credentials of the latest restart.
    remote: Option<RemoteDescription>,
    /// SHA-256 of our certificate, with its name.
    fingerprint: String,
    /// Where media goes, as was told last.
    told: Option<Pair>,
    connected: bool,
    /// Time as it was told last, less `lag`: it never goes back.
    now: Instant,
    /// How long this process stood still since the session began. ICE and DTLS live without that time: a peer's
    /// silence is none that nobody listened to.
    lag: Duration,
}

impl Peer {
    /// ICE-lite: we answer checks, and send none but those by which a peer shows that it has moved.
    pub fn new(now: Instant, (stack, certificate): (Stack, DtlsCert), locals: &Arc<Locals>) -> Self {
        Self {
            ice: Ice::new(now),
            dtls: Dtls::with(stack, certificate),
            unsent: VecDeque::new(),
            locals: Arc::clone(locals),
            remote: None,
            fingerprint: String::new(),
            told: None,
            connected: false,
            now,
            lag: Duration::ZERO,
        }
    }

    /// Takes the offerer's transport, once.
    ///
    /// # Errors
    /// ICE or DTLS refuse.
    pub fn accept(&mut self, remote: &RemoteDescription) -> Result<LocalDescription, PeerError> {
        let now = self.now;
        guard(|| {
            self.ice.accept(&remote.ufrag, &remote.pwd);
            let active = remote.setup == Setup::Passive;
            self.fingerprint = self.dtls.start(now, active, &remote.fingerprints).map_err(failed)?;
            Ok(())
        })?;
        self.remote = Some(remote.clone());
        Ok(self.describe(remote))
    }

    /// Restarts ICE for other credentials of the same peer: ours change too, DTLS and its keys stay.
    ///
    /// # Errors
    /// There was no offer, or ICE refuses.
    pub fn restart(&mut self, ufrag: String, pwd: String) -> Result<LocalDescription, PeerError> {
        let remote = self.remote.take().ok_or_else(|| PeerError("ICE restart before the offer".into()))?;
        let remote = RemoteDescription { ufrag, pwd, ..remote };
        guard(|| {
            self.ice.restart(&remote.ufrag, &remote.pwd);
            Ok(())
        })?;
        let local = self.describe(&remote);
        self.remote = Some(remote);
        Ok(local)
    }

    fn describe(&self, remote: &RemoteDescription) -> LocalDescription {
        let (ufrag, pwd) = self.ice.local();
        LocalDescription {
            ufrag: ufrag.to_owned(),
            pwd: pwd.to_owned(),
            fingerprint: self.fingerprint.clone(),
            active: remote.setup == Setup::Passive,
            candidates: self.locals.udp.iter().flatten().copied().collect(),
            tcp_candidates: self.locals.tcp.to_vec(),
        }
    }

    /// The peer's ICE username fragment.
    pub fn remote_ufrag(&self) -> Option<&str> {
        self.remote.as_ref().map(|remote| remote.ufrag.as_str())
    }

    /// The pair that DTLS and media go by, once there is one.
    pub fn nominated(&self) -> Option<Pair> {
        self.ice.chosen()
    }

    /// When the peer last showed by ICE that it is there; later by what [`stood_still`](Self::stood_still) has told
    /// since.
    pub fn consent(&self) -> Option<Instant> {
        self.ice.alive().map(|alive| alive + self.lag)
    }

    /// Is this a check of the peer: user names, and the integrity of our password? Nothing changes.
    pub fn is_check(&self, check: &Check<'_>) -> bool {
        guard(|| Ok(self.ice.is_authentic(check))).unwrap_or(false)
    }

    /// Takes a check that [`is_check`](Self::is_check).
    ///
    /// # Errors
    /// The session is over.
    pub fn stun(&mut self, now: Instant, from: Pair, check: &Check<'_>) -> Result<(), PeerError> {
        // Another socket than was offered: its address has come to this host after the offer.
        if !self.locals.has(from.socket) {
            return Ok(());
        }
        self.tell(now);
        guard(|| {
            self.ice.check(self.now, from, check);
            Ok(())
        })
    }

    /// Takes an answer to a request of ours. `false`: it is none, nothing changed.
    pub fn stun_answer(&mut self, now: Instant, from: Pair, message: &StunMessage<'_>) -> bool {
        self.tell(now);
        guard(|| Ok(self.ice.answer(self.now, from, message))).unwrap_or(false)
    }

    /// Something that only the peer can have made came from there: asks whether it receives there, too.
    pub fn probe(&mut self, now: Instant, pair: Pair) {
        self.tell(now);
        self.ice.probe(self.now, pair);
    }

    /// What went wrong last with DTLS that was ignored, and how often, for the log.
    pub fn trouble(&self) -> Option<(&str, u32)> {
        self.dtls.trouble()
    }

    /// The id of the request whose answer is awaited.
    pub fn awaited(&self) -> Option<TransId> {
        self.ice.awaited()
    }

    /// Takes DTLS.
    ///
    /// # Errors
    /// The session is over.
    pub fn receive(&mut self, now: Instant, bytes: &[u8]) -> Result<(), PeerError> {
        self.tell(now);
        guard(|| self.dtls.receive(self.now, bytes).map_err(failed))
    }

    /// Takes the passing of time.
    ///
    /// # Errors
    /// The session is over.
    pub fn timeout(&mut self, now: Instant) -> Result<(), PeerError> {
        self.tell(now);
        guard(|| {
            self.ice.timeout(self.now);
            Ok(())
        })
    }

    /// This process stood still for so long, and heard nobody. No timer of the session counts that time.
    pub fn stood_still(&mut self, time: Duration) {
        self.lag += time;
    }

    fn tell(&mut self, now: Instant) {
        self.now = self.now.max(now.checked_sub(self.lag).unwrap_or(now));
    }

    /// Sends DTLS close_notify with the next [`poll`](Self::poll).
    pub fn close(&mut self) {
        if let Err(error) = guard(|| self.dtls.close().map_err(failed)) {
            tracing::debug!(%error, "close");
        }
    }

    /// Everything that ICE and DTLS have to say. Must be called after each other call.
    ///
    /// # Errors
    /// The session is over.
    pub fn poll(&mut self) -> Result<Polled, PeerError> {
        let mut polled = Polled::default();
        guard(|| {
            self.poll_ice(&mut polled);
            self.poll_dtls(&mut polled)
        })?;
        polled.deadline = polled.deadline.map(|deadline| deadline + self.lag);
        Ok(polled)
    }

    fn poll_ice(&mut self, polled: &mut Polled) {
        let chosen = self.ice.chosen();
        if self.connected && chosen != self.told {
            self.told = chosen;
            polled.events.extend(chosen.map(PeerEvent::Moved));
        }
        polled.datagrams = self.ice.poll();
        polled.deadline = self.ice.deadline();
    }

    fn poll_dtls(&mut self, polled: &mut Polled) -> Result<(), PeerError> {
        match self.dtls.poll(self.now, &mut self.unsent).map_err(failed)? {
            Some(DtlsEvent::Connected(keying)) => {
                let pair = self.ice.chosen().ok_or_else(|| PeerError("DTLS without a nominated pair".into()))?;
                (self.connected, self.told) = (true, Some(pair));
                polled.events.push(PeerEvent::Connected(keying, pair));
            }
            Some(DtlsEvent::Closed) => polled.events.push(PeerEvent::Closed),
            None => {}
        }
        if let Some(Pair { socket, peer }) = self.ice.chosen() {
            if !self.unsent.is_empty() {
                self.ice.commit();
            }
            polled.datagrams.extend(self.unsent.drain(..).map(|bytes| Datagram { socket, peer, bytes }));
            // Nothing is sent after the handshake but the end.
            self.unsent.shrink_to_fit();
        }
        polled.deadline = [polled.deadline, self.dtls.deadline()].into_iter().flatten().min();
        Ok(())
    }
}

fn failed(error: impl std::fmt::Display) -> PeerError {
    PeerError(error.to_string())
}

/// One session's bug must not end the others: a panic in ICE or DTLS becomes an error of this session.
fn guard<T>(call: impl FnOnce() -> Result<T, PeerError>) -> Result<T, PeerError> {
    catch_unwind(AssertUnwindSafe(call)).unwrap_or_else(|_| Err(PeerError("internal error in ICE or DTLS".into())))
}
