//! Did every viewer get what was published, byte for byte?

use forwarder_common::{Counter, counter::Kind};
use tests_kit::peer::{Publisher, Stats, Viewers};

use crate::{meter::Counters, table::Received};

/// Loss above this is a failure, in percent.
const MAX_LOSS: f64 = 0.1;

/// Packets by which two readings of different peers may differ: they are not taken at one instant.
const SKEW: u64 = 30;

/// Everybody's counters at one moment.
pub struct Mark {
    published: u64,
    viewers: Vec<Stats>,
}

impl Mark {
    /// Reads them.
    pub fn take(publisher: &Publisher, viewers: &Viewers) -> Self {
        let published = publisher.stats();
        Self { published: published.video.packets + published.audio.packets, viewers: viewers.stats() }
    }
}

/// Prints the summary; whether all is well.
pub fn summary(start: &Mark, end: &Mark, counters: &Counters) -> bool {
    let published = end.published - start.published;
    let mut complaints = Vec::new();
    for (number, (before, now)) in start.viewers.iter().zip(&end.viewers).enumerate() {
        if let Err(complaint) = judge(before, now, published) {
            complaints.push(format!("viewer {number}: {complaint}"));
        }
    }
    let received = Received::sum(&end.viewers);
    let first_picture = end.viewers.iter().filter_map(|viewer| viewer.first_video).max();
    println!("published    {published} packets while all viewers were there");
    println!("opened       {} packets, once each", counters.get(Counter::Opened));
    println!("sealed       {} copies", counters.get(Counter::Sealed));
    println!("received     {} packets by {} viewers, {} lost", received.packets, end.viewers.len(), received.lost);
    println!(
        "compared     {} video and {} audio frames as in the clip, {} wrong",
        received.video_frames, received.audio_frames, received.wrong
    );
    if let Some(longest) = first_picture {
        println!("first frame  {} ms after the POST, for the slowest viewer", longest.as_millis());
    }
    for (name, count) in counters.named(Kind::Drop) {
        println!("{name:<24} {count}");
    }
    complaints.iter().take(10).for_each(|complaint| println!("✗ {complaint}"));
    match complaints.len() {
        0 => println!("✓ every viewer got every frame right"),
        count => println!("✗ {count} of {} viewers did not get what was published", end.viewers.len()),
    }
    complaints.is_empty()
}

/// One viewer, between two moments.
fn judge(before: &Stats, now: &Stats, published: u64) -> Result<(), String> {
    if let Some(reason) = &now.failed {
        return Err(format!("failed: {reason}"));
    }
    if now.connected.is_none() {
        return Err("never connected".into());
    }
    let received = Received::sum(std::slice::from_ref(now));
    if received.wrong > 0 {
        return Err(format!("{} frames differ from the clip", received.wrong));
    }
    if now.video.verified == 0 || now.audio.verified == 0 {
        return Err(format!("{} video and {} audio frames", now.video.verified, now.audio.verified));
    }
    if received.loss() > MAX_LOSS {
        return Err(format!("{} of {} packets lost", received.lost, received.packets + received.lost));
    }
    let got = received.packets - Received::sum(std::slice::from_ref(before)).packets;
    if got + SKEW < published {
        return Err(format!("{got} of {published} packets"));
    }
    Ok(())
}
