//! The driver's end of the process under test.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    process::{ChildStdin, ChildStdout, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tests_kit::netns::{BpfFs, Running};

use super::{case::Case, contender::Contender, host, scene::Scene};

/// The process. Killed on drop.
pub struct Process {
    running: Running,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    _bpf: BpfFs,
}

/// What it says of itself.
pub struct State(Value);

impl State {
    /// A counter of the engine.
    pub fn counter(&self, name: &str) -> u64 {
        self.0["counters"][name].as_u64().unwrap_or(0)
    }

    /// The counters that begin with `drop_` and are not 0.
    pub fn drops(&self) -> Vec<(String, u64)> {
        let counters = self.0["counters"].as_object().into_iter().flatten();
        let dropped = |(name, value): (&String, &Value)| {
            Some((name.clone(), value.as_u64().filter(|n| *n > 0 && name.starts_with("drop_"))?))
        };
        counters.filter_map(dropped).collect()
    }

    /// Packets that its source has pushed, the longest delay of one, and whether these were all.
    pub fn pushed(&self) -> (u64, Duration, bool) {
        let number = |name: &str| self.0[name].as_u64().unwrap_or(0);
        (number("pushed"), Duration::from_nanos(number("late_ns")), self.0["done"] == true)
    }
}

impl Process {
    /// Starts it in the server's namespace; returns when all viewers are attached.
    ///
    /// # Errors
    /// When it does not come up; its messages are on standard error.
    pub fn start(scene: &Scene, contender: Contender, case: &Case, times: u32, one_core: bool) -> Result<Self> {
        let bpf = BpfFs::mount()?;
        let Case { origin, streams, viewers, payload, rate, burst, key } = *case;
        let path = bpf.path().to_owned();
        let options = host::Options {
            contender,
            origin,
            streams,
            viewers,
            payload,
            rate,
            burst,
            key,
            bpf: path,
            times,
            one_core,
        };
        let own = std::env::current_exe()?;
        // Tests lie one directory deeper.
        let mut places = own.ancestors().skip(1).take(2).map(|directory| directory.join("bench-fanout-host"));
        let program = places.find(|path| path.is_file()).context("no bench-fanout-host: build it")?;
        let mut command = scene.server.command(&program);
        command.args(options.arguments()).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut running = Running::start(&mut command)?;
        let child = running.child().context("no process")?;
        let (input, output) = (child.stdin.take().context("pipe")?, child.stdout.take().context("pipe")?);
        let mut process = Self { running, input, output: BufReader::new(output), _bpf: bpf };
        process.answer().context("the process under test did not start")?;
        Ok(process)
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.running.id()
    }

    /// Asks for its counters.
    ///
    /// # Errors
    /// When it is gone.
    pub fn state(&mut self) -> Result<State> {
        self.ask("state")
    }

    /// Starts its source.
    ///
    /// # Errors
    /// When it has none, or is gone.
    pub fn begin(&mut self, length: Duration) -> Result<State> {
        self.ask(&format!("source {}", length.as_millis()))
    }

    fn ask(&mut self, line: &str) -> Result<State> {
        writeln!(self.input, "{line}")?;
        Ok(State(self.answer()?))
    }

    fn answer(&mut self) -> Result<Value> {
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        ensure!(!line.is_empty(), "the process under test has ended");
        Ok(serde_json::from_str(&line)?)
    }
}
