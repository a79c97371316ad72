//! What operators run beside a server: `top`, `report`, completions, man pages.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use tests_kit::netns::Running;
use tests_kit::peer::{Kind, Offer, Options};
use tests_kit::server::binary;
use tests_kit::stage::{Layout, Stage, synthetic};

/// Looks of `penstock top --json`, as they come.
struct Looks {
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
    _process: Running,
}

impl Looks {
    fn start(stage: &Stage) -> Result<Self> {
        let mut command = stage.host.command(binary()?);
        command.args(["top", "--json", "--interval", "0.3"]).arg("--pin-dir").arg(stage.server.pins());
        let mut process = Running::start(command.stdout(Stdio::piped()))?;
        let output = process.child().and_then(|child| child.stdout.take()).context("no output")?;
        Ok(Self { lines: BufReader::new(output).lines(), _process: process })
    }

    /// The next look of which this is true.
    fn until(&mut self, what: &str, is_so: impl Fn(&Value) -> bool) -> Result<Value> {
        let mut last = Value::Null;
        for _ in 0..200 {
            last = serde_json::from_str(&self.lines.next().context("top has ended")??)?;
            if is_so(&last) {
                return Ok(last);
            }
        }
        anyhow::bail!("it never showed {what}: {last:#}")
    }
}

fn sessions(look: &Value) -> impl Iterator<Item = &Value> {
    look["sessions"].as_array().into_iter().flatten()
}

fn is_of(session: &Value, engine: &str) -> bool {
    session["engine"].as_str().is_some_and(|carried| carried.starts_with(engine))
}

/// Kernel sessions go on being counted while the server stands still; those of the userspace engine are stale.
#[test]
fn top_shows_both_engines_also_while_the_server_hangs() -> Result<()> {
    let stage = Stage::new(Layout::OneNic, "native", "[media]\ntransmitter = \"socket\"\n")?;
    let source = synthetic(100);
    let _publisher = stage.publish(&source, stage.publishing())?;
    let modern = stage.play(1, &source, stage.playing())?;
    let aged = stage.play(1, &source, Options { profiles: Offer::CmSha1, ..stage.playing() })?;
    stage.flows(&modern, &[0], Kind::Video, 20)?;
    stage.flows(&aged, &[0], Kind::Video, 20)?;
    let mut looks = Looks::start(&stage)?;
    let flows = |session: &Value| session["packets_per_second"].as_f64() > Some(0.0);
    let all = looks.until("all three that flow", |look| sessions(look).filter(|one| flows(one)).count() == 3)?;
    ensure!(all["streams"][0]["viewers"] == 2 && all["note"].is_null(), "{all:#}");
    stage.server.signal(libc::SIGSTOP)?;
    let silent = looks.until("what is stale", |look| {
        let stale = |one: &Value| !one["stale_seconds"].is_null();
        let userspace = sessions(look).filter(|one| is_of(one, "userspace")).all(stale);
        let kernel = sessions(look).filter(|one| is_of(one, "kernel")).all(|one| !stale(one) && flows(one));
        userspace && kernel && sessions(look).count() == 3
    });
    stage.server.signal(libc::SIGCONT)?;
    let silent = silent?;
    ensure!(silent["note"].as_str().is_some_and(|note| note.contains("does not tell")), "{silent:#}");
    looks.until("that it is well again", |look| {
        look["note"].is_null() && sessions(look).all(|one| one["stale_seconds"].is_null())
    })?;
    Ok(())
}

/// As text, for whoever has no terminal.
#[test]
fn top_sorts_and_filters() -> Result<()> {
    let stage = Stage::new(Layout::OneNic, "native", "")?;
    let source = synthetic(100);
    let _publisher = stage.publish(&source, stage.publishing())?;
    let _viewers = stage.play(2, &source, stage.playing())?;
    let text = |filter: &str| {
        let mut command = stage.host.command(binary()?);
        command.args(["top", "--count", "1", "--sort", "stream", "--filter", filter]);
        let output = command.arg("--pin-dir").arg(stage.server.pins()).output()?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8(output.stdout)?)
    };
    let all = text("")?;
    ensure!(all.contains("kernel native") && all.matches("viewer").count() == 2 && !all.contains('\x1b'), "{all}");
    let none = text("nothing-like-it")?;
    ensure!(none.contains("no streams") && none.contains("no sessions"), "{none}");
    Ok(())
}

/// It has what there is to know, and neither tokens, nor session ids that open anything, nor addresses.
#[test]
fn a_report_has_no_secrets() -> Result<()> {
    let place = tempfile::tempdir()?;
    let more = "[auth]\nplay_token = \"play-secret-1\"\n[jwt]\nsecret = \"0123456789abcdef0123456789abcdef\"\n\
                [streams.door]\nsource = \"rtsp://viewer:camera-secret@192.0.2.77/stream\"\non_demand = true\n";
    let stage = Stage::new(Layout::OneNic, "native", more)?;
    let log = place.path().join("log");
    std::fs::write(&log, stage.server.log() + "\nx https://a.example/?token=leaked-1 from 10.60.0.3:9\n")?;
    let (file, config) = (place.path().join("report.tar.gz"), stage.server.pins().with_file_name("penstock.toml"));
    let mut command = stage.host.command(binary()?);
    command.arg("report").arg("--output").arg(&file).arg("--log").arg(&log).arg("--config").arg(&config);
    let output = command.arg("--pin-dir").arg(stage.server.pins()).output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let tar = |option: &str| -> Result<String> {
        let output = Command::new("tar").arg(option).arg(&file).output()?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let (names, all) = (tar("-tzf")?, tar("-xOzf")?);
    for part in ["README.txt", "version.json", "config.toml", "server/metrics", "maps/sessions.json", "log.txt"] {
        ensure!(names.contains(part), "{part} is not in {names}");
    }
    for known in ["penstock_build_info", "engine: kernel", "\"map_layout\"", "streams.door", "address-1"] {
        ensure!(all.contains(known), "{known} is not in it:\n{all}");
    }
    for secret in ["play-secret-1", "0123456789abcdef0123", "camera-secret", "leaked-1", "10.60.0.", "192.0.2.77"] {
        let line = all.lines().find(|line| line.contains(secret));
        ensure!(line.is_none(), "{secret} is in it: {line:?}");
    }
    Ok(())
}

#[test]
fn shells_and_people_are_told_every_command() -> Result<()> {
    let place = tempfile::tempdir()?;
    let run = |arguments: &[&str]| -> Result<String> {
        let output = Command::new(binary()?).args(arguments).output()?;
        ensure!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8(output.stdout)?)
    };
    let script = place.path().join("completions");
    std::fs::write(&script, run(&["completions", "bash"])?)?;
    let complete = "source \"$1\"; COMP_WORDS=(penstock ser); COMP_CWORD=1; _penstock penstock ser penstock; \
                    echo \"${COMPREPLY[@]}\"";
    let output = Command::new("bash").args(["-c", complete, "bash"]).arg(&script).output()?;
    ensure!(String::from_utf8_lossy(&output.stdout).trim() == "serve", "{output:?}");
    for shell in ["zsh", "fish"] {
        ensure!(run(&["completions", shell])?.contains("healthcheck"), "{shell}");
    }
    let pages = place.path().join("man");
    run(&["man", &pages.display().to_string()])?;
    let page = |name: &str| std::fs::read_to_string(pages.join(name));
    ensure!(page("penstock.1")?.contains("penstock\\-serve"), "{}", page("penstock.1")?);
    ensure!(page("penstock-stream-add.1")?.contains("on\\-demand"), "{}", page("penstock-stream-add.1")?);
    Ok(())
}
