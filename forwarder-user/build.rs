//! Embeds the BPF objects, which are built by `cargo xtask build-ebpf`, never committed, and the commit.

use std::{env, fs, path::PathBuf, process::Command};

use object::{
    build::elf::{Builder, SectionData},
    elf::SHT_STRTAB,
};

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
        let embedded = fs::read(&object).map_err(|error| error.to_string()).and_then(|object| {
            let object = without_dwarf(&object).map_err(|error| error.to_string())?;
            fs::write(copy, object).map_err(|error| error.to_string())
        });
        if let Err(error) = embedded {
            println!(
                "cargo::error=the BPF object {} cannot be read ({error}): run `cargo xtask build-ebpf` first, \
                 or name a folder with objects in PENSTOCK_EBPF",
                object.display()
            );
        }
    }
}

/// Takes the debug information out, four fifths of an object: lines for the verifier's log are in its BTF.
fn without_dwarf(object: &[u8]) -> object::build::Result<Vec<u8>> {
    let mut builder = Builder::read(object)?;
    for section in &mut builder.sections {
        section.delete |= section.name.starts_with(b".debug_") || section.name.starts_with(b".rel.debug_");
    }
    // bpf-linker keeps names of sections and of symbols in one table, which the builder does not write.
    if !builder.sections.iter().any(|section| matches!(section.data, SectionData::SectionString)) {
        let names = builder.sections.add();
        names.name = b".shstrtab".as_slice().into();
        names.sh_type = SHT_STRTAB;
        names.data = SectionData::SectionString;
    }
    builder.delete_orphan_symbols();
    let mut without = vec![];
    builder.write(&mut without)?;
    Ok(without)
}
