//! `cargo xtask bench network`: what viewers see over bad lines. Method and figures: `docs/benchmarks.md`.

use std::{
    fs,
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use tests_bench::network::{
    cells::{CELLS, Cell, Event, Whose},
    field::{Field, Middle, Run},
    report::{Entry, json, table},
};

/// Chromium publishes, another one plays, over lines that lose, delay and change; by both engines, and from browser to
/// browser through the same lines. In network namespaces of its own, as root. Let nothing else run meanwhile.
#[derive(Parser)]
#[command(name = "bench network")]
struct Options {
    /// Three lines, once, for 10 seconds each: to see that it works.
    #[arg(long)]
    quick: bool,
    /// Lines whose name has this in it (may be given several times). [default: all]
    #[arg(long, value_name = "TEXT")]
    line: Vec<String>,
    /// What is in the middle (may be given several times). [default: all]
    #[arg(long, value_name = "WHAT", value_parser = ["kernel", "userspace", "p2p"])]
    middle: Vec<String>,
    /// Rounds; each figure is their median. [default: 3, with --quick 1]
    #[arg(long)]
    rounds: Option<usize>,
    /// Seconds of each run. [default: 60, with --quick 10]
    #[arg(long)]
    seconds: Option<f64>,
    /// Fails where lost packets were not repaired: by counters, not by times.
    #[arg(long)]
    judge: bool,
    /// For tests: a debug build too, whose figures mean little.
    #[arg(long, hide = true)]
    any_build: bool,
    /// Writes everything as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Prints the table as Markdown.
    #[arg(long)]
    markdown: bool,
}

fn main() -> Result<()> {
    let options = Options::parse();
    ensure!(
        options.any_build || !cfg!(debug_assertions),
        "a debug build measures little: `cargo xtask bench network` builds with --release"
    );
    // SAFETY: no arguments, no memory.
    ensure!(unsafe { libc::geteuid() } == 0, "network namespaces and XDP need root");
    let start = Instant::now();
    let say = |text: &str| eprintln!("{:>4.0} s  {text}", start.elapsed().as_secs_f64());
    let seconds = options.seconds.unwrap_or(if options.quick { 10.0 } else { 60.0 }).clamp(2.0, 600.0);
    let rounds = options.rounds.unwrap_or(if options.quick { 1 } else { 3 }).max(1);
    let named = |cell: &&Cell| options.line.is_empty() || options.line.iter().any(|text| cell.name.contains(text));
    let cells: Vec<&'static Cell> =
        CELLS.iter().filter(named).filter(|cell| !options.quick || !options.line.is_empty() || cell.quick).collect();
    ensure!(!cells.is_empty(), "no line has such a name");
    let wanted =
        |middle: &&Middle| options.middle.is_empty() || options.middle.iter().any(|name| name == middle.name());
    let middles: Vec<Middle> = Middle::ALL.iter().filter(wanted).copied().collect();
    let mut entries: Vec<Entry> = vec![];
    // Round by round and side by side: whatever else the machine does hits all alike.
    for round in 1..=rounds {
        for cell in &cells {
            for middle in &middles {
                say(&format!("round {round}: {}, {}", cell.name, middle.name()));
                // A field of its own: what a line has done to a browser stays with it for long.
                let run = Field::new(*middle)?.try_cell(cell, Duration::from_secs_f64(seconds))?;
                let known = entries.iter().position(|entry| entry.cell.name == cell.name && entry.middle == *middle);
                match known {
                    Some(place) => entries[place].runs.push(run),
                    None => entries.push(Entry { cell, middle: *middle, runs: vec![run] }),
                }
            }
        }
    }
    println!("{}", table(&entries, options.markdown));
    if let Some(path) = &options.json {
        fs::write(path, serde_json::to_string_pretty(&json(&entries, seconds))? + "\n")
            .with_context(|| path.display().to_string())?;
    }
    let wrong: Vec<String> = entries.iter().filter_map(wrong).filter(|_| options.judge).collect();
    ensure!(wrong.is_empty(), "{}", wrong.join("; "));
    Ok(())
}

/// Where the line has lost enough and the server has repaired nothing.
fn wrong(entry: &Entry) -> Option<String> {
    /// Of packets lost in both directions, most of them reports and sound.
    const ENOUGH: u64 = 40;
    let Cell { name, whose, line, event, .. } = *entry.cell;
    if entry.middle == Middle::Nobody || line.loss == 0 || event != Event::Nothing {
        return None;
    }
    // Their places in `COUNTERS`.
    let repaired = |run: &Run| run.counters[if whose == Whose::Publisher { 1 } else { 3 }];
    let unrepaired = entry.runs.iter().any(|run| run.lost >= ENOUGH && repaired(run) == 0);
    unrepaired.then(|| format!("{name}, {}: nothing of what was lost has been repaired", entry.middle.name()))
}
