//! DTLS 1.2 by OpenSSL, in either role.
//!
//! It takes whatever certificate peers have (ECDSA on P-224 to P-521, RSA), puts fragments together however they were
//! cut, also in retransmissions that were cut anew (RFC 6347 §4.2.3, which is a MUST), and answers those who offer
//! DTLS 1.3 by 1.2.

use std::collections::VecDeque;
use std::fmt;
use std::io::{self, Read, Write};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use openssl::error::ErrorStack;
use openssl::pkey::PKey;
use openssl::rand::rand_bytes;
use openssl::srtp::SrtpProfileId;
use openssl::ssl::{
    HandshakeError, MidHandshakeSslStream, ShutdownState, Ssl, SslContext, SslContextBuilder, SslMethod, SslOptions,
    SslSessionCacheMode, SslStream, SslVerifyMode,
};
use openssl::x509::X509;
use str0m::config::DtlsCert;
use str0m::crypto::dtls::{DtlsImplError, DtlsInstance, DtlsOutput, KeyingMaterial, ProtocolVersion, SrtpProfile};
use zeroize::Zeroizing;

use super::tail::Tail;

/// Largest DTLS record that we send, bytes of UDP payload.
const MTU: u32 = 1200;
/// Largest datagram that OpenSSL is offered.
const DATAGRAM: usize = 2048;
/// Bytes of a cookie.
const COOKIE: usize = 32;
/// How often a handshake looks at OpenSSL's own retransmission timer.
const TICK: Duration = Duration::from_millis(100);
/// Datagrams of a peer that wait for OpenSSL; more are dropped, as on any full queue.
const QUEUE: usize = 64;

/// Who knows AES-GCM is asked for that: the kernel serves it. 256 bits first, as str0m's stack has it.
const PROFILES: &str = "SRTP_AEAD_AES_256_GCM:SRTP_AEAD_AES_128_GCM:SRTP_AES128_CM_SHA1_80";
/// RFC 8827 §6.5 wants the first; the last is for those who have nothing better.
const CIPHERS: &str = "ECDHE+AESGCM:ECDHE+CHACHA20:ECDHE+AES";
/// Curves of key exchange and of certificates; GnuTLS makes the last kind, if nobody asks for another one.
const GROUPS: &str = "X25519:P-256:P-384:P-521:P-224";
/// Where the system's policy forbids one of them.
const FEWER_GROUPS: &str = "P-256:P-384:P-521";

/// One side of a DTLS 1.2 association.
pub(crate) struct Instance {
    active: bool,
    state: State,
    output: VecDeque<Output>,
    now: Instant,
    tick: Option<Instant>,
    closing: bool,
    closed: bool,
}

enum State {
    New(Ssl, Datagrams),
    Handshake(MidHandshakeSslStream<Datagrams>),
    /// Its cipher is one that OpenSSL alone knows here.
    Open(SslStream<Datagrams>),
    Done(Tail),
    Failed,
}

enum Output {
    Connected,
    Certificate(Vec<u8>),
    Keys(Zeroizing<Vec<u8>>, SrtpProfile),
    Closed,
}

/// What all handshakes with one certificate share; the certificate comes first. A server has one, and to make its context
/// anew for each session would cost more than the rest of the session's memory.
static LAST: Mutex<Option<(Vec<u8>, SslContext)>> = Mutex::new(None);

fn context(certificate: &DtlsCert) -> Result<SslContext, ErrorStack> {
    let mut last = LAST.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((_, context)) = last.as_ref().filter(|(of, _)| *of == certificate.certificate) {
        return Ok(context.clone());
    }
    let context = new_context(certificate)?;
    *last = Some((certificate.certificate.clone(), context.clone()));
    Ok(context)
}

fn new_context(certificate: &DtlsCert) -> Result<SslContext, ErrorStack> {
    let mut context = SslContext::builder(SslMethod::dtls())?;
    context.set_cipher_list(CIPHERS)?;
    context.set_tlsext_use_srtp(PROFILES)?;
    context.set_groups_list(GROUPS).or_else(|_| context.set_groups_list(FEWER_GROUPS))?;
    // Any certificate will do here: `dtls` compares it with the fingerprints of the offer.
    context.set_verify_callback(SslVerifyMode::PEER | SslVerifyMode::FAIL_IF_NO_PEER_CERT, |_, _| true);
    context.set_private_key(PKey::private_key_from_der(&certificate.private_key)?.as_ref())?;
    context.set_certificate(X509::from_der(&certificate.certificate)?.as_ref())?;
    context.set_options(SslOptions::NO_DTLSV1 | SslOptions::NO_QUERY_MTU | SslOptions::NO_TICKET);
    cookies(&mut context);
    // A session is never resumed, and a cache of them would keep each peer's certificate.
    context.set_session_cache_mode(SslSessionCacheMode::OFF);
    Ok(context.build())
}

/// A server asks for a cookie (RFC 6347 §4.2.1). `handshake` knows it and has compared it before OpenSSL sees it.
fn cookies(context: &mut SslContextBuilder) {
    context.set_options(SslOptions::COOKIE_EXCHANGE);
    context.set_cookie_generate_cb(|_, cookie| {
        let cookie = cookie.get_mut(..COOKIE).ok_or_else(ErrorStack::get)?;
        rand_bytes(cookie).map(|()| COOKIE)
    });
    context.set_cookie_verify_cb(|_, cookie| cookie.len() == COOKIE);
}

/// What OpenSSL takes for its socket.
#[derive(Default)]
struct Datagrams {
    received: VecDeque<Vec<u8>>,
    to_send: VecDeque<Vec<u8>>,
    /// Sequence number of our next sealed record.
    next: u64,
}

impl Datagrams {
    /// Looks for sealed records (epoch 1), to know where their numbers go on.
    fn count(&mut self, mut datagram: &[u8]) {
        while let Some((header, rest)) = datagram.split_first_chunk::<13>() {
            let number = u64::from_be_bytes([0, 0, header[5], header[6], header[7], header[8], header[9], header[10]]);
            if header[3..5] == [0, 1] {
                self.next = self.next.max(number + 1);
            }
            datagram = rest.get(usize::from(u16::from_be_bytes([header[11], header[12]]))..).unwrap_or_default();
        }
    }
}

impl Read for Datagrams {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let datagram = self.received.pop_front().ok_or(io::ErrorKind::WouldBlock)?;
        let len = datagram.len().min(buffer.len());
        buffer[..len].copy_from_slice(&datagram[..len]);
        Ok(len)
    }
}

impl Write for Datagrams {
    fn write(&mut self, datagram: &[u8]) -> io::Result<usize> {
        self.count(datagram);
        self.to_send.push_back(datagram.to_vec());
        Ok(datagram.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Instance {
    /// A client or a server with our certificate.
    ///
    /// # Errors
    /// OpenSSL refuses the certificate or a setting.
    pub(crate) fn new(certificate: &DtlsCert, active: bool, now: Instant) -> Result<Self, ErrorStack> {
        let context = context(certificate)?;
        let mut ssl = Ssl::new(&context)?;
        ssl.set_mtu(MTU)?;
        let state = State::New(ssl, Datagrams::default());
        Ok(Self { active, state, output: VecDeque::new(), now, tick: None, closing: false, closed: false })
    }

    fn datagrams(&mut self) -> Option<&mut Datagrams> {
        match &mut self.state {
            State::New(_, datagrams) => Some(datagrams),
            State::Handshake(stream) => Some(stream.get_mut()),
            State::Open(stream) => Some(stream.get_mut()),
            State::Done(_) | State::Failed => None,
        }
    }

    /// Lets OpenSSL work on what has arrived and on its timer.
    fn drive(&mut self) -> Result<(), DtlsImplError> {
        let result = match std::mem::replace(&mut self.state, State::Failed) {
            State::New(ssl, datagrams) if self.active => ssl.connect(datagrams),
            State::New(ssl, datagrams) => ssl.accept(datagrams),
            State::Handshake(stream) => stream.handshake(),
            State::Open(stream) => {
                self.state = State::Open(stream);
                self.read();
                return Ok(());
            }
            State::Done(tail) => {
                self.state = State::Done(tail);
                return Ok(());
            }
            State::Failed => return Err(DtlsImplError::ConnectionClosed),
        };
        match result {
            Ok(stream) => {
                self.connected(&stream);
                self.finish(stream);
                Ok(())
            }
            Err(HandshakeError::WouldBlock(stream)) => {
                self.state = State::Handshake(stream);
                Ok(())
            }
            Err(HandshakeError::Failure(stream)) => {
                tracing::info!("DTLS handshake failed: {}", stream.error());
                Err(DtlsImplError::ConnectionClosed)
            }
            Err(HandshakeError::SetupFailure(error)) => {
                tracing::warn!("DTLS cannot be set up: {error}");
                Err(DtlsImplError::ConnectionClosed)
            }
        }
    }

    /// Keeps of OpenSSL what is still needed: nothing, if we know the cipher.
    fn finish(&mut self, mut stream: SslStream<Datagrams>) {
        let datagrams = stream.get_mut();
        let (flight, next) = (datagrams.to_send.iter().cloned().collect(), datagrams.next);
        let (received, to_send) = (std::mem::take(&mut datagrams.received), std::mem::take(&mut datagrams.to_send));
        match Tail::new(stream.ssl(), self.active, flight, next) {
            Some(mut tail) => {
                tail.to_send = to_send;
                let closed = received.iter().any(|datagram| tail.receive(datagram));
                self.state = State::Done(tail);
                if closed {
                    self.peer_closed();
                }
            }
            None => {
                (stream.get_mut().received, stream.get_mut().to_send) = (received, to_send);
                self.state = State::Open(stream);
                self.read();
            }
        }
    }

    fn peer_closed(&mut self) {
        if !std::mem::replace(&mut self.closing, true) {
            self.output.push_back(Output::Closed);
        }
    }

    /// Tells the certificate and the keys. Without a profile in common there are none, and the session
    /// ends where its keys are missed.
    fn connected(&mut self, stream: &SslStream<Datagrams>) {
        let certificate = stream.ssl().peer_certificate().and_then(|certificate| certificate.to_der().ok());
        self.output.extend(certificate.map(Output::Certificate));
        self.output.push_back(Output::Connected);
        let profile = stream.ssl().selected_srtp_profile().and_then(|profile| match profile.id() {
            SrtpProfileId::SRTP_AEAD_AES_256_GCM => Some(SrtpProfile::AEAD_AES_256_GCM),
            SrtpProfileId::SRTP_AEAD_AES_128_GCM => Some(SrtpProfile::AEAD_AES_128_GCM),
            SrtpProfileId::SRTP_AES128_CM_SHA1_80 => Some(SrtpProfile::AES128_CM_SHA1_80),
            _ => None,
        });
        if let Some(profile) = profile {
            let mut material = Zeroizing::new(vec![0; profile.keying_material_len()]);
            if stream.ssl().export_keying_material(&mut material, "EXTRACTOR-dtls_srtp", None).is_ok() {
                self.output.push_back(Output::Keys(material, profile));
            }
        }
    }

    /// WebRTC sends no data over this DTLS; what comes is alerts and repeated handshake messages.
    fn read(&mut self) {
        let State::Open(stream) = &mut self.state else { return };
        let mut buffer = [0; DATAGRAM];
        while !stream.get_ref().received.is_empty() {
            let _ = stream.ssl_read(&mut buffer);
        }
        if stream.get_shutdown().contains(ShutdownState::RECEIVED) && !self.closing {
            let _ = stream.shutdown();
            self.peer_closed();
        }
    }
}

impl DtlsInstance for Instance {
    fn set_active(&mut self, active: bool) {
        self.active = active;
    }

    fn handle_packet(&mut self, packet: &[u8]) -> Result<(), DtlsImplError> {
        if let State::Done(tail) = &mut self.state {
            if tail.receive(packet) {
                tail.close();
                self.peer_closed();
            }
            return Ok(());
        }
        if let Some(datagrams) = self.datagrams().filter(|datagrams| datagrams.received.len() < QUEUE)
            && !packet.is_empty()
        {
            datagrams.received.push_back(packet.to_vec());
        }
        self.drive()
    }

    fn poll_output<'a>(&mut self, buffer: &'a mut [u8]) -> DtlsOutput<'a> {
        fn fill<'a>(buffer: &'a mut [u8], bytes: &[u8]) -> &'a [u8] {
            let len = bytes.len().min(buffer.len());
            buffer[..len].copy_from_slice(&bytes[..len]);
            &buffer[..len]
        }
        let to_send = match &mut self.state {
            State::Done(tail) => Some(&mut tail.to_send),
            _ => self.datagrams().map(|datagrams| &mut datagrams.to_send),
        };
        if let Some(packet) = to_send.and_then(VecDeque::pop_front) {
            return DtlsOutput::Packet(fill(buffer, &packet));
        }
        match self.output.pop_front() {
            Some(Output::Connected) => return DtlsOutput::Connected,
            Some(Output::Certificate(certificate)) => return DtlsOutput::PeerCert(fill(buffer, &certificate)),
            Some(Output::Keys(material, profile)) => {
                return DtlsOutput::KeyingMaterial(KeyingMaterial::new(&material), profile);
            }
            Some(Output::Closed) => return DtlsOutput::CloseNotify,
            None => {}
        }
        self.closed |= self.closing;
        let wait = match self.state {
            State::New(..) | State::Handshake(_) => TICK,
            State::Open(_) | State::Done(_) | State::Failed => Duration::from_secs(3600),
        };
        DtlsOutput::Timeout(*self.tick.get_or_insert(self.now + wait))
    }

    fn handle_timeout(&mut self, now: Instant) -> Result<(), DtlsImplError> {
        (self.now, self.tick) = (now, None);
        match self.state {
            State::Handshake(_) => self.drive(),
            State::New(..) | State::Open(_) | State::Done(_) | State::Failed => Ok(()),
        }
    }

    fn send_application_data(&mut self, _: &[u8]) -> Result<usize, DtlsImplError> {
        Ok(0)
    }

    fn is_active(&self) -> bool {
        self.active
    }

    fn protocol_version(&self) -> Option<ProtocolVersion> {
        matches!(self.state, State::Open(_) | State::Done(_)).then_some(ProtocolVersion::DTLS1_2)
    }

    fn is_closing(&self) -> bool {
        self.closing
    }

    fn is_closed(&self) -> bool {
        self.closed
    }

    fn close(&mut self) -> Result<(), DtlsImplError> {
        match &mut self.state {
            State::Open(stream) => {
                let _ = stream.shutdown();
            }
            State::Done(tail) if !self.closing => tail.close(),
            _ => {}
        }
        self.closing = true;
        Ok(())
    }
}

impl fmt::Debug for Instance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DTLS by OpenSSL")
    }
}

// A panic within OpenSSL's callbacks cannot leave half a value behind that we would read: the session
// ends with the panic (`peer::guard`).
impl std::panic::UnwindSafe for Instance {}
impl std::panic::RefUnwindSafe for Instance {}
