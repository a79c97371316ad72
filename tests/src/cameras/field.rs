//! Cameras, `penstock serve` and viewers, each in a network namespace of its own, each a process of its
//! own.
//!
//! The interfaces of cameras and server receive in threads of the kernel (`napi/…`), one for each, as the
//! interrupts of a network card would: so what a side costs can be told apart, and nobody pays for the other's
//! half of a packet. That of the viewers receives where the server sends: its ring has 256 frames, fewer than
//! a batch of hundreds of cameras, and a thread that has to wait for a CPU loses what a network card would not.

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead as _, BufReader, Write as _},
    process::{ChildStdin, ChildStdout, Command, Stdio},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::{Watch, ports::Ports};
use crate::{
    bench::{
        cpu,
        memory::{self, Memory},
        scene::{self, Arrival, GENERATOR_INTERFACE, IN, OUT, RECEIVER_INTERFACE, Scene},
    },
    netns::Running,
    peer::{Codec, Options, Source, Viewers},
    server::{self, Settings},
};

const CAMERA_PORT: u16 = 8554;
const HTTP_PORT: u16 = 8080;
/// Longest wait for all cameras to play, and for all viewers to connect.
const PATIENCE: Duration = Duration::from_secs(60);

/// Least time between two interrupts of a device under load, as network cards do it by themselves. A veth
/// would wake its thread for each frame.
const MODERATION_NS: u32 = 50_000;

/// The load generator's process. Killed on drop.
pub struct Cameras {
    running: Running,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

/// What the load generator says of itself.
#[derive(Clone, Copy, Debug, Default)]
pub struct Load {
    pub playing: u64,
    pub packets: u64,
    pub left_out: u64,
    /// Longest delay since the last question.
    pub late: Duration,
}

impl Cameras {
    fn start(scene: &Scene, cameras: u32) -> Result<Self> {
        let own = std::env::current_exe()?;
        // Tests lie one directory deeper.
        let mut places = own.ancestors().skip(1).take(2).map(|directory| directory.join("load-cameras"));
        let program = places.find(|path| path.is_file()).context("no load-cameras: build it")?;
        let mut command = scene.generator.command(program);
        let address = format!("{}:{CAMERA_PORT}", scene::publisher(0).ip());
        command.args(["--driven", "--listen", &address, "--cameras", &cameras.to_string()]);
        let mut running = Running::start(command.stdin(Stdio::piped()).stdout(Stdio::piped()))?;
        let child = running.child().context("no process")?;
        let (input, output) = (child.stdin.take().context("pipe")?, child.stdout.take().context("pipe")?);
        let mut cameras = Self { running, input, output: BufReader::new(output) };
        cameras.ask().context("the load generator did not start")?;
        Ok(cameras)
    }

    /// Asks how it goes.
    ///
    /// # Errors
    /// When it is gone.
    pub fn ask(&mut self) -> Result<Load> {
        writeln!(self.input)?;
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        let answer: Value = serde_json::from_str(&line).context("the load generator has ended")?;
        let number = |name: &str| answer[name].as_u64().unwrap_or(0);
        let late = Duration::from_micros(number("late_us"));
        Ok(Load { playing: number("playing"), packets: number("packets"), left_out: number("left_out"), late })
    }
}

/// Everything. Dropping it ends the processes and removes the networks.
pub struct Field {
    pub cameras: Cameras,
    pub server: server::Server,
    pub viewers: Viewers,
    /// By viewer: those whose packets are opened.
    pub watches: Vec<Option<Arc<Watch>>>,
    pub ports: Ports,
    /// Receiving threads of the kernel that were there before.
    threads: BTreeMap<i32, String>,
    maps: std::collections::BTreeSet<u32>,
    _scene: Scene,
}

/// CPU time of each side in seconds.
#[derive(Clone, Copy, Debug, Default)]
pub struct Clocks {
    /// The server's process, and all that the kernel does within its system calls.
    pub process: f64,
    /// Receiving on the server's interfaces.
    pub receiving: f64,
    /// What softirq left over, whoever's it was.
    pub ksoftirqd: f64,
    pub generator: f64,
    /// The viewers' process.
    pub viewers: f64,
}

impl Field {
    /// Starts everything; returns when all viewers are connected. Of the viewers, `opened` open what they get.
    ///
    /// # Errors
    /// Without root, and whatever does not start.
    pub fn new(cameras: u32, opened: u32, config: &str, say: &dyn Fn(&str)) -> Result<Self> {
        let threads = napi_threads();
        let scene = Scene::new(Arrival::Xdp)?;
        wire(&scene)?;
        let mut ports = Ports::attach(&scene.receivers, RECEIVER_INTERFACE)?;
        let mut generator = Cameras::start(&scene, cameras)?;
        let maps = memory::maps();
        let host = scene::publisher(0).ip();
        let streams: String = (0..cameras)
            .map(|camera| {
                format!(
                    "[streams.cam{camera}]\nsource = \"rtsp://{host}:{CAMERA_PORT}/cam{camera}\"\ntransport = \"tcp\"\n"
                )
            })
            .collect();
        let settings = Settings {
            interfaces: vec![OUT.into()],
            mode: "native",
            http: vec![(scene::locals()[1].ip(), HTTP_PORT).into()],
            more: format!("{config}\n{streams}"),
            unprivileged: false,
        };
        let server = server::Server::start(&scene.server, &settings)?;
        wait("all cameras play", || Ok(generator.ask()?.playing == u64::from(cameras)))?;
        say("cameras play");

        let options = Options { video: vec![Codec::H264], audio: vec![], ..Options::within(scene.receivers.name()) };
        let mut viewers = Viewers::start(&server.url("cam0", "whep"), 0, Source::None, options)?;
        let mut watches = vec![];
        for camera in 0..cameras {
            // Spread over the cameras, and so over the time between two frames.
            let watch = (u64::from(camera) * u64::from(opened) % u64::from(cameras) < u64::from(opened))
                .then(|| Arc::new(Watch::new(camera)));
            let source = watch.clone().map_or(Source::None, Source::Camera);
            let number = viewers.join_stream(&server.url(&format!("cam{camera}"), "whep"), source)?;
            if watch.is_some() {
                ports.want(viewers.address(number).port())?;
            }
            watches.push(watch);
        }
        wait("all viewers connect", || {
            let stats = viewers.stats();
            if let Some(why) = stats.iter().find_map(|stats| stats.failed.as_ref()) {
                anyhow::bail!("a viewer failed: {why}");
            }
            Ok(stats.iter().all(|stats| stats.connected.is_some()))
        })?;
        say("viewers are connected");
        Ok(Self { cameras: generator, server, viewers, watches, ports, threads, maps, _scene: scene })
    }

    /// Reads all clocks.
    ///
    /// # Errors
    /// When a process is gone.
    pub fn clocks(&self) -> Result<Clocks> {
        let mut clocks = Clocks {
            process: cpu::of_process(self.server.pid() as i32)?,
            generator: cpu::of_process(self.cameras.running.id() as i32)?,
            viewers: cpu::of_process(std::process::id() as i32)?,
            ..Clocks::default()
        };
        for (id, name) in kernel_threads() {
            // One that ended meanwhile is left out.
            let Ok(time) = cpu::of_process(id) else { continue };
            let interface = name.strip_prefix("napi/").and_then(|name| name.split('-').next());
            match interface.filter(|_| !self.threads.contains_key(&id)) {
                Some(IN | OUT) => clocks.receiving += time,
                Some(GENERATOR_INTERFACE) => clocks.generator += time,
                _ if name.starts_with("ksoftirqd/") => clocks.ksoftirqd += time,
                _ => {}
            }
        }
        Ok(clocks)
    }

    /// Memory of the server, and of its BPF maps.
    ///
    /// # Errors
    /// When it is gone.
    pub fn memory(&self) -> Result<Memory> {
        memory::of(self.server.pid(), &self.maps)
    }
}

/// Makes the veth pairs what network cards are: they receive in threads, no more often than under moderated
/// interrupts, and checksums of what comes from cameras are the cards' work. Cameras send segment by segment.
fn wire(scene: &Scene) -> Result<()> {
    for (namespace, interface) in [(&scene.server, IN), (&scene.server, OUT), (&scene.generator, GENERATOR_INTERFACE)] {
        let device = format!("/sys/class/net/{interface}");
        let script = format!(
            "echo 1 > {device}/threaded && echo 1 > {device}/napi_defer_hard_irqs && \
             echo {MODERATION_NS} > {device}/gro_flush_timeout"
        );
        // `ip netns exec`, since it shows the namespace's own /sys.
        let status = Command::new("ip").args(["netns", "exec", namespace.name(), "sh", "-c", &script]).status()?;
        ensure!(status.success(), "{interface} does not receive in a thread");
    }
    for (namespace, interface) in [(&scene.server, IN), (&scene.generator, GENERATOR_INTERFACE)] {
        // With TSO a veth hands packets to the backlog of the CPU that sends, not to the other end's thread.
        namespace.ethtool(["-K", interface, "tx", "on", "tso", "off", "gso", "off"])?;
    }
    Ok(())
}

/// Kernel threads that work for interfaces, and those for what softirq leaves over.
fn kernel_threads() -> BTreeMap<i32, String> {
    let ids = fs::read_dir("/proc").into_iter().flatten().flatten();
    let ids = ids.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let named = |id: i32| Some((id, fs::read_to_string(format!("/proc/{id}/comm")).ok()?.trim().to_owned()));
    let ours = |(_, name): &(i32, String)| name.starts_with("napi/") || name.starts_with("ksoftirqd/");
    ids.filter_map(named).filter(ours).collect()
}

fn napi_threads() -> BTreeMap<i32, String> {
    kernel_threads().into_iter().filter(|(_, name)| name.starts_with("napi/")).collect()
}

fn wait(what: &str, mut done: impl FnMut() -> Result<bool>) -> Result<()> {
    let give_up = Instant::now() + PATIENCE;
    while !done()? {
        ensure!(Instant::now() < give_up, "in {PATIENCE:?} it did not happen that {what}");
        thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}
