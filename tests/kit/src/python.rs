//! Peers written in Python on implementations of WebRTC that share no code with str0m or Chromium: aiortc
//! (`tests/python/peer.py`, in the virtual environment that `cargo xtask setup` makes in `target/venv`) and GStreamer's
//! webrtcbin (`tests/python/gst_peer.py`, by Debian's Python, which has GStreamer's bindings).

use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::browser::wait_until;
use crate::netns::NetNs;

/// What a peer is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stack {
    Aiortc,
    /// Knows AES_CM_128_HMAC_SHA1_80 only.
    Gstreamer,
}

/// What a peer does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// Publishes a generated clip (320×240, 15 frames a second, and a tone) by WHIP.
    Publish,
    /// Plays by WHEP and decodes everything.
    Play,
}

/// A running peer. Dropping it ends it with a DELETE of its session.
#[derive(Debug)]
pub struct Peer {
    child: Child,
    /// Newest line of the peer's stdout.
    state: Arc<Mutex<Value>>,
    stderr: Arc<Mutex<String>>,
}

impl Peer {
    /// Starts a peer in a namespace. `url` is the WHIP or WHEP endpoint. `codec` is what aiortc publishes (`VP8`,
    /// `H264`); GStreamer publishes VP8.
    ///
    /// # Errors
    /// The peer's Python is missing, or the command does not start.
    pub fn start(place: &NetNs, stack: Stack, work: Work, url: &str, codec: &str) -> Result<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let (python, script) = match stack {
            Stack::Aiortc => (venv(root).join("bin/python"), "../python/peer.py"),
            Stack::Gstreamer => (PathBuf::from("/usr/bin/python3"), "../python/gst_peer.py"),
        };
        ensure!(python.exists(), "{} is missing: `cargo xtask setup` brings it", python.display());
        let mut command = place.command(&python);
        command.arg(root.join(script));
        match (work, stack) {
            (Work::Publish, Stack::Aiortc) => command.args(["publish", url, "--codec", codec]),
            (Work::Publish, Stack::Gstreamer) => command.args(["publish", url]),
            (Work::Play, _) => command.args(["play", url]),
        };
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("cannot start {}", python.display()))?;
        let (state, stderr) = <(Arc<Mutex<Value>>, Arc<Mutex<String>>)>::default();
        if let Some(pipe) = child.stdout.take() {
            let state = Arc::clone(&state);
            std::thread::spawn(move || {
                for line in BufReader::new(pipe).lines().map_while(Result::ok) {
                    if let Ok(value) = serde_json::from_str(&line) {
                        *state.lock().unwrap_or_else(PoisonError::into_inner) = value;
                    }
                }
            });
        }
        if let Some(mut pipe) = child.stderr.take() {
            let stderr = Arc::clone(&stderr);
            std::thread::spawn(move || {
                let mut buffer = [0u8; 4096];
                while let Ok(read @ 1..) = pipe.read(&mut buffer) {
                    let text = String::from_utf8_lossy(&buffer[..read]);
                    stderr.lock().unwrap_or_else(PoisonError::into_inner).push_str(&text);
                }
            });
        }
        Ok(Self { child, state, stderr })
    }

    /// Newest state that the peer told: see `state` in `peer.py`. `null` before the first.
    #[must_use]
    pub fn state(&self) -> Value {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until `reached` says so of the peer's state, and returns that.
    ///
    /// # Errors
    /// It does not within `patience`; the message has the last state and what the peer wrote to stderr.
    pub fn wait_for(&self, what: &str, patience: Duration, reached: impl Fn(&Value) -> bool) -> Result<Value> {
        wait_until(what, patience, || Ok(Some(self.state()).filter(&reached))).with_context(|| self.report())
    }

    /// Makes a publisher send no more media; its session stays.
    ///
    /// # Errors
    /// The peer is gone.
    pub fn pause(&mut self) -> Result<()> {
        let stdin = self.child.stdin.as_mut().context("the peer was stopped")?;
        stdin.write_all(b"pause\n").and_then(|()| stdin.flush()).context("the peer is gone")
    }

    /// Ends the peer with a DELETE of its session and returns its last state.
    ///
    /// # Errors
    /// The peer failed, or does not end within 15 s.
    pub fn stop(mut self) -> Result<Value> {
        drop(self.child.stdin.take());
        let ended = || Ok(self.child.try_wait()?);
        let status = wait_until("the peer ends", Duration::from_secs(15), ended);
        let status = status.with_context(|| self.report())?;
        ensure!(status.success(), "the peer: {status}\n{}", self.report());
        Ok(self.state())
    }

    /// State and stderr, for the message of a failure.
    #[must_use]
    pub fn report(&self) -> String {
        let stderr = self.stderr.lock().unwrap_or_else(PoisonError::into_inner);
        format!("the peer's last state: {}\nstderr:\n{stderr}", self.state())
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let child = &mut self.child;
        if wait_until("the peer ends", Duration::from_secs(5), || Ok(child.try_wait()?)).is_err() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Its Python, with what `tests/python/requirements.txt` names.
///
/// # Errors
/// It is missing.
pub fn python() -> Result<PathBuf> {
    let python = venv(Path::new(env!("CARGO_MANIFEST_DIR"))).join("bin/python");
    ensure!(python.exists(), "{} is missing: `cargo xtask setup` brings it", python.display());
    Ok(python)
}

/// The documents of a YAML file.
///
/// # Errors
/// There is no such file, or it is not YAML.
pub fn yaml(path: &Path) -> Result<Vec<Value>> {
    const SCRIPT: &str = "import json, sys, yaml; print(json.dumps(list(yaml.safe_load_all(open(sys.argv[1])))))";
    let output = std::process::Command::new(python()?).args(["-c", SCRIPT]).arg(path).output()?;
    ensure!(output.status.success(), "{}: {}", path.display(), String::from_utf8_lossy(&output.stderr));
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// `target/venv` beside the sources, or where `PENSTOCK_VENV` points.
fn venv(tests: &Path) -> PathBuf {
    std::env::var_os("PENSTOCK_VENV").map_or_else(|| tests.join("../../target/venv"), PathBuf::from)
}

/// The FFmpeg of the virtual environment (the package imageio-ffmpeg), which has a muxer for WHIP.
///
/// # Errors
/// `cargo xtask setup` has not brought it.
pub fn ffmpeg() -> Result<PathBuf> {
    let python = venv(Path::new(env!("CARGO_MANIFEST_DIR"))).join("bin/python");
    let ask = ["-c", "import imageio_ffmpeg; print(imageio_ffmpeg.get_ffmpeg_exe())"];
    let output =
        std::process::Command::new(&python).args(ask).output().with_context(|| python.display().to_string())?;
    ensure!(output.status.success(), "no imageio-ffmpeg: `cargo xtask setup` brings it");
    Ok(PathBuf::from(String::from_utf8(output.stdout)?.trim()))
}

/// The entry of `streams` (such as `inbound-rtp`) of `kind` in a peer's state, `null` if there is none.
#[must_use]
pub fn stream<'a>(state: &'a Value, streams: &str, kind: &str) -> &'a Value {
    let entries = state[streams].as_array();
    entries.and_then(|entries| entries.iter().find(|entry| entry["kind"] == kind)).unwrap_or(&Value::Null)
}
