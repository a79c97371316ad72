//! `cargo xtask bench compare`: this tree's benchmark beside another's, in pairs. Method: `docs/benchmarks.md`.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Instant,
};

use anyhow::{Context, Result, ensure};
use clap::{Parser, ValueEnum};
use serde_json::Value;
use tests_bench::{
    pairs::Ratio,
    report::{Figure, Table},
};

/// Runs a benchmark of this tree and of another in turn, and says how much dearer this one is: the median ratio of the
/// pairs and its 95 % interval. Let nothing else run meanwhile.
#[derive(Parser)]
#[command(name = "bench compare")]
struct Options {
    /// The other tree, with which this one is compared: a checkout in which the benchmark has been built.
    #[arg(long, value_name = "FOLDER")]
    before: PathBuf,
    /// Which benchmark.
    #[arg(long, value_enum, default_value = "fanout")]
    bench: Bench,
    #[arg(long, default_value_t = 10)]
    pairs: u32,
    /// Fails if a case is not within so many per cent: if its interval reaches beyond.
    #[arg(long, value_name = "PERCENT")]
    within: Option<f64>,
    /// Arguments of the benchmark.
    #[arg(last = true, value_name = "ARGUMENTS")]
    rest: Vec<String>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Bench {
    /// ns per packet of the BPF programs.
    Datapath,
    /// ns per copy of each contender and case.
    Fanout,
    /// Cores and memory for each number of cameras.
    Cameras,
}

impl Bench {
    /// Below a tree's `target`.
    fn program(self) -> &'static str {
        match self {
            Self::Datapath => "debug/bench-datapath",
            Self::Fanout => "release/bench-fanout",
            Self::Cameras => "release/bench-cameras",
        }
    }

    /// One run, as short as it may be.
    fn arguments(self, json: &Path) -> Vec<String> {
        let json = json.display().to_string();
        let words: &[&str] = match self {
            Self::Datapath => &["--rounds", "1", "--json"],
            Self::Fanout | Self::Cameras => &["--quick", "--rounds", "1", "--json", &json],
        };
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    /// Name and figure of whatever costs something.
    fn figures(self, report: &Value) -> BTreeMap<String, f64> {
        let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
        let text = |value: &Value| value.as_str().unwrap_or("?").to_owned();
        let mut figures = BTreeMap::new();
        let mut add = |name: String, value: &Value| {
            figures.extend(value["median"].as_f64().map(|figure| (name, figure)));
        };
        match self {
            Self::Datapath => {
                for (table, rows) in report["tables"].as_object().into_iter().flatten() {
                    for row in list(rows) {
                        let labels = row.as_object().into_iter().flatten().filter(|(_, value)| !value.is_object());
                        let labels: Vec<_> = labels.map(|(name, value)| format!("{name} {value}")).collect();
                        for (figure, value) in row.as_object().into_iter().flatten() {
                            add(format!("{table}: {}, {figure}", labels.join(", ")), value);
                        }
                    }
                }
            }
            Self::Fanout => {
                for outcome in list(&report["outcomes"]) {
                    for entry in list(&outcome["contenders"]) {
                        let name = format!("{}, {}", text(&outcome["case"]["name"]), text(&entry["contender"]));
                        add(name, &entry["ns_per_copy"]);
                    }
                }
            }
            Self::Cameras => {
                for case in list(&report["cases"]) {
                    for entry in list(&case["entries"]) {
                        for figure in ["server_cores", "process_bytes"] {
                            let name = format!("{} cameras, {}, {figure}", case["cameras"], text(&entry["name"]));
                            add(name, &entry[figure]);
                        }
                    }
                }
            }
        }
        figures
    }
}

fn main() -> Result<()> {
    let options = Options::parse();
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let folder = tempfile::tempdir()?;
    let start = Instant::now();
    let mut pairs: BTreeMap<String, Vec<(f64, f64)>> = BTreeMap::new();
    for pair in 0..options.pairs {
        let run = |tree: &Path| run(options.bench, tree, &options.rest, &folder.path().join("report.json"));
        // What a run leaves behind, a warm cache or a hot processor, is left to each as often.
        let [before, after] = if pair % 2 == 0 {
            [run(&options.before)?, run(&here)?]
        } else {
            let after = run(&here)?;
            [run(&options.before)?, after]
        };
        for (name, before) in before {
            if let Some(after) = after.get(&name) {
                pairs.entry(name).or_default().push((before, *after));
            }
        }
        eprintln!("{:>4.0} s  pair {} of {}", start.elapsed().as_secs_f64(), pair + 1, options.pairs);
    }
    println!("{}", table(&pairs).text());
    let Some(limit) = options.within else { return Ok(()) };
    let beyond = pairs.iter().filter(|(_, pairs)| !Ratio::of(pairs).is_some_and(|ratio| ratio.within(limit)));
    let beyond: Vec<&str> = beyond.map(|(name, _)| name.as_str()).collect();
    ensure!(beyond.is_empty(), "not within {limit} %: {}", beyond.join("; "));
    Ok(())
}

/// The figures of one run of a tree's benchmark.
fn run(bench: Bench, tree: &Path, rest: &[String], json: &Path) -> Result<BTreeMap<String, f64>> {
    let program = tree.join("target").join(bench.program());
    let output = Command::new(&program)
        .args(bench.arguments(json))
        .args(rest)
        .current_dir(tree)
        .stderr(Stdio::piped())
        .output()
        .with_context(|| format!("{}: build it first, by running that benchmark there", program.display()))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{}: {}\n{said}", program.display(), output.status);
    let report = match bench {
        Bench::Datapath => output.stdout,
        Bench::Fanout | Bench::Cameras => std::fs::read(json).context("its report")?,
    };
    Ok(bench.figures(&serde_json::from_slice(&report).context("its report")?))
}

fn table(pairs: &BTreeMap<String, Vec<(f64, f64)>>) -> Table {
    let row = |(name, pairs): (&String, &Vec<(f64, f64)>)| {
        let side = |of: fn(&(f64, f64)) -> f64| Figure::of(pairs.iter().map(of)).median;
        let ratio = Ratio::of(pairs);
        let interval = ratio.and_then(|ratio| ratio.interval);
        vec![
            name.clone(),
            format!("{:.4}", side(|pair| pair.0)).trim_end_matches(".0000").to_owned(),
            format!("{:.4}", side(|pair| pair.1)).trim_end_matches(".0000").to_owned(),
            ratio.map_or_else(|| "–".into(), |ratio| format!("{:.3}", ratio.median)),
            interval.map_or_else(|| "–".into(), |[low, high]| format!("{low:.3}–{high:.3}")),
            pairs.len().to_string(),
        ]
    };
    Table {
        title: "This tree to the other: medians, and the ratio of each pair".into(),
        header: vec!["", "before", "after", "ratio", "95 %", "pairs"],
        rows: pairs.iter().map(row).collect(),
    }
}
