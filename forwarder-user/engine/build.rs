//! Embeds the BPF objects, which are built by `cargo xtask build-ebpf`, never committed. Where they were not built,
//! the engine is built without: `bpf::object` says so to whoever asks for one.

#![expect(clippy::disallowed_macros, reason = "cargo reads what a build script prints")]

use std::{
    env, fs,
    path::{Path, PathBuf},
    time::SystemTime,
};

use object::{
    build::elf::{Builder, SectionData},
    elf::SHT_STRTAB,
};

const FOLDER: &str = "../../target/ebpf/bpfel-unknown-none/release";
const OBJECTS: [&str; 2] = ["penstock-datapath", "penstock-transmit"];

fn main() {
    embed_objects();
}

fn embed_objects() {
    println!("cargo::rerun-if-env-changed=PENSTOCK_EBPF");
    let named = env::var_os("PENSTOCK_EBPF").map(PathBuf::from);
    let built = || PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default()).join(FOLDER);
    let folder = named.clone().unwrap_or_else(built);
    let missing = OBJECTS.iter().all(|name| !folder.join(name).exists());
    if missing && named.is_none() {
        wait_for(&folder);
    }
    for name in OBJECTS {
        let object = folder.join(name);
        // A copy of our own, so that the crate never includes a half-written file.
        let copy = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default()).join(name);
        let embedded =
            if missing && named.is_none() { fs::write(copy, []).map_err(failed) } else { embed(&object, &copy) };
        if let Err(error) = embedded {
            println!(
                "cargo::error=the BPF object {} cannot be read ({error}): run `cargo xtask build-ebpf` first, \
                 or name a folder with objects in PENSTOCK_EBPF",
                object.display()
            );
        }
    }
}

fn embed(object: &Path, copy: &Path) -> Result<(), String> {
    println!("cargo::rerun-if-changed={}", object.display());
    let object = fs::read(object).map_err(failed)?;
    fs::write(copy, without_dwarf(&object).map_err(failed)?).map_err(failed)
}

fn failed(error: impl ToString) -> String {
    error.to_string()
}

/// Has this run again when the objects are there. Cargo takes a path that does not exist for one that has changed,
/// and would build everything above this crate each time: so the folder is made, with a time that is long past.
fn wait_for(folder: &Path) {
    let made = fs::create_dir_all(folder).and_then(|()| fs::File::open(folder)?.set_modified(SystemTime::UNIX_EPOCH));
    if let Err(error) = made {
        println!("cargo::warning={} cannot be made: {error}", folder.display());
    }
    println!("cargo::rerun-if-changed={}", folder.display());
    println!("cargo::warning=no BPF object, so no kernel engine in this build: `cargo xtask build-ebpf` makes it");
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
