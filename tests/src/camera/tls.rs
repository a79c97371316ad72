//! A camera's own certificate.

use std::net::TcpStream;

use anyhow::Result;
use openssl::asn1::Asn1Time;
use openssl::ec::{EcGroup, EcKey};
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::{PKey, Private};
use openssl::ssl::{SslAcceptor, SslMethod, SslStream};
use openssl::x509::{X509, X509NameBuilder};

/// Key and certificate.
pub(super) struct Identity {
    key: PKey<Private>,
    certificate: X509,
}

impl Identity {
    pub fn new() -> Result<Self> {
        let key = PKey::from_ec_key(EcKey::generate(&*EcGroup::from_curve_name(Nid::X9_62_PRIME256V1)?)?)?;
        let mut name = X509NameBuilder::new()?;
        name.append_entry_by_text("CN", "camera")?;
        let name = name.build();
        let mut certificate = X509::builder()?;
        certificate.set_version(2)?;
        certificate.set_subject_name(&name)?;
        certificate.set_issuer_name(&name)?;
        certificate.set_not_before(&*Asn1Time::days_from_now(0)?)?;
        certificate.set_not_after(&*Asn1Time::days_from_now(1)?)?;
        certificate.set_pubkey(&key)?;
        certificate.sign(&key, MessageDigest::sha256())?;
        Ok(Self { certificate: certificate.build(), key })
    }

    /// SHA-256 of the certificate in hexadecimal.
    pub fn fingerprint(&self) -> Result<String> {
        Ok(hex::encode(&*self.certificate.digest(MessageDigest::sha256())?))
    }

    /// The server's side of a handshake.
    pub fn accept(&self, stream: TcpStream) -> Result<SslStream<TcpStream>> {
        let mut acceptor = SslAcceptor::mozilla_intermediate_v5(SslMethod::tls_server())?;
        acceptor.set_private_key(&self.key)?;
        acceptor.set_certificate(&self.certificate)?;
        acceptor.build().accept(stream).map_err(|error| anyhow::anyhow!("{error}"))
    }
}
