//! What a source is doing, for log and API.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use penstock_media::prefetch::prefetch;
use penstock_rtp::Unfit;
use serde::Serialize;

use super::{
    error::SourceError,
    reason::{Reason, Reasons},
};

/// What a source is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Nobody watches, and it connects on demand.
    #[default]
    Idle,
    /// From the first attempt until media comes.
    Connecting,
    /// Media comes.
    Playing,
    /// It failed and is tried again soon.
    Waiting,
}

/// What is known of a source.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Status {
    /// What it does now, whatever `error` says of the past.
    pub state: State,
    /// Name and words of the last failure. It stays, so that one can see why there was a gap.
    pub error: Option<&'static str>,
    /// The same failure in words, without password; `None`: there was none yet.
    pub error_text: Option<String>,
    /// Address of the publisher, if it pushes.
    pub peer: Option<SocketAddr>,
    /// What the source has that browsers do not play.
    pub left_out: Vec<String>,
    /// What viewers will notice, in words: the texts of `reasons`, and what else there is.
    pub warnings: Vec<String>,
    /// Why they see nothing, or less than they should, at the moment: names.
    pub reasons: Vec<&'static str>,
    /// Times that media began to come.
    pub connections: u64,
    /// RTP packets that came, and their bytes.
    pub packets: u64,
    /// Headers included, before anything is dropped.
    pub bytes: u64,
    /// Packets that the sequence numbers show to be missing.
    pub lost: u64,
    /// Packets that were dropped, by reason.
    pub dropped: BTreeMap<&'static str, u64>,
    /// Bytes of the RTSP connection that were neither a frame nor a message.
    pub stray_bytes: u64,
    /// What to change, if the same failure has come several times in a row.
    pub advice: Option<&'static str>,
}

impl Status {
    pub(super) fn failed(&mut self, error: &SourceError) {
        self.state = State::Waiting;
        self.error = Some(error.name());
        self.error_text = Some(error.to_string());
    }

    /// What holds now, in the place of what held before.
    pub(super) fn explain(&mut self, before: Reasons, reasons: Reasons) {
        self.warnings.retain(|warning| !before.iter().any(|reason| reason.text() == warning));
        self.warnings.extend(reasons.iter().map(|reason| reason.text().to_owned()));
        self.reasons = reasons.iter().map(Reason::name).collect();
    }

    pub(super) fn drop_packets(&mut self, why: Unfit, count: u64) {
        *self.dropped.entry(why.name()).or_default() += count;
    }
}

/// Written by the source's task, read by the control task.
#[derive(Clone, Debug, Default)]
pub(super) struct Shared(Arc<Mutex<Status>>);

impl Shared {
    pub(super) fn lock(&self) -> MutexGuard<'_, Status> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks for its memory.
    pub(super) fn prefetch(&self) {
        prefetch(Arc::as_ptr(&self.0));
    }

    /// As it is now.
    pub(super) fn get(&self) -> Status {
        self.lock().clone()
    }
}
