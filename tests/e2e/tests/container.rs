//! The container image: built without a registry, run with all rights, with the least, and with none. Needs root
//! and podman.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tests_kit::browser::wait_until;
use tests_kit::container::{Container, IMAGE, Podman, folder, wait_freed};
use tests_kit::names::Names;
use tests_kit::netns::{BpfFs, End, NetNs, veth};
use tests_kit::peer::{Kind, Options, Publisher, Source, Stats, Synthetic, Viewers};
use tests_kit::python::yaml;

/// Libraries, certificates and configuration: all but the binary.
const MOST_BESIDE_THE_BINARY: u64 = 12_000_000;

const PATIENCE: Duration = Duration::from_secs(20);

/// A host with one interface, a neighbour, and the image.
struct Scene {
    host: NetNs,
    near: NetNs,
    podman: Podman,
    /// Becomes `/etc/penstock` in the container.
    configuration: tempfile::TempDir,
}

impl Scene {
    fn new(more: &str) -> Result<Self> {
        let (host, near) = (NetNs::new("host")?, NetNs::new("near")?);
        veth(
            End { namespace: &host, interface: "eth0", addresses: &["10.72.0.1/24"] },
            End { namespace: &near, interface: "eth0", addresses: &["10.72.0.2/24"] },
        )?;
        let configuration = tempfile::Builder::new().prefix("penstock-etc-").tempdir()?;
        // For a user other than root.
        fs::set_permissions(configuration.path(), fs::Permissions::from_mode(0o755))?;
        let scene = Self { host, near, podman: Podman::new()?, configuration };
        scene.configure(more)?;
        scene.podman.build()?;
        Ok(scene)
    }

    fn configure(&self, more: &str) -> Result<()> {
        // `penstock verify` of another host asks the server which profile was agreed on.
        let text = format!("[http]\nopen_management = true\n[kernel]\ninterfaces = [\"eth0\"]\n{more}");
        Ok(fs::write(self.configuration.path().join("penstock.toml"), text)?)
    }

    /// What a folder of the host, as compose.yaml names it, is in this test.
    fn folder(&self, host: &str, bpffs: &Path) -> Result<PathBuf> {
        match host {
            "/etc/penstock" => Ok(self.configuration.path().to_owned()),
            "/sys/fs/bpf" => Ok(bpffs.to_owned()),
            other => anyhow::bail!("compose.yaml mounts {other}, which this test does not know"),
        }
    }

    /// The options of `podman run` that say the same as compose.yaml.
    fn composed(&self, bpffs: &Path) -> Result<Vec<String>> {
        let compose = yaml(&folder().join("compose.yaml"))?;
        let service = &compose.first().context("an empty compose.yaml")?["services"]["penstock"];
        ensure!(service["network_mode"] == "host" && service["read_only"] == true, "{service:#}");
        ensure!(service["stop_grace_period"] == "20s", "{service:#}");
        let list = |key: &str| service[key].as_array().into_iter().flatten().filter_map(Value::as_str);
        let mut options = vec!["--read-only".to_owned()];
        let mut option = |name: &str, value: String| options.extend([name.to_owned(), value]);
        list("cap_drop").for_each(|name| option("--cap-drop", name.into()));
        list("cap_add").for_each(|name| option("--cap-add", name.into()));
        list("environment").for_each(|variable| option("--env", variable.into()));
        let seccomp = format!("seccomp={}/", folder().display());
        list("security_opt").for_each(|value| option("--security-opt", value.replace("seccomp=./", &seccomp)));
        for volume in list("volumes") {
            let (host, inside) = volume.split_once(':').context("a volume without a place")?;
            option("--volume", format!("{}:{inside}", self.folder(host, bpffs)?.display()));
        }
        Ok(options)
    }

    /// `/etc/penstock` alone.
    fn configuration_mounted(&self) -> [String; 2] {
        ["--volume".into(), format!("{}:/etc/penstock:ro", self.configuration.path().display())]
    }

    fn links(&self) -> Result<String> {
        self.host.ip(["-details", "-oneline", "link"]).map(|text| {
            let names = text.lines().map(|line| line.split(" qdisc ").next().unwrap_or(line));
            let xdp = if text.contains("xdp") { " xdp" } else { "" };
            names.collect::<Vec<_>>().join("\n") + xdp
        })
    }

    /// A publisher and two viewers, of which every packet is right.
    fn play(&self) -> Result<(Publisher, Viewers)> {
        let source = Source::Synthetic(Synthetic { rate: 100, ..Synthetic::default() });
        let options = || Options::within(self.near.name());
        let url = |endpoint: &str| format!("http://10.72.0.1:8080/boxed/{endpoint}");
        let publisher = Publisher::start(&url("whip"), source.clone(), options())?;
        wait_until("the publisher is connected", PATIENCE, || {
            Ok(Some(publisher.stats()).filter(|stats| stats.connected.is_some()))
        })?;
        let viewers = Viewers::start(&url("whep"), 2, source, options())?;
        let flows = |one: &Stats| one.media(Kind::Video).verified > 50 && one.media(Kind::Audio).verified > 10;
        let all =
            wait_until("media flows", PATIENCE, || Ok(Some(viewers.stats()).filter(|stats| stats.iter().all(flows))))?;
        let wrong = all.iter().any(|one| one.video.mismatches + one.audio.mismatches > 0 || one.failed.is_some());
        ensure!(!wrong, "{all:#?}");
        Ok((publisher, viewers))
    }

    /// SIGTERM: peers are told, and nothing is left of the container in the kernel.
    fn stop(&self, container: Container<'_>, peers: &(Publisher, Viewers), links_before: &str) -> Result<()> {
        let objects = container.bpf_objects()?;
        let (code, log) = container.stop()?;
        ensure!(code == 0 && log.contains("SIGTERM: closing all sessions") && log.contains("stopped"), "{code}: {log}");
        wait_until("all peers saw close_notify", PATIENCE, || {
            let closed = peers.1.stats().iter().all(|one| one.closed.is_some()) && peers.0.stats().closed.is_some();
            Ok(closed.then_some(()))
        })?;
        wait_freed(&objects)?;
        ensure!(self.links()? == links_before, "{links_before}\nbecame\n{}", self.links()?);
        Ok(())
    }
}

/// Engines of the sessions in `penstock sessions --json`.
fn engines(container: &Container<'_>) -> Result<Vec<String>> {
    let told = container.exec_json(&["sessions"])?;
    let sessions = told["sessions"].as_array().with_context(|| format!("{told:#}"))?;
    Ok(sessions.iter().map(|session| session["engine"].as_str().unwrap_or_default().to_owned()).collect())
}

#[test]
fn the_image_says_what_is_in_it_and_has_little_else() -> Result<()> {
    let scene = Scene::new("")?;
    let run = |arguments: &[&str]| scene.podman.run(&scene.host, arguments);
    let inspected: Value = serde_json::from_str(&run(&["image", "inspect", IMAGE])?)?;
    let image = &inspected[0];
    let container =
        scene.podman.start(&scene.host, &scene.configuration_mounted(), &["serve", "--engine", "userspace"])?;
    let version = container.exec_json(&["version"])?;
    for (label, key) in [
        ("org.opencontainers.image.version", "version"),
        ("org.opencontainers.image.revision", "commit"),
        ("penstock.build-id", "build_id"),
        ("penstock.bpf-build-id", "bpf_build_id"),
    ] {
        let value = &image["Labels"][label];
        ensure!(*value == version[key] && value.as_str().is_some_and(|it| !it.is_empty()), "{label}: {image:#}");
    }
    container.check_health()?;
    // Packed as the script packs it: without what only debuggers need.
    let packed = tempfile::NamedTempFile::new()?;
    let copied = format!("{}:/usr/local/bin/penstock", container.id());
    run(&["cp", &copied, &packed.path().display().to_string()])?;
    let beside = image["Size"].as_u64().context("no size")?.saturating_sub(packed.path().metadata()?.len());
    ensure!(beside < MOST_BESIDE_THE_BINARY, "{beside} bytes beside the binary");
    ensure!(run(&["exec", container.id(), "/bin/sh"]).is_err(), "there is a shell");
    Ok(())
}

/// The libraries for it are found at run time, if at all: the image has no shell to try them with.
#[test]
fn names_are_resolved_by_file_and_by_dns() -> Result<()> {
    let scene = Scene::new("")?;
    let names = Names::serve(&scene.near, "10.72.0.2:53".parse()?, &[("penstock.example", [10, 72, 0, 1])])?;
    let mut options = ["--add-host", "filed.example:10.72.0.1", "--dns", "10.72.0.2"].map(String::from).to_vec();
    options.extend(scene.configuration_mounted());
    let container = scene.podman.start(&scene.host, &options, &["serve", "--engine", "userspace"])?;
    for name in ["filed.example", "penstock.example"] {
        let url = format!("http://{name}:8080");
        let arguments = ["verify", "--url", &url, "--viewers", "1", "--seconds", "1", "--max-latency-ms", "5000"];
        container.exec(&arguments).with_context(|| name.to_owned())?;
    }
    ensure!(names.asked() > 0, "nobody asked the name server");
    let unknown = ["verify", "--url", "http://nobody.example:8080", "--viewers", "1", "--seconds", "1"];
    ensure!(container.exec(&unknown).is_err(), "a name that nobody has was resolved");
    Ok(())
}

#[test]
fn with_the_least_rights_the_kernel_engine_serves() -> Result<()> {
    let scene = Scene::new("mode = \"native\"\n[media]\nengine = \"kernel\"\n")?;
    let bpffs = BpfFs::mount()?;
    let before = scene.links()?;
    let container = scene.podman.start(&scene.host, &scene.composed(bpffs.path())?, &[])?;
    container.check_health()?;
    let peers = scene.play()?;
    ensure!(engines(&container)? == ["kernel native"; 3], "{:?}", engines(&container)?);
    let table = container.exec(&["sessions"])?;
    ensure!(table.contains("boxed") && table.contains("viewer"), "{table}");

    // The file of the host has changed: nobody is disconnected by that.
    scene.configure("mode = \"native\"\n[media]\nengine = \"kernel\"\n[rtcp]\ninterval_ms = 700\n")?;
    container.exec(&["reload"])?;
    container.wait_log("SIGHUP: read the configuration, changed: rtcp.interval_ms", PATIENCE)?;
    scene.configure("mode = 3\n")?;
    ensure!(container.exec(&["reload"]).is_err(), "a file with a mistake was sent to the server");
    ensure!(engines(&container)?.len() == 3);

    scene.stop(container, &peers, &before)?;
    ensure!(!bpffs.path().join("penstock").exists(), "pins are left");
    Ok(())
}

#[test]
fn privileged_it_mounts_its_bpffs_and_sends_by_xdp() -> Result<()> {
    let scene = Scene::new("[media]\nengine = \"auto\"\ntransmitter = \"xdp\"\n")?;
    let before = scene.links()?;
    let mut options = vec!["--privileged".to_owned()];
    options.extend(scene.configuration_mounted());
    let container = scene.podman.start(&scene.host, &options, &[])?;
    let peers = scene.play()?;
    ensure!(engines(&container)? == ["kernel native"; 3], "{:?}", engines(&container)?);
    scene.stop(container, &peers, &before)
}

#[test]
fn the_xdp_transmitter_needs_two_more_rights() -> Result<()> {
    let scene = Scene::new("[media]\ntransmitter = \"xdp\"\n")?;
    let bpffs = BpfFs::mount()?;
    let before = scene.links()?;
    let mut options = scene.composed(bpffs.path())?;
    options.extend(["--cap-add", "SYS_ADMIN", "--cap-add", "NET_RAW"].map(String::from));
    let container = scene.podman.start(&scene.host, &options, &[])?;
    let peers = scene.play()?;
    scene.stop(container, &peers, &before)
}

#[test]
fn without_any_right_the_userspace_engine_serves() -> Result<()> {
    let scene = Scene::new("")?;
    let before = scene.links()?;
    let mut options = ["--user", "65534:65534", "--cap-drop", "all", "--read-only"].map(String::from).to_vec();
    options.extend(scene.configuration_mounted());
    let container = scene.podman.start(&scene.host, &options, &[])?;
    container.check_health()?;
    let peers = scene.play()?;
    let engines = engines(&container)?;
    ensure!(engines.len() == 3 && engines.iter().all(|engine| engine.starts_with("userspace socket")), "{engines:?}");
    ensure!(container.bpf_objects()?.is_empty());
    scene.stop(container, &peers, &before)
}

#[test]
fn another_image_takes_over_in_one_command_and_so_does_the_former() -> Result<()> {
    let scene = Scene::new("")?;
    let before = scene.links()?;
    let mut options = ["--privileged", "--replace", "--name", "penstock"].map(String::from).to_vec();
    options.extend(["--stop-timeout", "20"].map(String::from));
    options.extend(scene.configuration_mounted());
    let mut container = scene.podman.start(&scene.host, &options, &[])?;
    let mut peers = scene.play()?;
    for _ in ["upgrade", "roll back"] {
        let objects = container.bpf_objects()?;
        container = scene.podman.start(&scene.host, &options, &[])?;
        wait_until("the peers of the former server saw close_notify", PATIENCE, || {
            let closed = peers.1.stats().iter().all(|one| one.closed.is_some()) && peers.0.stats().closed.is_some();
            Ok(closed.then_some(()))
        })?;
        wait_freed(&objects)?;
        peers = scene.play()?;
    }
    scene.stop(container, &peers, &before)
}
