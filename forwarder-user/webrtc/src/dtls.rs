//! DTLS with one peer: str0m's stack or OpenSSL's, the peer's certificate, the keys.
//!
//! The keying material goes from the stack to whoever polls, and nowhere else. One owner per key is what
//! keeps nonces unique: the engine seals media, the control task seals SRTCP.

use std::collections::VecDeque;
use std::fmt;
use std::sync::LazyLock;
use std::time::Instant;

use str0m::config::{CryptoProvider, DtlsCert, DtlsVersion, Fingerprint};
use str0m::crypto::dtls::{DtlsImplError, DtlsInstance, DtlsOutput, SrtpProfile};
use zeroize::Zeroizing;

use super::client_hello::{ClientHello, Knows};
use super::openssl;

/// Room for what a stack gives out at once: a record, or a certificate.
const OUTPUT: usize = 2048;

/// What a DTLS handshake gives to SRTP (RFC 5764 §4.2). Zeroed on drop, never printed.
pub struct Keying {
    /// The profile that the handshake chose.
    pub profile: SrtpProfile,
    /// `client key | server key | client salt | server salt`.
    pub material: Zeroizing<Vec<u8>>,
    /// We were the DTLS client (`a=setup:active`), so the client key is the one that we send with.
    pub we_are_client: bool,
}

impl fmt::Debug for Keying {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Keying({}, redacted)", self.profile)
    }
}

/// What happened.
#[derive(Debug)]
pub enum DtlsEvent {
    /// The handshake is complete and the peer's certificate is the one of its offer.
    Connected(Keying),
    /// The peer closed.
    Closed,
}

/// DTLS has failed in a way that ends the session. The text is for the log.
#[derive(Debug, thiserror::Error)]
pub enum DtlsError {
    /// A stack was not made or not started: its own words, or what is wrong with the fingerprint of the offer.
    #[error("DTLS cannot begin: {0}")]
    Start(String),
    /// The stack refuses a datagram, a timeout or closing: a broken record, an alert of the peer, too many retries.
    #[error("DTLS: {0}")]
    Stack(#[from] DtlsImplError),
    /// The stack gives an output that this version of ours does not know; the text is its debug form.
    #[error("DTLS: unexpected {0}")]
    Unexpected(String),
    /// Its SHA-256 differs from `a=fingerprint`: somebody else may be in between (RFC 5763 §5).
    #[error("the peer's certificate is not the one of its offer")]
    Certificate,
    /// The handshake ended without keying material: the peers share no profile (RFC 5764 §4.1).
    #[error("DTLS without SRTP: no use_srtp")]
    NoKeys,
}

/// str0m's default cryptography.
static PROVIDER: LazyLock<CryptoProvider> = LazyLock::new(str0m::crypto::from_feature_flags);

/// The cryptography of ICE and DTLS.
pub fn provider() -> &'static CryptoProvider {
    &PROVIDER
}

/// SHA-256 of a certificate.
fn fingerprint(certificate: &[u8]) -> Fingerprint {
    Fingerprint { hash_func: "sha-256".into(), bytes: provider().sha256_provider.sha256(certificate).to_vec() }
}

/// DTLS 1.2 with one peer. In 1.3 the client chooses the SRTP profile, and Chromium's first choice is not GCM.
pub struct Dtls {
    stack: Box<dyn DtlsInstance>,
    /// Until a client's ClientHello has shown which stack it needs.
    undecided: Option<Undecided>,
    /// SHA-256 of the peer's certificate, as its offer says.
    expected: Option<Fingerprint>,
    /// The peer has shown that certificate.
    verified: bool,
    /// Until they are told.
    keying: Option<Keying>,
    connected: bool,
    /// When the stack wants to be called.
    deadline: Option<Instant>,
    /// Something has happened since the stack was last asked what it has to say.
    stirred: bool,
}

struct Undecided {
    certificate: DtlsCert,
    hello: ClientHello,
    /// For the stack that it will be.
    datagrams: Vec<Vec<u8>>,
}

impl Dtls {
    /// # Errors
    /// The certificate does not suit the stack.
    pub fn new(certificate: DtlsCert, now: Instant) -> Result<Self, DtlsError> {
        let mtu = Some(str0m::DATAGRAM_MTU_TARGET);
        let stack = provider().dtls_provider.new_dtls(&certificate, now, DtlsVersion::Dtls12, mtu);
        let undecided = Undecided { certificate, hello: ClientHello::default(), datagrams: Vec::new() };
        Ok(Self {
            stack: stack.map_err(|error| DtlsError::Start(error.to_string()))?,
            undecided: Some(undecided),
            expected: None,
            verified: false,
            keying: None,
            connected: false,
            deadline: None,
            stirred: false,
        })
    }

    /// Begins, once: an ICE restart keeps the association. `peer`: SHA-256 of the peer's certificate,
    /// hexadecimal octets with colons. Returns our own certificate's, with the name of the hash.
    ///
    /// # Errors
    /// `peer` is no such text, or the stack refuses.
    pub fn start(&mut self, now: Instant, active: bool, peer: &str) -> Result<String, DtlsError> {
        let Some(undecided) = self.undecided.as_ref().filter(|_| self.expected.is_none()) else {
            return Err(DtlsError::Start("it has begun already".into()));
        };
        let own = fingerprint(&undecided.certificate.certificate).to_string();
        self.expected = Some(format!("sha-256 {peer}").parse().map_err(DtlsError::Start)?);
        self.stack.set_active(active);
        self.stack.handle_timeout(now)?;
        if active {
            self.undecided = None;
            // The stack begins a handshake when it is given nothing, of which it may complain.
            let _ = self.stack.handle_packet(&[]);
        }
        self.stirred = true;
        Ok(own)
    }

    /// Takes a datagram.
    ///
    /// # Errors
    /// The session is over.
    pub fn receive(&mut self, now: Instant, packet: &[u8]) -> Result<(), DtlsError> {
        if self.expected.is_none() {
            return Ok(());
        }
        self.stirred = true;
        let Some(undecided) = &mut self.undecided else { return Ok(self.stack.handle_packet(packet)?) };
        undecided.datagrams.push(packet.to_vec());
        let knows = undecided.hello.push(packet);
        if knows == Knows::NotYet {
            return Ok(());
        }
        let Some(undecided) = self.undecided.take() else { return Ok(()) };
        if knows == Knows::CounterModeOnly {
            let stack = openssl::Instance::new(&undecided.certificate, now);
            self.stack = Box::new(stack.map_err(|error| DtlsError::Start(format!("OpenSSL: {error}")))?);
        }
        undecided.datagrams.iter().try_for_each(|datagram| self.stack.handle_packet(datagram))?;
        Ok(())
    }

    /// Everything that the stack has to say; datagrams are added to `send`. After each call, and when
    /// [`deadline`](Self::deadline) has come.
    ///
    /// # Errors
    /// The session is over.
    pub fn poll(&mut self, now: Instant, send: &mut VecDeque<Vec<u8>>) -> Result<Option<DtlsEvent>, DtlsError> {
        if self.deadline.is_some_and(|deadline| deadline <= now) {
            self.deadline = None;
            self.stack.handle_timeout(now)?;
            self.stirred = true;
        }
        if !std::mem::take(&mut self.stirred) {
            return Ok(None);
        }
        let we_are_client = self.stack.is_active();
        let (mut up, mut closed) = (false, false);
        let mut buffer = [0; OUTPUT];
        loop {
            match self.stack.poll_output(&mut buffer) {
                DtlsOutput::Packet(packet) => send.push_back(packet.to_vec()),
                DtlsOutput::PeerCert(certificate) => {
                    self.verified = self.expected.as_ref() == Some(&fingerprint(certificate));
                    if !self.verified {
                        return Err(DtlsError::Certificate);
                    }
                }
                DtlsOutput::KeyingMaterial(material, profile) => {
                    let material = Zeroizing::new(material.to_vec());
                    self.keying = Some(Keying { profile, material, we_are_client });
                }
                DtlsOutput::Connected => up = !self.connected,
                // Nobody has offered a data channel.
                DtlsOutput::ApplicationData(_) => {}
                DtlsOutput::CloseNotify => closed = true,
                DtlsOutput::Timeout(deadline) => {
                    self.deadline = Some(deadline);
                    break;
                }
                other => return Err(DtlsError::Unexpected(format!("{other:?}"))),
            }
        }
        if closed {
            return Ok(Some(DtlsEvent::Closed));
        }
        if !up {
            return Ok(None);
        }
        if !self.verified {
            return Err(DtlsError::Certificate);
        }
        self.connected = true;
        self.keying.take().map(|keying| Some(DtlsEvent::Connected(keying))).ok_or(DtlsError::NoKeys)
    }

    /// When to [`poll`](Self::poll) at the latest.
    pub fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// Sends close_notify with the next [`poll`](Self::poll).
    ///
    /// # Errors
    /// What the stack says.
    pub fn close(&mut self) -> Result<(), DtlsError> {
        self.stirred = true;
        Ok(self.stack.close()?)
    }
}
