//! Many viewers at once: a match begins.

use std::{
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use tests_kit::{
    peer::{Publisher, Source, Viewers},
    stage::{Layout, Stage, synthetic},
    whip::Client,
};

/// Packets of the stream's picture in a second: the benchmark is of connecting, not of forwarding.
const RATE: u32 = 25;
/// Viewers that are there before.
const EARLIER: usize = 10;
/// Viewers by which the cost of one is measured.
const SAMPLE: usize = 20;
/// Between two questions to the control task.
const PROBE: Duration = Duration::from_millis(20);
/// Longest wait for the last viewer. It only has to be reached when something is broken.
const PATIENCE: Duration = Duration::from_secs(180);

/// What is done.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Viewers that join.
    pub viewers: usize,
    /// In this time, evenly.
    pub within: Duration,
    /// Threads that join and live them.
    pub threads: usize,
    /// How long the publisher is away then.
    pub away: Duration,
    /// How long all stay afterwards.
    pub stay: Duration,
}

/// Median, 99th percentile and longest.
#[derive(Clone, Copy, Debug, Default)]
pub struct Spread {
    pub median: Duration,
    pub p99: Duration,
    pub longest: Duration,
}

impl Spread {
    fn of(mut all: Vec<Duration>) -> Self {
        all.sort_unstable();
        let at = |part: f64| all.get(((all.len() as f64 * part) as usize).min(all.len().saturating_sub(1))).copied();
        let at = |part| at(part).unwrap_or_default();
        Self { median: at(0.5), p99: at(0.99), longest: at(1.0) }
    }
}

/// What was measured.
#[derive(Debug, Default)]
pub struct Report {
    /// Processor time of one viewer that connects on a machine at rest, of the server and of this process with it.
    pub cost: (Duration, Duration),
    /// From a viewer's POST to its first picture.
    pub first_picture: Spread,
    /// From the first POST to the last first picture.
    pub all: Duration,
    /// Longest time that the control task took to answer while they came.
    pub pause: Duration,
    /// Packets that earlier viewers lost.
    pub lost: u64,
    /// Keyframes that the publisher was asked for while they came.
    pub keyframes: u64,
    /// Resident memory of the server in bytes: before, with all.
    pub memory: (u64, u64),
    /// From the return of the publisher to the next picture.
    pub again: Spread,
    /// Keyframes that it was asked for then.
    pub keyframes_again: u64,
    /// Sessions that ended while all stayed.
    pub ended: u64,
}

/// # Errors
/// The server does not start, or somebody is without a picture for three minutes.
pub fn run(plan: Plan) -> Result<Report> {
    let room = plan.viewers + SAMPLE + EARLIER + 64;
    let limits = format!(
        "[limits]\nsessions = {room}\nsubscriber_tracks = {}\nviewers_per_stream = {room}\nhttp_connections = 8192\n",
        2 * room
    );
    let stage = Stage::new(Layout::TwoNics, "native", &limits)?;
    let source = synthetic(RATE);
    let publisher = stage.publish(&source, stage.publishing())?;
    let earlier = stage.play(EARLIER, &source, stage.playing())?;
    let mut report = Report { cost: cost(&stage, &source)?, ..Report::default() };
    let (memory, keyframes) = (stage.server.memory()?, publisher.stats().video.keyframe_requests);

    let begun = Instant::now();
    let over = AtomicBool::new(false);
    let (groups, pause) = thread::scope(|scope| {
        let probing = scope.spawn(|| longest_answer(&stage, &over));
        let joining: Vec<_> = (0..plan.threads)
            .map(|number| {
                scope.spawn({
                    let (stage, source) = (&stage, &source);
                    move || join(stage, source, plan, number, begun)
                })
            })
            .collect();
        let groups =
            joining.into_iter().map(|thread| thread.join().expect("a thread of viewers")).collect::<Result<Vec<_>>>();
        let groups = groups.and_then(|groups| seen(&groups).map(|()| groups));
        over.store(true, Relaxed);
        (groups, probing.join().expect("the thread that asks"))
    });
    let groups = groups?;
    report.all = begun.elapsed();
    report.pause = pause?;
    let stats = || groups.iter().flat_map(Viewers::stats);
    report.first_picture = Spread::of(stats().filter_map(|one| one.first_video).collect());
    report.keyframes = publisher.stats().video.keyframe_requests - keyframes;
    report.lost = earlier.stats().iter().map(|one| one.video.lost + one.audio.lost).sum();
    report.memory = (memory, stage.server.memory()?);

    (report.again, report.keyframes_again) = comes_back(&stage, publisher, &source, &groups, plan.away)?;
    let closed = |state: &Value| state["counters"]["control"]["sessions_closed"].as_u64().unwrap_or_default();
    let before = closed(&stage.server.get("/api/v1/state")?);
    thread::sleep(plan.stay);
    report.ended = closed(&stage.server.get("/api/v1/state")?) - before;
    Ok(report)
}

/// Processor time of a process, by the scheduler's clock.
fn ran(pid: u32) -> Result<Duration> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/schedstat"))?;
    // Of the main thread alone; the others have files of their own.
    let first = |text: &str| text.split(' ').next().and_then(|ns| ns.parse().ok()).map(Duration::from_nanos);
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task"))?.flatten();
    let all = tasks.filter_map(|task| first(&std::fs::read_to_string(task.path().join("schedstat")).ok()?));
    Ok(all.sum::<Duration>().max(first(&text).context("schedstat")?))
}

/// What one viewer costs, of the server and of both, on a machine that has nothing else to do.
fn cost(stage: &Stage, source: &Source) -> Result<(Duration, Duration)> {
    let now = || Ok::<_, anyhow::Error>((ran(stage.server.pid())?, ran(std::process::id())?));
    let (idle, length) = (now()?, Duration::from_secs(1));
    thread::sleep(length);
    let (before, begun) = (now()?, Instant::now());
    let viewers = stage.play(SAMPLE, source, stage.playing())?;
    let (after, took) = (now()?, begun.elapsed());
    viewers.stop()?;
    // What the stream costs by itself.
    let of = |idle: Duration, before: Duration, after: Duration| {
        let by_itself = (before - idle).mul_f64(took.as_secs_f64() / length.as_secs_f64());
        (after - before).saturating_sub(by_itself) / SAMPLE as u32
    };
    let server = of(idle.0, before.0, after.0);
    Ok((server, server + of(idle.1, before.1, after.1)))
}

/// One thread's share of the viewers, each when its time has come.
fn join(stage: &Stage, source: &Source, plan: Plan, thread: usize, begun: Instant) -> Result<Viewers> {
    let mut viewers = Viewers::start(&stage.whep(), 0, source.clone(), stage.playing())?;
    for number in (thread..plan.viewers).step_by(plan.threads) {
        let due = plan.within.mul_f64(number as f64 / plan.viewers as f64);
        thread::sleep(due.saturating_sub(begun.elapsed()));
        viewers.join().with_context(|| format!("viewer {number}"))?;
    }
    Ok(viewers)
}

/// Waits until everybody has a picture.
fn seen(groups: &[Viewers]) -> Result<()> {
    let end = Instant::now() + PATIENCE;
    while groups.iter().flat_map(Viewers::stats).any(|one| one.first_video.is_none()) {
        ensure!(Instant::now() < end, "not all have a picture after {PATIENCE:?}");
        thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// Asks something of the control task, over and over.
fn longest_answer(stage: &Stage, over: &AtomicBool) -> Result<Duration> {
    let client = Client { namespace: Some(stage.near.name().into()), token: None };
    let url = format!("{}/api/v1/own-session/none", stage.publishing_origin());
    let mut longest = Duration::ZERO;
    while !over.load(Relaxed) {
        let asked = Instant::now();
        client.request("GET", &url, &[], None)?;
        longest = longest.max(asked.elapsed());
        thread::sleep(PROBE);
    }
    Ok(longest)
}

/// The publisher goes and comes again; how long until each viewer has its picture.
fn comes_back(
    stage: &Stage,
    publisher: Publisher,
    source: &Source,
    groups: &[Viewers],
    away: Duration,
) -> Result<(Spread, u64)> {
    publisher.stop()?;
    thread::sleep(away);
    let had = || groups.iter().flat_map(Viewers::stats).map(|one| one.video.verified).collect::<Vec<_>>();
    let (before, begun) = (had(), Instant::now());
    let publisher = stage.publish(source, stage.publishing())?;
    let mut took: Vec<Option<Duration>> = vec![None; before.len()];
    while took.iter().any(Option::is_none) {
        ensure!(begun.elapsed() < PATIENCE, "not all have a picture {PATIENCE:?} after the publisher's return");
        for ((took, now), before) in took.iter_mut().zip(had()).zip(&before) {
            if now > *before {
                took.get_or_insert(begun.elapsed());
            }
        }
        thread::sleep(Duration::from_millis(10));
    }
    let keyframes = publisher.stats().video.keyframe_requests;
    Ok((Spread::of(took.into_iter().flatten().collect()), keyframes))
}
