//! RTSP: `connection` cuts bytes into messages and frames; `dial` and `client` are the way to a camera,
//! `push` is the server for those that publish here; `track` takes the media out of either's connection.

pub mod client;
pub mod connection;
mod dial;
pub mod push;
mod track;

/// Value of `name=value` among parts separated by semicolons.
fn parameter<'a>(value: &'a str, name: &str) -> Option<&'a str> {
    value.split(';').find_map(|part| {
        let (key, value) = part.split_once('=')?;
        key.trim().eq_ignore_ascii_case(name).then(|| value.trim())
    })
}
