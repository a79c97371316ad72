//! DTLS with one peer: the stack, the peer's certificate, the keys. Which stack it is depends on nothing that a peer
//! says or does (decision 37).
//!
//! The keying material goes from the stack to whoever polls, and nowhere else. One owner per key is what
//! keeps nonces unique: the engine seals media, the control task seals SRTCP.

use std::collections::VecDeque;
use std::fmt;
use std::sync::LazyLock;
use std::time::Instant;

use str0m::config::{CryptoProvider, DtlsCert};
use str0m::crypto::dtls::{DtlsImplError, DtlsInstance, DtlsOutput, SrtpProfile};
use zeroize::Zeroizing;

use super::handshake::{self, Handshake};
use super::sdp::{Fingerprint, Hash, is_meant};
use super::{openssl, rust_dtls};

/// Room for what a stack gives out at once: a record, or a certificate, of which some carry a whole biography.
const OUTPUT: usize = 16 * 1024;

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

/// Who makes the handshakes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stack {
    /// The system's OpenSSL: certificates by ECDSA and RSA, in either role, handshakes cut in whatever way.
    #[default]
    OpenSsl,
    /// str0m's (dimpl): all in Rust; certificates by ECDSA on P-256 and P-384 alone.
    Str0m,
}

fn new_stack(
    stack: Stack,
    certificate: &DtlsCert,
    active: bool,
    now: Instant,
) -> Result<Box<dyn DtlsInstance>, DtlsError> {
    if stack == Stack::OpenSsl {
        let instance = openssl::Instance::new(certificate, active, now);
        return Ok(Box::new(instance.map_err(|error| DtlsError::Start(format!("OpenSSL: {error}")))?));
    }
    let made = rust_dtls::Instance::new(certificate, active, now);
    Ok(Box::new(made.map_err(|error| DtlsError::Start(format!("dimpl: {error}")))?))
}

/// DTLS 1.2 with one peer. In 1.3 the client chooses the SRTP profile, and Chromium's first choice is not GCM.
pub struct Dtls {
    kind: Stack,
    /// As a client from the start on, as a server from the first ClientHello.
    stack: Option<Box<dyn DtlsInstance>>,
    /// We are the client (`a=setup:passive` in the offer).
    active: bool,
    /// For the stack; until the handshake is complete.
    certificate: Option<DtlsCert>,
    /// What is not encrypted, until the handshake is complete.
    handshake: Option<Box<Handshake>>,
    /// What went wrong with datagrams that were ignored, last, and how many they were.
    trouble: Option<String>,
    ignored: u32,
    /// Digests of the peer's certificate, as its offer says.
    expected: Option<Box<[Fingerprint]>>,
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

impl Dtls {
    /// With the usual stack.
    pub fn new(certificate: DtlsCert) -> Self {
        Self::with(Stack::default(), certificate)
    }

    /// With this stack.
    pub fn with(kind: Stack, certificate: DtlsCert) -> Self {
        Self {
            kind,
            stack: None,
            active: false,
            certificate: Some(certificate),
            handshake: None,
            trouble: None,
            ignored: 0,
            expected: None,
            verified: false,
            keying: None,
            connected: false,
            deadline: None,
            stirred: false,
        }
    }

    /// Begins, once: an ICE restart keeps the association. `peer`: digests of the peer's certificate.
    /// Returns the SHA-256 of our own, as `a=fingerprint` has it.
    ///
    /// # Errors
    /// It has begun already, or the stack refuses.
    pub fn start(&mut self, now: Instant, active: bool, peer: &[Fingerprint]) -> Result<String, DtlsError> {
        let Some(certificate) = self.certificate.as_ref().filter(|_| self.expected.is_none()) else {
            return Err(DtlsError::Start("it has begun already".into()));
        };
        let own = Fingerprint::of(&certificate.certificate, Hash::Sha256);
        let own = own.ok_or_else(|| DtlsError::Start("no SHA-256".into()))?.to_string();
        let mut stack = match active {
            true => Some(new_stack(self.kind, certificate, active, now)?),
            false => None,
        };
        if let Some(stack) = &mut stack {
            // The stack begins a handshake when it is given nothing, of which it may complain.
            let _ = stack.handle_packet(&[]);
        }
        (self.expected, self.active, self.stack) = (Some(peer.into()), active, stack);
        self.handshake = Some(Box::new(Handshake::new(active, peer, now)));
        self.stirred = true;
        Ok(own)
    }

    /// Takes a datagram. What cannot be of the peer, or cannot be told from what others send in its name, is
    /// ignored: only the peer's own certificate, or time, ends a handshake.
    ///
    /// # Errors
    /// The session is over.
    pub fn receive(&mut self, now: Instant, datagram: &[u8]) -> Result<(), DtlsError> {
        let Some(handshake) = &mut self.handshake else {
            let rest = handshake::behind(datagram, self.kind == Stack::Str0m);
            return if rest.is_empty() { Ok(()) } else { self.hand_over(&rest) };
        };
        let given = handshake.receive(now, datagram);
        self.stirred = true;
        if handshake.wants_cookie() {
            self.begin(now)?;
        }
        for datagram in given {
            if let Err(error) = self.hand_over(&datagram) {
                return self.failed(error, now);
            }
        }
        Ok(())
    }

    fn hand_over(&mut self, datagram: &[u8]) -> Result<(), DtlsError> {
        let Some(stack) = &mut self.stack else { return Ok(()) };
        self.stirred = true;
        match stack.handle_packet(datagram) {
            Ok(()) => Ok(()),
            Err(error @ DtlsImplError::ConnectionClosed) => Err(error.into()),
            Err(error) => {
                self.ignore(&error);
                Ok(())
            }
        }
    }

    /// The stack has ended by itself. As long as nobody has shown that it was the peer's fault, it may try again.
    fn failed(&mut self, error: DtlsError, now: Instant) -> Result<(), DtlsError> {
        let Some(handshake) = self.handshake.as_mut().filter(|_| !self.active) else { return Err(error) };
        if handshake.has_given_all() {
            return Err(error);
        }
        handshake.begin_anew(now);
        (self.stack, self.deadline) = (None, None);
        self.ignore(&"the handshake failed: a message that means nothing to the stack, or nothing in common");
        Ok(())
    }

    fn ignore(&mut self, why: &dyn fmt::Display) {
        self.ignored = self.ignored.saturating_add(1);
        self.trouble = Some(why.to_string());
    }

    /// As the server: a stack, and its cookie.
    fn begin(&mut self, now: Instant) -> Result<(), DtlsError> {
        let Some((certificate, handshake)) = self.certificate.as_ref().zip(self.handshake.as_mut()) else {
            return Ok(());
        };
        let mut stack = new_stack(self.kind, certificate, false, now)?;
        for datagram in handshake.ask_for_cookie() {
            stack.handle_packet(&datagram)?;
        }
        let mut buffer = [0; OUTPUT];
        while let DtlsOutput::Packet(packet) = stack.poll_output(&mut buffer) {
            handshake.sent(packet);
        }
        self.stack = Some(stack);
        Ok(())
    }

    /// What went wrong last with datagrams that were ignored, and how many they were.
    pub fn trouble(&self) -> Option<(&str, u32)> {
        let own = self.trouble.as_deref().map(|trouble| (trouble, self.ignored));
        own.or_else(|| self.handshake.as_ref()?.trouble())
    }

    /// Everything that the stack has to say; datagrams are added to `send`. After each call, and when
    /// [`deadline`](Self::deadline) has come.
    ///
    /// # Errors
    /// The session is over.
    pub fn poll(&mut self, now: Instant, send: &mut VecDeque<Vec<u8>>) -> Result<Option<DtlsEvent>, DtlsError> {
        if let Some(handshake) = self.handshake.as_mut().filter(|_| self.stirred) {
            send.extend(std::iter::from_fn(|| handshake.reply()));
        }
        let Some(stack) = self.stack.as_mut().filter(|_| self.handshake.as_ref().is_none_or(|one| one.has_begun()))
        else {
            return Ok(None);
        };
        if self.deadline.is_some_and(|deadline| deadline <= now) {
            self.deadline = None;
            stack.handle_timeout(now)?;
            self.stirred = true;
        }
        if !std::mem::take(&mut self.stirred) {
            return Ok(None);
        }
        let we_are_client = self.active;
        let (mut up, mut closed) = (false, false);
        let mut buffer = [0; OUTPUT];
        loop {
            match stack.poll_output(&mut buffer) {
                DtlsOutput::Packet(packet) => {
                    if self.handshake.as_mut().is_none_or(|handshake| handshake.sent(packet)) {
                        send.push_back(packet.to_vec());
                    }
                }
                DtlsOutput::PeerCert(certificate) => {
                    self.verified = self.expected.as_ref().is_some_and(|expected| is_meant(expected, certificate));
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
        (self.certificate, self.handshake) = (None, None);
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
        Ok(self.stack.as_mut().map_or(Ok(()), |stack| stack.close())?)
    }
}

#[cfg(test)]
mod matrix;
#[cfg(test)]
mod strangers;
#[cfg(test)]
mod tests;
