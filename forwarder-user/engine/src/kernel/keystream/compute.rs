//! What goes into a keystream entry: AES in counter mode and GHASH over the keystream.
//!
//! Each fill serves some packets of one track at once, block by block in step: GHASH of one packet
//! is a chain of multiplications, each of which waits for the one before, so a processor that works
//! on several chains is several times as fast.

use forwarder_common::{
    aes::CounterBlock,
    gf128,
    keystream::{self, FAST_BLOCKS, STEP},
    nonce,
};

use super::job::{BATCH, Job, Key};
#[cfg(target_arch = "x86_64")]
use super::{aesni, vaes, vaes512};

/// How entries are computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    /// VAES and VPCLMULQDQ with AVX-512, four blocks of a packet in a register.
    Vaes512,
    /// VAES and VPCLMULQDQ, two packets in a register.
    Vaes,
    /// AES-NI and PCLMULQDQ.
    AesNi,
    /// Tables, on any processor.
    Portable,
}

impl Backend {
    /// The fastest one that this processor has.
    pub fn detect() -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            let (aes, clmul) = (is_x86_feature_detected!("aes"), is_x86_feature_detected!("pclmulqdq"));
            let narrow = aes && clmul && is_x86_feature_detected!("ssse3");
            let wide = is_x86_feature_detected!("vaes") && is_x86_feature_detected!("vpclmulqdq");
            let full = is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bw");
            if narrow && wide && full {
                return Backend::Vaes512;
            }
            if narrow && wide && is_x86_feature_detected!("avx2") {
                return Backend::Vaes;
            }
            if narrow {
                return Backend::AesNi;
            }
        }
        Backend::Portable
    }

    /// For people.
    pub const fn name(self) -> &'static str {
        match self {
            Backend::Vaes512 => "VAES with AVX-512",
            Backend::Vaes => "VAES",
            Backend::AesNi => "AES-NI",
            Backend::Portable => "portable",
        }
    }
}

/// Fills the entries of some packets with one SSRC, for payloads of `blocks`, 1 to [`FAST_BLOCKS`]. Their
/// states stay as they are. What lies behind the blocks keeps what it had, or gets blocks that fill up
/// what is written at once.
///
/// # Safety
/// Each entry is valid, and exclusively the caller's until it is published.
pub unsafe fn fill(backend: Backend, key: &Key, ssrc: u32, blocks: usize, jobs: &[Job]) {
    let blocks = blocks.clamp(1, FAST_BLOCKS);
    for jobs in jobs.chunks(BATCH) {
        for job in jobs {
            // SAFETY: the entries are as the caller promises.
            unsafe { (*job.entry).set_blocks(blocks) };
        }
        match (backend, <&[Job; BATCH]>::try_from(jobs)) {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: `detect` has seen the processor's features, and the entries are as the caller promises.
            (Backend::Vaes512, Ok(jobs)) => unsafe { vaes512::fill(key, ssrc, blocks, jobs) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            (Backend::Vaes, Ok(jobs)) => unsafe { vaes::fill(key, ssrc, blocks, jobs) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            (Backend::AesNi, Ok(jobs)) => unsafe { aesni::fill(key, ssrc, blocks, jobs) },
            #[cfg(target_arch = "x86_64")]
            (Backend::Vaes512, Err(_)) => {
                for job in jobs {
                    // SAFETY: as above.
                    unsafe { vaes512::fill(key, ssrc, blocks, &[*job]) };
                }
            }
            #[cfg(target_arch = "x86_64")]
            (Backend::Vaes | Backend::AesNi, Err(_)) => {
                for job in jobs {
                    // SAFETY: as above.
                    unsafe { aesni::fill(key, ssrc, blocks, &[*job]) };
                }
            }
            _ => {
                for job in jobs {
                    // SAFETY: the entries are as the caller promises.
                    unsafe { portable(key, ssrc, blocks, job) };
                }
            }
        }
    }
}

/// # Safety
/// As [`fill`].
unsafe fn portable(key: &Key, ssrc: u32, blocks: usize, job: &Job) {
    let session = &*key.session;
    let counter = CounterBlock::new(&session.round_keys, nonce::rtp_words(&session.salt, ssrc, job.index));
    let block = |n| counter.keystream(&session.round_keys, session.rounds, n);
    // SAFETY: the entry is valid and the caller's.
    let entry = unsafe { &mut *job.entry };
    entry.mask = block(1);
    let mut y = [0, 0];
    for n in 0..blocks {
        if n % STEP == keystream::first_step(blocks) {
            entry.horner[n / STEP] = y;
        }
        entry.keystream[n] = block(n as u32 + 2);
        y = gf128::multiply(&session.ghash, [y[0] ^ entry.keystream[n][0], y[1] ^ entry.keystream[n][1]]);
    }
}

#[cfg(test)]
mod tests {
    use forwarder_common::{ExtendedSeq, SessionKey, gf128::Block, keystream::Entry};
    use ring::aead::{AES_128_GCM, AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};

    use super::*;

    const SSRC: u32 = 0x1234_5678;

    fn backends() -> Vec<Backend> {
        let best = Backend::detect();
        let all = [Backend::Vaes512, Backend::Vaes, Backend::AesNi, Backend::Portable];
        all.into_iter().skip_while(|backend| *backend != best).collect()
    }

    fn keys() -> Vec<(Vec<u8>, [u8; 12])> {
        let bytes = |n: usize, seed: u8| (0..n).map(|i| (i as u8).wrapping_mul(37) ^ seed).collect::<Vec<u8>>();
        [(16, 1), (16, 200), (32, 3), (32, 77)]
            .map(|(len, seed)| (bytes(len, seed), bytes(12, seed ^ 0x5a).try_into().unwrap()))
            .into()
    }

    /// Entries as a ring has them that was in use before: full of what belongs to another index.
    fn filled(backend: Backend, key: &Key, first: u64, blocks: usize, count: usize) -> Vec<Entry> {
        // SAFETY: all zeros is a valid entry.
        let mut entries: Vec<Entry> = (0..count).map(|_| unsafe { std::mem::zeroed() }).collect();
        for entry in &mut entries {
            (entry.keystream, entry.horner) = ([[0x5a5a, 0xa5a5]; _], [[0x5a5a, 0xa5a5]; _]);
        }
        let jobs: Vec<Job> = entries
            .iter_mut()
            .enumerate()
            .map(|(n, entry)| Job { index: ExtendedSeq(first + n as u64), entry })
            .collect();
        // SAFETY: the entries are ours, and outlive the call.
        unsafe { fill(backend, key, SSRC, blocks, &jobs) };
        entries
    }

    #[test]
    fn backends_agree() {
        for (bytes, salt) in keys() {
            let key = Key::new(&SessionKey::new(&bytes, salt).unwrap());
            for (blocks, count) in (1..=FAST_BLOCKS).zip([1, 3, 4, 9].into_iter().cycle()) {
                let reference = filled(Backend::Portable, &key, 0xffff_fffe, blocks, count);
                for backend in backends() {
                    for (n, (entry, wanted)) in
                        filled(backend, &key, 0xffff_fffe, blocks, count).iter().zip(&reference).enumerate()
                    {
                        let steps = blocks.div_ceil(STEP);
                        assert_eq!((entry.blocks(), wanted.blocks()), (blocks, blocks));
                        assert_eq!(entry.mask, wanted.mask, "{backend:?} mask {n}");
                        assert_eq!(entry.keystream[..blocks], wanted.keystream[..blocks], "{backend:?} {blocks} {n}");
                        assert_eq!(entry.horner[..steps], wanted.horner[..steps], "{backend:?} {blocks} horner {n}");
                    }
                }
            }
        }
    }

    /// Seals with an entry in the way its documentation says, GHASH split into the plaintext's and the
    /// keystream's share.
    fn seal(session: &SessionKey, entry: &Entry, header: &[u8; 12], payload: &[u8]) -> Vec<u8> {
        let xor = |a: Block, b: Block| [a[0] ^ b[0], a[1] ^ b[1]];
        let times_h = |y| gf128::multiply(&session.ghash, y);
        let block = |bytes: &[u8]| {
            let mut padded = [0; 16];
            padded[..bytes.len()].copy_from_slice(bytes);
            gf128::from_bytes(padded)
        };
        let mut sealed = Vec::new();
        let mut y = times_h(block(header));
        for (n, bytes) in payload.chunks(16).enumerate() {
            y = times_h(xor(y, block(bytes)));
            sealed.extend(gf128::to_bytes(xor(block(bytes), entry.keystream[n])));
        }
        sealed.truncate(payload.len());
        let blocks = payload.len().div_ceil(16);
        // As the datapath does it: the last stored state, and up to four blocks after it.
        let first_step = keystream::first_step(entry.blocks());
        let (mut share, first) = match (blocks - 1).checked_sub(first_step) {
            Some(beyond) => (entry.horner[beyond / STEP], beyond / STEP * STEP + first_step),
            None => ([0, 0], 0),
        };
        assert!(blocks - first <= STEP);
        for index in first..blocks {
            let mask = gf128::mask((payload.len() - 16 * index).min(15) as u32);
            let whole = payload.len() - 16 * index >= 16;
            let mask = if whole { [!0, !0] } else { mask };
            let block = [entry.keystream[index][0] & mask[0], entry.keystream[index][1] & mask[1]];
            share = times_h(xor(share, block));
        }
        let share = times_h(share);
        let y = xor(times_h(xor(y, gf128::lengths(12, payload.len() as u64))), share);
        sealed.extend(gf128::to_bytes(xor(y, entry.mask)));
        sealed
    }

    #[test]
    fn entries_seal_as_ring_does() {
        for (bytes, salt) in keys() {
            let session = SessionKey::new(&bytes, salt).unwrap();
            let key = Key::new(&session);
            let algorithm = if bytes.len() == 16 { &AES_128_GCM } else { &AES_256_GCM };
            let ring = LessSafeKey::new(UnboundKey::new(algorithm, &bytes).unwrap());
            for backend in backends() {
                let first = 0x1_0000_fff0;
                let lens = [1, 15, 16, 17, 40, 70, 100, 500, 1100, 1247, 1248, 1443, 1444];
                for (n, (len, more)) in lens.into_iter().flat_map(|len| (0..6).map(move |more| (len, more))).enumerate()
                {
                    let first = first + n as u64;
                    let blocks = (keystream::blocks_for(len) + more).min(FAST_BLOCKS);
                    for (n, entry) in filled(backend, &key, first, blocks, 5).iter().enumerate() {
                        let header = [0x80, 96, n as u8, 4, 5, 6, 7, 8, 0x12, 0x34, 0x56, 0x78];
                        let payload: Vec<u8> = (0..len).map(|i| (i * 7 + n) as u8).collect();
                        let mut wanted = payload.clone();
                        let nonce = nonce::rtp(salt, SSRC, ExtendedSeq(first + n as u64));
                        let nonce = Nonce::assume_unique_for_key(nonce);
                        ring.seal_in_place_append_tag(nonce, Aad::from(header), &mut wanted).unwrap();
                        assert_eq!(seal(&session, entry, &header, &payload), wanted, "{backend:?} {len}");
                    }
                }
            }
        }
    }
}
