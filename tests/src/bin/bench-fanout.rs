//! `cargo xtask bench fanout`: what forwarding costs the machine. Method and figures: `docs/benchmarks.md`.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use clap::Parser;
use penstock_tests::bench::{
    case::{self, Case, Origin},
    contender::Contender,
    cpu,
    load::Load,
    peer, picture,
    report::{Entry, Figure, Outcome, Report},
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
    /// Rounds; each figure is their median, with the lowest and the highest. [default: 5, with --quick 2]
    #[arg(long)]
    rounds: Option<usize>,
    /// Seconds that are measured in each run. [default: 2, with --quick 1]
    #[arg(long)]
    seconds: Option<f64>,
    /// Looks for the highest rate without loss, with --quick too.
    #[arg(long)]
    highest: bool,
    /// Only another server: publishes the clip at URL/whip by WHIP, plays it at URL/whep by WHEP, and prints
    /// what the process of --peer-pid costs.
    #[arg(long, value_name = "URL", requires = "peer_pid")]
    peer_url: Option<String>,
    /// Process of that server.
    #[arg(long, value_name = "PID")]
    peer_pid: Option<i32>,
    /// Viewers of that server.
    #[arg(long, value_name = "N", default_value_t = 64)]
    peer_viewers: usize,
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
}

fn main() -> Result<()> {
    let options = Options::parse();
    ensure!(
        !cfg!(debug_assertions),
        "a debug build measures nothing: `cargo xtask bench fanout` builds with --release"
    );
    // SAFETY: no arguments, no memory.
    ensure!(unsafe { libc::geteuid() } == 0, "network namespaces and XDP need root");
    if let (Some(url), Some(id)) = (&options.peer_url, options.peer_pid) {
        return other_server(url, id, &options);
    }
    let seconds = options.seconds.unwrap_or(if options.quick { 1.0 } else { 2.0 });
    ensure!((0.1..=20.0).contains(&seconds), "--seconds takes 0.1 to 20: leases and sequence numbers must last");
    let rounds = options.rounds.unwrap_or(if options.quick { 2 } else { 5 }).max(1);
    let warm_up = Duration::from_millis(if options.quick { 600 } else { 1000 });
    let times = Times { warm_up, measured: Duration::from_secs_f64(seconds) };
    let bench = Bench { options, start: Instant::now(), rounds, times };
    let report = bench.report()?;
    for table in report.tables() {
        println!("{}", table.text());
    }
    if let Some(path) = &bench.options.json {
        fs::write(path, serde_json::to_string_pretty(&report.json())? + "\n")
            .with_context(|| path.display().to_string())?;
        eprintln!("wrote {}", path.display());
    }
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
        let wanted =
            |contender: &Contender| self.options.contender.is_empty() || self.options.contender.contains(contender);
        Contender::ALL.iter().copied().filter(|contender| wanted(contender) && contender.serves(case)).collect()
    }

    fn say(&self, text: &str) {
        eprintln!("{:>4.0} s  {text}", self.start.elapsed().as_secs_f64());
    }

    fn report(&self) -> Result<Report> {
        self.say("the idle machine");
        let idle = cpu::idle(Duration::from_secs(if self.options.quick { 1 } else { 5 }))?;
        let cases = self.cases()?;
        let mut report = Report {
            machine: machine(),
            method: format!("{} rounds of {:.1} s", self.rounds, self.times.measured.as_secs_f64()),
            idle,
            outcomes: Vec::new(),
            highest: Vec::new(),
            checked: Vec::new(),
            programs: Vec::new(),
        };
        for (number, case) in cases.iter().enumerate() {
            self.say(&format!("case {} of {}: {}", number + 1, cases.len(), case.title()));
            report.outcomes.push(self.outcome(case, idle)?);
        }
        self.look_closer(&mut report)?;
        Ok(report)
    }

    /// All rounds of a case, the contenders in turn.
    fn outcome(&self, case: &Case, idle: cpu::Busy) -> Result<Outcome> {
        case.check()?;
        let load = self.seal(case);
        let contenders = self.contenders(case);
        let mut entries: Vec<Entry> =
            contenders.into_iter().map(|contender| Entry { contender, runs: Vec::new() }).collect();
        let mut generator = Vec::new();
        for _ in 0..self.rounds {
            if case.origin == Origin::Srtp {
                generator.push(run(Subject::Nobody, case, &load, self.times, Look::Plain)?.busy.cores);
            }
            let others = generator.last().copied().unwrap_or(idle.cores);
            for entry in &mut entries {
                let subject = Subject::Contender(entry.contender);
                let measured = run(subject, case, &load, self.times, Look::Plain)?;
                self.say(&describe(entry.contender, &measured, others));
                entry.runs.push(measured);
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
            self.say(&format!("every copy opened: {}", contender.title()));
            let measured = run(Subject::Contender(contender), &slow, &load, times, Look::Check)?;
            report.checked.push((slow, contender, measured));
        }
        let load = Load::seal(&main_case(), times.load());
        for contender in [Contender::Limit, Contender::Kernel] {
            self.say(&format!("BPF programs timed: {}", contender.title()));
            let measured = run(Subject::Contender(contender), &main_case(), &load, times, Look::Programs)?;
            report.programs.push((main_case(), contender, measured));
        }
        if self.options.highest || !self.options.quick {
            for contender in self.contenders(&main_case()) {
                let copies = search::highest_rate(contender, &main_case())?;
                self.say(&format!("highest rate: {}: {copies:.0} copies/s", contender.title()));
                report.highest.push((main_case(), contender, copies));
            }
        }
        Ok(())
    }
}

/// Figures of a server that is not ours, or is.
fn other_server(url: &str, id: i32, options: &Options) -> Result<()> {
    let length = Duration::from_secs_f64(options.seconds.unwrap_or(10.0));
    eprintln!("{} viewers of {url} join, then {length:?} are measured", options.peer_viewers);
    let figures = peer::measure(url.trim_end_matches('/'), id, options.peer_viewers, length)?;
    let peer::Figures { viewers, packets, lost, process, machine } = figures;
    let ns = process * 1e9 / packets.max(1.0);
    println!("viewers {viewers}, packets received {packets:.0} /s, lost {lost}");
    println!("process {:.1} % of a core, {ns:.0} ns per packet (XDP and softirq are not in it)", 100.0 * process);
    println!("machine {:.1} % of a core, publisher and viewers included", 100.0 * machine);
    Ok(())
}

/// A run in a line.
fn describe(contender: Contender, run: &Measured, others: f64) -> String {
    let ns = (run.busy.cores - others).max(0.0) * 1e9 / run.copies.max(1.0);
    let p99 = run.latency.quantile(0.99).map_or(f64::NAN, |time| time.as_secs_f64() * 1e6);
    let Measured { lost, expected, .. } = run;
    format!("  {:<34} {ns:>7.0} ns per copy, p99 {p99:>6.0} µs, lost {lost} of {expected}", contender.title())
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
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs");
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
