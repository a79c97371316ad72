//! `penstock verify`: does a running server do what its users were promised? One publisher and N viewers
//! of our own, through the same doors as everybody else's, and the server's own figures.

mod client;
mod judge;
mod server;

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use tokio::sync::watch;

use self::client::{Client, Figures, Way};
pub use self::{
    judge::{Limits, Line, judge},
    server::{Server, Tokens},
};

/// Connecting takes milliseconds; a busy server may need seconds.
const CONNECT: Duration = Duration::from_secs(15);

/// Between the last connection and the first measurement: bit rate and keystream have settled.
const SETTLE: Duration = Duration::from_secs(2);

/// What to do.
#[derive(Clone, Debug)]
pub struct Plan {
    /// At least 1; the publisher comes on top.
    pub viewers: usize,
    /// Of the measurement, without connecting and settling.
    pub length: Duration,
    /// Packets a second of the publisher.
    pub rate: u32,
}

/// What was found.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Sessions wanted, the publisher's included, and those that have connected.
    pub sessions: usize,
    /// At the end of the measurement: ICE, DTLS and keys were there.
    pub connected: usize,
    /// Of each viewer.
    pub viewers: Vec<Figures>,
    /// Why sessions did not connect, each reason once.
    pub failures: Vec<String>,
    /// Profiles and engines of our sessions, as the server says; empty if it does not.
    pub profiles: Vec<String>,
    /// What carries each session, in the server's words; with repetitions.
    pub engines: Vec<String>,
    /// The server's metrics before and after, if it shows them.
    pub before: Option<server::Metrics>,
    /// At the end of the measurement.
    pub after: Option<server::Metrics>,
}

/// Runs the test.
///
/// # Errors
/// The server does not answer at all.
pub async fn run(server: &Server, plan: &Plan) -> anyhow::Result<Outcome> {
    ensure!(plan.viewers > 0, "at least one viewer is needed");
    server.health().await.context("the server does not answer")?;
    let stream = stream_name()?;
    let (stop, stopped) = watch::channel(false);
    let local = server.local_address()?;
    let mut failures = Vec::new();

    let start = async |way: Way| -> anyhow::Result<Running> {
        let (client, offer) = Client::new(way, local, plan.rate).await?;
        let (location, answer) = server.offer(way, &stream, offer).await?;
        let figures = client.figures();
        let task = tokio::spawn(client.run(answer, stopped.clone()));
        Ok(Running { location, figures, task })
    };
    let publisher = start(Way::Publish).await.context("the publisher's session")?;
    let mut running = vec![publisher];
    until(CONNECT, || running.iter().all(Running::connected)).await;
    for _ in 0..plan.viewers {
        match start(Way::Play).await {
            Ok(viewer) => running.push(viewer),
            Err(error) => note(&mut failures, format!("{error:#}")),
        }
    }
    until(CONNECT, || running.iter().all(Running::connected)).await;
    tokio::time::sleep(SETTLE).await;
    running.iter().for_each(|session| session.figures.lock().begin());
    let before = server.metrics().await.ok();
    tokio::time::sleep(plan.length).await;
    let after = server.metrics().await.ok();
    let (profiles, engines) = server.sessions(&stream).await.unwrap_or_default();
    let connected = running.iter().filter(|session| session.connected()).count();
    let viewers = running.iter().skip(1).map(|session| session.figures.lock().clone()).collect();
    for session in &running {
        if let Some(failure) = session.figures.lock().failure.clone() {
            note(&mut failures, failure);
        }
    }

    stop.send_replace(true);
    for session in running {
        // A server that is gone has closed the session already.
        let _ = server.delete(&session.location).await;
        let _ = session.task.await;
    }
    Ok(Outcome { sessions: plan.viewers + 1, connected, viewers, failures, profiles, engines, before, after })
}

struct Running {
    location: String,
    figures: client::Shared,
    task: tokio::task::JoinHandle<()>,
}

impl Running {
    fn connected(&self) -> bool {
        self.figures.lock().connected
    }
}

fn note(failures: &mut Vec<String>, failure: String) {
    if !failures.contains(&failure) {
        failures.push(failure);
    }
}

async fn until(patience: Duration, condition: impl Fn() -> bool) {
    let end = Instant::now() + patience;
    while !condition() && Instant::now() < end {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Nobody else's.
fn stream_name() -> anyhow::Result<String> {
    let mut bytes = [0; 8];
    ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut bytes)
        .map_err(|_| anyhow::anyhow!("no random numbers"))?;
    Ok(format!("verify-{:016x}", u64::from_ne_bytes(bytes)))
}
