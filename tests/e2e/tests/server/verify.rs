//! `penstock verify` against a real server, good and bad; and profiles of that server while it works.

use std::process::{Command, Output};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tests_kit::server::binary;
use tests_kit::stage::{Layout, Stage, synthetic};
use tests_kit::whip::Client;

const API: [(&str, &str); 1] = [("PENSTOCK_API_TOKEN", "secret")];

/// Runs the command at the viewers' place.
fn verify(stage: &Stage, arguments: &[&str], environment: &[(&str, &str)]) -> Result<(Output, Value)> {
    let place = stage.viewers();
    let mut command: Command = place.command(binary()?);
    command.args(["verify", "--json", "--url", "http://10.60.0.1:8080", "--seconds", "3"]).args(arguments);
    command.envs(environment.iter().copied());
    let output = command.output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let value = serde_json::from_str(&text)
        .with_context(|| format!("{text}{}\n{}", String::from_utf8_lossy(&output.stderr), stage.server.log()))?;
    Ok((output, value))
}

fn line<'a>(report: &'a Value, check: &str) -> Result<&'a Value> {
    let mut lines = report["checks"].as_array().into_iter().flatten();
    lines.find(|line| line["check"] == check).with_context(|| format!("no {check} in {report:#}"))
}

#[test]
fn a_good_server_passes_and_is_left_as_it_was() -> Result<()> {
    let stage = Stage::new(Layout::OneNic, "native", "[auth]\napi_token = \"secret\"\n")?;
    let version = Command::new(binary()?).args(["version", "--json"]).output()?;
    let version: Value = serde_json::from_slice(&version.stdout)?;
    let build = version["build_id"].as_str().context("no build id")?;
    let bpf = version["bpf_build_id"].as_str().context("no build id of the BPF object")?;
    // The tests share the machine with others, so only the limits that do not depend on it are strict.
    let limits = [
        "--viewers",
        "5",
        "--max-latency-ms",
        "20000",
        "--max-loss",
        "50",
        "--max-cpu",
        "400",
        "--max-memory-mb",
        "4000",
    ];
    for id in [&build[..12], bpf] {
        let (output, report) = verify(&stage, &[&limits[..], &["--build", id]].concat(), &API)?;
        ensure!(output.status.code() == Some(0) && report["ok"] == true, "{report:#}");
        ensure!(line(&report, "sessions connect")?["found"] == "6 of 6", "{report:#}");
        ensure!(line(&report, "carried by")?["found"] == "kernel native", "{report:#}");
    }
    let client = Client { namespace: Some(stage.host.name().into()), token: Some("secret".into()) };
    stage.until("nothing is left", || {
        let state = client.request("GET", "http://10.60.0.1:8080/api/v1/state", &[], None)?.expect(200)?.body;
        Ok(serde_json::from_str::<Value>(&state)?["sessions"] == serde_json::json!([]))
    })
}

#[test]
fn what_is_not_so_is_found() -> Result<()> {
    let stage = Stage::new(Layout::OneNic, "native", "[auth]\napi_token = \"secret\"\n[limits]\nsessions = 3\n")?;
    let (output, report) = verify(&stage, &["--viewers", "4", "--max-memory-mb", "1", "--build", "123"], &API)?;
    ensure!(output.status.code() == Some(1) && report["ok"] == false, "{report:#}");
    for (check, found) in [("sessions connect", "3 of 5; 503"), ("memory, process and maps", ""), ("build", "")] {
        let line = line(&report, check)?;
        ensure!(line["ok"] == false && line["found"].as_str().unwrap_or_default().starts_with(found), "{line:#}");
    }
    // Without the token nobody can say that all sessions are GCM.
    let (output, report) = verify(&stage, &["--viewers", "1"], &[])?;
    ensure!(output.status.code() == Some(1) && line(&report, "AES-GCM")?["ok"] == false, "{report:#}");
    Ok(())
}

#[test]
fn profiles_are_for_this_host_and_only_if_configured() -> Result<()> {
    let stage = Stage::new(Layout::OneNic, "native", "")?;
    let source = synthetic(50);
    let _publisher = stage.publish(&source, stage.publishing())?;
    let get = |namespace: &str, host: &str, headers: &[(&str, &str)]| -> Result<u16> {
        let client = Client { namespace: Some(namespace.into()), token: None };
        // The body is no text, so only the head is asked for where there is a profile.
        let url = format!("http://{host}:8080/debug/pprof/profile?seconds=1000");
        Ok(client.request("GET", &url, headers, None)?.status)
    };
    let (here, there) = (stage.host.name(), stage.near.name());
    ensure!((get(here, "127.0.0.1", &[])?, get(there, "10.60.0.1", &[])?) == (404, 404));
    stage.server.configure(&stage.settings, "[debug]\nprofiles = true\n")?;
    stage.server.signal(libc::SIGHUP)?;
    // 1,000 seconds are too many: whoever gets so far may profile.
    stage.until("profiles are on", || Ok(get(here, "127.0.0.1", &[])? == 400))?;
    ensure!(get(there, "10.60.0.1", &[])? == 403, "another host may profile");
    ensure!(get(here, "127.0.0.1", &[("X-Forwarded-For", "192.0.2.1")])? == 403, "a proxy's client may profile");
    let heap = Client { namespace: Some(here.into()), token: None };
    let heap = heap.request("GET", "http://127.0.0.1:8080/debug/pprof/heap", &[], None)?;
    ensure!(heap.status == 501 && heap.body.contains("heap-profile"), "{heap:?}");
    Ok(())
}
