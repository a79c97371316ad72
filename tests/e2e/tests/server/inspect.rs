//! The inspection commands tell what the peers saw, whether or not the server answers.

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tests_kit::peer::{Kind, Offer, Options, Stats};
use tests_kit::server::binary;
use tests_kit::stage::{BOTH, Layout, Stage, synthetic};

/// The track of this SSRC in `penstock sessions --json`.
fn track(sessions: &Value, ssrc: u32) -> Result<&Value> {
    let lists = sessions["sessions"].as_array().context("no sessions")?;
    let mut tracks = lists.iter().filter_map(|session| session["tracks"].as_array()).flatten();
    tracks.find(|track| track["ssrc"] == ssrc).with_context(|| format!("no SSRC {ssrc} in {sessions:#}"))
}

/// Counters of every peer and of the kernel must be the same numbers.
fn assert_agree(stage: &Stage, publisher: &Stats, viewers: &[Stats]) -> Result<()> {
    let sessions = stage.server.inspect(&["sessions"])?;
    let mut received = 0;
    for viewer in viewers {
        for kind in BOTH {
            let media = viewer.media(kind);
            let track = track(&sessions, media.ssrc)?;
            let shown = (&track["packets"], &track["bytes"], &track["payload_type"]);
            assert!(
                *shown.0 == media.packets && *shown.1 == media.bytes && *shown.2 == media.payload_type,
                "{kind:?}: {track:#} but the viewer has {media:#?}"
            );
            received += media.packets;
        }
    }
    for kind in BOTH {
        let (media, track) = (publisher.media(kind), track(&sessions, publisher.media(kind).ssrc)?);
        // The first sequence number is 1, so the highest index is the number of packets.
        assert!(track["highest_index"] == media.packets, "{kind:?}: {track:#} but {media:#?} were sent");
    }
    let streams = stage.server.inspect(&["streams"])?;
    let counters = &streams["counters"];
    assert!(counters["sealed"] == received && counters["transmitted"] == received, "{received} and {counters:#}");
    let stream = &streams["streams"][0];
    assert!(stream["stream"] == "e2e" && stream["viewers"] == viewers.len() as u64, "{streams:#}");
    assert!(stream["packets_out"] == received, "{streams:#}");
    Ok(())
}

#[test]
fn commands_agree_with_the_peers_even_while_the_server_is_stopped() -> Result<()> {
    let stage = Stage::plain()?;
    let source = synthetic(100);
    let publisher = stage.publish(&source, stage.publishing())?;
    let viewers = stage.play(4, &source, stage.playing())?;
    stage.flows(&viewers, &[0, 1, 2, 3], Kind::Video, 100)?;
    stage.rest(&publisher, &viewers)?;
    stage.assert_exact(&viewers.stats(), &BOTH)?;
    assert_agree(&stage, &publisher.stats(), &viewers.stats())?;

    publisher.pause(false)?;
    stage.server.signal(libc::SIGSTOP)?;
    let looked = stage.flows(&viewers, &[0, 1, 2, 3], Kind::Video, 50).and_then(|()| {
        stage.rest(&publisher, &viewers)?;
        assert_agree(&stage, &publisher.stats(), &viewers.stats())
    });
    stage.server.signal(libc::SIGCONT)?;
    looked?;
    stage.assert_exact(&viewers.stop()?, &BOTH)?;
    Ok(())
}

#[test]
fn keys_are_shown_to_nobody() -> Result<()> {
    let stage = Stage::plain()?;
    let source = synthetic(50);
    let _publisher = stage.publish(&source, stage.publishing())?;
    let refused = stage.server.inspect_text(&["maps", "keys"]);
    assert!(refused.is_err_and(|error| format!("{error:#}").contains("not pinned")));
    Ok(())
}

/// `penstock NAME --json` on the server's own host, where its HTTP can be reached.
fn on_the_host(stage: &Stage, arguments: &[&str]) -> Result<Value> {
    let mut command = stage.host.command(binary()?);
    command.args(arguments).arg("--json").arg("--pin-dir").arg(stage.server.pins());
    let output = command.output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// Engines of the listed sessions, and how many of them have packets.
fn engines(listed: &Value) -> Result<(Vec<&str>, usize)> {
    let sessions = listed["sessions"].as_array().context("no sessions")?;
    let sent = |session: &&Value| {
        session["tracks"].as_array().into_iter().flatten().any(|track| track["packets"].as_u64() > Some(0))
    };
    let engines = sessions.iter().filter_map(|session| session["engine"].as_str()).collect();
    Ok((engines, sessions.iter().filter(sent).count()))
}

#[test]
fn sessions_of_both_engines_are_listed_while_the_server_answers() -> Result<()> {
    let stage = Stage::new(Layout::OneNic, "native", "[media]\ntransmitter = \"socket\"\n")?;
    let source = synthetic(100);
    let _publisher = stage.publish(&source, stage.publishing())?;
    let modern = stage.play(2, &source, stage.playing())?;
    let aged = stage.play(1, &source, Options { profiles: Offer::CmSha1, ..stage.playing() })?;
    stage.flows(&modern, &[0, 1], Kind::Video, 50)?;
    stage.flows(&aged, &[0], Kind::Video, 50)?;

    let listed = on_the_host(&stage, &["sessions"])?;
    let (names, sent) = engines(&listed)?;
    ensure!(listed["note"].is_null() && names.len() == 4 && sent == 4, "{listed:#}");
    ensure!(names[..3] == ["kernel native"; 3] && names[3].starts_with("userspace socket: "), "{listed:#}");
    let streams = on_the_host(&stage, &["streams"])?;
    let stream = &streams["streams"][0];
    ensure!(stream["viewers"] == 3 && stream["engines"].as_array().map(Vec::len) == Some(2), "{streams:#}");

    stage.server.signal(libc::SIGSTOP)?;
    let silent = on_the_host(&stage, &["sessions"]);
    stage.server.signal(libc::SIGCONT)?;
    let silent = silent?;
    ensure!(engines(&silent)?.0 == ["kernel native"; 3], "{silent:#}");
    ensure!(silent["note"].as_str().is_some_and(|note| note.contains("does not tell")), "{silent:#}");
    Ok(())
}

/// Viewers that a kernel pass has no room for are served from userspace, and are in the kernel's table no more.
#[test]
fn sessions_beyond_a_pass_are_listed_once() -> Result<()> {
    // The configuration of tests ends with `[kernel]`.
    let stage = Stage::new(Layout::OneNic, "native", "copies_per_pass = 2\n")?;
    let source = synthetic(100);
    let _publisher = stage.publish(&source, stage.publishing())?;
    let viewers = stage.play(5, &source, stage.playing())?;
    stage.flows(&viewers, &[0, 1, 2, 3, 4], Kind::Video, 50)?;

    let listed = on_the_host(&stage, &["sessions"])?;
    let (mut names, sent) = engines(&listed)?;
    names.sort_unstable();
    ensure!(names.len() == 6 && sent == 6, "{listed:#}");
    ensure!(names[..3] == ["kernel native"; 3], "the publisher and two viewers: {listed:#}");
    ensure!(names[3..].iter().all(|name| name.starts_with("userspace ")), "{listed:#}");
    let streams = on_the_host(&stage, &["streams"])?;
    ensure!(streams["streams"][0]["viewers"] == 5, "{streams:#}");
    stage.assert_exact(&viewers.stop()?, &BOTH)?;
    Ok(())
}
