//! Every video codec that Chromium can encode here, from one browser to another.

use anyhow::{Context, Result, ensure};
use penstock_tests::browser::Browser;
use penstock_tests::browser::watch::{plays, publishes};
use penstock_tests::stage::Stage;

/// Debian's Chromium encodes all of these in software. It has no encoder for H.265.
const CODECS: [&str; 3] = ["H264", "VP9", "AV1"];

#[test]
fn other_codecs_are_published_and_played() -> Result<()> {
    let stage = Stage::new()?;
    let publishers = Browser::launch("publisher", &stage.publisher, Some(&stage.publishing_origin()))?;
    let viewers = Browser::launch("viewer", &stage.viewer, None)?;
    for codec in CODECS {
        stage.explain(one(&stage, &publishers, &viewers, codec)).context(codec)?;
    }
    Ok(())
}

fn one(stage: &Stage, publishers: &Browser, viewers: &Browser, codec: &str) -> Result<()> {
    let query = format!("?width=320&height=240&fps=15&codec={codec}&start=1");
    let publisher = publishers.open(&format!("{}/{codec}/publish{query}", stage.publishing_origin()))?;
    let sent = publishes(&publisher)?;
    let mime = format!("video/{codec}");
    ensure!(sent.codec(sent.outbound("video")) == mime, "sends {}", sent.codec(sent.outbound("video")));
    let viewer = viewers.open(&format!("{}/{codec}", stage.viewing_origin()))?;
    let stats = plays(&viewer)?;
    ensure!(stats.codec(stats.inbound("video")) == mime, "plays {}", stats.codec(stats.inbound("video")));
    viewer.close()?;
    publisher.close()
}
