//! SRTP of sources: keys that a description or a header names, packets opened before anything else looks at them.

use std::time::{SystemTime, UNIX_EPOCH};

use penstock_media::Profile;
use penstock_rtp::{Unfit, description::Security};
use penstock_srtp::{
    agreed::{
        Agreed, KeyError,
        mikey::{self, Offer},
    },
    receiver::{Receiver, SrtpRefused},
};
use ring::rand::{SecureRandom as _, SystemRandom};
use zeroize::Zeroizing;

use super::media::Packet;

/// Seconds between 1900 and 1970.
const NTP_EPOCH: u64 = 2_208_988_800;

/// What opens one track's packets.
pub(super) struct Srtp {
    receiver: Receiver,
    /// The packet in the clear.
    room: Vec<u8>,
}

impl Srtp {
    /// By what a description says, or a field `KeyMgmt`, which is newer.
    ///
    /// # Errors
    /// [`KeyError`].
    pub(super) fn new(security: &Security, field: Option<&str>) -> Result<Box<Self>, KeyError> {
        let described = || {
            let (crypto, key_mgmt) = (security.crypto.iter(), security.key_mgmt.iter());
            Agreed::choose(crypto.map(String::as_str), key_mgmt.map(String::as_str))
        };
        let agreed = match field.map(Agreed::from_key_mgmt) {
            Some(Ok(agreed)) => agreed,
            Some(Err(error)) => described().map_err(|_| error)?,
            None => described()?,
        };
        let receiver = Receiver::new(&agreed).ok_or(KeyError::Malformed)?;
        Ok(Box::new(Self { receiver, room: vec![] }))
    }

    /// Hands out a packet in the clear, or why there is none.
    pub(super) fn open(&mut self, packet: Packet<'_>, take: &mut dyn FnMut(Packet<'_>)) {
        let refused = |refused| match refused {
            SrtpRefused::Malformed => Unfit::Malformed,
            SrtpRefused::AuthFailed => Unfit::AuthFailed,
            SrtpRefused::Replayed => Unfit::Late,
        };
        match packet {
            Packet::Rtp(track, bytes) => match self.receiver.rtp(bytes, &mut self.room) {
                Ok(()) => take(Packet::Rtp(track, &self.room)),
                Err(why) => take(Packet::Unfit(track, refused(why))),
            },
            Packet::Rtcp(track, bytes) => match self.receiver.rtcp(bytes, &mut self.room) {
                Ok(()) => take(Packet::Rtcp(track, &self.room)),
                Err(why) => take(Packet::Unfit(track, refused(why))),
            },
            Packet::Unfit(..) => take(packet),
        }
    }
}

/// A field `KeyMgmt` with a key of ours (RFC 4567 §3.2), without which some servers and clients set nothing up. Nothing
/// is ever sealed with it: what we say to sources goes without RTCP.
pub(super) fn key_mgmt(uri: &str) -> Option<String> {
    let random = SystemRandom::new();
    let profile = Profile::AesCm128HmacSha1_80;
    let mut key = Zeroizing::new(vec![0; profile.key_len()]);
    let mut salt = Zeroizing::new(vec![0; profile.salt_len()]);
    let (mut rand, mut ids) = ([0; 16], [0; 8]);
    for bytes in [&mut key[..], &mut salt[..], &mut rand[..], &mut ids[..]] {
        random.fill(bytes).ok()?;
    }
    let [bundle, ssrc] = [&ids[..4], &ids[4..]].map(|id| id.iter().fold(0, |id, byte| id << 8 | u32::from(*byte)));
    let agreed = Agreed { profile, short_tags: false, key, salt, rocs: vec![(ssrc, 0)], mki: 0 };
    #[expect(clippy::disallowed_methods, reason = "the timestamp of MIKEY is the wall clock's (RFC 3830 §6.6)")]
    let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?;
    let time = ((now.as_secs() + NTP_EPOCH) << 32) | ((u64::from(now.subsec_nanos()) << 32) / 1_000_000_000);
    let data = mikey::write(&Offer { key: &agreed, bundle, rand, time });
    // What ends a quoted text has no place in a URL.
    let uri: String = uri.chars().filter(|letter| !matches!(letter, '"' | '\\') && !letter.is_control()).collect();
    Some(format!("prot=mikey;uri=\"{uri}\";data=\"{data}\""))
}
