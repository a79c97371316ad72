//! The benchmark itself: it counts right, it sees loss, and it looks at what it counts. Nothing here says
//! how fast anything is.

use std::{fs, time::Duration};

use anyhow::Result;
use tests_bench::{
    case::{Case, Origin},
    contender::Contender,
    load::Load,
    peer::{self, Feed, How, Opened, Peer, Processes},
    run::{Look, Measured, Subject, Times, run},
};
use tests_kit::server;

const TIMES: Times = Times { warm_up: Duration::from_millis(100), measured: Duration::from_millis(300) };

fn measure(subject: Subject, case: &Case, look: Look) -> Result<Measured> {
    run(subject, case, &Load::seal(case, TIMES.load()), TIMES, look)
}

fn slow(viewers: u32) -> Case {
    Case { rate: 100.0, ..Case::fan_out(viewers, 500) }
}

/// What is missing has been counted by an engine or a full ring: one packet on its way in is one for each viewer.
fn nothing_lost_uncounted(measured: &Measured, viewers: u64) {
    let counted = measured.overflows + measured.drops.iter().map(|(_, packets)| packets).sum::<u64>();
    assert!(measured.lost.is_some_and(|lost| lost <= counted * viewers), "{measured:?}");
}

#[test]
fn every_copy_counts_once() -> Result<()> {
    let measured = measure(Subject::Contender(Contender::Limit), &slow(8), Look::Plain)?;
    assert_eq!(measured.expected, 8 * 70);
    nothing_lost_uncounted(&measured, 8);
    assert!(measured.copies > 0.0 && measured.latency.quantile(0.5).is_some());
    assert!(measured.busy.cores > 0.0);
    Ok(())
}

#[test]
fn what_nobody_forwards_is_lost() -> Result<()> {
    let measured = measure(Subject::Nobody, &slow(8), Look::Plain)?;
    assert_eq!((measured.expected, measured.lost), (8 * 70, Some(8 * 70)));
    Ok(())
}

#[test]
fn engines_pass_the_check_of_every_copy() -> Result<()> {
    for contender in [Contender::Kernel, Contender::Xdp, Contender::Socket, Contender::SocketGso] {
        let measured = measure(Subject::Contender(contender), &slow(8), Look::Check)?;
        nothing_lost_uncounted(&measured, 8);
        let verdict = measured.verdict.unwrap_or_default();
        let come = 8 * 70 - measured.lost.unwrap_or_default() - verdict.missed;
        assert_eq!((verdict.right, verdict.wrong, verdict.repeated), (come, 0, 0), "{contender:?}: {verdict:?}");
        assert!(measured.memory.process > 1 << 20, "{contender:?}: {:?}", measured.memory);
        let has_maps = matches!(contender, Contender::Kernel | Contender::Xdp);
        assert!(measured.memory.maps > 0 || !has_maps, "{contender:?}: {:?}", measured.memory);
    }
    Ok(())
}

#[test]
fn sources_reach_their_viewers() -> Result<()> {
    let case = Case::cameras(8, Origin::Source);
    for contender in [Contender::Xdp, Contender::Socket, Contender::SocketGso] {
        let measured = measure(Subject::Contender(contender), &case, Look::Check)?;
        let verdict = measured.verdict.clone().unwrap_or_default();
        nothing_lost_uncounted(&measured, 1);
        let come = measured.expected - measured.lost.unwrap_or_default() - verdict.missed;
        assert_eq!((verdict.right, verdict.wrong, verdict.repeated), (come, 0, 0), "{contender:?}: {verdict:?}");
        assert!(measured.expected > 8 * 60, "{contender:?}: {measured:?}");
    }
    Ok(())
}

/// The programs without a check, where GSO's segments arrive in one piece.
#[test]
fn segments_are_counted_as_packets() -> Result<()> {
    let case = Case::cameras(8, Origin::Source);
    let measured = measure(Subject::Contender(Contender::SocketGso), &case, Look::Plain)?;
    nothing_lost_uncounted(&measured, 1);
    Ok(())
}

/// Two streams of three viewers each.
fn streams() -> Case {
    Case { streams: 2, ..slow(3) }
}

/// `penstock serve` without rights, as if it were another server.
const CONFIG: &str = "[media]\nengine = \"userspace\"\ntransmitter = \"socket\"\n";

fn check(peer: &Peer) -> Result<Measured> {
    let measured = peer::run(peer, &streams(), TIMES, Opened::All, false)?;
    let verdict = measured.verdict.clone().unwrap_or_default();
    assert!(verdict.right > 6 * 20 && verdict.wrong == 0, "{}: {measured:?}", peer.name);
    assert!(measured.expected > 6 * 20 && measured.lost.is_some(), "{}: {measured:?}", peer.name);
    // Of this machine's own network nobody says whose packets did not fit.
    if matches!(peer.how, How::Command(_)) {
        nothing_lost_uncounted(&measured, 3);
    }
    assert!(measured.alone.is_some_and(|cores| cores > 0.0 && cores >= measured.process), "{measured:?}");
    assert!(measured.memory.process > 1 << 20 && measured.latency.quantile(0.5).is_some(), "{measured:?}");
    Ok(measured)
}

/// In the benchmark's own networks, from a command, by both ways in.
#[test]
fn another_server_is_measured_like_ours() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let (config, script) = (directory.path().join("penstock.toml"), directory.path().join("run"));
    fs::write(&config, CONFIG)?;
    let cameras = "for n in $(seq 0 $((STREAMS - 1))); do \
                   printf '[streams.cam%s]\nsource = \"%s%s\"\n' $n $CAMERAS $n; done";
    let serve = format!("exec {} serve --config {}", server::binary()?.display(), config.display());
    fs::write(&script, format!("{cameras} >> {}\n{serve}\n", config.display()))?;
    let peer = |feed, whep: &str| Peer {
        name: format!("penstock, {feed:?}"),
        how: How::Command(if feed == Feed::Rtsp { format!("sh {}", script.display()) } else { serve.clone() }),
        feed,
        whep: whep.into(),
        whip: whep.replace("whep", "whip"),
    };
    check(&peer(Feed::Whip, "http://10.82.0.1:8080/live{}/whep"))?;
    check(&peer(Feed::Rtsp, "http://10.82.0.1:8080/cam{}/whep"))?;
    Ok(())
}

/// On this machine's loopback, where somebody else has started it.
#[test]
fn another_server_that_runs_already_is_measured() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let config = directory.path().join("penstock.toml");
    fs::write(&config, format!("[http]\nlisten = [\"127.0.0.1:18080\"]\n{CONFIG}port = 18443\n"))?;
    let mut command = std::process::Command::new(server::binary()?);
    command.arg("serve").arg("--config").arg(&config);
    let processes = Processes::start(command, false)?;
    let measured = check(&Peer {
        name: "penstock, outside".into(),
        how: How::Process(processes.ids()[0]),
        feed: Feed::Whip,
        whep: "http://127.0.0.1:18080/live{}/whep".into(),
        whip: "http://127.0.0.1:18080/live{}/whip".into(),
    })?;
    assert_eq!(measured.alone, Some(measured.process));
    Ok(())
}

/// A server of another make that misbehaves so, fed by WHIP.
fn scripted(arguments: &str) -> Peer {
    Peer {
        name: arguments.into(),
        how: How::Command(command(arguments)),
        feed: Feed::Whip,
        whep: "http://10.82.0.1:8080/live{}/whep".into(),
        whip: "http://10.82.0.1:8080/live{}/whip".into(),
    }
}

fn command(arguments: &str) -> String {
    let program = env!("CARGO_BIN_EXE_scripted-peer");
    format!("exec {program} --http 10.82.0.1:8080 --media 10.82.0.1:8444 {arguments}")
}

fn measure_scripted(arguments: &str) -> Result<Measured> {
    peer::run(&scripted(arguments), &streams(), TIMES, Opened::All, false)
}

#[test]
fn a_server_without_location_and_etag_is_measured_all_the_same() -> Result<()> {
    let measured = measure_scripted("--no-headers")?;
    let verdict = measured.verdict.clone().unwrap_or_default();
    assert!(verdict.right > 0 && verdict.wrong == 0 && measured.copies > 0.0, "{measured:?}");
    assert!(measured.latency.quantile(0.99).is_some() && measured.lost.is_some(), "{measured:?}");
    Ok(())
}

/// It numbers what is left anew, so that no viewer could know.
#[test]
fn what_a_server_throws_away_is_lost() -> Result<()> {
    let measured = measure_scripted("--forwards some")?;
    let thrown_away = measured.expected * 9 / 25;
    // Each viewer's copies begin anywhere in a round of 25.
    let lost = measured.lost.expect("its packets are the publisher's");
    assert!(measured.expected >= 6 * 20 && lost + 6 * 9 >= thrown_away, "{lost} of {thrown_away}: {measured:?}");
    Ok(())
}

#[test]
fn of_packets_of_its_own_neither_latency_nor_loss_is_known() -> Result<()> {
    let measured = measure_scripted("--forwards own")?;
    assert_eq!((measured.lost, measured.latency.quantile(0.5), measured.copies), (None, None, 0.0), "{measured:?}");
    assert!(measured.alone.is_some_and(|cores| cores > 0.0) && measured.memory.process > 0, "{measured:?}");
    Ok(())
}

/// The whole programs: the figures of the others stand in their tables.
#[test]
fn a_server_that_dies_costs_its_own_row() -> Result<()> {
    let dies = command("--dies-after 1000");
    let peer = ["--peer-name", "dying", "--peer-url", "http://10.82.0.1:8080/live{}/whep", "--peer-feed", "whip"];
    let programs: [(&str, &[&str], &str); 2] = [
        (env!("CARGO_BIN_EXE_bench-fanout"), &["--case", "8x500", "--contender", "limit"], "XDP fan-out without"),
        (env!("CARGO_BIN_EXE_bench-cameras"), &["--cameras", "2"], "by XDP"),
    ];
    for (program, what, ours) in programs {
        let mut run = std::process::Command::new(program);
        run.args(what).args(["--any-build", "--quick", "--rounds", "2", "--seconds", "2"]).args(peer);
        let output = run.args(["--peer-command", &dies]).output()?;
        let text = String::from_utf8_lossy(&output.stdout);
        let log = String::from_utf8_lossy(&output.stderr);
        let row = |name: &str| text.lines().find(|line| line.contains(name)).unwrap_or_default().to_owned();
        assert!(output.status.success(), "{program}: {log}");
        assert!(row("dying, fed by WHIP (2 of 2 runs failed)").contains('–'), "{program}: {text}{log}");
        assert!(!row(ours).is_empty() && !row(ours).contains("failed"), "{program}: {text}");
        assert!(text.contains("Runs that failed") && log.contains("this was all"), "{program}: {text}{log}");
        assert!(!text.contains("NaN"), "{program}: {text}");
    }
    Ok(())
}

#[test]
fn a_server_that_does_not_start_says_why() {
    let peer = Peer {
        name: "nobody".into(),
        how: How::Command("echo no such luck; exit 1".into()),
        feed: Feed::Rtsp,
        whep: "http://10.82.0.1:8080/cam{}/whep".into(),
        whip: String::new(),
    };
    let error = peer::run(&peer, &streams(), TIMES, Opened::All, false).expect_err("nobody serves");
    let error = format!("{error:#}");
    assert!(error.contains("no such luck") && error.contains("has ended"), "{error}");
}
