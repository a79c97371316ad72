//! `a=crypto` (RFC 4568 §9.1, AEAD: RFC 7714 §14.3).

use penstock_media::Profile;

use super::{Agreed, KeyError, decode};

/// Longest master key identifier (RFC 4568 §6.1).
const MAX_MKI: usize = 128;

/// Reads `TAG SUITE inline:KEY|LIFETIME|MKI:LENGTH SESSION-PARAMETERS`.
pub(super) fn parse(value: &str) -> Result<Agreed, KeyError> {
    let mut words = value.split_ascii_whitespace();
    let (Some(_tag), Some(suite), Some(keys)) = (words.next(), words.next(), words.next()) else {
        return Err(KeyError::Malformed);
    };
    let (profile, short_tags) = match suite.to_ascii_uppercase().as_str() {
        "AES_CM_128_HMAC_SHA1_80" => (Profile::AesCm128HmacSha1_80, false),
        "AES_CM_128_HMAC_SHA1_32" => (Profile::AesCm128HmacSha1_80, true),
        "AEAD_AES_128_GCM" => (Profile::AeadAes128Gcm, false),
        "AEAD_AES_256_GCM" => (Profile::AeadAes256Gcm, false),
        _ => return Err(KeyError::Unsupported("a suite other than AES_CM_128_HMAC_SHA1 and AEAD_AES_GCM")),
    };
    for parameter in words {
        let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        match (name.to_ascii_uppercase().as_str(), value) {
            ("UNENCRYPTED_SRTP" | "UNENCRYPTED_SRTCP" | "UNAUTHENTICATED_SRTP", _) => {
                return Err(KeyError::Unsupported("SRTP without encryption or without authentication"));
            }
            ("KDR", value) if value != "0" => return Err(KeyError::Unsupported("a key derivation rate")),
            _ => {}
        }
    }
    // Of several keys, each has an identifier, and which one is used shows later.
    let key = keys.split(';').next().unwrap_or_default();
    let inline = key.split_once(':').filter(|(method, _)| method.eq_ignore_ascii_case("inline"));
    let mut parts = inline.ok_or(KeyError::Malformed)?.1.split('|');
    let both = decode(parts.next().unwrap_or_default()).ok_or(KeyError::Malformed)?;
    let mut agreed = Agreed::new(profile, short_tags, &both)?;
    if let Some((_, len)) = parts.find_map(|part| part.split_once(':')) {
        agreed.mki = len.parse().ok().filter(|len| *len <= MAX_MKI).ok_or(KeyError::Malformed)?;
    }
    Ok(agreed)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 4568 §6.1: 30 bytes.
    const KEY: &str = "inline:d0RmdmcmVCspeEc3QGZiNWpVLFJhQX1cfHAwJSoj";

    #[test]
    fn lines_as_they_are_written() {
        for (line, short, mki) in [
            (format!("1 AES_CM_128_HMAC_SHA1_80 {KEY}|2^20|1:4"), false, 4),
            (format!("1 AES_CM_128_HMAC_SHA1_32 {KEY}"), true, 0),
            (format!("  2\tAES_CM_128_HMAC_SHA1_80  {KEY}|1:32 FEC_ORDER=FEC_SRTP WSH=60"), false, 32),
            (format!("1 aes_cm_128_hmac_sha1_80 {KEY}|2^31 KDR=0"), false, 0),
        ] {
            let agreed = parse(&line).unwrap();
            assert_eq!((agreed.short_tags, agreed.mki), (short, mki), "{line}");
            assert_eq!(agreed.key.as_slice(), b"wDfvg&T+)xG7@fb5");
            assert_eq!(agreed.salt.as_slice(), b"jU,RaA}\\|p0%*#");
        }
        let gcm = parse("1 AEAD_AES_128_GCM inline:MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYg==").unwrap();
        assert_eq!((gcm.key.len(), gcm.salt.len()), (16, 12));
        let gcm =
            parse("1 AEAD_AES_256_GCM inline:MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWYwMTIzNDU2Nzg5YWI").unwrap();
        assert_eq!((gcm.key.len(), gcm.salt.len()), (32, 12));
    }

    #[test]
    fn what_cannot_be_used_is_named() {
        for line in [
            "",
            "1",
            "1 AES_CM_128_HMAC_SHA1_80",
            "1 AES_CM_128_HMAC_SHA1_80 inline:",
            "1 AES_CM_128_HMAC_SHA1_80 inline:AAAA",
        ] {
            assert_eq!(parse(line), Err(KeyError::Malformed), "{line}");
        }
        for line in [
            format!("1 F8_128_HMAC_SHA1_80 {KEY}"),
            format!("1 AES_CM_128_HMAC_SHA1_80 {KEY} UNENCRYPTED_SRTP"),
            format!("1 AES_CM_128_HMAC_SHA1_80 {KEY} KDR=16"),
        ] {
            assert!(matches!(parse(&line), Err(KeyError::Unsupported(_))), "{line}");
        }
        assert_eq!(parse(&format!("1 AES_CM_128_HMAC_SHA1_80 {KEY}|1:999")), Err(KeyError::Malformed));
    }
}
