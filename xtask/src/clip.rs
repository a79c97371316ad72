//! The clip that tests and demo publish: made here from test sources, so that nothing is downloaded
//! and every frame is known. Ten seconds of a moving pattern with a counter, and two rising tones.

use std::{fs, path::PathBuf, process::Command};

use crate::{
    process::{Outcome, root},
    progress::Console,
};

const SECONDS: &str = "10";

/// VP8 in IVF, 320×240 at 25 frames per second, about 300 kbit/s, a keyframe every second.
pub(crate) fn video() -> PathBuf {
    root().join("target/clip/clip.ivf")
}

/// Opus in Ogg, 48 kHz stereo, 20 ms frames.
pub(crate) fn audio() -> PathBuf {
    root().join("target/clip/clip.ogg")
}

/// Whether both files are there. They appear under their names only when complete.
pub(crate) fn present() -> bool {
    video().is_file() && audio().is_file()
}

/// Makes both files.
///
/// # Errors
/// ffmpeg failed, or the directory cannot be written.
pub(crate) fn make(console: &Console<'_>) -> Outcome {
    let video_arguments = [
        "-f",
        "lavfi",
        "-i",
        "testsrc2=size=320x240:rate=25",
        "-t",
        SECONDS,
        "-c:v",
        "libvpx",
        "-b:v",
        "300k",
        "-g",
        "25",
        "-keyint_min",
        "25",
        "-auto-alt-ref",
        "0",
        "-deadline",
        "good",
        "-cpu-used",
        "4",
        "-threads",
        "1",
        "-f",
        "ivf",
    ];
    let audio_arguments = [
        "-f",
        "lavfi",
        "-i",
        "aevalsrc=0.3*sin(2*PI*(220+20*t)*t)|0.3*sin(2*PI*(330+20*t)*t):s=48000",
        "-t",
        SECONDS,
        "-c:a",
        "libopus",
        "-b:a",
        "64k",
        "-frame_duration",
        "20",
        "-f",
        "ogg",
    ];
    for (path, arguments) in [(video(), &video_arguments[..]), (audio(), &audio_arguments[..])] {
        let partial = path.with_extension("part");
        let failed = |error: std::io::Error| format!("{}: {error}", path.display());
        fs::create_dir_all(path.with_file_name("")).map_err(failed)?;
        // bitexact: no version strings and no random Ogg serial number in the file.
        let mut ffmpeg = Command::new("ffmpeg");
        ffmpeg.args(["-hide_banner", "-loglevel", "warning", "-y"]).args(arguments);
        ffmpeg.args(["-fflags", "+bitexact", "-flags", "+bitexact"]).arg(&partial);
        console.run(&mut ffmpeg)?;
        fs::rename(&partial, &path).map_err(failed)?;
    }
    Ok(())
}
