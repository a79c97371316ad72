//! The metrics: a strict parser accepts them, and they are the numbers that the peers have.

use std::io::Write as _;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use tests_kit::peer::Kind;
use tests_kit::stage::{BOTH, Layout, Stage, synthetic};

/// What `promtool check metrics` says: syntax, and Prometheus' rules for names.
fn check(text: &str) -> Result<()> {
    let mut promtool = Command::new("promtool");
    promtool.args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut promtool = promtool.spawn().context("no promtool: `cargo xtask setup` installs it")?;
    promtool.stdin.take().context("no pipe")?.write_all(text.as_bytes())?;
    let output = promtool.wait_with_output()?;
    let said = [output.stdout, output.stderr].concat();
    ensure!(output.status.success() && said.is_empty(), "promtool: {}\n{text}", String::from_utf8_lossy(&said));
    Ok(())
}

/// Sum of the samples of which the line starts so.
fn sum(text: &str, start: &str) -> Result<f64> {
    let lines: Vec<&str> = text.lines().filter(|line| line.starts_with(start)).collect();
    ensure!(!lines.is_empty(), "no {start} in\n{text}");
    let values = lines.iter().map(|line| Ok(line.rsplit(' ').next().unwrap_or_default().parse::<f64>()?));
    values.sum()
}

/// Serves four viewers; the metrics must count what they count.
fn counts(stage: &Stage, engine: &str) -> Result<()> {
    let source = synthetic(100);
    let publisher = stage.publish(&source, stage.publishing())?;
    let viewers = stage.play(4, &source, stage.playing())?;
    stage.flows(&viewers, &[0, 1, 2, 3], Kind::Video, 200)?;
    stage.rest(&publisher, &viewers)?;
    stage.until("the viewers have reported", || {
        Ok(stage.server.get_text("/metrics")?.contains("penstock_viewer_rtt_seconds{at=\"max\"}"))
    })?;
    let text = stage.server.get_text("/metrics")?;
    check(&text)?;
    let received: u64 = viewers.stats().iter().flat_map(|one| BOTH.map(|kind| one.media(kind).packets)).sum();
    let sent = sum(&text, &format!("penstock_packets_total{{engine=\"{engine}\",direction=\"out\"}}"))?;
    ensure!(sent as u64 == received, "{sent} sent, {received} received:\n{text}");
    let carried = format!("penstock_sessions_carried{{role=\"subscriber\",carrier=\"{engine}");
    ensure!(sum(&text, &carried)? == 4.0, "{text}");
    ensure!(sum(&text, "penstock_viewer_loss_ratio{at=\"max\"}")? == 0.0, "{text}");
    ensure!(sum(&text, "penstock_machine_cpu_seconds_total{mode=\"idle\"}")? > 0.0, "{text}");
    ensure!(sum(&text, "process_resident_memory_bytes")? > 1e6, "{text}");
    ensure!(
        sum(&text, "penstock_http_requests_total{method=\"POST\",route=\"/{stream}/whep\",status=\"201\"}")? >= 4.0,
        "{text}"
    );
    stage.assert_exact(&viewers.stop()?, &BOTH)?;
    Ok(())
}

#[test]
fn kernel_engine() -> Result<()> {
    // The settings of the stage end in the section [kernel].
    let stage = Stage::new(Layout::OneNic, "native", "bpf_stats = true\n")?;
    counts(&stage, "kernel")?;
    let text = stage.server.get_text("/metrics")?;
    for program in ["penstock_ingress", "penstock_egress"] {
        let label = format!("{{program=\"{program}\"}}");
        let (seconds, runs) = (
            sum(&text, &format!("penstock_bpf_run_seconds_total{label}"))?,
            sum(&text, &format!("penstock_bpf_runs_total{label}"))?,
        );
        ensure!(runs > 200.0 && seconds > 0.0 && seconds / runs < 0.01, "{seconds} s in {runs} runs of {program}");
    }
    ensure!(sum(&text, "penstock_bpf_map_memory_bytes")? > 1e6, "{text}");
    ensure!(sum(&text, "penstock_keystream_windows")? > 0.0, "{text}");
    Ok(())
}

#[test]
fn userspace_engine() -> Result<()> {
    counts(&Stage::unprivileged(Layout::OneNic, "")?, "userspace")
}
