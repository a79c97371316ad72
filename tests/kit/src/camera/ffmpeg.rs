//! ffmpeg as an encoder that sends the clip: by RTSP, or by plain RTP.

use std::io::{BufRead as _, BufReader};
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result};

use crate::clip::Clip;
use crate::netns::{NetNs, Running};

/// A running ffmpeg. Killed on drop.
pub struct Ffmpeg {
    process: Running,
    said: Arc<Mutex<String>>,
}

/// Which tracks of the clip.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Send {
    Both,
    Video,
    Audio,
}

impl Ffmpeg {
    /// Sends the clip as it is, again and again; `output` is the rest of the command line.
    ///
    /// # Errors
    /// ffmpeg is missing.
    pub fn clip(namespace: &NetNs, send: Send, output: &[&str]) -> Result<Self> {
        let directory = Clip::directory();
        let mut arguments = vec![];
        for (file, left_out) in [("clip.ivf", Send::Audio), ("clip.ogg", Send::Video)] {
            if send != left_out {
                let path = directory.join(file).display().to_string();
                arguments.extend(["-re", "-stream_loop", "-1", "-i"].map(String::from));
                arguments.push(path);
            }
        }
        if send == Send::Both {
            arguments.extend(["-map", "0:v", "-map", "1:a"].map(String::from));
        }
        arguments.extend(["-c", "copy"].map(String::from));
        arguments.extend(output.iter().map(ToString::to_string));
        Self::run(namespace, &arguments)
    }

    /// Runs it with these arguments.
    ///
    /// # Errors
    /// ffmpeg is missing.
    pub fn run(namespace: &NetNs, arguments: &[String]) -> Result<Self> {
        let mut command = namespace.command("ffmpeg");
        command.args(["-hide_banner", "-nostats", "-loglevel", "warning"]).args(arguments);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut process = Running::start(&mut command).context("ffmpeg: `cargo xtask setup` installs it")?;
        let errors = process.child().and_then(|child| child.stderr.take()).context("no pipe")?;
        let said = Arc::new(Mutex::new(String::new()));
        let heard = said.clone();
        std::thread::Builder::new().name("ffmpeg".into()).spawn(move || {
            for line in BufReader::new(errors).lines().map_while(Result::ok) {
                let mut said = heard.lock().unwrap_or_else(PoisonError::into_inner);
                said.push_str(&line);
                said.push('\n');
            }
        })?;
        Ok(Self { process, said })
    }

    /// What it said on standard error.
    pub fn said(&self) -> String {
        self.said.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether it has ended.
    ///
    /// # Errors
    /// The system's.
    pub fn ended(&mut self) -> Result<bool> {
        let child = self.process.child().context("no process")?;
        Ok(child.try_wait()?.is_some())
    }
}
