//! Keys, requests and certificates as OpenSSL makes and reads them.

use std::time::{Duration, SystemTime};

use openssl::{
    asn1::{Asn1Object, Asn1OctetString, Asn1Time, Asn1TimeRef},
    bn::BigNum,
    ec::{EcGroup, EcKey},
    error::ErrorStack,
    hash::MessageDigest,
    nid::Nid,
    pkey::{PKey, Private},
    stack::Stack,
    x509::{X509, X509Builder, X509Extension, X509Name, X509ReqBuilder, extension::SubjectAlternativeName},
};
use rustls::{
    crypto::aws_lc_rs::default_provider,
    pki_types::{CertificateDer, PrivateKeyDer},
    sign::CertifiedKey,
};

/// `id-pe-acmeIdentifier` (RFC 8737 §6.1).
const ACME_IDENTIFIER: &str = "1.3.6.1.5.5.7.1.31";
/// Tag and length of 32 bytes as an octet string.
const DIGEST_HEAD: [u8; 2] = [4, 32];
/// Version 3 of X.509, counted from 0.
const VERSION_3: i32 = 2;

/// A new key on P-256, which every browser knows.
pub(super) fn key() -> Result<PKey<Private>, ErrorStack> {
    let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1)?;
    PKey::from_ec_key(EcKey::generate(&group)?)
}

/// What is asked for: a certificate of `key` for `names` (RFC 8555 §7.4), in DER.
pub(super) fn request(key: &PKey<Private>, names: &[String]) -> Result<Vec<u8>, ErrorStack> {
    let mut request = X509ReqBuilder::new()?;
    request.set_pubkey(key)?;
    let mut alternatives = SubjectAlternativeName::new();
    for name in names {
        alternatives.dns(name);
    }
    let mut extensions = Stack::new()?;
    extensions.push(alternatives.build(&request.x509v3_context(None))?)?;
    request.add_extensions(&extensions)?;
    request.sign(key, MessageDigest::sha256())?;
    request.build().to_der()
}

/// The certificate that answers a challenge for `name` (RFC 8737 §3). `digest`: SHA-256 of the key authorization.
///
/// # Errors
/// In words: none that is known.
pub(super) fn challenge(name: &str, digest: &[u8; 32]) -> anyhow::Result<CertifiedKey> {
    let key = key()?;
    let subject = X509Name::builder()?.build();
    let mut certificate = X509Builder::new()?;
    certificate.set_version(VERSION_3)?;
    certificate.set_serial_number(&*BigNum::from_u32(1)?.to_asn1_integer()?)?;
    certificate.set_subject_name(&subject)?;
    certificate.set_issuer_name(&subject)?;
    certificate.set_not_before(&*Asn1Time::days_from_now(0)?)?;
    certificate.set_not_after(&*Asn1Time::days_from_now(1)?)?;
    certificate.set_pubkey(&key)?;
    let alternative = SubjectAlternativeName::new().dns(name).build(&certificate.x509v3_context(None, None))?;
    certificate.append_extension(alternative)?;
    let value = Asn1OctetString::new_from_bytes(&[&DIGEST_HEAD[..], digest].concat())?;
    let identifier = Asn1Object::from_str(ACME_IDENTIFIER)?;
    certificate.append_extension(X509Extension::new_from_der(&identifier, true, &value)?)?;
    certificate.sign(&key, MessageDigest::sha256())?;
    let chain = vec![CertificateDer::from(certificate.build().to_der()?)];
    let private = PrivateKeyDer::try_from(key.private_key_to_pkcs8()?).map_err(anyhow::Error::msg)?;
    // Not `from_der`, which reads the certificate, and takes none with a critical extension that it does not know.
    Ok(CertifiedKey::new(chain, default_provider().key_provider.load_private_key(private)?))
}

/// What a certificate says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct About {
    /// Names of hosts.
    pub(super) names: Vec<String>,
    /// From when it counts.
    pub(super) from: SystemTime,
    /// Until when.
    pub(super) until: SystemTime,
}

impl About {
    /// Reads one, in DER.
    pub(super) fn read(certificate: &[u8]) -> Result<Self, ErrorStack> {
        let certificate = X509::from_der(certificate)?;
        let names = certificate.subject_alt_names();
        Ok(Self {
            names: names.iter().flatten().filter_map(|name| name.dnsname().map(str::to_owned)).collect(),
            from: moment(certificate.not_before())?,
            until: moment(certificate.not_after())?,
        })
    }

    /// When it is time for another one: a third of its life before it ends.
    pub(super) fn renew_at(&self) -> SystemTime {
        self.until - self.until.duration_since(self.from).unwrap_or_default() / 3
    }

    /// Whether it is for all of these.
    pub(super) fn is_for(&self, names: &[String]) -> bool {
        names.iter().all(|name| self.names.contains(name))
    }
}

fn moment(time: &Asn1TimeRef) -> Result<SystemTime, ErrorStack> {
    let since = Asn1Time::from_unix(0)?.diff(time)?;
    let seconds = i64::from(since.days) * 86_400 + i64::from(since.secs);
    Ok(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds.try_into().unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use openssl::x509::X509Req;

    use super::*;

    #[test]
    fn a_request_names_what_is_asked_for() {
        let names = ["tv.example".to_owned(), "b.example".to_owned()];
        let key = key().unwrap();
        let request = X509Req::from_der(&request(&key, &names).unwrap()).unwrap();
        assert!(request.verify(&key).unwrap());
        let text = String::from_utf8(request.to_text().unwrap()).unwrap();
        assert!(text.contains("DNS:tv.example, DNS:b.example"), "{text}");
    }

    #[test]
    fn the_answer_to_a_challenge_has_the_digest_in_a_critical_extension() {
        let certified = challenge("tv.example", &[7; 32]).unwrap();
        let certificate = X509::from_der(&certified.cert[0]).unwrap();
        let text = String::from_utf8(certificate.to_text().unwrap()).unwrap();
        assert!(text.contains(&format!("{ACME_IDENTIFIER}: critical")), "{text}");
        let about = About::read(&certified.cert[0]).unwrap();
        assert!(about.is_for(&["tv.example".into()]) && !about.is_for(&["tv.example".into(), "b.example".into()]));
        let der = [&[4, 34][..], &DIGEST_HEAD, &[7; 32]].concat();
        assert!(certified.cert[0].windows(der.len()).any(|bytes| bytes == der));
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "a certificate begins by the wall clock")]
    fn another_one_is_due_when_a_third_is_left() {
        let from = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000);
        let about = About { names: vec![], from, until: from + Duration::from_secs(90) };
        assert_eq!(about.renew_at(), from + Duration::from_secs(60));
        let certified = challenge("tv.example", &[7; 32]).unwrap();
        let read = About::read(&certified.cert[0]).unwrap();
        assert_eq!(read.until.duration_since(read.from).unwrap(), Duration::from_secs(86_400));
        let age = SystemTime::now().duration_since(read.from).unwrap();
        assert!(age < Duration::from_secs(3600), "{age:?}");
    }
}
