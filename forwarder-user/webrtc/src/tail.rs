//! What a DTLS association needs when its handshake is done: to hear that the peer closes, to say that we close, and to
//! send our last flight again if it was lost (RFC 6347 §4.2.4). Nothing else is ever sent over it.
//!
//! OpenSSL would keep 60 KB of buffers for that, for each session and for hours. So its object goes, and what stays are the
//! two keys of the record layer (RFC 5246 §6.3, RFC 5288), a few hundred bytes.

use std::collections::VecDeque;

use openssl::error::ErrorStack;
use openssl::hash::MessageDigest;
use openssl::pkey::PKey;
use openssl::sign::Signer;
use openssl::ssl::SslRef;
use openssl::symm::{Cipher, decrypt_aead, encrypt_aead};
use zeroize::Zeroizing;

const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;
/// Level and description of an alert.
const CLOSE_NOTIFY: [u8; 2] = [1, 0];
const FATAL: u8 = 2;
const VERSION: [u8; 2] = [0xfe, 0xfd];
/// Type, version, epoch, sequence number, length.
const HEADER: usize = 13;
const EXPLICIT_NONCE: usize = 8;
const TAG: usize = 16;
/// Often enough for a line that loses half of what it carries.
const MOST_FLIGHTS: u8 = 8;

/// AES-GCM of one direction (RFC 5288 §3).
struct Protection {
    cipher: Cipher,
    key: Zeroizing<Vec<u8>>,
    salt: [u8; 4],
}

impl Protection {
    fn nonce(&self, explicit: &[u8]) -> Vec<u8> {
        [&self.salt[..], explicit].concat()
    }

    /// A record of epoch 1.
    fn seal(&self, sequence: u64, kind: u8, plain: &[u8]) -> Result<Vec<u8>, ErrorStack> {
        let number = (1 << 48 | sequence).to_be_bytes();
        let mut tag = [0; TAG];
        let aad = additional(number, kind, plain.len());
        let sealed = encrypt_aead(self.cipher, &self.key, Some(&self.nonce(&number)), &aad, plain, &mut tag)?;
        let len = (EXPLICIT_NONCE + sealed.len() + TAG) as u16;
        Ok([&[kind][..], &VERSION, &number, &len.to_be_bytes(), &number, &sealed, &tag].concat())
    }

    /// The content of a record of epoch 1. `None`: it is of another one, or not authentic.
    fn open(&self, record: &[u8]) -> Option<Vec<u8>> {
        let (header, body) = record.split_first_chunk::<HEADER>()?;
        let number: [u8; 8] = *header.get(3..11)?.first_chunk()?;
        let (explicit, body) = body.split_at_checked(EXPLICIT_NONCE)?;
        let (sealed, tag) = body.split_last_chunk::<TAG>()?;
        if number[..2] != [0, 1] {
            return None;
        }
        let aad = additional(number, header[0], sealed.len());
        decrypt_aead(self.cipher, &self.key, Some(&self.nonce(explicit)), &aad, sealed, tag).ok()
    }
}

/// RFC 5246 §6.2.3.3, with epoch and sequence number in place of the latter (RFC 6347 §4.1.2.1).
fn additional(number: [u8; 8], kind: u8, len: usize) -> Vec<u8> {
    [&number[..], &[kind], &VERSION, &(len as u16).to_be_bytes()].concat()
}

/// See the module.
pub(crate) struct Tail {
    reads: Protection,
    writes: Protection,
    /// Sequence number of our next record.
    next: u64,
    /// Our last one, if the peer could miss it.
    flight: Vec<Vec<u8>>,
    flights: u8,
    pub(crate) to_send: VecDeque<Vec<u8>>,
}

impl Tail {
    /// Of a finished handshake. `flight`: what we sent at its end; `next`: sequence number of our next record. `None`: its
    /// cipher is not AES-GCM.
    pub(crate) fn new(ssl: &SslRef, active: bool, flight: Vec<Vec<u8>>, next: u64) -> Option<Self> {
        let name = ssl.current_cipher()?.name();
        let (cipher, digest) = match name {
            _ if name.ends_with("AES128-GCM-SHA256") => (Cipher::aes_128_gcm(), MessageDigest::sha256()),
            _ if name.ends_with("AES256-GCM-SHA384") => (Cipher::aes_256_gcm(), MessageDigest::sha384()),
            _ => return None,
        };
        let session = ssl.session()?;
        let mut secret = Zeroizing::new(vec![0; session.master_key_len()]);
        session.master_key(&mut secret);
        let (mut client, mut server) = ([0; 32], [0; 32]);
        if ssl.client_random(&mut client) != client.len() || ssl.server_random(&mut server) != server.len() {
            return None;
        }
        let len = cipher.key_len();
        let block =
            expand(&secret, &[b"key expansion", &server[..], &client[..]].concat(), digest, 2 * len + 8).ok()?;
        let of = |place: usize| {
            let salt = *block.get(2 * len + 4 * place..)?.first_chunk()?;
            Some(Protection { cipher, key: Zeroizing::new(block.get(place * len..(place + 1) * len)?.to_vec()), salt })
        };
        let (client, server) = (of(0)?, of(1)?);
        let (reads, writes) = if active { (server, client) } else { (client, server) };
        Some(Self { reads, writes, next, flight, flights: 0, to_send: VecDeque::new() })
    }

    /// Takes a datagram. `true`: the peer has closed.
    pub(crate) fn receive(&mut self, mut datagram: &[u8]) -> bool {
        while let Some(len) = datagram.get(11..HEADER) {
            let len = HEADER + usize::from(u16::from_be_bytes([len[0], len[1]]));
            let Some((record, rest)) = datagram.split_at_checked(len) else { return false };
            datagram = rest;
            match (record[0], self.reads.open(record)) {
                (ALERT, Some(alert)) if alert == CLOSE_NOTIFY || alert.first() == Some(&FATAL) => return true,
                // Its Finished once more: ours has not come.
                (HANDSHAKE, Some(_)) if self.flights < MOST_FLIGHTS => {
                    self.flights += 1;
                    self.to_send.extend(self.flight.iter().cloned());
                }
                _ => {}
            }
        }
        false
    }

    /// Sends close_notify.
    pub(crate) fn close(&mut self) {
        if let Ok(record) = self.writes.seal(self.next, ALERT, &CLOSE_NOTIFY) {
            self.next += 1;
            self.to_send.push_back(record);
        }
    }
}

/// P_hash of RFC 5246 §5.
fn expand(secret: &[u8], seed: &[u8], digest: MessageDigest, len: usize) -> Result<Zeroizing<Vec<u8>>, ErrorStack> {
    let key = PKey::hmac(secret)?;
    let hmac = |parts: &[&[u8]]| {
        let mut signer = Signer::new(digest, &key)?;
        parts.iter().try_for_each(|part| signer.update(part))?;
        signer.sign_to_vec()
    };
    let (mut state, mut output) = (hmac(&[seed])?, Zeroizing::new(Vec::with_capacity(len + 64)));
    while output.len() < len {
        output.extend(hmac(&[&state, seed])?);
        state = hmac(&[&state])?;
    }
    Ok(output)
}
