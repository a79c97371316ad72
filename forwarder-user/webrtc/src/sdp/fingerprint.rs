//! Fingerprints of certificates (RFC 8122 §5).

use std::fmt;

use openssl::hash::{MessageDigest, hash};

/// Hash functions of which a certificate's digest proves something, weakest first (RFC 8122 §5 names others,
/// which are broken).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Hash {
    /// 32 bytes.
    Sha256,
    /// 48 bytes.
    Sha384,
    /// 64 bytes.
    Sha512,
}

impl Hash {
    const ALL: [Hash; 3] = [Hash::Sha256, Hash::Sha384, Hash::Sha512];

    /// As `a=fingerprint` has it.
    pub const fn name(self) -> &'static str {
        match self {
            Hash::Sha256 => "sha-256",
            Hash::Sha384 => "sha-384",
            Hash::Sha512 => "sha-512",
        }
    }

    fn digest(self) -> MessageDigest {
        match self {
            Hash::Sha256 => MessageDigest::sha256(),
            Hash::Sha384 => MessageDigest::sha384(),
            Hash::Sha512 => MessageDigest::sha512(),
        }
    }
}

/// A digest of a certificate.
#[derive(Clone, PartialEq, Eq)]
pub struct Fingerprint {
    /// What it was made by.
    pub hash: Hash,
    /// As long as `hash` makes it.
    pub digest: Box<[u8]>,
}

/// The hexadecimal octets are not those of the hash function that is named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

impl Fingerprint {
    /// Reads a value of `a=fingerprint`. `None`: a hash function that proves nothing to us.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn parse(value: &str) -> Result<Option<Self>, Malformed> {
        let (name, octets) = value.split_once([' ', '\t']).ok_or(Malformed)?;
        let Some(hash) = Hash::ALL.into_iter().find(|hash| hash.name().eq_ignore_ascii_case(name)) else {
            return Ok(None);
        };
        let octet = |text: &str| {
            let digits = text.len() == 2 && text.bytes().all(|digit| digit.is_ascii_hexdigit());
            u8::from_str_radix(text, 16).ok().filter(|_| digits)
        };
        let digest: Box<[u8]> = octets.trim().split(':').map(octet).collect::<Option<_>>().ok_or(Malformed)?;
        if digest.len() != hash.digest().size() {
            return Err(Malformed);
        }
        Ok(Some(Self { hash, digest }))
    }

    /// Of a certificate in DER. `None`: the cryptography of this machine forbids the hash function.
    pub fn of(certificate: &[u8], function: Hash) -> Option<Self> {
        let digest = hash(function.digest(), certificate).ok()?;
        Some(Self { hash: function, digest: digest.to_vec().into() })
    }
}

/// Is the certificate one of those that these digests mean? Of several hash functions the strongest counts
/// (RFC 8122 §5): whoever can forge a weaker one must not be believed.
pub fn is_meant(fingerprints: &[Fingerprint], certificate: &[u8]) -> bool {
    let strongest = fingerprints.iter().map(|fingerprint| fingerprint.hash).max();
    let shown = strongest.and_then(|hash| Fingerprint::of(certificate, hash));
    shown.is_some_and(|shown| fingerprints.contains(&shown))
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.hash.name())?;
        self.digest
            .iter()
            .enumerate()
            .try_for_each(|(i, octet)| write!(f, "{}{octet:02X}", if i == 0 { ' ' } else { ':' }))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_hash_function_reads_back_and_means_its_certificate() {
        for hash in Hash::ALL {
            let fingerprint = Fingerprint::of(b"certificate", hash).unwrap();
            let text = fingerprint.to_string();
            assert_eq!(Fingerprint::parse(&text.to_lowercase()), Ok(Some(fingerprint.clone())), "{text}");
            assert!(is_meant(std::slice::from_ref(&fingerprint), b"certificate"));
            assert!(!is_meant(&[fingerprint], b"another"));
            assert_eq!(Fingerprint::parse(&text[..text.len() - 3]), Err(Malformed));
        }
        assert_eq!(Fingerprint::parse("sha-1 00:11"), Ok(None));
        assert!(!is_meant(&[], b"certificate"));
    }

    /// Two certificates, of which the peer shows one; and a weaker digest that fits beside a stronger that does not.
    #[test]
    fn of_several_any_of_the_strongest() {
        let of = |certificate: &[u8], hash| Fingerprint::of(certificate, hash).unwrap();
        let two = [of(b"rsa", Hash::Sha256), of(b"ecdsa", Hash::Sha256)];
        assert!(is_meant(&two, b"rsa") && is_meant(&two, b"ecdsa"));
        let mixed = [of(b"forged", Hash::Sha256), of(b"true", Hash::Sha512)];
        assert!(is_meant(&mixed, b"true") && !is_meant(&mixed, b"forged"));
    }
}
