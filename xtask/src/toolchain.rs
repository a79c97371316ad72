//! Which compiler builds the BPF object.
//!
//! Two are known to work: a rustup nightly with rust-src (`-Z build-std=core`), and Debian's
//! `rustc-web` whose package `libstd-rust-web-dev-bpf` brings `core` ready-made for BPF.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

use crate::process::{Outcome, output_of};

/// The target of the BPF object: little endian, like every machine that we run on.
pub(crate) const TARGET: &str = "bpfel-unknown-none";

/// A compiler that can build for [`TARGET`].
pub(crate) struct Toolchain {
    /// Program and first arguments of its cargo.
    pub cargo: Vec<String>,
    /// Set where cargo would not find the right rustc by itself.
    pub rustc: Option<PathBuf>,
    /// `core` must be built from its sources.
    pub build_std: bool,
    /// Major version of the LLVM inside. bpf-linker reads its bitcode, so it needs the same.
    pub llvm_major: u32,
    /// For people.
    pub name: String,
}

/// Order: `BPF_RUSTC`; rustup's `BPF_TOOLCHAIN` or nightly, if it has what it takes; a rustc with
/// ready-made BPF core; a rustc with library sources.
///
/// # Errors
/// When none is there, with both ways to get one.
pub(crate) fn pick() -> Outcome<Toolchain> {
    if let Some(rustc) = env::var_os("BPF_RUSTC").map(PathBuf::from) {
        return system(&rustc, "BPF_RUSTC").ok_or_else(|| {
            format!("BPF_RUSTC={} does not run, or has neither a BPF core nor rust-src", rustc.display())
        });
    }
    rustup()
        .or_else(|| installed(|toolchain| !toolchain.build_std))
        .or_else(|| installed(|toolchain| toolchain.build_std))
        .ok_or_else(|| {
            format!(
                "no Rust compiler here can build for {TARGET}. Run `cargo xtask setup`, or by hand either\n  \
                 rustup toolchain install nightly --component rust-src\nor, on Debian 12 and newer,\n  \
                 apt-get install rustc-web cargo-web libstd-rust-web-dev-bpf"
            )
        })
}

impl Toolchain {
    /// The beginning of a clippy command: program, arguments. Of a compiler that is not rustup's, the clippy that lies
    /// beside it, since the first one in `PATH` may be another compiler's.
    pub(crate) fn clippy(&self) -> Vec<String> {
        match &self.rustc {
            Some(rustc) => vec![rustc.with_file_name("cargo-clippy").display().to_string(), "clippy".into()],
            None => self.cargo.iter().cloned().chain(["clippy".into()]).collect(),
        }
    }

    /// Whether it has clippy.
    pub(crate) fn has_clippy(&self) -> bool {
        let words = self.clippy();
        words
            .split_first()
            .is_some_and(|(program, rest)| output_of(Command::new(program).args(rest).arg("--version")).is_some())
    }

    /// How to get clippy, where the toolchain is rustup's.
    pub(crate) fn clippy_component(&self) -> Option<Command> {
        let [rustup, run, name, ..] = self.cargo.as_slice() else { return None };
        let mut command = Command::new(rustup);
        command.args(["component", "add", "clippy", "--toolchain", name]);
        (run == "run").then_some(command)
    }
}

fn rustup() -> Option<Toolchain> {
    let toolchain = env::var("BPF_TOOLCHAIN").unwrap_or_else(|_| "nightly".into());
    let rustc = || {
        let mut command = Command::new("rustup");
        command.args(["run", &toolchain, "rustc"]);
        command
    };
    let sysroot = sysroot(&mut rustc())?;
    if !has_core(&sysroot) && !has_sources(&sysroot) {
        return None;
    }
    Some(Toolchain {
        cargo: ["rustup", "run", &toolchain, "cargo"].map(String::from).to_vec(),
        rustc: None,
        build_std: !has_core(&sysroot),
        llvm_major: llvm_major(&mut rustc())?,
        name: format!("rustup toolchain {toolchain}"),
    })
}

fn installed(accept: impl Fn(&Toolchain) -> bool) -> Option<Toolchain> {
    ["/usr/bin/rustc", "rustc"].iter().find_map(|rustc| system(Path::new(rustc), rustc).filter(&accept))
}

fn system(rustc: &Path, name: &str) -> Option<Toolchain> {
    let sysroot = sysroot(&mut Command::new(rustc))?;
    let (core, sources) = (has_core(&sysroot), has_sources(&sysroot));
    if !core && !sources {
        return None;
    }
    // A cargo of the same package knows the flags of this rustc; any other will do.
    let beside = rustc.with_file_name("cargo");
    let cargo = if beside.is_absolute() && beside.exists() { beside.display().to_string() } else { "cargo".into() };
    let why = if core { "ready-made BPF core" } else { "library sources" };
    Some(Toolchain {
        cargo: vec![env::var("BPF_CARGO").unwrap_or(cargo)],
        rustc: Some(rustc.to_owned()),
        build_std: !core,
        llvm_major: llvm_major(&mut Command::new(rustc))?,
        name: format!("{name} ({why})"),
    })
}

fn sysroot(rustc: &mut Command) -> Option<PathBuf> {
    output_of(rustc.args(["--print", "sysroot"])).map(PathBuf::from)
}

fn llvm_major(rustc: &mut Command) -> Option<u32> {
    let version = output_of(rustc.arg("-vV"))?;
    version.lines().find_map(|line| line.strip_prefix("LLVM version: ")?.split('.').next()?.parse().ok())
}

fn has_core(sysroot: &Path) -> bool {
    let library = sysroot.join("lib/rustlib").join(TARGET).join("lib");
    library.read_dir().is_ok_and(|mut files| {
        files.any(|file| {
            file.is_ok_and(|file| {
                let name = file.file_name();
                let name = name.to_string_lossy();
                name.starts_with("libcore-") && name.ends_with(".rlib")
            })
        })
    })
}

fn has_sources(sysroot: &Path) -> bool {
    sysroot.join("lib/rustlib/src/rust/library/Cargo.lock").is_file()
}
