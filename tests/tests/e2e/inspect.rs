//! The inspection commands tell what the peers saw, whether or not the server answers.

use anyhow::{Context, Result};
use penstock_tests::peer::{Kind, Stats};
use serde_json::Value;

use crate::stage::{BOTH, Stage, assert_all_exact, synthetic};

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
    assert_all_exact(&viewers.stats(), &BOTH);
    assert_agree(&stage, &publisher.stats(), &viewers.stats())?;

    publisher.pause(false)?;
    stage.server.signal(libc::SIGSTOP)?;
    let looked = stage.flows(&viewers, &[0, 1, 2, 3], Kind::Video, 50).and_then(|()| {
        stage.rest(&publisher, &viewers)?;
        assert_agree(&stage, &publisher.stats(), &viewers.stats())
    });
    stage.server.signal(libc::SIGCONT)?;
    looked?;
    assert_all_exact(&viewers.stop()?, &BOTH);
    Ok(())
}

#[test]
fn keys_are_shown_only_on_demand() -> Result<()> {
    let stage = Stage::plain()?;
    let source = synthetic(50);
    let _publisher = stage.publish(&source, stage.publishing())?;
    let redacted = stage.server.inspect_text(&["maps", "keys"])?;
    let shown = stage.server.inspect_text(&["maps", "keys", "--show-secrets"])?;
    let bits = |text: &str| text.split(|c: char| !c.is_ascii_hexdigit()).map(str::len).max().unwrap_or_default() * 4;
    assert!(bits(&redacted) < 128, "something as long as a key: {redacted}");
    assert!(bits(&shown) >= 128, "no key: {shown}");
    Ok(())
}
