//! The programs of the guests: built for their machine, and stripped, since a guest keeps them in its memory.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use super::{guest::Machine, libraries::Libraries};
use crate::{
    archive::{self, Suite, failed},
    cross::Cross,
    ebpf,
    process::{Outcome, cargo, display, find, root},
    progress::Console,
};

/// How much of it is built, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Extent {
    /// What loads objects, as the tests' own build has it: the kernel does the work.
    Load,
    /// All, as the tests' own build has it.
    Debug,
    /// All, optimised.
    Release,
}

/// Stripped programs of a machine, and where the rest of a system is.
#[derive(Clone)]
pub(super) struct Programs {
    pub machine: Machine,
    /// By name: `guest`, and `penstock`, `datapath`, `demo` where everything was built.
    pub files: Vec<(String, PathBuf)>,
    /// BPF objects.
    pub objects: PathBuf,
    /// `busybox`, `ip`, `ethtool`.
    pub tools: Vec<(String, PathBuf)>,
    /// The system's root, for libraries.
    root: PathBuf,
}

impl Programs {
    /// Builds them. The BPF objects for the machine are there already.
    ///
    /// # Errors
    /// Something cannot be built, or a tool is missing.
    pub(super) fn build(machine: Machine, extent: Extent, console: &Console<'_>) -> Outcome<Self> {
        let here = machine == Machine::HERE;
        let cross = if here { None } else { Some(Cross::prepare(console)?) };
        let built = compile(machine, extent, cross.as_ref(), console)?;
        let folder = root().join("target/kernels/programs").join(machine.name());
        archive::make(&folder)?;
        let strip = cross.as_ref().map_or_else(|| PathBuf::from("strip"), |cross| cross.tool("strip"));
        let mut files = Vec::new();
        for (name, path) in built {
            let stripped = folder.join(&name);
            console.run(Command::new(&strip).arg("--strip-debug").arg("-o").arg(&stripped).arg(&path))?;
            files.push((name, stripped));
        }
        let root = cross.as_ref().map_or_else(|| "/".into(), Cross::root);
        let tools = tools(machine, &root, console)?;
        Ok(Self { machine, files, objects: ebpf::objects(machine.name()), tools, root })
    }

    /// The shared libraries of all of them, by name, and the loader.
    ///
    /// # Errors
    /// One is missing.
    pub(super) fn libraries(&self) -> Outcome<Vec<(String, PathBuf)>> {
        let libraries = Libraries::of(&self.root, self.machine);
        let programs: Vec<_> = self.files.iter().chain(&self.tools).map(|(_, path)| path.clone()).collect();
        let mut found = libraries.needed(&programs)?;
        found.push((self.machine.loader().to_owned(), libraries.loader()?));
        Ok(found)
    }
}

/// Names and unstripped files.
fn compile(
    machine: Machine,
    extent: Extent,
    cross: Option<&Cross>,
    console: &Console<'_>,
) -> Outcome<Vec<(String, PathBuf)>> {
    let release = extent == Extent::Release;
    let mut command = cross.map_or_else(cargo, Cross::cargo);
    // Of the whole workspace, though few of its programs: so dependencies have the features that the tests' build gave
    // them, and nothing is compiled twice.
    command.args(["build", "--locked", "--workspace", "--bin", "guest"]);
    if extent != Extent::Load {
        command.args(["--bin", "penstock", "--bin", "demo", "--test", "datapath"]);
    }
    command.args(release.then_some("--release"));
    let mut folder = root().join("target");
    if cross.is_some() {
        command.args(["--target", machine.target()]).env("PENSTOCK_EBPF", ebpf::objects(machine.name()));
        folder = folder.join(machine.target());
    }
    console.run(&mut command)?;
    let folder = folder.join(if release { "release" } else { "debug" });
    let mut built = vec![("guest".to_owned(), folder.join("guest"))];
    if extent != Extent::Load {
        built.extend(["penstock", "demo"].map(|name| (name.to_owned(), folder.join(name))));
        built.push(("datapath".into(), test_binary(&mut command)?));
    }
    Ok(built)
}

/// Where cargo has put the test binary: it says so when asked again for what is built already.
fn test_binary(command: &mut Command) -> Outcome<PathBuf> {
    let output = command
        .arg("--message-format=json")
        .stdout(Stdio::piped())
        .output()
        .map_err(|error| format!("cargo: {error}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let found = text.lines().filter(|line| line.contains("\"name\":\"datapath\"")).find_map(|line| {
        let (_, rest) = line.split_once("\"executable\":\"")?;
        Some(PathBuf::from(rest.split_once('"')?.0))
    });
    found.ok_or_else(|| format!("{} names no test binary", display(command)))
}

/// Programs that guests have from Debian. `ip` and `ethtool` are this system's own, as for the tests.
fn tools(machine: Machine, system: &Path, console: &Console<'_>) -> Outcome<Vec<(String, PathBuf)>> {
    let mut tools = Vec::new();
    for name in ["ip", "ethtool"] {
        let path = if machine == Machine::HERE {
            find(name)
        } else {
            // Some are links from /sbin to /bin, which would be this system's /bin.
            ["usr/bin", "bin", "usr/sbin", "sbin"].iter().map(|bin| system.join(bin).join(name)).find(|it| it.is_file())
        };
        tools.push((name.to_owned(), path.ok_or_else(|| format!("{name} is missing: `cargo xtask setup` brings it"))?));
    }
    let busybox = if machine == Machine::HERE {
        let folder = root().join("target/kernels/busybox");
        let path = folder.join("bin/busybox");
        if !path.exists() {
            let suite = Suite::open(&archive::own_suite()?, machine.debian(), true)?;
            suite.update(console)?;
            let package = suite.show("busybox-static").ok_or("the archive has no busybox-static")?;
            archive::unpack(&suite.fetch(&[package], console)?, &folder, console)?;
        }
        // Since Debian 13, /bin is a link to /usr/bin, and packages say so.
        if path.exists() { path } else { folder.join("usr/bin/busybox") }
    } else {
        ["bin/busybox", "usr/bin/busybox"].iter().map(|it| system.join(it)).find(|it| it.is_file()).unwrap_or_default()
    };
    fs::metadata(&busybox).map_err(|error| failed(&busybox, &error))?;
    tools.push(("busybox".into(), busybox));
    Ok(tools)
}
