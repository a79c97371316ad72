//! Streams: who publishes, who plays. The handle by which HTTP talks to the control task.

mod allowance;
mod budget;
mod clock;
mod config;
mod counters;
mod half_open;
mod ids;
mod keyframe;
mod notice;
mod owners;
mod players;
mod pulse;
mod report;
mod resend;
mod session;
mod sessions;
mod sockets;
mod strays;
mod streams;
mod task;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{broadcast, mpsc, oneshot};
use tokio::task::JoinHandle;

pub use config::{LiveConfig, MediaAddress, StreamConfig, TcpPort};
use notice::Notices;
pub use notice::{Notice, What};
use pulse::Pulse;

use crate::rights::Grant;
use penstock_engine::block::Block;
use penstock_engine::{Engine, Event, Role};
use penstock_webrtc::sdp::{Fragment, Offer};

/// Texts up to so many bytes are read at once. A browser's offer has 3 to 10 KB.
const SHORT: usize = 16 * 1024;

/// Commands that may wait for the control task before a sender has to.
const COMMAND_QUEUE: usize = 256;

/// Answer to who wants to begin while sessions are refused.
const DRAINING: &str = "the server is being drained: it takes no new sessions";

/// Binds the media sockets and starts the control task on the current tokio runtime. `events` is
/// the receiving end of the [`penstock_engine::Events`] that the engine was given.
///
/// The task ends after [`Control::drain`], or when the last [`Control`] is gone.
///
/// # Errors
/// A socket cannot be bound; the error names its address.
pub fn spawn(
    config: StreamConfig,
    engine: Arc<dyn Engine>,
    events: mpsc::UnboundedReceiver<Event>,
) -> std::io::Result<(Control, JoinHandle<()>)> {
    let (sender, commands) = mpsc::channel(COMMAND_QUEUE);
    let control = Control::new(sender);
    let mut task = task::Task::new(config, engine)?;
    task.notices = control.notices.clone();
    let pulse = control.pulse.clone();
    Ok((control, tokio::spawn(task.run(commands, events, pulse))))
}

/// Answer to a WHIP or WHEP offer.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Session id, unguessable: the last segment of the `Location`.
    pub session: String,
    /// SDP answer.
    pub sdp: String,
    /// Entity tag of the ICE session, without quotes (RFC 9725 §4.3.1).
    pub etag: String,
    /// What a viewer gets not, and what it can do about it; the rest plays.
    pub note: Option<String>,
}

/// What a PATCH did (RFC 9725 §4.3).
#[derive(Clone, Debug)]
pub enum Patched {
    /// Candidates taken: 204.
    Trickled,
    /// ICE restarted: 200 with our fragment and the new entity tag.
    Restarted {
        /// Our new credentials, as `application/trickle-ice-sdpfrag`.
        fragment: String,
        /// Without quotes.
        etag: String,
    },
}

/// Why signalling was refused. The text is for the person at the other end.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Refusal {
    /// 400: the SDP or fragment cannot be parsed, or is not an offer.
    #[error("{0}")]
    Malformed(String),
    /// 404: no such session.
    #[error("{0}")]
    NotFound(String),
    /// 406: nothing in a viewer's offer by which it could play the stream (codec, direction, media).
    #[error("{0}")]
    NotAcceptable(String),
    /// 422: a publisher's offer that we cannot carry, or not all of it (RFC 9725 §4.4.2, §4.4.3).
    #[error("{0}")]
    Unprocessable(String),
    /// 409: the stream has a publisher already.
    #[error("{0}")]
    Conflict(String),
    /// 409, and when to ask again: nobody publishes the stream (draft-ietf-wish-whep §4.3).
    #[error("{0}")]
    NobodyPublishes(String),
    /// 412: `If-Match` names another ICE session.
    #[error("{0}")]
    PreconditionFailed(String),
    /// 428: a PATCH that restarts ICE needs `If-Match`.
    #[error("{0}")]
    PreconditionRequired(String),
    /// 503: a table is full, or the server is draining. Try again later.
    #[error("{0}")]
    Unavailable(String),
}

impl Refusal {
    /// A name for it, for counts.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Malformed(_) => "malformed",
            Self::NotFound(_) => "not_found",
            Self::NotAcceptable(_) => "not_acceptable",
            Self::Unprocessable(_) => "unprocessable",
            Self::Conflict(_) => "conflict",
            Self::NobodyPublishes(_) => "nobody_publishes",
            Self::PreconditionFailed(_) => "precondition_failed",
            Self::PreconditionRequired(_) => "precondition_required",
            Self::Unavailable(_) => "unavailable",
        }
    }
}

/// What somebody wants who has sent a text that nobody has read yet.
#[derive(Clone, Debug)]
pub enum Request {
    /// An offer, for a session that is to be.
    Open {
        /// Publisher by WHIP, subscriber by WHEP.
        role: Role,
        /// From the URL, checked already.
        stream: String,
        /// Who wants it.
        from: Block,
    },
    /// A fragment, for one that is.
    Change {
        /// Last segment of the `Location`.
        session: String,
        /// Must be the session's own, else there is none of this name.
        role: Role,
        /// Must be the session's own, else there is none of this name.
        stream: String,
    },
}

/// Who opens a session.
#[derive(Clone, Debug)]
pub struct Visitor {
    /// Whose share of the half-open sessions it takes.
    pub from: Block,
    /// By what right.
    pub grant: Grant,
}

impl From<Block> for Visitor {
    /// Where nobody needs a right.
    fn from(from: Block) -> Self {
        Self { from, grant: Grant::everybody() }
    }
}

/// Commands to the control task.
#[derive(Debug)]
pub enum Command {
    /// Whether an offer or a fragment is worth reading.
    Admit {
        /// What is known of it without reading.
        request: Request,
        /// `Ok`: it is.
        reply: oneshot::Sender<Result<(), Refusal>>,
    },
    /// An offer as read, or why it cannot be.
    Offer {
        /// Publisher by WHIP, subscriber by WHEP.
        role: Role,
        /// From the URL, checked already.
        stream: String,
        /// Who opens it.
        visitor: Visitor,
        /// Read by whoever took it.
        offer: Result<Box<Offer>, String>,
        /// Answered when the session is there, or why it is not.
        reply: oneshot::Sender<Result<Answer, Refusal>>,
    },
    /// Trickle or ICE restart (RFC 9725 §4.3).
    Patch {
        /// Last segment of the `Location`.
        session: String,
        /// Must be the session's own, else there is none of this name.
        role: Role,
        /// Must be the session's own, else there is none of this name.
        stream: String,
        /// Entity tag without quotes, or `*`; `None`: no `If-Match`.
        if_match: Option<String>,
        /// Read by whoever took it.
        fragment: Result<Fragment, String>,
        /// What a restart answers.
        reply: oneshot::Sender<Result<Patched, Refusal>>,
    },
    /// The client ends its session (RFC 9725 §4.2).
    Delete {
        /// Last segment of the `Location`.
        session: String,
        /// Must be the session's own, else there is none of this name.
        role: Role,
        /// Must be the session's own, else there is none of this name.
        stream: String,
        /// Answered when the engine has been told to stop.
        reply: oneshot::Sender<Result<(), Refusal>>,
    },
    /// One session, for whoever has it.
    View {
        /// Last segment of the `Location`.
        session: String,
        /// `None`: there is no such session.
        reply: oneshot::Sender<Option<serde_json::Value>>,
    },
    /// Somebody else than its client ends a session.
    Kick {
        /// Its name, or its whole id.
        session: String,
        /// In words, for the log.
        why: String,
        /// Whether there was one.
        reply: oneshot::Sender<bool>,
    },
    /// Somebody else than its publisher ends a stream, by WHIP or RTSP.
    EndPublisher {
        /// Its name.
        stream: String,
        /// Whether somebody published it.
        reply: oneshot::Sender<bool>,
    },
    /// State of all streams and sessions, as the API shows it.
    Snapshot {
        /// Of one moment: nothing changes while it is made.
        reply: oneshot::Sender<serde_json::Value>,
    },
    /// New settings, for what comes later.
    Configure {
        /// Replace the former ones; sessions that are there go on.
        live: LiveConfig,
        /// By stream: all that there shall be. Others end.
        sources: BTreeMap<String, crate::config::Stream>,
        /// Answered when the new values hold.
        reply: oneshot::Sender<()>,
    },
    /// Local addresses for media, as the host has them now.
    Addresses {
        /// All of them; others are no longer offered.
        media: Vec<MediaAddress>,
        /// Answered when new ones are bound.
        reply: oneshot::Sender<()>,
    },
    /// Close every session (DTLS close_notify), then stop.
    Drain {
        /// Answered when no session is left.
        reply: oneshot::Sender<()>,
    },
}

/// Handle to the control task. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Control {
    commands: mpsc::Sender<Command>,
    pulse: Pulse,
    notices: Notices,
}

impl Control {
    pub(crate) fn new(commands: mpsc::Sender<Command>) -> Self {
        Self { commands, pulse: Pulse::new(), notices: Notices::new() }
    }

    /// What happens from now on.
    pub fn listen(&self) -> broadcast::Receiver<Notice> {
        self.notices.listen()
    }

    /// Whether new sessions are refused. Those that are there go on.
    pub fn is_draining(&self) -> bool {
        self.pulse.is_draining()
    }

    /// Refuses new sessions from now on, or takes them again.
    pub fn refuse_sessions(&self, refuse: bool) {
        self.pulse.tell_draining(refuse);
    }

    /// Texts are read here, in the task of whoever sent them, and only after it is known that there is room for
    /// what they may ask for.
    async fn admit(&self, request: Request) -> Result<(), Refusal> {
        if self.is_draining() && matches!(request, Request::Open { .. }) {
            return Err(Refusal::Unavailable(DRAINING.into()));
        }
        self.ask(|reply| Command::Admit { request, reply }).await.unwrap_or_else(stopped)
    }

    /// Is there such a session?
    ///
    /// # Errors
    /// [`Refusal::NotFound`].
    pub async fn is_there(&self, role: Role, stream: String, session: String) -> Result<(), Refusal> {
        self.admit(Request::Change { session, role, stream }).await
    }

    async fn ask<T>(&self, make: impl FnOnce(oneshot::Sender<T>) -> Command) -> Option<T> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(make(reply)).await.ok()?;
        answer.await.ok()
    }

    /// Opens a session: `Role::Publisher` for WHIP, `Role::Subscriber` for WHEP.
    ///
    /// # Errors
    /// [`Refusal`], with a reason for people.
    pub async fn offer(
        &self,
        role: Role,
        stream: String,
        visitor: impl Into<Visitor>,
        sdp: String,
    ) -> Result<Answer, Refusal> {
        let visitor = visitor.into();
        self.admit(Request::Open { role, stream: stream.clone(), from: visitor.from }).await?;
        let offer = apart(sdp, |sdp| Offer::parse(sdp).map(Box::new)).await;
        self.ask(|reply| Command::Offer { role, stream, visitor, offer, reply }).await.unwrap_or_else(stopped)
    }

    /// Trickle or ICE restart. `if_match` is the entity tag without quotes, or `*`.
    ///
    /// # Errors
    /// [`Refusal`], with a reason for people.
    pub async fn patch(
        &self,
        role: Role,
        stream: String,
        session: String,
        if_match: Option<String>,
        fragment: String,
    ) -> Result<Patched, Refusal> {
        self.admit(Request::Change { session: session.clone(), role, stream: stream.clone() }).await?;
        let fragment = apart(fragment, Fragment::parse).await;
        self.ask(|reply| Command::Patch { session, role, stream, if_match, fragment, reply })
            .await
            .unwrap_or_else(stopped)
    }

    /// Closes a session.
    ///
    /// # Errors
    /// [`Refusal::NotFound`].
    pub async fn delete(&self, role: Role, stream: String, session: String) -> Result<(), Refusal> {
        self.ask(|reply| Command::Delete { session, role, stream, reply }).await.unwrap_or_else(stopped)
    }

    /// What the owner of a session may know of it; `None`: there is none, or all are ending.
    pub async fn view(&self, session: String) -> Option<serde_json::Value> {
        self.ask(|reply| Command::View { session, reply }).await.flatten()
    }

    /// Ends somebody's session, which is named as log and API do, or by its whole id. `false`: there is none.
    pub async fn kick(&self, session: String, why: String) -> bool {
        self.ask(|reply| Command::Kick { session, why, reply }).await.unwrap_or(false)
    }

    /// Ends whoever publishes a stream, by WHIP or RTSP. `false`: nobody does.
    pub async fn end_publisher(&self, stream: String) -> bool {
        self.ask(|reply| Command::EndPublisher { stream, reply }).await.unwrap_or(false)
    }

    /// Since the control task last went round its loop, which it does once a second at least. `None`: it has stopped.
    pub fn silence(&self) -> Option<Duration> {
        (!self.commands.is_closed()).then(|| self.pulse.age(Instant::now()))
    }

    /// Whether this host has an address for media, as far as the control task knows.
    pub fn is_reachable(&self) -> bool {
        self.pulse.is_reachable()
    }

    /// State of all streams and sessions; `None` while stopping.
    pub async fn snapshot(&self) -> Option<serde_json::Value> {
        self.ask(|reply| Command::Snapshot { reply }).await
    }

    /// Changes what may be changed while the server runs.
    pub async fn configure(&self, live: LiveConfig, sources: BTreeMap<String, crate::config::Stream>) {
        let _ = self.ask(|reply| Command::Configure { live, sources, reply }).await;
    }

    /// The host has other addresses than before: new ones are offered to sessions to come, those that are gone are not.
    pub async fn addresses(&self, media: Vec<MediaAddress>) {
        let _ = self.ask(|reply| Command::Addresses { media, reply }).await;
    }

    /// Closes everything and stops the control task.
    pub async fn drain(&self) {
        let _ = self.ask(|reply| Command::Drain { reply }).await;
    }
}

/// Reads a text, a long one in a thread of its own: the control task shares its thread with HTTP, and would wait.
async fn apart<T: Send + 'static>(text: String, read: fn(&str) -> Result<T, String>) -> Result<T, String> {
    if text.len() <= SHORT {
        return read(&text);
    }
    let read = tokio::task::spawn_blocking(move || read(&text)).await;
    read.unwrap_or_else(|_| Err("internal error in reading it".into()))
}

fn stopped<T>() -> Result<T, Refusal> {
    Err(Refusal::Unavailable("the server is stopping".into()))
}
