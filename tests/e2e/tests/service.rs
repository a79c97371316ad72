//! The systemd unit: its syntax, how much it leaves open, and that a server works with its rights. Needs root.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tests_kit::container::folder;
use tests_kit::netns::{End, NetNs, Running, veth};
use tests_kit::server::binary;

/// What `systemd-analyze security` may find at most: 0 is nothing open, 10 everything.
const EXPOSURE: f64 = 3.0;

fn unit() -> Result<String> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../config/penstock.service");
    fs::read_to_string(&path).with_context(|| path.display().to_string())
}

/// Value of a setting in the unit.
fn setting(name: &str) -> Result<String> {
    let unit = unit()?;
    let mut values = unit.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix('='));
    values.next().map(str::to_owned).with_context(|| format!("the unit has no {name}"))
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[test]
fn systemd_understands_it_and_little_is_left_open() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("penstock.service");
    let installed = unit()?.replace("/usr/local/bin/penstock", &binary()?.display().to_string());
    fs::write(&path, installed)?;
    let output = Command::new("systemd-analyze").arg("verify").arg(&path).output()?;
    ensure!(output.status.success() && said(&output).is_empty(), "{}", said(&output));
    let output =
        Command::new("systemd-analyze").args(["security", "--offline=true", "--no-pager"]).arg(&path).output()?;
    let text = said(&output);
    let exposure = text.split("Overall exposure level for penstock.service: ").nth(1);
    let exposure: f64 = exposure.and_then(|rest| rest.split(' ').next()).with_context(|| text.clone())?.parse()?;
    ensure!(exposure < EXPOSURE, "{exposure}\n{text}");
    Ok(())
}

/// System calls of a filter of systemd's, those of the groups that it names included.
fn calls(filter: &str) -> Result<BTreeSet<String>> {
    let mut calls = BTreeSet::new();
    for name in filter.split_whitespace() {
        if !name.starts_with('@') {
            calls.insert(name.to_owned());
            continue;
        }
        let output = Command::new("systemd-analyze").args(["syscall-filter", "--no-pager", name]).output()?;
        ensure!(output.status.success(), "{}", said(&output));
        let text = String::from_utf8(output.stdout)?;
        let members = text.lines().skip(1).map(str::trim).filter(|line| !line.starts_with('#'));
        calls.extend(self::calls(&members.collect::<Vec<_>>().join(" "))?);
    }
    Ok(calls)
}

/// The container's profile is run by a test, so the unit's filter, which allows no less, is enough too.
#[test]
fn its_system_calls_are_those_of_the_container() -> Result<()> {
    let allowed = calls(&setting("SystemCallFilter")?)?;
    let profile: Value = serde_json::from_str(&fs::read_to_string(folder().join("seccomp.json"))?)?;
    let names = profile["syscalls"][0]["names"].as_array().context("no names")?;
    let missing: Vec<_> = names.iter().filter_map(Value::as_str).filter(|name| !allowed.contains(*name)).collect();
    ensure!(names.len() > 200 && missing.is_empty(), "the unit does not allow {missing:?}");
    Ok(())
}

/// A bpffs at a place of its own, as the system's is at `/sys/fs/bpf`.
struct Bpffs(tempfile::TempDir);

impl Bpffs {
    fn mount() -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("penstock-service-").tempdir()?;
        ensure!(Command::new("mount").args(["-t", "bpf", "bpf"]).arg(directory.path()).status()?.success(), "mount");
        Ok(Self(directory))
    }
}

impl Drop for Bpffs {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(self.0.path()).status();
    }
}

#[test]
fn its_capabilities_are_enough() -> Result<()> {
    let granted = setting("CapabilityBoundingSet")?;
    let granted: Vec<String> =
        granted.split(' ').map(|name| format!("+{}", name.trim_start_matches("CAP_").to_lowercase())).collect();
    let bounding = format!("-all,{}", granted.join(","));
    let (host, near) = (NetNs::new("service")?, NetNs::new("near")?);
    veth(
        End { namespace: &host, interface: "eth0", addresses: &["10.71.0.1/24"] },
        End { namespace: &near, interface: "eth0", addresses: &["10.71.0.2/24"] },
    )?;
    let bpffs = Bpffs::mount()?;
    let pins = bpffs.0.path().join("penstock");
    let rights = ["--bounding-set", &bounding, "--inh-caps", &bounding, "--no-new-privs"];

    let mut doctor = host.command("setpriv");
    doctor.args(rights).arg(binary()?).args(["doctor", "--engine", "kernel", "--pin-dir"]).arg(&pins);
    let output = doctor.args(["--interface", "eth0"]).output()?;
    ensure!(output.status.success() && said(&output).contains("✓ kernel native"), "{}", said(&output));

    let log = tempfile::NamedTempFile::new()?;
    let mut command = host.command("setpriv");
    command.args(rights).arg(binary()?).args(["serve", "--engine", "kernel", "--mode", "native", "--pin-dir"]);
    // Another host is told of the sessions only with a right to it.
    command.env("PENSTOCK_API_TOKEN", "observer");
    command.arg(&pins).args(["--interface", "eth0"]).stdout(Stdio::null()).stderr(log.reopen()?);
    let mut server = Running::start(&mut command)?;
    let end = Instant::now() + Duration::from_secs(60);
    while !fs::read_to_string(log.path())?.contains("ready") {
        let ended = server.child().context("no process")?.try_wait()?;
        ensure!(ended.is_none() && Instant::now() < end, "{ended:?}: {}", fs::read_to_string(log.path())?);
        std::thread::sleep(Duration::from_millis(50));
    }
    let mut verify = near.command(binary()?);
    verify.args(["verify", "--url", "http://10.71.0.1:8080", "--viewers", "3", "--seconds", "2"]);
    verify.args(["--max-latency-ms", "20000", "--max-loss", "50", "--api-token", "observer"]);
    let output = verify.output()?;
    ensure!(output.status.success(), "{}{}", said(&output), fs::read_to_string(log.path())?);
    ensure!(said(&output).contains("kernel native"), "{}", said(&output));
    server.signal(libc::SIGTERM)?;
    let status = server.child().context("no process")?.wait()?;
    ensure!(status.success(), "{status}: {}", fs::read_to_string(log.path())?);
    ensure!(!pins.exists(), "pins are left in {}", pins.display());
    Ok(())
}
