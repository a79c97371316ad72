//! Signatures of handshake messages: which of what has come is the peer's (RFC 5246 §4.7, RFC 8422 §5.4, §5.8).

use openssl::error::ErrorStack;
use openssl::hash::MessageDigest;
use openssl::pkey::{Id, PKeyRef, Public};
use openssl::rsa::Padding;
use openssl::sign::{RsaPssSaltlen, Verifier};
use openssl::x509::X509;

/// The first of the certificates in a Certificate message: its sender's own.
pub(super) fn own_certificate(message: &[u8]) -> Option<&[u8]> {
    let (all, first) = message.split_first_chunk::<3>()?;
    let (len, rest) = first.split_first_chunk::<3>()?;
    let number = |bytes: &[u8; 3]| usize::from(bytes[0]) << 16 | usize::from(bytes[1]) << 8 | usize::from(bytes[2]);
    rest.get(..number(len)).filter(|_| number(all) == first.len())
}

/// Algorithm, length and signature, as they stand at the end of a message.
fn split(signed: &[u8]) -> Option<([u8; 2], &[u8])> {
    let (algorithm, rest) = signed.split_first_chunk::<2>()?;
    let (len, signature) = rest.split_first_chunk::<2>()?;
    (usize::from(u16::from_be_bytes(*len)) == signature.len()).then_some((*algorithm, signature))
}

/// Where the signature of a ServerKeyExchange by ECDHE on a named curve begins.
pub(super) fn behind_parameters(exchange: &[u8]) -> Option<usize> {
    (exchange.first() == Some(&3)).then_some(4 + usize::from(*exchange.get(3)?))
}

/// Has the owner of `certificate` made `signed` (algorithm, length, signature) of these parts?
pub(super) fn is_good(certificate: &[u8], signed: &[u8], parts: &[&[u8]]) -> bool {
    let Some((algorithm, signature)) = split(signed) else { return false };
    let Ok(key) = X509::from_der(certificate).and_then(|certificate| certificate.public_key()) else { return false };
    verify(&key, algorithm, signature, parts).unwrap_or_else(|_| {
        // Or OpenSSL keeps its errors for whoever asks next on this thread.
        let _ = ErrorStack::get();
        false
    })
}

fn verify(key: &PKeyRef<Public>, algorithm: [u8; 2], signature: &[u8], parts: &[&[u8]]) -> Result<bool, ErrorStack> {
    // The algorithm is not signed itself: it must be the key's, or a stack would refuse what is the peer's.
    let digest = match (algorithm, key.id()) {
        ([8, 7], Id::ED25519) | ([8, 8], Id::ED448) => {
            return Verifier::new_without_digest(key)?.verify_oneshot(signature, &parts.concat());
        }
        ([8, 4..=6], Id::RSA) | ([8, 9..=11], Id::RSA_PSS) => match algorithm[1] {
            4 | 9 => MessageDigest::sha256(),
            5 | 10 => MessageDigest::sha384(),
            _ => MessageDigest::sha512(),
        },
        ([hash, 1], Id::RSA) | ([hash, 2], Id::DSA) | ([hash, 3], Id::EC) => match hash {
            2 => MessageDigest::sha1(),
            3 => MessageDigest::sha224(),
            4 => MessageDigest::sha256(),
            5 => MessageDigest::sha384(),
            6 => MessageDigest::sha512(),
            _ => return Ok(false),
        },
        _ => return Ok(false),
    };
    let mut verifier = Verifier::new(digest, key)?;
    if algorithm[0] == 8 {
        verifier.set_rsa_padding(Padding::PKCS1_PSS)?;
        verifier.set_rsa_pss_saltlen(RsaPssSaltlen::DIGEST_LENGTH)?;
    }
    parts.iter().try_for_each(|part| verifier.update(part))?;
    verifier.verify(signature)
}
