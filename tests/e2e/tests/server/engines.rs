//! Who carries a session: the kernel engine where it can, the userspace engine elsewhere, and both for one stream.

use anyhow::{Result, ensure};
use tests_kit::peer::{Kind, Offer, Options, Source};
use tests_kit::stage::{BOTH, Layout, Stage, synthetic};

/// As OBS and GStreamer offer SRTP.
fn old(options: Options) -> Options {
    Options { profiles: Offer::CmSha1, ..options }
}

fn all_start_with(carriers: &[String], start: &str) -> Result<()> {
    ensure!(!carriers.is_empty() && carriers.iter().all(|carrier| carrier.starts_with(start)), "{carriers:?}");
    Ok(())
}

/// Roles of the sessions that the kernel's maps have.
fn in_kernel(stage: &Stage) -> Result<Vec<String>> {
    let listed = stage.server.inspect(&["sessions"])?;
    let roles = listed["sessions"].as_array().into_iter().flatten().filter_map(|one| one["role"].as_str());
    let mut roles: Vec<String> = roles.map(str::to_owned).collect();
    roles.sort();
    Ok(roles)
}

/// A publisher and three viewers get everything through.
fn serves(stage: &Stage, source: &Source, publishing: Options, playing: Options) -> Result<()> {
    let publisher = stage.publish(source, publishing)?;
    let viewers = stage.play(3, source, playing)?;
    stage.flows(&viewers, &[0, 1, 2], Kind::Video, 100)?;
    stage.flows(&viewers, &[0, 1, 2], Kind::Audio, 50)?;
    stage.rest(&publisher, &viewers)?;
    stage.assert_exact(&viewers.stop()?, &BOTH)?;
    publisher.stop()?;
    Ok(())
}

#[test]
fn an_ordinary_user_serves_from_userspace() -> Result<()> {
    let stage = Stage::unprivileged(Layout::OneNic, "")?;
    ensure!(stage.server.logged("no kernel engine"), "no log line says why:\n{}", stage.server.log());
    let source = synthetic(100);
    let publisher = stage.publish(&source, stage.publishing())?;
    let viewers = stage.play(3, &source, stage.playing())?;
    stage.flows(&viewers, &[0, 1, 2], Kind::Video, 100)?;
    for role in ["publisher", "subscriber"] {
        all_start_with(&stage.carriers(role)?, "userspace socket: this process may not use XDP")?;
    }
    stage.rest(&publisher, &viewers)?;
    stage.assert_exact(&viewers.stop()?, &BOTH)?;
    Ok(())
}

#[test]
fn userspace_by_configuration_serves_every_profile() -> Result<()> {
    let stage = Stage::new(Layout::TwoNics, "native", "[media]\nengine = \"userspace\"\n")?;
    let source = synthetic(100);
    serves(&stage, &source, stage.publishing(), stage.playing())?;
    serves(&stage, &source, old(stage.publishing()), old(stage.playing()))
}

#[test]
fn one_stream_in_both_engines() -> Result<()> {
    let stage = Stage::plain()?;
    let source = synthetic(100);
    let publisher = stage.publish(&source, stage.publishing())?;
    let viewers = stage.play(2, &source, stage.playing())?;
    let others = stage.play(2, &source, old(stage.playing()))?;
    for viewers in [&viewers, &others] {
        stage.flows(viewers, &[0, 1], Kind::Video, 100)?;
        stage.flows(viewers, &[0, 1], Kind::Audio, 50)?;
    }
    all_start_with(&stage.carriers("publisher")?, "kernel native")?;
    let carriers = stage.carriers("subscriber")?;
    let of = |start: &str| carriers.iter().filter(|carrier| carrier.starts_with(start)).count();
    let counts = (of("kernel native"), of("userspace xdp: the peer offered only AES_CM_128_HMAC_SHA1_80"));
    ensure!(counts == (2, 2), "{carriers:?}");
    stage.rest(&publisher, &viewers)?;
    stage.rest(&publisher, &others)?;
    stage.assert_exact(&viewers.stop()?, &BOTH)?;
    stage.assert_exact(&others.stop()?, &BOTH)?;
    let tapped = |stage: &Stage| -> Result<u64> {
        Ok(stage.server.get("/api/v1/state")?["counters"]["engine"]["tapped"].as_u64().unwrap_or_default())
    };
    // Nobody needs plaintext any more, so the kernel gives none.
    publisher.pause(false)?;
    ensure!(tapped(&stage)? > 0, "nothing was tapped");
    let again = stage.play(1, &source, stage.playing())?;
    // The kernel hears of it after those who left have had their answers.
    stage.until("no plaintext is copied for nobody", || {
        let before = tapped(&stage)?;
        let seen = again.stats().first().map_or(0, |one| one.media(Kind::Video).verified);
        stage.flows(&again, &[0], Kind::Video, seen + 30)?;
        Ok(tapped(&stage)? == before)
    })
}

#[test]
fn a_publisher_without_gcm_reaches_every_viewer() -> Result<()> {
    let stage = Stage::plain()?;
    let source = synthetic(100);
    serves(&stage, &source, old(stage.publishing()), stage.playing())?;
    let publisher = stage.publish(&source, old(stage.publishing()))?;
    let viewers = stage.play(1, &source, stage.playing())?;
    stage.flows(&viewers, &[0], Kind::Video, 20)?;
    all_start_with(&stage.carriers("publisher")?, "userspace xdp: the peer offered only AES_CM")?;
    all_start_with(&stage.carriers("subscriber")?, "userspace xdp: its publisher is served in userspace")?;
    drop(publisher);
    Ok(())
}

/// The stream's publisher changes from one engine to the other and back. The viewers' SSRCs go on: sequence numbers
/// never repeat, and whatever arrives opens.
#[test]
fn viewers_follow_their_publisher_from_engine_to_engine() -> Result<()> {
    let stage = Stage::plain()?;
    let source = synthetic(100);
    let first = stage.publish(&source, stage.publishing())?;
    let viewers = stage.play(2, &source, stage.playing())?;
    stage.flows(&viewers, &[0, 1], Kind::Video, 50)?;
    all_start_with(&stage.carriers("subscriber")?, "kernel native")?;
    ensure!(in_kernel(&stage)? == ["publisher", "subscriber", "subscriber"]);
    first.stop()?;
    for (publishing, carrier) in [(old(stage.publishing()), "userspace xdp"), (stage.publishing(), "kernel native")] {
        let publisher = stage.publish(&source, publishing)?;
        stage.flows(&viewers, &[0, 1], Kind::Video, 50)?;
        stage.flows(&viewers, &[0, 1], Kind::Audio, 25)?;
        all_start_with(&stage.carriers("subscriber")?, carrier)?;
        // A session that one engine carries is in that one alone: key, lease and all.
        let expected: &[&str] =
            if carrier == "kernel native" { &["publisher", "subscriber", "subscriber"] } else { &[] };
        stage.until("the kernel has the sessions that it serves", || Ok(in_kernel(&stage)? == expected))?;
        publisher.stop()?;
    }
    for (number, stats) in viewers.stop()?.iter().enumerate() {
        for kind in BOTH {
            let media = stats.media(kind);
            ensure!(media.packets > 0 && media.decrypted == media.packets, "viewer {number}: {media:#?}");
            ensure!((media.duplicates, media.mismatches) == (0, 0), "viewer {number}: {media:#?}");
        }
    }
    Ok(())
}
