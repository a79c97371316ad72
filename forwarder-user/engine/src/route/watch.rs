//! The path thread of an engine: routes and neighbours are looked up here, off the caller's thread, whenever a
//! neighbour is unknown or a session's lease is refreshed.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::mpsc::{Receiver, RecvTimeoutError},
    time::{Duration, Instant},
};

use forwarder_common::maps::Path;

use super::{Devices, Netlink, path};
use crate::Transport;

/// Pause between two looks at a neighbour that is being resolved.
const RETRY: Duration = Duration::from_millis(20);

/// An unanswered neighbour is given up after this time, until the next refresh of the session.
const PATIENCE: Duration = Duration::from_secs(3);

/// Whose paths are watched: an engine's sessions, by handle.
pub trait Sessions: Send {
    /// Between which addresses; `None`: the session has ended.
    fn transport(&self, session: u32) -> Option<Transport>;

    /// The path of a session, which may have moved meanwhile, and is then looked up again.
    ///
    /// # Errors
    /// Why it cannot be used.
    fn found(&self, session: u32, transport: Transport, path: Path) -> Result<(), String>;

    /// There is no path, once for each time that a session becomes unreachable.
    fn lost(&self, session: u32, reason: &str);
}

/// The thread. Its inbox takes handles of sessions whose path is to be looked up.
pub struct Watcher<S> {
    /// Asked and told under the engine's own lock.
    pub sessions: S,
    /// By which paths may lead; fixed at start.
    pub devices: Devices,
    /// Opened in the server's network namespace.
    pub netlink: Netlink,
    /// Handles; the same one may come again while it waits.
    pub inbox: Receiver<u32>,
}

impl<S: Sessions> Watcher<S> {
    /// Runs until the inbox has no more senders.
    pub fn run(mut self) {
        let mut waiting: BTreeMap<u32, Instant> = BTreeMap::new();
        let mut lost: BTreeSet<u32> = BTreeSet::new();
        loop {
            let message = if waiting.is_empty() {
                self.inbox.recv().map_err(|_| RecvTimeoutError::Disconnected)
            } else {
                self.inbox.recv_timeout(RETRY)
            };
            match message {
                Ok(session) => {
                    waiting.insert(session, Instant::now() + PATIENCE);
                    // The first look follows at once, together with whatever else has come in.
                    waiting.extend(self.inbox.try_iter().map(|session| (session, Instant::now() + PATIENCE)));
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            waiting.retain(|session, give_up| {
                let reason = match self.look(*session) {
                    Ok(true) => {
                        lost.remove(session);
                        return false;
                    }
                    Ok(false) if Instant::now() < *give_up => return true,
                    Ok(false) => "its neighbour does not answer".to_owned(),
                    Err(reason) => reason,
                };
                if self.sessions.transport(*session).is_some() && lost.insert(*session) {
                    self.sessions.lost(*session, &reason);
                }
                false
            });
            lost.retain(|session| self.sessions.transport(*session).is_some());
        }
    }

    /// Looks once; says whether there is nothing left to do.
    fn look(&mut self, session: u32) -> Result<bool, String> {
        let Some(transport) = self.sessions.transport(session) else { return Ok(true) };
        let route = path::find(&mut self.netlink, &self.devices, transport)?;
        let Some(path) = route.path(&mut self.netlink)? else {
            route.resolve(&mut self.netlink).map_err(|error| format!("its neighbour cannot be asked: {error}"))?;
            return Ok(false);
        };
        self.sessions.found(session, transport, path).map(|()| true)
    }
}
