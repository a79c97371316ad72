//! The path thread: routes and neighbours are looked up here, off the caller's thread, whenever a
//! neighbour is unknown or a session's lease is refreshed.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError},
    },
    time::{Duration, Instant},
};

use super::{attach::Attached, fanout::Shared, netlink::Netlink, path};
use crate::engine::Transport;

/// Pause between two looks at a neighbour that is being resolved.
const RETRY: Duration = Duration::from_millis(20);

/// An unanswered neighbour is given up after this time, until the next refresh of the session.
const PATIENCE: Duration = Duration::from_secs(3);

/// The thread's inbox takes handles of subscriber sessions whose path is to be looked up.
pub struct Resolver {
    pub shared: Arc<Shared>,
    pub attached: Vec<Attached>,
    pub netlink: Netlink,
    pub inbox: Receiver<u32>,
}

impl Resolver {
    /// Runs until the engine is dropped.
    pub fn run(mut self) {
        let mut waiting: BTreeMap<u32, Instant> = BTreeMap::new();
        let mut complained: BTreeSet<u32> = BTreeSet::new();
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
            waiting.retain(|session, give_up| match self.look(*session) {
                Ok(true) => {
                    complained.remove(session);
                    false
                }
                Ok(false) if Instant::now() < *give_up => true,
                Ok(false) => {
                    self.complain(&mut complained, *session, "its neighbour does not answer");
                    false
                }
                Err(reason) => {
                    self.complain(&mut complained, *session, &reason);
                    false
                }
            });
        }
    }

    /// Looks once; says whether there is nothing left to do.
    fn look(&mut self, handle: u32) -> Result<bool, String> {
        let Some(transport) = self.transport(handle) else { return Ok(true) };
        let route = path::find(&mut self.netlink, &self.attached, transport)?;
        let Some(path) = route.path(&mut self.netlink)? else {
            route.resolve(&mut self.netlink).map_err(|error| format!("its neighbour cannot be asked: {error}"))?;
            return Ok(false);
        };
        let mut state = self.shared.lock();
        let Some(session) = state.sessions.get(handle) else { return Ok(true) };
        // The session may have moved meanwhile, and has then been queued again.
        if session.transport == transport && session.path.is_none_or(|current| current.path != path) {
            state.work.paths.insert(handle, path);
            self.shared.bell.notify_one();
        }
        Ok(true)
    }

    fn transport(&self, handle: u32) -> Option<Transport> {
        let state = self.shared.lock();
        state.sessions.get(handle).filter(|session| !session.closing).map(|session| session.transport)
    }

    /// Once for each time that a session becomes unreachable.
    fn complain(&self, complained: &mut BTreeSet<u32>, handle: u32, reason: &str) {
        let state = self.shared.lock();
        complained.retain(|handle| state.sessions.get(*handle).is_some());
        let Some(session) = state.sessions.get(handle) else { return };
        if complained.insert(handle) {
            tracing::warn!(
                session = session.id,
                stream = session.stream,
                peer = %session.transport.peer,
                "no path to the peer: {reason}"
            );
        }
    }
}
