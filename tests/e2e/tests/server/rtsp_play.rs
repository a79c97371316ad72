//! Those who play by RTSP: ffmpeg and GStreamer hear what was published by WHIP, by a camera, or by RTSP.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use tests_kit::camera::content::{Content, H264};
use tests_kit::camera::ffmpeg::Ffmpeg;
use tests_kit::camera::{Behaviour, Camera};
use tests_kit::clip::Clip;
use tests_kit::peer::Kind;
use tests_kit::stage::{BOTH, Layout, Stage, clip};

const URL: &str = "rtsp://10.60.0.1:8554/e2e";
const CAMERA: &str = "10.60.0.2:8554";
/// Frames that a player takes.
const FRAMES: usize = 40;

fn stage(more: &str) -> Result<Stage> {
    Stage::new(Layout::OneNic, "native", &format!("[rtsp]\nlisten = [\"10.60.0.1:8554\"]\n{more}\n"))
}

fn player(stage: &Stage, transport: &str, url: &str, output: &[&str]) -> Result<Ffmpeg> {
    let arguments = ["-rtsp_transport", transport, "-i", url].into_iter().chain(output.iter().copied());
    Ffmpeg::run(&stage.near, &arguments.map(String::from).collect::<Vec<_>>())
}

/// Copies as many frames of the video as the file is to have.
fn record(stage: &Stage, transport: &str, url: &str, file: &Path) -> Result<Ffmpeg> {
    let (file, frames) = (file.to_str().context("path")?, FRAMES.to_string());
    player(stage, transport, url, &["-map", "0:v", "-c", "copy", "-frames:v", &frames, "-f", "ivf", "-y", file])
}

fn ends(stage: &Stage, mut ffmpeg: Ffmpeg) -> Result<String> {
    let ended = stage.until("the player has what it wants", || ffmpeg.ended());
    ended.map_err(|error| error.context(ffmpeg.said()))?;
    Ok(ffmpeg.said())
}

fn players(stage: &Stage) -> Result<u64> {
    let state = stage.server.get("/api/v1/state")?;
    let streams = state["streams"].as_array().context("no streams")?;
    Ok(streams.iter().filter(|one| one["name"] == "e2e").filter_map(|one| one["rtsp_players"].as_u64()).sum())
}

/// Bit by bit what was published: each frame of the file is one of the clip's, one behind the other.
fn is_the_clip(file: &Path) -> Result<()> {
    let clip = Clip::load(&Clip::directory())?;
    let bytes = std::fs::read(file)?;
    let mut rest = bytes.get(32..).context("no IVF header")?;
    let mut found = vec![];
    while let Some((head, tail)) = rest.split_first_chunk::<12>() {
        let len = u32::from_le_bytes([head[0], head[1], head[2], head[3]]) as usize;
        let frame = tail.get(..len).context("the last frame is cut off")?;
        found.push(clip.video.find(frame).context("a frame that is none of the clip's")?);
        rest = &tail[len..];
    }
    ensure!(found.len() == FRAMES, "{} frames", found.len());
    let follows = |pair: &[usize]| pair[1] == (pair[0] + 1) % clip.video.len();
    ensure!(found.windows(2).all(follows), "frames are missing: {found:?}");
    Ok(())
}

/// Published by WHIP and carried by the kernel engine: two recorders beside viewers, none of whom loses anything.
#[test]
fn ffmpeg_records_what_is_published_by_whip() -> Result<()> {
    let stage = stage("")?;
    let publisher = stage.publish(&clip()?, stage.publishing())?;
    let viewers = stage.play(1, &clip()?, stage.playing())?;
    stage.flows(&viewers, &[0], Kind::Video, 20)?;
    let folder = tempfile::tempdir()?;
    for transport in ["tcp", "udp"] {
        let file = folder.path().join(transport);
        let said = ends(&stage, record(&stage, transport, URL, &file)?)?;
        is_the_clip(&file).map_err(|error| error.context(format!("{transport}: {said}")))?;
    }
    // Both tracks, in time with each other by sender reports.
    let both = ["-t", "3", "-map", "0:v", "-map", "0:a", "-f", "null", "-"];
    let said = ends(&stage, player(&stage, "tcp", URL, &both)?)?;
    ensure!(!said.contains("missed") && !said.contains("error"), "{said}");
    stage.until("the players have gone", || Ok(players(&stage)? == 0))?;
    stage.rest(&publisher, &viewers)?;
    stage.assert_exact(&viewers.stop()?, &BOTH)?;
    ensure!(stage.carriers("subscriber")?.iter().all(|carrier| carrier.starts_with("kernel")));
    publisher.stop()?;
    Ok(())
}

#[test]
fn only_who_may_play_plays() -> Result<()> {
    let stage = stage("[auth]\nplay_token = \"s3cret\"\n")?;
    let publisher = stage.publish(&clip()?, stage.publishing())?;
    let file = tempfile::NamedTempFile::new()?;
    let wrong = record(&stage, "tcp", "rtsp://me:wr0ng@10.60.0.1:8554/e2e", file.path())?;
    ensure!(ends(&stage, wrong)?.contains("401"));
    let nothing = record(&stage, "tcp", "rtsp://me:s3cret@10.60.0.1:8554/other", file.path())?;
    ensure!(ends(&stage, nothing)?.contains("404"));
    let right = record(&stage, "tcp", "rtsp://me:s3cret@10.60.0.1:8554/e2e", file.path())?;
    let said = ends(&stage, right)?;
    is_the_clip(file.path()).map_err(|error| error.context(said))?;
    let log = stage.server.log();
    ensure!(!log.contains("s3cret") && !log.contains("wr0ng"), "a password is in the log");
    publisher.stop()?;
    Ok(())
}

/// A camera on demand connects for a player, as for a viewer, and is left alone when he has gone.
#[test]
fn a_camera_on_demand_is_played() -> Result<()> {
    let stage = stage(&format!("[streams.e2e]\nsource = \"rtsp://{CAMERA}/live\"\non_demand = true\n"))?;
    let camera = Behaviour::plain(Content::H264(H264::long_gop()?));
    let _camera = Camera::start(&stage.near, CAMERA.parse()?, camera)?;
    ensure!(stage.source_of("e2e")?["state"] == "idle", "{}", stage.source_of("e2e")?);
    let frames = ["-map", "0:v", "-frames:v", "25", "-f", "null", "-"];
    ends(&stage, player(&stage, "tcp", URL, &frames)?)?;
    stage.until("the camera is left alone", || Ok(stage.source_of("e2e")?["state"] == "idle"))
}

/// GStreamer asks in another order, and by UDP first.
#[test]
fn gstreamer_plays() -> Result<()> {
    let stage = stage("")?;
    let publisher = stage.publish(&clip()?, stage.publishing())?;
    let mut command = stage.near.command("gst-launch-1.0");
    command.args(["-q", "rtspsrc", &format!("location={URL}"), "latency=200", "!", "application/x-rtp,media=video"]);
    command.args(["!", "rtpvp8depay", "!", "vp8dec", "!", "fakesink", "num-buffers=30"]);
    let output = command.output().context("gst-launch-1.0: `cargo xtask setup` installs it")?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    publisher.stop()?;
    Ok(())
}
