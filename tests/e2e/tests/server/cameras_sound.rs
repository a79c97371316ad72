//! AAC of cameras and publishers becomes Opus, and is the same tone.

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use tests_kit::browser::count;
use tests_kit::browser::watch::START;
use tests_kit::camera::GstCamera;
use tests_kit::camera::ffmpeg::Ffmpeg;
use tests_kit::clip::Clip;
use tests_kit::python::{Peer, Stack, Work};
use tests_kit::stage::Stage;

/// Of GStreamer's `audiotestsrc` and FFmpeg's `sine`, as asked for here.
const PITCH: u64 = 440;

/// A picture of the clip and a tone as AAC; `output` is the rest of the command line.
fn push(stage: &Stage, output: &[&str]) -> Result<Ffmpeg> {
    let clip = Clip::directory().join("clip.ivf").display().to_string();
    let tone = format!("sine=frequency={PITCH}:sample_rate=48000");
    let inputs = ["-re", "-stream_loop", "-1", "-i", &clip, "-re", "-f", "lavfi", "-i", &tone];
    let codecs = ["-map", "0:v", "-map", "1:a", "-c:v", "copy", "-c:a", "aac", "-b:a", "96k"];
    let all: Vec<String> = inputs.iter().chain(&codecs).chain(output).map(ToString::to_string).collect();
    Ffmpeg::run(&stage.near, &all)
}

/// A viewer of another make hears the tone, and for so long that nothing of it can be the begin alone.
fn is_heard(stage: &Stage, stream: &str) -> Result<Value> {
    let url = format!("{}/{stream}/whep", stage.viewing_origin());
    let viewer = Peer::start(stage.viewers(), Stack::Aiortc, Work::Play, &url, "")?;
    let heard = viewer.wait_for("the tone is heard", START, |state| {
        let frames = count(state, "audio_frames") >= 250 && count(state, "video_frames") >= 20;
        frames && count(state, "pitch").abs_diff(PITCH) < 8 && count(state, "loudness") > 1000
    })?;
    viewer.stop()?;
    Ok(heard)
}

fn source(stage: &Stage, stream: &str) -> Result<Value> {
    let source = stage.source_of(stream)?;
    ensure!(source["codecs"].to_string().contains("opus"), "{source:#}");
    ensure!(source["dropped"]["undecodable_sound"].is_null(), "{source:#}");
    ensure!(source["left_out"].as_array().is_some_and(Vec::is_empty), "{source:#}");
    Ok(source)
}

/// Both packings (RFC 3640, RFC 6416), one and two channels, rates that Opus has and has not; by TCP and UDP.
#[test]
fn aac_that_is_pushed_is_heard() -> Result<()> {
    let stage = Stage::apart("[rtsp]\nlisten = [\"0.0.0.0:8554\"]\naudio = \"opus\"\n")?;
    stage.explain((|| {
        for (stream, transport, more) in [
            ("stereo", "tcp", &["-ar", "44100", "-ac", "2"][..]),
            ("mono", "udp", &["-ar", "16000", "-ac", "1"]),
            ("latm", "tcp", &["-ar", "48000", "-ac", "1", "-rtpflags", "latm"]),
        ] {
            let url = format!("rtsp://10.60.0.1:8554/{stream}");
            let output = [more, &["-f", "rtsp", "-rtsp_transport", transport, &url]].concat();
            let ffmpeg = push(&stage, &output)?;
            let playing = stage.until("media comes", || Ok(stage.source_of(stream)?["state"] == "playing"));
            playing.with_context(|| ffmpeg.said())?;
            is_heard(&stage, stream).with_context(|| format!("{stream}: {}", ffmpeg.said()))?;
            source(&stage, stream)?;
        }
        Ok(())
    })())
}

/// Without a wish for it, AAC is left out, and the way out is named.
#[test]
fn aac_that_nobody_asked_for_is_left_out_by_name() -> Result<()> {
    let stage = Stage::apart("[rtsp]\nlisten = [\"0.0.0.0:8554\"]\n")?;
    let ffmpeg = push(&stage, &["-f", "rtsp", "-rtsp_transport", "tcp", "rtsp://10.60.0.1:8554/a"])?;
    let playing = stage.until("media comes", || Ok(stage.source_of("a")?["state"] == "playing"));
    playing.with_context(|| ffmpeg.said())?;
    let left_out = stage.source_of("a")?["left_out"].to_string();
    ensure!(left_out.contains("AAC") && left_out.contains("audio = "), "{left_out}");
    Ok(())
}

/// GStreamer's RTSP server, whose AAC is 44.1 kHz in two channels, behind a password.
#[test]
fn aac_of_a_camera_is_heard() -> Result<()> {
    let stage = Stage::apart("[streams.a]\nsource = \"rtsp://me:s3cret@10.60.0.2:8555/aac\"\naudio = \"opus\"\n")?;
    let _camera = GstCamera::start(&stage.near, 8555)?;
    stage.explain((|| {
        stage.until("media comes", || Ok(stage.source_of("a")?["state"] == "playing"))?;
        is_heard(&stage, "a")?;
        source(&stage, "a").map(drop)
    })())
}
