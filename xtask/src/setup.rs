//! `cargo xtask setup`: what is missing, how to get it, and getting it.

use std::{fs, path::PathBuf, process::Command, time::Instant};

use crate::{
    clip, debian, gates, linker,
    process::{Outcome, cargo, display, find, output_of, root, scrub},
    progress::{self, Lane, Step},
    toolchain::{self, Toolchain},
};

/// How much to set up.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd)]
pub(crate) enum Scope {
    /// Compilers only.
    BuildOnly,
    /// And what makes network namespaces, for benchmarks.
    Networks,
    /// And what tests and demo need.
    Everything,
}

/// Debian's compiler with `core` ready-made for BPF.
const COMPILER: [&str; 3] = ["rustc-web", "cargo-web", "libstd-rust-web-dev-bpf"];

/// Programs that must be in `PATH`, and the Debian packages that bring them.
const TO_BUILD: [(&str, &[&str]); 2] = [("cc", &["gcc", "libc6-dev"]), ("pkg-config", &["pkg-config"])];
const TO_MEASURE: [(&str, &[&str]); 3] = [("ip", &["iproute2"]), ("ethtool", &["ethtool"]), ("mount", &["mount"])];
const TO_TEST: [(&str, &[&str]); 14] = [
    ("bpftool", &["bpftool"]),
    ("chromium", &["chromium"]),
    ("firefox-esr", &["firefox-esr"]),
    ("ffmpeg", &["ffmpeg"]),
    ("python3", &["python3"]),
    ("promtool", &["prometheus"]),
    // An authority for certificates by ACME.
    ("pebble", &["pebble"]),
    // Hosts that translate.
    ("iptables", &["iptables"]),
    ("systemd-analyze", &["systemd"]),
    // A proxy in front, for HTTP and for connections.
    ("nginx", &["nginx-light", "libnginx-mod-stream"]),
    // Containers, without recommended packages: none of them is needed to run on the host's network.
    ("podman", &["podman"]),
    ("crun", &["crun"]),
    // Modules of the kernels that guests boot.
    ("xz", &["xz-utils"]),
    ("zstd", &["zstd"]),
];

/// GStreamer with WebRTC, its RTSP server and client and its Python bindings, which Debian's own Python has: packages, and what
/// they must be able to do.
const GSTREAMER: [&str; 10] = [
    "gstreamer1.0-nice",
    "gstreamer1.0-plugins-bad",
    "gstreamer1.0-plugins-base",
    "gstreamer1.0-plugins-good",
    "gstreamer1.0-rtsp",
    "gstreamer1.0-tools",
    "gir1.2-gst-plugins-bad-1.0",
    "gir1.2-gst-plugins-base-1.0",
    "gir1.2-gst-rtsp-server-1.0",
    "python3-gi",
];
const GSTREAMER_CHECK: &str = "\
import gi
gi.require_version('Gst', '1.0'); gi.require_version('GstSdp', '1.0'); gi.require_version('GstWebRTC', '1.0')
gi.require_version('GstRtspServer', '1.0')
from gi.repository import Gst, GstRtspServer, GstSdp, GstWebRTC
Gst.init(None)
assert all(map(Gst.ElementFactory.find, 'webrtcbin nicesink dtlsenc srtpenc vp8enc vp8dec opusenc opusdec openh264enc x265enc alawenc voaacenc rtspclientsink'.split()))";

/// rustfmt and clippy of Debian's compiler.
const LINTERS: [&str; 2] = ["rustfmt-web", "rust-web-clippy"];

/// What has to be done.
struct Plan {
    /// Debian packages.
    packages: Vec<String>,
    /// No compiler here can build for BPF.
    compiler: bool,
    /// LLVM of the compiler, for which bpf-linker is missing.
    linker: Option<u32>,
    /// cargo-deny is missing.
    cargo_deny: bool,
    /// The rustup toolchain that builds BPF programs has no clippy.
    clippy: bool,
    python: bool,
    clip: bool,
}

/// Sets up; a second run finds nothing to do.
///
/// # Errors
/// On an unknown system with something missing, with the commands; or when a step fails.
pub(crate) fn run(scope: Scope) -> Outcome {
    let start = Instant::now();
    let system = debian::system();
    let mut plan = look(scope);
    if plan.is_empty() {
        println!("set-up: nothing to do on {} (checked in {:.1} s)", system.name, start.elapsed().as_secs_f32());
        return Ok(());
    }
    if plan.needs_packages() {
        system.known.clone().map_err(|why| by_hand(&why, &plan))?;
        println!("set-up: refreshing the package lists of {}", system.name);
        progress::run(vec![vec![Step::command("apt-get update", debian::update())]])?;
        plan.complete_packages()?;
    }
    plan.announce(&system.name);
    if !plan.packages.is_empty() && plan.linker.is_some() {
        // The linker needs LLVM and a C compiler; chromium and the rest can arrive while it compiles.
        let (first, second) = plan.split_packages();
        progress::run(vec![vec![install_step("packages for building", &first)]])?;
        plan.packages = second;
    }
    progress::run(plan.lanes())?;
    let left = look(scope);
    if !left.is_empty() {
        return Err(by_hand("set-up ran, but something is still missing", &left));
    }
    println!("set-up: done in {:.0} s", start.elapsed().as_secs_f32());
    Ok(())
}

/// What is missing, without asking the archive.
fn look(scope: Scope) -> Plan {
    let toolchain = toolchain::pick().ok();
    let networks = if scope >= Scope::Networks { TO_MEASURE.as_slice() } else { &[] };
    let tests = if scope >= Scope::Everything { TO_TEST.as_slice() } else { &[] };
    let programs = TO_BUILD.iter().chain(networks).chain(tests);
    let mut packages: Vec<String> = programs
        .filter(|(program, _)| find(program).is_none())
        .flat_map(|(_, packages)| packages.iter().map(ToString::to_string))
        .collect();
    if output_of(Command::new("pkg-config").args(["--modversion", "openssl"])).is_none() {
        packages.push("libssl-dev".into());
    }
    let everything = scope == Scope::Everything;
    if everything && output_of(Command::new("python3").args(["-c", "import ensurepip, venv"])).is_none() {
        packages.push("python3-venv".into());
    }
    let gstreamer = || output_of(Command::new("/usr/bin/python3").args(["-c", GSTREAMER_CHECK]));
    if everything && gstreamer().is_none() {
        packages.extend(GSTREAMER.map(String::from));
    }
    let (clippy, linters) = if everything { linters(toolchain.as_ref()) } else { (false, false) };
    if linters {
        packages.extend(LINTERS.map(String::from));
    }
    let linker = toolchain.as_ref().map(|it| it.llvm_major).filter(|&major| !linker::installed(major));
    if let Some(major) = linker {
        packages.extend(missing_llvm(major));
    }
    Plan {
        packages,
        compiler: toolchain.is_none(),
        linker,
        cargo_deny: everything && !cargo_deny_ready(),
        clippy,
        python: everything && !python_ready(),
        clip: everything && !clip::present(),
    }
}

/// Whether rustup has to bring clippy, and whether Debian has to bring it and rustfmt.
fn linters(bpf: Option<&Toolchain>) -> (bool, bool) {
    let ours = ["fmt", "clippy"].iter().all(|tool| output_of(cargo().args([tool, "--version"])).is_some());
    match bpf {
        Some(bpf) if bpf.has_clippy() => (false, !ours),
        Some(bpf) if bpf.clippy_component().is_some() => (true, !ours),
        _ => (false, true),
    }
}

fn cargo_deny_ready() -> bool {
    let version = find("cargo-deny").and_then(|program| output_of(Command::new(program).arg("--version")));
    version.is_some_and(|version| version == format!("cargo-deny {}", gates::CARGO_DENY))
}

/// Half a minute on two cores: as a program that is not optimised it is there sooner, and fast enough.
fn install_cargo_deny() -> Command {
    let mut command = cargo();
    scrub(&mut command).env("CARGO_PROFILE_DEV_DEBUG", "0").args([
        "install",
        "cargo-deny",
        "--version",
        gates::CARGO_DENY,
        "--locked",
        "--force",
        "--debug",
    ]);
    command
}

fn missing_llvm(major: u32) -> Option<String> {
    let config = PathBuf::from(format!("/usr/lib/llvm-{major}/bin/llvm-config"));
    (!config.exists()).then(|| format!("llvm-{major}-dev"))
}

impl Plan {
    fn is_empty(&self) -> bool {
        let Self { packages, compiler, linker, cargo_deny, clippy, python, clip } = self;
        packages.is_empty()
            && linker.is_none()
            && ![compiler, cargo_deny, clippy, python, clip].into_iter().any(|it| *it)
    }

    fn needs_packages(&self) -> bool {
        self.compiler || !self.packages.is_empty()
    }

    /// Adds what only the archive knows: the compiler and its LLVM.
    fn complete_packages(&mut self) -> Outcome {
        if self.compiler {
            let compiler = COMPILER.map(String::from);
            let unavailable = debian::unavailable(&compiler);
            if !unavailable.is_empty() {
                let why =
                    format!("this system's archive has no {} (is its security suite enabled?)", unavailable.join(", "));
                return Err(by_hand(&why, self));
            }
            self.packages.extend(compiler);
            let major = debian::llvm_major_of("libstd-rust-web-dev").or_else(|| debian::llvm_major_of("rustc-web"));
            let major = major.ok_or("apt-cache does not say which LLVM rustc-web uses")?;
            if !linker::installed(major) {
                self.linker = Some(major);
                self.packages.extend(missing_llvm(major));
            }
        }
        self.packages = debian::missing(&self.packages);
        match self.linker {
            Some(major) if !linker::LLVM_MAJORS.contains(&major) => {
                Err(format!("bpf-linker {} cannot be built for LLVM {major}", linker::VERSION))
            }
            _ => Ok(()),
        }
    }

    fn announce(&self, system: &str) {
        println!("set-up on {system} will");
        if !self.packages.is_empty() {
            println!("  install Debian packages: {}", self.packages.join(" "));
        }
        if let Some(major) = self.linker {
            println!(
                "  build bpf-linker {} for LLVM {major} by `cargo install`: 1 to 2 minutes on 2 cores",
                linker::VERSION
            );
        }
        if self.cargo_deny {
            println!("  build cargo-deny {} by `cargo install`", gates::CARGO_DENY);
        }
        if self.clippy {
            println!("  add clippy to the rustup toolchain of BPF programs");
        }
        println!("  fetch the sources of the crates in both Cargo.lock files");
        if self.python {
            println!("  make target/venv with the Python packages of tests/python/requirements.txt");
        }
        if self.clip {
            println!("  encode the clip that tests and demo publish: target/clip");
        }
        println!();
    }

    /// Packages without which the linker cannot be compiled, and the others.
    fn split_packages(&self) -> (Vec<String>, Vec<String>) {
        let first = |name: &String| {
            COMPILER.contains(&name.as_str())
                || name.starts_with("llvm-")
                || ["gcc", "libc6-dev", "pkg-config", "libssl-dev"].contains(&name.as_str())
        };
        self.packages.iter().cloned().partition(first)
    }

    fn lanes(&self) -> Vec<Lane> {
        let mut linker_lane = Lane::new();
        if let Some(major) = self.linker {
            linker_lane.push(Step::command(format!("bpf-linker {}", linker::VERSION), linker::install(major)));
        }
        if self.cargo_deny {
            linker_lane.push(Step::command(format!("cargo-deny {}", gates::CARGO_DENY), install_cargo_deny()));
        }
        if let Some(component) = toolchain::pick().ok().filter(|_| self.clippy).and_then(|it| it.clippy_component()) {
            linker_lane.push(Step::command("clippy", component));
        }
        let mut packages_lane = Lane::new();
        if !self.packages.is_empty() {
            packages_lane.push(install_step("packages", &self.packages));
        }
        if self.python {
            packages_lane.push(Step::new("Python packages", make_venv));
        }
        if self.clip {
            packages_lane.push(Step::new("clip", clip::make));
        }
        let fetch = ["Cargo.toml", "forwarder-ebpf/Cargo.toml"].map(|manifest| {
            let mut command = cargo();
            command.args(["fetch", "--locked", "--manifest-path", manifest]);
            Step::command(format!("crates of {manifest}"), command)
        });
        vec![linker_lane, packages_lane, fetch.into()]
    }
}

fn install_step(name: &str, packages: &[String]) -> Step {
    Step::command(format!("{name}: {}", packages.len()), debian::install(packages))
}

fn requirements() -> PathBuf {
    root().join("tests/python/requirements.txt")
}

fn venv() -> PathBuf {
    root().join("target/venv")
}

/// The requirements that the environment was made from are kept in it.
fn python_ready() -> bool {
    match fs::read(requirements()) {
        Ok(wanted) => fs::read(venv().join("requirements.txt")).is_ok_and(|have| have == wanted),
        Err(_) => true,
    }
}

fn make_venv(console: &progress::Console<'_>) -> Outcome {
    console.run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(venv()))?;
    let mut pip = Command::new(venv().join("bin/pip"));
    pip.args(["install", "--disable-pip-version-check", "--no-input", "--requirement"]).arg(requirements());
    console.run(&mut pip)?;
    fs::copy(requirements(), venv().join("requirements.txt")).map_err(|error| format!("target/venv: {error}"))?;
    Ok(())
}

/// The commands for a person whose system the set-up does not touch.
fn by_hand(why: &str, plan: &Plan) -> String {
    let mut lines = vec![format!("{why}. What is missing, and how to get it:")];
    let mut packages = plan.packages.clone();
    if plan.compiler {
        lines.push("  a Rust compiler for BPF, one of".into());
        lines.push("    rustup toolchain install nightly --component rust-src".into());
        lines.push(format!("    {}    (Debian 12 and newer)", display(&debian::install(&COMPILER.map(String::from)))));
    }
    if !packages.is_empty() {
        packages.sort();
        lines.push("  programs (names of Debian's packages; other systems have similar ones)".into());
        lines.push(format!("    {}", display(&debian::install(&packages))));
    }
    if plan.linker.is_some() || plan.compiler {
        lines.push("  bpf-linker, for the LLVM major version N that `rustc -vV` of that compiler shows".into());
        let line = linker::install_line(plan.linker.unwrap_or(0));
        lines.push(format!("    {}", if plan.linker.is_some() { line } else { line.replace("llvm-0", "llvm-N") }));
    }
    if plan.cargo_deny {
        lines.push(format!("  cargo-deny\n    {}", display(&install_cargo_deny())));
    }
    if plan.clippy {
        lines.push("  clippy for the nightly\n    rustup component add clippy --toolchain nightly".into());
    }
    if plan.python || plan.clip {
        lines.push("  then `cargo xtask setup` once more: it makes target/venv and target/clip".into());
    }
    lines.join("\n")
}
