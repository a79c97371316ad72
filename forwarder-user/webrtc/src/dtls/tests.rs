//! Handshakes with a peer of either family, and a stranger who sends from the peer's address.

#![expect(clippy::disallowed_methods, reason = "a test begins at any time")]

use std::io::{self, Read, Write};
use std::time::Duration;

use ::openssl::pkey::PKey;
use ::openssl::ssl::{HandshakeError, Ssl, SslContext, SslMethod, SslVerifyMode};
use ::openssl::x509::X509;

use super::*;

/// A DTLS client without a network.
pub(super) trait Client {
    /// Takes datagrams; those that it sends.
    fn step(&mut self, now: Instant, received: Vec<Vec<u8>>) -> Vec<Vec<u8>>;
}

struct Dimpl(Box<dyn DtlsInstance>);

impl Client for Dimpl {
    fn step(&mut self, now: Instant, received: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
        for datagram in received {
            // What a stranger has provoked may mean nothing to it.
            let _ = self.0.handle_packet(&datagram);
        }
        self.0.handle_timeout(now).unwrap();
        let (mut sent, mut buffer) = (vec![], [0; OUTPUT]);
        loop {
            match self.0.poll_output(&mut buffer) {
                DtlsOutput::Packet(packet) => sent.push(packet.to_vec()),
                DtlsOutput::Timeout(_) => return sent,
                _ => {}
            }
        }
    }
}

#[derive(Default, Debug)]
pub(super) struct Wire {
    pub(super) received: VecDeque<Vec<u8>>,
    pub(super) sent: Vec<Vec<u8>>,
}

impl Read for Wire {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let datagram = self.received.pop_front().ok_or(io::ErrorKind::WouldBlock)?;
        buffer[..datagram.len()].copy_from_slice(&datagram);
        Ok(datagram.len())
    }
}

impl Write for Wire {
    fn write(&mut self, datagram: &[u8]) -> io::Result<usize> {
        self.sent.push(datagram.to_vec());
        Ok(datagram.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Knows counter mode alone.
enum OpenSsl {
    New(Option<Ssl>),
    Shaking(Option<::openssl::ssl::MidHandshakeSslStream<Wire>>),
    Open(::openssl::ssl::SslStream<Wire>),
}

impl OpenSsl {
    fn new(certificate: &DtlsCert) -> Self {
        let mut context = SslContext::builder(SslMethod::dtls()).unwrap();
        context.set_tlsext_use_srtp("SRTP_AES128_CM_SHA1_80").unwrap();
        context.set_verify(SslVerifyMode::NONE);
        context.set_private_key(&PKey::private_key_from_der(&certificate.private_key).unwrap()).unwrap();
        context.set_certificate(&X509::from_der(&certificate.certificate).unwrap()).unwrap();
        Self::New(Some(Ssl::new(&context.build()).unwrap()))
    }
}

impl Client for OpenSsl {
    fn step(&mut self, _: Instant, received: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
        let result = match self {
            Self::New(ssl) => ssl.take().unwrap().connect(Wire::default()),
            Self::Shaking(stream) => {
                let mut stream = stream.take().unwrap();
                stream.get_mut().received.extend(received);
                stream.handshake()
            }
            Self::Open(stream) => return std::mem::take(&mut stream.get_mut().sent),
        };
        match result {
            Ok(stream) => *self = Self::Open(stream),
            Err(HandshakeError::WouldBlock(stream)) => *self = Self::Shaking(Some(stream)),
            Err(error) => panic!("{error}"),
        }
        match self {
            Self::Shaking(Some(stream)) => std::mem::take(&mut stream.get_mut().sent),
            Self::Open(stream) => std::mem::take(&mut stream.get_mut().sent),
            _ => vec![],
        }
    }
}

pub(super) fn certificate() -> DtlsCert {
    provider().dtls_provider.generate_certificate().unwrap()
}

pub(super) fn dimpl_as(certificate: &DtlsCert, client: bool, now: Instant) -> Box<dyn Client> {
    Box::new(Dimpl(new_stack(Stack::Str0m, certificate, client, now).unwrap()))
}

fn dimpl(certificate: &DtlsCert, now: Instant) -> Box<dyn Client> {
    dimpl_as(certificate, true, now)
}

fn open_ssl(certificate: &DtlsCert, _: Instant) -> Box<dyn Client> {
    Box::new(OpenSsl::new(certificate))
}

type Make = fn(&DtlsCert, Instant) -> Box<dyn Client>;

/// Runs a handshake; before each of the peer's datagrams the stranger's come. Whether it was completed.
fn shake(make: Make, stranger: &dyn Fn() -> Vec<Vec<u8>>) -> bool {
    let (mut now, theirs) = (Instant::now(), certificate());
    let mut client = make(&theirs, now);
    let mut server = Dtls::new(certificate());
    server.start(now, false, &[Fingerprint::of(&theirs.certificate, Hash::Sha256).unwrap()]).unwrap();
    let mut to_client = VecDeque::new();
    for _ in 0..100 {
        for datagram in client.step(now, to_client.drain(..).collect()) {
            server.receive(now, &datagram).unwrap();
            for spoofed in stranger() {
                server.receive(now, &spoofed).unwrap();
            }
            if let Some(DtlsEvent::Connected(_)) = server.poll(now, &mut to_client).unwrap() {
                return true;
            }
        }
        now += Duration::from_millis(50);
        server.poll(now, &mut to_client).unwrap();
    }
    false
}

const CLIENTS: [Make; 2] = [dimpl, open_ssl];

#[test]
fn both_stacks_shake_hands() {
    assert!(CLIENTS.iter().all(|make| shake(*make, &Vec::new)));
}

#[test]
fn an_alert_in_the_clear_ends_no_handshake() {
    for description in [0, 10, 40, 80] {
        let alert = vec![21, 0xfe, 0xfd, 0, 0, 0, 0, 0, 0, 0, 9, 0, 2, 2, description];
        assert!(CLIENTS.iter().all(|make| shake(*make, &|| vec![alert.clone()])), "alert {description}");
    }
}

#[test]
fn a_foreign_client_hello_ends_no_handshake() {
    for foreign in CLIENTS {
        let hello = foreign(&certificate(), Instant::now()).step(Instant::now(), vec![]);
        assert!(!hello.is_empty());
        assert!(CLIENTS.iter().all(|make| shake(*make, &|| hello.clone())));
    }
}

#[test]
fn noise_and_records_that_contradict_themselves_end_no_handshake() {
    let records = [
        vec![22, 0xfe, 0xfd, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0],
        vec![22, 0xfe, 0xfd, 0, 1, 0, 0, 0, 0, 0, 9, 0, 40],
        vec![20; 40],
        vec![23, 0xfe, 0xfd, 0, 0, 0, 0, 0, 0, 0, 9, 0, 1, 1],
        vec![20, 0xfe, 0xfd, 0, 0, 0, 0, 0, 0, 0, 9, 0, 1, 1],
        // A ServerHelloDone, of a client.
        vec![22, 0xfe, 0xfd, 0, 0, 0, 0, 0, 0, 0, 9, 0, 12, 14, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0],
        // A fragment behind its message's end.
        vec![22, 0xfe, 0xfd, 0, 0, 0, 0, 0, 0, 0, 9, 0, 13, 11, 0, 0, 1, 0, 1, 0, 0, 9, 0, 0, 1, 7],
    ];
    for record in records {
        assert!(CLIENTS.iter().all(|make| shake(*make, &|| vec![record.clone()])), "{record:?}");
    }
}

/// A stranger was first, with a ClientHello or with a piece of a longer one: what answers him is good for the peer.
#[test]
fn a_stranger_who_came_first_costs_nothing() {
    let piece =
        [&[22, 0xfe, 0xfd, 0, 0, 0, 0, 0, 0, 0, 9, 0, 22, 1, 0, 9, 0, 0, 0, 0, 0, 99, 0, 0, 10][..], &[7; 10]].concat();
    for kind in [Stack::OpenSsl, Stack::Str0m] {
        let (now, theirs) = (Instant::now(), certificate());
        let mut server = Dtls::with(kind, certificate());
        server.start(now, false, &[Fingerprint::of(&theirs.certificate, Hash::Sha256).unwrap()]).unwrap();
        let mut to_client = VecDeque::new();
        for hello in dimpl(&certificate(), now).step(now, vec![]).into_iter().chain([piece.clone()]) {
            server.receive(now, &hello).unwrap();
            server.poll(now, &mut to_client).unwrap();
        }
        assert_eq!(to_client.len(), 1, "a cookie, and nothing that is longer than what asked for it");
        let mut client = dimpl(&theirs, now);
        let mut connected = false;
        // Without any time.
        for _ in 0..4 {
            for datagram in client.step(now, to_client.drain(..).collect()) {
                server.receive(now, &datagram).unwrap();
                connected |= matches!(server.poll(now, &mut to_client).unwrap(), Some(DtlsEvent::Connected(_)));
            }
        }
        assert!(connected, "{kind:?}: {:?}", server.trouble());
    }
}
