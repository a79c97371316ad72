//! What all parts of Penstock call media by: audio and video, who sends and who plays, codecs, SRTP profiles and
//! their keys. No protocol, no socket.

pub mod codec;
mod key;
pub mod prefetch;

pub use key::{MediaKey, Profile};

/// Which way the media of a session flows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Sends to us (WHIP). The engine needs the key that opens.
    Publisher,
    /// Receives from us (WHEP). The engine needs the key that seals.
    Subscriber,
}

/// Audio or video.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Its viewers can begin at any packet.
    Audio,
    /// Viewers begin at a keyframe, which is asked for or kept.
    Video,
}
