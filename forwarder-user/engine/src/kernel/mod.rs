//! The kernel engine: XDP programs open, fan out and seal; this module feeds their maps.
//!
//! | file | does |
//! | --- | --- |
//! | `state`, `wire` | the mirror of the maps in userspace, and their values |
//! | `shared` | the state under its lock, and the bell of the fan-out thread |
//! | `keystream` | threads: keystream ahead of time, in rings that the programs read |
//! | `install`, `taps` | sessions and tracks into their maps; their packets in the clear |
//! | `fanout`, `plan`, `release` | thread: everything that needs a grace period |
//! | `store` | packets that viewers lost: where the kernel keeps them, and how they are sent again |
//! | `rtx` | what publishers send again, on the way of what it repairs |
//! | `housekeeping` | thread: heartbeat and program log |
//! | `again` | interfaces that come back |
//! | `serve` | the engine's contract |
//!
//! What loads, attaches and pins stands in `bpf`.

mod again;
mod fanout;
mod housekeeping;
mod install;
pub mod keystream;
mod plan;
mod release;
pub mod rtx;
mod serve;
mod shared;
mod state;
mod store;
mod taps;
mod wire;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    os::fd::OwnedFd,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError, atomic::AtomicU64, mpsc},
    thread::{self, JoinHandle},
    time::Duration,
};

use aya::{
    maps::{MapData, PerCpuArray, RingBuf},
    sys::{Stats, enable_stats},
};
use forwarder_common::maps::{LAYOUT_VERSION, LEASE_NS, Server};

use self::{
    again::{Again, SharedDatapath},
    fanout::Worker,
    shared::Shared,
    state::{State, Work},
};
use crate::{
    Events,
    bpf::{
        attach, check, describe,
        keystream::Parts,
        load,
        maps::{self, Maps},
        object,
        pins::{PinDirectory, Unmounter},
    },
    clock, repair,
    route::{Changes, Devices, Interfaces, Look, Monitor, Netlink, Watcher},
    slots::Slots,
};
pub use crate::{
    bpf::{Limits, Mode, StartError, mode_name},
    route::Attached,
    slots::MAX_SLOTS,
};

/// What the engine is told at its start.
#[derive(Clone, Debug)]
pub struct Config {
    /// Interfaces to attach to. Empty: those that carry `media_addresses`, or if that is empty too,
    /// those of the default routes.
    pub interfaces: Vec<String>,
    /// Local addresses of the media.
    pub media_addresses: Vec<IpAddr>,
    /// UDP port of the media. Traffic to other ports is never touched.
    pub media_port: u16,
    /// Which attachments are tried, and in which order.
    pub mode: Mode,
    /// In [`Mode::Auto`]: attach in generic mode where a driver refuses native XDP. Otherwise such interfaces are
    /// left to the userspace engine, whose sockets cost less (decision 24).
    pub generic_if_refused: bool,
    /// Nobody has named the interfaces: what stands in the way on one of them is no reason not to take the others.
    pub leave_interfaces: bool,
    /// Sizes of the maps, fixed at start.
    pub limits: Limits,
    /// Keystream ahead of time. `None`: all packets are sealed by AES in BPF, at several times the cost.
    pub keystream: Option<keystream::Settings>,
    /// Directory of the pinned maps; a bpffs is mounted there unless it is in one already.
    pub pin_dir: PathBuf,
    /// Who unmounts it at the end, where the server has given the right to do so up.
    pub unmounter: Option<Unmounter>,
    /// The short way for streams with one viewer. Not on kernels whose verifier does not take it.
    pub direct: bool,
    /// What is kept for viewers who lose packets.
    pub repair: repair::Settings,
    /// Keep the kernel's BPF statistics on as long as the engine lives.
    pub statistics: bool,
    /// How long a session sends and is received without [`refresh_session`].
    ///
    /// [`refresh_session`]: crate::Engine::refresh_session
    pub lease: Duration,
}

impl Config {
    /// The defaults, for one media port.
    pub fn new(media_port: u16) -> Self {
        Self {
            interfaces: Vec::new(),
            media_addresses: Vec::new(),
            media_port,
            mode: Mode::Auto,
            generic_if_refused: true,
            leave_interfaces: false,
            limits: Limits::default(),
            keystream: Some(keystream::Settings { memory: 128 << 20, fixed_entries: None }),
            pin_dir: PathBuf::from("/run/penstock/bpf"),
            unmounter: None,
            direct: true,
            repair: repair::Settings::default(),
            statistics: false,
            lease: Duration::from_nanos(LEASE_NS),
        }
    }
}

/// The XDP engine. Dropping it detaches the programs and removes the pins.
pub struct KernelEngine {
    shared: Arc<Shared>,
    limits: Limits,
    lease_ns: u64,
    /// Why streams with one viewer have no short way, where they have none.
    short_way: Result<(), String>,
    /// Whether tracks keep packets.
    repair: bool,
    sent_again: AtomicU64,
    repairs: Arc<repair::Repairs>,
    /// Interfaces that could not be attached to, and why.
    left: Vec<(String, String)>,
    attached: Interfaces,
    /// The same, for looking up paths.
    devices: Devices,
    netlink: Mutex<Netlink>,
    counters: PerCpuArray<MapData, u64>,
    /// Until somebody takes it.
    taps: Mutex<Option<RingBuf<MapData>>>,
    /// To the path thread.
    resolve: Option<mpsc::Sender<Look>>,
    /// Rings the path thread.
    monitor: Option<Monitor>,
    /// Dropped to stop the housekeeping thread.
    stop: Option<mpsc::Sender<()>>,
    threads: Vec<JoinHandle<()>>,
    /// Programs and their links; taken by `drop` before the pins go.
    datapath: SharedDatapath,
    /// While it is open, the kernel keeps run times of BPF programs.
    _statistics: Option<OwnedFd>,
    _pins: PinDirectory,
}

impl KernelEngine {
    /// Loads the programs and attaches them.
    ///
    /// # Errors
    /// [`StartError`]; nothing is left behind.
    pub fn start(config: Config, events: Events) -> Result<Self, StartError> {
        object::datapath()?;
        check::kernel()?;
        check::capabilities()?;
        config.limits.check()?;
        let mut netlink = Netlink::open().map_err(StartError::Netlink)?;
        let links = attach::choose(&mut netlink, &config.interfaces, &config.media_addresses)?;
        let mut pins = PinDirectory::claim(&config.pin_dir)?;
        pins.unmount_by(config.unmounter);
        let chunks = store::limit(&config.repair.memory);
        let mut datapath = load::load(&config.limits, config.media_port, config.direct, chunks)?;
        if let (true, Err(missing)) = (config.direct, &datapath.short_way) {
            tracing::warn!("packets with one viewer cost more, without their short way: {}", missing.reason);
        }
        pins.pin(datapath.ebpf())?;
        let log = housekeeping::program_log(datapath.ebpf());
        let keystream = Parts::take(datapath.ebpf())?;
        let mut maps = Maps::take(datapath.ebpf(), chunks).map_err(|error| StartError::Load(describe(&error)))?;
        if let Err(reason) = datapath.watch_transmission() {
            tracing::warn!("what full transmit rings drop is not counted: {reason}");
        }
        let choice = attach::Choice {
            mode: config.mode,
            generic_if_refused: config.generic_if_refused,
            leave: config.leave_interfaces,
        };
        let attach::Outcome { attached, left } = attach::attach(&mut netlink, &mut datapath, &links, choice)?;
        let server = describe_server(&attached, config.media_port);
        let attached = Interfaces::new(attached);
        maps.server.set(0, server, 0).map_err(|error| StartError::Load(describe(&error)))?;
        let statistics = if config.statistics { keep_statistics() } else { None };
        let mut engine = Self {
            shared: Arc::new(Shared::new(
                events.clone(),
                State {
                    tables: maps.tables,
                    sessions: Slots::new(config.limits.sessions),
                    publishers: Slots::new(config.limits.publisher_tracks),
                    subscribers: Slots::new(config.limits.subscriber_tracks),
                    work: Work::default(),
                    keystream: None,
                },
            )),
            limits: config.limits,
            repair: config.repair.track > 0,
            sent_again: AtomicU64::new(0),
            repairs: Arc::default(),
            lease_ns: config.lease.as_nanos() as u64,
            short_way: datapath.short_way.clone().map_err(|missing| missing.reason),
            devices: Devices::Attached(attached.clone()),
            attached,
            left,
            netlink: Mutex::new(netlink),
            counters: maps.counters,
            taps: Mutex::new(Some(maps.taps)),
            resolve: None,
            monitor: None,
            stop: None,
            threads: Vec::new(),
            datapath: SharedDatapath::default(),
            _statistics: statistics,
            _pins: pins,
        };
        let egress = datapath.egress.try_clone().map_err(StartError::Thread)?;
        engine.datapath = Arc::new(Mutex::new(Some(datapath)));
        if let Some(settings) = config.keystream {
            let (handle, threads) = keystream::prepare(keystream, Box::new(Arc::clone(&engine.shared)), settings)?;
            engine.shared.lock().keystream = Some(handle);
            for (name, run) in threads {
                engine.spawn(name, run)?;
            }
        }
        engine.start_threads(maps.fanouts, config.repair, (maps.server, server), egress, events, log)?;
        Ok(engine)
    }

    fn start_threads(
        &mut self,
        fanouts: maps::Fanouts,
        repair: repair::Settings,
        (map, server): (aya::maps::Array<MapData, Server>, Server),
        egress: aya::programs::ProgramFd,
        events: Events,
        log: Option<housekeeping::ProgramLog>,
    ) -> Result<(), StartError> {
        let worker = Worker {
            shared: Arc::clone(&self.shared),
            fanouts,
            repair,
            grace_slot: load::fanout_slots(&self.limits) - 1,
            egress,
            events,
        };
        self.spawn("penstock-fanout", move || worker.run())?;
        let (resolve, inbox) = mpsc::channel();
        let watcher = Watcher {
            sessions: Arc::clone(&self.shared),
            devices: self.devices.clone(),
            netlink: Netlink::open().map_err(StartError::Netlink)?,
            inbox,
            taking: BTreeMap::new(),
        };
        let mut again = Again {
            interfaces: self.attached.clone(),
            datapath: Arc::clone(&self.datapath),
            netlink: Netlink::open().map_err(StartError::Netlink)?,
            refused: BTreeSet::new(),
        };
        let look = move |changes: Changes| {
            if changes.links {
                again.look();
            }
        };
        self.monitor = Some(Look::at_changes(mpsc::Sender::clone(&resolve), look).map_err(StartError::Netlink)?);
        self.resolve = Some(resolve);
        self.spawn("penstock-paths", move || watcher.run())?;
        let (stop, stopped) = mpsc::channel();
        self.stop = Some(stop);
        let interfaces = self.attached.clone();
        self.spawn("penstock-engine", move || housekeeping::run((map, server, interfaces), log, &stopped))
    }

    fn spawn(&mut self, name: &str, run: impl FnOnce() + Send + 'static) -> Result<(), StartError> {
        let thread = thread::Builder::new().name(name.into()).spawn(run).map_err(StartError::Thread)?;
        self.threads.push(thread);
        Ok(())
    }

    /// The interfaces that the programs are on.
    pub fn interfaces(&self) -> Arc<[Attached]> {
        self.attached.get()
    }

    /// Names of those that were to have them and do not, and why.
    pub fn left_out(&self) -> &[(String, String)] {
        &self.left
    }

    /// Global addresses of the attached interfaces and of VLANs on them: those that media can use.
    ///
    /// # Errors
    /// What netlink says.
    pub fn local_addresses(&self) -> std::io::Result<Vec<IpAddr>> {
        let mut netlink = self.netlink.lock().unwrap_or_else(PoisonError::into_inner);
        let links = netlink.links()?;
        let ours = |index: u32| {
            let link = links.iter().find(|link| link.index == index);
            let parent = link.and_then(|link| link.vlan).map(|vlan| vlan.parent);
            self.attached.get().iter().any(|interface| interface.index == index || Some(interface.index) == parent)
        };
        let addresses = netlink.addresses()?.into_iter();
        Ok(addresses.filter(|(index, address)| ours(*index) && !is_link_local(*address)).map(|(_, ip)| ip).collect())
    }
}

fn keep_statistics() -> Option<OwnedFd> {
    let kept = enable_stats(Stats::RunTime);
    kept.inspect_err(|error| {
        let error = describe(error);
        tracing::warn!("no run times of BPF programs, `kernel.bpf_stats` needs CAP_SYS_ADMIN: {error}");
    })
    .ok()
}

fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    }
}

fn describe_server(attached: &[Attached], media_port: u16) -> Server {
    let now = clock::boottime_ns();
    let mut server = Server {
        layout: LAYOUT_VERSION,
        pid: std::process::id(),
        started_ns: now,
        heartbeat_ns: now,
        media_port,
        ..Server::default()
    };
    describe_interfaces(&mut server, attached);
    server
}

fn describe_interfaces(server: &mut Server, attached: &[Attached]) {
    for (place, interface) in attached.iter().enumerate().take(server.ifindex.len()) {
        server.ifindex[place] = interface.index;
        server.mode[place] = interface.mode;
        for (place, byte) in server.name[place].iter_mut().zip(interface.name.bytes()) {
            *place = byte;
        }
    }
}

impl Drop for KernelEngine {
    fn drop(&mut self) {
        // Media stops first: the links go with the programs.
        drop(self.datapath.lock().unwrap_or_else(PoisonError::into_inner).take());
        {
            let mut state = self.shared.lock();
            state.work.stop = true;
            state.keystream = None;
        }
        self.shared.bell.notify_all();
        self.monitor = None;
        self.resolve = None;
        self.stop = None;
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a thread of the engine had panicked");
            }
        }
    }
}
