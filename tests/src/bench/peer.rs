//! Any server that speaks WHIP and WHEP, fed with the clip: what its process costs per packet that its
//! viewers got. Run it on the binary `penstock` too, for a comparison.

use std::{
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};

use super::cpu::{self, Cpu};
use crate::{
    cameras::Watch,
    clip::Clip,
    peer::{Codec, Options, Publisher, Source, Stats, Viewers},
};

/// Longest wait for ICE and DTLS of everybody.
const CONNECT: Duration = Duration::from_secs(20);

/// What the server did.
#[derive(Clone, Debug)]
pub struct Figures {
    pub viewers: usize,
    /// Packets that viewers received and decrypted, per second.
    pub packets: f64,
    pub lost: u64,
    /// The server's process, and everything that is neither idle nor stolen by `/proc/stat`, in cores.
    pub process: f64,
    pub machine: f64,
}

/// Publishes the clip at `URL/whip`, plays it at `URL/whep`, and looks at the process `id`.
///
/// # Errors
/// When the server refuses, or somebody does not connect.
pub fn measure(url: &str, id: i32, viewers: usize, length: Duration) -> Result<Figures> {
    cpu::of_process(id)?;
    let source = Source::Clip(Clip::load(&Clip::directory())?);
    let publisher = Publisher::start(&format!("{url}/whip"), source.clone(), Options::default())?;
    wait("the publisher connects", || publisher.stats().connected.is_some())?;
    let viewers = Viewers::start(&format!("{url}/whep"), viewers, source, Options::default())?;
    wait("the viewers get media", || viewers.stats().iter().all(|stats| decrypted(stats) > 0))?;

    let figures = watch(&viewers, id, length)?;
    viewers.stop()?;
    publisher.stop()?;
    Ok(figures)
}

/// Plays cameras, each with a viewer that opens everything, at a WHEP URL with `{}` in the camera's place,
/// and looks at the process `id`.
///
/// # Errors
/// As [`measure`].
pub fn measure_cameras(url: &str, id: i32, cameras: u32, length: Duration) -> Result<Figures> {
    let options = Options { video: vec![Codec::H264], audio: vec![], ..Options::default() };
    let mut viewers = Viewers::start(url, 0, Source::None, options)?;
    for camera in 0..cameras {
        let source = Source::Camera(Arc::new(Watch::new(camera)));
        viewers.join_stream(&url.replace("{}", &camera.to_string()), source)?;
    }
    wait("the viewers get media", || viewers.stats().iter().all(|stats| decrypted(stats) > 0))?;
    let figures = watch(&viewers, id, length)?;
    viewers.stop()?;
    Ok(figures)
}

fn watch(viewers: &Viewers, id: i32, length: Duration) -> Result<Figures> {
    let (before, start) = (viewers.stats(), Instant::now());
    let (cpu, process) = (Cpu::read(Some(id))?, cpu::of_process(id)?);
    thread::sleep(length);
    let (after, seconds) = (viewers.stats(), start.elapsed().as_secs_f64());
    let machine = Cpu::read(Some(id))?.since(&cpu).not_idle;
    let process = (cpu::of_process(id).context("the server has ended")? - process) / seconds;
    let sum = |stats: &[Stats], of: fn(&Stats) -> u64| stats.iter().map(of).sum::<u64>();
    Ok(Figures {
        viewers: after.len(),
        packets: sum(&after, decrypted).saturating_sub(sum(&before, decrypted)) as f64 / seconds,
        lost: sum(&after, lost).saturating_sub(sum(&before, lost)),
        process,
        machine,
    })
}

fn decrypted(stats: &Stats) -> u64 {
    stats.video.decrypted + stats.audio.decrypted
}

fn lost(stats: &Stats) -> u64 {
    stats.video.lost + stats.audio.lost
}

fn wait(what: &str, mut done: impl FnMut() -> bool) -> Result<()> {
    let give_up = Instant::now() + CONNECT;
    while !done() {
        ensure!(Instant::now() < give_up, "in {CONNECT:?} it did not happen that {what}");
        thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}
