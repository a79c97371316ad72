//! DTLS by OpenSSL, for peers that offer no SRTP profile but AES_CM_128_HMAC_SHA1_80.
//!
//! These are GStreamer and old devices, and their certificates are often RSA, which str0m's own DTLS
//! refuses. What a peer offers stands in its ClientHello, so `dtls` looks at that (`client_hello`)
//! before the handshake begins, and gives such peers an [`Instance`]. All others stay with str0m's DTLS.

use std::collections::VecDeque;
use std::fmt;
use std::io::{self, Read, Write};
use std::time::{Duration, Instant};

use openssl::error::ErrorStack;
use openssl::pkey::PKey;
use openssl::srtp::SrtpProfileId;
use openssl::ssl::{
    HandshakeError, MidHandshakeSslStream, ShutdownState, Ssl, SslContext, SslMethod, SslOptions, SslStream,
    SslVerifyMode,
};
use openssl::x509::X509;
use str0m::config::DtlsCert;
use str0m::crypto::dtls::{DtlsImplError, DtlsInstance, DtlsOutput, KeyingMaterial, ProtocolVersion, SrtpProfile};
use zeroize::Zeroizing;

/// Largest DTLS record that we send, bytes of UDP payload.
const MTU: u32 = 1200;
/// Largest datagram that OpenSSL is offered.
const DATAGRAM: usize = 2048;
/// How often a handshake looks at OpenSSL's own retransmission timer.
const TICK: Duration = Duration::from_millis(100);
/// Datagrams of a peer that wait for OpenSSL; more are dropped, as on any full queue.
const QUEUE: usize = 64;

/// One side of a DTLS 1.2 association, always the server.
pub(crate) struct Instance {
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
    Open(SslStream<Datagrams>),
    Failed,
}

enum Output {
    Connected,
    Certificate(Vec<u8>),
    Keys(Zeroizing<Vec<u8>>, SrtpProfile),
    Closed,
}

/// What OpenSSL takes for its socket.
#[derive(Default)]
struct Datagrams {
    received: VecDeque<Vec<u8>>,
    to_send: VecDeque<Vec<u8>>,
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
        self.to_send.push_back(datagram.to_vec());
        Ok(datagram.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Instance {
    /// A server with our certificate.
    ///
    /// # Errors
    /// OpenSSL refuses the certificate or a setting.
    pub(crate) fn new(certificate: &DtlsCert, now: Instant) -> Result<Self, ErrorStack> {
        let mut context = SslContext::builder(SslMethod::dtls())?;
        context.set_cipher_list("ECDHE+AESGCM:ECDHE+CHACHA20")?;
        context.set_tlsext_use_srtp("SRTP_AES128_CM_SHA1_80")?;
        // Any certificate will do here: str0m compares it with the fingerprint of the offer.
        context.set_verify_callback(SslVerifyMode::PEER | SslVerifyMode::FAIL_IF_NO_PEER_CERT, |_, _| true);
        context.set_private_key(PKey::private_key_from_der(&certificate.private_key)?.as_ref())?;
        context.set_certificate(X509::from_der(&certificate.certificate)?.as_ref())?;
        context.set_options(SslOptions::NO_DTLSV1 | SslOptions::NO_QUERY_MTU | SslOptions::NO_TICKET);
        let mut ssl = Ssl::new(&context.build())?;
        ssl.set_mtu(MTU)?;
        let state = State::New(ssl, Datagrams::default());
        Ok(Self { state, output: VecDeque::new(), now, tick: None, closing: false, closed: false })
    }

    fn datagrams(&mut self) -> Option<&mut Datagrams> {
        match &mut self.state {
            State::New(_, datagrams) => Some(datagrams),
            State::Handshake(stream) => Some(stream.get_mut()),
            State::Open(stream) => Some(stream.get_mut()),
            State::Failed => None,
        }
    }

    /// Lets OpenSSL work on what has arrived and on its timer.
    fn drive(&mut self) -> Result<(), DtlsImplError> {
        let result = match std::mem::replace(&mut self.state, State::Failed) {
            State::New(ssl, datagrams) => ssl.accept(datagrams),
            State::Handshake(stream) => stream.handshake(),
            State::Open(stream) => {
                self.state = State::Open(stream);
                self.read();
                return Ok(());
            }
            State::Failed => return Err(DtlsImplError::ConnectionClosed),
        };
        match result {
            Ok(stream) => {
                self.connected(&stream);
                self.state = State::Open(stream);
                self.read();
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

    /// Tells the certificate and the keys. Without a profile in common there are none, and the session
    /// ends where its keys are missed.
    fn connected(&mut self, stream: &SslStream<Datagrams>) {
        let certificate = stream.ssl().peer_certificate().and_then(|certificate| certificate.to_der().ok());
        self.output.extend(certificate.map(Output::Certificate));
        self.output.push_back(Output::Connected);
        let profile = stream.ssl().selected_srtp_profile().map(|profile| profile.id());
        if profile == Some(SrtpProfileId::SRTP_AES128_CM_SHA1_80) {
            let profile = SrtpProfile::AES128_CM_SHA1_80;
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
            self.closing = true;
            self.output.push_back(Output::Closed);
        }
    }
}

impl DtlsInstance for Instance {
    fn set_active(&mut self, _: bool) {}

    fn handle_packet(&mut self, packet: &[u8]) -> Result<(), DtlsImplError> {
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
        if let Some(packet) = self.datagrams().and_then(|datagrams| datagrams.to_send.pop_front()) {
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
            State::Open(_) | State::Failed => Duration::from_secs(3600),
        };
        DtlsOutput::Timeout(*self.tick.get_or_insert(self.now + wait))
    }

    fn handle_timeout(&mut self, now: Instant) -> Result<(), DtlsImplError> {
        (self.now, self.tick) = (now, None);
        match self.state {
            State::Handshake(_) => self.drive(),
            State::New(..) | State::Open(_) | State::Failed => Ok(()),
        }
    }

    fn send_application_data(&mut self, _: &[u8]) -> Result<usize, DtlsImplError> {
        Ok(0)
    }

    fn is_active(&self) -> bool {
        false
    }

    fn protocol_version(&self) -> Option<ProtocolVersion> {
        matches!(self.state, State::Open(_)).then_some(ProtocolVersion::DTLS1_2)
    }

    fn is_closing(&self) -> bool {
        self.closing
    }

    fn is_closed(&self) -> bool {
        self.closed
    }

    fn close(&mut self) -> Result<(), DtlsImplError> {
        if let State::Open(stream) = &mut self.state {
            let _ = stream.shutdown();
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
