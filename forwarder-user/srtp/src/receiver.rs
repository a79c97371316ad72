//! What one sender seals by a key that it has described: RTP and RTCP of a few SSRCs, each with its index and its replay
//! list (RFC 3711 §3.3).

use forwarder_common::{ExtendedSeq, RtpHeader};

use crate::{
    agreed::Agreed,
    cipher::Cipher,
    kdf,
    srtcp::{RtcpOpener, RtcpRefused},
};

/// SSRCs of one track: one, and others after restarts. The one that was heard first makes room.
const MAX_SENDERS: usize = 8;
/// Tag of SRTCP by AES_CM_128_HMAC_SHA1.
const RTCP_TAG: usize = 10;

/// Why a packet is not for us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SrtpRefused {
    /// Not RTP or RTCP, or cut off.
    Malformed,
    /// The tag is wrong: another key, or another sender.
    AuthFailed,
    /// Accepted before, or too old to tell.
    Replayed,
}

/// See the module.
pub struct Receiver {
    cipher: Cipher,
    rtcp: RtcpOpener,
    /// Roll-over counters to begin with.
    rocs: Vec<(u32, u32)>,
    mki: usize,
    /// The identifier stands before the tag, not behind it.
    tag_is_last: bool,
    senders: Vec<Sender>,
}

struct Sender {
    ssrc: u32,
    highest: ExtendedSeq,
    /// Bit `i`: `highest - i` was accepted.
    seen: u64,
}

impl Receiver {
    /// `None`: the key has not the length of its profile.
    pub fn new(agreed: &Agreed) -> Option<Self> {
        let keys = kdf::from_master(agreed.profile, &agreed.key, &agreed.salt)?;
        let cipher = if agreed.short_tags { Cipher::with_short_tags(&keys.rtp)? } else { Cipher::new(&keys.rtp)? };
        Some(Self {
            cipher,
            rtcp: RtcpOpener::new(&keys.rtcp),
            rocs: agreed.rocs.clone(),
            mki: agreed.mki,
            tag_is_last: agreed.profile.auth_key_len() > 0,
            senders: vec![],
        })
    }

    /// Opens an RTP packet into `room`, which then has it without tag.
    ///
    /// # Errors
    /// [`SrtpRefused`]; nothing else has changed then.
    pub fn rtp(&mut self, packet: &[u8], room: &mut Vec<u8>) -> Result<(), SrtpRefused> {
        let (header, header_len) = RtpHeader::parse(packet).ok_or(SrtpRefused::Malformed)?;
        let ssrc = header.ssrc();
        let known = self.senders.iter().position(|sender| sender.ssrc == ssrc);
        let index = match known.and_then(|at| self.senders.get(at)) {
            Some(sender) => {
                let index = sender.highest.estimate(header.seq()).ok_or(SrtpRefused::Replayed)?;
                if sender.has(index) {
                    return Err(SrtpRefused::Replayed);
                }
                index
            }
            None => {
                let roc = self.rocs.iter().find(|(of, _)| *of == ssrc).map_or(0, |(_, roc)| *roc);
                ExtendedSeq(u64::from(roc) << 16 | u64::from(header.seq()))
            }
        };
        let tag = if self.tag_is_last { self.cipher.tag_len() } else { 0 };
        self.copy(packet, tag, room)?;
        let len = self.cipher.open_rtp(room, header_len, ssrc, index).ok_or(SrtpRefused::AuthFailed)?;
        room.truncate(header_len + len);
        match known.and_then(|at| self.senders.get_mut(at)) {
            Some(sender) => sender.accept(index),
            None => {
                if self.senders.len() >= MAX_SENDERS {
                    self.senders.remove(0);
                }
                self.senders.push(Sender { ssrc, highest: index, seen: 1 });
            }
        }
        Ok(())
    }

    /// Opens a compound RTCP packet.
    ///
    /// # Errors
    /// [`SrtpRefused`].
    pub fn rtcp(&mut self, packet: &[u8], room: &mut Vec<u8>) -> Result<(), SrtpRefused> {
        self.copy(packet, if self.tag_is_last { RTCP_TAG } else { 0 }, room)?;
        *room = self.rtcp.open(room).map_err(|refused| match refused {
            RtcpRefused::Truncated | RtcpRefused::Unencrypted => SrtpRefused::Malformed,
            RtcpRefused::AuthFailed => SrtpRefused::AuthFailed,
            RtcpRefused::Replayed => SrtpRefused::Replayed,
        })?;
        Ok(())
    }

    /// Without the master key identifier, which stands in front of the last `tag` bytes (RFC 3711 §3.1).
    fn copy(&self, packet: &[u8], tag: usize, room: &mut Vec<u8>) -> Result<(), SrtpRefused> {
        let end = packet.len().checked_sub(tag).ok_or(SrtpRefused::Malformed)?;
        let body = end.checked_sub(self.mki).ok_or(SrtpRefused::Malformed)?;
        room.clear();
        room.extend_from_slice(&packet[..body]);
        room.extend_from_slice(&packet[end..]);
        Ok(())
    }
}

impl Sender {
    fn has(&self, index: ExtendedSeq) -> bool {
        let Some(behind) = self.highest.0.checked_sub(index.0) else { return false };
        behind >= 64 || self.seen >> behind & 1 == 1
    }

    fn accept(&mut self, index: ExtendedSeq) {
        match index.0.checked_sub(self.highest.0) {
            Some(ahead) => {
                self.seen = u32::try_from(ahead).ok().and_then(|ahead| self.seen.checked_shl(ahead)).unwrap_or(0) | 1;
                self.highest = index;
            }
            None => self.seen |= 1 << (self.highest.0 - index.0).min(63),
        }
    }
}

#[cfg(test)]
mod tests {
    use penstock_media::Profile;
    use zeroize::Zeroizing;

    use super::*;

    const ALL: [(Profile, bool); 4] = [
        (Profile::AesCm128HmacSha1_80, false),
        (Profile::AesCm128HmacSha1_80, true),
        (Profile::AeadAes128Gcm, false),
        (Profile::AeadAes256Gcm, false),
    ];

    fn agreed(profile: Profile, short_tags: bool, mki: usize) -> Agreed {
        let bytes = |len| Zeroizing::new((0..len as u8).collect::<Vec<_>>());
        let (key, salt) = (bytes(profile.key_len()), bytes(profile.salt_len()));
        Agreed { profile, short_tags, key, salt, rocs: vec![(7, 3)], mki }
    }

    /// A packet of SSRC 7 as its sender seals it.
    fn sealed(agreed: &Agreed, index: u64) -> (Vec<u8>, Vec<u8>) {
        let keys = kdf::from_master(agreed.profile, &agreed.key, &agreed.salt).unwrap().rtp;
        let cipher = if agreed.short_tags { Cipher::with_short_tags(&keys) } else { Cipher::new(&keys) }.unwrap();
        let mut packet = vec![0x80, 96, (index >> 8) as u8, index as u8, 0, 0, 0, 1, 0, 0, 0, 7];
        let payload = [index as u8; 50];
        let plain = [&packet[..], &payload].concat();
        packet.resize(12 + payload.len() + cipher.tag_len(), 0);
        assert!(cipher.seal_rtp(&mut packet, 12, &payload, 7, ExtendedSeq(index)));
        let at = packet.len() - if agreed.profile.auth_key_len() > 0 { cipher.tag_len() } else { 0 };
        packet.splice(at..at, vec![0xaa; agreed.mki]);
        (packet, plain)
    }

    #[test]
    fn packets_open_in_any_order_once() {
        for (profile, short) in ALL {
            for mki in [0, 4] {
                let agreed = agreed(profile, short, mki);
                let (mut receiver, mut room) = (Receiver::new(&agreed).unwrap(), vec![]);
                let begin = 3 << 16 | 0xfffe;
                for index in [begin, begin + 3, begin + 1, begin + 2, begin + 60] {
                    let (packet, plain) = sealed(&agreed, index);
                    receiver.rtp(&packet, &mut room).unwrap();
                    assert_eq!(room, plain, "{profile:?} {index:x}");
                    assert_eq!(receiver.rtp(&packet, &mut room), Err(SrtpRefused::Replayed));
                }
                let (mut wrong, _) = sealed(&agreed, begin + 61);
                wrong[20] ^= 1;
                assert_eq!(receiver.rtp(&wrong, &mut room), Err(SrtpRefused::AuthFailed));
                for len in 0..wrong.len() {
                    assert!(receiver.rtp(&wrong[..len], &mut room).is_err());
                }
            }
        }
    }

    #[test]
    fn reports_open_as_well() {
        for (profile, short) in ALL {
            let agreed = agreed(profile, short, 2);
            let keys = kdf::from_master(profile, &agreed.key, &agreed.salt).unwrap();
            let mut sealer = crate::srtcp::RtcpSealer::new(&keys.rtcp);
            let report = [0x80, 201, 0, 1, 0, 0, 0, 7];
            let mut packet = sealer.seal(&report).unwrap();
            let at = packet.len() - if profile.auth_key_len() > 0 { RTCP_TAG } else { 0 };
            packet.splice(at..at, [1, 1]);
            let (mut receiver, mut room) = (Receiver::new(&agreed).unwrap(), vec![]);
            receiver.rtcp(&packet, &mut room).unwrap();
            assert_eq!(room, report, "{profile:?}");
            assert!(receiver.rtcp(&packet, &mut room).is_err(), "again");
        }
    }
}
