//! A camera made of GStreamer's RTSP server (`tests/python/gst_camera.py`), and a publisher made of its RTSP
//! client (`tests/python/gst_push.py`).

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Stdio};

use anyhow::{Context, Result, ensure};

use crate::netns::NetNs;

/// A running one. Its streams are `/alaw`, `/aac` and `/hevc`, for `me` with the password `s3cret`.
pub struct GstCamera(Child);

impl GstCamera {
    /// Starts it; returns when it listens.
    ///
    /// # Errors
    /// GStreamer's RTSP server is missing.
    pub fn start(namespace: &NetNs, port: u16) -> Result<Self> {
        Self::start_with(namespace, port, &[])
    }

    /// The same by RTSPS, with a certificate and its key, and SRTP whose keys it tells by MIKEY.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub fn start_secure(namespace: &NetNs, port: u16, certificate: &Path, key: &Path) -> Result<Self> {
        Self::start_with(namespace, port, &[certificate, key])
    }

    fn start_with(namespace: &NetNs, port: u16, files: &[&Path]) -> Result<Self> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../python/gst_camera.py");
        let mut command = namespace.command("/usr/bin/python3");
        command.arg(script).arg(port.to_string()).args(files).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut camera = Self(command.spawn().context("/usr/bin/python3 is missing")?);
        let mut line = String::new();
        BufReader::new(camera.0.stdout.take().context("no pipe")?).read_line(&mut line)?;
        ensure!(line.starts_with("listening"), "the camera does not start: `cargo xtask setup` brings GStreamer");
        Ok(camera)
    }
}

impl Drop for GstCamera {
    fn drop(&mut self) {
        // Both fail only if it has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A publisher of H.264 and AAC.
pub struct GstPublisher(Child);

impl GstPublisher {
    /// Starts it; `protocol` is `tcp` or `udp`.
    ///
    /// # Errors
    /// Python is missing.
    pub fn start(namespace: &NetNs, url: &str, protocol: &str, login: (&str, &str)) -> Result<Self> {
        Self::by_profile(namespace, url, protocol, login, "avp")
    }

    /// The same; `profile` is `avp` or `savp`, for which it makes keys and tells them by MIKEY.
    ///
    /// # Errors
    /// Python is missing.
    pub fn by_profile(
        namespace: &NetNs,
        url: &str,
        protocol: &str,
        (user, password): (&str, &str),
        profile: &str,
    ) -> Result<Self> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../python/gst_push.py");
        let mut command = namespace.command("/usr/bin/python3");
        command.arg(script).args([url, protocol, user, password, profile]).stdin(Stdio::piped());
        Ok(Self(command.spawn().context("/usr/bin/python3 is missing")?))
    }
}

impl Drop for GstPublisher {
    fn drop(&mut self) {
        // Both fail only if it has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
