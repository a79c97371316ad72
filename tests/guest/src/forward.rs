//! `penstock serve` with peers around it: three viewers of one publisher, by either engine, over a veth pair and over
//! two virtio cards that are wired to each other.

use std::{
    fs,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use tests_kit::{
    browser::wait_until,
    netns::{End, NetNs, Running, veth},
    peer::{Kind, Options, Publisher, Source, Stats, Synthetic, Viewers},
    server::{Server, Settings},
};

use crate::{FOLDER, say};

const VIEWERS: usize = 3;

/// What is measured of each run.
const PLAY: Duration = Duration::from_secs(6);

/// An emulated processor needs seconds for a handshake.
const PATIENCE: Duration = Duration::from_secs(90);

/// For the last of the packets that were sent meanwhile, through the queues of an emulated machine.
const ARRIVAL: Duration = Duration::from_secs(60);

/// The server's address.
const ADDRESS: &str = "10.83.0.1";
const HTTP: &str = "10.83.0.1:8080";

/// The server's end of the veth pair.
const VETH: &str = "s0";

/// The virtio cards: the host gives them these addresses.
const CARDS: [&str; 2] = ["52:54:00:00:00:01", "52:54:00:00:00:02"];

/// A server's host and its neighbour, connected.
struct Scene {
    host: NetNs,
    near: NetNs,
    /// The server's interface.
    interface: String,
}

impl Scene {
    fn veth() -> Result<Self> {
        let (host, near) = (NetNs::new("host")?, NetNs::new("near")?);
        veth(
            End { namespace: &host, interface: VETH, addresses: &[&format!("{ADDRESS}/24")] },
            End { namespace: &near, interface: "p0", addresses: &["10.83.0.2/24"] },
        )?;
        Ok(Self { host, near, interface: VETH.into() })
    }

    fn virtio() -> Result<Self> {
        let (host, near) = (NetNs::new("host")?, NetNs::new("near")?);
        let mut names = Vec::new();
        for ((card, namespace), address) in CARDS.into_iter().zip([&host, &near]).zip(["10.83.0.1/24", "10.83.0.2/24"])
        {
            let name = card_of(card)?;
            run(Command::new("ip").args(["link", "set", &name, "netns", namespace.name()]))?;
            namespace.add_addresses(&name, &[address])?;
            namespace.ip(["link", "set", &name, "up"])?;
            names.push(name);
        }
        Ok(Self { host, near, interface: names.swap_remove(0) })
    }

    fn settings(&self, engine: &str) -> Settings {
        Settings {
            interfaces: vec![self.interface.clone()],
            mode: "native",
            http: vec![HTTP.parse().expect("an address")],
            more: format!(
                "[media]\nengine = \"{engine}\"\n{}",
                if engine == "userspace" { "transmitter = \"xdp\"\n" } else { "" }
            ),
            unprivileged: false,
        }
    }
}

/// Name of the interface with a hardware address, in the guest's first namespace.
fn card_of(address: &str) -> Result<String> {
    for entry in fs::read_dir("/sys/class/net")? {
        let path = entry?.path();
        if fs::read_to_string(path.join("address")).is_ok_and(|text| text.trim() == address) {
            return Ok(path.file_name().unwrap_or_default().to_string_lossy().into_owned());
        }
    }
    bail!("no interface has the address {address}: is the driver loaded?")
}

fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("{command:?}"))?;
    ensure!(status.success(), "{command:?}: {status}");
    Ok(())
}

/// Both engines over both kinds of interface. What fails is told, and is no error of this step.
pub fn run_all() -> Result<()> {
    for (link, scene) in [("veth", Scene::veth as fn() -> Result<Scene>), ("virtio_net", Scene::virtio)] {
        let scene = match scene() {
            Ok(scene) => scene,
            Err(error) => {
                for engine in ["kernel", "userspace"] {
                    say("forwarded", &[&link, &engine, &0, &0, &format!("{error:#}")]);
                }
                continue;
            }
        };
        for engine in ["kernel", "userspace"] {
            say("running", &[&format!("{link}, {engine} engine")]);
            match forward(&scene, engine) {
                Ok((forwarded, lost)) => say("forwarded", &[&link, &engine, &forwarded, &lost, &""]),
                Err(error) => say("forwarded", &[&link, &engine, &0, &0, &first_lines(&format!("{error:#}"))]),
            }
        }
    }
    Ok(())
}

/// Copies that were right, and copies that never came.
fn forward(scene: &Scene, engine: &str) -> Result<(u64, u64)> {
    let mut server = Server::start(&scene.host, &scene.settings(engine))?;
    let source = Source::Synthetic(Synthetic { rate: 100, ..Synthetic::default() });
    let options = || Options::within(scene.near.name());
    let url = |endpoint: &str| format!("http://{HTTP}/guest/{endpoint}");
    let publisher = Publisher::start(&url("whip"), source.clone(), options())?;
    wait_until("the publisher is connected", PATIENCE, || {
        Ok(Some(publisher.stats()).filter(|stats| stats.connected.is_some()))
    })?;
    let viewers = Viewers::start(&url("whep"), VIEWERS, source, options())?;
    let flows = |one: &Stats| one.media(Kind::Video).verified > 20 && one.media(Kind::Audio).verified > 5;
    let flow = || Ok(Some(()).filter(|()| viewers.stats().iter().all(flows)));
    wait_until("media flows to all viewers", PATIENCE, flow).with_context(|| server.log())?;
    let (sent, before) = (all(&publisher.stats(), |it| it.packets), viewers.stats());
    thread::sleep(PLAY);
    let sent = all(&publisher.stats(), |it| it.packets) - sent;
    let arrived = |before: &Stats, after: &Stats| {
        let came = |it: &tests_kit::peer::MediaStats| it.verified + it.mismatches + it.lost;
        all(after, came) >= all(before, came) + sent
    };
    let after = wait_until("all that was sent comes or is missed", ARRIVAL, || {
        let after = viewers.stats();
        Ok(Some(after).filter(|after| before.iter().zip(after).all(|(before, after)| arrived(before, after))))
    })
    .with_context(|| server.log())?;
    let carried = carriers(&server)?;
    let wanted = wanted(engine, &scene.interface)?;
    let others: Vec<_> = carried.iter().filter(|carrier| !carrier.starts_with(wanted)).collect();
    ensure!(carried.len() == VIEWERS && others.is_empty(), "viewers are carried by {carried:?}, not by {wanted}");
    let (mut forwarded, mut lost) = (0, 0);
    for (before, after) in before.iter().zip(&after) {
        let right = all(after, |it| it.verified) - all(before, |it| it.verified);
        ensure!(after.failed.is_none() && all(after, |it| it.mismatches) == 0, "{after:#?}");
        forwarded += right;
        lost += all(after, |it| it.lost) - all(before, |it| it.lost);
    }
    viewers.stop()?;
    publisher.stop()?;
    let status = server.terminate()?;
    ensure!(status.success(), "the server ended with {status}\n{}", server.log());
    Ok((forwarded, lost))
}

/// What must carry the viewers. Before 6.3 no kernel tells which devices take frames from the userspace engine's
/// transmitter, and then it is not used; virtio_net takes none without an XDP program of its own.
fn wanted(engine: &str, interface: &str) -> Result<&'static str> {
    Ok(match engine {
        "kernel" => "kernel native",
        _ if interface == VETH && release()? >= (6, 3) => "userspace xdp",
        _ => "userspace socket",
    })
}

/// The kernel's version, as far as two numbers go.
fn release() -> Result<(u32, u32)> {
    let text = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let mut numbers = text.split(['.', '-', '+']).map(str::parse);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => Ok((major, minor)),
        _ => bail!("a release {text}"),
    }
}

fn all(stats: &Stats, of: fn(&tests_kit::peer::MediaStats) -> u64) -> u64 {
    of(&stats.video) + of(&stats.audio)
}

/// What carries each viewer, as the server says.
fn carriers(server: &Server) -> Result<Vec<String>> {
    let state = server.get("/api/v1/state")?;
    let sessions = state["sessions"].as_array().with_context(|| format!("{state:#}"))?;
    let viewers = sessions.iter().filter(|session| session["role"] != "publisher");
    Ok(viewers.map(|viewer| viewer["engine"].as_str().unwrap_or("nothing").to_owned()).collect())
}

/// An error with a server's log is long: the console is slow, and the table small.
fn first_lines(text: &str) -> String {
    const BYTES: usize = 2000;
    let end = text.char_indices().map(|(at, _)| at).nth(BYTES).unwrap_or(text.len());
    text[..end].to_owned()
}

/// `penstock verify` against a server with the kernel engine: what somebody who has just installed it would run.
pub fn verify() -> Result<()> {
    let scene = Scene::veth()?;
    let server = Server::start(&scene.host, &scene.settings("kernel"))?;
    let mut command = scene.near.command(format!("{FOLDER}/penstock"));
    command.args(["verify", "--url", &format!("http://{HTTP}"), "--viewers", "3", "--seconds", "5"]);
    // An emulated processor is not asked how fast it is: what it can carry, it must carry whole.
    command.args(["--rate", "20", "--max-latency-ms", "10000", "--json"]);
    let output = command.output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    let told: Value = serde_json::from_str(&text).with_context(|| format!("{text}{errors}\n{}", server.log()))?;
    for line in told["checks"].as_array().into_iter().flatten() {
        let word = |key: &str| line[key].as_str().unwrap_or_default().to_owned();
        say("verified", &[&word("check"), &line["ok"], &word("found"), &word("limit")]);
    }
    ensure!(told["ok"] == true, "`penstock verify` found something wrong");
    Ok(())
}

/// On a kernel that Penstock does not serve: it must end at once, and say why.
pub fn refusal() -> Result<()> {
    const REASON: [&str; 2] = ["PREEMPT_RT", "realtime"];
    // Only kernels with the patches of before 6.12 have /sys/kernel/realtime.
    let told = fs::read_to_string("/proc/sys/kernel/version")?;
    ensure!(told.contains("PREEMPT_RT"), "{told:?}: this is no realtime kernel");
    let scene = Scene::veth()?;
    let mut command = scene.host.command(format!("{FOLDER}/penstock"));
    command.args(["serve", "--engine", "kernel", "--interface", &scene.interface, "--http", HTTP]);
    command.args(["--pin-dir", "/run/penstock/bpf"]).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut server = Running::start(&mut command)?;
    let end = Instant::now() + PATIENCE;
    while server.child().context("no process")?.try_wait()?.is_none() {
        if Instant::now() > end {
            server.signal(libc::SIGTERM)?;
            break;
        }
        thread::sleep(Duration::from_millis(50));
    }
    let output = server.wait()?;
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure!(!output.status.success(), "`penstock serve --engine kernel` runs here: {}", first_lines(&text));
    let why = text.lines().find(|line| REASON.iter().any(|word| line.contains(word)));
    let why = why.with_context(|| format!("it ended, but does not name the reason: {}", first_lines(&text)))?;
    say("refusal", &[&why]);
    Ok(())
}

/// The demo, as `cargo xtask demo` starts it.
pub fn demo() -> Result<()> {
    let mut command = Command::new(format!("{FOLDER}/demo"));
    run(command.args(["--viewers", "4", "--seconds", "10"]))
}
