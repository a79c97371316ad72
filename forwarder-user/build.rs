//! Says from which commit a release is.

#![expect(clippy::disallowed_macros, reason = "cargo reads what a build script prints")]

use std::{env, process::Command};

/// The commit, from outside where there is no repository (a container's build).
const COMMIT: &str = "PENSTOCK_COMMIT";

fn main() {
    println!("cargo::rustc-env={COMMIT}={}", commit());
}

/// Only a release says from which commit it is: otherwise each commit would mean another build.
fn commit() -> String {
    println!("cargo::rerun-if-env-changed={COMMIT}");
    if let Ok(commit) = env::var(COMMIT) {
        return commit;
    }
    if env::var("PROFILE").as_deref() != Ok("release") {
        return "development".into();
    }
    let Some(commit) = git(&["rev-parse", "HEAD"]) else { return "unknown".into() };
    if let Some(log) = git(&["rev-parse", "--path-format=absolute", "--git-path", "logs/HEAD"]) {
        println!("cargo::rerun-if-changed={log}");
    }
    match git(&["status", "--porcelain", "--untracked-files=no"]) {
        Some(changes) if changes.is_empty() => commit,
        _ => format!("{commit}-dirty"),
    }
}

fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8(output.stdout).ok()?.trim().to_owned())
}
