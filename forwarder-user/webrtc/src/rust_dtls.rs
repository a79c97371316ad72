//! DTLS 1.2 by str0m's stack (dimpl), with cookies: str0m's own way to make one leaves them out.

use std::sync::{Arc, LazyLock};
use std::time::Instant;

use dimpl::crypto::{HashAlgorithm, HmacProvider, aws_lc_rs};
use str0m::config::DtlsCert;
use str0m::crypto::dtls::{DtlsImplError, DtlsInstance, DtlsOutput, ProtocolVersion};

/// Bytes of the secret behind the cookies of one handshake.
const SECRET: usize = 32;

/// dimpl's cookies depend on the ClientHello that asks for one. A stranger's would then keep the peer from having its
/// own, so they depend on nothing but the handshake's secret. Nothing else in DTLS 1.2 calls `hmac_sha256`.
#[derive(Debug)]
struct Cookies(&'static dyn HmacProvider);

impl HmacProvider for Cookies {
    fn hmac_sha256(&self, key: &[u8], data: &[u8]) -> Result<[u8; 32], dimpl::CryptoError> {
        self.0.hmac_sha256(key, if key.len() == SECRET { b"cookie" } else { data })
    }

    fn hmac(&self, hash: HashAlgorithm, key: &[u8], data: &[u8], out: &mut [u8]) -> Result<usize, dimpl::CryptoError> {
        self.0.hmac(hash, key, data, out)
    }
}

static COOKIES: LazyLock<Cookies> = LazyLock::new(|| Cookies(aws_lc_rs::default_provider().hmac_provider));

fn config() -> Result<Arc<dimpl::Config>, DtlsImplError> {
    let provider = dimpl::crypto::CryptoProvider { hmac_provider: &*COOKIES, ..aws_lc_rs::default_provider() };
    let builder = dimpl::Config::builder().with_crypto_provider(provider).use_server_cookie(true);
    builder.mtu(str0m::DATAGRAM_MTU_TARGET).build().map(Arc::new)
}

/// One side of a DTLS 1.2 association.
pub(crate) struct Instance(dimpl::Dtls);

impl Instance {
    /// A client or a server with our certificate.
    ///
    /// # Errors
    /// dimpl refuses its own settings.
    pub(crate) fn new(certificate: &DtlsCert, active: bool, now: Instant) -> Result<Self, DtlsImplError> {
        let mut dtls = dimpl::Dtls::new_12(config()?, certificate.clone(), now);
        dtls.set_active(active);
        dtls.handle_timeout(now)?;
        Ok(Self(dtls))
    }
}

impl std::fmt::Debug for Instance {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("DTLS by dimpl")
    }
}

impl DtlsInstance for Instance {
    fn set_active(&mut self, active: bool) {
        self.0.set_active(active);
    }

    fn handle_packet(&mut self, packet: &[u8]) -> Result<(), DtlsImplError> {
        self.0.handle_packet(packet)
    }

    fn poll_output<'a>(&mut self, buffer: &'a mut [u8]) -> DtlsOutput<'a> {
        self.0.poll_output(buffer)
    }

    fn handle_timeout(&mut self, now: Instant) -> Result<(), DtlsImplError> {
        self.0.handle_timeout(now)
    }

    fn send_application_data(&mut self, data: &[u8]) -> Result<usize, DtlsImplError> {
        self.0.send_application_data(data)
    }

    fn is_active(&self) -> bool {
        self.0.is_active()
    }

    fn protocol_version(&self) -> Option<ProtocolVersion> {
        self.0.protocol_version()
    }

    fn is_closing(&self) -> bool {
        self.0.is_closing()
    }

    fn is_closed(&self) -> bool {
        self.0.is_closed()
    }

    fn close(&mut self) -> Result<(), DtlsImplError> {
        self.0.close()
    }
}
