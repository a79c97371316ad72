//! The archive of a release: packed as `cargo xtask release` packs it, unpacked elsewhere, and run.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use tests_kit::{
    browser::wait_until,
    container::folder,
    names::Names,
    netns::{End, NetNs, Running, veth},
    server::binary,
};

const PATIENCE: Duration = Duration::from_secs(30);

/// What is mapped and no file of a library.
const NOT_FILES: [&str; 5] = ["[", "/dev/", "/memfd", "/SYSV", "anon_inode"];

/// Packed and unpacked; the folder with the script `penstock`.
fn unpacked(place: &Path) -> Result<PathBuf> {
    let mut pack = Command::new(folder().join("archive.sh"));
    let output = pack.arg(binary()?).args(["0.0.0", "test"]).arg(place).output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let file = String::from_utf8(output.stdout)?;
    let status = Command::new("tar").arg("-xzf").arg(file.trim()).arg("-C").arg(place).status()?;
    ensure!(status.success(), "tar: {status}");
    Ok(place.join("penstock-0.0.0-test"))
}

fn version(program: &Path) -> Result<String> {
    let output = Command::new(program).arg("version").output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}

#[test]
fn it_is_the_same_program_and_brings_its_libraries() -> Result<()> {
    let place = tempfile::Builder::new().prefix("penstock-archive-").tempdir()?;
    let root = unpacked(place.path())?;
    // Also by a link, as somebody would have it in PATH.
    let link = place.path().join("link");
    std::os::unix::fs::symlink(root.join("penstock"), &link)?;
    for program in [&root.join("penstock"), &link] {
        ensure!(version(program)? == version(&binary()?)?, "{}", version(program)?);
    }
    let (host, near) = (NetNs::new("host")?, NetNs::new("near")?);
    veth(
        End { namespace: &host, interface: "eth0", addresses: &["10.74.0.1/24"] },
        End { namespace: &near, interface: "eth0", addresses: &["10.74.0.2/24"] },
    )?;
    let mut serve = host.command(&link);
    serve.args(["serve", "--engine", "userspace", "--interface", "eth0"]);
    // Whoever comes by a name is told of the sessions only with a right to it.
    serve.env("PENSTOCK_API_TOKEN", "observer");
    let server = Running::start(&mut serve)?;
    let maps = format!("/proc/{}/maps", server.id());
    let others = || -> Result<Vec<String>> {
        let text = std::fs::read_to_string(&maps)?;
        let files = text.lines().filter_map(|line| line.split_whitespace().nth(5));
        let files = files.filter(|file| !NOT_FILES.iter().any(|begin| file.starts_with(begin)));
        Ok(files.filter(|file| !Path::new(file).starts_with(root.join("lib"))).map(str::to_owned).collect())
    };
    // Whoever resolves a name, in this process too, must find the libraries for it.
    let names = Names::serve(&near, "10.74.0.2:53".parse()?, &[("penstock.example", [10, 74, 0, 1])])?;
    let resolver = place.path().join("resolv.conf");
    std::fs::write(&resolver, "nameserver 10.74.0.2\n")?;
    wait_until("a server that is reached by its name", PATIENCE, || {
        let mut verify = host.command("unshare");
        verify.args(["--mount", "sh", "-c", "mount --bind \"$1\" /etc/resolv.conf && shift && exec \"$@\"", "sh"]);
        verify.arg(&resolver).arg(&link);
        verify.args(["verify", "--url", "http://penstock.example:8080", "--viewers", "1", "--seconds", "1"]);
        let output = verify.args(["--max-latency-ms", "5000", "--api-token", "observer"]).output()?;
        ensure!(output.status.success(), "{output:?}");
        Ok(Some(()))
    })?;
    ensure!(names.asked() > 0, "nobody asked the name server");
    ensure!(others()?.is_empty(), "files that are not the archive's: {:?}", others()?);
    server.signal(libc::SIGTERM)?;
    let output = server.wait().context("the server")?;
    ensure!(output.status.success(), "{}", output.status);
    Ok(())
}
