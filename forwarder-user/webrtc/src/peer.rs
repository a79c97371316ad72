//! ICE and DTLS with one peer: str0m's ICE agent, and DTLS beside it.
//!
//! Not str0m's `Rtc`: that would also keep buffers, statistics and timers of media, which never passes here,
//! 20 KB a session (decision 21).

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Instant;

use str0m::config::DtlsCert;
use str0m::ice::{IceAgent, IceAgentEvent, IceCreds, StunMessage, StunPacket};
use str0m::net::Protocol;
use str0m::{Candidate, IceConnectionState};

use super::dtls::{self, Dtls, DtlsEvent, Keying};
use super::sdp::{LocalDescription, RemoteDescription, Setup};

/// A datagram to send.
#[derive(Debug)]
pub struct Datagram {
    /// Index of our socket.
    pub socket: usize,
    /// Destination, as the socket takes it.
    pub peer: SocketAddr,
    /// UDP payload: a STUN message or DTLS records.
    pub bytes: Vec<u8>,
}

/// Which socket of ours talks to which address of the peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Pair {
    /// Index of our socket, in the order of the addresses that the peer was told.
    pub socket: usize,
    /// Where its packets come from as we see it, which a NAT may have made.
    pub peer: SocketAddr,
}

/// What happened.
#[derive(Debug)]
pub enum PeerEvent {
    /// DTLS is complete and the peer's certificate is the one of its offer.
    Connected(Keying, Pair),
    /// ICE nominated another pair.
    Moved(Pair),
    /// The peer sent no ICE check for 15 s.
    Disconnected,
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
    ice: IceAgent,
    dtls: Dtls,
    /// What DTLS sends before ICE has nominated a pair.
    unsent: VecDeque<Vec<u8>>,
    /// Our sockets' addresses as peers see them; the index is that of the socket.
    locals: Arc<[SocketAddr]>,
    /// As the offer says, with the credentials of the latest restart.
    remote: Option<RemoteDescription>,
    /// SHA-256 of our certificate, with its name.
    fingerprint: String,
    nominated: Option<Pair>,
    connected: bool,
    consent: Option<Instant>,
    /// Time as it was told last: it never goes back.
    now: Instant,
}

impl Peer {
    /// ICE-lite: we answer checks and send none.
    ///
    /// # Errors
    /// A local address is none that ICE can use.
    pub fn new(now: Instant, certificate: DtlsCert, locals: &Arc<[SocketAddr]>) -> Result<Self, PeerError> {
        let mut ice = IceAgent::with_hmac(IceCreds::new(), dtls::provider().sha1_hmac_provider);
        ice.set_ice_lite(true);
        for local in locals.iter() {
            ice.add_local_candidate(Candidate::host(*local, "udp").map_err(failed)?);
        }
        Ok(Self {
            ice,
            dtls: guard(|| Dtls::new(certificate, now).map_err(failed))?,
            unsent: VecDeque::new(),
            locals: Arc::clone(locals),
            remote: None,
            fingerprint: String::new(),
            nominated: None,
            connected: false,
            consent: None,
            now,
        })
    }

    /// Takes the offerer's transport, once.
    ///
    /// # Errors
    /// ICE or DTLS refuse.
    pub fn accept(&mut self, remote: &RemoteDescription) -> Result<LocalDescription, PeerError> {
        let now = self.now;
        guard(|| {
            self.ice.set_remote_credentials(IceCreds { ufrag: remote.ufrag.clone(), pass: remote.pwd.clone() });
            self.ice.handle_timeout(now);
            let active = remote.setup == Setup::Passive;
            self.fingerprint = self.dtls.start(now, active, &remote.fingerprint).map_err(failed)?;
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
            self.ice.ice_restart(IceCreds::new(), true);
            self.ice.set_remote_credentials(IceCreds { ufrag: remote.ufrag.clone(), pass: remote.pwd.clone() });
            Ok(())
        })?;
        let local = self.describe(&remote);
        self.remote = Some(remote);
        Ok(local)
    }

    fn describe(&self, remote: &RemoteDescription) -> LocalDescription {
        let credentials = self.ice.local_credentials();
        LocalDescription {
            ufrag: credentials.ufrag.clone(),
            pwd: credentials.pass.clone(),
            fingerprint: self.fingerprint.clone(),
            active: remote.setup == Setup::Passive,
            candidates: self.locals.to_vec(),
        }
    }

    /// The peer's ICE username fragment.
    pub fn remote_ufrag(&self) -> Option<&str> {
        self.remote.as_ref().map(|remote| remote.ufrag.as_str())
    }

    /// The nominated pair, once there is one.
    pub fn nominated(&self) -> Option<Pair> {
        self.nominated
    }

    /// When the last authenticated ICE check of the peer came.
    pub fn consent(&self) -> Option<Instant> {
        self.consent
    }

    /// Takes a check of the peer. `false`: its integrity is not that of our password, nothing changed.
    ///
    /// # Errors
    /// The session is over.
    pub fn stun(&mut self, now: Instant, from: Pair, message: StunMessage<'_>) -> Result<bool, PeerError> {
        let Some(local) = self.locals.get(from.socket).copied() else {
            return Err(PeerError("no such socket".into()));
        };
        if !message.is_binding_request() {
            return Ok(false);
        }
        self.now = self.now.max(now);
        let packet = StunPacket { proto: Protocol::Udp, source: from.peer, destination: local, message };
        let authentic = guard(|| {
            // The agent checks the user names and the integrity before all else.
            let authentic = self.ice.handle_packet(now, packet);
            if authentic {
                self.ice.handle_timeout(self.now);
            }
            Ok(authentic)
        })?;
        if authentic {
            self.consent = Some(now);
        }
        Ok(authentic)
    }

    /// Takes DTLS.
    ///
    /// # Errors
    /// The session is over.
    pub fn receive(&mut self, now: Instant, bytes: &[u8]) -> Result<(), PeerError> {
        self.now = self.now.max(now);
        guard(|| self.dtls.receive(self.now, bytes).map_err(failed))
    }

    /// Takes the passing of time.
    ///
    /// # Errors
    /// The session is over.
    pub fn timeout(&mut self, now: Instant) -> Result<(), PeerError> {
        self.now = self.now.max(now);
        guard(|| {
            self.ice.handle_timeout(self.now);
            Ok(())
        })
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
        Ok(polled)
    }

    fn poll_ice(&mut self, polled: &mut Polled) {
        while let Some(event) = self.ice.poll_event() {
            match event {
                IceAgentEvent::NominatedSend { source, destination, .. } => {
                    let pair = self.socket(source).map(|socket| Pair { socket, peer: destination });
                    if pair.is_some() && self.nominated != pair {
                        self.nominated = pair;
                        polled.events.extend(pair.filter(|_| self.connected).map(PeerEvent::Moved));
                    }
                }
                IceAgentEvent::IceConnectionStateChange(IceConnectionState::Disconnected) => {
                    polled.events.push(PeerEvent::Disconnected);
                }
                _ => {}
            }
        }
        while let Some(transmit) = self.ice.poll_transmit() {
            let Some(socket) = self.socket(transmit.source) else { continue };
            polled.datagrams.push(Datagram { socket, peer: transmit.destination, bytes: transmit.contents.into() });
        }
        polled.deadline = self.ice.poll_timeout();
    }

    fn poll_dtls(&mut self, polled: &mut Polled) -> Result<(), PeerError> {
        match self.dtls.poll(self.now, &mut self.unsent).map_err(failed)? {
            Some(DtlsEvent::Connected(keying)) => {
                let pair = self.nominated.ok_or_else(|| PeerError("DTLS without a nominated pair".into()))?;
                self.connected = true;
                polled.events.push(PeerEvent::Connected(keying, pair));
            }
            Some(DtlsEvent::Closed) => polled.events.push(PeerEvent::Closed),
            None => {}
        }
        if let Some(Pair { socket, peer }) = self.nominated {
            polled.datagrams.extend(self.unsent.drain(..).map(|bytes| Datagram { socket, peer, bytes }));
            // Nothing is sent after the handshake but the end.
            self.unsent.shrink_to_fit();
        }
        polled.deadline = [polled.deadline, self.dtls.deadline()].into_iter().flatten().min();
        Ok(())
    }

    fn socket(&self, local: SocketAddr) -> Option<usize> {
        self.locals.iter().position(|address| *address == local)
    }
}

fn failed(error: impl std::fmt::Display) -> PeerError {
    PeerError(error.to_string())
}

/// One session's bug must not end the others: a panic in ICE or DTLS becomes an error of this session.
fn guard<T>(call: impl FnOnce() -> Result<T, PeerError>) -> Result<T, PeerError> {
    catch_unwind(AssertUnwindSafe(call)).unwrap_or_else(|_| Err(PeerError("internal error in ICE or DTLS".into())))
}
