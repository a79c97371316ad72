//! `cargo xtask test`.

mod table;

use std::{
    fs,
    io::{self, BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use crate::{
    ebpf::{self, Objects},
    gates, kernels,
    process::{Outcome, cargo, display, root, run as run_command},
    setup,
};

/// Files that run beside others, so many at once, and so many tests of each: most of their time they wait.
const LANES: usize = 2;
const THREADS: usize = 3;
/// The longest, which begins first.
const FIRST: &str = "server";
/// Files that have the machine to themselves, one test at a time: they load it, or count what a busy one loses.
const ALONE: [&str; 7] = [
    "bench_harness",
    "cameras_soak",
    "engine_keystream",
    "engine_many",
    "peers",
    "transmit_full_ring",
    "userspace_sessions",
];

/// The least of `cargo xtask kernels`, as a filter and in the summary.
const KERNELS: &str = "kernels";

/// What `cargo xtask hosts` runs, which ends with a table.
pub(crate) const HOSTS: &str = "hosts";

/// What `cargo xtask lint` looks at, likewise.
const GATES: &str = "gates";

/// Sums of cargo's own summary lines.
#[derive(Default)]
struct Totals {
    passed: u64,
    failed: u64,
    ignored: u64,
}

impl Totals {
    /// `test result: ok. 3 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in …`
    fn add(&mut self, line: &str) {
        let Some((_, counts)) = line.strip_prefix("test result: ").and_then(|rest| rest.split_once(". ")) else {
            return;
        };
        for part in counts.split("; ") {
            let Some((number, what)) = part.split_once(' ') else { continue };
            let number = number.parse().unwrap_or(0);
            match what {
                "passed" => self.passed += number,
                "failed" => self.failed += number,
                "ignored" => self.ignored += number,
                _ => {}
            }
        }
    }
}

/// One run of `cargo test`.
struct Group {
    name: String,
    command: Command,
}

/// How it ended.
struct Report {
    name: String,
    totals: Totals,
    time: Duration,
    ok: bool,
    /// Its tests by name, and whether each has passed.
    tests: Vec<(String, bool)>,
}

/// Sets up, builds, and runs the tests. All groups run even when one fails.
///
/// # Errors
/// When something cannot be built, a test failed, or no test matched.
pub(crate) fn run(filter: Option<&str>) -> Outcome {
    let start = Instant::now();
    setup::run(setup::Scope::Everything)?;
    ebpf::build(Objects::All)?;
    build_everything()?;
    let built = start.elapsed();

    let mut reports = Vec::new();
    if filter.is_none_or(|filter| filter == GATES) {
        reports.push(gates());
    }
    for (lanes, groups) in phases(filter)? {
        reports.extend(run_groups(groups, lanes)?);
    }
    if filter.is_none_or(|filter| filter == KERNELS) {
        reports.push(on_kernels());
    }

    if filter == Some(HOSTS) {
        println!("\n{}", table::of(reports.iter().flat_map(|report| &report.tests)));
    }
    println!("\nseconds");
    println!("  {:>6.1}  set-up and build", built.as_secs_f32());
    for report in &reports {
        println!("  {:>6.1}  {}", report.time.as_secs_f32(), report.name);
    }
    println!("  {:>6.1}  in all; {LANES} files at once where they are no load\n", start.elapsed().as_secs_f32());
    let sum = |count: fn(&Totals) -> u64| reports.iter().map(|report| count(&report.totals)).sum::<u64>();
    let (passed, failed, ignored) = (sum(|all| all.passed), sum(|all| all.failed), sum(|all| all.ignored));
    let failures: Vec<_> = reports.iter().filter(|report| !report.ok).map(|report| report.name.as_str()).collect();
    if !failures.is_empty() {
        println!("{passed} passed, {failed} failed, {ignored} skipped");
        return Err(format!("tests failed in: {}", failures.join(", ")));
    }
    if passed == 0 {
        return Err(format!("no test matches {}", filter.unwrap_or("(none)")));
    }
    println!("{passed} passed, {failed} failed, {ignored} skipped");
    Ok(())
}

/// The rules that a machine can keep; each is a test.
fn gates() -> Report {
    let start = Instant::now();
    let (all, failed) = gates::all();
    let totals = Totals { passed: (all - failed.len()) as u64, failed: failed.len() as u64, ignored: 0 };
    Report { name: GATES.into(), totals, time: start.elapsed(), ok: failed.is_empty(), tests: Vec::new() }
}

/// Do all programs load on the kernels that are furthest apart? One test, which has the machine to itself.
fn on_kernels() -> Report {
    println!("\n── {KERNELS}");
    let start = Instant::now();
    let outcome = kernels::least();
    if let Err(why) = &outcome {
        println!("{why}");
    }
    let ok = outcome.is_ok();
    let totals = Totals { passed: u64::from(ok), failed: u64::from(!ok), ignored: 0 };
    Report { name: KERNELS.into(), totals, time: start.elapsed(), ok, tests: Vec::new() }
}

/// Runs groups, so many at once.
fn run_groups(groups: Vec<Group>, lanes: usize) -> Outcome<Vec<Report>> {
    let groups = Mutex::new(groups.into_iter());
    let reports = Mutex::new(Vec::new());
    let lane = || {
        while let Some(group) = next(&groups) {
            let report = group.run();
            reports.lock().unwrap_or_else(PoisonError::into_inner).push(report);
        }
    };
    thread::scope(|scope| (0..lanes).for_each(|_| drop(scope.spawn(lane))));
    reports.into_inner().unwrap_or_else(PoisonError::into_inner).into_iter().collect()
}

fn next<T>(queue: &Mutex<impl Iterator<Item = T>>) -> Option<T> {
    queue.lock().unwrap_or_else(PoisonError::into_inner).next()
}

/// One build for binaries and tests: the same features, so nothing is compiled twice.
fn build_everything() -> Outcome {
    run_command(cargo().args(["build", "--workspace", "--all-targets", "--locked"]))
}

/// What runs after what, and how many groups of it at once. Unit tests use all cores. End-to-end tests bring their
/// own networks and wait for each other's answers, so several run at once, except those of [`ALONE`].
fn phases(filter: Option<&str>) -> Outcome<Vec<(usize, Vec<Group>)>> {
    let test = |arguments: &[&str], filter: Option<&str>, threads: Option<usize>| {
        let mut command = cargo();
        command.args(["test", "--workspace", "--locked", "--no-fail-fast"]).args(arguments);
        command.arg("--").args(filter);
        command.args(threads.map(|threads| format!("--test-threads={threads}")));
        command
    };
    let end_to_end = |file: &String, filter: Option<&str>| {
        let threads = if ALONE.contains(&file.as_str()) { 1 } else { THREADS };
        Group { name: file.clone(), command: test(&["--test", file], filter, Some(threads)) }
    };
    let files = end_to_end_files()?;
    if let Some(file) = files.iter().find(|file| filter == Some(file.as_str())) {
        return Ok(vec![(1, vec![end_to_end(file, None)])]);
    }
    let first = vec![
        Group { name: "unit tests".into(), command: test(&["--lib", "--bins"], filter, None) },
        Group { name: "examples in the documentation".into(), command: test(&["--doc"], filter, None) },
    ];
    let (alone, mut together): (Vec<_>, Vec<_>) = files.iter().partition(|file| ALONE.contains(&file.as_str()));
    together.sort_by_key(|file| *file != FIRST);
    let groups = |files: Vec<&String>| files.into_iter().map(|file| end_to_end(file, filter)).collect();
    Ok(vec![(1, first), (LANES, groups(together)), (1, groups(alone))])
}

/// Names of `tests/*/tests/*.rs` and `tests/*/tests/*/main.rs`: cargo makes a test binary of each.
fn end_to_end_files() -> Outcome<Vec<String>> {
    let files = |directory: PathBuf| match fs::read_dir(&directory) {
        Ok(entries) => Ok(entries.flatten().map(|entry| entry.path()).collect::<Vec<_>>()),
        Err(error) if error.kind() == io::ErrorKind::NotFound || error.kind() == io::ErrorKind::NotADirectory => {
            Ok(vec![])
        }
        Err(error) => Err(format!("{}: {error}", directory.display())),
    };
    let mut names = vec![];
    for package in files(root().join("tests"))? {
        names.extend(files(package.join("tests"))?.iter().filter_map(|path| test_name(path)));
    }
    names.sort();
    Ok(names)
}

fn test_name(path: &Path) -> Option<String> {
    let is_test = path.extension().is_some_and(|extension| extension == "rs") || path.join("main.rs").is_file();
    Some(path.file_stem().filter(|_| is_test)?.to_str()?.to_owned())
}

impl Group {
    /// Shows each test as it ends, and what else there is to say when all have: others may be running meanwhile.
    fn run(mut self) -> Outcome<Report> {
        let failed = |error: io::Error, command: &Command| format!("{}: {error}", display(command));
        let start = Instant::now();
        let mut child = self.command.stdout(Stdio::piped()).spawn().map_err(|error| failed(error, &self.command))?;
        let (mut totals, mut tests) = (Totals::default(), Vec::new());
        let mut rest = format!("\n── {}\n", self.name);
        if let Some(output) = child.stdout.take() {
            let mut output = BufReader::new(output);
            let mut line = Vec::new();
            while output.read_until(b'\n', &mut line).is_ok_and(|len| len > 0) {
                let text = String::from_utf8_lossy(&line);
                totals.add(text.trim_end());
                tests.extend(outcome(text.trim_end()));
                if text.starts_with("test ") && !text.starts_with("test result") {
                    say(&format!("{}: {text}", self.name));
                } else {
                    rest.push_str(&text);
                }
                line.clear();
            }
        }
        let ok = child.wait().map_err(|error| failed(error, &self.command))?.success();
        say(&rest);
        Ok(Report { name: self.name, totals, time: start.elapsed(), ok, tests })
    }
}

/// `test uplinks::a_way_that_moves ... ok`: name, and whether it has passed.
fn outcome(line: &str) -> Option<(String, bool)> {
    let (name, outcome) = line.strip_prefix("test ")?.split_once(" ... ")?;
    Some((name.to_owned(), outcome == "ok"))
}

/// When nobody reads our output any more, the tests still run to their end.
fn say(text: &str) {
    let _ = io::stdout().write_all(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::Totals;

    #[test]
    fn tests_in_folders_are_found_too() {
        let names = super::end_to_end_files().unwrap();
        for name in ["aiortc", "datapath", super::FIRST].iter().chain(&super::ALONE) {
            assert!(names.iter().any(|found| found == name), "{name} is not in {names:?}");
        }
    }

    #[test]
    fn sums_the_summary_lines_of_cargo_test() {
        let mut totals = Totals::default();
        totals.add("test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.01s");
        totals.add("test result: FAILED. 2 passed; 5 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.01s");
        totals.add("running 3 tests");
        assert_eq!((totals.passed, totals.failed, totals.ignored), (5, 5, 1));
    }
}
