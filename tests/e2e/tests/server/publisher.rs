//! Publishers come and go; viewers stay.

use std::time::Duration;

use anyhow::Result;
use tests_kit::peer::{Kind, Publisher, Viewers};
use tests_kit::stage::{BOTH, Stage, lost_of_exact, synthetic};

#[test]
fn viewers_outlive_a_publisher_that_says_goodbye() -> Result<()> {
    let stage = Stage::plain()?;
    let source = synthetic(100);
    let first = stage.publish(&source, stage.publishing())?;
    let viewers = stage.play(3, &source, stage.playing())?;
    stage.flows(&viewers, &[0, 1, 2], Kind::Video, 100)?;
    first.stop()?;
    goes_on(&stage, viewers, || stage.publish(&source, stage.publishing()))
}

#[test]
fn viewers_outlive_a_publisher_that_vanishes() -> Result<()> {
    let stage = Stage::plain()?;
    let source = synthetic(100);
    let first = stage.publish(&source, stage.publishing())?;
    let viewers = stage.play(3, &source, stage.playing())?;
    stage.flows(&viewers, &[0, 1, 2], Kind::Video, 100)?;
    drop(first);
    goes_on(&stage, viewers, || {
        // The server cannot know at once that the old one is gone, and says so until then.
        let mut publisher = None;
        stage.until("a new publisher may take the stream", || {
            match Publisher::start(&stage.whip(), source.clone(), stage.publishing()) {
                Ok(new) => publisher = Some(new),
                Err(error) => {
                    assert!(format!("{error:#}").contains("409"), "{error:#}");
                    std::thread::sleep(Duration::from_millis(500));
                }
            }
            Ok(publisher.is_some())
        })?;
        let publisher = publisher.expect("waited for");
        stage.until("it is connected", || Ok(publisher.stats().connected.is_some()))?;
        Ok(publisher)
    })
}

/// The next publisher's media continues each viewer's SSRCs; sequence numbers go on and never repeat.
fn goes_on(stage: &Stage, viewers: Viewers, publish: impl FnOnce() -> Result<Publisher>) -> Result<()> {
    let before = viewers.stats();
    let second = publish()?;
    stage.flows(&viewers, &[0, 1, 2], Kind::Video, 100)?;
    stage.flows(&viewers, &[0, 1, 2], Kind::Audio, 50)?;
    stage.rest(&second, &viewers)?;
    let after = viewers.stats();
    for (before, after) in before.iter().zip(&after) {
        for kind in BOTH {
            let (before, after) = (before.media(kind), after.media(kind));
            assert_eq!((before.ssrc, before.payload_type), (after.ssrc, after.payload_type));
            assert_eq!(after.jumps, 1, "exactly one change of publisher: {after:#?}");
            // The first packets tell the server of the SSRC; what comes until viewers are attached is a gap, as long as
            // that takes.
            stage.assert_counted(before.lost, 3)?;
            lost_of_exact("a viewer", after)?;
        }
        assert_eq!(after.closed, None);
    }
    viewers.stop()?;
    Ok(())
}

#[test]
fn a_second_publisher_is_refused_and_the_first_unharmed() -> Result<()> {
    let stage = Stage::plain()?;
    let source = synthetic(50);
    let first = stage.publish(&source, stage.publishing())?;
    let viewers = stage.play(1, &source, stage.playing())?;
    let Err(refused) = Publisher::start(&stage.whip(), source.clone(), stage.publishing()) else {
        panic!("two publishers of one stream");
    };
    assert!(format!("{refused:#}").contains("409"), "{refused:#}");
    stage.flows(&viewers, &[0], Kind::Video, 50)?;
    stage.rest(&first, &viewers)?;
    stage.assert_exact(&viewers.stop()?, &BOTH)?;
    Ok(())
}
