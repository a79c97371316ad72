//! The path thread of an engine: routes and neighbours are looked up here, off the caller's thread, whenever a
//! neighbour is unknown, a session's lease is refreshed, or the kernel tells that a way has changed.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    sync::mpsc::{Receiver, RecvTimeoutError, Sender},
    time::{Duration, Instant},
};

use forwarder_common::maps::Path;

use super::{Changes, Devices, Monitor, Netlink, path};
use crate::Transport;

/// Pause between two looks at a neighbour that is being resolved.
const RETRY: Duration = Duration::from_millis(20);

/// How often interfaces are asked for what the kernel does not tell by itself.
const TELL_TALE: Duration = Duration::from_secs(1);

/// An unanswered neighbour is given up after this time, until the next refresh of the session.
const PATIENCE: Duration = Duration::from_secs(3);

/// What the thread is asked for.
#[derive(Clone, Copy, Debug)]
pub enum Look {
    /// The path of a session, by its handle.
    Session(u32),
    /// Those of all sessions: a way has changed.
    All,
}

impl Look {
    /// Asks for all sessions whenever the kernel tells that a way has changed, after `first`. In the network namespace of
    /// the calling thread.
    ///
    /// # Errors
    /// What the system says.
    pub fn at_changes(inbox: Sender<Self>, mut first: impl FnMut(Changes) + Send + 'static) -> io::Result<Monitor> {
        Monitor::start(move |changes| {
            first(changes);
            if changes.ways {
                // Fails only when the thread is gone, that is while the engine is dropped.
                let _ = inbox.send(Self::All);
            }
        })
    }
}

/// Whose paths are watched: an engine's sessions, by handle.
pub trait Sessions: Send {
    /// Handles of all that need a path.
    fn all(&self) -> Vec<u32>;

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

/// The thread. Its inbox takes the sessions whose path is to be looked up.
pub struct Watcher<S> {
    /// Asked and told under the engine's own lock.
    pub sessions: S,
    /// By which paths may lead; fixed at start.
    pub devices: Devices,
    /// Opened in the server's network namespace.
    pub netlink: Netlink,
    /// What to look at; its end is the end.
    pub inbox: Receiver<Look>,
    /// Which of our interfaces took redirected frames when they were asked last, by index. Empty at the start.
    pub taking: BTreeMap<u32, bool>,
}

impl<S: Sessions> Watcher<S> {
    /// Runs until the inbox has no more senders.
    pub fn run(mut self) {
        let mut waiting: BTreeMap<u32, Instant> = BTreeMap::new();
        let mut lost: BTreeSet<u32> = BTreeSet::new();
        loop {
            let message = self.inbox.recv_timeout(if waiting.is_empty() { TELL_TALE } else { RETRY });
            match message {
                Ok(look) => {
                    // The first look follows at once, together with whatever else has come in.
                    let looks: Vec<Look> = std::iter::once(look).chain(self.inbox.try_iter()).collect();
                    let give_up = Instant::now() + PATIENCE;
                    if looks.iter().any(|look| matches!(look, Look::All)) {
                        self.netlink.forget();
                        waiting.extend(self.sessions.all().into_iter().map(|session| (session, give_up)));
                    }
                    waiting.extend(looks.into_iter().filter_map(|look| match look {
                        Look::Session(session) => Some((session, give_up)),
                        Look::All => None,
                    }));
                }
                Err(RecvTimeoutError::Timeout) if waiting.is_empty() && self.others_take() => {
                    self.netlink.forget();
                    let give_up = Instant::now() + PATIENCE;
                    waiting.extend(self.sessions.all().into_iter().map(|session| (session, give_up)));
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

    /// Do other interfaces of ours take redirected frames than before? The kernel tells nobody when one stops, as a veth
    /// does whose other end is without GRO from one moment on, and leaves it out of broadcasts without a word.
    fn others_take(&mut self) -> bool {
        let Devices::Attached(attached) = &self.devices else { return false };
        let mut changed = false;
        for one in attached.get().iter() {
            let Ok(Some(takes)) = self.netlink.takes_redirects(one.index) else { continue };
            changed |= self.taking.insert(one.index, takes).is_some_and(|before| before != takes);
        }
        changed
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
