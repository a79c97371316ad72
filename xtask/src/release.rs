//! `cargo xtask release`: the optimised binary, for this machine or aarch64, and an archive of it with its libraries.

use std::{
    process::Command,
    sync::{Arc, Mutex},
};

use crate::{
    cross::Cross,
    ebpf::{self, Objects},
    kernels::guest::Machine,
    process::{Outcome, cargo, root, run as run_command},
    progress::{self, Step},
    setup,
};

/// Below the repository.
const FOLDER: &str = "target/archives";

/// `cargo xtask release [--arch ARCHITECTURE] [--binary]`.
///
/// # Errors
/// Something cannot be built, or this machine cannot build for that one.
pub(crate) fn run(arguments: &[&str]) -> Outcome {
    let (mut machine, mut pack) = (Machine::HERE, true);
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        match *argument {
            "--arch" => {
                let name = rest.next().ok_or("--arch needs x86_64 or aarch64")?;
                machine = Machine::of(name).ok_or_else(|| format!("{name} is neither x86_64 nor aarch64"))?;
            }
            "--binary" => pack = false,
            other => return Err(format!("unknown option {other}")),
        }
    }
    if machine != Machine::HERE && machine != Machine::Aarch64 {
        return Err(format!("{} is built on such a machine only", machine.name()));
    }
    setup::run(setup::Scope::BuildOnly)?;
    ebpf::build_for(machine.name(), Objects::Product)?;
    let cross = if machine == Machine::HERE { None } else { Some(prepare()?) };
    let mut command = cross.as_ref().map_or_else(cargo, Cross::cargo);
    command.args(["build", "--release", "--locked", "--package", "forwarder-user", "--bin", "penstock"]);
    let mut binary = root().join("target");
    if cross.is_some() {
        command.args(["--target", machine.target()]).env("PENSTOCK_EBPF", ebpf::objects(machine.name()));
        binary = binary.join(machine.target());
    }
    run_command(&mut command)?;
    let binary = binary.join("release/penstock");
    if !pack {
        println!("{}", binary.display());
        return Ok(());
    }
    let mut command = Command::new(root().join("config/container/archive.sh"));
    command.arg(binary).args([env!("CARGO_PKG_VERSION"), machine.name()]).arg(root().join(FOLDER));
    if let Some(cross) = cross {
        command.env("SYSROOT", cross.root()).env("STRIP", cross.tool("strip"));
    }
    run_command(&mut command)
}

/// The tools for aarch64, with progress.
fn prepare() -> Outcome<Cross> {
    let made: Arc<Mutex<Option<Cross>>> = Arc::default();
    let place = made.clone();
    let step = Step::new("tools for aarch64", move |console| {
        let cross = Cross::prepare(console)?;
        *place.lock().map_err(|_| "a step panicked")? = Some(cross);
        Ok(())
    });
    progress::run(vec![vec![step]])?;
    made.lock().ok().and_then(|mut made| made.take()).ok_or_else(|| "no tools were made".into())
}
