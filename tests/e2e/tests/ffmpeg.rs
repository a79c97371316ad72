//! FFmpeg publishes by WHIP what it makes by itself (x264's default is High, and its DTLS waits for ours), and Chromium
//! plays it: no label is in the way.

use std::process::{Child, Stdio};

use anyhow::{Context, Result, ensure};
use tests_kit::browser::Browser;
use tests_kit::browser::watch::{plays, shows_a_moving_picture};
use tests_kit::python::ffmpeg;
use tests_kit::stage::Stage;

/// A running FFmpeg. Dropped, it is killed.
struct Ffmpeg(Child);

impl Drop for Ffmpeg {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Publishes a test picture and a tone. `more`: options of the encoder.
fn publish(stage: &Stage, stream: &str, more: &[&str]) -> Result<Ffmpeg> {
    let mut command = stage.near.command(ffmpeg()?);
    command.args(["-hide_banner", "-nostdin", "-loglevel", "warning", "-re"]);
    command.args(["-f", "lavfi", "-i", "testsrc2=size=320x240:rate=15"]);
    command.args(["-re", "-f", "lavfi", "-i", "sine=frequency=440:sample_rate=48000"]);
    // RTP of WebRTC has no order of decoding, so no B-frames.
    command.args(["-c:v", "libx264", "-pix_fmt", "yuv420p", "-bf", "0", "-g", "30", "-b:v", "500k"]).args(more);
    command.args(["-c:a", "libopus", "-ac", "2", "-b:a", "64k", "-f", "whip"]);
    command.arg(format!("{}/{stream}/whip", stage.publishing_origin()));
    command.stdin(Stdio::null()).stdout(Stdio::null());
    Ok(Ffmpeg(command.spawn().context("FFmpeg")?))
}

#[test]
fn whatever_profile_ffmpeg_publishes_chromium_plays() -> Result<()> {
    let stage = Stage::apart("")?;
    let viewers = Browser::launch("viewer", stage.viewers(), None)?;
    stage.explain(all(&stage, &viewers))
}

fn all(stage: &Stage, viewers: &Browser) -> Result<()> {
    for (stream, more) in
        [("default", &[][..]), ("high", &["-profile:v", "high"]), ("base", &["-profile:v", "baseline"])]
    {
        let mut publisher = publish(stage, stream, more)?;
        let viewer = viewers.open(&format!("{}/{stream}", stage.viewing_origin()))?;
        let stats = plays(&viewer).with_context(|| format!("{stream}; FFmpeg: {:?}", publisher.0.try_wait()))?;
        ensure!(stats.codec(stats.inbound("video")) == "video/H264", "{}", stats.codec(stats.inbound("video")));
        shows_a_moving_picture(&viewer)?;
        viewer.close()?;
    }
    Ok(())
}
