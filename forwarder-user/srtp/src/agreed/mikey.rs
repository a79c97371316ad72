//! MIKEY (RFC 3830) as RTSP servers and clients use it: a message of one side with the key in the clear, which TLS
//! protects. No identities, no signatures, no answers.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use zeroize::Zeroizing;

use penstock_media::Profile;

use super::{Agreed, KeyError};

/// Payload types (RFC 3830 §6.1).
const LAST: u8 = 0;
const KEMAC: u8 = 1;
const TIMESTAMP: u8 = 5;
const ID: u8 = 6;
const CERTIFICATE: u8 = 7;
const VERIFICATION: u8 = 9;
const POLICY: u8 = 10;
const RAND: u8 = 11;
const EXTENSION: u8 = 21;

/// Sessions that a message may name.
const MAX_SESSIONS: usize = 64;

/// Bytes that are read from the front.
struct Rest<'a>(&'a [u8]);

impl<'a> Rest<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8], KeyError> {
        let (taken, rest) = self.0.split_at_checked(len).ok_or(KeyError::Malformed)?;
        self.0 = rest;
        Ok(taken)
    }

    fn byte(&mut self) -> Result<u8, KeyError> {
        self.take(1).map(|bytes| bytes[0])
    }

    fn short(&mut self) -> Result<usize, KeyError> {
        self.take(2).map(|bytes| usize::from(u16::from_be_bytes([bytes[0], bytes[1]])))
    }

    fn long(&mut self) -> Result<u32, KeyError> {
        self.take(4).map(|bytes| u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    }
}

/// Parameters of SRTP (§6.10.1) with their defaults.
#[derive(Clone, Copy)]
struct Policy {
    number: u8,
    cipher: u8,
    key_len: Option<u8>,
    authentication: u8,
    /// SRTP and SRTCP are encrypted, SRTP is authenticated, keys are derived once.
    complete: bool,
    tag_len: Option<u8>,
}

impl Policy {
    fn new(number: u8) -> Self {
        Self { number, cipher: 1, key_len: None, authentication: 1, complete: true, tag_len: None }
    }

    fn read(rest: &mut Rest<'_>) -> Result<Self, KeyError> {
        let mut policy = Self::new(rest.byte()?);
        if rest.byte()? != 0 {
            return Err(KeyError::Unsupported("a policy for another protocol than SRTP"));
        }
        let len = rest.short()?;
        let mut parameters = Rest(rest.take(len)?);
        while !parameters.0.is_empty() {
            let (kind, len) = (parameters.byte()?, parameters.byte()?);
            let value = parameters.take(len.into())?;
            let value = value.last().copied().unwrap_or(0);
            match kind {
                0 => policy.cipher = value,
                1 => policy.key_len = Some(value),
                2 => policy.authentication = value,
                5 | 6 => policy.complete &= value == 0,
                7 | 8 | 10 => policy.complete &= value == 1,
                11 => policy.tag_len = Some(value),
                _ => {}
            }
        }
        Ok(policy)
    }

    /// Profile, and whether tags are short.
    fn suite(self) -> Result<(Profile, bool), KeyError> {
        if !self.complete {
            return Err(KeyError::Unsupported("SRTP without encryption or authentication, or with key derivation"));
        }
        match (self.cipher, self.key_len.unwrap_or(16), self.authentication, self.tag_len.unwrap_or(10)) {
            (1, 16, 1, 10) => Ok((Profile::AesCm128HmacSha1_80, false)),
            (1, 16, 1, 4) => Ok((Profile::AesCm128HmacSha1_80, true)),
            // RFC 7714 §14.4: AES-GCM brings its own authentication.
            (6, 16, ..) => Ok((Profile::AeadAes128Gcm, false)),
            (6, 32, ..) => Ok((Profile::AeadAes256Gcm, false)),
            _ => Err(KeyError::Unsupported("a cipher other than AES_CM_128_HMAC_SHA1 and AES-GCM")),
        }
    }
}

/// Reads a message.
///
/// # Errors
/// [`KeyError`].
pub fn parse(bytes: &[u8]) -> Result<Agreed, KeyError> {
    let mut rest = Rest(bytes);
    if rest.byte()? != 1 {
        return Err(KeyError::Unsupported("another version of MIKEY"));
    }
    let (_data_type, mut next, _prf) = (rest.byte()?, rest.byte()?, rest.byte()?);
    let _bundle = rest.long()?;
    let (sessions, map) = (usize::from(rest.byte()?), rest.byte()?);
    if map != 0 || sessions > MAX_SESSIONS {
        return Err(KeyError::Unsupported("a map of sessions that is not SRTP's"));
    }
    let mut rocs = Vec::with_capacity(sessions);
    let mut wanted = None;
    for _ in 0..sessions {
        let policy = rest.byte()?;
        wanted = wanted.or(Some(policy));
        rocs.push((rest.long()?, rest.long()?));
    }
    let (mut policies, mut key): (Vec<Policy>, Option<Key>) = (vec![], None);
    while next != LAST {
        let kind = next;
        next = rest.byte()?;
        match kind {
            KEMAC => key = key.or(Key::read(&mut rest)?),
            TIMESTAMP => drop(match rest.byte()? {
                0 | 1 => rest.take(8)?,
                2 => rest.take(4)?,
                _ => return Err(KeyError::Malformed),
            }),
            RAND => {
                let len = rest.byte()?;
                rest.take(len.into())?;
            }
            POLICY => policies.push(Policy::read(&mut rest)?),
            ID | CERTIFICATE | EXTENSION => {
                rest.byte()?;
                let len = rest.short()?;
                rest.take(len)?;
            }
            VERIFICATION => {
                let len = if rest.byte()? == 0 { 0 } else { 20 };
                rest.take(len)?;
            }
            _ => return Err(KeyError::Unsupported("keys that are not in the message (Diffie-Hellman, RSA)")),
        }
    }
    let policy = policies.iter().find(|policy| wanted.is_none_or(|wanted| policy.number == wanted));
    let (profile, short_tags) = policy.or(policies.first()).copied().unwrap_or(Policy::new(0)).suite()?;
    let key = key.ok_or(KeyError::Missing)?;
    let agreed = Agreed::new(profile, short_tags, &key.both)?;
    Ok(Agreed { rocs, mki: key.mki, ..agreed })
}

/// A traffic key with its salt behind it.
struct Key {
    both: Zeroizing<Vec<u8>>,
    mki: usize,
}

impl Key {
    /// KEMAC (§6.2), without encryption of its own.
    fn read(rest: &mut Rest<'_>) -> Result<Option<Self>, KeyError> {
        let encryption = rest.byte()?;
        let len = rest.short()?;
        let mut data = Rest(rest.take(len)?);
        let mac = if rest.byte()? == 0 { 0 } else { 20 };
        rest.take(mac)?;
        if encryption != 0 {
            return Err(KeyError::Unsupported("a key that is encrypted by one that nobody told us"));
        }
        if data.0.is_empty() { Ok(None) } else { Self::read_data(&mut data).map(Some) }
    }

    /// The first key (§6.13).
    fn read_data(data: &mut Rest<'_>) -> Result<Self, KeyError> {
        let (_next, kind) = (data.byte()?, data.byte()?);
        let len = data.short()?;
        let mut both = Zeroizing::new(data.take(len)?.to_vec());
        match kind >> 4 {
            // The salt behind the key, in one.
            2 => {}
            3 => {
                let len = data.short()?;
                both.extend_from_slice(data.take(len)?);
            }
            _ => return Err(KeyError::Unsupported("a key from which others are to be generated (TGK)")),
        }
        let mki = if kind & 0x0f == 1 { data.byte()?.into() } else { 0 };
        Ok(Self { both, mki })
    }
}

/// What a message of ours says.
#[derive(Debug)]
pub struct Offer<'a> {
    /// The key that we would seal with.
    pub key: &'a Agreed,
    /// Random.
    pub bundle: u32,
    /// Random.
    pub rand: [u8; 16],
    /// NTP format.
    pub time: u64,
}

/// Writes a message, in Base64.
pub fn write(offer: &Offer<'_>) -> String {
    let Offer { key, bundle, rand, time } = offer;
    let mut bytes = Zeroizing::new(vec![1, 0, TIMESTAMP, 0]);
    bytes.extend(bundle.to_be_bytes());
    bytes.extend([key.rocs.len() as u8, 0]);
    for (ssrc, roc) in &key.rocs {
        bytes.push(0);
        bytes.extend(ssrc.to_be_bytes());
        bytes.extend(roc.to_be_bytes());
    }
    bytes.extend([RAND, 0]);
    bytes.extend(time.to_be_bytes());
    bytes.extend([POLICY, rand.len() as u8]);
    bytes.extend(rand);
    let (cipher, authentication, tag) = match (key.profile, key.short_tags) {
        (Profile::AesCm128HmacSha1_80, false) => (1, 1, 10),
        (Profile::AesCm128HmacSha1_80, true) => (1, 1, 4),
        (Profile::AeadAes128Gcm | Profile::AeadAes256Gcm, _) => (6, 0, 16),
    };
    let parameters: [[u8; 3]; 8] = [
        [0, 1, cipher],
        [1, 1, key.profile.key_len() as u8],
        [2, 1, authentication],
        [3, 1, key.profile.auth_key_len() as u8],
        [7, 1, 1],
        [8, 1, 1],
        [10, 1, 1],
        [11, 1, tag],
    ];
    bytes.extend([KEMAC, 0, 0, 0, parameters.len() as u8 * 3]);
    bytes.extend(parameters.as_flattened());
    let len = (key.key.len() + key.salt.len()) as u16;
    bytes.extend([LAST, 0]);
    bytes.extend((len + 4).to_be_bytes());
    // The only one; a traffic key with the salt behind it; no identifier.
    bytes.extend([LAST, 0x20]);
    bytes.extend(len.to_be_bytes());
    bytes.extend_from_slice(&key.key);
    bytes.extend_from_slice(&key.salt);
    bytes.push(0);
    STANDARD.encode(&**bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(profile: Profile, short_tags: bool) -> Agreed {
        let both: Vec<u8> = (0..64).collect();
        Agreed { rocs: vec![(0x0102_0304, 7), (9, 0)], ..Agreed::new(profile, short_tags, &both).unwrap() }
    }

    fn message(key: &Agreed) -> String {
        write(&Offer { key, bundle: 5, rand: [7; 16], time: 0x0102_0304_0506_0708 })
    }

    #[test]
    fn what_is_written_is_read() {
        for (profile, short) in [
            (Profile::AesCm128HmacSha1_80, false),
            (Profile::AesCm128HmacSha1_80, true),
            (Profile::AeadAes128Gcm, false),
            (Profile::AeadAes256Gcm, false),
        ] {
            let key = key(profile, short);
            let text = message(&key);
            for value in [format!("mikey {text}"), format!("prot=mikey;uri=\"rtsps://h/x\";data=\"{text}\"")] {
                assert!(Agreed::from_key_mgmt(&value) == Ok(key.clone()), "{profile:?}");
            }
        }
    }

    /// As others write it: a timestamp, no policy, key and salt apart, an identifier.
    #[test]
    fn messages_of_other_forms() {
        let mut bytes = vec![1, 0, TIMESTAMP, 0, 0, 0, 0, 1, 1, 0, 0, 0, 0, 0, 9, 0, 0, 0, 2];
        bytes.extend([KEMAC, 2, 0, 0, 0, 1]);
        bytes.extend([LAST, 0, 0, 4 + 16 + 2 + 14 + 2, LAST, 0x31, 0, 16]);
        bytes.extend([1; 16]);
        bytes.extend([0, 14]);
        bytes.extend([2; 14]);
        bytes.extend([1, 5, 1]);
        bytes.extend([3; 20]);
        let agreed = parse(&bytes).unwrap();
        assert_eq!((agreed.key.as_slice(), agreed.salt.as_slice()), (&[1; 16][..], &[2; 14][..]));
        assert_eq!((agreed.rocs.as_slice(), agreed.mki, agreed.short_tags), (&[(9, 2)][..], 1, false));
        bytes[26] = 1;
        assert!(matches!(parse(&bytes), Err(KeyError::Unsupported(_))), "encrypted");
    }

    #[test]
    fn nonsense_is_refused_and_does_no_harm() {
        let text = message(&key(Profile::AesCm128HmacSha1_80, false));
        let bytes = STANDARD.decode(&text).unwrap();
        for len in 0..bytes.len() {
            assert!(parse(&bytes[..len]).is_err(), "{len}");
        }
        let mut seed = 3u64;
        for _ in 0..20_000 {
            let mut changed = bytes.clone();
            for _ in 0..3 {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let at = (seed >> 33) as usize % changed.len();
                changed[at] = (seed >> 20) as u8;
            }
            let _ = parse(&changed);
        }
        for value in ["", "mikey", "mikey !!!", "prot=other;data=AAAA", "sdes AAAA", "prot=mikey"] {
            assert!(Agreed::from_key_mgmt(value).is_err(), "{value}");
        }
        assert_eq!(Agreed::choose([], []), Err(KeyError::Missing));
        assert!(Agreed::choose(["1 X inline:AA"], [format!("mikey {text}").as_str()]).is_ok());
    }
}
