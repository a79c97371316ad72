//! `cargo xtask test`, `lint`, and the programs of the tests crate.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Command, Stdio},
    time::Instant,
};

use crate::{
    ebpf,
    process::{Outcome, cargo, display, root, run as run_command},
    setup,
};

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

/// Sets up, builds, and runs the tests. All groups run even when one fails.
///
/// # Errors
/// When something cannot be built, a test failed, or no test matched.
pub fn run(filter: Option<&str>) -> Outcome {
    let start = Instant::now();
    setup::run(setup::Scope::Everything)?;
    ebpf::build()?;
    build_everything()?;
    let built = start.elapsed();

    let mut totals = Totals::default();
    let mut times = Vec::new();
    let mut failures = Vec::new();
    for Group { name, mut command } in groups(filter)? {
        println!("\n── {name}");
        let start = Instant::now();
        let ok = tee(&mut command, &mut totals)?;
        times.push((name.clone(), start.elapsed()));
        if !ok {
            failures.push(name);
        }
    }

    println!("\nseconds");
    println!("  {:>6.1}  set-up and build", built.as_secs_f32());
    for (name, time) in &times {
        println!("  {:>6.1}  {name}", time.as_secs_f32());
    }
    println!("  {:>6.1}  in all\n", start.elapsed().as_secs_f32());
    let Totals { passed, failed, ignored } = totals;
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

/// One build for binaries and tests: the same features, so nothing is compiled twice.
fn build_everything() -> Outcome {
    run_command(cargo().args(["build", "--workspace", "--all-targets", "--locked"]))
}

/// Unit tests with all cores; end-to-end files one by one and one test at a time, since each
/// brings its own network and would take the other's CPU.
fn groups(filter: Option<&str>) -> Outcome<Vec<Group>> {
    let files = end_to_end_files()?;
    let test = |arguments: &[&str], filter: Option<&str>, threads: Option<&str>| {
        let mut command = cargo();
        command.args(["test", "--workspace", "--locked", "--no-fail-fast"]).args(arguments);
        command.arg("--").args(filter);
        command.args(threads.map(|threads| format!("--test-threads={threads}")));
        command
    };
    if let Some(file) = filter.filter(|filter| files.iter().any(|file| file == filter)) {
        return Ok(vec![Group { name: file.to_owned(), command: test(&["--test", file], None, Some("1")) }]);
    }
    let mut groups = vec![
        Group { name: "unit tests".into(), command: test(&["--lib", "--bins"], filter, None) },
        Group { name: "examples in the documentation".into(), command: test(&["--doc"], filter, None) },
    ];
    groups.extend(files.into_iter().map(|file| {
        let command = test(&["--test", &file], filter, Some("1"));
        Group { name: file, command }
    }));
    Ok(groups)
}

/// Names of `tests/tests/*.rs` and `tests/tests/*/main.rs`: cargo makes a test binary of each.
fn end_to_end_files() -> Outcome<Vec<String>> {
    let directory = root().join("tests/tests");
    let entries = match fs::read_dir(&directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(format!("{}: {error}", directory.display())),
    };
    let mut names: Vec<String> = entries.filter_map(|entry| test_name(&entry.ok()?.path())).collect();
    names.sort();
    Ok(names)
}

fn test_name(path: &Path) -> Option<String> {
    let is_test = path.extension().is_some_and(|extension| extension == "rs") || path.join("main.rs").is_file();
    Some(path.file_stem().filter(|_| is_test)?.to_str()?.to_owned())
}

/// Runs a command, shows its standard output and counts the summaries in it.
fn tee(command: &mut Command, totals: &mut Totals) -> Outcome<bool> {
    let failed = |error: std::io::Error, command: &Command| format!("{}: {error}", display(command));
    let mut child = command.stdout(Stdio::piped()).spawn().map_err(|error| failed(error, command))?;
    if let Some(output) = child.stdout.take() {
        let mut output = BufReader::new(output);
        let mut line = Vec::new();
        while output.read_until(b'\n', &mut line).is_ok_and(|len| len > 0) {
            // Nobody reads our output any more: the tests still run to their end.
            let _ = std::io::stdout().write_all(&line);
            totals.add(String::from_utf8_lossy(&line).trim_end());
            line.clear();
        }
    }
    Ok(child.wait().map_err(|error| failed(error, command))?.success())
}

/// `cargo xtask lint`.
///
/// # Errors
/// When something is not formatted or clippy objects.
pub fn lint() -> Outcome {
    for directory in [root().to_owned(), root().join("forwarder-ebpf")] {
        run_command(cargo().current_dir(&directory).args(["fmt", "--all", "--check"]))?;
    }
    ebpf::build()?;
    run_command(cargo().args(["clippy", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"]))
}

/// Sets up, builds and runs a program of the tests crate, with its arguments.
///
/// # Errors
/// When something cannot be built, or the program fails.
pub fn prepared_binary(name: &str, arguments: &[&str]) -> Outcome {
    setup::run(setup::Scope::Everything)?;
    ebpf::build()?;
    build_everything()?;
    run_command(Command::new(root().join("target/debug").join(name)).args(arguments).current_dir(root()))
}

/// The same with a release build, for what measures. `others`: programs that it starts.
///
/// # Errors
/// As [`prepared_binary`].
pub fn prepared_release(name: &str, others: &[&str], arguments: &[&str]) -> Outcome {
    setup::run(setup::Scope::BuildOnly)?;
    ebpf::build()?;
    let mut build = cargo();
    build.args(["build", "--release", "--locked", "--package", "penstock-tests", "--package", "forwarder-user"]);
    run_command(build.args([name].iter().chain(others).flat_map(|binary| ["--bin", binary])))?;
    run_command(Command::new(root().join("target/release").join(name)).args(arguments).current_dir(root()))
}

#[cfg(test)]
mod tests {
    use super::Totals;

    #[test]
    fn tests_in_folders_are_found_too() {
        let names = super::end_to_end_files().unwrap();
        for name in ["aiortc", "datapath", "e2e"] {
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
