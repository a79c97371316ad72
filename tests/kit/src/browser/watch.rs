//! What every test expects of a page that plays, and of one that publishes.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::{Browser, KINDS, Page, Stats, contrast, count, difference};

/// Longest wait for a first frame, connection set-up included, on a busy machine.
pub const START: Duration = Duration::from_secs(30);

/// Frames and seconds of sound that must follow the first ones before a page counts as playing.
const FRAMES: u64 = 45;
const SOUND_S: f64 = 3.0;

/// Largest part of the watched time that may be frozen: the machine's hiccups, not ours.
const FROZEN: f64 = 0.25;

/// Waits until the page shows video and receives sound, then watches on for at least three seconds.
///
/// # Errors
/// Too few frames or samples, packets lost while watching, no AES-GCM, freezes, or no picture size. The message has the statistics.
pub fn plays(page: &Page) -> Result<Stats> {
    let begun = page.wait_for_stats("first frame and sound", START, |stats| {
        count(stats.inbound("video"), "framesDecoded") > 0 && count(stats.inbound("audio"), "totalSamplesReceived") > 0
    })?;
    let (frames, sound) =
        (count(begun.inbound("video"), "framesDecoded"), seconds(&begun, "audio", "totalSamplesDuration"));
    let watched = page.wait_for_stats("frames and sound go on", START, |stats| {
        count(stats.inbound("video"), "framesDecoded") >= frames + FRAMES
            && seconds(stats, "audio", "totalSamplesDuration") >= sound + SOUND_S
    })?;
    healthy(&begun, &watched).with_context(|| format!("{}\nstatistics:\n{watched}", page.report()))?;
    Ok(watched)
}

fn healthy(begun: &Stats, watched: &Stats) -> Result<()> {
    ensure!(is_gcm(watched.srtp_cipher()), "SRTP profile {:?}", watched.srtp_cipher());
    for kind in KINDS {
        let lost = |stats: &Stats| stats.inbound(kind)["packetsLost"].as_i64();
        ensure!(
            lost(watched) == lost(begun),
            "lost {kind}: {:?} packets before, {:?} after",
            lost(begun),
            lost(watched)
        );
    }
    let video = watched.inbound("video");
    ensure!(count(video, "frameWidth") > 0 && count(video, "frameHeight") > 0, "no picture size: {video}");
    let took = (video["timestamp"].as_f64().unwrap_or(0.0)
        - begun.inbound("video")["timestamp"].as_f64().unwrap_or(0.0))
        / 1e3;
    let frozen = seconds(watched, "video", "totalFreezesDuration") - seconds(begun, "video", "totalFreezesDuration");
    ensure!(frozen <= FROZEN * took, "frozen for {frozen:.1} s of {took:.1} s");
    Ok(())
}

/// Waits until a page that was interrupted shows frames again, then as [`plays`]. What is lost in the interruption
/// itself is not counted.
///
/// # Errors
/// No frames come, or as [`plays`].
pub fn plays_again(page: &Page) -> Result<Stats> {
    let before = count(page.stats()?.inbound("video"), "framesDecoded");
    page.wait_for_stats("frames come again", START, |stats| {
        count(stats.inbound("video"), "framesDecoded") >= before + 15
    })?;
    plays(page)
}

fn seconds(stats: &Stats, kind: &str, name: &str) -> f64 {
    stats.inbound(kind)[name].as_f64().unwrap_or(0.0)
}

/// Whether a browser's or aiortc's name of an SRTP profile is one of RFC 7714.
#[must_use]
pub fn is_gcm(profile: &str) -> bool {
    ["SRTP_AEAD_AES_128_GCM", "SRTP_AEAD_AES_256_GCM"].contains(&profile)
}

/// Opens the product's page for publishing and presses its button; returns when frames and sound are sent over
/// SRTP-GCM. `codec` (`VP8`, `H264`, `VP9`, `AV1`) is the one video codec that the browser offers.
///
/// # Errors
/// The page does not get that far in time.
pub fn publish(browser: &Browser, origin: &str, stream: &str, codec: &str) -> Result<Page> {
    let page = sends(browser, origin, stream, codec)?;
    let cipher = page.stats()?;
    ensure!(is_gcm(cipher.srtp_cipher()), "SRTP profile {:?}", cipher.srtp_cipher());
    Ok(page)
}

/// As [`publish`], with whatever profile: Firefox does not tell its own.
///
/// # Errors
/// As [`publish`].
pub fn sends(browser: &Browser, origin: &str, stream: &str, codec: &str) -> Result<Page> {
    let page = browser.open_with(&format!("{origin}/{stream}/publish"), &camera(codec))?;
    page.evaluate("document.getElementById('start').click()")?;
    let stats = page.wait_for_stats("frames and sound are sent", START, |stats| {
        count(stats.outbound("video"), "framesSent") > 0 && count(stats.outbound("audio"), "packetsSent") > 0
    })?;
    let used = stats.codec(stats.outbound("video"));
    ensure!(used == format!("video/{codec}"), "the browser sends {used}");
    Ok(page)
}

/// Makes a page's camera small, since two software encoders and decoders share the machine with everything else, and
/// its offer one of a single video codec.
fn camera(codec: &str) -> String {
    format!(
        "const media = navigator.mediaDevices, capture = media?.getUserMedia.bind(media);
        if (capture) media.getUserMedia = wanted => capture({{
            audio: wanted.audio, video: wanted.video && {{ width: 320, height: 240, frameRate: 15 }} }});
        const add = RTCPeerConnection.prototype.addTransceiver;
        RTCPeerConnection.prototype.addTransceiver = function (track, options) {{
            const transceiver = add.call(this, track, options);
            if (track.kind === 'video') transceiver.setCodecPreferences(
                RTCRtpSender.getCapabilities('video').codecs.filter(codec => codec.mimeType === 'video/{codec}'));
            return transceiver;
        }};"
    )
}

/// Makes a publishing page send no more media; its session stays.
///
/// # Errors
/// The page has no connection.
pub fn pause(page: &Page) -> Result<()> {
    page.evaluate("Promise.all(penstock.pc.getSenders().map(sender => sender.replaceTrack(null)))").map(drop)
}

/// Checks the video by its pixels: it has contrast, and it moves.
///
/// # Errors
/// It is blank, or stands still for five seconds.
pub fn shows_a_moving_picture(page: &Page) -> Result<()> {
    let first = page.picture()?;
    ensure!(contrast(&first) > 20.0, "the picture is blank: {first:?}\n{}", page.report());
    let moved = || Ok(Some(difference(&first, &page.picture()?)).filter(|moved| *moved > 2.0));
    super::wait_until("the picture moves", START, moved).with_context(|| page.report()).map(drop)
}

/// Where a screenshot of this name goes.
#[must_use]
pub fn screenshot_path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/screenshots").join(format!("{name}.png"))
}
