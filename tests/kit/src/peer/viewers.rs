//! WHEP clients, many on one thread.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result, ensure};

use crate::whip::{Client, Session};

use super::agent::{Agent, Shared, Way, lock};
use super::group::Group;
use super::{Options, Source, Stats, ice};

/// Why a session of a server of another make cannot be changed.
pub(crate) const NO_SESSION: &str = "the server has not said where the session is";

/// Viewers of one stream. Those that are dropped without [`stop`](Self::stop) vanish as killed
/// processes do. They are named by the number in which they joined, from 0.
pub struct Viewers {
    group: Group,
    url: String,
    expected: Source,
    client: Client,
    options: Options,
    members: Vec<Member>,
}

struct Member {
    address: SocketAddr,
    /// `None`: the server has not said where it is.
    session: Option<Session>,
    stats: Shared,
    present: bool,
}

impl Viewers {
    /// `count` viewers of the WHEP endpoint `url`, all with the same options, one after another.
    /// What they receive is compared with `expected`.
    ///
    /// # Errors
    /// HTTP that fails, with the server's status and reason; an answer that cannot be used.
    pub fn start(url: &str, count: usize, expected: Source, options: Options) -> Result<Self> {
        let client = Client { namespace: options.namespace.clone(), token: options.token.clone() };
        let group = Group::start("viewers")?;
        let mut viewers = Self { group, url: url.into(), expected, client, options, members: Vec::new() };
        for _ in 0..count {
            viewers.join()?;
        }
        Ok(viewers)
    }

    /// One more; its number.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub fn join(&mut self) -> Result<usize> {
        let (url, expected) = (self.url.clone(), self.expected.clone());
        self.join_stream(&url, expected)
    }

    /// One more, of another stream; its number.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub fn join_stream(&mut self, url: &str, expected: Source) -> Result<usize> {
        let sockets = ice::sockets(self.options.namespace.as_deref(), &self.options.addresses, url)?;
        let address = sockets.first().context("no socket")?.local_addr()?;
        let (mut agent, offer) = Agent::new(&self.options, Way::Play, expected, sockets, 0)?;
        let session = signal(&self.client, url, &self.options, &mut agent, &offer)?;
        let number = self.members.len();
        self.members.push(Member { address, session, stats: agent.stats(), present: true });
        self.group.add(number, agent).with_context(|| format!("viewer {number}"))?;
        Ok(number)
    }

    /// DELETEs a viewer's session; the last counters are kept.
    ///
    /// # Errors
    /// A refusal by the server.
    pub fn leave(&mut self, number: usize) -> Result<Stats> {
        let member = self.members.get_mut(number).context("no such viewer")?;
        ensure!(std::mem::take(&mut member.present), "viewer {number} has left already");
        self.client.delete(member.session.as_ref().context(NO_SESSION)?)?;
        let stats = lock(&member.stats).clone();
        self.group.remove(number)?;
        Ok(stats)
    }

    /// Lets a viewer vanish without a word.
    ///
    /// # Errors
    /// No such viewer.
    pub fn vanish(&mut self, number: usize) -> Result<()> {
        self.members.get_mut(number).context("no such viewer")?.present = false;
        self.group.remove(number)
    }

    /// A viewer says goodbye by RTCP BYE and DTLS close_notify, not by HTTP.
    ///
    /// # Errors
    /// No such viewer.
    pub fn close(&self, number: usize) -> Result<()> {
        self.group.with(number, |agent| {
            agent.close();
            Ok(())
        })
    }

    /// Counters of all viewers that ever joined, by number.
    pub fn stats(&self) -> Vec<Stats> {
        self.members.iter().map(|member| lock(&member.stats).clone()).collect()
    }

    /// How many are there now.
    pub fn present(&self) -> usize {
        self.members.iter().filter(|member| member.present).count()
    }

    /// Where a viewer's first socket is bound.
    pub fn address(&self, number: usize) -> SocketAddr {
        self.members[number].address
    }

    /// A viewer asks for a keyframe (RTCP PLI, RFC 4585 §6.3.1).
    ///
    /// # Errors
    /// No such viewer.
    pub fn request_keyframe(&self, number: usize) -> Result<()> {
        self.group.with(number, |agent| {
            agent.request_keyframe();
            Ok(())
        })
    }

    /// ICE restart of a viewer; from `addresses`, with new sockets, if there are any.
    ///
    /// # Errors
    /// A refusal by the server.
    pub fn restart_ice(&mut self, number: usize, addresses: &[IpAddr]) -> Result<()> {
        let session = &mut self.members.get_mut(number).context("no such viewer")?.session;
        let session = session.as_mut().context(NO_SESSION)?;
        restart(&self.group, number, &self.client, session, &self.options, addresses)
    }

    /// DELETEs all sessions that are left; the last counters of all.
    ///
    /// # Errors
    /// A refusal by the server.
    pub fn stop(mut self) -> Result<Vec<Stats>> {
        for number in 0..self.members.len() {
            if self.members[number].present {
                self.leave(number)?;
            }
        }
        Ok(self.stats())
    }
}

/// POST of the offer, and PATCH of the candidates if they trickle.
pub(crate) fn signal(
    client: &Client,
    url: &str,
    options: &Options,
    agent: &mut Agent,
    offer: &str,
) -> Result<Option<Session>> {
    let sent = if options.trickle { ice::without_candidates(offer) } else { offer.into() };
    let (session, answer) = if options.lenient {
        client.post_leniently(url, &sent)?
    } else {
        let (session, answer) = client.post(url, &sent)?;
        (Some(session), answer)
    };
    agent.accept(&answer)?;
    if options.trickle {
        let candidates: Result<Vec<_>> = ice::values(offer, "a=")
            .filter(|value| value.starts_with("candidate:"))
            .map(|value| Ok(str0m::Candidate::from_sdp_string(value)?))
            .collect();
        let fragment = ice::fragment(offer, &candidates?);
        let session = session.as_ref().context(NO_SESSION)?;
        client.patch(session, Some(&session.etag), &fragment)?.expect(204).context("trickle")?;
    }
    Ok(session)
}

/// PATCH with new ICE credentials, from new sockets if addresses are given.
pub(crate) fn restart(
    group: &Group,
    number: usize,
    client: &Client,
    session: &mut Session,
    options: &Options,
    addresses: &[IpAddr],
) -> Result<()> {
    let sockets = match addresses {
        [] => Vec::new(),
        _ => ice::sockets(options.namespace.as_deref(), addresses, &session.url)?,
    };
    let fragment = group.with(number, move |agent| agent.restart(sockets))?;
    let reply = client.patch(session, Some(&session.etag), &fragment)?.expect(200).context("ICE restart")?;
    let etag = reply.header("etag").context("a restart without a new ETag")?;
    ensure!(etag != session.etag, "the ETag did not change with the ICE session");
    session.etag = etag.into();
    group.with(number, move |agent| agent.restarted(&reply.body))
}
