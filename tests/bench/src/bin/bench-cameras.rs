//! `cargo xtask bench cameras`: what cameras cost the machine. Method and figures: `docs/benchmarks.md`.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use clap::Parser;
use tests_bench::{
    cameras::field::{Field, Plan, Subject},
    cameras::report::{self, Case, Entry},
    cameras::run::{Measured, Times, measure},
    peer::{self, Peer},
    report::{Failure, loss_cell},
};
use tests_kit::labelled::Shape;

/// RTSP cameras at 1 Mbit/s over TCP, each with a WHEP viewer, and what `penstock serve` costs the machine
/// for it; in network namespaces of its own, as root. Let nothing else run meanwhile.
#[derive(Parser)]
#[command(name = "bench cameras")]
struct Options {
    /// One round of 3 seconds, by XDP alone: under two minutes.
    #[arg(long)]
    quick: bool,
    /// So many cameras (may be given several times). [default: 64, 256, 512]
    #[arg(long, value_name = "N")]
    cameras: Vec<u32>,
    /// Rounds; each figure is their median, with the lowest and the highest. [default: 3, with --quick 1]
    #[arg(long)]
    rounds: Option<usize>,
    /// Seconds that are measured in each run. [default: 10, with --quick 3]
    #[arg(long)]
    seconds: Option<f64>,
    /// Viewers that open what they get; the others' packets are counted only.
    #[arg(long, value_name = "N", default_value_t = 16)]
    opened: u32,
    /// A way to set the server up, as NAME=FILE with TOML for its configuration (may be given several times).
    /// [default: by XDP, by sockets]
    #[arg(long, value_name = "NAME=FILE")]
    way: Vec<String>,
    /// How our server gets the cameras' packets: in the RTSP connection, or by UDP.
    #[arg(long, value_name = "WAY", default_value = "tcp", value_parser = ["tcp", "udp"])]
    transport: String,
    #[command(flatten)]
    peer: peer::Options,
    /// For tests: a debug build too, whose figures mean nothing.
    #[arg(long, hide = true)]
    any_build: bool,
    /// Writes everything as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Replaces the tables in docs/benchmarks.md.
    #[arg(long)]
    write_docs: bool,
}

/// Under load before anything is measured.
const WARM_UP: Duration = Duration::from_secs(2);

fn main() -> Result<()> {
    let options = Options::parse();
    ensure!(
        options.any_build || !cfg!(debug_assertions),
        "a debug build measures nothing: `cargo xtask bench cameras` builds with --release"
    );
    // SAFETY: no arguments, no memory.
    ensure!(unsafe { libc::geteuid() } == 0, "network namespaces and XDP need root");
    let start = Instant::now();
    let say = |text: &str| eprintln!("{:>4.0} s  {text}", start.elapsed().as_secs_f64());
    let numbers = if options.cameras.is_empty() { vec![64, 256, 512] } else { options.cameras.clone() };
    ensure!(numbers.iter().all(|number| (1..=1000).contains(number)), "--cameras takes 1 to 1000");
    let (ways, peer) = (ways(&options)?, options.peer.peer()?);
    let (mut cases, mut failures) = (vec![], vec![]);
    for cameras in numbers {
        say(&format!("{cameras} cameras"));
        cases.push(case(&options, cameras, &ways, peer.as_ref(), &say, &mut failures));
    }
    let tables = report::tables(&cases, &failures);
    for table in &tables {
        println!("{}", table.text());
    }
    let machine = machine();
    if let Some(path) = &options.json {
        fs::write(path, serde_json::to_string_pretty(&report::json(&machine, &cases))? + "\n")
            .with_context(|| path.display().to_string())?;
    }
    Failure::all_of_peers(&failures)?;
    if options.write_docs {
        let text: String = tables.iter().map(|table| format!("\n{}", table.markdown())).collect();
        write_docs(&format!("\n{machine}; {}.\n{text}\n", method(&options)))?;
    }
    let wrong: Vec<_> = cases.iter().flat_map(|case| &case.entries).filter_map(Entry::wrong).collect();
    ensure!(wrong.is_empty(), "{}", wrong.join("; "));
    Ok(())
}

fn rounds(options: &Options) -> usize {
    options.rounds.unwrap_or(if options.quick { 1 } else { 3 }).max(1)
}

fn seconds(options: &Options) -> f64 {
    options.seconds.unwrap_or(if options.quick { 3.0 } else { 10.0 }).clamp(0.5, 600.0)
}

fn method(options: &Options) -> String {
    format!("{} rounds of {:.0} s", rounds(options), seconds(options))
}

/// Names and TOML.
fn ways(options: &Options) -> Result<Vec<(String, String)>> {
    if !options.way.is_empty() {
        let way = |way: &String| {
            let (name, file) = way.split_once('=').context("--way takes NAME=FILE")?;
            Ok((name.to_owned(), fs::read_to_string(file).with_context(|| file.to_owned())?))
        };
        return options.way.iter().map(way).collect();
    }
    let ways = [("by XDP", ""), ("by sockets", "[media]\ntransmitter = \"socket\"\n")];
    let ways = ways.iter().take(if options.quick { 1 } else { 2 });
    Ok(ways.map(|(name, toml)| ((*name).to_owned(), (*toml).to_owned())).collect())
}

/// All rounds with so many cameras, the ways and the other server in turn.
fn case(
    options: &Options,
    cameras: u32,
    ways: &[(String, String)],
    peer: Option<&Peer>,
    say: &dyn Fn(&str),
    failures: &mut Vec<Failure>,
) -> Case {
    let transport = &options.transport;
    let ours = ways.iter().map(|(name, config)| (name.as_str(), Subject::Penstock { config, transport }));
    let subjects: Vec<_> = ours.chain(peer.map(|peer| (peer.name.as_str(), Subject::Peer(peer)))).collect();
    let entry = |(name, subject): &(&str, Subject<'_>)| Entry {
        name: (*name).to_owned(),
        is_peer: matches!(subject, Subject::Peer(_)),
        runs: vec![],
        failed: 0,
    };
    let mut entries: Vec<Entry> = subjects.iter().map(entry).collect();
    for _ in 0..rounds(options) {
        for (entry, (name, subject)) in entries.iter_mut().zip(&subjects) {
            match one(options, cameras, *subject) {
                Ok(run) => {
                    say(&describe(name, &run));
                    entry.runs.push(run);
                }
                // It costs whoever it is its own figures, and nobody else's.
                Err(error) => {
                    let why = format!("{error:#}");
                    say(&format!("  {name} failed: {why}"));
                    let (case, name) = (format!("{cameras} cameras"), (*name).to_owned());
                    failures.push(Failure { case, name, is_peer: entry.is_peer, why });
                    entry.failed += 1;
                }
            }
        }
    }
    Case { cameras, transport: transport.clone(), entries }
}

fn one(options: &Options, cameras: u32, subject: Subject<'_>) -> Result<Measured> {
    let (opened, shape) = (options.opened.min(cameras), Shape::default());
    let plan = Plan { streams: cameras, viewers: 1, shape, opened, one_core: false, subject };
    let mut field = Field::new(&plan, &|_| ())?;
    let measured = Duration::from_secs_f64(seconds(options));
    measure(&mut field, Times { warm_up: WARM_UP, measured, tail: Duration::ZERO }, &mut |_| ())
        .with_context(|| format!("its log ends with\n{}", field.server.log()))
}

/// A run in a line.
fn describe(name: &str, run: &Measured) -> String {
    let percent = |cores: f64| 100.0 * cores;
    let millis = |part| {
        run.latency(part).map_or_else(|| "–".into(), |time: Duration| format!("{:.1}", time.as_secs_f64() * 1e3))
    };
    format!(
        "  {name:<24} {:>5.1} % (process {:.1}, receiving {:.1}, ksoftirqd {:.1}), {:.1} MB, p50 {} p99 {} ms, \
         lost {}, late {:.1?}; generator {:.1} %, viewers {:.1} %",
        percent(run.server()),
        percent(run.cores.process),
        percent(run.cores.receiving),
        percent(run.cores.ksoftirqd),
        run.megabytes(),
        millis(0.5),
        millis(0.99),
        loss_cell(run.lost, run.expected),
        run.late,
        percent(run.cores.generator),
        percent(run.cores.viewers),
    )
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

/// Replaces what is between the markers of docs/benchmarks.md.
fn write_docs(tables: &str) -> Result<()> {
    const BEGIN: &str = "<!-- bench-cameras: begin -->\n";
    const END: &str = "<!-- bench-cameras: end -->";
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/benchmarks.md");
    let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let (Some(begin), Some(end)) = (text.find(BEGIN), text.find(END)) else {
        bail!("{} lacks its markers", path.display());
    };
    fs::write(&path, [&text[..begin + BEGIN.len()], tables, &text[end..]].concat())?;
    eprintln!("wrote {}", path.display());
    Ok(())
}
