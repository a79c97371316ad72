//! The process under test: an engine with all sessions of a case, and no more, so that its memory is the
//! engine's own. It answers each line on its standard input by one line.

use std::{
    io::BufRead as _,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use forwarder_common::{ExtendedSeq, RtpHeader};
use penstock_engine::{
    Dscp, Engine, Feeder as _, Keep, Kind, NewPublisherTrack, NewSession, NewSource, NewSubscriberTrack,
    PublisherTrackId, Role, Transport,
    auto::AutoEngine,
    io::{MediaSockets, Threads},
    kernel::{Config, KernelEngine, Mode},
    userspace::{self, Forwarder, UserspaceEngine},
};
use penstock_srtp::cipher::Sealer;
use serde_json::json;
use tests_engine::lab::{Server, media_key};

use super::{
    case::{Case, Origin},
    contender::Contender,
    evp, load,
    receivers::SentTimes,
    scene::{self, BEFORE_FIRST, HEADER, PAYLOAD_TYPE},
};

/// Command line of the process.
#[derive(Clone, Debug, clap::Parser)]
pub struct Options {
    #[arg(long, value_enum)]
    pub contender: Contender,
    #[arg(long, value_enum)]
    pub origin: Origin,
    #[arg(long)]
    pub streams: u32,
    #[arg(long)]
    pub viewers: u32,
    #[arg(long)]
    pub payload: usize,
    #[arg(long)]
    pub rate: f64,
    #[arg(long)]
    pub burst: u32,
    #[arg(long)]
    pub key: u32,
    /// A bpffs.
    #[arg(long)]
    pub bpf: PathBuf,
    /// Id of the BPF map with the times at which packets were sent.
    #[arg(long)]
    pub times: u32,
    /// Stays on the second CPU with all its threads.
    #[arg(long)]
    pub one_core: bool,
}

impl Options {
    fn case(&self) -> Case {
        let Self { origin, streams, viewers, payload, rate, burst, key, .. } = *self;
        Case { origin, streams, viewers, payload, rate, burst, key }
    }

    /// The same as arguments.
    pub fn arguments(&self) -> Vec<String> {
        let origin = if self.origin == Origin::Srtp { "srtp" } else { "source" };
        let values = [
            ("contender", self.contender.name().to_owned()),
            ("origin", origin.to_owned()),
            ("streams", self.streams.to_string()),
            ("viewers", self.viewers.to_string()),
            ("payload", self.payload.to_string()),
            ("rate", self.rate.to_string()),
            ("burst", self.burst.to_string()),
            ("key", self.key.to_string()),
            ("bpf", self.bpf.display().to_string()),
            ("times", self.times.to_string()),
        ];
        let values = values.into_iter().map(|(name, value)| format!("--{name}={value}"));
        values.chain(self.one_core.then(|| "--one-core".to_owned())).collect()
    }
}

/// What the source has pushed.
#[derive(Default)]
struct Pushed {
    packets: AtomicU64,
    late_ns: AtomicU64,
    done: AtomicBool,
}

/// Runs until standard input ends.
///
/// # Errors
/// What the engine or the system says.
pub fn run(options: &Options) -> Result<()> {
    let case = options.case();
    if options.one_core {
        // Threads inherit it.
        load::stay_on(1);
    }
    let threads = std::thread::available_parallelism()?.get().min(4);
    let sockets = Arc::new(MediaSockets::bind(&scene::locals(), threads, 4 << 20)?);
    let (sender, events) = tokio::sync::mpsc::unbounded_channel();
    let config = userspace::Config {
        publisher_tracks: 1024,
        lease: Duration::from_secs(3600),
        gso: options.contender == Contender::SocketGso,
        sealer: if options.contender == Contender::SocketOpenssl { evp::SEALER } else { Sealer::default() },
        ..userspace::Config::default()
    };
    // Nobody is in control here: what is not media is dropped.
    let (control, _) = tokio::sync::mpsc::channel(1);
    let userspace = UserspaceEngine::new(config, sender.clone());
    if options.contender.is_kernel() {
        let mut config = Config {
            interfaces: [scene::IN, scene::OUT].map(String::from).into(),
            pin_dir: options.bpf.join("penstock"),
            lease: Duration::from_secs(3600),
            mode: if options.contender == Contender::Generic { Mode::Generic } else { Mode::Native },
            direct: options.contender != Contender::KernelLong,
            ..Config::new(scene::MEDIA_PORT)
        };
        config.limits.publisher_tracks = config.limits.publisher_tracks.max(case.streams as usize);
        let kernel = KernelEngine::start(config, sender)?;
        let interfaces = kernel.interfaces().iter().map(|interface| interface.index).collect();
        userspace.use_xdp(Some(interfaces)).map_err(anyhow::Error::msg)?;
        let engine = AutoEngine::new(Some(kernel), userspace, String::new());
        engine.set_sockets(&sockets);
        let _threads = Threads::start(&sockets, &control, |_| engine.worker())?;
        let mut server = Server::new(engine, events);
        fill(&mut server, &case, |_| bail!("the kernel engine takes no sources"))?;
        serve(&server, |_| bail!("no source"))
    } else {
        if options.contender == Contender::Xdp {
            userspace.use_xdp(None).map_err(anyhow::Error::msg)?;
        }
        userspace.set_sockets(&sockets);
        let _threads = Threads::start(&sockets, &control, |_| userspace.worker())?;
        let mut server = Server::new(userspace, events);
        let source =
            NewSource { clock_rate: 90_000, last: ExtendedSeq(BEFORE_FIRST), keep: Keep::default(), ordered: true };
        server.carrier = (options.contender == Contender::Xdp).then_some("userspace xdp");
        let tracks = fill(&mut server, &case, |engine| Ok(engine.add_source(source)?))?;
        let times = SentTimes::open(options.times, &case)?;
        let mut source = Some((server.engine.feeder().context("no sockets")?, tracks, times));
        serve(&server, |length| {
            let (feeder, tracks, times) = source.take().context("the source has been begun")?;
            Ok(start_source(case, length, feeder, tracks, times))
        })
    }
}

/// Adds all sessions, and waits until every viewer is attached and, if that takes time, carried by what
/// is to be measured.
fn fill<E: Engine>(
    server: &mut Server<E>,
    case: &Case,
    add_source: impl Fn(&E) -> Result<PublisherTrackId>,
) -> Result<Vec<PublisherTrackId>> {
    let (mut publishers, mut sessions, mut tracks) = (Vec::new(), Vec::new(), Vec::new());
    for stream in 0..case.streams {
        let publisher = match case.origin {
            Origin::Source => add_source(&server.engine)?,
            Origin::Srtp => add_publisher(&server.engine, stream)?,
        };
        publishers.push(publisher);
        for viewer in stream * case.viewers..(stream + 1) * case.viewers {
            let session = server.engine.add_session(NewSession {
                id: format!("viewer-{viewer}"),
                stream: format!("stream-{stream}"),
                role: Role::Subscriber,
                key: media_key(&scene::viewer_key(viewer)),
                transport: Transport::udp(scene::locals()[1], scene::viewer(viewer)),
                of_source: case.origin == Origin::Source,
            })?;
            sessions.push(session);
            let track = NewSubscriberTrack {
                ssrc: scene::viewer_ssrc(viewer),
                kind: Kind::Video,
                payload_type: PAYLOAD_TYPE,
                next_out: ExtendedSeq(BEFORE_FIRST + 1),
                index_offset: None,
                timestamp_offset: 0,
                dscp: Dscp::default(),
            };
            tracks.push(server.engine.add_subscriber_track(session, publisher, track)?);
        }
    }
    for track in tracks {
        // Each wait lasts five seconds; the kernel's grace periods for hundreds of fan-outs take longer.
        let started = (0..12).any(|_| server.started(track).is_ok());
        ensure!(started, "{track:?} was not attached");
    }
    sessions.into_iter().try_for_each(|session| server.carried(session))?;
    Ok(publishers)
}

fn add_publisher<E: Engine>(engine: &E, stream: u32) -> Result<PublisherTrackId> {
    let session = engine.add_session(NewSession {
        id: format!("publisher-{stream}"),
        stream: format!("stream-{stream}"),
        role: Role::Publisher,
        key: media_key(&scene::publisher_key(stream)),
        transport: Transport::udp(scene::locals()[0], scene::publisher(stream)),
        of_source: false,
    })?;
    let track = NewPublisherTrack {
        ssrc: scene::publisher_ssrc(stream),
        kind: Kind::Video,
        payload_type: PAYLOAD_TYPE,
        clock_rate: 90_000,
        first: ExtendedSeq(BEFORE_FIRST),
        sequence_extension: None,
    };
    Ok(engine.add_publisher_track(session, track)?)
}

/// Answers `source MILLISECONDS` and `state`.
fn serve<E: Engine>(server: &Server<E>, mut begin: impl FnMut(Duration) -> Result<Arc<Pushed>>) -> Result<()> {
    println!("{}", json!({ "engine": server.engine.describe() }));
    let mut pushed = Arc::new(Pushed::default());
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        if let Some(length) = line.strip_prefix("source ") {
            pushed = begin(Duration::from_millis(length.parse()?))?;
        }
        let counters: serde_json::Map<_, _> =
            server.engine.counters().into_iter().map(|(name, value)| (name.to_owned(), value.into())).collect();
        let state = json!({
            "counters": counters,
            "pushed": pushed.packets.load(Relaxed),
            "late_ns": pushed.late_ns.load(Relaxed),
            "done": pushed.done.load(Relaxed),
        });
        println!("{state}");
    }
    Ok(())
}

/// Pushes the case's packets when they are due; what is due at once is one batch, as it is for a thread
/// that reads many cameras.
fn start_source(
    case: Case,
    length: Duration,
    mut feeder: Forwarder,
    tracks: Vec<PublisherTrackId>,
    times: SentTimes,
) -> Arc<Pushed> {
    let pushed = Arc::new(Pushed::default());
    let ours = Arc::clone(&pushed);
    std::thread::spawn(move || {
        load::precise_timers();
        let mut packet = scene::blank(case.payload);
        let push = |feeder: &mut Forwarder, stream: u32, number: u64| {
            let index = BEFORE_FIRST + 1 + number;
            scene::stamp(&mut packet, stream, scene::publisher_ssrc(stream), index);
            times.note(stream, index);
            if let (Some(header), Some(track)) = (packet.first_chunk(), tracks.get(stream as usize)) {
                feeder.push(*track, ExtendedSeq(index), &RtpHeader::new(header), &packet[HEADER..], false);
            }
        };
        let late = load::keep_time_in_batches(case.schedule(length), &mut feeder, push, |feeder, packets| {
            feeder.flush();
            ours.packets.fetch_add(packets, Relaxed);
        });
        ours.late_ns.store(late.as_nanos() as u64, Relaxed);
        ours.done.store(true, Relaxed);
    });
    pushed
}
