//! What a peer offers in the `use_srtp` extension of its ClientHello, and what was chosen.
//!
//! dimpl offers AEAD_AES_256_GCM, AEAD_AES_128_GCM and AES128_CM_HMAC_SHA1_80, without a setting, and
//! every server of ours prefers the first. To get another profile, the unwanted entries of the
//! outgoing ClientHello are overwritten by an unassigned number. The handshake hash covers the
//! ClientHello, so the hash and the signature that dimpl asks its crypto provider for are computed
//! over the same overwritten bytes: to the server it is a client that simply does not know more.

use std::sync::{Arc, OnceLock};
use std::time::Instant;

use dimpl::crypto::{Buf, HashAlgorithm, HashContext, HashProvider, KeyProvider, SignatureAlgorithm, SigningKey};
use str0m::config::{CryptoProvider, DtlsCert, DtlsVersion};
use str0m::crypto::dtls::{DtlsImplError, DtlsInstance, DtlsOutput, DtlsProvider, ProtocolVersion, SrtpProfile};
use str0m_proto::crypto::CryptoError;

/// SRTP profiles that a peer offers (RFC 5764 §4.1.2, RFC 7714 §14.2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Offer {
    /// AEAD_AES_256_GCM, AEAD_AES_128_GCM, AES128_CM_HMAC_SHA1_80, as browsers do.
    #[default]
    All,
    /// AEAD_AES_128_GCM only.
    Gcm128,
    /// AEAD_AES_256_GCM only.
    Gcm256,
    /// AES128_CM_HMAC_SHA1_80 only, as OBS and GStreamer do.
    CmSha1,
}

/// Type, length and list of the extension as dimpl writes it, with an empty MKI.
const USE_SRTP: [u8; 13] = [0, 14, 0, 9, 0, 6, 0, 8, 0, 7, 0, 1, 0];
/// Offset of the profile list in it.
const LIST: usize = 6;
/// Not assigned by IANA; a server skips what it does not know.
const UNASSIGNED: [u8; 2] = [0xff, 0xff];

impl Offer {
    fn keeps(self, profile: u8) -> bool {
        match self {
            Offer::All => true,
            Offer::Gcm128 => profile == 7,
            Offer::Gcm256 => profile == 8,
            Offer::CmSha1 => profile == 1,
        }
    }

    /// Overwrites what is not offered; false if there is no `use_srtp` extension of dimpl in `bytes`.
    fn narrow(self, bytes: &mut [u8]) -> bool {
        let Some(at) = bytes.windows(USE_SRTP.len()).position(|window| window == USE_SRTP) else { return false };
        for entry in bytes[at + LIST..at + LIST + 6].as_chunks_mut::<2>().0 {
            if !self.keeps(entry[1]) {
                *entry = UNASSIGNED;
            }
        }
        true
    }

    fn narrowed(self, bytes: &[u8]) -> Vec<u8> {
        let mut copy = bytes.to_vec();
        self.narrow(&mut copy);
        copy
    }

    fn dimpl_provider(self) -> dimpl::crypto::CryptoProvider {
        let mut provider = dimpl::crypto::aws_lc_rs::default_provider();
        // A provider is made of `'static` references; one small leak for each kind of offer.
        provider.hash_provider = Box::leak(Box::new(NarrowedHashes { offer: self, inner: provider.hash_provider }));
        provider.key_provider = Box::leak(Box::new(NarrowedKeys { offer: self, inner: provider.key_provider }));
        provider
    }

    fn dimpl_config(self) -> Arc<dimpl::Config> {
        static CONFIGS: [OnceLock<Arc<dimpl::Config>>; 4] = [const { OnceLock::new() }; 4];
        CONFIGS[self as usize]
            .get_or_init(|| {
                let builder = dimpl::Config::builder().with_crypto_provider(self.dimpl_provider());
                Arc::new(builder.build().expect("dimpl accepts its own provider"))
            })
            .clone()
    }
}

/// str0m's crypto, with the offer of `offer`; the slot is filled when DTLS is up.
pub(crate) fn provider(offer: Offer) -> (Arc<CryptoProvider>, Arc<OnceLock<SrtpProfile>>) {
    let chosen = Arc::<OnceLock<SrtpProfile>>::default();
    let mut provider = str0m::crypto::from_feature_flags();
    // Again `'static`: a few dozen bytes a peer, for the life of the test process.
    provider.dtls_provider =
        Box::leak(Box::new(Provider { offer, chosen: chosen.clone(), inner: provider.dtls_provider }));
    (Arc::new(provider), chosen)
}

#[derive(Debug)]
struct Provider {
    offer: Offer,
    chosen: Arc<OnceLock<SrtpProfile>>,
    inner: &'static dyn DtlsProvider,
}

impl DtlsProvider for Provider {
    fn generate_certificate(&self) -> Option<DtlsCert> {
        self.inner.generate_certificate()
    }

    fn new_dtls(
        &self,
        cert: &DtlsCert,
        now: Instant,
        version: DtlsVersion,
        _mtu: Option<usize>,
    ) -> Result<Box<dyn DtlsInstance>, CryptoError> {
        if version != DtlsVersion::Dtls12 {
            return Err(CryptoError::Other("the test peers speak DTLS 1.2".into()));
        }
        let dtls = dimpl::Dtls::new_12(self.offer.dimpl_config(), cert.clone(), now);
        Ok(Box::new(Instance { offer: self.offer, chosen: self.chosen.clone(), dtls, scratch: vec![0; 4096] }))
    }
}

struct Instance {
    offer: Offer,
    chosen: Arc<OnceLock<SrtpProfile>>,
    dtls: dimpl::Dtls,
    scratch: Vec<u8>,
}

impl std::fmt::Debug for Instance {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Instance").field("offer", &self.offer).finish_non_exhaustive()
    }
}

fn copy_into<'a>(buf: &'a mut [u8], bytes: &[u8]) -> &'a mut [u8] {
    let copy = &mut buf[..bytes.len()];
    copy.copy_from_slice(bytes);
    copy
}

/// Record type handshake, message type ClientHello.
fn is_client_hello(datagram: &[u8]) -> bool {
    datagram.first() == Some(&22) && datagram.get(13) == Some(&1)
}

impl DtlsInstance for Instance {
    fn set_active(&mut self, active: bool) {
        self.dtls.set_active(active);
    }

    fn handle_packet(&mut self, packet: &[u8]) -> Result<(), DtlsImplError> {
        self.dtls.handle_packet(packet)
    }

    fn poll_output<'a>(&mut self, buf: &'a mut [u8]) -> DtlsOutput<'a> {
        // Polled into a buffer of our own, because a packet may have to be changed.
        match self.dtls.poll_output(&mut self.scratch) {
            DtlsOutput::Packet(packet) => {
                let copy = copy_into(buf, packet);
                if is_client_hello(copy) {
                    assert!(self.offer.narrow(copy), "dimpl writes use_srtp in a way that the test peers do not know");
                }
                DtlsOutput::Packet(copy)
            }
            DtlsOutput::PeerCert(der) => DtlsOutput::PeerCert(copy_into(buf, der)),
            DtlsOutput::ApplicationData(data) => DtlsOutput::ApplicationData(copy_into(buf, data)),
            DtlsOutput::KeyingMaterial(material, profile) => {
                let _ = self.chosen.set(profile);
                DtlsOutput::KeyingMaterial(material, profile)
            }
            DtlsOutput::Timeout(at) => DtlsOutput::Timeout(at),
            DtlsOutput::Connected => DtlsOutput::Connected,
            DtlsOutput::CloseNotify => DtlsOutput::CloseNotify,
            other => unreachable!("dimpl has a new output: {other:?}"),
        }
    }

    fn handle_timeout(&mut self, now: Instant) -> Result<(), DtlsImplError> {
        self.dtls.handle_timeout(now)
    }

    fn send_application_data(&mut self, data: &[u8]) -> Result<usize, DtlsImplError> {
        self.dtls.send_application_data(data)
    }

    fn is_active(&self) -> bool {
        self.dtls.is_active()
    }

    fn protocol_version(&self) -> Option<ProtocolVersion> {
        self.dtls.protocol_version()
    }

    fn is_closing(&self) -> bool {
        self.dtls.is_closing()
    }

    fn is_closed(&self) -> bool {
        self.dtls.is_closed()
    }

    fn close(&mut self) -> Result<(), DtlsImplError> {
        self.dtls.close()
    }
}

#[derive(Debug)]
struct NarrowedHashes {
    offer: Offer,
    inner: &'static dyn HashProvider,
}

impl HashProvider for NarrowedHashes {
    fn create_hash(&self, algorithm: HashAlgorithm) -> Box<dyn HashContext> {
        Box::new(NarrowedHash { offer: self.offer, inner: self.inner.create_hash(algorithm) })
    }
}

#[derive(Debug)]
struct NarrowedHash {
    offer: Offer,
    inner: Box<dyn HashContext>,
}

impl HashContext for NarrowedHash {
    // dimpl hashes a handshake in one piece, so the extension cannot be split over two calls.
    fn update(&mut self, data: &[u8]) {
        self.inner.update(&self.offer.narrowed(data));
    }

    fn clone_and_finalize(&self, out: &mut Buf) {
        self.inner.clone_and_finalize(out);
    }
}

#[derive(Debug)]
struct NarrowedKeys {
    offer: Offer,
    inner: &'static dyn KeyProvider,
}

impl KeyProvider for NarrowedKeys {
    fn load_private_key(&self, der: &[u8]) -> Result<Box<dyn SigningKey>, dimpl::CryptoError> {
        Ok(Box::new(NarrowedKey { offer: self.offer, inner: self.inner.load_private_key(der)? }))
    }
}

#[derive(Debug)]
struct NarrowedKey {
    offer: Offer,
    inner: Box<dyn SigningKey>,
}

impl SigningKey for NarrowedKey {
    // CertificateVerify signs the handshake so far.
    fn sign(&mut self, data: &[u8], hash: HashAlgorithm, out: &mut Buf) -> Result<(), dimpl::CryptoError> {
        self.inner.sign(&self.offer.narrowed(data), hash, out)
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        self.inner.algorithm()
    }

    fn hash_algorithm(&self) -> HashAlgorithm {
        self.inner.hash_algorithm()
    }

    fn supported_hash_algorithms(&self) -> &[HashAlgorithm] {
        self.inner.supported_hash_algorithms()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Hands every packet of `from` to `to`; the profile if `from` has one.
    fn pump(from: &mut dyn DtlsInstance, to: &mut dyn DtlsInstance, chosen: &mut Option<SrtpProfile>) {
        let mut buffer = vec![0; 4096];
        loop {
            match from.poll_output(&mut buffer) {
                DtlsOutput::Packet(packet) => to.handle_packet(packet).expect("a good packet"),
                DtlsOutput::KeyingMaterial(_, profile) => *chosen = Some(profile),
                DtlsOutput::Timeout(_) => return,
                _ => {}
            }
        }
    }

    #[test]
    fn a_strict_server_completes_the_handshake_with_the_profile_that_is_left() {
        let cases = [
            (Offer::All, SrtpProfile::AEAD_AES_256_GCM),
            (Offer::Gcm256, SrtpProfile::AEAD_AES_256_GCM),
            (Offer::Gcm128, SrtpProfile::AEAD_AES_128_GCM),
            (Offer::CmSha1, SrtpProfile::AES128_CM_SHA1_80),
        ];
        for (offer, expected) in cases {
            let now = Instant::now();
            let (client, slot) = provider(offer);
            let server = str0m::crypto::from_feature_flags();
            let make = |provider: &CryptoProvider, active| {
                let provider = provider.dtls_provider;
                let certificate = provider.generate_certificate().expect("a certificate");
                let mut dtls = provider.new_dtls(&certificate, now, DtlsVersion::Dtls12, None).expect("DTLS");
                dtls.set_active(active);
                dtls.handle_timeout(now).expect("a start");
                dtls
            };
            let (mut client, mut server) = (make(&client, true), make(&server, false));
            let (mut ours, mut theirs) = (None, None);
            for _ in 0..10 {
                pump(&mut *client, &mut *server, &mut ours);
                pump(&mut *server, &mut *client, &mut theirs);
            }
            assert_eq!((ours, theirs, slot.get()), (Some(expected), Some(expected), Some(&expected)), "{offer:?}");
        }
    }
}
