//! `cargo xtask lint`: the rules that a machine can keep. Each gate runs, also when one before it failed.
//!
//! | gate | keeps |
//! | --- | --- |
//! | rustfmt | one layout, `rustfmt.toml` |
//! | clippy | the lints of `Cargo.toml`, what `clippy.toml` forbids; of the product, the tests and this xtask |
//! | clippy of the BPF programs | the same for `forwarder-ebpf` and `tests/ebpf`, by the compiler that builds them |
//! | layers | which crate and which module may use which: [`layers`] |
//! | cargo deny | licences, versions and origins of dependencies: `deny.toml` |
//! | spelling | `_typos.toml` |
//! | links | in Markdown files, to files and headings: [`links`] |

mod layers;
mod links;

use std::{fs, path::PathBuf, process::Command, time::Instant};

use crate::{
    ebpf::{self, Objects},
    process::{Outcome, cargo, cargo_home, find, output_of, root, run},
    setup,
};

/// The version of cargo-deny that `deny.toml` is written for.
pub(crate) const CARGO_DENY: &str = "0.20.2";

/// What each lint of clippy's is made: an error.
const DENY_WARNINGS: [&str; 3] = ["--", "-D", "warnings"];

/// A rule, and what looks whether it is kept.
type Gate = (&'static str, fn() -> Outcome);

const GATES: [Gate; 7] = [
    ("layers", layers::check),
    ("links", links::check),
    ("spelling", spelling),
    ("rustfmt", rustfmt),
    ("cargo deny", cargo_deny),
    ("clippy of the BPF programs", clippy_of_bpf),
    ("clippy", clippy),
];

/// Sets up, and runs every gate, or the one that is named.
///
/// # Errors
/// Names the gates that failed; what they found has been printed.
pub(crate) fn lint(only: Option<&str>) -> Outcome {
    let asked: Vec<&Gate> = GATES.iter().filter(|(name, _)| only.is_none_or(|only| only == *name)).collect();
    if asked.is_empty() {
        let names = GATES.map(|(name, _)| format!("\"{name}\"")).join(", ");
        return Err(format!("no gate has this name; there are {names}"));
    }
    setup::run(setup::Scope::Everything)?;
    let failed = failed(asked);
    if failed.is_empty() { Ok(()) } else { Err(format!("not kept: {}", failed.join(", "))) }
}

/// How many there are, and which of them failed.
pub(crate) fn all() -> (usize, Vec<&'static str>) {
    (GATES.len(), failed(GATES.iter()))
}

/// Runs gates, all of them, and names those that failed.
fn failed<'a>(gates: impl IntoIterator<Item = &'a Gate>) -> Vec<&'static str> {
    gates.into_iter().filter(|gate| !passes(gate)).map(|(name, _)| *name).collect()
}

fn passes((name, gate): &Gate) -> bool {
    println!("\n── {name}");
    let start = Instant::now();
    let outcome = gate();
    let time = start.elapsed().as_secs_f32();
    match outcome {
        Ok(()) => println!("✓ {name}  ({time:.1} s)"),
        Err(ref why) => println!("✗ {name}  ({time:.1} s)\n{why}"),
    }
    outcome.is_ok()
}

fn rustfmt() -> Outcome {
    for directory in [root().to_owned(), root().join("forwarder-ebpf")] {
        run(cargo().current_dir(&directory).args(["fmt", "--all", "--check"]))?;
    }
    Ok(())
}

fn clippy() -> Outcome {
    ebpf::build(Objects::All)?;
    run(cargo().args(["clippy", "--workspace", "--all-targets", "--locked"]).args(DENY_WARNINGS))
}

fn clippy_of_bpf() -> Outcome {
    run(ebpf::clippy()?.args(DENY_WARNINGS))
}

/// Licences, duplicates and origins of both workspaces. Known vulnerabilities too, if RustSec's database has been
/// fetched (`cargo deny fetch`): a test that needs the network fails where there is none.
fn cargo_deny() -> Outcome {
    let program = find("cargo-deny").ok_or("no cargo-deny: run `cargo xtask setup`")?;
    let (checks, advisories) = (["licenses", "bans", "sources"], has_advisories());
    for manifest in ["Cargo.toml", "forwarder-ebpf/Cargo.toml"] {
        let mut command = Command::new(&program);
        command.current_dir(root()).args(["--offline", "--workspace", "--config", "deny.toml"]);
        // The exceptions are of the larger workspace.
        let own = [
            "unmatched-skip",
            "unused-wrapper",
            "unnecessary-skip",
            "license-not-encountered",
            "license-exception-not-encountered",
        ];
        let allowed = if manifest == "Cargo.toml" { &[][..] } else { &own };
        command.args(["--manifest-path", manifest, "check"]).args(allowed.iter().flat_map(|lint| ["-A", lint]));
        command.args(checks).args(advisories.then_some("advisories"));
        run(&mut command)?;
    }
    if !advisories {
        println!("advisories: not looked at, since `cargo deny fetch` has not been run here");
    }
    Ok(())
}

/// Whether RustSec's database is here.
fn has_advisories() -> bool {
    fs::read_dir(cargo_home().join("advisory-dbs"))
        .is_ok_and(|entries| entries.flatten().any(|entry| entry.path().join(".git").is_dir()))
}

fn spelling() -> Outcome {
    run(Command::new(root().join("target/venv/bin/typos")).current_dir(root()).args(["--format", "brief"]))
}

/// Markdown and other files that git knows, below the root.
fn files(extension: &str) -> Outcome<Vec<PathBuf>> {
    let pattern = format!("*.{extension}");
    let list = output_of(Command::new("git").current_dir(root()).args(["ls-files", "-z", "--", &pattern]))
        .ok_or("`git ls-files` fails: the gates look at the files that git knows")?;
    Ok(list.split('\0').filter(|name| !name.is_empty()).map(PathBuf::from).collect())
}
