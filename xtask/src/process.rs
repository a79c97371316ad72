//! Child processes: environment, output, errors that name the command.

use std::{
    env,
    ffi::OsString,
    path::{Path, PathBuf},
    process::Command,
};

/// Result of a step; the message is for the person at the terminal.
pub(crate) type Outcome<T = ()> = Result<T, String>;

/// The repository.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."))
}

/// The cargo that runs this xtask.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root());
    command
}

/// What `cargo xtask` exports and a build for another target by another compiler must not inherit.
const CARGO_ENVIRONMENT: [&str; 11] = [
    "RUSTUP_TOOLCHAIN",
    "RUSTC",
    "RUSTC_WRAPPER",
    "RUSTC_WORKSPACE_WRAPPER",
    "RUSTDOC",
    "CARGO",
    "RUSTFLAGS",
    "CARGO_ENCODED_RUSTFLAGS",
    "CARGO_BUILD_TARGET",
    "CARGO_TARGET_DIR",
    "CARGO_BUILD_RUSTFLAGS",
];

/// Removes [`CARGO_ENVIRONMENT`] from a command.
pub(crate) fn scrub(command: &mut Command) -> &mut Command {
    for variable in CARGO_ENVIRONMENT {
        command.env_remove(variable);
    }
    command
}

/// Standard output of a command that succeeded, trimmed; `None` when it failed or does not exist.
pub(crate) fn output_of(command: &mut Command) -> Option<String> {
    let output = scrub(command).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Runs with the terminal as output.
///
/// # Errors
/// Names the command when it cannot start or fails.
pub(crate) fn run(command: &mut Command) -> Outcome {
    match command.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("{} failed: {status}", display(command))),
        Err(error) => Err(format!("{} does not start: {error}", display(command))),
    }
}

/// The command line, for people.
pub(crate) fn display(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
}

/// Where cargo keeps what is nobody's project's.
pub(crate) fn cargo_home() -> PathBuf {
    let home = env::var_os("CARGO_HOME").map(PathBuf::from).or_else(|| env::home_dir().map(|home| home.join(".cargo")));
    home.unwrap_or_default()
}

/// Where `cargo install` puts binaries.
pub(crate) fn cargo_bin() -> PathBuf {
    cargo_home().join("bin")
}

/// `PATH` with [`cargo_bin`] in it: Debian's cargo does not put it there.
pub(crate) fn path_with_cargo_bin() -> OsString {
    let path = env::var_os("PATH").unwrap_or_default();
    let bin = cargo_bin();
    let mut directories: Vec<PathBuf> = env::split_paths(&path).collect();
    if !directories.contains(&bin) {
        directories.push(bin);
    }
    env::join_paths(directories).unwrap_or(path)
}

/// First match of a program in [`path_with_cargo_bin`] and the administrator's directories.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = path_with_cargo_bin();
    let administration = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    env::split_paths(&path)
        .chain(administration)
        .map(|directory| directory.join(program))
        .find(|candidate| candidate.is_file())
}

/// Whether we run as root.
pub(crate) fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|metadata| std::os::unix::fs::MetadataExt::uid(&metadata) == 0)
}
