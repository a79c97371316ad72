//! Both ends between the control task and one source.

use tokio::sync::watch;

use super::status::{self, Status};

/// The control task's end of one source.
#[derive(Debug)]
pub struct Handle {
    /// The URL without credentials, or words.
    pub url: String,
    /// It connects while somebody watches, not always.
    pub on_demand: bool,
    /// It publishes here by RTSP.
    pub pushed: bool,
    wanted: watch::Sender<bool>,
    status: status::Shared,
}

impl Handle {
    /// With the source's own ends.
    pub(super) fn new(url: String, on_demand: bool, pushed: bool) -> (Self, status::Shared, watch::Receiver<bool>) {
        let (wanted, watched) = watch::channel(false);
        let status = status::Shared::default();
        (Self { url, on_demand, pushed, wanted, status: status.clone() }, status, watched)
    }

    /// Somebody watches, or nobody does.
    pub fn want(&self, wanted: bool) {
        self.wanted.send_if_modified(|old| std::mem::replace(old, wanted) != wanted);
    }

    /// A copy of the moment.
    pub fn status(&self) -> Status {
        self.status.get()
    }
}

/// Ends when the control task has gone.
pub(super) async fn gone(wanted: &mut watch::Receiver<bool>) {
    while wanted.changed().await.is_ok() {}
}
