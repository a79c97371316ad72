//! One run: a contender, or what stands in for it, under the load of a case.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use aya::sys::{Stats, enable_stats};

use super::{
    case::{Case, Origin},
    checker::{Checker, Verdict},
    contender::Contender,
    cpu::{self, Busy, Cpu},
    load::{self, Load, Sent},
    memory::{self, Memory},
    program,
    programs::{self, ProgramTime},
    receivers::{Histogram, Receivers},
    scene::{Arrival, GENERATOR_INTERFACE, Scene},
    server::Process,
};

/// What receives the load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    /// Nobody: XDP drops it. The generator's own cost.
    Nobody,
    Contender(Contender),
}

/// The phases of a run, and what is to be looked at.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    /// Under load, before anything is measured: keystream rings find their size.
    pub warm_up: Duration,
    pub measured: Duration,
}

/// What else a run does. Either costs CPU time of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Look {
    #[default]
    Plain,
    /// Opens every copy and compares it.
    Check,
    /// Times every run of a BPF program.
    Programs,
    /// Keeps the process under test on the second CPU.
    OneCore,
}

impl Times {
    /// How long the load lasts beyond what is measured.
    pub const TAIL: Duration = Duration::from_millis(300);

    /// How long the load lasts.
    pub fn load(&self) -> Duration {
        self.warm_up + self.measured + Self::TAIL
    }
}

/// What a run showed.
#[derive(Clone, Debug, Default)]
pub struct Measured {
    /// The machine.
    pub busy: Busy,
    /// The server alone, in cores, where it is told apart from load and viewers: another server.
    pub alone: Option<f64>,
    /// The process under test, in cores: what an observer of processes sees of it.
    pub process: f64,
    /// Copies per second that arrived in the measured time.
    pub copies: f64,
    /// Copies that should have arrived in the whole run, warm-up included, and those that did not. `None`: nobody
    /// knows, since another server sent packets of its own.
    pub expected: u64,
    pub lost: Option<u64>,
    /// Copies whose keystream was not there in time.
    pub underruns: u64,
    /// Copies that the engine dropped, by reason.
    pub drops: Vec<(String, u64)>,
    /// Packets and copies that did not fit into a ring or a buffer of the networks.
    pub overflows: u64,
    pub latency: Histogram,
    pub memory: Memory,
    /// Longest delay of the load behind its schedule.
    pub late: Duration,
    pub verdict: Option<Verdict>,
    /// BPF programs, with [`Look::Programs`].
    pub programs: Vec<ProgramTime>,
}

/// State at one end of the measured time.
struct Reading {
    at: Instant,
    cpu: Cpu,
    process: f64,
    copies: u64,
    latency: Histogram,
    underruns: u64,
    programs: programs::Reading,
}

/// Who moves the media in a run.
struct Parties {
    process: Option<Process>,
    receivers: Receivers,
}

impl Parties {
    fn read(&mut self) -> Result<Reading> {
        let underruns = match &mut self.process {
            Some(process) => underruns(&process.state()?),
            None => 0,
        };
        let copies = self.receivers.counts()?.iter().sum();
        let latency = self.receivers.latency()?;
        let id = self.process.as_ref().map(|process| process.id() as i32);
        let process = id.map_or(Ok(0.0), cpu::of_process)?;
        let programs = programs::Reading::take();
        Ok(Reading { at: Instant::now(), cpu: Cpu::read(id)?, process, copies, latency, underruns, programs })
    }
}

fn underruns(state: &super::server::State) -> u64 {
    state.counter("keystream_underrun") + state.counter("keystream_underrun_open")
}

/// Runs `subject` under `load`.
///
/// # Errors
/// Without root, and what fails in between.
pub fn run(subject: Subject, case: &Case, load: &Load, times: Times, look: Look) -> Result<Measured> {
    let check = look == Look::Check;
    let arrival = match subject {
        _ if check => Arrival::Whole,
        Subject::Nobody => Arrival::Xdp,
        Subject::Contender(contender) => contender.arrival(),
    };
    let scene = Scene::new(arrival)?;
    let receivers = Receivers::start(&scene, case, arrival)?;
    let checker = check.then(|| Checker::start(&scene, case)).transpose()?;
    let maps = memory::maps();
    let (process, _stand_in) = match subject {
        Subject::Nobody => (None, Some(program::stand_in(&scene, case, program::Server::Drop)?)),
        Subject::Contender(Contender::Limit) => (None, Some(program::stand_in(&scene, case, program::Server::Limit)?)),
        Subject::Contender(contender) => {
            let one_core = look == Look::OneCore;
            (Some(Process::start(&scene, contender, case, receivers.times_map, one_core)?), None)
        }
    };
    let _statistics = (look == Look::Programs).then(|| enable_stats(Stats::RunTime)).transpose()?;
    let mut parties = Parties { process, receivers };
    // Rings are being filled, and the machine comes to rest.
    thread::sleep(Duration::from_millis(200));

    let interface = scene.generator.ifindex(GENERATOR_INTERFACE)?;
    let (sent, before, after, memory) = thread::scope(|scope| {
        let parties = &mut parties;
        if case.origin == Origin::Source {
            parties.process.as_mut().context("nobody takes sources")?.begin(times.load())?;
            let (before, after, memory) = watch(parties, times, &maps)?;
            return Ok((wait_for_source(parties)?, before, after, memory));
        }
        let (generator, sent_times) = (&scene.generator, parties.receivers.times.clone());
        let sender = scope.spawn(move || {
            generator.run(|| {
                load::stay_on(0);
                load.send(interface, &sent_times)
            })
        });
        let (before, after, memory) = watch(parties, times, &maps)?;
        let sent = sender.join().map_err(|_| anyhow::anyhow!("the load generator panicked"))??;
        Ok::<_, anyhow::Error>((sent, before, after, memory))
    })?;
    thread::sleep(Duration::from_millis(100));
    let verdict = checker.map(Checker::finish).transpose()?;

    let expected = sent.packets * u64::from(case.viewers);
    let arrived: u64 = parties.receivers.counts()?.iter().sum();
    let state = parties.process.as_mut().map(Process::state).transpose()?;
    let seconds = (after.at - before.at).as_secs_f64();
    Ok(Measured {
        busy: after.cpu.since(&before.cpu),
        alone: None,
        process: (after.process - before.process) / seconds,
        copies: (after.copies - before.copies) as f64 / seconds,
        expected,
        lost: Some(expected.saturating_sub(arrived)),
        underruns: after.underruns - before.underruns,
        drops: state.map(|state| state.drops()).unwrap_or_default(),
        overflows: scene.overflows()?,
        latency: after.latency.since(&before.latency),
        memory,
        late: sent.late,
        verdict,
        programs: after.programs.since(&before.programs, seconds),
    })
}

/// Lets the load run, and reads everything at both ends of the measured time.
fn watch(
    parties: &mut Parties,
    times: Times,
    maps: &std::collections::BTreeSet<u32>,
) -> Result<(Reading, Reading, Memory)> {
    thread::sleep(times.warm_up);
    let before = parties.read()?;
    thread::sleep(times.measured);
    let after = parties.read()?;
    let memory = parties
        .process
        .as_ref()
        .map(|process| memory::of(&[process.id() as i32], maps))
        .transpose()?
        .unwrap_or_default();
    Ok((before, after, memory))
}

fn wait_for_source(parties: &mut Parties) -> Result<Sent> {
    let process = parties.process.as_mut().context("nobody takes sources")?;
    let give_up = Instant::now() + Duration::from_secs(10);
    while Instant::now() < give_up {
        let (packets, late, done) = process.state()?.pushed();
        if done {
            return Ok(Sent { packets, late });
        }
        thread::sleep(Duration::from_millis(20));
    }
    bail!("the source does not come to its end")
}
