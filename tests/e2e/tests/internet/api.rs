//! The API by which a server is run, as `penstock` and `curl` use it.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpStream;
use std::process::Output;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use tests_kit::peer::Kind;
use tests_kit::python::python;
use tests_kit::server::binary;
use tests_kit::stage::{Layout, Stage, synthetic};
use tests_kit::whip::Client;

const URL: &str = "http://10.60.0.1:8080";

fn run(stage: &Stage, arguments: &[&str]) -> Result<Output> {
    Ok(stage.host.command(binary()?).args(arguments).args(["--url", URL]).output()?)
}

fn succeeds(stage: &Stage, arguments: &[&str]) -> Result<String> {
    let output = run(stage, arguments)?;
    ensure!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}

fn fails(stage: &Stage, arguments: &[&str], says: &str) -> Result<()> {
    let output = run(stage, arguments)?;
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(!output.status.success() && told.contains(says), "{arguments:?}: {told}");
    Ok(())
}

/// Names of events as they come, from a connection of the server's own host.
fn events(stage: &Stage) -> Result<BufReader<TcpStream>> {
    let mut stream = stage.host.run(|| TcpStream::connect("10.60.0.1:8080"))?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    stream.write_all(b"GET /api/v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n")?;
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    while line.trim() != "" || line.is_empty() {
        line.clear();
        reader.read_line(&mut line)?;
    }
    Ok(reader)
}

fn next_event(reader: &mut BufReader<TcpStream>) -> Result<String> {
    loop {
        let mut line = String::new();
        ensure!(reader.read_line(&mut line)? > 0, "no more events");
        if let Some(name) = line.strip_prefix("event: ") {
            return Ok(name.trim().to_owned());
        }
    }
}

#[test]
fn sessions_are_seen_and_ended() -> Result<()> {
    let stage = Stage::new(Layout::OneNic, "native", "")?;
    let mut events = events(&stage)?;
    let source = synthetic(100);
    let publisher = stage.publish(&source, stage.publishing())?;
    for wanted in ["session_opened", "session_connected", "stream_ready"] {
        let event = next_event(&mut events)?;
        ensure!(event == wanted, "{event} in place of {wanted}");
    }
    let viewers = stage.play(2, &source, stage.playing())?;
    stage.flows(&viewers, &[0, 1], Kind::Video, 20)?;
    let sessions: Value = stage.server.get("/api/v1/sessions")?;
    let all = sessions["sessions"].as_array().context("no sessions")?;
    let viewer =
        all.iter().find(|one| one["role"] == "subscriber").context("no viewer")?["id"].as_str().unwrap_or_default();
    ensure!(stage.server.get(&format!("/api/v1/sessions/{viewer}"))?["state"] == "connected");
    succeeds(&stage, &["kick", viewer])?;
    stage.until("it is gone", || Ok(stage.carriers("subscriber")?.len() == 1))?;
    fails(&stage, &["kick", viewer], "there is no session")?;
    // Others may look at nothing and end nothing.
    let far = Client { namespace: Some(stage.near.name().into()), token: None };
    for (method, path) in [("GET", "/api/v1/state"), ("DELETE", "/api/v1/sessions/x"), ("GET", "/metrics")] {
        ensure!(far.request(method, &format!("{URL}{path}"), &[], None)?.status == 403, "{path}");
    }
    // Drained, it takes nobody more, and says so to whoever asks for its health.
    ensure!(succeeds(&stage, &["drain"])?.contains("\"draining\":true"));
    ensure!(stage.server.get_text("/healthz").is_err());
    let offer = Some(("application/sdp", &b"v=0\r\n"[..]));
    ensure!(far.request("POST", &stage.whep(), &[], offer)?.status == 503);
    stage.flows(&viewers, &[1], Kind::Video, 20).or_else(|_| stage.flows(&viewers, &[0], Kind::Video, 20))?;
    succeeds(&stage, &["drain", "--off"])?;
    ensure!(stage.server.get_text("/healthz")? == "ok\n");
    publisher.stop().map(drop)
}

#[test]
fn streams_are_added_kept_and_removed() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("streams.toml");
    let mut stage = Stage::new(Layout::OneNic, "native", &format!("[api]\nstreams_file = {file:?}\n"))?;
    let source = "rtsp://viewer:s3cret@10.60.0.2:9/door";
    succeeds(&stage, &["stream", "add", "door", source, "--persist"])?;
    succeeds(&stage, &["stream", "add", "gate", "rtsp://10.60.0.2:9/gate", "--on-demand"])?;
    fails(&stage, &["stream", "add", "bad", "http://10.60.0.2/"], "422")?;
    stage.until("it is tried", || Ok(stage.source_of("door")?["state"] == "waiting"))?;
    let shown = stage.server.get("/api/v1/streams/gate")?;
    ensure!(shown["config"]["on_demand"] == true && shown["source"]["state"] == "idle", "{shown:#}");
    stage.server.signal(libc::SIGTERM)?;
    stage.server.wait_end()?;
    stage.server.start_again(&stage.host, &stage.settings)?;
    ensure!(!stage.source_of("door")?.is_null() && stage.source_of("gate")?.is_null(), "what was kept is not so");
    succeeds(&stage, &["stream", "remove", "door", "--persist"])?;
    // What is told may be a second old.
    stage.until("it has gone", || Ok(stage.source_of("door")?.is_null()))?;
    ensure!(!std::fs::read_to_string(&file)?.contains("s3cret"));
    fails(&stage, &["stream", "remove", "door"], "has no source")?;
    ensure!(!stage.server.log().contains("s3cret"), "a password is in the log");
    Ok(())
}

/// What a stranger to the server makes of its description: requests that fit it and some that do not, answers against
/// it. Without the events, which have no end, and without patches of the configuration, which would end our right to ask.
#[test]
fn answers_are_as_the_document_describes_them() -> Result<()> {
    let place = tempfile::tempdir()?;
    let more = format!("[api]\nstreams_file = {:?}\n[media]\nengine = \"userspace\"\n", place.path().join("streams"));
    let stage = Stage::new(Layout::OneNic, "native", &more)?;
    let schemathesis = python()?.with_file_name("schemathesis");
    let mut command = stage.host.command(&schemathesis);
    command.current_dir(place.path()).args(["run", &format!("{URL}/api/v1/openapi.json"), "--no-color"]);
    command.args(["--exclude-path", "/api/v1/events", "--exclude-operation-id", "patchConfig"]);
    // A schema cannot say all that makes a document a good one.
    command.args(["--exclude-checks", "positive_data_acceptance", "--phases", "examples,coverage,fuzzing"]);
    command.args(["--generation-deterministic", "--max-examples", "5", "--continue-on-failure", "--warnings", "off"]);
    command.args(["--request-timeout", "60"]);
    let output = command.output().with_context(|| format!("{}: `cargo xtask setup`", schemathesis.display()))?;
    ensure!(output.status.success(), "{}\n{}", String::from_utf8_lossy(&output.stdout), stage.server.log());
    Ok(())
}
