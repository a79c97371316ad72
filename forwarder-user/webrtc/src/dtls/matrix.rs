//! Every kind of certificate, either role, every profile, and every record lost once: each peer gets its keys.
//!
//! OpenSSL looks at the clock of this machine, so all handshakes go on side by side, and time passes once for all.

#![expect(clippy::disallowed_methods, reason = "OpenSSL has timers of its own, by the clock of this machine")]

use std::time::Duration;

use ::openssl::asn1::Asn1Time;
use ::openssl::bn::BigNum;
use ::openssl::ec::{EcGroup, EcKey};
use ::openssl::hash::MessageDigest;
use ::openssl::nid::Nid;
use ::openssl::pkey::{PKey, Private};
use ::openssl::rsa::Rsa;
use ::openssl::ssl::{
    HandshakeError, MidHandshakeSslStream, Ssl, SslContext, SslMethod, SslOptions, SslStream, SslVerifyMode,
};
use ::openssl::x509::{X509, X509NameBuilder};

use super::tests::{Wire, certificate, dimpl_as};
use super::*;

/// How long all handshakes together may take: a lost record costs a second, two flights may lose one.
const PATIENCE: Duration = Duration::from_secs(60);
/// Records of a handshake, and some more for those that are cut smaller.
const RECORDS: usize = 16;

const CM: &str = "SRTP_AES128_CM_SHA1_80";
const PROFILES: [(&str, SrtpProfile); 3] = [
    (CM, SrtpProfile::AES128_CM_SHA1_80),
    ("SRTP_AEAD_AES_128_GCM", SrtpProfile::AEAD_AES_128_GCM),
    ("SRTP_AEAD_AES_256_GCM", SrtpProfile::AEAD_AES_256_GCM),
];

#[derive(Clone)]
pub(super) struct Identity {
    name: &'static str,
    key: PKey<Private>,
    pub(super) certificate: X509,
}

fn identity(name: &'static str, key: PKey<Private>) -> Identity {
    let mut subject = X509NameBuilder::new().unwrap();
    subject.append_entry_by_text("CN", name).unwrap();
    let subject = subject.build();
    let mut builder = X509::builder().unwrap();
    builder.set_version(2).unwrap();
    builder.set_serial_number(&BigNum::from_u32(1).unwrap().to_asn1_integer().unwrap()).unwrap();
    builder.set_subject_name(&subject).unwrap();
    builder.set_issuer_name(&subject).unwrap();
    builder.set_not_before(&Asn1Time::days_from_now(0).unwrap()).unwrap();
    builder.set_not_after(&Asn1Time::days_from_now(1).unwrap()).unwrap();
    builder.set_pubkey(&key).unwrap();
    builder.sign(&key, MessageDigest::sha256()).unwrap();
    Identity { name, certificate: builder.build(), key }
}

pub(super) fn identity_of_p_256() -> Identity {
    let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).unwrap();
    identity("P-256", PKey::from_ec_key(EcKey::generate(&group).unwrap()).unwrap())
}

fn identities() -> Vec<Identity> {
    let ec = |nid| PKey::from_ec_key(EcKey::generate(&EcGroup::from_curve_name(nid).unwrap()).unwrap()).unwrap();
    let rsa = |bits| PKey::from_rsa(Rsa::generate(bits).unwrap()).unwrap();
    vec![
        identity("P-256", ec(Nid::X9_62_PRIME256V1)),
        identity("P-384", ec(Nid::SECP384R1)),
        identity("P-521", ec(Nid::SECP521R1)),
        identity("RSA 2048", rsa(2048)),
        identity("RSA 4096", rsa(4096)),
    ]
}

/// A peer of OpenSSL's.
pub(super) enum Other {
    New(Ssl, bool),
    Shaking(MidHandshakeSslStream<Wire>),
    Open(SslStream<Wire>),
    Broken,
}

impl Other {
    fn new(identity: &Identity, client: bool, profiles: &str, mtu: u32) -> Self {
        Self::make(identity, client, profiles, (mtu, "DEFAULT"))
    }

    pub(super) fn usual(identity: &Identity, client: bool) -> Self {
        Self::new(identity, client, PROFILES[1].0, 1200)
    }

    fn with_ciphers(identity: &Identity, client: bool, profiles: &str, ciphers: &str) -> Self {
        Self::make(identity, client, profiles, (1200, ciphers))
    }

    fn has_heard_the_end(&mut self) -> bool {
        let received = ::openssl::ssl::ShutdownState::RECEIVED;
        let Self::Open(stream) = self else { return false };
        stream.get_shutdown().contains(received)
    }

    fn close(&mut self) -> Vec<Vec<u8>> {
        let Self::Open(stream) = self else { return vec![] };
        let _ = stream.shutdown();
        std::mem::take(&mut stream.get_mut().sent)
    }

    fn make(identity: &Identity, client: bool, profiles: &str, (mtu, ciphers): (u32, &str)) -> Self {
        let mut context = SslContext::builder(SslMethod::dtls()).unwrap();
        context.set_tlsext_use_srtp(profiles).unwrap();
        context.set_verify_callback(SslVerifyMode::PEER | SslVerifyMode::FAIL_IF_NO_PEER_CERT, |_, _| true);
        context.set_private_key(&identity.key).unwrap();
        context.set_certificate(&identity.certificate).unwrap();
        context.set_options(SslOptions::NO_QUERY_MTU);
        context.set_cipher_list(ciphers).unwrap();
        let mut ssl = Ssl::new(&context.build()).unwrap();
        ssl.set_mtu(mtu).unwrap();
        Self::New(ssl, client)
    }

    pub(super) fn step(&mut self, received: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
        let result = match std::mem::replace(self, Self::Broken) {
            Self::New(ssl, client) => {
                let wire = Wire { received: received.into(), sent: vec![] };
                if client { ssl.connect(wire) } else { ssl.accept(wire) }
            }
            Self::Shaking(mut stream) => {
                stream.get_mut().received.extend(received);
                stream.handshake()
            }
            Self::Open(mut stream) => {
                stream.get_mut().received.extend(received);
                let _ = stream.ssl_read(&mut [0; 100]);
                Ok(stream)
            }
            Self::Broken => return vec![],
        };
        match result {
            Ok(mut stream) => {
                let sent = std::mem::take(&mut stream.get_mut().sent);
                *self = Self::Open(stream);
                sent
            }
            Err(HandshakeError::WouldBlock(mut stream)) => {
                let sent = std::mem::take(&mut stream.get_mut().sent);
                *self = Self::Shaking(stream);
                sent
            }
            Err(error) => panic!("{error}"),
        }
    }

    fn keys(&self, len: usize) -> Option<Vec<u8>> {
        let Self::Open(stream) = self else { return None };
        let mut keys = vec![0; len];
        stream.ssl().export_keying_material(&mut keys, "EXTRACTOR-dtls_srtp", None).unwrap();
        Some(keys)
    }
}

/// One handshake.
struct Run {
    what: String,
    ours: Dtls,
    theirs: Other,
    to_ours: Vec<Vec<u8>>,
    to_theirs: VecDeque<Vec<u8>>,
    /// The record that is lost, and how many there were.
    lost: usize,
    seen: usize,
    keying: Option<Keying>,
    profile: SrtpProfile,
}

impl Run {
    fn new(
        identity: &Identity,
        client: bool,
        (profiles, profile): (&str, SrtpProfile),
        (lost, mtu): (usize, u32),
    ) -> Self {
        let mut ours = Dtls::new(certificate());
        let print = Fingerprint::of(&identity.certificate.to_der().unwrap(), Hash::Sha256).unwrap();
        ours.start(Instant::now(), !client, &[print]).unwrap();
        let role = if client { "client" } else { "server" };
        Self {
            what: format!("{} as {role}, {profiles}, MTU {mtu}, without record {lost}", identity.name),
            ours,
            theirs: Other::new(identity, client, profiles, mtu),
            to_ours: vec![],
            to_theirs: VecDeque::new(),
            lost,
            seen: 0,
            keying: None,
            profile,
        }
    }

    /// A datagram without the record that is lost.
    fn pass(&mut self, datagram: &[u8]) -> Vec<u8> {
        let (mut rest, mut kept) = (datagram, vec![]);
        while rest.len() >= 13 {
            let len = 13 + usize::from(u16::from_be_bytes([rest[11], rest[12]]));
            if self.seen != self.lost {
                kept.extend(&rest[..len]);
            }
            self.seen += 1;
            rest = &rest[len..];
        }
        kept
    }

    /// Whether both have the same keys.
    fn step(&mut self) -> bool {
        let now = Instant::now();
        for datagram in std::mem::take(&mut self.to_ours) {
            let datagram = self.pass(&datagram);
            self.ours.receive(now, &datagram).unwrap_or_else(|error| panic!("{}: {error}", self.what));
        }
        match self.ours.poll(now, &mut self.to_theirs) {
            Ok(Some(DtlsEvent::Connected(keying))) => self.keying = Some(keying),
            Ok(_) => {}
            Err(error) => panic!("{}: {error}", self.what),
        }
        let received = std::mem::take(&mut self.to_theirs);
        let received = received.into_iter().map(|datagram| self.pass(&datagram)).filter(|d| !d.is_empty()).collect();
        self.to_ours = self.theirs.step(received);
        let Some(keying) = &self.keying else { return false };
        assert_eq!(keying.profile, self.profile, "{}", self.what);
        self.theirs.keys(keying.material.len()).is_some_and(|keys| keys == *keying.material)
    }
}

fn run_all(mut runs: Vec<Run>) {
    let end = Instant::now() + PATIENCE;
    while !runs.is_empty() {
        runs.retain_mut(|run| !run.step());
        let left: Vec<&String> = runs.iter().map(|run| &run.what).collect();
        assert!(Instant::now() < end, "{} handshakes were never done: {left:#?}", left.len());
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn every_certificate_role_profile_and_lost_record() {
    let mut runs = vec![];
    for identity in identities() {
        for client in [true, false] {
            for profile in PROFILES {
                // Without a loss, and the whole set once.
                let all = profile.0 == CM;
                let losses = if all { 0..RECORDS } else { RECORDS..RECORDS + 1 };
                runs.extend(losses.map(|lost| Run::new(&identity, client, profile, (lost, 1200))));
            }
        }
    }
    run_all(runs);
}

/// Peers that cut their messages small, a ClientHello among them, and anew when they send them again.
#[test]
fn messages_in_pieces_of_whatever_size() {
    let mut runs = vec![];
    for identity in identities().into_iter().filter(|identity| ["P-256", "RSA 4096"].contains(&identity.name)) {
        for (client, mtu) in [(true, 256), (false, 256), (true, 300), (false, 700)] {
            runs.extend((0..2 * RECORDS).map(|lost| Run::new(&identity, client, PROFILES[2], (lost, mtu))));
        }
    }
    run_all(runs);
}

/// GnuTLS makes certificates on P-224, if nobody asks for something else, and we are its client.
#[test]
fn a_server_on_p_224() {
    let group = EcGroup::from_curve_name(Nid::SECP224R1).unwrap();
    let identity = identity("P-224", PKey::from_ec_key(EcKey::generate(&group).unwrap()).unwrap());
    run_all(vec![Run::new(&identity, false, PROFILES[1], (RECORDS, 1200))]);
}

/// str0m's stack on the other side, in both roles, and on ours.
#[test]
fn str0ms_stack_on_either_side() {
    for active in [true, false] {
        for kind in [Stack::OpenSsl, Stack::Str0m] {
            let (mut now, theirs) = (Instant::now(), certificate());
            let mut peer = dimpl_as(&theirs, !active, now);
            let mut ours = Dtls::with(kind, certificate());
            ours.start(now, active, &[Fingerprint::of(&theirs.certificate, Hash::Sha256).unwrap()]).unwrap();
            let (mut to_peer, mut to_ours, mut connected) = (VecDeque::new(), Vec::<Vec<u8>>::new(), false);
            for _ in 0..100 {
                for datagram in std::mem::take(&mut to_ours) {
                    ours.receive(now, &datagram).unwrap();
                }
                connected |= matches!(ours.poll(now, &mut to_peer).unwrap(), Some(DtlsEvent::Connected(_)));
                to_ours = peer.step(now, to_peer.drain(..).collect());
                now += Duration::from_millis(20);
            }
            assert!(connected, "{kind:?}, active: {active}");
        }
    }
}

/// Either side closes, and the other one hears it; also where the cipher is one that OpenSSL alone knows.
#[test]
fn either_side_closes() {
    let identity = identities().remove(0);
    for client in [true, false] {
        for cipher in ["ECDHE+AES128+AESGCM", "ECDHE+AES256+AESGCM", "ECDHE+CHACHA20"] {
            for we_close in [true, false] {
                let mut run = Run::new(&identity, client, PROFILES[1], (RECORDS, 1200));
                run.theirs = Other::with_ciphers(&identity, client, PROFILES[1].0, cipher);
                run_until(&mut run);
                let now = Instant::now();
                let (mut sent, mut heard) = (VecDeque::new(), false);
                if we_close {
                    run.ours.close().unwrap();
                    run.ours.poll(now, &mut sent).unwrap();
                    run.theirs.step(sent.into());
                    heard = run.theirs.has_heard_the_end();
                } else {
                    for datagram in run.theirs.close() {
                        run.ours.receive(now, &datagram).unwrap();
                        heard |= matches!(run.ours.poll(now, &mut sent).unwrap(), Some(DtlsEvent::Closed));
                    }
                }
                assert!(heard, "{cipher}, client: {client}, we close: {we_close}");
            }
        }
    }
}

/// Nobody without the keys can close a session, or have us send anything.
#[test]
fn a_forged_record_does_nothing_behind_the_handshake() {
    let identity = identities().remove(0);
    let mut run = Run::new(&identity, true, PROFILES[2], (RECORDS, 1200));
    run_until(&mut run);
    let (now, mut sent) = (Instant::now(), VecDeque::new());
    for kind in [20, 21, 22, 23] {
        for epoch in [0, 1, 2] {
            let record = [&[kind, 0xfe, 0xfd, 0, epoch, 0, 0, 0, 0, 0, 9, 0, 26][..], &[7; 26]].concat();
            run.ours.receive(now, &record).unwrap();
            assert!(run.ours.poll(now, &mut sent).unwrap().is_none() && sent.is_empty(), "{kind} {epoch}");
        }
    }
    let mut damaged = run.theirs.close().concat();
    damaged[20] ^= 1;
    run.ours.receive(now, &damaged).unwrap();
    assert!(run.ours.poll(now, &mut sent).unwrap().is_none());
}

fn run_until(run: &mut Run) {
    while !run.step() {
        std::thread::sleep(Duration::from_millis(2));
    }
    // What is still on its way.
    for datagram in std::mem::take(&mut run.to_ours) {
        run.ours.receive(Instant::now(), &datagram).unwrap();
    }
    run.ours.poll(Instant::now(), &mut run.to_theirs).unwrap();
    let rest: Vec<Vec<u8>> = std::mem::take(&mut run.to_theirs).into();
    run.theirs.step(rest);
}
