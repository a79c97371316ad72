//! A WHIP client.

use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context as _, Result};

use crate::whip::{Client, Session};

use super::agent::{Agent, Shared, Way, lock};
use super::group::Group;
use super::viewers::NO_SESSION;
use super::{Options, Source, Stats, ice, viewers};

/// A publisher. Dropped without [`stop`](Self::stop), it vanishes as a killed process does.
pub struct Publisher {
    group: Group,
    client: Client,
    session: Option<Session>,
    options: Options,
    stats: Shared,
}

/// A number that no other publisher of this process has.
fn next_run() -> u32 {
    static RUNS: AtomicU32 = AtomicU32::new(1);
    RUNS.fetch_add(1, Ordering::Relaxed)
}

impl Publisher {
    /// Publishes `source` at the WHIP endpoint `url`. Media flows as soon as ICE and DTLS are up.
    ///
    /// # Errors
    /// HTTP that fails, with the server's status and reason; an answer that cannot be used.
    pub fn start(url: &str, source: Source, options: Options) -> Result<Self> {
        let group = Group::start("publisher")?;
        let client = Client { namespace: options.namespace.clone(), token: options.token.clone() };
        let sockets = ice::sockets(options.namespace.as_deref(), &options.addresses, url)?;
        let (mut agent, offer) = Agent::new(&options, Way::Publish, source, sockets, next_run())?;
        let session = viewers::signal(&client, url, &options, &mut agent, &offer)?;
        let stats = agent.stats();
        group.add(0, agent)?;
        Ok(Self { group, client, session, options, stats })
    }

    /// Counters until now.
    pub fn stats(&self) -> Stats {
        lock(&self.stats).clone()
    }

    /// The HTTP session, for requests that this client does not make by itself.
    ///
    /// # Errors
    /// The server has not said where it is.
    pub fn session(&self) -> Result<&Session> {
        self.session.as_ref().context(NO_SESSION)
    }

    /// ICE restart (RFC 9725 §4.3.2); from `addresses`, with new sockets, if there are any.
    ///
    /// # Errors
    /// A refusal by the server.
    pub fn restart_ice(&mut self, addresses: &[std::net::IpAddr]) -> Result<()> {
        let session = self.session.as_mut().context(NO_SESSION)?;
        viewers::restart(&self.group, 0, &self.client, session, &self.options, addresses)
    }

    /// Stops sending media, so that counters come to rest, or goes on with it. The session lives.
    ///
    /// # Errors
    /// The peer's thread has ended.
    pub fn pause(&self, paused: bool) -> Result<()> {
        self.group.with(0, move |agent| {
            agent.pause(paused);
            Ok(())
        })
    }

    /// DELETEs the session.
    ///
    /// # Errors
    /// A refusal by the server.
    pub fn stop(self) -> Result<Stats> {
        self.client.delete(self.session()?)?;
        Ok(self.stats())
    }
}
