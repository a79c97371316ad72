//! `[hooks]`: whom what happens is told.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Secret, rights::url_problem};

/// Events that may be told.
const EVENTS: [&str; 5] = ["stream_ready", "stream_gone", "session_opened", "session_connected", "session_closed"];

/// A receiver of webhooks, and commands.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Hooks {
    /// Where news go by HTTP; empty: nowhere.
    pub url: String,
    /// Key of their signatures; empty: they have none.
    pub secret: Secret,
    /// Which of them.
    pub events: Vec<String>,
    /// Longest wait for an answer.
    pub timeout_ms: u64,
    /// News that may wait for a receiver that does not answer.
    pub queue: usize,
    /// How long the same is tried.
    pub give_up_s: u64,
    /// Command for each stream that can be watched from now on.
    pub run_on_stream_ready: String,
    /// Command for each stream that cannot be any more.
    pub run_on_stream_gone: String,
    /// Command for each session that begins.
    pub run_on_session_opened: String,
    /// Command for each session that is over.
    pub run_on_session_closed: String,
}

impl Default for Hooks {
    fn default() -> Self {
        Self {
            url: String::new(),
            secret: Secret::default(),
            events: EVENTS.map(str::to_owned).to_vec(),
            timeout_ms: 5000,
            queue: 256,
            give_up_s: 600,
            run_on_stream_ready: String::new(),
            run_on_stream_gone: String::new(),
            run_on_session_opened: String::new(),
            run_on_session_closed: String::new(),
        }
    }
}

impl Hooks {
    /// Whether the server starts programs.
    pub fn runs_commands(&self) -> bool {
        let commands = [
            &self.run_on_stream_ready,
            &self.run_on_stream_gone,
            &self.run_on_session_opened,
            &self.run_on_session_closed,
        ];
        commands.iter().any(|command| !command.is_empty())
    }

    /// [`timeout_ms`](Self::timeout_ms) as a duration.
    pub fn timeout(&self) -> Duration {
        Duration::from_millis(self.timeout_ms)
    }

    /// The command for an event; empty: none.
    pub fn command(&self, event: &str) -> &str {
        match event {
            "stream_ready" => &self.run_on_stream_ready,
            "stream_gone" => &self.run_on_stream_gone,
            "session_opened" => &self.run_on_session_opened,
            "session_closed" => &self.run_on_session_closed,
            _ => "",
        }
    }

    /// Whether anybody is told anything.
    pub fn is_on(&self) -> bool {
        !self.url.is_empty() || EVENTS.iter().any(|event| !self.command(event).is_empty())
    }

    pub(super) fn problem(&self) -> Option<(&'static str, String)> {
        if !self.url.is_empty()
            && let Some(problem) = url_problem(&self.url)
        {
            return Some(("hooks.url", problem));
        }
        let unknown = self.events.iter().find(|event| !EVENTS.contains(&event.as_str()))?;
        Some(("hooks.events", format!("{unknown:?} is none of {}", EVENTS.join(", "))))
    }
}
