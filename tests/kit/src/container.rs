//! The image of `config/container`, and containers of it: by podman, without a registry and without a daemon.
//!
//! Everything that podman keeps is in a folder that goes away with its [`Podman`].

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::netns::NetNs;
use crate::server::binary;

/// The image's name.
pub const IMAGE: &str = "localhost/penstock:test";

/// Where podman puts the binary.
const PENSTOCK: &str = "/usr/local/bin/penstock";

/// What `podman stop` waits before it kills: as in compose.yaml and the DaemonSet.
const GRACE: &str = "20";

/// Longest wait for a container to be ready.
const START: Duration = Duration::from_secs(60);

/// Freed programs and maps are visible for a while: until RCU readers are through.
const FREE: Duration = Duration::from_secs(10);

/// In a mount namespace of its own, where there is one hierarchy of cgroups only: crun refuses the systems that have
/// both.
const ALONE: &str = "umount /sys/fs/cgroup/unified 2>/dev/null; exec \"$@\"";

/// `config/container`.
#[must_use]
pub fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../config/container")
}

/// Podman with a storage of its own.
pub struct Podman {
    storage: tempfile::TempDir,
}

impl Podman {
    /// An empty storage.
    ///
    /// # Errors
    /// Podman is missing.
    pub fn new() -> Result<Self> {
        let found = Command::new("podman").arg("--version").output();
        ensure!(found.is_ok_and(|it| it.status.success()), "podman is missing: `cargo xtask setup` brings it");
        Ok(Self { storage: tempfile::Builder::new().prefix("penstock-podman-").tempdir()? })
    }

    /// Packs the binary that cargo has built, by the script and the last stage of the Dockerfile that everybody uses.
    ///
    /// # Errors
    /// With what the script printed.
    pub fn build(&self) -> Result<()> {
        let mut command = Command::new(folder().join("build.sh"));
        let engine: Vec<String> = std::iter::once("podman".into()).chain(self.options()).collect();
        command.arg(IMAGE).env("ENGINE", engine.join(" ")).env("BINARY", binary()?);
        checked(&mut command).map(drop)
    }

    fn options(&self) -> Vec<String> {
        let place = |name: &str| self.storage.path().join(name).display().to_string();
        let (root, run, temporary) = (place("storage"), place("run"), place("temporary"));
        // Vfs needs nothing of the kernel, events would go to a journal that may not be there.
        let options = ["--storage-driver", "vfs", "--events-backend", "none", "--runtime", "crun"];
        let folders = ["--root", &root, "--runroot", &run, "--tmpdir", &temporary];
        options.into_iter().chain(folders).map(str::to_owned).collect()
    }

    /// `podman …` in a network namespace.
    fn command<S: AsRef<OsStr>>(&self, place: &NetNs, arguments: impl IntoIterator<Item = S>) -> Command {
        let mut command = place.command("unshare");
        command.args(["--mount", "sh", "-c", ALONE, "sh", "podman"]).args(self.options()).args(arguments);
        // Health checks are run by the test: there may be no systemd with timers.
        command.env("DISABLE_HC_SYSTEMD", "true");
        command
    }

    /// Runs podman to its end; its output.
    ///
    /// # Errors
    /// With what it printed.
    pub fn run(&self, place: &NetNs, arguments: &[&str]) -> Result<String> {
        checked(&mut self.command(place, arguments))
    }

    /// Starts a container whose host is `place`, and waits until the server in it is ready. `options` are podman's,
    /// `arguments` those of `penstock`; none for the image's own.
    ///
    /// # Errors
    /// It is not ready in time, or has ended; with its log.
    pub fn start<'a>(&'a self, place: &'a NetNs, options: &[String], arguments: &[&str]) -> Result<Container<'a>> {
        // No cgroups: a test leaves none behind. The limits are those of any host.
        let mut all = ["run", "--detach", "--network", "host", "--cgroups", "disabled"].map(String::from).to_vec();
        all.extend(["--ulimit", "nofile=4096:4096", "--ulimit", "nproc=4096:4096"].map(String::from));
        all.extend_from_slice(options);
        all.push(IMAGE.into());
        all.extend(arguments.iter().map(ToString::to_string));
        // With `--replace`, the name of the former one comes first.
        let printed = checked(&mut self.command(place, all))?;
        let id = printed.lines().last().context("podman told no id")?.to_owned();
        let container = Container { podman: self, place, id };
        container.wait_log("ready", START)?;
        Ok(container)
    }
}

/// A running container. Killed and removed on drop.
pub struct Container<'a> {
    podman: &'a Podman,
    place: &'a NetNs,
    id: String,
}

impl Container<'_> {
    /// For podman.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    fn ask(&self, arguments: &[&str]) -> Result<String> {
        self.podman.run(self.place, &[arguments, &[&self.id]].concat())
    }

    /// All that it logged.
    ///
    /// # Errors
    /// Podman does not tell.
    pub fn log(&self) -> Result<String> {
        let output = self.podman.command(self.place, ["logs", &self.id]).output()?;
        Ok(said(&output))
    }

    /// Waits until its log has this text.
    ///
    /// # Errors
    /// It did not come in time, or the container has ended; with the log.
    pub fn wait_log(&self, text: &str, patience: Duration) -> Result<()> {
        let end = Instant::now() + patience;
        loop {
            let log = self.log()?;
            if log.contains(text) {
                return Ok(());
            }
            let running = self.ask(&["inspect", "--format", "{{.State.Running}}"])?;
            ensure!(running.trim() == "true" && Instant::now() < end, "the container did not log {text:?}:\n{log}");
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// `penstock …` in the container, by `podman exec`.
    ///
    /// # Errors
    /// With what it printed.
    pub fn exec(&self, arguments: &[&str]) -> Result<String> {
        let all = [&["exec", &self.id, PENSTOCK], arguments].concat();
        self.podman.run(self.place, &all).with_context(|| self.log().unwrap_or_default())
    }

    /// The same with `--json`.
    ///
    /// # Errors
    /// As [`exec`](Self::exec).
    pub fn exec_json(&self, arguments: &[&str]) -> Result<Value> {
        Ok(serde_json::from_str(&self.exec(&[arguments, &["--json"]].concat())?)?)
    }

    /// Runs the image's health check once.
    ///
    /// # Errors
    /// It is not healthy.
    pub fn check_health(&self) -> Result<()> {
        self.ask(&["healthcheck", "run"]).map(drop)
    }

    /// Ids of the BPF programs and maps that its process holds.
    ///
    /// # Errors
    /// It has ended.
    pub fn bpf_objects(&self) -> Result<BTreeSet<(&'static str, String)>> {
        let pid = self.ask(&["inspect", "--format", "{{.State.Pid}}"])?;
        let mut objects = BTreeSet::new();
        for entry in std::fs::read_dir(format!("/proc/{}/fdinfo", pid.trim()))? {
            // A descriptor that was closed meanwhile.
            let Ok(text) = std::fs::read_to_string(entry?.path()) else { continue };
            for (key, kind) in [("prog_id:", "prog"), ("map_id:", "map")] {
                let ids = text.lines().filter_map(|line| line.strip_prefix(key));
                objects.extend(ids.map(|id| (kind, id.trim().to_owned())));
            }
        }
        Ok(objects)
    }

    /// SIGTERM, and the end: exit code and log.
    ///
    /// # Errors
    /// Podman does not tell.
    pub fn stop(self) -> Result<(i32, String)> {
        self.ask(&["stop", "--time", GRACE])?;
        let code = self.ask(&["inspect", "--format", "{{.State.ExitCode}}"])?;
        Ok((code.trim().parse()?, self.log()?))
    }
}

impl Drop for Container<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.ask(&["rm", "--force", "--ignore", "--time", "0"]) {
            eprintln!("{error:#}");
        }
    }
}

/// Waits until the kernel has freed all of these programs and maps.
///
/// # Errors
/// Those that are still there.
pub fn wait_freed(objects: &BTreeSet<(&'static str, String)>) -> Result<()> {
    let there = |(kind, id): &&(&str, String)| {
        let output = Command::new("bpftool").args([kind, "show", "id", id]).output();
        output.is_ok_and(|output| output.status.success())
    };
    let end = Instant::now() + FREE;
    loop {
        let left: Vec<_> = objects.iter().filter(there).collect();
        if left.is_empty() {
            return Ok(());
        }
        ensure!(Instant::now() < end, "still in the kernel: {left:?}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn checked(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("{command:?}"))?;
    if !output.status.success() {
        bail!("{command:?}: {}: {}", output.status, said(&output));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
