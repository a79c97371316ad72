//! What happens to sessions and streams, for whoever listens: hooks, and the API's event stream.

use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;
use tokio::sync::broadcast;

use penstock_engine::Role;

/// Notices that a listener may be behind; what is older is lost to it, and it is told how many.
const BEHIND: usize = 256;

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Notice {
    /// Milliseconds since 1970.
    pub time_ms: u64,
    /// Of which stream.
    pub stream: String,
    /// What.
    #[serde(flatten)]
    pub what: What,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum What {
    /// The stream can be watched.
    StreamReady,
    /// It cannot be any more.
    StreamGone,
    /// An offer was answered.
    SessionOpened {
        /// As log and API show it.
        session: String,
        /// Publisher or subscriber.
        role: Role,
        /// By what right.
        by: String,
    },
    /// Its keys are there, and media may flow.
    SessionConnected {
        /// As log and API show it.
        session: String,
        /// Publisher or subscriber.
        role: Role,
    },
    /// It is over.
    SessionClosed {
        /// As log and API show it.
        session: String,
        /// Publisher or subscriber.
        role: Role,
        /// Why, in words.
        reason: String,
    },
}

impl What {
    /// As it is called in JSON.
    pub fn name(&self) -> &'static str {
        match self {
            Self::StreamReady => "stream_ready",
            Self::StreamGone => "stream_gone",
            Self::SessionOpened { .. } => "session_opened",
            Self::SessionConnected { .. } => "session_connected",
            Self::SessionClosed { .. } => "session_closed",
        }
    }
}

/// Tells whoever listens. Cheap to clone, and to use while nobody does.
#[derive(Clone, Debug)]
pub(super) struct Notices(broadcast::Sender<Notice>);

impl Notices {
    pub(super) fn new() -> Self {
        Self(broadcast::Sender::new(BEHIND))
    }

    pub(super) fn listen(&self) -> broadcast::Receiver<Notice> {
        self.0.subscribe()
    }

    #[expect(clippy::disallowed_methods, reason = "the time of day, for people and other hosts")]
    pub(super) fn tell(&self, stream: &str, what: What) {
        if self.0.receiver_count() > 0 {
            let time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            let _ = self.0.send(Notice { time_ms: time.as_millis() as u64, stream: stream.to_owned(), what });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_flat() {
        let what = What::SessionClosed { session: "a1".into(), role: Role::Publisher, reason: "it went".into() };
        let notice = Notice { time_ms: 7, stream: "cam".into(), what };
        let json = serde_json::to_value(&notice).unwrap();
        assert_eq!(json["event"], "session_closed");
        assert_eq!((&json["stream"], &json["session"], &json["time_ms"]), (&"cam".into(), &"a1".into(), &7.into()));
        assert_eq!(json["event"], notice.what.name());
    }
}
