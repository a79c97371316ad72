//! What a camera sends.

use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::clip::Clip;
use crate::peer::{Kind, Outgoing, Source, Track};

/// Time between the frames of [`H264`].
const H264_FRAME: Duration = Duration::from_millis(40);
/// Time in one packet of PCMA.
const PCMA_FRAME: Duration = Duration::from_millis(20);

/// What a camera sends.
#[derive(Clone, Debug)]
pub enum Content {
    /// VP8 and Opus of the clip.
    Clip(Arc<Clip>),
    /// H.264 without parameter sets in-band, each slice one packet of whatever size, and PCMA.
    H264(Arc<H264>),
}

/// Some seconds of H.264 that are repeated.
#[derive(Debug)]
pub struct H264 {
    /// One NAL unit each.
    frames: Vec<Vec<u8>>,
    sps: String,
    pps: String,
}

impl H264 {
    /// Two seconds, a keyframe each second, and so many B-frames in a row.
    ///
    /// # Errors
    /// ffmpeg is missing or fails.
    pub fn encode(b_frames: u32) -> Result<Arc<Self>> {
        Self::encode_picture("testsrc2=size=640x480:rate=25", 2, 1, b_frames)
    }

    /// Twenty seconds at about a megabit a second, a keyframe every ten.
    ///
    /// # Errors
    /// ffmpeg is missing or fails.
    pub fn long_gop() -> Result<Arc<Self>> {
        Self::encode_picture("testsrc2=size=640x480:rate=25,noise=alls=10:allf=t", 20, 10, 0)
    }

    fn encode_picture(picture: &str, seconds: usize, gop_seconds: u32, b_frames: u32) -> Result<Arc<Self>> {
        let mut ffmpeg = Command::new("ffmpeg");
        ffmpeg.args(["-hide_banner", "-loglevel", "error", "-f", "lavfi", "-i", picture]);
        ffmpeg.args(["-t", &seconds.to_string(), "-pix_fmt", "yuv420p", "-c:v", "libx264", "-preset", "veryfast"]);
        ffmpeg.args(["-g", &(25 * gop_seconds).to_string(), "-sc_threshold", "0", "-b:v", "1M"]);
        ffmpeg.args(["-bf", &b_frames.to_string(), "-threads", "1", "-f", "h264", "pipe:1"]);
        let output = ffmpeg.output().context("ffmpeg is missing: `cargo xtask setup` installs it")?;
        ensure!(output.status.success(), "ffmpeg: {}", String::from_utf8_lossy(&output.stderr));
        let (mut frames, mut sets) = (Vec::<Vec<u8>>::new(), [vec![], vec![]]);
        for nal in nal_units(&output.stdout) {
            match nal[0] & 0x1f {
                7 => sets[0] = nal.to_vec(),
                8 => sets[1] = nal.to_vec(),
                // One thread makes one slice a frame.
                1 | 5 => frames.push(nal.to_vec()),
                _ => {}
            }
        }
        ensure!(frames.len() == 25 * seconds && !sets[0].is_empty(), "{} frames", frames.len());
        let [sps, pps] = sets.map(|set| base64(&set));
        Ok(Arc::new(Self { frames, sps, pps }))
    }
}

/// NAL units of a byte stream (H.264 Annex B).
fn nal_units(stream: &[u8]) -> Vec<&[u8]> {
    let starts: Vec<usize> = stream.windows(3).enumerate().filter(|(_, w)| *w == [0, 0, 1]).map(|(at, _)| at).collect();
    let ends = starts.iter().skip(1).copied().chain([stream.len()]);
    let nals = starts.iter().zip(ends).map(|(start, end)| &stream[start + 3..end]);
    nals.map(|nal| nal.strip_suffix(&[0]).unwrap_or(nal)).filter(|nal| !nal.is_empty()).collect()
}

/// RFC 4648 §4.
pub(super) fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let word = chunk.iter().fold(0u32, |word, byte| word << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for digit in 0..4 {
            let index = (word >> (18 - 6 * digit) & 63) as usize;
            text.push(if digit <= chunk.len() { char::from(DIGITS[index]) } else { '=' });
        }
    }
    text
}

impl Content {
    /// The media sections of its description.
    pub(super) fn sdp(&self) -> String {
        match self {
            Content::Clip(_) => "m=video 0 RTP/AVP 96\r\na=rtpmap:96 VP8/90000\r\na=control:track/0\r\n\
                 m=audio 0 RTP/AVP 97\r\na=rtpmap:97 opus/48000/2\r\na=control:track/1\r\n"
                .into(),
            Content::H264(video) => format!(
                "m=video 0 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\n\
                 a=fmtp:96 packetization-mode=1;sprop-parameter-sets={},{}\r\na=control:track/0\r\n\
                 m=audio 0 RTP/AVP 8\r\na=control:track/1\r\n\
                 m=audio 0 RTP/AVP 98\r\na=rtpmap:98 MPEG4-GENERIC/48000/2\r\na=control:track/2\r\n",
                video.sps, video.pps
            ),
        }
    }

    /// Payload types and clock rates of its tracks.
    pub(super) fn formats(&self) -> [(u8, u32); 2] {
        match self {
            Content::Clip(_) => [(96, 90_000), (97, 48_000)],
            Content::H264(_) => [(96, 90_000), (8, 8_000)],
        }
    }

    /// Its tracks, from now on.
    pub(super) fn play(&self, now: Instant) -> Vec<Playing> {
        match self {
            Content::Clip(clip) => {
                let source = Source::Clip(clip.clone());
                let tracks = [(Kind::Video, 90_000), (Kind::Audio, 48_000)];
                tracks.iter().filter_map(|(kind, rate)| source.track(*kind, *rate, 0, now).map(Playing::Clip)).collect()
            }
            Content::H264(video) => {
                vec![Playing::H264 { video: video.clone(), start: now, next: 0 }, Playing::Pcma { start: now, next: 0 }]
            }
        }
    }
}

/// A track being played.
pub(super) enum Playing {
    Clip(Track),
    H264 { video: Arc<H264>, start: Instant, next: u32 },
    Pcma { start: Instant, next: u32 },
}

impl Playing {
    /// What is due; call again until it is `None`.
    pub(super) fn take(&mut self, now: Instant) -> Option<Vec<Outgoing>> {
        match self {
            Playing::Clip(track) => track.take(now),
            Playing::H264 { video, start, next } => {
                (*start + H264_FRAME * *next <= now).then_some(())?;
                let payload = video.frames[*next as usize % video.frames.len()].clone();
                let timestamp = *next * 3600;
                *next += 1;
                Some(vec![Outgoing { payload, marker: true, timestamp }])
            }
            Playing::Pcma { start, next } => {
                (*start + PCMA_FRAME * *next <= now).then_some(())?;
                let timestamp = *next * 160;
                *next += 1;
                // A square wave.
                let payload = (0..160).map(|at| if at / 20 % 2 == 0 { 0xb5 } else { 0x35 }).collect();
                Some(vec![Outgoing { payload, marker: false, timestamp }])
            }
        }
    }
}
