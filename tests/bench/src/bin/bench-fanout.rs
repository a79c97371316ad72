//! `cargo xtask bench fanout`: what forwarding costs the machine. Method and figures: `docs/benchmarks.md`.

use std::{
    cell::Cell,
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use clap::Parser;
use tests_bench::{
    case::{self, Case, Origin},
    contender::Contender,
    cpu,
    load::Load,
    peer::{self, Opened, Peer},
    picture,
    report::{Entry, Failure, Figure, Outcome, Report, loss_cell},
    run::{Look, Measured, Subject, Times, run},
    search,
};

/// What forwarding costs the machine: every contender under the same load, in turn, in network namespaces
/// of its own, as root. CPU time is that of all processes of the run and of ksoftirqd, softirq included,
/// without the idle machine and without the load generator. Let nothing else run meanwhile.
#[derive(Parser)]
#[command(name = "bench fanout")]
struct Options {
    /// Three cases instead of eighteen, two rounds, no search for the highest rate: under two minutes.
    #[arg(long)]
    quick: bool,
    /// Only this contender (may be given several times).
    #[arg(long, value_enum, value_name = "NAME")]
    contender: Vec<Contender>,
    /// Only this case, as VIEWERSxPAYLOAD, STREAMS-publishers or STREAMS-sources (may be given several times).
    #[arg(long, value_name = "NAME")]
    case: Vec<String>,
    /// Rounds; each figure is their median, with the lowest and the highest. [default: 3, with --quick 2]
    #[arg(long)]
    rounds: Option<usize>,
    /// Seconds that are measured in each run. [default: 2, with --quick 1]
    #[arg(long)]
    seconds: Option<f64>,
    /// Looks for the highest rate without loss, with --quick too.
    #[arg(long)]
    highest: bool,
    #[command(flatten)]
    peer: peer::Options,
    /// For tests: a debug build too, whose figures mean nothing.
    #[arg(long, hide = true)]
    any_build: bool,
    /// Writes everything as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Replaces tables and picture in docs/benchmarks.md.
    #[arg(long)]
    write_docs: bool,
}

/// The case in which copies are opened, programs are timed, and the highest rate is looked for.
fn main_case() -> Case {
    Case::fan_out(64, 1100)
}

struct Bench {
    options: Options,
    start: Instant,
    rounds: usize,
    times: Times,
    peer: Option<Peer>,
    progress: Progress,
}

/// Runs until now, and in all.
#[derive(Default)]
struct Progress {
    done: Cell<u32>,
    all: Cell<u32>,
}

fn main() -> Result<()> {
    let options = Options::parse();
    ensure!(
        options.any_build || !cfg!(debug_assertions),
        "a debug build measures nothing: `cargo xtask bench fanout` builds with --release"
    );
    // SAFETY: no arguments, no memory.
    ensure!(unsafe { libc::geteuid() } == 0, "network namespaces and XDP need root");
    let peer = options.peer.peer()?;
    let seconds = options.seconds.unwrap_or(if options.quick { 1.0 } else { 2.0 });
    ensure!((0.1..=20.0).contains(&seconds), "--seconds takes 0.1 to 20: leases and sequence numbers must last");
    let rounds = options.rounds.unwrap_or(if options.quick { 2 } else { 3 }).max(1);
    let warm_up = Duration::from_millis(if options.quick { 600 } else { 1000 });
    let times = Times { warm_up, measured: Duration::from_secs_f64(seconds) };
    let bench = Bench { options, start: Instant::now(), rounds, times, peer, progress: Progress::default() };
    let report = bench.report()?;
    for table in report.tables() {
        println!("{}", table.text());
    }
    if let Some(path) = &bench.options.json {
        fs::write(path, serde_json::to_string_pretty(&report.json())? + "\n")
            .with_context(|| path.display().to_string())?;
        eprintln!("wrote {}", path.display());
    }
    Failure::all_of_peers(&report.failures)?;
    if bench.options.write_docs { write_docs(&report) } else { Ok(()) }
}

impl Bench {
    fn cases(&self) -> Result<Vec<Case>> {
        let wanted = &self.options.case;
        if wanted.is_empty() {
            return Ok(case::all(self.options.quick));
        }
        let all = case::all(false);
        let find = |name: &String| all.iter().find(|case| case.name() == *name).copied();
        let known: Vec<String> = all.iter().map(Case::name).collect();
        wanted.iter().map(|name| find(name).with_context(|| format!("no case {name}: {}", known.join(", ")))).collect()
    }

    fn contenders(&self, case: &Case) -> Vec<Contender> {
        let named = &self.options.contender;
        let wanted = |contender: &Contender| named.contains(contender) || named.is_empty() && contender.is_usual();
        let ours = Contender::ALL.iter().copied().filter(wanted);
        ours.chain(self.peer.as_ref().map(|_| Contender::Peer)).filter(|contender| contender.serves(case)).collect()
    }

    /// With the time since the start, and an estimate of what is left.
    fn say(&self, text: &str) {
        let (passed, done, all) = (self.start.elapsed(), self.progress.done.get(), self.progress.all.get());
        let left = match done {
            0 => String::new(),
            done => format!(
                ", {:.0} min left",
                passed.as_secs_f64() / 60.0 * f64::from(all.saturating_sub(done)) / f64::from(done)
            ),
        };
        eprintln!("{:>4.0} s  [{done}/{all}{left}]  {text}", passed.as_secs_f64());
    }

    /// A run of any contender. `opened`: by another server's viewers.
    fn run(&self, contender: Contender, case: &Case, load: &Load, times: Times, look: Look) -> Result<Measured> {
        match (&self.peer, contender) {
            (Some(server), Contender::Peer) => {
                let opened = if look == Look::Check { Opened::All } else { Opened::Some };
                peer::run(server, case, times, opened, look == Look::OneCore)
            }
            _ => run(Subject::Contender(contender), case, load, times, look),
        }
    }

    fn title(&self, contender: Contender) -> &str {
        match (&self.peer, contender) {
            (Some(peer), Contender::Peer) => &peer.name,
            _ => contender.title(),
        }
    }

    fn report(&self) -> Result<Report> {
        let cases = self.cases()?;
        let runs = cases.iter().map(|case| self.contenders(case).len() + usize::from(case.origin == Origin::Srtp));
        self.progress.all.set((runs.sum::<usize>() * self.rounds) as u32);
        self.say("the idle machine");
        let idle = cpu::idle(Duration::from_secs(if self.options.quick { 1 } else { 5 }))?;
        let mut report = Report {
            machine: machine(),
            method: format!("{} rounds of {:.1} s", self.rounds, self.times.measured.as_secs_f64()),
            peer: self.peer.as_ref().map(|peer| peer.name.clone()),
            idle,
            outcomes: Vec::new(),
            highest: Vec::new(),
            checked: Vec::new(),
            programs: Vec::new(),
            failures: Vec::new(),
        };
        for (number, case) in cases.iter().enumerate() {
            self.say(&format!("case {} of {}: {}", number + 1, cases.len(), case.title()));
            let outcome = self.outcome(case, idle, &mut report.failures)?;
            report.outcomes.push(outcome);
        }
        self.look_closer(&mut report)?;
        Ok(report)
    }

    /// What came of an attempt. `None`: it failed, which costs whoever tried its own figures and nobody else's.
    fn outlive<T>(
        &self,
        failures: &mut Vec<Failure>,
        case: &str,
        contender: Contender,
        attempt: Result<T>,
    ) -> Option<T> {
        let why = match attempt {
            Ok(result) => return Some(result),
            Err(error) => format!("{error:#}"),
        };
        let name = self.title(contender).to_owned();
        self.say(&format!("  {name} failed: {why}"));
        failures.push(Failure { case: case.into(), name, is_peer: contender == Contender::Peer, why });
        None
    }

    /// All rounds of a case, the contenders in turn.
    fn outcome(&self, case: &Case, idle: cpu::Busy, failures: &mut Vec<Failure>) -> Result<Outcome> {
        case.check()?;
        let load = self.seal(case);
        let contenders = self.contenders(case);
        let mut entries: Vec<Entry> =
            contenders.into_iter().map(|contender| Entry { contender, runs: Vec::new(), failed: 0 }).collect();
        let mut generator = Vec::new();
        for _ in 0..self.rounds {
            if case.origin == Origin::Srtp {
                generator.push(run(Subject::Nobody, case, &load, self.times, Look::Plain)?.busy.cores);
                self.progress.done.update(|done| done + 1);
            }
            let others = generator.last().copied().unwrap_or(idle.cores);
            for entry in &mut entries {
                let measured = self.run(entry.contender, case, &load, self.times, Look::Plain);
                self.progress.done.update(|done| done + 1);
                match self.outlive(failures, &case.title(), entry.contender, measured) {
                    Some(measured) => {
                        self.say(&self.describe(entry.contender, &measured, others));
                        entry.runs.push(measured);
                    }
                    None => entry.failed += 1,
                }
            }
        }
        let generator = (!generator.is_empty()).then(|| Figure::of(generator));
        Ok(Outcome { case: *case, generator, entries })
    }

    fn seal(&self, case: &Case) -> Load {
        match case.origin {
            Origin::Srtp => Load::seal(case, self.times.load()),
            Origin::Source => Load::seal(case, Duration::ZERO),
        }
    }

    /// Runs that cost time of their own: every copy opened, BPF programs timed, the highest rate.
    fn look_closer(&self, report: &mut Report) -> Result<()> {
        if !self.options.case.is_empty() && !self.options.case.contains(&main_case().name()) {
            return Ok(());
        }
        let times = Times { warm_up: Duration::from_millis(400), measured: Duration::from_millis(600) };
        let slow = Case { rate: 150.0, ..main_case() };
        let load = Load::seal(&slow, times.load());
        for contender in self.contenders(&slow).into_iter().filter(|contender| *contender != Contender::Limit) {
            self.say(&format!("every copy opened: {}", self.title(contender)));
            let measured = self.run(contender, &slow, &load, times, Look::Check);
            if let Some(measured) = self.outlive(&mut report.failures, "every copy opened", contender, measured) {
                report.checked.push((slow, contender, measured));
            }
        }
        let load = Load::seal(&main_case(), times.load());
        let timed = [Contender::Limit, Contender::Kernel];
        for contender in self.contenders(&main_case()).into_iter().filter(|contender| timed.contains(contender)) {
            self.say(&format!("BPF programs timed: {}", contender.title()));
            let measured = run(Subject::Contender(contender), &main_case(), &load, times, Look::Programs);
            if let Some(measured) = self.outlive(&mut report.failures, "BPF programs timed", contender, measured) {
                report.programs.push((main_case(), contender, measured));
            }
        }
        if self.options.highest || !self.options.quick {
            for contender in self.contenders(&main_case()) {
                let copies = self.highest(contender);
                if let Some(copies) = self.outlive(&mut report.failures, "highest rate", contender, copies) {
                    self.say(&format!("highest rate: {}: {copies:.0} copies/s", self.title(contender)));
                    report.highest.push((main_case(), contender, copies));
                }
            }
        }
        Ok(())
    }

    fn highest(&self, contender: Contender) -> Result<f64> {
        let factor = if self.options.quick { 1.3 } else { 1.13 };
        search::highest_rate(&main_case(), factor, |case| {
            let load = if contender == Contender::Peer { Duration::ZERO } else { search::TIMES.load() };
            let measured = self.run(contender, case, &Load::seal(case, load), search::TIMES, Look::OneCore)?;
            let (copies, Measured { lost, expected, late, .. }) = (case.copies(), &measured);
            let lost = loss_cell(*lost, *expected);
            self.say(&format!("  {copies:.0} copies/s: lost {lost}, generator late {late:.1?}"));
            Ok(measured)
        })
    }

    /// A run in a line.
    fn describe(&self, contender: Contender, run: &Measured, others: f64) -> String {
        let cores = run.alone.unwrap_or((run.busy.cores - others).max(0.0));
        let or_dash = |figure: Option<f64>| figure.map_or_else(|| "–".into(), |figure| format!("{figure:.0}"));
        let ns = or_dash((run.copies > 0.0).then(|| cores * 1e9 / run.copies));
        let p99 = or_dash(run.latency.quantile(0.99).map(|time| time.as_secs_f64() * 1e6));
        let (title, lost) = (self.title(contender), loss_cell(run.lost, run.expected));
        format!("  {title:<34} {ns:>7} ns per copy, p99 {p99:>6} µs, lost {lost}")
    }
}

/// Kernel and processor, in a line.
fn machine() -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let cpu = read("/proc/cpuinfo");
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or("");
    let cpus = cpu.lines().filter(|line| line.starts_with("processor")).count();
    let model = model.trim_matches([' ', '\t', ':']);
    format!("Linux {}, {cpus} CPUs, {model}", read("/proc/sys/kernel/osrelease").trim())
}

/// Replaces what is between the markers of docs/benchmarks.md, and the picture.
fn write_docs(report: &Report) -> Result<()> {
    const BEGIN: &str = "<!-- bench-fanout: begin -->\n";
    const END: &str = "<!-- bench-fanout: end -->";
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs");
    picture::draw(report, &docs.join("fanout.svg"))?;
    let path = docs.join("benchmarks.md");
    let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let (Some(begin), Some(end)) = (text.find(BEGIN), text.find(END)) else {
        bail!("{} lacks its markers", path.display());
    };
    let head = format!("\n{}; {}.\n\n![CPU time per forwarded packet](fanout.svg)\n", report.machine, report.method);
    let tables: String = report.tables().iter().map(|table| format!("\n{}", table.markdown())).collect();
    fs::write(&path, [&text[..begin + BEGIN.len()], &head, &tables, "\n", &text[end..]].concat())?;
    eprintln!("wrote {}", path.display());
    Ok(())
}
