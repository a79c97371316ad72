//! Which sessions the xdp transmitter can serve: the ways to their peers, watched by a thread.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError, Weak, mpsc},
    thread,
};

use forwarder_common::maps::Path;

use super::{Inner, Tables};
use crate::{
    Role, Transport,
    bpf::check,
    io::reading_threads,
    route::{Devices, Look, Monitor, Netlink, Sessions, Watcher},
    transmit::xdp::XdpSender,
};

/// Transmitters beside those of the threads that read sockets: for the thread of the taps and for that of the sources.
const MORE_THREADS: usize = 2;

/// The transmitter, and the thread that finds paths for it. The thread ends with this.
pub(super) struct Xdp {
    pub sender: XdpSender,
    resolve: Mutex<mpsc::Sender<Look>>,
    _monitor: Monitor,
}

impl Xdp {
    /// # Errors
    /// A reason for people.
    pub(super) fn start(engine: Weak<Inner>, interfaces: Option<Vec<u32>>, tcp: bool) -> Result<Self, String> {
        check::capabilities().and_then(|()| check::kernel()).map_err(|error| error.to_string())?;
        let sender = XdpSender::start(reading_threads() + MORE_THREADS + usize::from(tcp))?;
        let netlink = Netlink::open().map_err(|error| format!("netlink: {error}"))?;
        let (resolve, inbox) = mpsc::channel();
        let monitor =
            Look::at_changes(mpsc::Sender::clone(&resolve), |_| {}).map_err(|error| format!("netlink: {error}"))?;
        let devices = Devices::Redirecting(interfaces);
        let watcher = Watcher { sessions: engine, devices, netlink, inbox, taking: BTreeMap::new() };
        let thread = thread::Builder::new().name("penstock-ways".into());
        thread.spawn(move || watcher.run()).map_err(|error| error.to_string())?;
        Ok(Self { sender, resolve: Mutex::new(resolve), _monitor: monitor })
    }
}

impl Inner {
    pub(super) fn xdp(&self) -> Option<&Xdp> {
        self.xdp.get()?.as_ref().ok()
    }

    /// What a session shows that has no path, before anybody has looked for one.
    pub(super) fn why_no_path(&self) -> String {
        self.xdp.get().and_then(|xdp| xdp.as_ref().err()).cloned().unwrap_or_default()
    }

    pub(super) fn look_for_path(&self, session: u32) {
        if let Some(xdp) = self.xdp() {
            // Fails only when the thread is gone, that is while the engine is dropped.
            let _ = xdp.resolve.lock().unwrap_or_else(PoisonError::into_inner).send(Look::Session(session));
        }
    }

    fn set_path(&self, handle: u32, transport: Option<Transport>, path: Result<Path, String>) {
        let differs = |session: &super::Session| {
            session.path != path && transport.is_none_or(|transport| transport == session.transport)
        };
        // Most looks find what is known already, and then nobody has to wait.
        if !self.read().sessions.get(handle).is_some_and(differs) {
            return;
        }
        let mut tables = self.write();
        let Tables { sessions, subscribers, .. } = &mut *tables;
        let Some(session) = sessions.get_mut(handle).filter(|session| differs(session)) else { return };
        session.path = path;
        for track in &session.subscriber_tracks {
            if let Some(subscriber) = subscribers.get_mut(*track) {
                subscriber.destination = session.destination(subscriber.track.dscp);
            }
        }
    }
}

impl Sessions for Weak<Inner> {
    fn all(&self) -> Vec<u32> {
        let Some(inner) = self.upgrade() else { return Vec::new() };
        let tables = inner.read();
        let subscribers = tables.sessions.iter().filter(|(_, session)| session.role == Role::Subscriber);
        subscribers.map(|(handle, _)| handle).collect()
    }

    fn transport(&self, session: u32) -> Option<Transport> {
        let inner = self.upgrade()?;
        let tables = inner.read();
        tables.sessions.get(session).filter(|session| session.role == Role::Subscriber).map(|session| session.transport)
    }

    fn found(&self, session: u32, transport: Transport, path: Path) -> Result<(), String> {
        let Some(inner) = self.upgrade() else { return Ok(()) };
        let Some(xdp) = inner.xdp() else { return Ok(()) };
        xdp.sender.add_device(path.egress_ifindex)?;
        inner.set_path(session, Some(transport), Ok(path));
        Ok(())
    }

    fn lost(&self, session: u32, reason: &str) {
        if let Some(inner) = self.upgrade() {
            inner.set_path(session, None, Err(reason.to_owned()));
        }
    }
}
