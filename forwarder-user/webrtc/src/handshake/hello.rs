//! ClientHellos, and who has sent them (RFC 6347 §4.2.1).

use std::collections::VecDeque;

use openssl::sha::sha256;

/// What a ClientHello says beside its cookie, in short.
pub(super) type Digest = [u8; 32];

/// A sound ClientHello.
pub(super) struct Hello<'a> {
    pub(super) cookie: &'a [u8],
    /// The same in all that one client sends for one handshake.
    pub(super) rest: Digest,
}

/// Takes a vector with a length of one byte, or of two, from the front.
fn vector<'a>(bytes: &mut &'a [u8], wide: bool) -> Option<&'a [u8]> {
    let (len, rest) = match wide {
        true => bytes.split_first_chunk::<2>().map(|(len, rest)| (usize::from(u16::from_be_bytes(*len)), rest))?,
        false => bytes.split_first().map(|(len, rest)| (usize::from(*len), rest))?,
    };
    let (vector, rest) = rest.split_at_checked(len)?;
    *bytes = rest;
    Some(vector)
}

/// Reads a ClientHello to its end. `None`: it contradicts itself.
pub(super) fn parse(body: &[u8]) -> Option<Hello<'_>> {
    // Behind version and random.
    let mut rest = body.get(34..)?;
    vector(&mut rest, false)?;
    let before = body.len() - rest.len();
    let cookie = vector(&mut rest, false)?;
    let behind = rest;
    let suites = vector(&mut rest, true)?;
    let compressions = vector(&mut rest, false)?;
    if suites.is_empty() || suites.len() % 2 != 0 || !compressions.contains(&0) {
        return None;
    }
    if !rest.is_empty() {
        let mut extensions = vector(&mut rest, true).filter(|_| rest.is_empty())?;
        while !extensions.is_empty() {
            extensions = extensions.get(2..)?;
            vector(&mut extensions, true)?;
        }
    }
    Some(Hello { cookie, rest: sha256(&[body.get(..before)?, behind].concat()) })
}

/// The last of something.
pub(super) struct Last<T> {
    all: VecDeque<T>,
    most: usize,
}

impl<T: PartialEq> Last<T> {
    pub(super) const fn new(most: usize) -> Self {
        Self { all: VecDeque::new(), most }
    }

    pub(super) fn has(&self, one: &T) -> bool {
        self.all.contains(one)
    }

    pub(super) fn add(&mut self, one: T) {
        if self.all.contains(&one) {
            return;
        }
        if self.all.len() == self.most {
            self.all.pop_front();
        }
        self.all.push_back(one);
    }

    pub(super) fn take(&mut self) -> VecDeque<T> {
        std::mem::take(&mut self.all)
    }
}

/// A ClientHello of nobody, at which a stack shows by its HelloVerifyRequest which cookie it takes.
pub(super) const OF_NOBODY: &[u8] = &[
    0xfe, 0xfd, // DTLS 1.2
    0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, // random
    0, 0, // no session, no cookie
    0, 2, 0xc0, 0x2b, // ECDHE, ECDSA, AES-128-GCM
    1, 0, // not compressed
    0, 40, // extensions
    0, 10, 0, 4, 0, 2, 0, 29, // X25519
    0, 11, 0, 2, 1, 0, // points are not compressed
    0, 13, 0, 4, 0, 2, 4, 3, // ECDSA with SHA-256
    0, 14, 0, 5, 0, 2, 0, 7, 0, // SRTP by AES-128-GCM
    0, 23, 0, 0, // extended master secret
    0xff, 1, 0, 1, 0, // no renegotiation
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hello_is_read_to_its_end() {
        let hello = parse(OF_NOBODY).expect("it is sound");
        assert!(hello.cookie.is_empty());
        let mut with = OF_NOBODY.to_vec();
        with.splice(35..36, [3, 7, 8, 9]);
        let other = parse(&with).expect("it is sound");
        assert_eq!((other.cookie, other.rest), (&[7, 8, 9][..], hello.rest));
        for len in 0..OF_NOBODY.len() {
            // Extensions may be left out.
            assert_eq!(parse(&OF_NOBODY[..len]).is_some(), len == 42, "{len}");
        }
        for place in 0..OF_NOBODY.len() {
            let mut changed = OF_NOBODY.to_vec();
            changed[place] ^= 1;
            assert!(parse(&changed).is_none_or(|changed| changed.rest != hello.rest), "{place}");
        }
    }
}
