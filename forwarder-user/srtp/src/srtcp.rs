//! What the control task does with SRTP keys: all SRTCP, and the RTP packets from which an SSRC is
//! learnt.

use std::collections::HashMap;

use forwarder_common::ExtendedSeq;
use forwarder_common::rtp::RtpHeader;

use crate::cipher::Cipher;
use penstock_media::MediaKey;

/// `E` flag and index at the end of an SRTCP packet, bytes.
const TRAILER: usize = 4;
/// RTCP header and sender SSRC, which stay in the clear.
const RTCP_HEADER: usize = 8;
/// Largest SRTCP index (RFC 3711 §3.2.1).
const MAX_INDEX: u32 = 0x7fff_ffff;
/// Senders that one peer's SRTCP may name; a WebRTC peer has one per track.
const MAX_RTCP_SENDERS: usize = 32;

#[expect(clippy::expect_used, reason = "the key comes from our own derivation, not from outside")]
fn cipher(key: &MediaKey) -> Cipher {
    Cipher::new(key).expect("a derived session key has the lengths of its profile")
}

/// Authenticates RTP of SSRCs that the engine does not know yet.
pub struct RtpOpener(Cipher);

impl RtpOpener {
    /// `key`: the RTP key of what the peer sends.
    pub fn new(key: &MediaKey) -> Self {
        Self(cipher(key))
    }

    /// Is the tag right for this index? The plaintext is not kept: the packet only teaches us its SSRC.
    pub fn authenticate(&self, packet: &[u8], index: ExtendedSeq) -> bool {
        self.open(packet, index).is_some()
    }

    /// Header and payload in the clear, behind each other, if the tag is right for this index; and where the payload
    /// begins.
    pub fn open(&self, packet: &[u8], index: ExtendedSeq) -> Option<(Vec<u8>, usize)> {
        let (header, len) = RtpHeader::parse(packet)?;
        let mut plain = packet.to_vec();
        let payload = self.0.open_rtp(&mut plain, len, header.ssrc(), index)?;
        plain.truncate(len + payload);
        Some((plain, len))
    }
}

/// Why an SRTCP packet is not for us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RtcpRefused {
    /// Shorter than its fixed parts.
    Truncated,
    /// `E` flag missing: WebRTC never sends SRTCP in the clear.
    Unencrypted,
    /// Tag wrong.
    AuthFailed,
    /// Index accepted before, or too old to tell.
    Replayed,
}

/// Opens a peer's SRTCP, with a replay list per sender SSRC (RFC 3711 §3.3.2).
pub struct RtcpOpener {
    cipher: Cipher,
    replay: HashMap<u32, Window>,
}

impl RtcpOpener {
    /// `key`: the RTCP key of what the peer sends. The replay lists are empty.
    pub fn new(key: &MediaKey) -> Self {
        Self { cipher: cipher(key), replay: HashMap::new() }
    }

    /// Plaintext compound packet.
    ///
    /// # Errors
    /// [`RtcpRefused`]; the replay list then stays as it was.
    pub fn open(&mut self, packet: &[u8]) -> Result<Vec<u8>, RtcpRefused> {
        let index_at = packet.len().checked_sub(self.cipher.rtcp_index_from_end());
        let (Some(header), Some(trailer)) = (
            packet.first_chunk::<RTCP_HEADER>(),
            index_at.filter(|at| *at >= RTCP_HEADER).and_then(|at| packet.get(at..)?.first_chunk::<TRAILER>()),
        ) else {
            return Err(RtcpRefused::Truncated);
        };
        let word = u32::from_be_bytes(*trailer);
        if word & !MAX_INDEX == 0 {
            return Err(RtcpRefused::Unencrypted);
        }
        let index = word & MAX_INDEX;
        let ssrc = u32::from_be_bytes([header[4], header[5], header[6], header[7]]);
        let mut window = self.replay.get(&ssrc).copied().unwrap_or_default();
        if !window.accept(index) {
            return Err(RtcpRefused::Replayed);
        }
        let plain = self.cipher.open_rtcp(packet, ssrc, index).ok_or(RtcpRefused::AuthFailed)?;
        if self.replay.len() < MAX_RTCP_SENDERS || self.replay.contains_key(&ssrc) {
            self.replay.insert(ssrc, window);
            return Ok(plain);
        }
        // Only the peer itself can get here, by a sender SSRC per packet. Without a replay list
        // the packet cannot be told from a replay.
        Err(RtcpRefused::Replayed)
    }
}

/// Seals our SRTCP. The only owner of the index.
pub struct RtcpSealer {
    cipher: Cipher,
    next_index: u32,
}

impl RtcpSealer {
    /// `key`: the RTCP key of what we send. The first index is 0, so there must be one sealer for each key.
    pub fn new(key: &MediaKey) -> Self {
        Self { cipher: cipher(key), next_index: 0 }
    }

    /// Seals a compound packet. `None` when the index is used up (RFC 3711 §9.2: 2^31 packets, 34
    /// years at two a second) or the packet has no RTCP header.
    pub fn seal(&mut self, compound: &[u8]) -> Option<Vec<u8>> {
        let header = compound.first_chunk::<RTCP_HEADER>()?;
        let index = self.next_index;
        if index > MAX_INDEX {
            return None;
        }
        self.next_index += 1;
        let ssrc = u32::from_be_bytes([header[4], header[5], header[6], header[7]]);
        self.cipher.seal_rtcp(compound, ssrc, index)
    }
}

/// Replay list of one SRTCP sender: the highest index and the 63 before it.
#[derive(Clone, Copy, Default)]
struct Window {
    /// Highest accepted index plus one; 0 if there is none.
    next: u32,
    /// Bit `i`: index `next - 1 - i` was accepted.
    seen: u64,
}

impl Window {
    fn accept(&mut self, index: u32) -> bool {
        if index >= self.next {
            let ahead = index + 1 - self.next;
            self.seen = self.seen.checked_shl(ahead).unwrap_or(0) | 1;
            self.next = index + 1;
            return true;
        }
        let bit = self.next - 1 - index;
        let fresh = bit < 64 && self.seen & (1 << bit) == 0;
        if fresh {
            self.seen |= 1 << bit;
        }
        fresh
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{hex, seal_rtp};
    use penstock_media::Profile;

    fn key(profile: Profile) -> MediaKey {
        MediaKey {
            profile,
            key: (0..profile.key_len() as u8).collect(),
            salt: *b"Quid pro quo\0\0",
            auth_key: Vec::new(),
        }
    }

    const RTP: &str = "8040f17b8041f8d35501a0b247616c6c696120657374206f6d6e69732064697669\
                       736120696e207061727465732074726573";

    /// RFC 7714 §16.1.1 and §16.2.1.
    #[test]
    fn rfc7714_rtp() {
        let sealed_128 = "8040f17b8041f8d35501a0b2f24de3a3fb34de6cacba861c9d7e4bcabe633bd50d294e6f42a5f47a\
                          51c7d19b36de3adf8833899d7f27beb16a9152cf765ee4390cce";
        let sealed_256 = "8040f17b8041f8d35501a0b232b1de78a822fe12ef9f78fa332e33aab18012389a58e2f3b50b2a02\
                          76ffae0f1ba63799b87b7aa3db36dfffd6b0f9bb7878d7a76c13";
        for (profile, sealed) in [(Profile::AeadAes128Gcm, sealed_128), (Profile::AeadAes256Gcm, sealed_256)] {
            let plain = hex(RTP);
            let mut sealed = hex(sealed);
            assert_eq!(seal_rtp(&key(profile), &plain, ExtendedSeq(0xf17b)), sealed, "{profile:?}");
            let opener = RtpOpener::new(&key(profile));
            assert!(opener.authenticate(&sealed, ExtendedSeq(0xf17b)));
            assert!(!opener.authenticate(&sealed, ExtendedSeq(0x1_f17b)), "another ROC");
            (0..sealed.len()).for_each(|len| assert!(!opener.authenticate(&sealed[..len], ExtendedSeq(0xf17b))));
            *sealed.last_mut().unwrap() ^= 1;
            assert!(!opener.authenticate(&sealed, ExtendedSeq(0xf17b)), "forged tag");
        }
    }

    const RTCP: &str = "81c8000d4d6172734e5450314e545032525450200000042a0000e9304c756e61\
                        deadbeefdeadbeefdeadbeefdeadbeefdeadbeef";

    /// RFC 7714 §17.1 and §17.3.
    #[test]
    fn rfc7714_rtcp() {
        let sealed_128 = "81c8000d4d61727363e94885dcdab67ca727d7662f6b7e997ff5c0f76c06f32dc676a5f1730d6fda\
                          4ce09b4686303ded0bb9275bc84aa45896cf4d2fc5abf87245d9eade800005d4";
        let sealed_256 = "81c8000d4d617273d50ae4d1f5ce5d304ba297e47d470c282c3ece5dbffe0a50a2eaa5c1110555be\
                          8415f658c61de0476f1b6fad1d1eb30c4446839f57ff6f6cb26ac3be800005d4";
        for (profile, sealed) in [(Profile::AeadAes128Gcm, sealed_128), (Profile::AeadAes256Gcm, sealed_256)] {
            let mut sealer = RtcpSealer::new(&key(profile));
            sealer.next_index = 0x5d4;
            assert_eq!(sealer.seal(&hex(RTCP)).unwrap(), hex(sealed), "{profile:?}");
            assert_eq!(RtcpOpener::new(&key(profile)).open(&hex(sealed)).unwrap(), hex(RTCP));
        }
    }

    #[test]
    fn rtcp_replay_is_per_sender_and_moves_only_after_authentication() {
        let key = key(Profile::AeadAes128Gcm);
        let mut sealer = RtcpSealer::new(&key);
        let mut opener = RtcpOpener::new(&key);
        let packets: Vec<_> = (0..70).map(|_| sealer.seal(&hex(RTCP)).unwrap()).collect();
        let mut forged = packets[69].clone();
        forged[10] ^= 1;
        assert_eq!(opener.open(&forged), Err(RtcpRefused::AuthFailed));
        assert!(opener.open(&packets[0]).is_ok());
        assert_eq!(opener.open(&packets[0]), Err(RtcpRefused::Replayed));
        assert!(opener.open(&packets[69]).is_ok());
        assert!(opener.open(&packets[6]).is_ok(), "63 back");
        assert_eq!(opener.open(&packets[5]), Err(RtcpRefused::Replayed), "64 back");
        // Another sender has its own list, although the index is one that the first one used.
        let mut other = RtcpSealer::new(&key);
        let mut compound = hex(RTCP);
        compound[4] ^= 1;
        assert!(opener.open(&other.seal(&compound).unwrap()).is_ok());
    }

    #[test]
    fn rtcp_of_any_length_is_refused_without_panic() {
        let mut opener = RtcpOpener::new(&key(Profile::AeadAes128Gcm));
        for len in 0..64 {
            assert!(opener.open(&vec![0x80; len]).is_err());
        }
        assert_eq!(opener.open(&[0; 40]), Err(RtcpRefused::Unencrypted));
    }

    #[test]
    fn index_is_never_reused() {
        let mut sealer = RtcpSealer::new(&key(Profile::AeadAes256Gcm));
        sealer.next_index = MAX_INDEX;
        assert!(sealer.seal(&hex(RTCP)).is_some());
        assert!(sealer.seal(&hex(RTCP)).is_none());
    }
}
