//! Debian's side of the set-up: which system this is, what its archive has, installing from it.

use std::{fs, process::Command};

use crate::process::{is_root, output_of};

/// Oldest Debian on which the set-up is known to work.
const OLDEST: u32 = 12;

/// The system as `/etc/os-release` describes it.
pub(crate) struct System {
    /// For people.
    pub name: String,
    /// Debian 12 or newer, and we may install.
    pub known: Result<(), String>,
}

/// Reads `/etc/os-release`.
pub(crate) fn system() -> System {
    let text = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let field = |key: &str| {
        let value = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='))?;
        Some(value.trim_matches('"').to_owned())
    };
    let name = field("PRETTY_NAME").unwrap_or_else(|| "an unknown system".into());
    // Testing and unstable have no number: newer than any.
    let version = field("VERSION_ID").map_or(Some(u32::MAX), |version| version.parse().ok());
    let known = if field("ID").as_deref() != Some("debian") || version.is_none_or(|version| version < OLDEST) {
        Err(format!("{name} is not known to this set-up (Debian {OLDEST} and newer are)"))
    } else if !is_root() {
        Err("installing packages needs root".into())
    } else {
        Ok(())
    };
    System { name, known }
}

/// Refreshes the package lists.
pub(crate) fn update() -> Command {
    let mut command = apt_get();
    command.arg("update");
    command
}

/// Installs packages, and never removes one to make room (rustc-web conflicts with rustc).
pub(crate) fn install(packages: &[String]) -> Command {
    let mut command = apt_get();
    command.args(["install", "--yes", "--no-install-recommends", "--no-remove"]).args(packages);
    command
}

fn apt_get() -> Command {
    let mut command = Command::new("apt-get");
    command.env("DEBIAN_FRONTEND", "noninteractive").args(["-o", "DPkg::Lock::Timeout=300"]);
    command
}

/// Packages of the list that are not installed.
pub(crate) fn missing(packages: &[String]) -> Vec<String> {
    let installed = |package: &String| {
        let status = output_of(Command::new("dpkg-query").args(["-W", "-f=${db:Status-Status}", package]));
        status.as_deref() == Some("installed")
    };
    packages.iter().filter(|package| !installed(package)).cloned().collect()
}

/// Packages of the list that the archive does not have.
pub(crate) fn unavailable(packages: &[String]) -> Vec<String> {
    let available = |package: &String| {
        output_of(Command::new("apt-cache").args(["show", "--no-all-versions", package]))
            .is_some_and(|it| !it.is_empty())
    };
    packages.iter().filter(|package| !available(package)).cloned().collect()
}

/// Major version of the LLVM that a package of the archive is linked with.
pub(crate) fn llvm_major_of(package: &str) -> Option<u32> {
    let dependencies = output_of(Command::new("apt-cache").args([
        "depends",
        "--recurse",
        "--no-recommends",
        "--no-suggests",
        "--no-conflicts",
        "--no-breaks",
        "--no-replaces",
        "--no-enhances",
        package,
    ]))?;
    dependencies.lines().filter_map(|line| line.strip_prefix("libllvm")?.parse().ok()).max()
}
