//! Set-up, build, test, demo and benchmarks of Penstock: `cargo xtask help`.
//!
//! Standard library only, so that the first command of a fresh clone starts within seconds.

mod archive;
mod btf;
mod clip;
mod cross;
mod debian;
mod ebpf;
mod elf;
mod kernels;
mod linker;
mod process;
mod progress;
mod release;
mod setup;
mod test;
mod toolchain;

use std::process::ExitCode;

const USAGE: &str = "\
usage: cargo xtask COMMAND

  setup [--build-only]    install what is missing: BPF-capable rustc, bpf-linker, and what the tests need
  build-ebpf [--check]    build the BPF object and print what is in it; --check asks the kernel's verifier
  test [FILTER]           set up, build, and run every test, or those whose name or file matches FILTER
  lint                    rustfmt and clippy, warnings are errors
  demo [--viewers N] [--seconds S] [--keep] [--engine auto|kernel|userspace]
                          one publisher, N viewers, the kernel in between, in network namespaces of its own
  bench datapath [...]    ns per packet of the BPF programs (BPF_PROG_TEST_RUN)
  bench fanout [...]      what forwarding costs the machine, both engines and the limit; --quick: under two minutes
  bench cameras [...]     what 64, 256 and 512 RTSP cameras cost the machine; --quick: under two minutes
                          --peer-url, --peer-command: another WHEP server next to ours, in both
  load cameras [...]      any number of RTSP cameras in one process, for whichever server
  kernels [--kernel NAME ...] [--quick] [--debug] [--all-fixtures] [--demo] [--update] [--fetch] [--list]
          [--json | --json-file FILE]
                          boots the kernels that people have in guests, loads every program there, runs fixtures
                          and forwards; --quick: load and limits only; --debug: programs as the tests have them;
                          --demo: the demo too; --update: newer kernels, if there are any; --fetch: nothing else
  release [--arch x86_64|aarch64] [--binary]
                          the optimised binary, and target/archives/penstock-VERSION-ARCH.tar.gz with its libraries;
                          --binary: only builds it
  soak cameras [...]      64 cameras with a viewer each for three minutes: loss, latency, every packet opened
";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let outcome = match arguments.as_slice() {
        ["setup"] => setup::run(setup::Scope::Everything),
        ["setup", "--build-only"] => setup::run(setup::Scope::BuildOnly),
        ["build-ebpf"] => ebpf::build_and_report(false),
        ["build-ebpf", "--check"] => ebpf::build_and_report(true),
        ["test"] => test::run(None),
        ["test", filter] if !filter.starts_with('-') => test::run(Some(filter)),
        ["lint"] => test::lint(),
        ["demo", rest @ ..] => test::prepared_binary("demo", rest),
        ["bench", "datapath", rest @ ..] => test::prepared_binary("bench-datapath", rest),
        ["bench", "fanout", rest @ ..] => test::prepared_release("bench-fanout", &["bench-fanout-host"], rest),
        ["bench", "cameras", rest @ ..] => test::prepared_release("bench-cameras", &["load-cameras", "penstock"], rest),
        ["load", "cameras", rest @ ..] => test::prepared_release("load-cameras", &[], rest),
        ["soak", "cameras", rest @ ..] => test::prepared_release("soak-cameras", &["load-cameras", "penstock"], rest),
        ["release", rest @ ..] => release::run(rest),
        ["kernels", rest @ ..] => kernels::run(rest),
        [] | ["help" | "--help" | "-h", ..] => {
            print!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        other => Err(format!("unknown command: {}\n\n{USAGE}", other.join(" "))),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("xtask: {message}");
            ExitCode::FAILURE
        }
    }
}
