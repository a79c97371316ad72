//! Embeds the BPF object. It is built by `cargo xtask build-ebpf`, never committed.

use std::{env, fs, path::PathBuf};

const OBJECT: &str = "../target/ebpf/bpfel-unknown-none/release/penstock-datapath";

fn main() {
    println!("cargo::rerun-if-env-changed=PENSTOCK_EBPF");
    let object = match env::var_os("PENSTOCK_EBPF") {
        Some(path) => PathBuf::from(path),
        None => PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default()).join(OBJECT),
    };
    println!("cargo::rerun-if-changed={}", object.display());

    // A copy of our own, so that the crate never includes a half-written file.
    let copy = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default()).join("penstock-datapath");
    if let Err(error) = fs::copy(&object, &copy) {
        println!(
            "cargo::error=the BPF object {} cannot be read ({error}): run `cargo xtask build-ebpf` first, \
             or name an object in PENSTOCK_EBPF",
            object.display()
        );
    }
}
