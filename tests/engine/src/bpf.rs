//! The datapath in a box: the BPF object freshly loaded, its maps filled from a description, its
//! programs run by `BPF_PROG_TEST_RUN` or put on a veth, its counters read back.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use aya::{
    Ebpf, EbpfLoader, Pod,
    maps::{Array, ArrayOfMaps, DevMap, HashMap, Map, MapData, MapError, PerCpuArray, ProgramArray, RingBuf},
    programs::{ProgramError, ProgramFd, RawTracePoint, TestRun, TestRunOptions, Xdp, XdpMode},
};
use forwarder_common::{
    Counter, ExtendedSeq, SessionKey,
    maps::{
        self as layout, EgressGroup, FanoutList, FlowKey, KEY_CHUNK, LEASE_NS, MAX_COPIES, MAX_EGRESS, PublisherState,
        PublisherStateBytes, PublisherTrack, Session, SubscriberState, SubscriberTrack, program, session_state,
    },
    tower::{self, derive::Basis},
};
use penstock_engine::bpf::keys::{Keys, Outer};

use tests_kit::srtp::Key;

use crate::keystream::{Ring, Rings};

/// UDP port that the loaded datapath takes for its own.
pub const MEDIA_PORT: u16 = 5004;

/// The BPF object that `cargo xtask build-ebpf` leaves, or the one in the folder that `PENSTOCK_EBPF`
/// names.
pub fn object_path() -> PathBuf {
    let built = "../../target/ebpf/bpfel-unknown-none/release";
    let folder = match std::env::var_os("PENSTOCK_EBPF") {
        Some(path) => path.into(),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join(built),
    };
    folder.join("penstock-datapath")
}

/// Which ways packets go.
#[derive(Clone, Copy, Debug)]
pub struct Ways {
    /// GHASH by rows for packets with at least so many blocks in all copies together.
    pub tower_work: u32,
    /// The short way for packets with one subscriber.
    pub direct: bool,
}

impl Default for Ways {
    fn default() -> Self {
        Self { tower_work: tower::WORK, direct: true }
    }
}

/// What a test needs to say of a publisher's track. The session slot is the track's slot.
#[derive(Clone, Debug)]
pub struct Publisher {
    pub key: Key,
    pub peer: SocketAddr,
    pub local: SocketAddr,
    pub ssrc: u32,
    pub payload_type: u8,
    /// Index of the packet from which userspace would have learnt the SSRC.
    pub first: u64,
    pub fanout: Option<u32>,
}

/// What a test needs to say of a subscriber's track.
#[derive(Clone, Debug)]
pub struct Subscriber {
    pub key: Key,
    pub path: layout::Path,
    pub ssrc: u32,
    pub payload_type: u8,
    pub index_offset: u64,
    pub timestamp_offset: u32,
    pub first_in: u64,
    /// DS field of its copies.
    pub ds: u8,
}

/// How long a session is still allowed to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lease {
    Fresh,
    /// Ran out a moment ago.
    Expired,
}

/// What a program did to a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// XDP action.
    pub verdict: u32,
    pub packet: Vec<u8>,
    /// Mean time of a run, as the kernel measured it.
    pub duration: Duration,
}

/// Values of all counters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counters(pub Vec<u64>);

impl Counters {
    /// One value.
    pub fn get(&self, counter: Counter) -> u64 {
        self.0[counter as usize]
    }

    /// Those that moved since `before`, and by how much, in index order. Without [`Counter::Gaps`], which says nothing
    /// of what became of a packet, but of those before it.
    pub fn since(&self, before: &Counters) -> Vec<(Counter, u64)> {
        let all = Counter::ALL.iter().filter(|counter| **counter != Counter::Gaps);
        let moved = all.map(|counter| (*counter, self.get(*counter) - before.get(*counter)));
        moved.filter(|(_, by)| *by != 0).collect()
    }
}

/// A loaded datapath. Session slots 0.. belong to publishers, those from [`Datapath::FIRST_SUBSCRIBER`]
/// to subscribers.
pub struct Datapath {
    ebpf: Ebpf,
    egress: ProgramFd,
    /// Its programs go with it.
    _programs: ProgramArray<MapData>,
    flows: HashMap<MapData, FlowKey, u32>,
    publisher_tracks: Array<MapData, PublisherTrack>,
    publisher_state: Array<MapData, PublisherStateBytes>,
    fanouts: ArrayOfMaps<MapData, DevMap<MapData>>,
    fanout_lists: Array<MapData, FanoutList>,
    subscriber_tracks: Array<MapData, SubscriberTrack>,
    subscriber_state: Array<MapData, SubscriberState>,
    sessions: Array<MapData, Session>,
    paths: Array<MapData, layout::Path>,
    leases: Array<MapData, u64>,
    keys: Keys,
    publisher_rings: Rings,
    subscriber_rings: Rings,
    counters: PerCpuArray<MapData, u64>,
}

impl Datapath {
    /// Publisher tracks, and fan-outs, that fit.
    pub const PUBLISHERS: u32 = 4;
    /// Session slot of the first subscriber track.
    pub const FIRST_SUBSCRIBER: u32 = Self::PUBLISHERS;
    /// Subscriber tracks that fit.
    pub const SUBSCRIBERS: u32 = 2 * MAX_COPIES as u32;

    /// Loads and verifies all programs, with small maps.
    ///
    /// # Errors
    /// Without root (or CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN), without a built object, or with
    /// the verifier's log when the kernel refuses a program.
    pub fn load() -> Result<Self> {
        Self::load_with(Ways::default())
    }

    /// The same, where packets go other ways than usual.
    ///
    /// # Errors
    /// As [`Datapath::load`].
    pub fn load_with(ways: Ways) -> Result<Self> {
        // SAFETY: no arguments, no memory.
        ensure!(unsafe { libc::geteuid() } == 0, "BPF_PROG_TEST_RUN needs root: run the tests as root");
        let path = object_path();
        let object =
            std::fs::read(&path).with_context(|| format!("{}: run `cargo xtask build-ebpf` first", path.display()))?;
        let sessions = Self::PUBLISHERS + Self::SUBSCRIBERS;
        let mut ebpf = EbpfLoader::new()
            .map_max_entries("FLOWS", Self::PUBLISHERS)
            .map_max_entries("PUBLISHER_TRACKS", Self::PUBLISHERS)
            .map_max_entries("PUBLISHER_STATE", Self::PUBLISHERS)
            .map_max_entries("FANOUTS", Self::PUBLISHERS)
            .map_max_entries("FANOUT_LISTS", Self::PUBLISHERS)
            .map_max_entries("SUBSCRIBER_TRACKS", Self::SUBSCRIBERS)
            .map_max_entries("SUBSCRIBER_STATE", Self::SUBSCRIBERS)
            .map_max_entries("SESSIONS", sessions)
            .map_max_entries("LEASES", sessions)
            .map_max_entries("KEYS", sessions.div_ceil(KEY_CHUNK as u32))
            .map_max_entries("TOWERS", sessions.div_ceil(KEY_CHUNK as u32))
            .map_max_entries("SUBSETS", sessions.div_ceil(KEY_CHUNK as u32))
            .map_max_entries("PATHS", Self::SUBSCRIBERS)
            .override_global("MEDIA_PORT", &MEDIA_PORT, true)
            .override_global("TOWER_WORK", &ways.tower_work, true)
            .load(&object)
            .with_context(|| path.display().to_string())?;
        load_program(&mut ebpf, "penstock_ingress")?;
        let egress = load_program(&mut ebpf, "penstock_egress")?.fd()?.try_clone()?;
        let mut programs: ProgramArray<MapData> = take(&mut ebpf, "PROGRAMS")?;
        programs.set(program::FORWARD, load_program(&mut ebpf, "penstock_forward")?.fd()?, 0)?;
        if ways.direct {
            programs.set(program::DIRECT, load_program(&mut ebpf, "penstock_direct")?.fd()?, 0)?;
        }
        let basis = Box::new(Basis::new());
        let mut tables = Box::new(tower::Tables::EMPTY);
        basis.fill(&mut tables);
        array::<tower::Tables>(&mut ebpf, "TOWER_TABLES")?.set(0, tables.as_ref(), 0)?;
        let (chunks, mut keys) = (Outer::take(&mut ebpf)?, Keys::new(basis));
        for place in 0..(sessions as usize).div_ceil(KEY_CHUNK) {
            keys.push(chunks.add(place)?);
        }
        Ok(Self {
            egress,
            _programs: programs,
            flows: take(&mut ebpf, "FLOWS")?,
            publisher_tracks: array(&mut ebpf, "PUBLISHER_TRACKS")?,
            publisher_state: array(&mut ebpf, "PUBLISHER_STATE")?,
            fanouts: take(&mut ebpf, "FANOUTS")?,
            fanout_lists: array(&mut ebpf, "FANOUT_LISTS")?,
            subscriber_tracks: array(&mut ebpf, "SUBSCRIBER_TRACKS")?,
            subscriber_state: array(&mut ebpf, "SUBSCRIBER_STATE")?,
            sessions: array(&mut ebpf, "SESSIONS")?,
            paths: array(&mut ebpf, "PATHS")?,
            leases: array(&mut ebpf, "LEASES")?,
            keys,
            publisher_rings: take(&mut ebpf, "PUBLISHER_KEYSTREAMS")?,
            subscriber_rings: take(&mut ebpf, "SUBSCRIBER_KEYSTREAMS")?,
            counters: take(&mut ebpf, "COUNTERS")?,
            ebpf,
        })
    }

    /// Installs a publisher track in `slot`, with a session of its own and a fresh lease.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn set_publisher(&mut self, slot: u32, publisher: &Publisher) -> Result<()> {
        self.set_session(slot, &publisher.key, session_state::PUBLISHER, layout::NONE)?;
        let track = PublisherTrack {
            session: slot,
            fanout: publisher.fanout.unwrap_or(layout::NONE),
            clock_rate: 90_000,
            ssrc: publisher.ssrc,
            payload_type: publisher.payload_type,
            kind: 2,
            ..Default::default()
        };
        self.publisher_tracks.set(slot, track, 0)?;
        self.reset_publisher_state(slot, publisher.first)?;
        self.flows.insert(FlowKey::new(publisher.local, publisher.peer, publisher.ssrc), slot, 0)?;
        Ok(())
    }

    /// Puts a publisher track back to where it has seen index `first` and nothing since.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn reset_publisher_state(&mut self, slot: u32, first: u64) -> Result<()> {
        let state = PublisherState::starting_after(ExtendedSeq(first));
        Ok(self.publisher_state.set(slot, state.into_bytes(), 0)?)
    }

    /// Takes the flow of a publisher out: its SSRC is unknown again.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn forget_publisher(&mut self, publisher: &Publisher) -> Result<()> {
        Ok(self.flows.remove(&FlowKey::new(publisher.local, publisher.peer, publisher.ssrc))?)
    }

    /// Installs subscriber track `slot`, with a session and a path of its own and a fresh lease.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn set_subscriber(&mut self, slot: u32, subscriber: &Subscriber) -> Result<()> {
        let session = Self::FIRST_SUBSCRIBER + slot;
        self.paths.set(slot, subscriber.path, 0)?;
        self.set_session(session, &subscriber.key, session_state::SUBSCRIBER, slot)?;
        let track = SubscriberTrack {
            index_offset: subscriber.index_offset,
            first_in: subscriber.first_in,
            session,
            ssrc: subscriber.ssrc,
            timestamp_offset: subscriber.timestamp_offset,
            publisher_track: 0,
            payload_type: subscriber.payload_type,
            kind: 2,
            ds: subscriber.ds,
            ..Default::default()
        };
        self.subscriber_tracks.set(slot, track, 0)?;
        Ok(self.subscriber_state.set(slot, SubscriberState::default(), 0)?)
    }

    fn set_session(&mut self, slot: u32, key: &Key, state: u8, path: u32) -> Result<()> {
        let expanded = SessionKey::new(&key.key, key.salt).context("key of 16 or 32 bytes")?;
        self.keys.set(slot, &expanded)?;
        let session = Session { path, state, profile: if key.key.len() == 16 { 7 } else { 8 }, ..Session::FREE };
        self.sessions.set(slot, session, 0)?;
        self.set_lease(slot, Lease::Fresh)
    }

    /// Replaces only the key of a session slot.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn set_key(&mut self, slot: u32, key: SessionKey) -> Result<()> {
        Ok(self.keys.set(slot, &key)?)
    }

    /// Puts a ring into a publisher track's place.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn set_publisher_ring(&mut self, slot: u32, ring: &Ring) -> Result<()> {
        Ok(self.publisher_rings.set(slot, ring.map(), 0)?)
    }

    /// Puts a ring into a subscriber track's place.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn set_subscriber_ring(&mut self, slot: u32, ring: &Ring) -> Result<()> {
        Ok(self.subscriber_rings.set(slot, ring.map(), 0)?)
    }

    /// Sets the lease of a session slot.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn set_lease(&mut self, slot: u32, lease: Lease) -> Result<()> {
        let now = boottime_ns();
        let expiry = match lease {
            Lease::Fresh => now + 20 * LEASE_NS,
            Lease::Expired => now - 1,
        };
        Ok(self.leases.set(slot, expiry, 0)?)
    }

    /// Makes fan-out `slot` of subscriber tracks: (egress interface, track slots) for each interface.
    ///
    /// # Errors
    /// Too many interfaces or members, or what the kernel says.
    pub fn set_fanout(&mut self, slot: u32, groups: &[(u32, Vec<u32>)]) -> Result<()> {
        let copies: usize = groups.iter().map(|(_, members)| members.len()).sum();
        ensure!(groups.len() <= MAX_EGRESS && copies <= MAX_COPIES, "{} groups, {copies} copies", groups.len());
        let mut list = FanoutList { copies: copies as u32, groups_len: groups.len() as u32, ..FanoutList::EMPTY };
        let mut devmap = new_devmap(copies as u32)?;
        let mut at = 0;
        for (group, (ifindex, members)) in groups.iter().enumerate() {
            list.groups[group] = EgressGroup { ifindex: *ifindex, start: at, len: members.len() as u32, reserved: 0 };
            for member in members {
                list.members[at as usize] = *member;
                devmap.set(at, *ifindex, Some(&self.egress), 0)?;
                at += 1;
            }
        }
        self.set_fanout_list(slot, list)?;
        Ok(self.fanouts.set(slot, &devmap, 0)?)
    }

    /// Replaces only the list of fan-out `slot`.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn set_fanout_list(&mut self, slot: u32, list: FanoutList) -> Result<()> {
        Ok(self.fanout_lists.set(slot, list, 0)?)
    }

    /// Points a publisher track to a fan-out, or to none.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn point_to_fanout(&mut self, slot: u32, fanout: Option<u32>) -> Result<()> {
        let mut track = self.publisher_tracks.get(&slot, 0)?;
        track.fanout = fanout.unwrap_or(layout::NONE);
        Ok(self.publisher_tracks.set(slot, track, 0)?)
    }

    /// Changes what userspace says of a publisher track.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn change_publisher(&mut self, slot: u32, change: impl FnOnce(&mut PublisherTrack)) -> Result<()> {
        let mut track = self.publisher_tracks.get(&slot, 0)?;
        change(&mut track);
        Ok(self.publisher_tracks.set(slot, track, 0)?)
    }

    /// Changes what userspace says of a subscriber track.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn change_subscriber(&mut self, slot: u32, change: impl FnOnce(&mut SubscriberTrack)) -> Result<()> {
        let mut track = self.subscriber_tracks.get(&slot, 0)?;
        change(&mut track);
        Ok(self.subscriber_tracks.set(slot, track, 0)?)
    }

    /// Changes a session.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn change_session(&mut self, slot: u32, change: impl FnOnce(&mut Session)) -> Result<()> {
        let mut session = self.sessions.get(&slot, 0)?;
        change(&mut session);
        Ok(self.sessions.set(slot, session, 0)?)
    }

    /// Changes a subscriber's path.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn change_path(&mut self, slot: u32, change: impl FnOnce(&mut layout::Path)) -> Result<()> {
        let mut path = self.paths.get(&slot, 0)?;
        change(&mut path);
        Ok(self.paths.set(slot, path, 0)?)
    }

    /// Runs the ingress program on one packet.
    ///
    /// # Errors
    /// What the kernel says, for example for a packet of less than 14 bytes.
    pub fn ingress(&mut self, packet: &[u8]) -> Result<Run> {
        self.ingress_repeated(packet, 1)
    }

    /// Runs the ingress program `repeat` times on the same packet.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn ingress_repeated(&mut self, packet: &[u8], repeat: u32) -> Result<Run> {
        run(xdp(&mut self.ebpf, "penstock_ingress")?, packet, repeat)
    }

    /// Sends packets through the ingress program with everything that follows in the kernel: real
    /// redirection, egress program, device. `repeat` times the same packet, `batch` per softirq.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn ingress_live(&mut self, packet: &[u8], repeat: u32, batch: u32) -> Result<()> {
        let options = TestRunOptions {
            data_in: Some(packet),
            repeat,
            attrs: aya::programs::TestRunAttrs::new().xdp_live_frames(batch),
            ..Default::default()
        };
        xdp(&mut self.ebpf, "penstock_ingress")?.test_run(options).context("BPF_PROG_TEST_RUN with live frames")?;
        Ok(())
    }

    /// Puts the ingress program on an interface of the calling thread's network namespace, for as
    /// long as the datapath lives.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn attach(&mut self, ifindex: u32, mode: XdpMode) -> Result<()> {
        xdp(&mut self.ebpf, "penstock_ingress")?.attach_to_if_index(ifindex, mode).context("attach XDP")?;
        Ok(())
    }

    /// Starts the program that counts what devices take and refuse.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn watch_transmission(&mut self) -> Result<()> {
        let program = self.ebpf.program_mut("penstock_xmit").context("the object has no penstock_xmit")?;
        let program: &mut RawTracePoint = program.try_into()?;
        program.load().map_err(explain)?;
        program.attach("xdp_devmap_xmit")?;
        Ok(())
    }

    /// A program of the object, for its size and its instruction counts.
    ///
    /// # Errors
    /// When there is none of the name.
    pub fn program(&mut self, name: &str) -> Result<&mut Xdp> {
        xdp(&mut self.ebpf, name)
    }

    /// The buffer of plaintext for userspace. Once.
    ///
    /// # Errors
    /// When it is taken already.
    pub fn taps(&mut self) -> Result<RingBuf<MapData>> {
        Ok(RingBuf::try_from(self.ebpf.take_map("TAPS").context("TAPS")?)?)
    }

    /// One counter, summed over CPUs.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn counter(&self, counter: Counter) -> Result<u64> {
        Ok(self.counters.get(&(counter as u32), 0)?.iter().sum())
    }

    /// All counters, summed over CPUs.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn counters(&self) -> Result<Counters> {
        Ok(Counters(Counter::ALL.iter().map(|counter| self.counter(*counter)).collect::<Result<_>>()?))
    }

    /// The same once nothing moves any more: frames on a wire may wait for a processor.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn counters_at_rest(&self) -> Result<Counters> {
        const QUIET: Duration = Duration::from_millis(10);
        let mut before = self.counters()?;
        loop {
            std::thread::sleep(QUIET);
            let now = self.counters()?;
            if now == before {
                return Ok(now);
            }
            before = now;
        }
    }

    /// Those that have moved since `before`, once `counter` is among them, or the time is over.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn moved_with(&self, before: &Counters, counter: Counter) -> Result<Vec<(Counter, u64)>> {
        let give_up = Instant::now() + Duration::from_secs(20);
        loop {
            let moved = self.counters()?.since(before);
            if moved.iter().any(|(other, _)| *other == counter) || Instant::now() > give_up {
                return Ok(self.counters_at_rest()?.since(before));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// What the kernel knows of a publisher track, as bytes.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn publisher_state_bytes(&self, slot: u32) -> Result<PublisherStateBytes> {
        Ok(self.publisher_state.get(&slot, 0)?)
    }

    /// What the kernel knows of a publisher track.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn publisher_state(&self, slot: u32) -> Result<PublisherState> {
        Ok(PublisherState::from_bytes(&self.publisher_state_bytes(slot)?))
    }

    /// What the kernel knows of a subscriber track.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn subscriber_state(&self, slot: u32) -> Result<SubscriberState> {
        Ok(self.subscriber_state.get(&slot, 0)?)
    }
}

/// Runs an XDP program by `BPF_PROG_TEST_RUN`.
///
/// # Errors
/// What the kernel says.
pub fn run(program: &Xdp, packet: &[u8], repeat: u32) -> Result<Run> {
    let mut out = vec![0; 4096];
    let options = TestRunOptions { data_in: Some(packet), data_out: Some(&mut out), repeat, ..Default::default() };
    let result = program.test_run(options).context("BPF_PROG_TEST_RUN")?;
    out.truncate(result.data_size_out as usize);
    Ok(Run { verdict: result.return_value, packet: out, duration: result.duration })
}

fn xdp<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut Xdp> {
    Ok(ebpf.program_mut(name).with_context(|| format!("the object has no {name}"))?.try_into()?)
}

fn load_program<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut Xdp> {
    let program = xdp(ebpf, name)?;
    program.load().map_err(explain).with_context(|| name.to_owned())?;
    Ok(program)
}

/// The verifier's log belongs to the message.
fn explain(error: ProgramError) -> anyhow::Error {
    match error {
        ProgramError::LoadError { io_error, verifier_log } => anyhow::anyhow!("{io_error}\n{verifier_log}"),
        other => other.into(),
    }
}

fn new_devmap(entries: u32) -> Result<DevMap<MapData>> {
    const DEVMAP: u32 = 14;
    let description = aya_obj::Map::new_from_params(DEVMAP, 4, 8, entries.max(1), 0);
    Ok(Map::from_map_data(MapData::create(description, "fanout", None)?)?.try_into()?)
}

fn take<T: TryFrom<Map, Error = MapError>>(ebpf: &mut Ebpf, name: &str) -> Result<T> {
    let map = ebpf.take_map(name).with_context(|| format!("the object has no map {name}"))?;
    map.try_into().with_context(|| name.to_owned())
}

fn array<V: Pod>(ebpf: &mut Ebpf, name: &str) -> Result<Array<MapData, V>> {
    take(ebpf, name)
}

/// CLOCK_BOOTTIME, the clock of leases.
pub fn boottime_ns() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` is a valid place for a timespec. The call cannot fail for this clock.
    unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &mut now) };
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}
