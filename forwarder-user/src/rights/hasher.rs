//! Passwords by their Argon2id hash. A check costs tens of milliseconds and megabytes, on purpose: one thread makes one
//! after the other, those beyond a queue are refused, and what was right is known for a while.

use std::{
    collections::HashMap,
    sync::{
        Mutex, OnceLock, PoisonError,
        mpsc::{SyncSender, sync_channel},
    },
    thread,
    time::{Duration, Instant},
};

use argon2::{
    Argon2,
    password_hash::{PasswordVerifier as _, phc::PasswordHash},
};
use ring::{hmac, rand::SystemRandom};
use tokio::sync::oneshot;

use super::Denied;
use crate::config::Secret;

/// Checks that may wait for the thread.
const QUEUE: usize = 16;
/// How long a password that was right is known to be.
const KNOWN_FOR: Duration = Duration::from_secs(60);
/// Such passwords.
const MOST_KNOWN: usize = 1024;

/// A check that waits.
struct Work {
    hash: String,
    password: Secret,
    reply: oneshot::Sender<bool>,
}

/// See the module. Its thread begins with the first check.
#[derive(Default)]
pub(super) struct Hasher {
    thread: OnceLock<Option<SyncSender<Work>>>,
    /// What was right lately, by a MAC of hash and password under a key that nobody knows.
    known: Mutex<HashMap<[u8; 32], Instant>>,
    key: OnceLock<Option<hmac::Key>>,
}

impl Hasher {
    /// Is it the password of this hash?
    ///
    /// # Errors
    /// [`Denied::Unknown`]: too many want to know.
    pub(super) async fn check(&self, hash: &str, password: &Secret) -> Result<bool, Denied> {
        let mac = self.mac(hash, password);
        if let Some(mac) = &mac
            && self.is_known(mac, Instant::now())
        {
            return Ok(true);
        }
        let (reply, answer) = oneshot::channel();
        let work = Work { hash: hash.to_owned(), password: password.clone(), reply };
        let sent = self.thread.get_or_init(start).as_ref().is_some_and(|thread| thread.try_send(work).is_ok());
        let busy = Denied::Unknown("too many passwords are being checked: try again soon");
        if !sent {
            return Err(busy);
        }
        let right = answer.await.map_err(|_| busy)?;
        if right && let Some(mac) = mac {
            self.remember(mac, Instant::now());
        }
        Ok(right)
    }

    fn mac(&self, hash: &str, password: &Secret) -> Option<[u8; 32]> {
        let key = self.key.get_or_init(|| hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new()).ok());
        let mut context = hmac::Context::with_key(key.as_ref()?);
        // A hash has no NUL in it.
        [hash.as_bytes(), &[0], password.expose().as_bytes()].into_iter().for_each(|part| context.update(part));
        context.sign().as_ref().try_into().ok()
    }

    fn is_known(&self, mac: &[u8; 32], now: Instant) -> bool {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(mac).is_some_and(|until| now < *until)
    }

    fn remember(&self, mac: [u8; 32], now: Instant) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= MOST_KNOWN {
            known.retain(|_, until| now < *until);
        }
        if known.len() < MOST_KNOWN {
            known.insert(mac, now + KNOWN_FOR);
        }
    }
}

fn start() -> Option<SyncSender<Work>> {
    let (sender, work) = sync_channel::<Work>(QUEUE);
    let run = move || {
        while let Ok(Work { hash, password, reply }) = work.recv() {
            // Whoever has gone needs no answer.
            if !reply.is_closed() {
                let _ = reply.send(is_right(&hash, &password));
            }
        }
    };
    let started = thread::Builder::new().name("penstock-hash".into()).spawn(run);
    started.inspect_err(|error| tracing::error!("no thread for passwords: {error}")).ok().map(|_| sender)
}

/// The comparison is constant in time.
fn is_right(hash: &str, password: &Secret) -> bool {
    PasswordHash::new(hash)
        .is_ok_and(|hash| Argon2::default().verify_password(password.expose().as_bytes(), &hash).is_ok())
}
