//! Reads a server's pinned maps: into what people ask for, never changing anything.

use std::{
    collections::BTreeMap,
    fs::File,
    io,
    net::{IpAddr, SocketAddr},
    os::fd::{AsFd as _, AsRawFd as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use aya::maps::{Array, HashMap, Map, MapData, MapError, PerCpuArray};
use forwarder_common::{
    Counter,
    maps::{
        FanoutList, FlowKey, LAYOUT_VERSION, NONE, PUBLISHER_DROPS, Path as WirePath, PublisherState,
        PublisherStateBytes, PublisherTrack, SUBSCRIBER_DROPS, Server, Session, SubscriberState, SubscriberTrack,
        session_state,
    },
};

use super::view::{Interface, Liveness, ServerView, SessionView, Snapshot, TrackView};
use penstock_engine::{Role, bpf::mode_name, clock::boottime_ns};

/// A server that has not given a sign of life for this long does not answer (it does each second).
const SILENT_NS: u64 = 3_000_000_000;

/// The pinned maps of one server.
pub struct Pinned {
    directory: PathBuf,
    /// What the server wrote of itself when the maps were opened.
    pub server: Server,
    liveness: Liveness,
}

impl Pinned {
    /// Finds the maps.
    ///
    /// # Errors
    /// There are none, they may not be read, or they are of another version.
    pub fn open(directory: &Path) -> Result<Self> {
        let pin = directory.join("SERVER");
        if let Err(error) = std::fs::metadata(&pin) {
            match error.kind() {
                io::ErrorKind::PermissionDenied => bail!("{} may not be read: run as root", directory.display()),
                _ => bail!(
                    "no server has its maps in {}: is one running, and is this its `kernel.pin_dir`? \
                     (A server without the kernel engine has none)",
                    directory.display()
                ),
            }
        }
        let server: Array<_, Server> = typed(directory, "SERVER")?;
        let server = server.get(&0, 0).context("reading the map SERVER")?;
        if server.layout == 0 {
            bail!("the server in {} has not finished its start", directory.display());
        }
        if server.layout != LAYOUT_VERSION {
            bail!(
                "the maps in {} have layout {}, this program knows layout {LAYOUT_VERSION}: use the `penstock` of the server",
                directory.display(),
                server.layout
            );
        }
        let liveness = liveness(directory, &server);
        Ok(Self { directory: directory.to_owned(), server, liveness })
    }

    /// A map by its name and type.
    ///
    /// # Errors
    /// It is not there, or of another type.
    pub fn map<T: TryFrom<Map, Error = MapError>>(&self, name: &str) -> Result<T> {
        typed(&self.directory, name)
    }

    /// The map of a name as the kernel describes it.
    ///
    /// # Errors
    /// It is not there.
    pub fn raw(&self, name: &str) -> Result<MapData> {
        raw(&self.directory, name)
    }

    /// Everything that the tables and the JSON show.
    ///
    /// # Errors
    /// A map cannot be read.
    pub fn snapshot(&self) -> Result<Snapshot> {
        let sessions: Array<_, Session> = self.map("SESSIONS")?;
        let leases: Array<_, u64> = self.map("LEASES")?;
        let paths: Array<_, WirePath> = self.map("PATHS")?;
        let now = boottime_ns();
        let mut views = BTreeMap::new();
        for slot in 0..sessions.len() {
            let session = sessions.get(&slot, 0)?;
            if session.state == session_state::FREE {
                continue;
            }
            let egress = if session.path == NONE { None } else { Some(paths.get(&session.path, 0)?.egress_ifindex) };
            views.insert(slot, self.session(slot, &session, leases.get(&slot, 0)?, egress, now));
        }
        self.add_publisher_tracks(&mut views, now)?;
        self.add_subscriber_tracks(&mut views, now)?;
        Ok(Snapshot {
            server: Some(self.server_view(now)),
            sessions: views.into_values().collect(),
            counters: self.counters()?,
            ..Snapshot::default()
        })
    }

    /// The server, alive or not.
    pub fn server_view(&self, now: u64) -> ServerView {
        let server = &self.server;
        let interfaces = server.ifindex.iter().zip(server.mode).zip(&server.name);
        let interfaces = interfaces.filter(|((index, _), _)| **index != 0);
        ServerView {
            pid: self.server.pid,
            liveness: self.liveness,
            up_seconds: seconds(now.saturating_sub(self.server.started_ns)),
            silent_seconds: seconds(now.saturating_sub(self.server.heartbeat_ns)),
            media_port: self.server.media_port,
            interfaces: interfaces
                .map(|((index, mode), name)| Interface {
                    index: *index,
                    name: text(name),
                    mode: mode_name(mode).to_owned(),
                })
                .collect(),
        }
    }

    /// All global counters by name.
    ///
    /// # Errors
    /// The map cannot be read.
    pub fn counters(&self) -> Result<BTreeMap<&'static str, u64>> {
        let counters: PerCpuArray<_, u64> = self.map("COUNTERS")?;
        let sum = |counter: &Counter| {
            let values = counters.get(&(*counter as u32), 0)?;
            Ok((counter.name(), values.iter().fold(0u64, |sum, value| sum.wrapping_add(*value))))
        };
        Counter::ALL.iter().map(sum).collect()
    }

    fn session(&self, slot: u32, session: &Session, lease: u64, egress: Option<u32>, now: u64) -> SessionView {
        let role = if session.state == session_state::PUBLISHER { Role::Publisher } else { Role::Subscriber };
        SessionView {
            slot: Some(slot),
            stream: text(&session.stream),
            id: text(&session.id),
            role,
            peer: Some(socket_address(session.peer, session.peer_port)),
            local: Some(socket_address(session.local, session.local_port)),
            engine: self.engine_of(role, egress),
            profile: Some(profile(session.profile).to_owned()),
            age_seconds: seconds(now.saturating_sub(session.created_ns)),
            lease_seconds: Some((lease as i128 - now as i128) as f64 / 1e9),
            tracks: Vec::new(),
        }
    }

    /// What carries a session, as the engine itself says it.
    fn engine_of(&self, role: Role, egress: Option<u32>) -> String {
        let interfaces = || self.server.ifindex.iter().zip(self.server.mode).filter(|(index, _)| **index != 0);
        let mode = match (role, egress) {
            (Role::Publisher, _) => interfaces().map(|(_, mode)| mode).min(),
            (Role::Subscriber, Some(egress)) => interfaces().find(|(index, _)| **index == egress).map(|(_, mode)| mode),
            (Role::Subscriber, None) => return "kernel: no path to the peer yet".into(),
        };
        mode.map_or_else(|| "kernel".into(), |mode| format!("kernel {}", mode_name(mode)))
    }

    fn add_publisher_tracks(&self, views: &mut BTreeMap<u32, SessionView>, now: u64) -> Result<()> {
        let flows: HashMap<_, FlowKey, u32> = self.map("FLOWS")?;
        let tracks: Array<_, PublisherTrack> = self.map("PUBLISHER_TRACKS")?;
        let states: Array<_, PublisherStateBytes> = self.map("PUBLISHER_STATE")?;
        let lists: Array<_, FanoutList> = self.map("FANOUT_LISTS")?;
        for flow in flows.iter() {
            let Ok((_, slot)) = flow else { continue };
            let track = tracks.get(&slot, 0)?;
            let state = PublisherState::from_bytes(&states.get(&slot, 0)?);
            let copies = if track.fanout == NONE { 0 } else { lists.get(&track.fanout, 0)?.copies };
            let Some(session) = views.get_mut(&track.session) else { continue };
            let view = TrackView {
                slot: Some(slot),
                kind: kind(track.kind),
                ssrc: track.ssrc,
                payload_type: track.payload_type,
                publisher_track: None,
                index_offset: None,
                timestamp_offset: None,
                highest_index: Some(state.replay.highest().0),
                viewers: Some(copies),
                packets: state.packets,
                bytes: state.octets,
                jitter_ms: jitter_ms(state.jitter_q4, track.clock_rate),
                idle_seconds: idle(now, state.last_arrival_ns),
                drops: drops(&PUBLISHER_DROPS, &state.drops),
            };
            // A publisher that is just moving has two flows to one track.
            if !session.tracks.iter().any(|track| track.slot == Some(slot)) {
                session.tracks.push(view);
            }
        }
        for session in views.values_mut() {
            session.tracks.sort_by_key(|track| track.slot);
        }
        Ok(())
    }

    fn add_subscriber_tracks(&self, views: &mut BTreeMap<u32, SessionView>, now: u64) -> Result<()> {
        let tracks: Array<_, SubscriberTrack> = self.map("SUBSCRIBER_TRACKS")?;
        let states: Array<_, SubscriberState> = self.map("SUBSCRIBER_STATE")?;
        for slot in 0..tracks.len() {
            let track = tracks.get(&slot, 0)?;
            // A free slot is all zeros.
            if track.kind == 0 {
                continue;
            }
            let state = states.get(&slot, 0)?;
            let Some(session) = views.get_mut(&track.session) else { continue };
            session.tracks.push(TrackView {
                slot: Some(slot),
                kind: kind(track.kind),
                ssrc: track.ssrc,
                payload_type: track.payload_type,
                publisher_track: Some(track.publisher_track),
                index_offset: Some(track.index_offset as i64),
                timestamp_offset: Some(track.timestamp_offset),
                highest_index: Some(state.last_index),
                viewers: None,
                packets: state.packets,
                bytes: state.octets,
                jitter_ms: None,
                idle_seconds: idle(now, state.last_sent_ns),
                drops: drops(&SUBSCRIBER_DROPS, &state.drops),
            });
        }
        Ok(())
    }
}

fn raw(directory: &Path, name: &str) -> Result<MapData> {
    MapData::from_pin(directory.join(name))
        .with_context(|| format!("no pinned map {name}: the server may just be starting or stopping, try again"))
}

fn typed<T: TryFrom<Map, Error = MapError>>(directory: &Path, name: &str) -> Result<T> {
    let map = Map::from_map_data(raw(directory, name)?).with_context(|| format!("the map {name}"))?;
    T::try_from(map).with_context(|| format!("the map {name} has another type or size than this program expects"))
}

/// The server holds a lock on the directory for as long as it lives.
fn liveness(directory: &Path, server: &Server) -> Liveness {
    let locked = File::open(directory).is_ok_and(|directory| {
        // SAFETY: the descriptor is open for the duration of the call. A lock that was got is let go
        // when the file is closed.
        unsafe { libc::flock(directory.as_fd().as_raw_fd(), libc::LOCK_SH | libc::LOCK_NB) != 0 }
    });
    if !locked {
        Liveness::Dead
    } else if boottime_ns().saturating_sub(server.heartbeat_ns) > SILENT_NS {
        Liveness::Silent
    } else {
        Liveness::Running
    }
}

/// Zero-padded UTF-8.
fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

/// An address as the maps hold it.
pub(super) fn socket_address(ip: [u8; 16], port: [u8; 2]) -> SocketAddr {
    SocketAddr::new(IpAddr::from(ip).to_canonical(), u16::from_be_bytes(port))
}

/// IANA name of an SRTP profile.
pub(super) fn profile(number: u8) -> &'static str {
    match number {
        7 => "AEAD_AES_128_GCM",
        8 => "AEAD_AES_256_GCM",
        _ => "unknown",
    }
}

/// Kind of a track.
pub(super) fn kind(number: u8) -> &'static str {
    match number {
        1 => "audio",
        2 => "video",
        _ => "unknown",
    }
}

fn seconds(ns: u64) -> f64 {
    ns as f64 / 1e9
}

fn idle(now: u64, last_ns: u64) -> Option<f64> {
    (last_ns != 0).then(|| seconds(now.saturating_sub(last_ns)))
}

fn jitter_ms(jitter_q4: u32, clock_rate: u32) -> Option<f64> {
    (clock_rate != 0).then(|| f64::from(jitter_q4) / 16.0 * 1000.0 / f64::from(clock_rate))
}

fn drops(reasons: &[Counter], counts: &[u64]) -> BTreeMap<&'static str, u64> {
    reasons
        .iter()
        .zip(counts)
        .filter(|(_, count)| **count != 0)
        .map(|(reason, count)| (reason.name(), *count))
        .collect()
}
