//! The log never harms the server, whatever becomes of its lines.

use std::fs::File;
use std::io::{PipeReader, Read as _, pipe};
use std::os::fd::{AsRawFd as _, OwnedFd};

use anyhow::{Context as _, Result, ensure};
use tests_kit::peer::Kind;
use tests_kit::server::Outlet;
use tests_kit::stage::{Stage, synthetic};
use tests_kit::whip::Client;

/// Offers in each case, each with two log lines at least.
const OFFERS: usize = 500;
/// The smallest pipe that the kernel makes.
const SMALL: i32 = 4096;

/// A publisher's offer that nobody stands behind.
const OFFER: &str = "v=0\r\no=- 1 2 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\na=group:BUNDLE 0\r\n\
    m=video 9 UDP/TLS/RTP/SAVPF 96\r\nc=IN IP4 0.0.0.0\r\na=rtcp-mux\r\na=mid:0\r\na=sendonly\r\n\
    a=ice-ufrag:abcd\r\na=ice-pwd:abcdefghijklmnopqrstuvwx\r\na=setup:actpass\r\n\
    a=fingerprint:sha-256 00:11:22:33:44:55:66:77:88:99:AA:BB:CC:DD:EE:FF:00:11:22:33:44:55:66:77:88:99:AA:BB:CC:DD:EE:FF\r\n\
    a=rtpmap:96 VP8/90000\r\n";

/// Lines that the server says it has lost.
fn dropped(stage: &Stage) -> Result<u64> {
    let metrics = stage.server.get_text("/metrics")?;
    let line = metrics.lines().find_map(|line| line.strip_prefix("penstock_log_lines_dropped_total "));
    Ok(line.context("no such metric")?.parse::<f64>()? as u64)
}

/// Offers are answered, media flows, and the server is well; after `spoil`, which does something to the log's reader.
fn serves<T>(stage: &Stage, spoil: impl FnOnce() -> T) -> Result<T> {
    let source = synthetic(50);
    let _publisher = stage.publish(&source, stage.publishing())?;
    let viewers = stage.play(2, &source, stage.playing())?;
    stage.flows(&viewers, &[0, 1], Kind::Video, 20)?;
    let spoilt = spoil();
    let client = Client { namespace: Some(stage.near.name().into()), token: None };
    for number in 0..OFFERS {
        let url = format!("{}/other{number}/whip", stage.publishing_origin());
        let answered = client.post(&url, OFFER).and_then(|(session, _)| client.delete(&session));
        answered.with_context(|| format!("offer {number}"))?;
    }
    stage.flows(&viewers, &[0, 1], Kind::Video, 50)?;
    ensure!(stage.server.get_text("/healthz")? == "ok\n");
    Ok(spoilt)
}

#[test]
fn a_reader_that_goes_away_takes_nothing_with_it() -> Result<()> {
    let (reader, writer) = pipe()?;
    let mut stage = Stage::logging_to(Outlet::File(OwnedFd::from(writer)), "")?;
    serves(&stage, || drop(reader))?;
    ensure!(dropped(&stage)? > 0, "nothing was counted");
    let status = stage.server.terminate()?;
    ensure!(status.success(), "{status}");
    Ok(())
}

#[test]
fn a_reader_that_hangs_is_told_what_it_has_missed() -> Result<()> {
    let (reader, writer) = pipe()?;
    // SAFETY: sets the size of a pipe; no memory.
    ensure!(unsafe { libc::fcntl(writer.as_raw_fd(), libc::F_SETPIPE_SZ, SMALL) } == SMALL, "a larger pipe");
    let mut stage = Stage::logging_to(Outlet::File(OwnedFd::from(writer)), "[log]\nlevel = \"trace\"\n")?;
    serves(&stage, || ())?;
    ensure!(dropped(&stage)? > 0, "nothing was counted");
    let told = std::thread::spawn(move || read_until(reader, "the log works again"));
    stage.until("the log has said that it works again", || Ok(told.is_finished()))?;
    told.join().map_err(|_| anyhow::anyhow!("the reader panicked"))??;
    let status = stage.server.terminate()?;
    ensure!(status.success(), "{status}");
    Ok(())
}

/// Reads lines until one has the text, and goes on to read.
fn read_until(mut reader: PipeReader, text: &str) -> Result<()> {
    let (mut all, mut piece) = (String::new(), vec![0; 1 << 16]);
    while !all.contains(text) {
        let read = reader.read(&mut piece)?;
        ensure!(read > 0, "the log ended");
        all.push_str(&String::from_utf8_lossy(&piece[..read]));
    }
    std::thread::spawn(move || std::io::copy(&mut reader, &mut std::io::sink()));
    Ok(())
}

#[test]
fn a_full_disk_is_counted() -> Result<()> {
    let full = File::options().write(true).open("/dev/full")?;
    let stage = Stage::logging_to(Outlet::File(full.into()), "")?;
    serves(&stage, || ())?;
    ensure!(dropped(&stage)? > 0, "nothing was counted");
    Ok(())
}

#[test]
fn a_server_without_standard_error_serves() -> Result<()> {
    let mut stage = Stage::logging_to(Outlet::Closed, "")?;
    serves(&stage, || ())?;
    let status = stage.server.terminate()?;
    ensure!(status.success(), "{status}");
    Ok(())
}

/// A command whose output nobody wants to the end.
#[test]
fn a_command_whose_reader_goes_away_does_not_panic() -> Result<()> {
    let (reader, writer) = pipe()?;
    drop(reader);
    let mut command = std::process::Command::new(tests_kit::server::binary()?);
    let output = command.arg("version").stdout(writer).stderr(std::process::Stdio::piped()).spawn()?;
    let output = output.wait_with_output()?;
    ensure!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    Ok(())
}
