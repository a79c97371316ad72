//! What of a peer's handshake the DTLS stack gets, while nothing of it is encrypted.
//!
//! Whoever can send from the peer's address, which UDP does not check, could end a handshake by one record: an alert, a
//! ClientHello or a certificate of his own, a fragment, a number that shuts the replay window. A stack takes the first
//! of each message that comes, and what it has taken stays. So it gets nothing from the line before that is known to
//! be of the peer: messages are put together here, in as many versions as come, and the stack gets the one that the
//! peer's certificate, of which the offer has the fingerprint, has signed (decision 47).
//!
//! | file | does |
//! | --- | --- |
//! | `message` | records and messages |
//! | `versions` | fragments, put together |
//! | `hello` | ClientHellos |
//! | `signature` | certificates, and what they have signed |
//! | `server` | the peer is the client |
//! | `client` | the peer is the server |

mod client;
mod hello;
mod message;
mod server;
mod signature;
mod versions;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use self::client::Client;
use self::message::{CHANGE_CIPHER_SPEC, HANDSHAKE};
use self::server::Server;
use crate::sdp::Fingerprint;

/// Sealed records that came before the stack can open them; the oldest goes.
const SEALED: usize = 8;
/// Bytes of a Finished, sealed: by ChaCha20-Poly1305, by AES-GCM, and in CBC mode with its different hashes. OpenSSL ends
/// a handshake at a length that cannot be.
const FINISHED: [usize; 6] = [40, 48, 64, 68, 80, 96];
/// Signatures that are looked at in a second: some 100 µs each.
const SIGNATURES: u32 = 200;

/// For the stack, in this order, each as a datagram.
pub(crate) type ForStack = Vec<Vec<u8>>;

/// What of each second is left.
struct Budget {
    since: Instant,
    left: u32,
    most: u32,
}

impl Budget {
    const fn new(now: Instant, most: u32) -> Self {
        Self { since: now, left: most, most }
    }

    fn take(&mut self, now: Instant) -> bool {
        if now.duration_since(self.since) >= Duration::from_secs(1) {
            (self.since, self.left) = (now, self.most);
        }
        let taken = self.left > 0;
        self.left = self.left.saturating_sub(1);
        taken
    }
}

/// What both roles have.
struct Common {
    expected: Box<[Fingerprint]>,
    signatures: Budget,
    /// Number of the next record in the clear for the stack.
    next: u64,
    /// The handshake has chosen a cipher that seals records of any length, as all do but those in CBC mode.
    aead: Option<bool>,
    /// What was not used, and the last reason.
    ignored: u32,
    trouble: Option<&'static str>,
}

impl Common {
    fn ignore(&mut self, why: &'static str) {
        self.ignored = self.ignored.saturating_add(1);
        self.trouble = Some(why);
    }

    /// A ServerHello counts.
    fn choose(&mut self, hello: &[u8]) {
        let session = hello.get(34).map_or(0, |len| usize::from(*len));
        let suite = hello.get(35 + session..37 + session);
        // ECDHE with AES-GCM (RFC 5289) or ChaCha20-Poly1305 (RFC 7905).
        self.aead = Some(matches!(suite, Some([0xc0, 0x2b | 0x2c | 0x2f | 0x30] | [0xcc, 0xa8 | 0xa9])));
    }

    fn may_be_finished(&self, len: usize) -> bool {
        match self.aead {
            None => true,
            Some(true) => [40, 48].contains(&len),
            Some(false) => len > 48,
        }
    }

    /// The peer changes to its keys: it says nothing by that which could be forged, so it is said in its place.
    fn change_cipher_spec(&mut self) -> Vec<u8> {
        self.next += 1;
        message::record(CHANGE_CIPHER_SPEC, self.next - 1, &[1])
    }
}

enum Role {
    Server(Server),
    Client(Client),
}

/// See the module. From the begin of a handshake until it is complete.
pub(crate) struct Handshake {
    common: Common,
    role: Role,
    sealed: VecDeque<Vec<u8>>,
    /// How many have come.
    datagrams: u64,
}

impl Handshake {
    /// `active`: we are the client. `expected`: digests of the peer's certificate.
    pub(crate) fn new(active: bool, expected: &[Fingerprint], now: Instant) -> Self {
        Self {
            common: Common {
                expected: expected.into(),
                signatures: Budget::new(now, SIGNATURES),
                next: 0,
                aead: None,
                ignored: 0,
                trouble: None,
            },
            role: if active { Role::Client(Client::new()) } else { Role::Server(Server::new(now)) },
            sealed: VecDeque::new(),
            datagrams: 0,
        }
    }

    /// Takes a datagram from the peer's address. What the stack gets.
    pub(crate) fn receive(&mut self, now: Instant, datagram: &[u8]) -> ForStack {
        let mut given = vec![];
        self.datagrams += 1;
        for record in message::records(datagram) {
            match (record.epoch, record.kind) {
                (0, HANDSHAKE) => {
                    for fragment in message::fragments(record.content, self.datagrams) {
                        given.extend(match &mut self.role {
                            Role::Server(server) => server.take(&mut self.common, now, &fragment),
                            Role::Client(client) => client.take(&mut self.common, now, &fragment),
                        });
                    }
                }
                (0, CHANGE_CIPHER_SPEC) => {}
                (1, HANDSHAKE) if FINISHED.contains(&record.content.len()) => {
                    if self.sealed.len() == SEALED {
                        self.sealed.pop_front();
                    }
                    self.sealed.push_back(record.bytes.to_vec());
                }
                _ => self.common.ignore("an alert in the clear, or what has no place in a handshake"),
            }
        }
        self.sealed.retain(|record| self.common.may_be_finished(record.len() - message::RECORD_HEADER));
        if self.has_given_all() && !self.sealed.is_empty() {
            if let Role::Client(client) = &mut self.role
                && client.is_to_change()
            {
                given.push(self.common.change_cipher_spec());
            }
            given.extend(self.sealed.drain(..));
        }
        given
    }

    /// The stack has all that comes in the clear, of the peer itself.
    pub(crate) fn has_given_all(&self) -> bool {
        match &self.role {
            Role::Server(server) => server.has_given_all(),
            Role::Client(client) => client.has_given_all(),
        }
    }

    /// Has a stack begun that has a peer?
    pub(crate) fn has_begun(&self) -> bool {
        match &self.role {
            Role::Server(server) => server.has_hello(),
            Role::Client(_) => true,
        }
    }

    /// As server: a ClientHello has come, and there is no cookie to ask for yet.
    pub(crate) fn wants_cookie(&self) -> bool {
        matches!(&self.role, Role::Server(server) if server.wants_cookie())
    }

    /// What a stack is given to show its HelloVerifyRequest.
    pub(crate) fn ask_for_cookie(&mut self) -> ForStack {
        self.common.next = 0;
        message::datagrams(message::CLIENT_HELLO, 0, hello::OF_NOBODY, &mut self.common.next)
    }

    /// The stack sends this. Whether it may go out.
    pub(crate) fn sent(&mut self, datagram: &[u8]) -> bool {
        match &mut self.role {
            Role::Server(server) => server.sent(datagram),
            Role::Client(client) => client.sent(datagram),
        }
    }

    /// What is sent without a stack.
    pub(crate) fn reply(&mut self) -> Option<Vec<u8>> {
        match &mut self.role {
            Role::Server(server) => server.reply(),
            Role::Client(_) => None,
        }
    }

    /// As server: the stack has failed at what the client wants, and another one begins.
    pub(crate) fn begin_anew(&mut self, now: Instant) {
        if let Role::Server(server) = &mut self.role {
            *server = Server::new(now);
        }
    }

    /// What was not used last, and how many they were.
    pub(crate) fn trouble(&self) -> Option<(&'static str, u32)> {
        self.common.trouble.map(|trouble| (trouble, self.common.ignored))
    }
}

/// What of a datagram the stack gets when the handshake is complete: what is sealed. `repeats`: the stack sends its last
/// messages again when it hears the client's in the clear, and does nothing else with them.
pub(crate) fn behind(datagram: &[u8], repeats: bool) -> Vec<u8> {
    let kept = message::records(datagram).filter(|record| record.epoch == 1 || repeats && record.kind == HANDSHAKE);
    kept.flat_map(|record| record.bytes.iter().copied()).collect()
}
