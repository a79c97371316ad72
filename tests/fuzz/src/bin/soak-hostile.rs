//! `cargo xtask soak hostile`: a live stream with viewers, and strangers who do their worst at once.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use clap::Parser;
use tests_fuzz::corpus;
use tests_fuzz::mutate::{Random, mutate};
use tests_fuzz::targets::TARGETS;
use tests_kit::netns::NetNs;
use tests_kit::peer::{Kind, Stats};
use tests_kit::stage::{Layout, Stage, synthetic};

/// Media, HTTP and RTSP of the server, as strangers see them.
const MEDIA: &str = "10.60.0.1:8443";
const HTTP: &str = "10.60.0.1:8080";
const RTSP: &str = "10.60.0.1:8554";
/// Addresses of strangers, other than that of the publisher.
const STRANGER: &str = "10.60.0.3:0";
/// What a stranger sends in a burst, and how long it waits then: some thousands of packets a second each, which is what
/// one core of the machine makes beside the server.
const BURST: usize = 32;
const PAUSE: Duration = Duration::from_millis(5);
/// The health check's answer may take so long, in 99 of 100 cases.
const HEALTHY: Duration = Duration::from_millis(50);
/// Memory that may come after the first tenth of the run.
const GROWTH: u64 = 16 << 20;

/// Forged, mangled and played-back media, floods, slow readers, half-open sessions, and fuzzed HTTP, RTSP, STUN, DTLS and
/// RTCP, all at once against one stream. Fails unless viewers lose nothing that no ring or buffer names, nothing forged is
/// accepted, memory and descriptors stay as they are, and the health check is answered in time.
#[derive(Parser)]
#[command(name = "soak hostile")]
struct Options {
    #[arg(long, default_value_t = 20)]
    viewers: usize,
    #[arg(long, default_value_t = 600)]
    seconds: u64,
    /// The userspace engine and sockets
    #[arg(long)]
    userspace: bool,
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// Threads that attack until they are told to stop, and what they have done, by name.
struct Strangers {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
    done: Vec<(&'static str, Arc<AtomicU64>)>,
}

/// What one of them does again and again: so many things each time.
type Attack = Box<dyn FnMut() -> u64 + Send>;

impl Strangers {
    fn new() -> Self {
        Self { stop: Arc::default(), threads: vec![], done: vec![] }
    }

    /// Lets one loose in a namespace. `make` opens its sockets there.
    fn add(
        &mut self,
        from: &NetNs,
        name: &'static str,
        make: impl FnOnce() -> Result<Attack> + Send + 'static,
    ) -> Result<()> {
        let (stop, count) = (Arc::clone(&self.stop), Arc::new(AtomicU64::new(0)));
        self.done.push((name, Arc::clone(&count)));
        let thread = from.spawn(name, move || {
            let mut attack = match make() {
                Ok(attack) => attack,
                Err(error) => return eprintln!("{name}: {error:#}"),
            };
            while !stop.load(Relaxed) {
                count.fetch_add(attack(), Relaxed);
            }
        })?;
        self.threads.push(thread);
        Ok(())
    }

    fn end(self) -> Result<Vec<(&'static str, u64)>> {
        self.stop.store(true, Relaxed);
        for thread in self.threads {
            thread.join().map_err(|_| anyhow::anyhow!("a stranger panicked"))?;
        }
        Ok(self.done.into_iter().map(|(name, count)| (name, count.load(Relaxed))).collect())
    }
}

/// The corpus of a target, mutated.
fn fuzzed(target: &str, seed: u64) -> Result<impl FnMut() -> Vec<u8> + Send + use<>> {
    let target = TARGETS.iter().find(|one| one.name == target).context("no such target")?;
    let inputs: Vec<Vec<u8>> = corpus::of(target)?.into_iter().map(|(_, input)| input).collect();
    let mut random = Random::new(seed);
    Ok(move || {
        let mut input = inputs[random.below(inputs.len())].clone();
        let other = inputs[random.below(inputs.len())].clone();
        mutate(&mut input, &other, target.words, &mut random);
        input
    })
}

/// Datagrams to the media port.
fn datagrams(mut make: impl FnMut() -> Vec<u8> + Send + 'static) -> Result<Attack> {
    let socket = UdpSocket::bind(STRANGER)?;
    socket.connect(MEDIA)?;
    Ok(Box::new(move || {
        let sent = (0..BURST).filter(|_| {
            let mut bytes = make();
            bytes.truncate(1400);
            socket.send(&bytes).is_ok()
        });
        let sent = sent.count() as u64;
        std::thread::sleep(PAUSE);
        sent
    }))
}

/// One TCP connection that says something and reads what comes of it, for a moment.
fn conversation(to: &str, bytes: &[u8]) -> u64 {
    let Ok(address) = to.parse::<SocketAddr>() else { return 0 };
    let Ok(mut stream) = TcpStream::connect_timeout(&address, Duration::from_secs(2)) else { return 0 };
    let _ = stream.set_read_timeout(Some(Duration::from_millis(20)));
    let _ = stream.set_write_timeout(Some(Duration::from_millis(200)));
    let _ = stream.write_all(bytes);
    let _ = stream.read(&mut [0; 4096]);
    1
}

fn post(path: &str, body: &[u8]) -> Vec<u8> {
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: h\r\nContent-Type: application/sdp\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}

fn let_loose(stage: &Stage, ssrcs: [u32; 2], seed: u64) -> Result<Strangers> {
    let mut strangers = Strangers::new();
    let from = &stage.near;
    // The publisher's SSRCs under somebody else's address, and keys that nobody has.
    let mut random = Random::new(seed);
    strangers.add(from, "forged media", move || {
        datagrams(move || {
            let mut packet = vec![0x80, 96];
            packet.extend((random.number() as u16).to_be_bytes());
            packet.extend((random.number() as u32).to_be_bytes());
            packet.extend(ssrcs[random.below(2)].to_be_bytes());
            packet.extend((0..random.below(1000) + 16).map(|_| random.number() as u8));
            packet
        })
    })?;
    for (name, target) in [
        ("mangled media", "srtp"),
        ("fuzzed STUN", "stun"),
        ("fuzzed DTLS", "dtls"),
        ("fuzzed RTCP", "rtcp"),
        ("what is nothing", "classify"),
    ] {
        let make = fuzzed(target, seed)?;
        strangers.add(from, name, move || datagrams(make))?;
    }
    let mut offers = fuzzed("offer", seed)?;
    strangers
        .add(from, "fuzzed offers", move || Ok(Box::new(move || conversation(HTTP, &post("/e2e/whep", &offers())))))?;
    let mut requests = fuzzed("rtsp", seed)?;
    strangers.add(from, "fuzzed HTTP", move || Ok(Box::new(move || conversation(HTTP, &requests()))))?;
    let mut requests = fuzzed("rtsp", seed + 1)?;
    strangers.add(from, "fuzzed RTSP", move || Ok(Box::new(move || conversation(RTSP, &requests()))))?;
    // Sound offers by nobody who would ever connect.
    let sound = include_bytes!("../../../../forwarder-user/webrtc/src/sdp/fixtures/chromium_play.sdp");
    strangers
        .add(from, "half-open sessions", move || Ok(Box::new(move || conversation(HTTP, &post("/e2e/whep", sound)))))?;
    strangers.add(from, "slow readers", move || {
        let mut open: Vec<TcpStream> = Vec::new();
        Ok(Box::new(move || {
            if open.len() >= 200 {
                open.remove(0);
            }
            let stream = TcpStream::connect_timeout(&SocketAddr::from(([10, 60, 0, 1], 8080)), Duration::from_secs(1));
            if let Ok(mut stream) = stream {
                let _ = stream.write_all(b"GET / HTTP/1.1\r\nHost: h\r\nX: ");
                open.push(stream);
            }
            std::thread::sleep(Duration::from_millis(20));
            1
        }))
    })?;
    Ok(strangers)
}

fn descriptors(process: u32) -> Result<usize> {
    Ok(std::fs::read_dir(format!("/proc/{process}/fd"))?.count())
}

/// How long the health check's answer took, asked from the server's own host: by the listener for health alone, and by
/// that for everything.
fn health(stage: &Stage, port: u16) -> Result<Duration> {
    stage.host.run(|| -> Result<Duration> {
        let begun = Instant::now();
        let mut stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        ensure!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        Ok(begun.elapsed())
    })
}

fn count(state: &serde_json::Value, name: &str) -> u64 {
    state["counters"]["control"][name].as_u64().unwrap_or_default()
}

fn main() -> Result<()> {
    let options = Options::parse();
    let engine = if options.userspace { "engine = \"userspace\"\ntransmitter = \"socket\"\n" } else { "" };
    let of_health = "[http]\nhealth_listen = [\"127.0.0.1:8081\"]\n";
    let more = format!("{of_health}[media]\n{engine}[rtsp]\nlisten = [\"0.0.0.0:8554\"]\n");
    let stage = Stage::new(Layout::TwoNics, "native", &more)?;
    let source = synthetic(100);
    let publisher = stage.publish(&source, stage.publishing())?;
    let viewers = stage.play(options.viewers, &source, stage.playing())?;
    let all: Vec<usize> = (0..options.viewers).collect();
    stage.flows(&viewers, &all, Kind::Video, 50)?;
    let sent = publisher.stats();
    let strangers = let_loose(&stage, [sent.audio.ssrc, sent.video.ssrc], options.seed)?;
    let (begun, length) = (Instant::now(), Duration::from_secs(options.seconds));
    let (mut waits, mut among_all, mut early) = (vec![], vec![], None);
    while begun.elapsed() < length {
        std::thread::sleep(Duration::from_millis(500));
        waits.push(health(&stage, 8081).unwrap_or(Duration::from_secs(60)));
        among_all.push(health(&stage, 8080).unwrap_or(Duration::from_secs(60)));
        if early.is_none() && begun.elapsed() > length / 10 {
            early = Some((stage.server.memory()?, descriptors(stage.server.pid())?));
        }
        if waits.len() % 60 == 0 {
            eprintln!("{:>4} of {} s", begun.elapsed().as_secs(), options.seconds);
        }
    }
    stage.flows(&viewers, &all, Kind::Video, 50)?;
    let late = (stage.server.memory()?, descriptors(stage.server.pid())?);
    let done = strangers.end()?;
    stage.rest(&publisher, &viewers)?;
    let stats = viewers.stop()?;
    done.iter().for_each(|(name, count)| println!("{name:20}  {count}"));
    judge(&stage, &stats, (early.context("too short")?, late), [waits, among_all])
}

type Held = (u64, usize);

/// The wait of 99 in 100.
fn usual(mut waits: Vec<Duration>) -> Duration {
    waits.sort();
    waits.get(waits.len() * 99 / 100).copied().unwrap_or_default()
}

fn judge(stage: &Stage, stats: &[Stats], (early, late): (Held, Held), waits: [Vec<Duration>; 2]) -> Result<()> {
    let (mut lost, mut got, mut wrong) = (0, 0, 0);
    for media in stats.iter().flat_map(|one| [&one.audio, &one.video]) {
        lost += media.lost;
        got += media.packets;
        wrong += media.mismatches + media.duplicates + (media.packets - media.decrypted);
    }
    let state = stage.server.get("/api/v1/state")?;
    let [slow, among_all] = waits.map(usual);
    println!("copies                {got}, {lost} lost, {wrong} not as they were sent");
    println!("authentic strays      {}", count(&state, "strays_authentic"));
    println!("memory                {} KB, then {} KB", early.0 >> 10, late.0 >> 10);
    println!("descriptors           {}, then {}", early.1, late.1);
    println!("health check          {slow:.1?} in 99 of 100 cases, {among_all:.1?} where everything is served");
    ensure!(wrong == 0, "viewers got {wrong} packets that nobody has sent");
    ensure!(count(&state, "strays_authentic") == 0, "something forged was believed");
    stage.assert_counted(lost, stats.len())?;
    ensure!(late.0 <= early.0 + GROWTH, "memory grows: {early:?}, {late:?}");
    // Connections that are open at the moment come and go.
    ensure!(late.1 <= early.1 + 300, "descriptors grow: {early:?}, {late:?}");
    ensure!(slow <= HEALTHY, "the health check takes {slow:?}");
    Ok(())
}
