//! `penstock doctor` under every handicap that it has a line for. Needs root.

use std::net::{TcpListener, UdpSocket};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tests_kit::netns::{End, NetNs, veth};
use tests_kit::place;
use tests_kit::server::{binary, binary_for_all};

/// A host with one interface, and a directory for its pins.
struct Patient {
    host: NetNs,
    _other: NetNs,
    directory: tempfile::TempDir,
}

/// What the doctor said, and its exit code.
struct Diagnosis {
    report: Value,
    code: Option<i32>,
}

impl Patient {
    fn new() -> Result<Self> {
        let (host, other) = (NetNs::new("patient")?, NetNs::new("other")?);
        veth(
            End { namespace: &host, interface: "eth0", addresses: &["10.70.0.1/24"] },
            End { namespace: &other, interface: "eth0", addresses: &["10.70.0.2/24"] },
        )?;
        let directory = tempfile::Builder::new().prefix("penstock-doctor-").tempdir()?;
        Ok(Self { host, _other: other, directory })
    }

    fn pins(&self) -> std::path::PathBuf {
        self.directory.path().join("bpf")
    }

    /// Runs the doctor after `setpriv` with these arguments.
    fn examine(&self, setpriv: &[&str], arguments: &[&str]) -> Result<Diagnosis> {
        let mut command = self.host.command("setpriv");
        command.args(setpriv).arg(binary()?).args(["doctor", "--json", "--interface", "eth0"]);
        command.arg("--pin-dir").arg(self.pins()).args(arguments);
        diagnose(&mut command)
    }

    fn without(&self, capabilities: &[&str], arguments: &[&str]) -> Result<Diagnosis> {
        let dropped: Vec<String> = capabilities.iter().map(|name| format!("-{name}")).collect();
        let dropped = dropped.join(",");
        self.examine(&["--inh-caps", &dropped, "--bounding-set", &dropped], arguments)
    }
}

fn diagnose(command: &mut Command) -> Result<Diagnosis> {
    let output = command.output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let report = serde_json::from_str(&text)
        .with_context(|| format!("{command:?}: {text}{}", String::from_utf8_lossy(&output.stderr)))?;
    Ok(Diagnosis { report, code: output.status.code() })
}

impl Diagnosis {
    /// Names of checks that failed and count.
    fn failures(&self) -> Vec<&str> {
        let findings = self.report["findings"].as_array().into_iter().flatten();
        let failed = findings.filter(|finding| finding["ok"] == false && finding["need"] != "advice");
        failed.filter_map(|finding| finding["check"].as_str()).collect()
    }

    fn is(&self, failures: &[&str], outcome: &str) -> Result<()> {
        let mends = self.report["findings"].as_array().into_iter().flatten();
        ensure!(mends.clone().count() > 3, "{:#}", self.report);
        for finding in mends {
            ensure!(finding["ok"] == true || finding["mend"].is_string(), "no way to mend {finding:#}");
        }
        ensure!(self.failures() == failures, "{:?} are wrong, not {failures:?}: {:#}", self.failures(), self.report);
        let told = self.report["outcome"].as_str().unwrap_or_default();
        ensure!(told.starts_with(outcome), "the outcome is {told}, not {outcome}");
        ensure!(self.code == Some(i32::from(!failures.is_empty())), "exit code {:?}", self.code);
        Ok(())
    }
}

#[test]
fn a_healthy_host() -> Result<()> {
    let patient = Patient::new()?;
    patient.examine(&[], &[])?.is(&[], "kernel native; userspace by XDP or sockets")?;
    ensure!(!patient.pins().exists() && !patient.directory.path().join("bpf-doctor").exists(), "something was left");
    patient.examine(&[], &["--mode", "generic"])?.is(&[], "kernel generic")
}

#[test]
fn capabilities_dropped_one_by_one() -> Result<()> {
    let patient = Patient::new()?;
    let userspace = "userspace socket: ";
    patient.without(&["net_admin"], &[])?.is(&["capability CAP_NET_ADMIN"], userspace)?;
    // CAP_SYS_ADMIN stands for these two, so it goes with each; and nobody can mount.
    for (dropped, name) in [("bpf", "capability CAP_BPF"), ("perfmon", "capability CAP_PERFMON")] {
        patient.without(&[dropped, "sys_admin"], &[])?.is(&[name, "bpffs"], userspace)?;
    }
    patient.without(&["sys_admin"], &[])?.is(&["bpffs"], userspace)?;
    let nobody = ["--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all", "--bounding-set=-all"];
    std::fs::create_dir(patient.pins())?;
    let copy = binary_for_all(patient.directory.path())?;
    let mut command = patient.host.command("setpriv");
    command.args(nobody).arg(&copy).args(["doctor", "--json", "--engine", "userspace"]);
    diagnose(&mut command)?.is(&[], "userspace socket: `media.engine`")
}

#[test]
fn a_bpffs_that_is_mounted_already_needs_no_right() -> Result<()> {
    let patient = Patient::new()?;
    let pins = patient.pins();
    std::fs::create_dir(&pins)?;
    ensure!(Command::new("mount").args(["-t", "bpf", "bpf"]).arg(&pins).status()?.success(), "mount");
    let outcome = patient.without(&["sys_admin"], &[]).and_then(|diagnosis| diagnosis.is(&[], "kernel native"));
    ensure!(Command::new("umount").arg(&pins).status()?.success(), "umount");
    outcome
}

#[test]
fn busy_ports_are_found() -> Result<()> {
    let patient = Patient::new()?;
    let (web, media) = place::inside(Some(patient.host.name()), || {
        Ok((TcpListener::bind("0.0.0.0:8080")?, UdpSocket::bind("10.70.0.1:8443")?))
    })?;
    let both = ["port [::]:8080/tcp", "port 10.70.0.1:8443/udp"];
    patient.examine(&[], &[])?.is(&both, "a server does not start: port [::]:8080")?;
    drop((web, media));
    patient.examine(&[], &[])?.is(&[], "kernel native")
}

#[test]
fn interfaces_that_are_missing_or_down() -> Result<()> {
    let patient = Patient::new()?;
    let mut command = patient.host.command(binary()?);
    let output = command.args(["doctor", "--interface", "eth9", "--pin-dir"]).arg(patient.pins()).output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.code() == Some(1) && text.contains("eth9") && text.contains("there are: eth0"), "{text}");
    ensure!(patient.host.command("ip").args(["link", "set", "eth0", "down"]).status()?.success(), "ip link");
    let media = ["--media", "10.70.0.1"];
    patient.examine(&[], &media)?.is(&["interface eth0"], "userspace by XDP or sockets: interface eth0")
}
