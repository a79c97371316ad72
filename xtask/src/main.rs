//! Set-up, build, test, demo and benchmarks of Penstock: `cargo xtask help`.
//!
//! Few dependencies, so that the first command of a fresh clone starts within seconds.

mod archive;
mod clip;
mod cross;
mod debian;
mod ebpf;
mod elf;
mod gates;
mod help;
mod kernels;
mod linker;
mod process;
mod program;
mod progress;
mod release;
mod setup;
mod test;
mod toolchain;

use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let outcome = match help::asked(&arguments) {
        Some(command) => help::of(&command),
        None => run(&arguments),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("xtask: {message}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &[&str]) -> process::Outcome {
    match arguments {
        ["setup"] => setup::run(setup::Scope::Everything),
        ["setup", "--build-only"] => setup::run(setup::Scope::BuildOnly),
        ["build-ebpf"] => ebpf::build_and_report(false),
        ["build-ebpf", "--check"] => ebpf::build_and_report(true),
        ["test"] => test::run(None),
        ["test", filter] if !filter.starts_with('-') => test::run(Some(filter)),
        ["hosts"] => test::run(Some(test::HOSTS)),
        ["lint"] => gates::lint(None),
        ["lint", gate] => gates::lint(Some(gate)),
        ["demo", rest @ ..] => program::DEMO.run(rest),
        ["bench", "datapath", rest @ ..] => program::BENCH_DATAPATH.run(rest),
        ["bench", "fanout", rest @ ..] => program::BENCH_FANOUT.run(rest),
        ["bench", "cameras", rest @ ..] => program::BENCH_CAMERAS.run(rest),
        ["bench", "compare", rest @ ..] => program::BENCH_COMPARE.run(rest),
        ["bench", "network", rest @ ..] => program::BENCH_NETWORK.run(rest),
        ["bench", "join", rest @ ..] => program::BENCH_JOIN.run(rest),
        ["load", "cameras", rest @ ..] => program::LOAD_CAMERAS.run(rest),
        ["soak", "hostile", rest @ ..] => program::SOAK_HOSTILE.run(rest),
        ["fuzz", rest @ ..] => program::FUZZ.run(rest),
        ["release", rest @ ..] => release::run(rest),
        ["kernels", rest @ ..] => kernels::run(rest),
        ["soak", "cameras", rest @ ..] => program::SOAK_CAMERAS.run(rest),
        other => Err(format!("unknown command: {}\n\n{}", other.join(" "), help::all())),
    }
}
