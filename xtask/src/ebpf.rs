//! Builds the BPF object and says what is in it.

use std::{collections::BTreeMap, env, fs, io::Write, path::PathBuf, process::Command, time::Instant};

use crate::{
    elf::Object,
    linker,
    process::{Outcome, path_with_cargo_bin, root, run, scrub},
    program,
    toolchain::{self, TARGET, Toolchain},
};

/// Every object: the datapath, the userspace engine's transmitter, and those of tests and benchmarks.
pub(crate) const OBJECTS: [&str; 4] = ["penstock-datapath", "penstock-transmit", "penstock-vectors", "penstock-bench"];

/// The datapath's object. `forwarder-user/engine/build.rs` embeds it from here, and the transmitter's beside it.
pub(crate) fn object_path() -> PathBuf {
    objects(env::consts::ARCH).join("penstock-datapath")
}

/// The folder of the objects for a machine.
pub(crate) fn objects(machine: &str) -> PathBuf {
    target_folder(machine).join(TARGET).join("release")
}

fn target_folder(machine: &str) -> PathBuf {
    if machine == env::consts::ARCH {
        root().join("target/ebpf")
    } else {
        root().join(format!("target/ebpf-{machine}"))
    }
}

/// Which objects are built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Objects {
    /// Those that the server embeds.
    Product,
    /// And those of tests and benchmarks: `tests/ebpf`.
    All,
}

/// Builds; cargo knows whether there is anything to do.
///
/// # Errors
/// No compiler, no linker, or the build failed; the message says what to do.
pub(crate) fn build(objects: Objects) -> Outcome<Toolchain> {
    build_for(env::consts::ARCH, objects)
}

/// The same for another machine.
///
/// # Errors
/// As [`build`].
pub(crate) fn build_for(machine: &str, objects: Objects) -> Outcome<Toolchain> {
    let toolchain = toolchain::pick()?;
    if !linker::installed(toolchain.llvm_major) {
        return Err(format!(
            "no bpf-linker for LLVM {} in PATH. Run `cargo xtask setup`, or by hand\n  {}",
            toolchain.llvm_major,
            linker::install_line(toolchain.llvm_major),
        ));
    }
    run(&mut build_command(&toolchain, machine, objects))?;
    Ok(toolchain)
}

/// Clippy of all BPF programs, by the compiler that builds them; what follows `--` is the caller's.
///
/// # Errors
/// No compiler.
pub(crate) fn clippy() -> Outcome<Command> {
    let toolchain = toolchain::pick()?;
    Ok(command(toolchain.clippy(), &toolchain, env::consts::ARCH, Objects::All))
}

fn build_command(toolchain: &Toolchain, machine: &str, objects: Objects) -> Command {
    let words = toolchain.cargo.iter().cloned().chain(["build".into()]).collect();
    command(words, toolchain, machine, objects)
}

/// `words` are a command of cargo's, as `cargo build`.
fn command(words: Vec<String>, toolchain: &Toolchain, machine: &str, objects: Objects) -> Command {
    // v3 and unaligned loads: without them the verifier loses bounds and sees four times the
    // instructions. BTF: maps are defined in it, and line information for the verifier's log.
    let flags = [
        &format!("--cfg=bpf_target_arch=\"{machine}\""),
        "-Cdebuginfo=2",
        "-Ctarget-cpu=v3",
        "-Clink-arg=--btf",
        "-Clink-arg=--cpu-features=+allows-misaligned-mem-access",
    ];
    let Some((program, first)) = words.split_first() else { unreachable!("a command has a program") };
    let mut command = Command::new(program);
    scrub(&mut command)
        .args(first)
        .current_dir(root().join("forwarder-ebpf"))
        .args(["--release", "--bins", "--locked", "--target", TARGET, "--target-dir"])
        .arg(target_folder(machine))
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"))
        // aya-ebpf uses unstable inline assembly; every compiler but a nightly needs permission.
        .env("RUSTC_BOOTSTRAP", "1")
        .env("PATH", path_with_cargo_bin());
    if toolchain.build_std {
        command.args(["-Z", "build-std=core"]);
    }
    if objects == Objects::All {
        command.arg("--workspace");
    }
    if let Some(rustc) = &toolchain.rustc {
        command.env("RUSTC", rustc).env("CARGO", rustc.with_file_name("cargo"));
    }
    command
}

/// `cargo xtask build-ebpf [--check]`.
///
/// # Errors
/// As [`build`]; with `check`, when the kernel refuses the object.
pub(crate) fn build_and_report(check: bool) -> Outcome {
    let start = Instant::now();
    let toolchain = build(Objects::Product)?;
    println!("built by {}, LLVM {}, in {:.1} s\n", toolchain.name, toolchain.llvm_major, start.elapsed().as_secs_f32());
    let report = report()?;
    // Whoever reads only the first lines (`| head`) has what he wants.
    let _ = std::io::stdout().write_all(report.as_bytes());
    if check {
        println!();
        program::VERIFY_EBPF.run(&[])?;
    }
    Ok(())
}

/// Path, sections, programs and maps of the object.
fn report() -> Outcome<String> {
    let mut lines = Vec::new();
    let path = object_path();
    let file = fs::read(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    let object = Object::parse(&file).ok_or_else(|| format!("{} is no BPF object", path.display()))?;
    let maps = aya_obj::Object::parse(&file).map_err(|error| format!("the object's maps: {error}"))?.maps;
    let maps: BTreeMap<_, _> = maps.into_iter().collect();

    lines.push(format!("{}  ({} bytes)", path.strip_prefix(root()).unwrap_or(&path).display(), file.len()));
    lines.push("\nprograms and functions         section          instructions".into());
    let mut functions: BTreeMap<&str, (&str, usize)> = BTreeMap::new();
    for symbol in object.symbols.iter().filter(|symbol| symbol.function && symbol.global) {
        if let Some(section) = object.sections.get(symbol.section).filter(|section| section.executable) {
            functions.insert(symbol.name, (section.name, symbol.size / 8));
        }
    }
    for (name, (section, instructions)) in &functions {
        lines.push(format!("  {name:<28} {section:<16} {instructions:>12}"));
    }
    lines.push("\nmaps (default size)            type             entries    key    value        bytes".into());
    for (name, map) in &maps {
        let (entries, key, value) = (map.max_entries(), map.key_size(), map.value_size());
        let bytes = u64::from(entries) * u64::from(key + value);
        let kind = map_type_name(map.map_type());
        lines.push(format!("  {name:<28} {kind:<14} {entries:>9} {key:>6} {value:>8} {bytes:>12}"));
    }
    lines.push("\nsections                                              bytes".into());
    let interesting = |name: &str| !name.starts_with(".debug") && !name.starts_with(".rel") && !name.is_empty();
    for section in object.sections.iter().filter(|section| interesting(section.name) && section.size > 0) {
        lines.push(format!("  {:<44} {:>12}", section.name, section.size));
    }
    lines.push(String::new());
    Ok(lines.join("\n"))
}

/// `BPF_MAP_TYPE_*` as bpftool calls it.
fn map_type_name(map_type: u32) -> String {
    let name = match map_type {
        1 => "hash",
        2 => "array",
        5 => "percpu_hash",
        6 => "percpu_array",
        9 => "lru_hash",
        12 => "array_of_maps",
        13 => "hash_of_maps",
        14 => "devmap",
        25 => "devmap_hash",
        27 => "ringbuf",
        33 => "arena",
        other => return format!("type {other}"),
    };
    name.to_owned()
}
