//! The programs of `tests/` that commands run: what each needs, and how it is built.

use std::{path::PathBuf, process::Command};

use crate::{
    ebpf::{self, Objects},
    process::{Outcome, cargo, root, run as run_command},
    setup::{self, Scope},
};

/// A program of one of the packages of `tests/`.
pub(crate) struct Program {
    name: &'static str,
    /// Programs that it starts.
    others: &'static [&'static str],
    /// A release build alone is worth measuring.
    release: bool,
    needs: Scope,
}

pub(crate) const DEMO: Program = Program { name: "demo", others: &[], release: false, needs: Scope::Everything };
/// Asks the kernel's verifier.
pub(crate) const VERIFY_EBPF: Program =
    Program { name: "verify-ebpf", others: &[], release: false, needs: Scope::BuildOnly };
/// Times are the kernel's own, whatever the build.
pub(crate) const BENCH_DATAPATH: Program =
    Program { name: "bench-datapath", others: &[], release: false, needs: Scope::Networks };
pub(crate) const BENCH_FANOUT: Program = Program {
    name: "bench-fanout",
    others: &["bench-fanout-host", "load-cameras"],
    release: true,
    needs: Scope::Networks,
};
pub(crate) const BENCH_CAMERAS: Program =
    Program { name: "bench-cameras", others: &["load-cameras", "penstock"], release: true, needs: Scope::Networks };
pub(crate) const BENCH_COMPARE: Program = Program {
    name: "bench-compare",
    others: &["bench-fanout", "bench-fanout-host", "bench-cameras", "load-cameras", "penstock"],
    release: true,
    needs: Scope::Networks,
};
pub(crate) const BENCH_NETWORK: Program =
    Program { name: "bench-network", others: &["penstock"], release: true, needs: Scope::Everything };
pub(crate) const BENCH_JOIN: Program =
    Program { name: "bench-join", others: &["penstock"], release: true, needs: Scope::Networks };
pub(crate) const LOAD_CAMERAS: Program =
    Program { name: "load-cameras", others: &[], release: true, needs: Scope::BuildOnly };
pub(crate) const SOAK_CAMERAS: Program =
    Program { name: "soak-cameras", others: &["load-cameras", "penstock"], release: true, needs: Scope::Networks };

/// A release build tries ten times as many inputs; allocations are the same.
pub(crate) const FUZZ: Program = Program { name: "fuzz", others: &[], release: true, needs: Scope::BuildOnly };
/// It judges counters, whatever the build.
pub(crate) const SOAK_HOSTILE: Program =
    Program { name: "soak-hostile", others: &["penstock"], release: true, needs: Scope::Networks };

impl Program {
    /// Sets up, builds and runs it, with its arguments.
    ///
    /// # Errors
    /// When something cannot be built, or the program fails.
    pub(crate) fn run(&self, arguments: &[&str]) -> Outcome {
        setup::run(self.needs)?;
        ebpf::build(Objects::All)?;
        if self.release {
            let mut build = cargo();
            build.args(["build", "--release", "--locked", "--package", "tests-bench", "--package", "tests-fuzz"]);
            build.args(["--package", "forwarder-user"]);
            run_command(build.args([self.name].iter().chain(self.others).flat_map(|binary| ["--bin", binary])))?;
        } else {
            // Without the tests themselves: those who only want to see it wait less, and nothing is compiled twice later.
            run_command(cargo().args(["build", "--workspace", "--bins", "--locked"]))?;
        }
        run_command(Command::new(self.path()).args(arguments).current_dir(root()))
    }

    fn path(&self) -> PathBuf {
        root().join("target").join(if self.release { "release" } else { "debug" }).join(self.name)
    }

    /// What it says of its own options. `None`: it has not been built.
    pub(crate) fn help(&self) -> Option<Command> {
        let mut command = Some(self.path()).filter(|path| path.is_file()).map(Command::new)?;
        command.arg("--help");
        Some(command)
    }
}
