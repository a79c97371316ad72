//! The thread on which any number of peers run.

use std::collections::BTreeMap;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use mio::{Events, Interest, Poll, Token, Waker};

use super::agent::Agent;

/// Longest sleep; commands wake the thread at once.
const NAP: Duration = Duration::from_millis(500);
/// Token of the waker; peers have their number.
const WAKE: Token = Token(usize::MAX);
/// Longest wait for the thread to carry out a command.
const PATIENCE: Duration = Duration::from_secs(20);

type Job = Box<dyn FnOnce(&mut Agents, &mio::Registry) + Send>;
type Agents = BTreeMap<usize, Agent>;

/// A running group. Ends with its handle; sockets close without a word to the server.
pub(crate) struct Group {
    jobs: Option<Sender<Job>>,
    waker: Arc<Waker>,
    thread: Option<JoinHandle<()>>,
}

impl Group {
    pub fn start(name: &str) -> Result<Self> {
        let poll = Poll::new()?;
        let waker = Arc::new(Waker::new(poll.registry(), WAKE)?);
        let (jobs, inbox) = channel();
        let thread = std::thread::Builder::new().name(name.into()).spawn(move || run(poll, &inbox))?;
        Ok(Self { jobs: Some(jobs), waker, thread: Some(thread) })
    }

    /// Takes a peer in; `number` must be new.
    pub fn add(&self, number: usize, agent: Agent) -> Result<()> {
        self.ask(move |agents, registry| {
            let mut agent = agent;
            register(registry, number, &mut agent)?;
            agents.insert(number, agent);
            Ok(())
        })?
    }

    /// Drops a peer.
    pub fn remove(&self, number: usize) -> Result<()> {
        self.ask(move |agents, _| drop(agents.remove(&number)))
    }

    /// Runs `f` on a peer, in the group's thread. Its sockets may be others afterwards.
    pub fn with<T: Send + 'static>(
        &self,
        number: usize,
        f: impl FnOnce(&mut Agent) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        self.ask(move |agents, registry| {
            let agent = agents.get_mut(&number).with_context(|| format!("peer {number} is gone"))?;
            for (_, socket) in agent.sockets() {
                registry.deregister(socket)?;
            }
            let answer = f(agent);
            register(registry, number, agent)?;
            answer
        })?
    }

    fn ask<T: Send + 'static>(&self, f: impl FnOnce(&mut Agents, &mio::Registry) -> T + Send + 'static) -> Result<T> {
        let (reply, answer) = mpsc::sync_channel(1);
        let job: Job = Box::new(move |agents, registry| {
            let _ = reply.send(f(agents, registry));
        });
        let jobs = self.jobs.as_ref().context("the group has ended")?;
        jobs.send(job).ok().context("the peers' thread has ended")?;
        self.waker.wake()?;
        answer.recv_timeout(PATIENCE).context("the peers' thread does not answer")
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.jobs = None;
        let _ = self.waker.wake();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
            && !std::thread::panicking()
        {
            panic!("the peers' thread panicked");
        }
    }
}

fn register(registry: &mio::Registry, number: usize, agent: &mut Agent) -> Result<()> {
    for (_, socket) in agent.sockets() {
        registry.register(socket, Token(number), Interest::READABLE)?;
    }
    Ok(())
}

fn run(mut poll: Poll, inbox: &Receiver<Job>) {
    let mut agents = Agents::new();
    let mut events = Events::with_capacity(256);
    let mut buffer = vec![0; 2048];
    loop {
        loop {
            match inbox.try_recv() {
                Ok(job) => job(&mut agents, poll.registry()),
                Err(mpsc::TryRecvError::Empty) => break,
                Err(mpsc::TryRecvError::Disconnected) => return,
            }
        }
        let due = agents.values().map(Agent::due).min();
        let nap = due.map_or(NAP, |due| due.saturating_duration_since(Instant::now()).min(NAP));
        if let Err(error) = poll.poll(&mut events, Some(nap)) {
            assert_eq!(error.kind(), std::io::ErrorKind::Interrupted, "poll: {error}");
        }
        for event in &events {
            if let Some(agent) = agents.get_mut(&event.token().0) {
                agent.receive(&mut buffer);
            }
        }
        let now = Instant::now();
        for agent in agents.values_mut().filter(|agent| agent.due() <= now) {
            agent.advance(now);
        }
    }
}
