//! Takes the DTLS-SRTP keying material before str0m sees it.
//!
//! One owner per key is what keeps nonces unique: the engine seals media, the control task seals
//! SRTCP, and str0m, which never gets a key, cannot seal anything. str0m asks a [`DtlsProvider`]
//! for its DTLS stack, so we hand it one that wraps the real one and answers
//! [`DtlsOutput::Connected`] (which str0m takes as often as it comes) in place of
//! [`DtlsOutput::KeyingMaterial`].

use std::cell::RefCell;
use std::fmt;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::Instant;

use str0m::config::{CryptoProvider, DtlsCert, DtlsVersion};
use str0m::crypto::CryptoError;
use str0m::crypto::dtls::{DtlsImplError, DtlsInstance, DtlsOutput, DtlsProvider, ProtocolVersion, SrtpProfile};
use str0m::{Rtc, RtcConfig};
use zeroize::Zeroizing;

use super::client_hello::{ClientHello, Knows};
use super::openssl;

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

/// Where the keying material of one `Rtc` arrives.
#[derive(Clone, Debug, Default)]
pub struct KeySlot(Arc<Mutex<Option<Keying>>>);

impl KeySlot {
    /// Takes the keying material out. `None` before the handshake is complete, and after the first call.
    pub fn take(&self) -> Option<Keying> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn put(&self, keying: Keying) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(keying);
    }
}

thread_local! {
    /// The slot for the `Rtc` that is being built on this thread: `RtcConfig::build` calls
    /// `DtlsProvider::new_dtls` before it returns.
    static BUILDING: RefCell<Option<KeySlot>> = const { RefCell::new(None) };
}

/// str0m's default cryptography with our DTLS wrapper. Built once: str0m asks for `'static`.
static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| {
    let mut provider = str0m::crypto::from_feature_flags();
    provider.dtls_provider = Box::leak(Box::new(Capturing(provider.dtls_provider)));
    Arc::new(provider)
});

/// The cryptography that `build` gives to each `Rtc`.
pub fn provider() -> &'static CryptoProvider {
    &PROVIDER
}

/// Builds an `Rtc` that never has a key, and the slot where its key arrives instead.
pub fn build(config: RtcConfig, now: Instant) -> (Rtc, KeySlot) {
    let slot = KeySlot::default();
    BUILDING.set(Some(slot.clone()));
    let rtc = config.set_crypto_provider(PROVIDER.clone()).build(now);
    BUILDING.set(None);
    (rtc, slot)
}

#[derive(Debug)]
struct Capturing(&'static dyn DtlsProvider);

impl DtlsProvider for Capturing {
    fn generate_certificate(&self) -> Option<DtlsCert> {
        self.0.generate_certificate()
    }

    fn new_dtls(
        &self,
        cert: &DtlsCert,
        now: Instant,
        version: DtlsVersion,
        mtu: Option<usize>,
    ) -> Result<Box<dyn DtlsInstance>, CryptoError> {
        let inner = self.0.new_dtls(cert, now, version, mtu)?;
        let undecided =
            Undecided { certificate: cert.clone(), now, hello: ClientHello::default(), datagrams: Vec::new() };
        let slot = BUILDING.take().ok_or_else(|| CryptoError::Other("Rtc built without a key slot".into()))?;
        Ok(Box::new(Instance { inner, undecided: Some(undecided), slot }))
    }
}

#[derive(Debug)]
struct Instance {
    inner: Box<dyn DtlsInstance>,
    undecided: Option<Undecided>,
    slot: KeySlot,
}

/// Until a client's ClientHello shows which DTLS stack it needs.
#[derive(Debug)]
struct Undecided {
    certificate: DtlsCert,
    now: Instant,
    hello: ClientHello,
    /// For the stack that it will be.
    datagrams: Vec<Vec<u8>>,
}

impl Instance {
    /// Keeps a packet until the stack is chosen. `None`: it is.
    fn decide(&mut self, packet: &[u8]) -> Result<Option<()>, DtlsImplError> {
        let Some(undecided) = self.undecided.as_mut().filter(|_| !self.inner.is_active()) else { return Ok(None) };
        undecided.datagrams.push(packet.to_vec());
        let knows = undecided.hello.push(packet);
        if knows == Knows::NotYet {
            return Ok(Some(()));
        }
        let Some(undecided) = self.undecided.take() else { return Ok(None) };
        if knows == Knows::CounterModeOnly {
            let server = openssl::Instance::new(&undecided.certificate, undecided.now).map_err(|error| {
                tracing::warn!("DTLS by OpenSSL is not to be had: {error}");
                DtlsImplError::ConnectionClosed
            })?;
            self.inner = Box::new(server);
        }
        undecided.datagrams.iter().try_for_each(|datagram| self.inner.handle_packet(datagram))?;
        Ok(Some(()))
    }
}

impl DtlsInstance for Instance {
    fn poll_output<'a>(&mut self, buf: &'a mut [u8]) -> DtlsOutput<'a> {
        let we_are_client = self.inner.is_active();
        match self.inner.poll_output(buf) {
            DtlsOutput::KeyingMaterial(material, profile) => {
                let material = Zeroizing::new(material.to_vec());
                self.slot.put(Keying { profile, material, we_are_client });
                DtlsOutput::Connected
            }
            other => other,
        }
    }

    fn set_active(&mut self, active: bool) {
        self.inner.set_active(active);
    }
    fn handle_packet(&mut self, packet: &[u8]) -> Result<(), DtlsImplError> {
        // str0m also passes nothing at all, to start a client.
        if !packet.is_empty() && self.decide(packet)?.is_some() {
            return Ok(());
        }
        self.inner.handle_packet(packet)
    }
    fn handle_timeout(&mut self, now: Instant) -> Result<(), DtlsImplError> {
        if let Some(undecided) = &mut self.undecided {
            undecided.now = now;
        }
        self.inner.handle_timeout(now)
    }
    fn send_application_data(&mut self, data: &[u8]) -> Result<usize, DtlsImplError> {
        self.inner.send_application_data(data)
    }
    fn is_active(&self) -> bool {
        self.inner.is_active()
    }
    fn protocol_version(&self) -> Option<ProtocolVersion> {
        self.inner.protocol_version()
    }
    fn is_closing(&self) -> bool {
        self.inner.is_closing()
    }
    fn is_closed(&self) -> bool {
        self.inner.is_closed()
    }
    fn close(&mut self) -> Result<(), DtlsImplError> {
        self.inner.close()
    }
}
