//! Every video codec that Chromium can encode here, from one browser to another.

use anyhow::{Context, Result, ensure};
use tests_kit::browser::Browser;
use tests_kit::browser::watch::{plays, publish};
use tests_kit::stage::Stage;

/// Debian's Chromium encodes all of these in software. It has no encoder for H.265.
const CODECS: [&str; 3] = ["H264", "VP9", "AV1"];

#[test]
fn other_codecs_are_published_and_played() -> Result<()> {
    let stage = Stage::apart("")?;
    let publishers = Browser::launch("publisher", &stage.near, Some(&stage.publishing_origin()))?;
    let viewers = Browser::launch("viewer", stage.viewers(), None)?;
    for codec in CODECS {
        stage.explain(one(&stage, &publishers, &viewers, codec)).context(codec)?;
    }
    Ok(())
}

fn one(stage: &Stage, publishers: &Browser, viewers: &Browser, codec: &str) -> Result<()> {
    let publisher = publish(publishers, &stage.publishing_origin(), codec, codec)?;
    let viewer = viewers.open(&format!("{}/{codec}", stage.viewing_origin()))?;
    let stats = plays(&viewer)?;
    let used = stats.codec(stats.inbound("video"));
    ensure!(used == format!("video/{codec}"), "the viewer plays {used}");
    viewer.close()?;
    publisher.close()
}
