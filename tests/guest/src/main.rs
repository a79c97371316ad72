//! What runs in a guest of `cargo xtask kernels`, as its first process: loads modules, carries out the steps that the
//! kernel's command line names, tells the host what came of each, and restarts the machine, which ends it.
//!
//! Whatever the host must know is a line on the console: [`say`]. All else there is for people.

mod fixtures;
mod forward;
mod load;
mod machine;

use std::{fmt::Display, process::ExitCode, time::Instant};

use anyhow::{Context, Result, bail};

/// Begin of every line for the host.
const MARK: &str = "@penstock";

/// Where the host has put what the steps need.
const FOLDER: &str = "/penstock";

/// Name of the parameter with the steps, separated by commas.
const STEPS: &str = "penstock.steps=";

/// Runs all steps. One that fails does not keep the others from running.
fn main() -> ExitCode {
    if std::process::id() != 1 {
        eprintln!("this is the first process of a guest: `cargo xtask kernels` starts it");
        return ExitCode::FAILURE;
    }
    if let Err(error) = machine::prepare().and_then(|()| steps()) {
        say("failed", &[&"guest", &format!("{error:#}")]);
    }
    for line in machine::complaints() {
        say("failed", &[&"kernel log", &line]);
    }
    say("end", &[]);
    machine::restart()
}

fn steps() -> Result<()> {
    let line = std::fs::read_to_string("/proc/cmdline").context("/proc/cmdline")?;
    let steps = line.split_whitespace().find_map(|word| word.strip_prefix(STEPS)).context("no steps")?;
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease")?;
    say("kernel", &[&release.trim(), &std::env::consts::ARCH]);
    for step in steps.split(',') {
        say("begin", &[&step]);
        let start = Instant::now();
        match run(step) {
            Ok(()) => say("ended", &[&step, &start.elapsed().as_millis()]),
            Err(error) => say("failed", &[&step, &format!("{error:#}")]),
        }
    }
    Ok(())
}

fn run(step: &str) -> Result<()> {
    match step {
        "load" => load::run(),
        "fixtures" => fixtures::run(None),
        "some-fixtures" => fixtures::run(Some(&std::fs::read_to_string(format!("{FOLDER}/fixtures"))?)),
        "forward" => forward::run_all(),
        "verify" => forward::verify(),
        "refusal" => forward::refusal(),
        "demo" => forward::demo(),
        other => bail!("a step {other} is not known"),
    }
}

/// Tells the host something: a word, and fields without tabs and ends of lines.
fn say(what: &str, fields: &[&dyn Display]) {
    let mut line = format!("{MARK}\t{what}");
    for field in fields {
        let field = field.to_string().trim().replace(['\t', '\r'], " ").replace('\n', " / ");
        line.push('\t');
        line.push_str(&field);
    }
    println!("{line}");
}
