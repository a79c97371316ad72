//! STUN messages of ours as bytes.

use str0m::ice::{StunMessage, TransId};

use crate::dtls;

/// Largest message that we write: two user name fragments of 256 bytes, and 100 bytes.
const ROOM: usize = 1024;
/// PRIORITY of a peer-reflexive candidate (RFC 8445 §5.1.2.1): nobody reads it of a lite agent.
const PRIORITY: u32 = (110 << 24) | (65_535 << 8) | 255;

fn hmac(key: &[u8], payloads: &[&[u8]]) -> [u8; 20] {
    dtls::provider().sha1_hmac_provider.sha1_hmac(key, payloads)
}

/// A message with MESSAGE-INTEGRITY and FINGERPRINT. `None`: it has no room.
pub(super) fn sealed(message: StunMessage<'_>, password: &str) -> Option<Vec<u8>> {
    let mut buffer = [0; ROOM];
    let len = message.to_bytes(Some(password.as_bytes()), &mut buffer, hmac).ok()?;
    Some(buffer.get(..len)?.to_vec())
}

/// Whether a message has the integrity of this password.
pub(super) fn verify(message: &StunMessage<'_>, password: &str) -> bool {
    message.verify(password.as_bytes(), hmac)
}

/// A Binding request to a peer.
pub(super) fn binding_request(id: TransId, remote_ufrag: &str, local_ufrag: &str, remote_pwd: &str) -> Option<Vec<u8>> {
    let username = format!("{remote_ufrag}:{local_ufrag}");
    sealed(StunMessage::binding_request(&username, id, false, 0, PRIORITY, false), remote_pwd)
}

/// A transaction id that nobody guesses. The crate's own come from a generator that is not for secrets, and
/// cannot be made of bytes but by reading a message: an indication without attributes.
pub(super) fn random_id() -> TransId {
    let mut message = [0, 0x11, 0, 0, 0x21, 0x12, 0xa4, 0x42, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    // Without random numbers no handshake would have come so far.
    let _ = openssl::rand::rand_bytes(&mut message[8..]);
    StunMessage::parse(&message).map_or_else(|_| TransId::new(), |message| message.trans_id())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_differ_in_every_byte_and_requests_read_back() {
        let ids: Vec<_> = (0..64).map(|_| format!("{:?}", random_id())).collect();
        assert!(ids.iter().enumerate().all(|(i, id)| !ids[..i].contains(id)), "{ids:?}");
        let id = random_id();
        let bytes = binding_request(id, "theirs", "ours", "their password").unwrap();
        let message = StunMessage::parse(&bytes).unwrap();
        assert!(message.is_binding_request() && message.trans_id() == id && !message.use_candidate());
        assert_eq!(message.username(), Some("theirs:ours"));
        assert!(verify(&message, "their password") && !verify(&message, "another"));
    }
}
