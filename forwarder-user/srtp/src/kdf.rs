//! Key derivation of RFC 3711 §4.3, with the AEAD profiles of RFC 7714 §11.

use aes::cipher::{Block, BlockCipherEncrypt, KeyInit};
use zeroize::Zeroizing;

use penstock_media::{MediaKey, Profile};

/// `label` of RFC 3711 §4.3.1.
#[derive(Clone, Copy, Debug)]
enum Label {
    RtpKey = 0,
    RtpAuth = 1,
    RtpSalt = 2,
    RtcpKey = 3,
    RtcpAuth = 4,
    RtcpSalt = 5,
}

/// Session keys of one direction.
#[derive(Clone, Debug)]
pub struct Direction {
    /// Labels 0 to 2 (RFC 3711 §4.3.1); goes to the engine.
    pub rtp: MediaKey,
    /// Labels 3 to 5 (RFC 3711 §4.3.2); stays in the control task.
    pub rtcp: MediaKey,
}

/// Session keys of both directions.
#[derive(Clone, Debug)]
pub struct Keys {
    /// For what we send.
    pub outgoing: Direction,
    /// For what the peer sends.
    pub incoming: Direction,
}

/// Derives the session keys from what a DTLS handshake exported (RFC 5764 §4.2). `None`: it is not as long as the
/// profile wants it.
pub fn derive(profile: Profile, material: &[u8], we_are_client: bool) -> Option<Keys> {
    let key_len = profile.key_len();
    let salt_len = profile.salt_len();
    if material.len() != 2 * (key_len + salt_len) {
        return None;
    }
    let (keys, salts) = material.split_at(2 * key_len);
    let (client_key, server_key) = keys.split_at(key_len);
    let (client_salt, server_salt) = salts.split_at(salt_len);
    let client = direction(profile, client_key, client_salt);
    let server = direction(profile, server_key, server_salt);
    Some(match we_are_client {
        true => Keys { outgoing: client, incoming: server },
        false => Keys { outgoing: server, incoming: client },
    })
}

/// Derives the session keys from a master key and salt that were agreed on in another way. `None`: they are not as long
/// as the profile wants them.
pub fn from_master(profile: Profile, key: &[u8], salt: &[u8]) -> Option<Direction> {
    (key.len() == profile.key_len() && salt.len() == profile.salt_len()).then(|| direction(profile, key, salt))
}

fn direction(profile: Profile, key: &[u8], salt: &[u8]) -> Direction {
    let media_key = |key_label, auth_label, salt_label| {
        let mut session = MediaKey {
            profile,
            key: vec![0; profile.key_len()],
            salt: [0; 14],
            auth_key: vec![0; profile.auth_key_len()],
        };
        prf(key, salt, key_label, &mut session.key);
        prf(key, salt, auth_label, &mut session.auth_key);
        prf(key, salt, salt_label, &mut session.salt[..profile.salt_len()]);
        session
    };
    Direction {
        rtp: media_key(Label::RtpKey as u8, Label::RtpAuth as u8, Label::RtpSalt as u8),
        rtcp: media_key(Label::RtcpKey as u8, Label::RtcpAuth as u8, Label::RtcpSalt as u8),
    }
}

/// The AES-CM PRF of RFC 3711 §4.3.3 (AES-256: RFC 6188 §3) with a key derivation rate of 0, so
/// that `r` is 0 and `key_id` is the label alone. `salt` is the 112-bit master salt; the AEAD
/// profiles have 96 bits, which stand left-aligned (RFC 7714 §11).
fn prf(master_key: &[u8], master_salt: &[u8], label: u8, out: &mut [u8]) {
    let mut x = [0u8; 16];
    x[..master_salt.len()].copy_from_slice(master_salt);
    // key_id is right-aligned in the 112 bits of the salt and 56 bits long: byte 14 - 7.
    x[7] ^= label;
    let mut block = Zeroizing::new([0u8; 16]);
    for (i, chunk) in out.chunks_mut(16).enumerate() {
        x[14..].copy_from_slice(&(i as u16).to_be_bytes());
        *block = encrypt(master_key, x);
        chunk.copy_from_slice(&block[..chunk.len()]);
    }
}

#[expect(
    clippy::expect_used,
    reason = "`MasterKey` has 16 or 32 bytes by its profile; another length is our own mistake"
)]
fn encrypt(key: &[u8], input: [u8; 16]) -> [u8; 16] {
    if let Ok(cipher) = aes::Aes128::new_from_slice(key) {
        let mut block: Block<aes::Aes128> = input.into();
        cipher.encrypt_block(&mut block);
        block.into()
    } else {
        let cipher = aes::Aes256::new_from_slice(key).expect("a master key has 16 or 32 bytes");
        let mut block: Block<aes::Aes256> = input.into();
        cipher.encrypt_block(&mut block);
        block.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::hex;

    /// RFC 3711 B.3.
    #[test]
    fn rfc3711_b3() {
        let key = hex("E1F97A0D3E018BE0D64FA32C06DE4139");
        let salt = hex("0EC675AD498AFEEBB6960B3AABE6");
        let derive = |label, len| {
            let mut out = vec![0; len];
            prf(&key, &salt, label, &mut out);
            out
        };
        assert_eq!(derive(0, 16), hex("C61E7A93744F39EE10734AFE3FF7A087"));
        assert_eq!(derive(2, 14), hex("30CBBC08863D8C85D49DB34A9AE1"));
        let auth = "CEBE321F6FF7716B6FD4AB49AF256A156D38BAA48F0A0ACF3C34E2359E6CDBCE\
                    E049646C43D9327AD175578EF72270986371C10C9A369AC2F94A8C5FBCDDDC25\
                    6D6E919A48B610EF17C2041E474035766B68642C59BBFC2F34DB60DBDFB2";
        assert_eq!(derive(1, 94), hex(auth));
    }

    /// RFC 6188 §7.2: the AES-256 PRF.
    #[test]
    fn rfc6188_aes256() {
        let key = hex("f0f04914b513f2763a1b1fa130f10e2998f6f6e43e4309d1e622a0e332b9f1b6");
        let salt = hex("3b04803de51ee7c96423ab5b78d2");
        let mut out = vec![0; 32];
        prf(&key, &salt, 0, &mut out);
        assert_eq!(out, hex("5ba1064e30ec51613cad926c5a28ef731ec7fb397f70a960653caf06554cd8c4"));
        let mut out = vec![0; 14];
        prf(&key, &salt, 2, &mut out);
        assert_eq!(out, hex("fa31791685ca444a9e07c6c64e93"));
    }

    #[test]
    fn directions_follow_the_dtls_role() {
        let material: Vec<u8> = (0..56).collect();
        let keys = |we_are_client| derive(Profile::AeadAes128Gcm, &material, we_are_client).unwrap();
        let (client, server) = (keys(true), keys(false));
        assert_eq!(client.outgoing.rtp.key, server.incoming.rtp.key);
        assert_eq!(client.incoming.rtcp.salt, server.outgoing.rtcp.salt);
        assert_ne!(client.outgoing.rtp.key, client.incoming.rtp.key);
        assert_ne!(client.outgoing.rtp.key, client.outgoing.rtcp.key);
    }

    #[test]
    fn other_lengths_are_refused() {
        let cm = derive(Profile::AesCm128HmacSha1_80, &[1; 60], false).unwrap().outgoing.rtp;
        assert_eq!((cm.key.len(), cm.auth_key.len()), (16, 20));
        assert!(cm.salt[12..] != [0, 0] && cm.auth_key[..16] != cm.key);
        assert!(derive(Profile::AesCm128HmacSha1_80, &[1; 56], false).is_none());
        assert!(derive(Profile::AeadAes128Gcm, &[1; 55], false).is_none());
    }
}
