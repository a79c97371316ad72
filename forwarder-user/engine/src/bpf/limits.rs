//! How large the maps are.

use forwarder_common::maps::MAX_COPIES;

use super::StartError;
use crate::slots::MAX_SLOTS;

/// Sizes of the maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Publishers and viewers together, each with a key, a lease and a path.
    pub sessions: usize,
    /// Incoming SSRCs.
    pub publisher_tracks: usize,
    /// Outgoing SSRCs.
    pub subscriber_tracks: usize,
    /// Subscribers of one incoming SSRC, at most [`MAX_COPIES`].
    pub viewers_per_stream: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { sessions: 1024, publisher_tracks: 256, subscriber_tracks: 2048, viewers_per_stream: MAX_COPIES }
    }
}

impl Limits {
    /// # Errors
    /// [`StartError::Limit`] names the key.
    pub fn check(&self) -> Result<(), StartError> {
        let table = |key, value, most| {
            if (1..=most).contains(&value) { Ok(()) } else { Err(StartError::Limit { key, value, most }) }
        };
        table("sessions", self.sessions, MAX_SLOTS / 2)?;
        table("publisher_tracks", self.publisher_tracks, MAX_SLOTS / 4)?;
        table("subscriber_tracks", self.subscriber_tracks, MAX_SLOTS)?;
        table("viewers_per_stream", self.viewers_per_stream, MAX_COPIES)
    }
}
