//! What a server that was killed or stopped leaves behind, and what `penstock streams`, `sessions`
//! and `maps` say of it and of a live one.

use std::{
    io::{BufRead as _, BufReader},
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::Stdio,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use penstock::inspect;
use serde_json::Value;
use tests_engine::lab::{Lab, PATIENCE, Publisher, Viewer, address};
use tests_kit::{netns::Running, srtp::Key};

/// Starts `engine-host` in the lab's server host, on link 0.
fn child(lab: &Lab, pin_dir: &Path) -> Result<Running> {
    let mut command = lab.server.command(env!("CARGO_BIN_EXE_engine-host"));
    command.args(["s0", "10.77.0.1:8443", "10.77.0.2:5000"]).arg(pin_dir).stdout(Stdio::piped());
    let mut running = Running::start(&mut command)?;
    let output = running.child().and_then(|child| child.stdout.take()).context("no output")?;
    let mut line = String::new();
    BufReader::new(output).read_line(&mut line)?;
    ensure!(line == "ready\n", "the child said {line:?}");
    Ok(running)
}

fn options(pin_dir: &Path) -> inspect::Options {
    inspect::Options { pin_dir: pin_dir.to_owned(), json: false, answer: inspect::Answer::not_asked() }
}

fn json(text: &str) -> Result<Value> {
    serde_json::from_str(text).with_context(|| text.to_owned())
}

fn has_xdp(lab: &Lab) -> Result<bool> {
    Ok(lab.server.ip(["link", "show", "s0"])?.contains("xdp"))
}

fn wait(what: &str, mut condition: impl FnMut() -> Result<bool>) -> Result<()> {
    let give_up = Instant::now() + PATIENCE;
    while !condition()? {
        ensure!(Instant::now() < give_up, "not in time: {what}");
        thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

#[test]
fn a_graceful_end_leaves_nothing() -> Result<()> {
    let lab = Lab::new(1)?;
    let config = lab.config();
    let pin_dir = config.pin_dir.clone();
    let server = lab.start(config)?;
    ensure!(has_xdp(&lab)?);
    ensure!(std::fs::metadata(&pin_dir)?.permissions().mode() & 0o7777 == 0o700, "directory mode");
    ensure!(pin_dir.join("SESSIONS").exists());
    drop(server);
    ensure!(!has_xdp(&lab)?);
    ensure!(!pin_dir.exists());
    let error = inspect::streams_text(&options(&pin_dir)).err().context("no server, no streams")?;
    ensure!(error.to_string().contains("no server has its maps in"), "{error}");
    Ok(())
}

#[test]
fn a_bpffs_is_mounted_where_there_is_none() -> Result<()> {
    let lab = Lab::new(1)?;
    let directory = tempfile::Builder::new().prefix("penstock-run-").tempdir()?;
    let mut config = lab.config();
    config.pin_dir = directory.path().join("run/bpf");
    for _ in 0..2 {
        let server = lab.start(config.clone())?;
        ensure!(config.pin_dir.join("SERVER").exists());
        drop(server);
        ensure!(!config.pin_dir.exists());
    }
    Ok(())
}

#[test]
fn two_servers_do_not_share() -> Result<()> {
    let lab = Lab::new(1)?;
    let config = lab.config();
    let first = child(&lab, &config.pin_dir)?;
    let error = lab.start(config.clone()).err().context("second server with the same directory")?;
    ensure!(error.to_string().contains(&format!("pid {} is running", first.id())), "{error}");

    let mut other = config;
    other.pin_dir = lab.bpf.path().join("other");
    let error = lab.start(other).err().context("second server on the same interface")?;
    ensure!(error.to_string().contains("another XDP program is on it: id"), "{error}");
    ensure!(error.to_string().contains("penstock_ingre"), "{error}");
    Ok(())
}

#[test]
fn after_a_kill_the_next_server_starts_clean() -> Result<()> {
    let lab = Lab::new(1)?;
    let config = lab.config();
    let options = options(&config.pin_dir);
    let running = child(&lab, &config.pin_dir)?;
    let text = inspect::streams_text(&options)?;
    ensure!(text.contains("left-behind") && text.contains("s0 (native)"), "{text}");

    running.signal(libc::SIGSTOP)?;
    wait("the server is silent", || Ok(inspect::streams_text(&options)?.contains("IT DOES NOT ANSWER")))?;
    running.signal(libc::SIGKILL)?;
    running.wait()?;
    wait("XDP is detached", || Ok(!has_xdp(&lab)?))?;
    let text = inspect::sessions_text(&options)?;
    ensure!(text.contains("IT IS DEAD") && text.contains("left-behind") && text.contains("s0 (native)"), "{text}");

    let mut server = lab.start(config)?;
    let text = inspect::sessions_text(&options)?;
    ensure!(!text.contains("left-behind") && text.contains("no sessions"), "{text}");
    forwards(&lab, &mut server)
}

fn forwards(lab: &Lab, server: &mut tests_engine::lab::Server) -> Result<()> {
    let local = lab.server_address(0, false);
    let peer = &lab.peers[0];
    let mut publisher = Publisher::join(server, peer, local, address(0, 2, false, 5000), Key::random(16))?;
    let own = address(0, 2, false, 10_000);
    let mut viewer = Viewer::join(server, &publisher, peer, local, own, Key::random(16))?;
    server.started(viewer.track)?;
    publisher.send_some(3)?;
    ensure!(viewer.receive_count(3)?.len() == 3);
    Ok(())
}

#[test]
fn inspection_tells_the_truth() -> Result<()> {
    let lab = Lab::new(1)?;
    let config = lab.config();
    let pin_dir = config.pin_dir.clone();
    let mut server = lab.start(config)?;
    let local = lab.server_address(0, false);
    let peer = &lab.peers[0];
    let mut publisher = Publisher::join(&server, peer, local, address(0, 2, false, 5000), Key::random(32))?;
    let mut viewers = Vec::new();
    for n in 0..3 {
        let own = address(0, 2, false, 10_000 + n);
        viewers.push(Viewer::join(&server, &publisher, peer, local, own, Key::random(16))?);
    }
    for viewer in &viewers {
        server.started(viewer.track)?;
    }
    publisher.send_some(20)?;
    publisher.send_index(publisher.index)?;
    for viewer in &mut viewers {
        ensure!(viewer.receive_count(20)?.len() == 20);
    }

    let mut options = options(&pin_dir);
    options.json = true;
    let report = json(&inspect::sessions_text(&options)?)?;
    ensure!(report["server"]["pid"] == std::process::id() && report["server"]["state"] == "running", "{report}");
    let sessions = report["sessions"].as_array().context("sessions")?;
    ensure!(sessions.len() == 4, "{report}");
    let incoming = sessions.iter().find(|session| session["role"] == "publisher").context("publisher")?;
    ensure!(incoming["peer"] == "10.77.0.2:5000" && incoming["profile"] == "AEAD_AES_256_GCM", "{incoming}");
    ensure!(incoming["engine"] == "kernel native" && incoming["stream"] == "stream", "{incoming}");
    let track = &incoming["tracks"][0];
    ensure!(track["ssrc"] == publisher.ssrc && track["packets"] == 20 && track["viewers"] == 3, "{track}");
    ensure!(track["bytes"] == 20 * 1100 && track["drops"]["drop_replayed"] == 1, "{track}");
    ensure!(track["highest_index"] == publisher.index, "{track}");
    let lease = incoming["lease_seconds"].as_f64().unwrap_or_default();
    ensure!((25.0..=30.0).contains(&lease), "lease {lease}");
    for (n, viewer) in viewers.iter().enumerate() {
        let id = format!("viewer-{}", 10_000 + n);
        let session = sessions.iter().find(|session| session["id"] == id.as_str()).context("viewer")?;
        ensure!(session["engine"] == "kernel native" && session["role"] == "subscriber", "{session}");
        let track = &session["tracks"][0];
        ensure!(track["ssrc"] == viewer.ssrc && track["payload_type"] == viewer.payload_type, "{track}");
        ensure!(track["packets"] == 20 && track["timestamp_offset"] == viewer.timestamp_offset, "{track}");
        let offset = viewer.next_out as i64 - 65_501;
        ensure!(track["index_offset"] == offset, "{track}, wanted {offset}");
    }

    let report = json(&inspect::streams_text(&options)?)?;
    let stream = &report["streams"][0];
    ensure!(stream["viewers"] == 3 && stream["packets_in"] == 20 && stream["packets_out"] == 60, "{stream}");
    ensure!(report["counters"]["sealed"] == 60 && report["counters"]["opened"] == 20, "{report}");
    tables_fit(&pin_dir)?;
    no_pin_has_a_key(&pin_dir, &viewers[0].key)?;
    drop(server.engine);
    Ok(())
}

fn tables_fit(pin_dir: &Path) -> Result<()> {
    let options = options(pin_dir);
    let texts = [
        inspect::streams_text(&options)?,
        inspect::sessions_text(&options)?,
        inspect::maps_text(&options, None)?,
        inspect::maps_text(&options, Some("sessions"))?,
        inspect::maps_text(&options, Some("FANOUT_LISTS"))?,
    ];
    for text in texts {
        let widest = text.lines().map(|line| line.chars().count()).max().unwrap_or(0);
        ensure!(widest <= 120, "{widest} columns:\n{text}");
        println!("{text}");
    }
    Ok(())
}

/// Neither by the name of a map nor by its bytes.
fn no_pin_has_a_key(pin_dir: &Path, key: &Key) -> Result<()> {
    let options = options(pin_dir);
    let refused = inspect::maps_text(&options, Some("KEYS")).err().context("keys are shown")?;
    ensure!(refused.to_string().contains("not pinned"), "{refused}");
    let error = inspect::maps_text(&options, Some("NOPE")).err().context("no such map")?;
    ensure!(error.to_string().contains("no map NOPE"), "{error}");
    let hex: String = key.key.iter().map(|byte| format!("{byte:02x}")).collect();
    let mut looked = 0;
    for pin in std::fs::read_dir(pin_dir)? {
        let path = pin?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        // Names with a dot are the kernel's own.
        if name.contains('.') {
            continue;
        }
        ensure!(penstock_engine::bpf::maps::NAMES.contains(&name), "{name} is pinned");
        let dump = std::process::Command::new("bpftool").args(["map", "dump", "pinned"]).arg(&path).output()?;
        let text: String = String::from_utf8_lossy(&dump.stdout).split_whitespace().collect();
        ensure!(!text.contains(&hex), "{name} has the key");
        looked += 1;
    }
    ensure!(looked == penstock_engine::bpf::maps::NAMES.len(), "{looked} pins");
    Ok(())
}
