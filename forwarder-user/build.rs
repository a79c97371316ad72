//! Embeds the BPF objects. They are built by `cargo xtask build-ebpf`, never committed.

use std::{env, fs, path::PathBuf};

const FOLDER: &str = "../target/ebpf/bpfel-unknown-none/release";
const OBJECTS: [&str; 2] = ["penstock-datapath", "penstock-transmit"];

fn main() {
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
