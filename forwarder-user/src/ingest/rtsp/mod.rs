//! RTSP: `connection` cuts bytes into messages and frames; `dial` and `client` are the way to a camera,
//! `push` is the server for those that publish here, `play` for those that play; `track` takes the media out of either's connection.

pub(super) mod client;
pub(super) mod connection;
mod dial;
mod play;
pub(super) mod push;
mod track;

use std::time::Duration;

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

/// Value of `name=value` among parts separated by semicolons.
fn parameter<'a>(value: &'a str, name: &str) -> Option<&'a str> {
    value.split(';').find_map(|part| {
        let (key, value) = part.split_once('=')?;
        key.trim().eq_ignore_ascii_case(name).then(|| value.trim())
    })
}
