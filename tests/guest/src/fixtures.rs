//! The datapath's fixtures, by the test binary of the same sources.

use std::{
    io::{BufRead as _, BufReader},
    process::{Command, Stdio},
    time::Instant,
};

use anyhow::{Context, Result, ensure};

use crate::{FOLDER, say};

/// Runs all tests of the binary, or those whose names are lines of `some`.
pub fn run(some: Option<&str>) -> Result<()> {
    let mut command = Command::new(format!("{FOLDER}/datapath"));
    command.args(["--test-threads=1", "--nocapture"]).stdout(Stdio::piped()).current_dir(FOLDER);
    if let Some(some) = some {
        command.arg("--exact").args(some.lines().filter(|line| !line.trim().is_empty()));
    }
    let mut child = command.spawn().context("the test binary does not start")?;
    let (mut last, mut output, mut told, mut start) = (String::new(), Vec::new(), 0, Instant::now());
    for line in BufReader::new(child.stdout.take().context("no output")?).lines() {
        let line = line?;
        println!("{line}");
        // `test NAME ... ok`, of which the end may come later, after what the test has printed.
        if let Some((name, _)) = line.strip_prefix("test ").and_then(|rest| rest.split_once(" ... ")) {
            name.clone_into(&mut last);
            say("running", &[&last]);
            start = Instant::now();
            output.clear();
        }
        let outcome = line.rsplit_once(' ').map_or(line.as_str(), |(_, word)| word);
        match outcome {
            "ok" | "FAILED" if !last.is_empty() => {
                let output = if outcome == "ok" { String::new() } else { output.join("\n") };
                say("fixture", &[&last, &outcome, &output, &start.elapsed().as_millis()]);
                told += 1;
                last.clear();
            }
            _ => output.push(line),
        }
    }
    let status = child.wait()?;
    // A failed fixture has been told; a process that was killed has not.
    ensure!(status.code().is_some_and(|code| code == 0 || code == 101), "the test binary ended with {status}");
    ensure!(told > 0, "no fixture ran");
    Ok(())
}
