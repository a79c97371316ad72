//! Kinds of media and codecs.

use anyhow::Result;
use tests_kit::peer::{Codec, Kind, Options, Viewers};
use tests_kit::stage::{BOTH, Stage, synthetic};

#[test]
fn audio_only_and_video_only() -> Result<()> {
    let stage = Stage::plain()?;
    for kind in BOTH {
        let only = |options: Options| match kind {
            Kind::Audio => Options { video: vec![], ..options },
            Kind::Video => Options { audio: vec![], ..options },
        };
        let source = synthetic(50);
        let publisher = stage.publish(&source, only(stage.publishing()))?;
        // One viewer asks for what there is, one for both.
        let same = stage.play(1, &source, only(stage.playing()))?;
        let both = stage.play(1, &source, stage.playing())?;
        stage.flows(&same, &[0], kind, 50)?;
        stage.flows(&both, &[0], kind, 50)?;
        stage.rest(&publisher, &both)?;
        stage.assert_exact(&same.stop()?, &[kind])?;
        stage.assert_exact(&both.stop()?, &[kind])?;
        publisher.stop()?;
    }
    Ok(())
}

#[test]
fn a_viewer_may_take_only_the_sound() -> Result<()> {
    let stage = Stage::plain()?;
    let source = synthetic(50);
    let publisher = stage.publish(&source, stage.publishing())?;
    let viewers = stage.play(1, &source, Options { video: vec![], ..stage.playing() })?;
    stage.flows(&viewers, &[0], Kind::Audio, 50)?;
    stage.rest(&publisher, &viewers)?;
    let stats = viewers.stop()?;
    stage.assert_exact(&stats, &[Kind::Audio])?;
    assert_eq!(stats[0].video.packets, 0);
    Ok(())
}

/// The viewers' offer has everything, in another order: only the name and the format decide.
#[test]
fn every_codec_finds_its_payload_type() -> Result<()> {
    let stage = Stage::plain()?;
    let everything = Options {
        video: vec![Codec::Av1, Codec::H265, Codec::H264, Codec::Vp9, Codec::Vp8],
        audio: vec![Codec::PCMA, Codec::PCMU, Codec::Opus],
        ..stage.playing()
    };
    for (video, audio) in [
        (Codec::Vp8, Codec::Opus),
        (Codec::Vp9, Codec::PCMU),
        (Codec::H264, Codec::PCMA),
        (Codec::H265, Codec::Opus),
        (Codec::Av1, Codec::Opus),
    ] {
        let source = synthetic(50);
        let sending = Options { video: vec![video], audio: vec![audio], ..stage.publishing() };
        let publisher = stage.publish(&source, sending)?;
        let viewers = stage.play(2, &source, everything.clone())?;
        stage.flows(&viewers, &[0, 1], Kind::Video, 30)?;
        stage.flows(&viewers, &[0, 1], Kind::Audio, 20)?;
        stage.rest(&publisher, &viewers)?;
        stage.assert_exact(&viewers.stop()?, &BOTH)?;
        publisher.stop()?;
    }
    Ok(())
}

#[test]
fn no_common_codec_is_406() -> Result<()> {
    let stage = Stage::plain()?;
    let source = synthetic(50);
    let publisher = stage.publish(&source, stage.publishing())?;
    let other = Options { video: vec![Codec::H264], audio: vec![Codec::PCMU], ..stage.playing() };
    let Err(refused) = Viewers::start(&stage.whep(), 1, source.clone(), other) else {
        panic!("a viewer without any of the codecs was accepted");
    };
    assert!(format!("{refused:#}").contains("406"), "{refused:#}");
    publisher.stop()?;
    let Err(refused) = Viewers::start(&stage.whep(), 1, source, stage.playing()) else {
        panic!("a viewer of nothing was accepted");
    };
    assert!(format!("{refused:#}").contains("409"), "{refused:#}");
    Ok(())
}
