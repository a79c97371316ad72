//! What each command does, for `cargo xtask help` and `cargo xtask COMMAND --help`.

use crate::{
    process::{Outcome, run},
    program::{self, Program},
};

/// A command of this xtask.
pub(crate) struct Command {
    /// Its words, `bench fanout`.
    name: &'static str,
    /// What may follow, for the list of all commands.
    arguments: &'static str,
    /// In the list of all commands.
    summary: &'static [&'static str],
    /// What its own help adds.
    details: &'static str,
    /// The program that knows its options.
    program: Option<&'static Program>,
}

const COMMANDS: [Command; 19] = [
    Command {
        name: "setup",
        arguments: "[--build-only]",
        summary: &["install what is missing: BPF-capable rustc, bpf-linker, and what the tests need"],
        details: "\
Looks first, says what it will do, and does nothing a second time. On Debian it installs packages, as root; elsewhere
it prints the commands and stops. The commands below set up what they need by themselves.

  --build-only    compilers alone: no browser, no FFmpeg, no GStreamer, no Python",
        program: None,
    },
    Command {
        name: "build-ebpf",
        arguments: "[--check]",
        summary: &["build the BPF objects and print what is in that of the datapath"],
        details: "\
The objects lie in target/ebpf; `cargo build` embeds those of the server.

  --check    asks the kernel's verifier too, as root",
        program: None,
    },
    Command {
        name: "test",
        arguments: "[FILTER]",
        summary: &["set up, build, and run every test, or those whose name or file matches FILTER"],
        details: "\
FILTER is the name of a test file in tests/*/tests, which runs alone then, `gates` (what `lint` looks at), `kernels`,
or part of the names of tests. Most tests
need root: they make network namespaces. At the end stands how long each file took.",
        program: None,
    },
    Command {
        name: "hosts",
        arguments: "",
        summary: &["hosts as they are: uplinks, translation, addresses that change, logs, standstills"],
        details: "\
The tests of tests/e2e/tests/hosts, which `cargo xtask test` runs too: what the machine around a server does to it, each
in network namespaces of its own. Needs root. At its end stands a table: each set-up, by default (the kernel engine
wherever it can) and with sockets alone, where there is a choice.",
        program: None,
    },
    Command {
        name: "lint",
        arguments: "[GATE]",
        summary: &["the rules that a machine can keep: rustfmt, clippy, layers, dependencies, spelling, links"],
        details: "A part of `test`. What each gate keeps: xtask/src/gates/mod.rs.",
        program: None,
    },
    Command {
        name: "demo",
        arguments: "[--viewers N] [--seconds S] [--keep] [--engine auto|kernel|userspace]",
        summary: &["one publisher, N viewers, the kernel in between, in network namespaces of its own"],
        details: "Needs root.",
        program: Some(&program::DEMO),
    },
    Command {
        name: "bench datapath",
        arguments: "[...]",
        summary: &["ns per packet of the BPF programs (BPF_PROG_TEST_RUN)"],
        details: "Needs root. docs/benchmarks.md says how each figure is made.",
        program: Some(&program::BENCH_DATAPATH),
    },
    Command {
        name: "bench fanout",
        arguments: "[...]",
        summary: &["what forwarding costs the machine, both engines and the limit; --quick: under two minutes"],
        details: "Needs root. docs/benchmarks.md says how each figure is made, and how another server is measured.",
        program: Some(&program::BENCH_FANOUT),
    },
    Command {
        name: "bench cameras",
        arguments: "[...]",
        summary: &[
            "what 64, 256 and 512 RTSP cameras cost the machine; --quick: under two minutes",
            "--peer-url, --peer-command: another WHEP server next to ours, in both",
        ],
        details: "Needs root. docs/benchmarks.md says how each figure is made, and how another server is measured.",
        program: Some(&program::BENCH_CAMERAS),
    },
    Command {
        name: "bench compare",
        arguments: "--before FOLDER [...]",
        summary: &["a benchmark of this tree beside another's, in pairs: ratios with their 95 % intervals"],
        details: "\
Needs root. FOLDER is a checkout, e.g. of `git worktree add`, in which the same benchmark has been built.

  cargo xtask bench compare --before ../before --pairs 10 --within 3 -- --contender kernel --case 1x1100",
        program: Some(&program::BENCH_COMPARE),
    },
    Command {
        name: "bench network",
        arguments: "[...]",
        summary: &["what Chromium's viewers see over bad lines, by both engines and browser to browser; --quick"],
        details: "Needs root. docs/benchmarks.md says how each figure is made.",
        program: Some(&program::BENCH_NETWORK),
    },
    Command {
        name: "bench join",
        arguments: "[--viewers N] [--within S] [--away S] [--stay S] [...]",
        summary: &["a thousand viewers join one stream in five seconds: time to first picture, pauses, memory"],
        details: "Needs root. docs/benchmarks.md says how each figure is made.",
        program: Some(&program::BENCH_JOIN),
    },
    Command {
        name: "load cameras",
        arguments: "[...]",
        summary: &["any number of RTSP cameras in one process, for whichever server"],
        details: "",
        program: Some(&program::LOAD_CAMERAS),
    },
    Command {
        name: "soak cameras",
        arguments: "[...]",
        summary: &["64 cameras with a viewer each for three minutes: loss, latency, every packet opened"],
        details: "Needs root.",
        program: Some(&program::SOAK_CAMERAS),
    },
    Command {
        name: "soak hostile",
        arguments: "[...]",
        summary: &["a live stream with twenty viewers for ten minutes while strangers do their worst"],
        details: "Needs root.",
        program: Some(&program::SOAK_HOSTILE),
    },
    Command {
        name: "fuzz",
        arguments: "[TARGET] [--minutes N] [...]",
        summary: &["fuzz every parser that sees outside bytes, a minute each; a little of it is in `test`"],
        details: "Seeded and repeatable; what does harm is kept in tests/fuzz/corpus. `--minutes 60` for hours.",
        program: Some(&program::FUZZ),
    },
    Command {
        name: "kernels",
        arguments: "[--kernel NAME ...] [--quick] [--all-fixtures] [--demo] [...]",
        summary: &[
            "boot the kernels that people have in guests: load every program there, run fixtures, forward",
            "--quick: load and limits only",
        ],
        details: "\
Kernels and qemu come from Debian's archive and are unpacked below target/kernels; nothing is installed. Debian only.

  --kernel NAME    one kernel, or several; --list names them
  --quick          load and limits only
  --debug          programs as the tests' own build has them
  --all-fixtures   every fixture of the datapath, not the quick ones alone
  --demo           the demo as well
  --update         looks for newer packages
  --fetch          fetches, and stops there
  --json           prints the report for programs; --json-file FILE writes it beside the table",
        program: None,
    },
    Command {
        name: "release",
        arguments: "[--arch x86_64|aarch64] [--binary]",
        summary: &["the optimised binary, and target/archives/penstock-VERSION-ARCH.tar.gz with its libraries"],
        details: "  --binary    only builds it",
        program: None,
    },
    Command {
        name: "help",
        arguments: "[COMMAND]",
        summary: &["this list, or what a command does; so does COMMAND --help"],
        details: "",
        program: None,
    },
];

/// Wide enough for most commands with their arguments.
const COLUMN: usize = 24;

/// The list of all commands.
pub(crate) fn all() -> String {
    list(&COMMANDS.iter().collect::<Vec<_>>())
}

fn list(commands: &[&Command]) -> String {
    let mut text = String::from("usage: cargo xtask COMMAND\n\n");
    for command in commands {
        let mut left = format!("{} {}", command.name, command.arguments);
        if left.len() > COLUMN {
            text += &format!("  {left}\n");
            left.clear();
        }
        for line in command.summary {
            text += &format!("  {left:<COLUMN$}{line}\n");
            left.clear();
        }
    }
    text
}

/// Help for a command (`bench fanout`), or for all that begin so (`bench`). A program that is built already adds its
/// own options.
///
/// # Errors
/// No such command.
pub(crate) fn of(words: &[&str]) -> Outcome {
    let name = words.join(" ");
    if name.is_empty() {
        print!("{}", all());
        return Ok(());
    }
    let Some(command) = COMMANDS.iter().find(|command| command.name == name) else {
        let family: Vec<_> = COMMANDS.iter().filter(|command| command.name.starts_with(&format!("{name} "))).collect();
        if family.is_empty() {
            return Err(format!("unknown command: {name}\n\n{}", all()));
        }
        print!("{}", list(&family));
        return Ok(());
    };
    println!("usage: cargo xtask {} {}\n\n{}", command.name, command.arguments, command.summary.join("\n"));
    if !command.details.is_empty() {
        println!("\n{}", command.details);
    }
    match command.program.map(Program::help) {
        None => Ok(()),
        Some(Some(mut program)) => {
            println!();
            run(&mut program)
        }
        Some(None) => {
            println!("\nIts options stand here as soon as it has been built, which its first run does.");
            Ok(())
        }
    }
}

/// The words of the command for which the arguments ask for help, `help COMMAND` or `COMMAND … --help`. `None`: they do
/// not ask.
pub(crate) fn asked<'a>(arguments: &[&'a str]) -> Option<Vec<&'a str>> {
    match arguments {
        [] => Some(vec![]),
        ["help" | "--help" | "-h", rest @ ..] => Some(rest.to_vec()),
        words if words.iter().any(|word| matches!(*word, "--help" | "-h")) => {
            Some(words.iter().copied().take_while(|word| !word.starts_with('-')).collect())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_has_help() {
        for command in COMMANDS.iter().filter(|command| command.name != "help") {
            let words: Vec<&str> = command.name.split(' ').chain(["--viewers", "3", "--help"]).collect();
            assert_eq!(asked(&words).unwrap().join(" "), command.name);
            assert!(all().contains(command.name) && !command.summary.is_empty());
        }
        assert_eq!(asked(&["help", "bench", "fanout"]), Some(vec!["bench", "fanout"]));
        assert_eq!(asked(&["bench", "-h"]), Some(vec!["bench"]));
        assert_eq!(asked(&["test", "replay"]), None);
        assert!(of(&["bench"]).is_ok() && of(&["bensh"]).is_err());
    }

    #[test]
    fn lines_fit_a_terminal() {
        assert!(all().lines().all(|line| line.chars().count() <= 120), "{}", all());
    }
}
