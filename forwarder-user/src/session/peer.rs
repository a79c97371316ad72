//! ICE and DTLS with one peer: str0m without media, and without keys.

use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use str0m::change::SdpOffer;
use str0m::config::{DtlsCert, DtlsVersion};
use str0m::ice::{IceCreds, StunMessage};
use str0m::net::{Protocol, Receive};
use str0m::{Candidate, Event, IceConnectionState, Input, Output, Rtc, RtcConfig};

use super::capture::{self, KeySlot, Keying};
use super::sdp::{LocalDescription, RemoteDescription, Setup};

/// How often str0m tells which address pair it has nominated; that is how long media may go to an
/// old address after the peer has moved.
const STATS_INTERVAL: Duration = Duration::from_millis(500);

/// A datagram to send.
#[derive(Debug)]
pub struct Datagram {
    /// Index of our socket.
    pub socket: usize,
    pub peer: SocketAddr,
    pub bytes: Vec<u8>,
}

/// Which socket of ours talks to which address of the peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Pair {
    pub socket: usize,
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
    pub datagrams: Vec<Datagram>,
    pub events: Vec<PeerEvent>,
    /// When to call [`Peer::timeout`] at the latest.
    pub deadline: Option<Instant>,
}

/// str0m failed in a way that ends the session. The text is for the log.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct PeerError(String);

/// ICE and DTLS with one peer.
pub struct Peer {
    rtc: Rtc,
    keys: KeySlot,
    /// Our sockets' addresses as peers see them; the index is that of the socket.
    locals: Vec<SocketAddr>,
    remote: Option<RemoteDescription>,
    nominated: Option<Pair>,
    connected: bool,
    consent: Option<Instant>,
}

impl Peer {
    /// ICE-lite, DTLS 1.2 (in 1.3 the client chooses the SRTP profile, and Chromium's first choice
    /// is not GCM), no bandwidth estimation, which would send padding of its own.
    ///
    /// # Errors
    /// A local address is none that ICE can use.
    pub fn new(now: Instant, certificate: DtlsCert, locals: &[SocketAddr]) -> Result<Self, PeerError> {
        let config = RtcConfig::new()
            .set_ice_lite(true)
            .set_rtp_mode(true)
            .set_dtls_cert(certificate)
            .set_dtls_version(DtlsVersion::Dtls12)
            .clear_extension_map()
            .set_stats_interval(Some(STATS_INTERVAL));
        let (mut rtc, keys) = guard(|| Ok(capture::build(config, now)))?;
        for local in locals {
            let candidate = Candidate::host(*local, "udp").map_err(failed)?;
            rtc.add_local_candidate(candidate);
        }
        let locals = locals.to_vec();
        Ok(Self { rtc, keys, locals, remote: None, nominated: None, connected: false, consent: None })
    }

    /// Takes the offerer's transport. Called again with other ICE credentials it restarts ICE:
    /// our credentials change too, DTLS and its keys stay.
    ///
    /// # Errors
    /// str0m refuses.
    pub fn accept(&mut self, remote: &RemoteDescription) -> Result<LocalDescription, PeerError> {
        let offer = transport_offer(remote);
        guard(|| {
            let offer = SdpOffer::from_sdp_string(&offer).map_err(failed)?;
            self.rtc.sdp_api().accept_offer(offer).map_err(failed)
        })?;
        self.remote = Some(remote.clone());
        let credentials = self.credentials();
        Ok(LocalDescription {
            ufrag: credentials.ufrag,
            pwd: credentials.pass,
            fingerprint: self.rtc.direct_api().local_dtls_fingerprint().to_string(),
            active: remote.setup == Setup::Passive,
            candidates: self.locals.clone(),
        })
    }

    /// As [`accept`](Self::accept), with new ICE credentials of the same peer.
    ///
    /// # Errors
    /// str0m refuses.
    pub fn restart(&mut self, ufrag: String, pwd: String) -> Result<LocalDescription, PeerError> {
        let remote = self.remote.clone().ok_or_else(|| PeerError("ICE restart before the offer".into()))?;
        self.accept(&RemoteDescription { ufrag, pwd, ..remote })
    }

    /// Our ICE credentials.
    pub fn credentials(&mut self) -> IceCreds {
        self.rtc.direct_api().local_ice_credentials()
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

    /// Takes a STUN message. `false`: its integrity is not that of our password, nothing changed.
    ///
    /// # Errors
    /// The session is over.
    pub fn stun(
        &mut self,
        now: Instant,
        from: Pair,
        bytes: &[u8],
        message: &StunMessage<'_>,
    ) -> Result<bool, PeerError> {
        let password = self.credentials().pass;
        let hmac = |key: &[u8], parts: &[&[u8]]| capture::provider().sha1_hmac_provider.sha1_hmac(key, parts);
        if !message.is_binding_request() || !message.verify(password.as_bytes(), hmac) {
            return Ok(false);
        }
        self.consent = Some(now);
        self.receive(now, from, bytes)?;
        Ok(true)
    }

    /// Takes DTLS (and STUN, once it is authenticated).
    ///
    /// # Errors
    /// The session is over.
    pub fn receive(&mut self, now: Instant, from: Pair, bytes: &[u8]) -> Result<(), PeerError> {
        let local = self.locals.get(from.socket).copied().ok_or_else(|| PeerError("no such socket".into()))?;
        // A datagram that does not even look like its protocol is no reason to end a session.
        let Ok(receive) = Receive::new(Protocol::Udp, from.peer, local, bytes) else { return Ok(()) };
        guard(|| self.rtc.handle_input(Input::Receive(now, receive)).map_err(failed))
    }

    /// Takes the passing of time.
    ///
    /// # Errors
    /// The session is over.
    pub fn timeout(&mut self, now: Instant) -> Result<(), PeerError> {
        guard(|| self.rtc.handle_input(Input::Timeout(now)).map_err(failed))
    }

    /// Sends DTLS close_notify with the next [`poll`](Self::poll).
    pub fn close(&mut self) {
        if let Err(error) = guard(|| self.rtc.close().map_err(failed)) {
            tracing::debug!(%error, "close");
        }
    }

    /// Everything that str0m has to say. Must be called after each other call.
    ///
    /// # Errors
    /// The session is over.
    pub fn poll(&mut self) -> Result<Polled, PeerError> {
        let mut polled = Polled::default();
        loop {
            match guard(|| self.rtc.poll_output().map_err(failed))? {
                Output::Timeout(deadline) => {
                    polled.deadline = Some(deadline);
                    return Ok(polled);
                }
                Output::Transmit(transmit) => {
                    let Some(socket) = self.socket(transmit.source) else { continue };
                    let pair = Pair { socket, peer: transmit.destination };
                    let bytes: Vec<u8> = transmit.contents.into();
                    match bytes.first() {
                        // RFC 7983. DTLS goes to the nominated pair; STUN goes wherever it is asked from.
                        Some(20..=63) => self.nominate(pair, &mut polled),
                        Some(0..=3) => {}
                        // Without keys str0m has nothing else to send. If it ever had, it must not.
                        _ => continue,
                    }
                    polled.datagrams.push(Datagram { socket, peer: pair.peer, bytes });
                }
                Output::Event(event) => self.event(event, &mut polled)?,
            }
        }
    }

    fn event(&mut self, event: Event, polled: &mut Polled) -> Result<(), PeerError> {
        match event {
            Event::Connected => {
                let keying = self.keys.take().ok_or_else(|| PeerError("DTLS without SRTP: no use_srtp".into()))?;
                let pair = self.nominated.ok_or_else(|| PeerError("DTLS without a nominated pair".into()))?;
                self.connected = true;
                polled.events.push(PeerEvent::Connected(keying, pair));
            }
            Event::PeerStats(stats) => {
                let pair = stats.selected_candidate_pair.and_then(|selected| {
                    Some(Pair { socket: self.socket(selected.local.addr)?, peer: selected.remote.addr })
                });
                if let Some(pair) = pair {
                    self.nominate(pair, polled);
                }
            }
            Event::IceConnectionStateChange(IceConnectionState::Disconnected) => {
                polled.events.push(PeerEvent::Disconnected);
            }
            Event::Closed => polled.events.push(PeerEvent::Closed),
            _ => {}
        }
        Ok(())
    }

    fn nominate(&mut self, pair: Pair, polled: &mut Polled) {
        if self.nominated.replace(pair) != Some(pair) && self.connected {
            polled.events.push(PeerEvent::Moved(pair));
        }
    }

    fn socket(&self, local: SocketAddr) -> Option<usize> {
        self.locals.iter().position(|address| *address == local)
    }
}

/// An offer with the peer's transport and one section without media: what str0m needs for ICE and
/// DTLS, free of everything else that a foreign offer may contain.
fn transport_offer(remote: &RemoteDescription) -> String {
    let setup = match remote.setup {
        Setup::ActPass => "actpass",
        Setup::Active => "active",
        Setup::Passive => "passive",
    };
    let RemoteDescription { ufrag, pwd, fingerprint, .. } = remote;
    format!(
        "v=0\r\no=- 1 1 IN IP4 0.0.0.0\r\ns=-\r\nt=0 0\r\na=group:BUNDLE 0\r\n\
         m=audio 9 UDP/TLS/RTP/SAVPF 111\r\nc=IN IP4 0.0.0.0\r\na=mid:0\r\na=inactive\r\na=rtcp-mux\r\n\
         a=ice-ufrag:{ufrag}\r\na=ice-pwd:{pwd}\r\na=fingerprint:sha-256 {fingerprint}\r\na=setup:{setup}\r\n\
         a=rtpmap:111 opus/48000/2\r\n"
    )
}

fn failed(error: impl std::fmt::Display) -> PeerError {
    PeerError(error.to_string())
}

/// One session's bug must not end the others: a panic inside str0m becomes an error of this session.
fn guard<T>(call: impl FnOnce() -> Result<T, PeerError>) -> Result<T, PeerError> {
    catch_unwind(AssertUnwindSafe(call)).unwrap_or_else(|_| Err(PeerError("internal error in ICE or DTLS".into())))
}
