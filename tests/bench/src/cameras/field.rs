//! Load, a server and viewers, each in a network namespace of its own, each a process of its own. The server
//! is `penstock serve` or another one; one that runs already stays where it is, and is measured as well as that
//! allows.
//!
//! The interfaces of load and server receive in threads of the kernel (`napi/…`), one for each, as the
//! interrupts of a network card would: so what a side costs can be told apart, and nobody pays for the other's
//! half of a packet. Like cards they are moderated in how often they interrupt, and check sums. That of the viewers receives where the server sends: its ring has 256 frames, fewer than
//! a batch of hundreds of cameras, and a thread that has to wait for a CPU loses what a network card would not.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    process::Command,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use tests_kit::{
    labelled::{Camera, Shape, Watch},
    peer::{Codec, Options, Source, Viewers},
    server::{self, Settings},
};

use super::{
    feed::{self, Cameras, Feed},
    ports::{Count, Ports},
};
use crate::{
    cpu,
    memory::{self, Memory},
    peer::{self, How, Peer, Processes},
    scene::{self, Arrival, GENERATOR_INTERFACE, IN, OUT, RECEIVER_INTERFACE, Scene},
};

/// No viewer has got anything for this long: all has come.
const QUIET: Duration = Duration::from_millis(300);
/// Longest wait for that. What a server still holds back then is lost.
const LONGEST_REST: Duration = Duration::from_secs(10);
const HTTP_PORT: u16 = 8080;
/// Least time between two interrupts of a device under load, as network cards do it by themselves. A veth would
/// wake its thread for each frame.
const MODERATION_NS: u32 = 50_000;
/// Longest wait for all cameras to play, and for all viewers to connect.
const PATIENCE: Duration = Duration::from_secs(60);

/// Who serves.
#[derive(Clone, Copy)]
pub enum Subject<'a> {
    /// `penstock serve` with so much TOML in its configuration, the cameras by `tcp` or `udp`.
    Penstock {
        config: &'a str,
        transport: &'a str,
    },
    Peer(&'a Peer),
}

/// What is wanted.
#[derive(Clone, Copy)]
pub struct Plan<'a> {
    pub streams: u32,
    /// Of each stream.
    pub viewers: u32,
    pub shape: Shape,
    /// Viewers that open what they get, spread over all.
    pub opened: u32,
    /// The server on the second CPU, cameras on the first.
    pub one_core: bool,
    pub subject: Subject<'a>,
}

/// The server under test.
pub enum Server {
    Penstock(server::Server),
    Peer(Processes),
}

impl Server {
    /// What it has said.
    pub fn log(&self) -> String {
        match self {
            Self::Penstock(server) => server.log(),
            Self::Peer(processes) => processes.log(),
        }
    }

    fn ids(&self) -> Vec<i32> {
        match self {
            Self::Penstock(server) => vec![server.pid() as i32],
            Self::Peer(processes) => processes.ids(),
        }
    }
}

/// What was to be sent and what has come, once nothing is on its way any more.
#[derive(Clone, Debug, Default)]
pub struct Totals {
    /// By stream: packets that its camera or publisher had to send.
    due: Vec<u64>,
    /// By viewer: packets of media that came.
    arrived: Vec<u64>,
}

impl Totals {
    /// Copies that were to come since `before`, and those that did not. `viewers`: of each stream.
    pub fn since(&self, before: &Self, viewers: u32) -> (u64, u64) {
        let (mut expected, mut lost) = (0, 0);
        for (viewer, (now, then)) in self.arrived.iter().zip(&before.arrived).enumerate() {
            let stream = viewer / viewers.max(1) as usize;
            let due = |totals: &Self| totals.due.get(stream).copied().unwrap_or(0);
            let sent = due(self) - due(before);
            expected += sent;
            // Of each viewer by itself, so that nobody's repetitions hide another's loss.
            lost += sent.saturating_sub(now - then);
        }
        (expected, lost)
    }
}

/// Everything. Dropping it ends the processes and removes the networks.
pub struct Field {
    pub feed: Feed,
    pub server: Server,
    /// Of each stream.
    pub viewers_each: u32,
    viewers: Viewers,
    /// By viewer: those whose packets are opened.
    pub watches: Vec<Option<Arc<Watch>>>,
    /// Of viewers in a network of their own.
    ports: Option<Ports>,
    /// Receiving threads of the kernel that were there before.
    threads: BTreeMap<i32, String>,
    maps: BTreeSet<u32>,
    scene: Option<Scene>,
}

/// CPU time of each side in seconds.
#[derive(Clone, Copy, Debug, Default)]
pub struct Clocks {
    /// The server's processes, and all that the kernel does within their system calls.
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
    /// Starts everything; returns when all viewers are connected and, of another server, get media.
    ///
    /// # Errors
    /// Without root, and whatever does not start.
    pub fn new(plan: &Plan<'_>, say: &dyn Fn(&str)) -> Result<Self> {
        let threads = napi_threads();
        let outside = matches!(plan.subject, Subject::Peer(Peer { how: How::Process(_), .. }));
        let scene = if outside { None } else { Some(networks()?) };
        let ports = scene.as_ref().map(|scene| Ports::attach(&scene.receivers, RECEIVER_INTERFACE, plan.shape.payload));
        let ports = ports.transpose()?;
        let by_whip = matches!(plan.subject, Subject::Peer(Peer { feed: peer::Feed::Whip, .. }));
        let feed = if by_whip { Feed::Whip(vec![]) } else { Feed::Rtsp(Cameras::start(scene.as_ref(), plan)?) };
        let maps = memory::maps();
        let server = start(plan, scene.as_ref())?;
        let namespace = scene.as_ref().map(|scene| scene.receivers.name().to_owned());
        let lenient = matches!(plan.subject, Subject::Peer(_));
        let options = Options { namespace, video: vec![Codec::H264], audio: vec![], lenient, ..Options::default() };
        let viewers = Viewers::start("", 0, Source::None, options)?;
        let viewers_each = plan.viewers;
        let mut field = Self { feed, server, viewers_each, viewers, watches: vec![], ports, threads, maps, scene };
        match field.connect(plan, say) {
            Ok(()) => Ok(field),
            Err(error) => Err(error.context(format!("the server's log ends with\n{}", field.server.log()))),
        }
    }

    fn connect(&mut self, plan: &Plan<'_>, say: &dyn Fn(&str)) -> Result<()> {
        let all = u64::from(plan.streams);
        if let (Feed::Whip(publishers), Subject::Peer(peer)) = (&mut self.feed, plan.subject) {
            for stream in 0..plan.streams {
                let publish = || feed::publish(peer, stream, plan, self.scene.as_ref());
                publishers.push(patiently(&self.server, publish)?);
            }
        }
        // Another server may play a camera only once somebody watches it.
        if matches!(plan.subject, Subject::Penstock { .. }) || matches!(self.feed, Feed::Whip(_)) {
            wait("all streams are there", || Ok(self.feed.ask()?.playing >= all))?;
            say("cameras play");
        }
        // Hundreds of handshakes are work enough for viewers that open all they get. Another server may take silence
        // for the end of a stream.
        let silent = matches!(plan.subject, Subject::Penstock { .. });
        self.feed.pause(silent)?;
        for viewer in 0..plan.streams * plan.viewers {
            self.join(plan, viewer)?;
        }
        wait("all viewers connect", || {
            let stats = self.viewers.stats();
            if let Some(why) = stats.iter().find_map(|stats| stats.failed.as_ref()) {
                anyhow::bail!("a viewer failed: {why}");
            }
            Ok(stats.iter().all(|stats| stats.connected.is_some()))
        })?;
        self.feed.pause(false)?;
        if matches!(plan.subject, Subject::Peer(_)) {
            wait("all streams are there", || Ok(self.feed.ask()?.playing >= all))?;
            wait("all viewers get media", || Ok(self.counts()?.iter().all(|count| count.packets > 0)))?;
        }
        say("viewers are connected");
        Ok(())
    }

    /// Lets a viewer join.
    fn join(&mut self, plan: &Plan<'_>, viewer: u32) -> Result<()> {
        let (all, stream) = (plan.streams * plan.viewers, viewer / plan.viewers);
        // Spread over the streams, and so over the time between two frames.
        let opened = u64::from(viewer) * u64::from(plan.opened) % u64::from(all) < u64::from(plan.opened);
        let watch = (opened || self.ports.is_none())
            .then(|| Arc::new(Watch::new(Camera { number: stream, shape: plan.shape })));
        let source = || watch.clone().map_or(Source::None, Source::Camera);
        let number = match (&self.server, plan.subject) {
            (Server::Penstock(server), _) => {
                self.viewers.join_stream(&server.url(&format!("cam{stream}"), "whep"), source())?
            }
            // It may have to find its stream first, and is not told to wait by anybody.
            (server, Subject::Peer(peer)) => {
                patiently(server, || self.viewers.join_stream(&peer.whep(stream), source()))?
            }
            (Server::Peer(_), Subject::Penstock { .. }) => anyhow::bail!("another server than was wanted"),
        };
        if let (Some(ports), Some(_)) = (&mut self.ports, &watch) {
            ports.want(self.viewers.address(number).port())?;
        }
        self.watches.push(watch);
        Ok(())
    }

    /// What came to each viewer so far.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn counts(&self) -> Result<Vec<Count>> {
        match &self.ports {
            Some(ports) => {
                (0..self.watches.len()).map(|viewer| ports.count(self.viewers.address(viewer).port())).collect()
            }
            // All of them open what they get.
            None => {
                let arrived = self.watches.iter().map(|watch| watch.as_ref().map_or(0, |watch| watch.arrived()));
                let stats = self.viewers.stats();
                let packets = stats.iter().map(|stats| stats.video.decrypted);
                Ok(packets.zip(arrived).map(|(packets, media)| Count { packets, media }).collect())
            }
        }
    }

    /// Packets of media that came to each viewer so far.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn arrived(&self) -> Result<Vec<u64>> {
        Ok(self.counts()?.into_iter().map(|count| count.media).collect())
    }

    /// Stops the load, waits until nothing comes any more, and reads what was sent and what came. The load stays
    /// silent until [`go_on`](Self::go_on).
    ///
    /// # Errors
    /// When load or kernel fail.
    pub fn rest(&mut self) -> Result<Totals> {
        self.feed.pause(true)?;
        let give_up = Instant::now() + LONGEST_REST;
        let (mut arrived, mut since) = (self.arrived()?, Instant::now());
        while since.elapsed() < QUIET && Instant::now() < give_up {
            thread::sleep(Duration::from_millis(20));
            let now = self.arrived()?;
            if now != arrived {
                (arrived, since) = (now, Instant::now());
            }
        }
        Ok(Totals { due: self.feed.due()?, arrived })
    }

    /// What `penstock serve` and the interfaces say of packets that they dropped, by name.
    ///
    /// # Errors
    /// When the server does not answer.
    pub fn drops(&self) -> Result<BTreeMap<String, u64>> {
        let mut drops = match &self.server {
            Server::Penstock(server) => server.drops()?,
            Server::Peer(_) => BTreeMap::new(),
        };
        for namespace in self.scene.iter().flat_map(|scene| [&scene.server, &scene.generator, &scene.receivers]) {
            drops.extend(namespace.drops()?);
        }
        Ok(drops)
    }

    /// Packets that did not fit into a ring or a buffer of the networks, if those are ours.
    ///
    /// # Errors
    /// When `ip` fails.
    pub fn overflows(&self) -> Result<u64> {
        self.scene.as_ref().map_or(Ok(0), Scene::overflows)
    }

    /// Lets the load go on.
    ///
    /// # Errors
    /// When it is gone.
    pub fn go_on(&mut self) -> Result<()> {
        self.feed.pause(false)
    }

    /// Whether the kernel's part of the server's work can be told from that of others.
    pub fn is_apart(&self) -> bool {
        self.scene.is_some()
    }

    /// Reads all clocks.
    ///
    /// # Errors
    /// When a process is gone.
    pub fn clocks(&self) -> Result<Clocks> {
        let mut clocks = Clocks {
            generator: self.feed.id().map_or(Ok(0.0), |id| cpu::of_process(id as i32))?,
            viewers: cpu::of_process(std::process::id() as i32)?,
            ..Clocks::default()
        };
        let ids = self.server.ids();
        ensure!(!ids.is_empty(), "the server has ended");
        for id in ids {
            clocks.process += cpu::of_process(id).context("the server has ended")?;
        }
        for (id, name) in kernel_threads().into_iter().filter(|_| self.is_apart()) {
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
        memory::of(&self.server.ids(), &self.maps)
    }
}

/// The networks, with threads that receive, and a way from the load to wherever the server listens.
fn networks() -> Result<Scene> {
    let scene = Scene::new(Arrival::Xdp)?;
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
    scene.generator.ip(["route", "add", "default", "via", &scene::locals()[0].ip().to_string()])?;
    Ok(scene)
}

fn start(plan: &Plan<'_>, scene: Option<&Scene>) -> Result<Server> {
    let cameras = feed::cameras(scene);
    match (plan.subject, scene) {
        (Subject::Penstock { config, transport }, Some(scene)) => {
            let stream = |camera| {
                format!("[streams.cam{camera}]\nsource = \"{cameras}{camera}\"\ntransport = \"{transport}\"\n")
            };
            let streams: String = (0..plan.streams).map(stream).collect();
            let settings = Settings {
                // Nothing comes by WebRTC where the cameras are.
                interfaces: vec![OUT.into()],
                mode: "native",
                http: vec![(scene::locals()[1].ip(), HTTP_PORT).into()],
                more: format!("{config}\n{streams}"),
                unprivileged: false,
            };
            Ok(Server::Penstock(server::Server::start(&scene.server, &settings)?))
        }
        (Subject::Peer(Peer { how: How::Command(line), .. }), Some(scene)) => {
            let mut command = scene.server.command("sh");
            command.args(["-c", line]).env("STREAMS", plan.streams.to_string()).env("CAMERAS", cameras);
            Ok(Server::Peer(Processes::start(command, plan.one_core)?))
        }
        (Subject::Peer(Peer { how: How::Process(id), .. }), _) => Ok(Server::Peer(Processes::attach(*id))),
        (_, None) => anyhow::bail!("no networks"),
    }
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

/// Tries until it succeeds, the server ends, or the time is over.
fn patiently<T>(server: &Server, mut attempt: impl FnMut() -> Result<T>) -> Result<T> {
    let give_up = Instant::now() + PATIENCE;
    loop {
        match attempt() {
            Ok(result) => return Ok(result),
            Err(error) if server.ids().is_empty() => return Err(error.context("the server has ended")),
            Err(error) if Instant::now() >= give_up => return Err(error),
            Err(_) => thread::sleep(Duration::from_millis(200)),
        }
    }
}
