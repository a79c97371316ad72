//! Limits of the process that no server can live with are refused in words.

use std::fs;
use std::net::{TcpListener, UdpSocket};
use std::path::PathBuf;
use std::process::{Command, Output};

use anyhow::{Context as _, Result, ensure};
use tests_kit::netns::{End, NetNs, veth};
use tests_kit::server::binary;

/// A server that is expected not to start: how it ended, and what it said.
fn refused(command: &mut Command) -> Result<(Option<i32>, String)> {
    let Output { status, stderr, .. } = command.output()?;
    let said = String::from_utf8_lossy(&stderr).into_owned();
    ensure!(!said.contains("ready after"), "it said that it was ready: {said}");
    Ok((status.code(), said))
}

/// A host with one interface.
fn host() -> Result<(NetNs, NetNs, tempfile::TempDir)> {
    let (host, other) = (NetNs::new("host")?, NetNs::new("other")?);
    veth(
        End { namespace: &host, interface: "eth0", addresses: &["10.70.0.1/24"] },
        End { namespace: &other, interface: "eth0", addresses: &["10.70.0.2/24"] },
    )?;
    Ok((host, other, tempfile::tempdir()?))
}

/// `penstock serve` there, after `before`.
fn serve(host: &NetNs, directory: &tempfile::TempDir, before: &[&str], after: &[&str]) -> Result<Command> {
    let mut command = host.command("env");
    command.args(before).arg(binary()?).args(["serve", "--interface", "eth0", "--pin-dir"]);
    command.arg(directory.path().join("bpf")).args(after);
    Ok(command)
}

#[test]
fn too_few_open_files_are_refused_with_the_number() -> Result<()> {
    let mut command = Command::new("sh");
    let (code, said) = refused(command.args(["-c", "ulimit -n 64; exec \"$0\" serve"]).arg(binary()?))?;
    ensure!(code == Some(5), "{code:?}: {said}");
    ensure!(said.contains("open files is 64") && said.contains("320"), "{said}");
    Ok(())
}

/// A cgroup of this test, of whichever version there is. Removed on drop.
struct Cgroup(PathBuf);

impl Cgroup {
    fn new(limit: &str) -> Result<Self> {
        let mut root = PathBuf::from("/sys/fs/cgroup");
        let mut file = "memory.max";
        if root.join("cgroup.controllers").exists() {
            // In the root group controllers can be handed down although it has processes.
            fs::write(root.join("cgroup.subtree_control"), "+memory").context("the memory controller of cgroup v2")?;
        } else {
            root.push("memory");
            file = "memory.limit_in_bytes";
        }
        let path = root.join(format!("penstock-test-{}", std::process::id()));
        fs::create_dir(&path).with_context(|| path.display().to_string())?;
        let group = Self(path);
        fs::write(group.0.join(file), limit).context(file)?;
        Ok(group)
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}

#[test]
fn too_little_memory_is_refused_with_the_number() -> Result<()> {
    let group = Cgroup::new("25165824")?;
    let mut command = Command::new("sh");
    command.args(["-c", "echo $$ >\"$1/cgroup.procs\" && exec \"$0\" serve"]).arg(binary()?).arg(&group.0);
    let (code, said) = refused(&mut command)?;
    ensure!(code == Some(5), "{code:?}: {said}");
    ensure!(said.contains("24 MiB") && said.contains("64 MiB"), "{said}");
    Ok(())
}

#[test]
fn missing_rights_are_refused_by_name() -> Result<()> {
    let (host, _other, directory) = host()?;
    for (name, shown) in [("bpf", "CAP_BPF"), ("net_admin", "CAP_NET_ADMIN"), ("perfmon", "CAP_PERFMON")] {
        // Of what stands in for others: CAP_SYS_ADMIN includes the other two of BPF.
        let dropped = format!("-{name},-sys_admin");
        let before = ["setpriv", "--inh-caps", dropped.as_str(), "--bounding-set", dropped.as_str()];
        let (code, said) = refused(&mut serve(&host, &directory, &before, &["--engine", "kernel"])?)?;
        ensure!(code == Some(1) && said.contains(shown), "{name}: {code:?}: {said}");
    }
    Ok(())
}

#[test]
fn ports_that_are_taken_are_named() -> Result<()> {
    let (host, _other, directory) = host()?;
    let (_http, _media) = host.run(|| -> std::io::Result<_> {
        Ok((TcpListener::bind("0.0.0.0:8081")?, UdpSocket::bind("10.70.0.1:8444")?))
    })?;
    for (arguments, named) in [(["--http", "0.0.0.0:8081"], "8081"), (["--media", "8444"], "8444")] {
        let (code, said) = refused(&mut serve(&host, &directory, &[], &arguments)?)?;
        ensure!(code == Some(1) && said.contains(named) && said.contains("in use"), "{arguments:?}: {code:?}: {said}");
    }
    Ok(())
}

#[test]
fn without_a_bpffs_the_kernel_engine_says_what_it_lacks() -> Result<()> {
    let (host, _other, directory) = host()?;
    // None is there, and none may be mounted.
    let before = ["setpriv", "--inh-caps", "-sys_admin", "--bounding-set", "-sys_admin"];
    let (code, said) = refused(&mut serve(&host, &directory, &before, &["--engine", "kernel"])?)?;
    ensure!(code == Some(1) && said.contains("bpffs") && said.contains("CAP_SYS_ADMIN"), "{code:?}: {said}");
    Ok(())
}
