//! Every copy arrives at every viewer, unchanged.

use anyhow::Result;
use tests_kit::peer::{Kind, Offer, Options, Source, SrtpProfile, Synthetic};
use tests_kit::stage::{BOTH, Layout, Stage, clip, ip, synthetic};

#[test]
fn one_viewer_sees_the_clip() -> Result<()> {
    sees_the_clip(1)
}

#[test]
fn sixteen_viewers_see_the_clip() -> Result<()> {
    sees_the_clip(16)
}

fn sees_the_clip(count: usize) -> Result<()> {
    let stage = Stage::plain()?;
    let clip = clip()?;
    let publisher = stage.publish(&clip, stage.publishing())?;
    let viewers = stage.play(count, &clip, stage.playing())?;
    let all: Vec<_> = (0..count).collect();
    stage.flows(&viewers, &all, Kind::Video, 75)?;
    stage.flows(&viewers, &all, Kind::Audio, 50)?;
    stage.rest(&publisher, &viewers)?;
    let stats = viewers.stop()?;
    for one in &stats {
        assert_eq!(one.profile, Some(SrtpProfile::AEAD_AES_256_GCM));
    }
    stage.assert_exact(&stats, &BOTH)?;
    publisher.stop()?;
    Ok(())
}

#[test]
fn two_hundred_viewers_receive_every_copy() -> Result<()> {
    let stage = Stage::plain()?;
    let source = synthetic(20);
    let video_only = |options: Options| Options { audio: vec![], ..options };
    let publisher = stage.publish(&source, video_only(stage.publishing()))?;
    // All on one thread, which has enough to do with the handshakes.
    publisher.pause(true)?;
    let viewers = stage.play(200, &source, video_only(stage.playing()))?;
    publisher.pause(false)?;
    let all: Vec<_> = (0..200).collect();
    stage.flows(&viewers, &all, Kind::Video, 100)?;
    stage.rest(&publisher, &viewers)?;
    stage.assert_exact(&viewers.stop()?, &[Kind::Video])?;
    Ok(())
}

#[test]
fn every_payload_size_survives_and_the_index_wraps() -> Result<()> {
    let stage = Stage::plain()?;
    // The publisher's 16 bits wrap after some seconds: from then on its rollover counter is 1.
    let source = Source::Synthetic(Synthetic { rate: 300, first_sequence: 65_000, ..Synthetic::default() });
    let publisher = stage.publish(&source, stage.publishing())?;
    let viewers = stage.play(2, &source, stage.playing())?;
    stage.until("all sizes were sent beyond the wrap", || Ok(publisher.stats().video.packets > 2200))?;
    stage.rest(&publisher, &viewers)?;
    let stats = viewers.stop()?;
    stage.assert_exact(&stats, &BOTH)?;
    for one in stats {
        assert_eq!(one.video.verified, one.video.decrypted, "{:#?}", one.video);
        assert!(one.video.verified > 1400, "{:#?}", one.video);
    }
    Ok(())
}

#[test]
fn two_interfaces() -> Result<()> {
    exact_with(&Stage::new(Layout::TwoNics, "native", "")?, |options| options)
}

#[test]
fn generic_mode() -> Result<()> {
    exact_with(&Stage::new(Layout::OneNic, "generic", "")?, |options| options)
}

#[test]
fn generic_mode_with_two_interfaces() -> Result<()> {
    exact_with(&Stage::new(Layout::TwoNics, "generic", "")?, |options| options)
}

#[test]
fn ipv6() -> Result<()> {
    exact_with(&Stage::plain()?, |options| Options { addresses: vec![ip("fd60::2")], ..options })
}

#[test]
fn ipv6_in_generic_mode() -> Result<()> {
    let stage = Stage::new(Layout::OneNic, "generic", "")?;
    exact_with(&stage, |options| Options { addresses: vec![ip("fd60::2")], ..options })
}

/// All packet sizes to three viewers.
fn exact_with(stage: &Stage, change: impl Fn(Options) -> Options) -> Result<()> {
    let source = synthetic(100);
    let publisher = stage.publish(&source, change(stage.publishing()))?;
    let viewers = stage.play(3, &source, change(stage.playing()))?;
    stage.flows(&viewers, &[0, 1, 2], Kind::Video, 300)?;
    stage.rest(&publisher, &viewers)?;
    stage.assert_exact(&viewers.stop()?, &BOTH)?;
    Ok(())
}

#[test]
fn families_and_profiles_mix_in_one_stream() -> Result<()> {
    let stage = Stage::plain()?;
    let source = synthetic(100);
    let with =
        |options: Options, profiles, address: &str| Options { profiles, addresses: vec![ip(address)], ..options };
    let publisher = stage.publish(&source, with(stage.publishing(), Offer::Gcm128, "fd60::3"))?;
    assert_eq!(publisher.stats().profile, Some(SrtpProfile::AEAD_AES_128_GCM));
    let mut groups = Vec::new();
    for (offer, address, expected) in [
        (Offer::Gcm128, "10.60.0.2", SrtpProfile::AEAD_AES_128_GCM),
        (Offer::Gcm256, "10.60.0.2", SrtpProfile::AEAD_AES_256_GCM),
        (Offer::All, "fd60::2", SrtpProfile::AEAD_AES_256_GCM),
        (Offer::Gcm128, "fd60::2", SrtpProfile::AEAD_AES_128_GCM),
    ] {
        let viewers = stage.play(2, &source, with(stage.playing(), offer, address))?;
        assert_eq!(viewers.stats()[0].profile, Some(expected));
        groups.push(viewers);
    }
    for viewers in &groups {
        stage.flows(viewers, &[0, 1], Kind::Video, 200)?;
    }
    for viewers in &groups {
        stage.rest(&publisher, viewers)?;
    }
    for viewers in groups {
        stage.assert_exact(&viewers.stop()?, &BOTH)?;
    }
    Ok(())
}

#[test]
fn a_publisher_with_256_bits_and_viewers_with_128() -> Result<()> {
    let stage = Stage::plain()?;
    let source = synthetic(100);
    let publisher = stage.publish(&source, Options { profiles: Offer::Gcm256, ..stage.publishing() })?;
    let viewers = stage.play(3, &source, Options { profiles: Offer::Gcm128, ..stage.playing() })?;
    stage.flows(&viewers, &[0, 1, 2], Kind::Video, 200)?;
    stage.rest(&publisher, &viewers)?;
    stage.assert_exact(&viewers.stop()?, &BOTH)?;
    Ok(())
}

#[test]
fn viewers_come_and_go_while_others_miss_nothing() -> Result<()> {
    let stage = Stage::plain()?;
    let source = synthetic(100);
    let publisher = stage.publish(&source, stage.publishing())?;
    let mut viewers = stage.play(6, &source, stage.playing())?;
    stage.flows(&viewers, &[0, 1, 2, 3, 4, 5], Kind::Video, 20)?;
    for round in 0..12 {
        let (first, second) = (viewers.join()?, viewers.join()?);
        if round % 3 == 0 {
            stage.flows(&viewers, &[first], Kind::Video, 20)?;
        }
        match round % 4 {
            // Before it is connected, perhaps.
            0 => drop(viewers.leave(second)?),
            1 => viewers.close(second)?,
            2 => viewers.vanish(second)?,
            // One of the first six leaves: the set shrinks in the middle.
            _ => drop(viewers.leave(round / 4)?),
        }
    }
    stage.flows(&viewers, &[3, 4, 5], Kind::Video, 50)?;
    stage.rest(&publisher, &viewers)?;
    let stats = viewers.stats();
    stage.assert_exact(&stats[..6], &BOTH)?;
    // Late ones too, as long as they were there.
    for (number, one) in stats.iter().enumerate().skip(6) {
        assert_eq!((one.video.mismatches, one.video.duplicates), (0, 0), "viewer {number}");
    }
    stage.assert_counted(stats[6..].iter().map(|one| one.video.lost).sum(), stats.len())
}
