//! Embeds the BPF objects, which are built by `cargo xtask build-ebpf`, never committed, and the commit.

use std::{env, fs, path::PathBuf, process::Command};

const FOLDER: &str = "../target/ebpf/bpfel-unknown-none/release";
const OBJECTS: [&str; 2] = ["penstock-datapath", "penstock-transmit"];

/// The commit, from outside where there is no repository (a container's build).
const COMMIT: &str = "PENSTOCK_COMMIT";

fn main() {
    embed_objects();
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

fn embed_objects() {
    println!("cargo::rerun-if-env-changed=PENSTOCK_EBPF");
    let folder = match env::var_os("PENSTOCK_EBPF") {
        Some(path) => PathBuf::from(path),
        None => PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default()).join(FOLDER),
    };
    for name in OBJECTS {
        let object = folder.join(name);
        println!("cargo::rerun-if-changed={}", object.display());

        // A copy of our own, so that the crate never includes a half-written file.
        let copy = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default()).join(name);
        if let Err(error) = fs::copy(&object, &copy) {
            println!(
                "cargo::error=the BPF object {} cannot be read ({error}): run `cargo xtask build-ebpf` first, \
                 or name a folder with objects in PENSTOCK_EBPF",
                object.display()
            );
        }
    }
}
