//! The encoded clip that test publishers loop: VP8 in IVF, Opus in Ogg, made by `cargo xtask setup`.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

/// Length of an Opus frame in the clip.
pub const AUDIO_FRAME: Duration = Duration::from_millis(20);

/// Frames of one track, and where each of them occurs.
#[derive(Debug, Default)]
pub struct Frames {
    frames: Vec<Arc<[u8]>>,
    index: HashMap<Arc<[u8]>, usize>,
}

impl Frames {
    fn new(frames: Vec<Arc<[u8]>>) -> Self {
        let index = frames.iter().enumerate().map(|(at, frame)| (frame.clone(), at)).collect();
        Self { frames, index }
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.frames.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// Bytes of frame `at`, counted on over the loop's end.
    pub fn get(&self, at: usize) -> &Arc<[u8]> {
        &self.frames[at % self.frames.len()]
    }

    /// Where a frame of these bytes is.
    pub fn find(&self, bytes: &[u8]) -> Option<usize> {
        self.index.get(bytes).copied()
    }
}

/// One clip in memory.
#[derive(Debug)]
pub struct Clip {
    /// VP8 frames (RFC 6386), one for each `video_frame` of time.
    pub video: Frames,
    /// Time between video frames.
    pub video_frame: Duration,
    /// Opus frames (RFC 6716), one for each [`AUDIO_FRAME`].
    pub audio: Frames,
    /// Width and height in pixels.
    pub size: (u16, u16),
}

impl Clip {
    /// Where `cargo xtask setup` puts it: `target/clip` of this checkout.
    pub fn directory() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/clip")
    }

    /// Reads `clip.ivf` and `clip.ogg`.
    ///
    /// # Errors
    /// Files missing or not of the expected kind; the message says what to run.
    pub fn load(directory: &Path) -> Result<Arc<Self>> {
        let read = |name: &str| {
            let path = directory.join(name);
            std::fs::read(&path)
                .with_context(|| format!("cannot read {}: `cargo xtask setup` generates it", path.display()))
        };
        let (video, video_frame, size) = parse_ivf(&read("clip.ivf")?).context("clip.ivf")?;
        let audio = parse_opus(&read("clip.ogg")?).context("clip.ogg")?;
        Ok(Arc::new(Self { video: Frames::new(video), video_frame, audio: Frames::new(audio), size }))
    }

    /// First key frame at `at` or after it; counts on over the loop's end.
    pub fn next_keyframe(&self, at: usize) -> usize {
        (at..at + self.video.len()).find(|&at| is_keyframe(self.video.get(at))).unwrap_or(at)
    }
}

/// RFC 6386 §9.1: the lowest bit of the frame tag is 0.
pub fn is_keyframe(vp8: &[u8]) -> bool {
    vp8.first().is_some_and(|tag| tag & 1 == 0)
}

type Ivf = (Vec<Arc<[u8]>>, Duration, (u16, u16));

fn parse_ivf(file: &[u8]) -> Result<Ivf> {
    let (header, mut rest) = file.split_at_checked(32).context("shorter than an IVF header")?;
    ensure!(&header[..4] == b"DKIF" && &header[8..12] == b"VP80", "not VP8 in IVF");
    let u16_at = |at: usize| u16::from_le_bytes([header[at], header[at + 1]]);
    let u32_at = |at: usize| u32::from(u16_at(at)) | u32::from(u16_at(at + 2)) << 16;
    let (per_second, unit) = (u32_at(16), u32_at(20));
    ensure!(per_second > 0 && unit > 0, "no frame rate");
    let mut frames: Vec<Arc<[u8]>> = Vec::new();
    while let Some((head, tail)) = rest.split_first_chunk::<12>() {
        let size = u32::from_le_bytes([head[0], head[1], head[2], head[3]]) as usize;
        let pts = u32::from_le_bytes([head[4], head[5], head[6], head[7]]) as usize;
        ensure!(pts == frames.len(), "frame {} has time {pts}: the rate is not constant", frames.len());
        let (frame, next) = tail.split_at_checked(size).context("the last frame is cut off")?;
        frames.push(frame.into());
        rest = next;
    }
    match frames.first() {
        Some(first) if is_keyframe(first) => {}
        _ => bail!("does not begin with a key frame"),
    }
    let interval = Duration::from_secs(1) * unit / per_second;
    Ok((frames, interval, (u16_at(12), u16_at(14))))
}

fn parse_opus(file: &[u8]) -> Result<Vec<Arc<[u8]>>> {
    let mut reader = ogg::PacketReader::new(std::io::Cursor::new(file));
    let head = reader.read_packet_expected().context("no Opus head")?;
    ensure!(head.data.starts_with(b"OpusHead"), "not Opus in Ogg");
    reader.read_packet_expected().context("no Opus tags")?;
    let mut frames: Vec<Arc<[u8]>> = Vec::new();
    while let Some(packet) = reader.read_packet()? {
        frames.push(packet.data.into());
    }
    ensure!(!frames.is_empty(), "no audio");
    Ok(frames)
}
