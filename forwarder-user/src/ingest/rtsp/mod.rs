//! RTSP: `connection` cuts bytes into messages and frames; `dial` and `client` are the way to a camera, `setup` asks
//! for its tracks, `playing` is what follows, `credentials` answers its challenges, `redirect` says where it may send
//! us; `push` is the server for those that publish here, `play` for those that play; `track` takes the media out of
//! either's connection; `answer` is what both say; `outside` is for `tests/fuzz`.

mod answer;
pub(super) mod client;
pub(super) mod connection;
mod credentials;
mod dial;
pub mod outside;
mod play;
mod playing;
pub(super) mod push;
pub(super) mod redirect;
mod setup;
mod track;

use std::time::Duration;

use openssl::hash::{MessageDigest, hash};
use ring::rand::{SecureRandom as _, SystemRandom};
use tokio::time::timeout;

/// For a TLS handshake.
const PATIENCE: Duration = Duration::from_secs(5);

/// Waits for a TLS handshake. `Err`: why there is none.
async fn handshake<T, E: std::fmt::Display>(shaking: impl Future<Output = Result<T, E>>) -> Result<T, String> {
    match timeout(PATIENCE, shaking).await {
        Ok(shaken) => shaken.map_err(|error| error.to_string()),
        Err(_) => Err("no answer in time".into()),
    }
}

/// A digest in hexadecimal. `None`: the system forbids it.
fn digest_hex(kind: MessageDigest, text: &[u8]) -> Option<String> {
    let digest = hash(kind, text).ok()?;
    Some(digest.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Random bytes, if the system has any.
fn random<const N: usize>() -> Option<[u8; N]> {
    let mut bytes = [0u8; N];
    SystemRandom::new().fill(&mut bytes).ok().map(|()| bytes)
}

/// Random bytes in hexadecimal. Empty, which is good for nothing, if the system has none.
fn random_hex() -> String {
    random::<16>().into_iter().flatten().map(|byte| format!("{byte:02x}")).collect()
}
