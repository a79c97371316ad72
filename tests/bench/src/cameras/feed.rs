//! Where the media comes from: RTSP cameras in a process of their own, or WHIP publishers in this one.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    os::unix::process::CommandExt as _,
    process::{ChildStdin, ChildStdout, Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result};
use serde_json::Value;
use tests_kit::{
    labelled::{Camera, Shape},
    netns::Running,
    peer::{Codec, Options, Publisher, Source},
};

use super::field::Plan;
use crate::{
    load,
    peer::Peer,
    scene::{self, Scene},
};

const CAMERA_PORT: u16 = 8554;

/// RTSP URL of a camera, but for its number.
pub fn cameras(scene: Option<&Scene>) -> String {
    format!("rtsp://{}/cam", address(scene))
}

fn address(scene: Option<&Scene>) -> String {
    let host = scene.map_or_else(|| "127.0.0.1".into(), |_| scene::publisher(0).ip().to_string());
    format!("{host}:{CAMERA_PORT}")
}

/// What the load says of itself.
#[derive(Clone, Copy, Debug, Default)]
pub struct Load {
    /// Streams that somebody plays, or that are connected.
    pub playing: u64,
    /// Packets that were left out because the server did not take them.
    pub left_out: u64,
    /// Longest delay since the last question.
    pub late: Duration,
}

/// The load.
pub enum Feed {
    Rtsp(Cameras),
    Whip(Vec<Publisher>),
}

impl Feed {
    /// Asks how it goes.
    ///
    /// # Errors
    /// When it is gone.
    pub fn ask(&mut self) -> Result<Load> {
        match self {
            Self::Rtsp(cameras) => cameras.ask(),
            Self::Whip(publishers) => {
                let mut load = Load::default();
                for stats in publishers.iter().map(Publisher::stats) {
                    anyhow::ensure!(stats.failed.is_none(), "a publisher failed: {:?}", stats.failed);
                    load.playing += u64::from(stats.connected.is_some());
                }
                Ok(load)
            }
        }
    }

    /// Stops the media, or lets it go on. Connections live.
    ///
    /// # Errors
    /// When it is gone.
    pub fn pause(&mut self, paused: bool) -> Result<()> {
        match self {
            Self::Rtsp(cameras) => cameras.command(if paused { "pause" } else { "go" }).map(drop),
            Self::Whip(publishers) => publishers.iter().try_for_each(|publisher| publisher.pause(paused)),
        }
    }

    /// Packets that each stream had to send so far, by its clock.
    ///
    /// # Errors
    /// When it is gone.
    pub fn due(&mut self) -> Result<Vec<u64>> {
        match self {
            Self::Rtsp(cameras) => {
                let answer = cameras.command("due")?;
                let due = answer["due"].as_array().context("no numbers")?;
                due.iter().map(|number| number.as_u64().context("no number")).collect()
            }
            Self::Whip(publishers) => Ok(publishers.iter().map(|publisher| publisher.stats().video.packets).collect()),
        }
    }

    /// Its process, unless it is this one.
    pub fn id(&self) -> Option<u32> {
        match self {
            Self::Rtsp(cameras) => Some(cameras.running.id()),
            Self::Whip(_) => None,
        }
    }
}

/// A publisher of a stream, by WHIP.
///
/// # Errors
/// What the server says.
pub fn publish(peer: &Peer, stream: u32, plan: &Plan<'_>, scene: Option<&Scene>) -> Result<Publisher> {
    let options = Options {
        namespace: scene.map(|scene| scene.generator.name().into()),
        video: vec![Codec::H264],
        audio: vec![],
        lenient: true,
        ..Options::default()
    };
    let source = Source::Load(Camera { number: stream, shape: plan.shape });
    Publisher::start(&peer.whip(stream), source, options)
}

/// The cameras' process. Killed on drop.
pub struct Cameras {
    running: Running,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Cameras {
    /// Starts it; returns when it listens.
    ///
    /// # Errors
    /// When it does not come up; its message is on standard error.
    pub fn start(scene: Option<&Scene>, plan: &Plan<'_>) -> Result<Self> {
        let own = std::env::current_exe()?;
        // Tests lie one directory deeper.
        let mut places = own.ancestors().skip(1).take(2).map(|directory| directory.join("load-cameras"));
        let program = places.find(|path| path.is_file()).context("no load-cameras: build it")?;
        let mut command = match scene {
            Some(scene) => scene.generator.command(program),
            None => Command::new(program),
        };
        let Shape { payload, rate, burst } = plan.shape;
        command.args(["--driven", "--listen", &address(scene), "--cameras", &plan.streams.to_string()]);
        command.args([format!("--payload={payload}"), format!("--rate={rate}"), format!("--burst={burst}")]);
        if plan.one_core {
            // SAFETY: between fork and exec, this is one system call on memory of the stack.
            unsafe {
                command.pre_exec(|| {
                    load::stay_on(0);
                    Ok(())
                });
            }
        }
        let mut running = Running::start(command.stdin(Stdio::piped()).stdout(Stdio::piped()))?;
        let child = running.child().context("no process")?;
        let (input, output) = (child.stdin.take().context("pipe")?, child.stdout.take().context("pipe")?);
        let mut cameras = Self { running, input, output: BufReader::new(output) };
        cameras.ask().context("the load generator did not start")?;
        Ok(cameras)
    }

    fn command(&mut self, line: &str) -> Result<Value> {
        writeln!(self.input, "{line}")?;
        let mut answer = String::new();
        self.output.read_line(&mut answer)?;
        serde_json::from_str(&answer).context("the load generator has ended")
    }

    fn ask(&mut self) -> Result<Load> {
        let answer = self.command("")?;
        let number = |name: &str| answer[name].as_u64().unwrap_or(0);
        let late = Duration::from_micros(number("late_us"));
        Ok(Load { playing: number("playing"), left_out: number("left_out"), late })
    }
}
