//! A certificate that is signed by itself.

use std::net::{IpAddr, TcpStream};
use std::path::Path;

use anyhow::Result;
use openssl::asn1::Asn1Time;
use openssl::ec::{EcGroup, EcKey};
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::{PKey, Private};
use openssl::ssl::{SslAcceptor, SslMethod, SslStream};
use openssl::x509::extension::SubjectAlternativeName;
use openssl::x509::{X509, X509NameBuilder};

/// Key and certificate.
pub struct Identity {
    key: PKey<Private>,
    certificate: X509,
}

impl Identity {
    /// # Errors
    /// Without randomness.
    pub fn new() -> Result<Self> {
        Self::of(None)
    }

    /// As [`new`](Self::new), for the host at this address.
    ///
    /// # Errors
    /// Without randomness.
    pub fn at(address: IpAddr) -> Result<Self> {
        Self::of(Some(address))
    }

    fn of(address: Option<IpAddr>) -> Result<Self> {
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
        if let Some(address) = address {
            let mut names = SubjectAlternativeName::new();
            let names = names.ip(&address.to_string()).build(&certificate.x509v3_context(None, None))?;
            certificate.append_extension(names)?;
        }
        certificate.sign(&key, MessageDigest::sha256())?;
        Ok(Self { certificate: certificate.build(), key })
    }

    /// Writes certificate and key as PEM files.
    ///
    /// # Errors
    /// What the system says.
    pub fn write(&self, certificate: &Path, key: &Path) -> Result<()> {
        std::fs::write(certificate, self.certificate.to_pem()?)?;
        Ok(std::fs::write(key, self.key.private_key_to_pem_pkcs8()?)?)
    }

    /// SHA-256 of the certificate in hexadecimal.
    ///
    /// # Errors
    /// None that is known.
    pub fn fingerprint(&self) -> Result<String> {
        Ok(hex::encode(&*self.certificate.digest(MessageDigest::sha256())?))
    }

    /// SHA-256 of the public key in Base64, by which a browser is told to believe in it.
    ///
    /// # Errors
    /// None that is known.
    pub fn key_hash(&self) -> Result<String> {
        let hash = openssl::sha::sha256(&self.key.public_key_to_der()?);
        Ok(openssl::base64::encode_block(&hash))
    }

    /// The server's side of a handshake.
    ///
    /// # Errors
    /// When the client does not shake hands.
    pub fn accept(&self, stream: TcpStream) -> Result<SslStream<TcpStream>> {
        let mut acceptor = SslAcceptor::mozilla_intermediate_v5(SslMethod::tls_server())?;
        acceptor.set_private_key(&self.key)?;
        acceptor.set_certificate(&self.certificate)?;
        acceptor.build().accept(stream).map_err(|error| anyhow::anyhow!("{error}"))
    }
}
