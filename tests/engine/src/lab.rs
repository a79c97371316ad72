//! An engine in a test host, with publishers and viewers that speak plain SRTP to it: no HTTP,
//! ICE or DTLS, so a failure is the engine's or the datapath's.

use std::{
    collections::{BTreeMap, VecDeque},
    io::ErrorKind,
    net::{SocketAddr, UdpSocket},
    os::fd::AsRawFd as _,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use forwarder_common::ExtendedSeq;
use penstock_engine::{
    Dscp, Engine, Event, Kind, MediaKey, NewPublisherTrack, NewSession, NewSubscriberTrack, Profile, PublisherTrackId,
    Role, SessionId, SubscriberTrackId, Transport,
    auto::AutoEngine,
    io::{MediaSockets, Threads},
    kernel::{Config, KernelEngine},
    userspace::{self, UserspaceEngine},
};
use tests_kit::{
    netns::{BpfFs, End, NetNs, veth},
    srtp::{Key, Random, TAG},
};
use tokio::sync::mpsc::UnboundedReceiver;

/// Longest wait for anything. It only has to be reached when something is broken.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// No copy has come for this long: those that were to come have.
const QUIET: Duration = Duration::from_millis(60);

/// UDP port of the media in these tests.
pub const PORT: u16 = 8443;

/// A server host and one peer host on each of its interfaces `s0`, `s1`, …
pub struct Lab {
    pub server: NetNs,
    pub peers: Vec<NetNs>,
    pub bpf: BpfFs,
    /// Takes what the datapath passes to the stack, which would else answer that nobody listens.
    sink: Option<UdpSocket>,
}

impl Lab {
    /// Link `n` has the server at `10.77.n.1` and `fd77:n::1`, the peer at `.2` and `::2`, with
    /// interfaces `s{n}` and `p{n}`.
    ///
    /// # Errors
    /// Without root.
    pub fn new(links: usize) -> Result<Self> {
        let server = NetNs::new("server")?;
        let peers = (0..links).map(|_| NetNs::new("peer")).collect::<Result<Vec<_>>>()?;
        for (n, peer) in peers.iter().enumerate() {
            let addresses = [1, 2].map(|host| [format!("10.77.{n}.{host}/24"), format!("fd77:{n}::{host}/64")]);
            let addresses = addresses.each_ref().map(|pair| [pair[0].as_str(), pair[1].as_str()]);
            let names = [format!("s{n}"), format!("p{n}")];
            veth(
                End { namespace: &server, interface: &names[0], addresses: &addresses[0] },
                End { namespace: peer, interface: &names[1], addresses: &addresses[1] },
            )?;
        }
        let sink = Some(server.run(|| UdpSocket::bind(("::", PORT)))?);
        Ok(Self { server, peers, bpf: BpfFs::mount()?, sink })
    }

    /// Address of the server on link `n`.
    pub fn server_address(&self, n: usize, ipv6: bool) -> SocketAddr {
        address(n, 1, ipv6, PORT)
    }

    /// A configuration that attaches to every link.
    pub fn config(&self) -> Config {
        Config {
            interfaces: (0..self.peers.len()).map(|n| format!("s{n}")).collect(),
            pin_dir: self.bpf.path().join("penstock"),
            ..Config::new(PORT)
        }
    }

    /// Starts a userspace engine in the server host, on sockets of all its addresses. Its threads end with the second
    /// value.
    ///
    /// # Errors
    /// What the system says.
    pub fn start_userspace(
        &mut self,
        config: userspace::Config,
        xdp: bool,
    ) -> Result<(Server<UserspaceEngine>, Threads)> {
        let sockets = self.media_sockets()?;
        let (sender, events) = tokio::sync::mpsc::unbounded_channel();
        let engine = UserspaceEngine::new(config, sender);
        if xdp {
            self.server.run(|| engine.use_xdp(None)).map_err(anyhow::Error::msg)?;
        }
        engine.set_sockets(&sockets);
        // Nobody is in control here: what is not media is dropped.
        let (control, _) = tokio::sync::mpsc::channel(1);
        let threads = Threads::start(&sockets, &control, |_| engine.worker())?;
        let carrier = xdp.then_some("userspace xdp");
        Ok((Server { carrier, ..Server::new(engine, events) }, threads))
    }

    /// Sockets of all addresses of the server host, in place of the sink.
    fn media_sockets(&mut self) -> Result<Arc<MediaSockets>> {
        self.sink = None;
        let links = (0..self.peers.len()).flat_map(|n| [false, true].map(|ipv6| self.server_address(n, ipv6)));
        let addresses: Vec<SocketAddr> = links.collect();
        // A program that another test starts has a copy of the sink until it runs.
        let give_up = Instant::now() + PATIENCE;
        loop {
            match self.server.run(|| MediaSockets::bind(&addresses, 2, 4 << 20)) {
                Err(error) if error.kind() == ErrorKind::AddrInUse && Instant::now() < give_up => {
                    thread::sleep(Duration::from_millis(10));
                }
                bound => return Ok(Arc::new(bound?)),
            }
        }
    }

    /// Starts both engines in the server host, joined, on sockets of all its addresses; userspace sends by XDP.
    ///
    /// # Errors
    /// What the engine or the system says.
    pub fn start_auto(&mut self, kernel: Config, config: userspace::Config) -> Result<(Server<AutoEngine>, Threads)> {
        let sockets = self.media_sockets()?;
        let (sender, events) = tokio::sync::mpsc::unbounded_channel();
        let kernel = self.server.run(|| KernelEngine::start(kernel, sender.clone()))?;
        let userspace = UserspaceEngine::new(config, sender);
        self.server.run(|| userspace.use_xdp(None)).map_err(anyhow::Error::msg)?;
        let engine = AutoEngine::new(Some(kernel), userspace, String::new());
        engine.set_sockets(&sockets);
        let (control, _) = tokio::sync::mpsc::channel(1);
        let threads = Threads::start(&sockets, &control, |_| engine.worker())?;
        Ok((Server::new(engine, events), threads))
    }

    /// Packets that did not fit into a ring or a buffer, by the name of the counter.
    ///
    /// # Errors
    /// When `ip` fails.
    pub fn overflows<E: Engine>(&self, server: &Server<E>) -> Result<BTreeMap<String, u64>> {
        let mut full = self.server.drops()?;
        for peer in &self.peers {
            full.extend(peer.drops()?);
        }
        for name in ["drop_ring_full", "tap_full"] {
            full.insert(name.into(), server.counter(name));
        }
        full.retain(|_, packets| *packets > 0);
        Ok(full)
    }

    /// Starts the engine in the server host.
    ///
    /// # Errors
    /// As the engine says.
    pub fn start(&self, config: Config) -> Result<Server> {
        let (sender, events) = tokio::sync::mpsc::unbounded_channel();
        let engine = self.server.run(|| KernelEngine::start(config, sender))?;
        Ok(Server::new(engine, events))
    }
}

/// All copies of so many packets for each of these viewers, by viewer, as they come: how soon is no test's matter. Some
/// may be missing if rings or buffers were full, which counters of the engine, the interfaces or the sockets say: one
/// packet on its way in is one for each viewer.
///
/// # Errors
/// Some are missing, and nothing says why; or as [`Viewer::receive`].
pub fn receive_all<E: Engine>(
    lab: &Lab,
    server: &Server<E>,
    viewers: &mut [Viewer],
    count: usize,
) -> Result<Vec<Vec<Copy>>> {
    let wanted = viewers.len() * count;
    let mut copies = vec![Vec::new(); viewers.len()];
    let give_up = Instant::now() + PATIENCE;
    loop {
        for (n, (viewer, copies)) in viewers.iter_mut().zip(&mut copies).enumerate() {
            // The first is waited for; the others have theirs by then.
            copies.extend(viewer.receive(if n == 0 { QUIET } else { Duration::from_micros(100) })?);
        }
        let missing = wanted.saturating_sub(copies.iter().map(Vec::len).sum());
        if missing == 0 {
            return Ok(copies);
        }
        let full = lab.overflows(server)?;
        if missing <= full.values().sum::<u64>() as usize * viewers.len() {
            return Ok(copies);
        }
        ensure!(
            Instant::now() < give_up,
            "{missing} of {wanted} copies are missing, and rings and buffers tell of {full:?} alone; {:?}",
            server.engine.counters()
        );
    }
}

/// Address of a host on link `n`.
pub fn address(n: usize, host: u8, ipv6: bool, port: u16) -> SocketAddr {
    let ip = if ipv6 { format!("fd77:{n}::{host}") } else { format!("10.77.{n}.{host}") };
    SocketAddr::new(ip.parse().expect("an address"), port)
}

/// A running engine and what it reported.
pub struct Server<E = KernelEngine> {
    pub engine: E,
    events: UnboundedReceiver<Event>,
    /// Events that nobody has asked for yet.
    seen: VecDeque<Event>,
    /// What every viewer's session must say that it is carried by, before it joins.
    pub carrier: Option<&'static str>,
}

impl<E: Engine> Server<E> {
    /// An engine that runs already, and where its events arrive.
    pub fn new(engine: E, events: UnboundedReceiver<Event>) -> Self {
        Self { engine, events, seen: VecDeque::new(), carrier: None }
    }

    /// Waits until a session is carried as all must be.
    ///
    /// # Errors
    /// When it is not in time.
    pub fn carried(&self, session: SessionId) -> Result<()> {
        let Some(carrier) = self.carrier else { return Ok(()) };
        let give_up = Instant::now() + PATIENCE;
        loop {
            let now = self.engine.describe_session(session);
            if now == carrier {
                return Ok(());
            }
            ensure!(Instant::now() < give_up, "carried by {now}, not by {carrier}");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Waits for an event and takes it out of the queue; others stay.
    ///
    /// # Errors
    /// When it does not come in time.
    pub fn event<T>(&mut self, what: &str, pick: impl Fn(&Event) -> Option<T>) -> Result<T> {
        let give_up = Instant::now() + PATIENCE;
        loop {
            while let Ok(event) = self.events.try_recv() {
                self.seen.push_back(event);
            }
            if let Some(place) = self.seen.iter().position(|event| pick(event).is_some()) {
                return self.seen.remove(place).as_ref().and_then(&pick).context("event");
            }
            ensure!(Instant::now() < give_up, "no event: {what}; seen: {:?}", self.seen);
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Waits until a viewer's track is attached.
    ///
    /// # Errors
    /// When it is not in time.
    pub fn started(&mut self, track: SubscriberTrackId) -> Result<()> {
        let wanted = Event::SubscriberTrackStarted { track };
        self.event(&format!("{track:?} started"), |event| (*event == wanted).then_some(()))
    }

    /// Waits until a viewer's track has stopped; its next outgoing index.
    ///
    /// # Errors
    /// When it has not in time.
    pub fn stopped(&mut self, track: SubscriberTrackId) -> Result<u64> {
        self.event(&format!("{track:?} stopped"), |event| match event {
            Event::SubscriberTrackStopped { track: stopped, next_out, .. } if *stopped == track => Some(next_out.0),
            _ => None,
        })
    }

    /// All events that nobody has asked for.
    pub fn other_events(&mut self) -> Vec<Event> {
        while let Ok(event) = self.events.try_recv() {
            self.seen.push_back(event);
        }
        self.seen.drain(..).collect()
    }

    /// Waits until a global counter has this value: what happens to a packet may take its time.
    ///
    /// # Errors
    /// It does not get there, or beyond.
    pub fn counts(&self, name: &str, value: u64) -> Result<()> {
        let give_up = Instant::now() + PATIENCE;
        while self.counter(name) < value && Instant::now() < give_up {
            thread::sleep(Duration::from_millis(1));
        }
        let now = self.counter(name);
        ensure!(now == value, "{name} is {now}, not {value}: {:?}", self.engine.counters());
        Ok(())
    }

    /// A global counter.
    pub fn counter(&self, name: &str) -> u64 {
        self.engine.counters().iter().find(|(counter, _)| *counter == name).map_or(0, |(_, value)| *value)
    }
}

/// The profile of a key.
pub fn media_key(key: &Key) -> MediaKey {
    let profile = if key.key.len() == 16 { Profile::AeadAes128Gcm } else { Profile::AeadAes256Gcm };
    let mut salt = [0; 14];
    salt[..12].copy_from_slice(&key.salt);
    MediaKey { profile, key: key.key.clone(), salt, auth_key: Vec::new() }
}

/// Sends sealed RTP.
pub struct Publisher {
    pub socket: UdpSocket,
    pub session: SessionId,
    pub track: PublisherTrackId,
    pub key: Key,
    pub ssrc: u32,
    /// Index of the last packet.
    pub index: u64,
    pub payload_len: usize,
}

/// What publishers send.
pub const PUBLISHER_PAYLOAD_TYPE: u8 = 96;

impl Publisher {
    /// Joins from host `peer`, whose address is `own`.
    ///
    /// # Errors
    /// As the engine says.
    pub fn join<E: Engine>(
        server: &Server<E>,
        peer: &NetNs,
        local: SocketAddr,
        own: SocketAddr,
        key: Key,
    ) -> Result<Self> {
        let socket = peer.run(|| UdpSocket::bind(own))?;
        socket.connect(local)?;
        let session = server.engine.add_session(NewSession {
            id: format!("publisher-{}", own.port()),
            stream: "stream".into(),
            role: Role::Publisher,
            key: media_key(&key),
            transport: Transport::udp(local, own),
            of_source: false,
        })?;
        let (ssrc, first) = (0x1000_0000 | u32::from(own.port()), 65_500);
        let track = server.engine.add_publisher_track(
            session,
            NewPublisherTrack {
                ssrc,
                kind: Kind::Video,
                payload_type: PUBLISHER_PAYLOAD_TYPE,
                clock_rate: 90_000,
                first: ExtendedSeq(first),
                sequence_extension: None,
            },
        )?;
        Ok(Self { socket, session, track, key, ssrc, index: first, payload_len: 1100 })
    }

    /// Sends the next packet; its index.
    ///
    /// # Errors
    /// As the socket says.
    pub fn send(&mut self) -> Result<u64> {
        self.index += 1;
        self.send_index(self.index)?;
        Ok(self.index)
    }

    /// Sends the packet with this index.
    ///
    /// # Errors
    /// As the socket says.
    pub fn send_index(&self, index: u64) -> Result<()> {
        let mut header = vec![0x80, PUBLISHER_PAYLOAD_TYPE | 0x80];
        header.extend((index as u16).to_be_bytes());
        header.extend(timestamp(index).to_be_bytes());
        header.extend(self.ssrc.to_be_bytes());
        let packet = self.key.seal(&header, &payload(self.ssrc, index, self.payload_len), index);
        self.socket.send(&packet).context("send")?;
        Ok(())
    }

    /// Sends a number of packets, slowly enough for a veth ring.
    ///
    /// # Errors
    /// As the socket says.
    pub fn send_some(&mut self, count: usize) -> Result<()> {
        for _ in 0..count {
            self.send()?;
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }
}

/// RTP timestamp of a publisher's packet.
pub const fn timestamp(index: u64) -> u32 {
    (index as u32).wrapping_mul(3000)
}

/// Payload of a publisher's packet: its index, then bytes that follow from it.
fn payload(ssrc: u32, index: u64, len: usize) -> Vec<u8> {
    let mut payload = index.to_be_bytes().to_vec();
    payload.extend(Random::new(u64::from(ssrc) << 32 ^ index).bytes(len.saturating_sub(8)));
    payload.truncate(len);
    payload
}

/// A copy that arrived, opened and compared with what was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Copy {
    /// Publisher's index.
    pub incoming: u64,
    /// Index under the viewer's key.
    pub outgoing: u64,
}

/// Receives copies.
pub struct Viewer {
    pub socket: UdpSocket,
    pub session: SessionId,
    pub track: SubscriberTrackId,
    pub key: Key,
    pub ssrc: u32,
    pub payload_type: u8,
    pub timestamp_offset: u32,
    /// Above every outgoing index before.
    pub next_out: u64,
    highest: u64,
    /// SSRC of the publisher.
    source: u32,
}

impl Viewer {
    /// A session for `socket`, without a track yet.
    ///
    /// # Errors
    /// As the engine says.
    pub fn session<E: Engine>(server: &Server<E>, local: SocketAddr, own: SocketAddr, key: &Key) -> Result<SessionId> {
        Ok(server.engine.add_session(NewSession {
            id: format!("viewer-{}", own.port()),
            stream: "stream".into(),
            role: Role::Subscriber,
            key: media_key(key),
            transport: Transport::udp(local, own),
            of_source: false,
        })?)
    }

    /// Joins a publisher from host `peer`.
    ///
    /// # Errors
    /// As the engine says.
    pub fn join<E: Engine>(
        server: &Server<E>,
        publisher: &Publisher,
        peer: &NetNs,
        local: SocketAddr,
        own: SocketAddr,
        key: Key,
    ) -> Result<Self> {
        let socket = bind(peer, own)?;
        let session = Self::session(server, local, own, &key)?;
        let port = own.port();
        let mut viewer = Self {
            socket,
            session,
            track: SubscriberTrackId(0),
            key,
            ssrc: 0x2000_0000 | u32::from(port),
            payload_type: 97 + (port % 20) as u8,
            timestamp_offset: u32::from(port) << 16,
            // Close to a wrap, so that its ROC is exercised.
            next_out: 65_530 + u64::from(port),
            highest: 0,
            source: publisher.ssrc,
        };
        server.carried(session)?;
        viewer.attach(server, publisher)?;
        Ok(viewer)
    }

    /// Attaches the track to a publisher, going on with `next_out`.
    ///
    /// # Errors
    /// As the engine says.
    pub fn attach<E: Engine>(&mut self, server: &Server<E>, publisher: &Publisher) -> Result<()> {
        self.source = publisher.ssrc;
        self.attach_to(server, publisher.track)
    }

    /// Attaches the track to the same publisher's track again.
    ///
    /// # Errors
    /// As the engine says.
    pub fn attach_to<E: Engine>(&mut self, server: &Server<E>, track: PublisherTrackId) -> Result<()> {
        self.highest = self.next_out;
        self.track = server.engine.add_subscriber_track(
            self.session,
            track,
            NewSubscriberTrack {
                ssrc: self.ssrc,
                kind: Kind::Video,
                payload_type: self.payload_type,
                next_out: ExtendedSeq(self.next_out),
                index_offset: None,
                timestamp_offset: self.timestamp_offset,
                dscp: Dscp::default(),
            },
        )?;
        Ok(())
    }

    /// Waits for so many copies, and for any that come right behind them. Fewer, when the time is over: how soon they
    /// come is no test's matter.
    ///
    /// # Errors
    /// As [`receive`](Self::receive).
    pub fn receive_count(&mut self, count: usize) -> Result<Vec<Copy>> {
        let give_up = Instant::now() + PATIENCE;
        let mut copies = Vec::new();
        while copies.len() < count && Instant::now() < give_up {
            copies.extend(self.receive(QUIET)?);
        }
        // Those that came in the last round came within its silence.
        if count == 0 { self.receive(QUIET) } else { Ok(copies) }
    }

    /// Reads all copies that come until none has come for `quiet`.
    ///
    /// # Errors
    /// At the first copy that is not exactly what the publisher sent, re-encrypted for this viewer.
    pub fn receive(&mut self, quiet: Duration) -> Result<Vec<Copy>> {
        let mut copies = Vec::new();
        let mut buffer = [0; 2048];
        self.socket.set_read_timeout(Some(quiet))?;
        loop {
            match self.socket.recv(&mut buffer) {
                Ok(len) => copies.push(self.check(&buffer[..len])?),
                Err(error) if matches!(error.kind(), std::io::ErrorKind::WouldBlock) => return Ok(copies),
                // A process that is stopped and goes on (a debugger, a frozen machine) gets this one.
                Err(error) if matches!(error.kind(), std::io::ErrorKind::Interrupted) => {}
                Err(error) => bail!("receiving: {error}"),
            }
        }
    }

    /// Reads all packets that come until none has come for `quiet`, and leaves them as they are.
    ///
    /// # Errors
    /// As the socket says.
    pub fn packets(&self, quiet: Duration) -> Result<Vec<Vec<u8>>> {
        let mut packets = Vec::new();
        let mut buffer = [0; 2048];
        self.socket.set_read_timeout(Some(quiet))?;
        loop {
            match self.socket.recv(&mut buffer) {
                Ok(len) => packets.push(buffer[..len].to_vec()),
                Err(error) if matches!(error.kind(), std::io::ErrorKind::WouldBlock) => return Ok(packets),
                Err(error) if matches!(error.kind(), std::io::ErrorKind::Interrupted) => {}
                Err(error) => bail!("receiving: {error}"),
            }
        }
    }

    /// Waits for the first copy, then reads what has come with it. (Waiting until none comes would not
    /// end while the publisher sends.)
    ///
    /// # Errors
    /// As [`receive`](Self::receive), or when none comes in time.
    pub fn receive_first(&mut self) -> Result<Vec<Copy>> {
        self.socket.set_read_timeout(Some(PATIENCE))?;
        self.socket.peek(&mut [0; 16]).context("no copy")?;
        self.socket.set_nonblocking(true)?;
        let copies = self.receive(Duration::from_millis(1));
        self.socket.set_nonblocking(false)?;
        copies
    }

    fn check(&mut self, packet: &[u8]) -> Result<Copy> {
        ensure!(packet.len() > 12 + TAG, "{} bytes", packet.len());
        let word = |at: usize| u32::from_be_bytes([packet[at], packet[at + 1], packet[at + 2], packet[at + 3]]);
        ensure!(packet[0] == 0x80 && packet[1] == self.payload_type | 0x80, "header {:02x?}", &packet[..2]);
        ensure!(word(8) == self.ssrc, "SSRC {:#x} of another viewer", word(8));
        let outgoing = ExtendedSeq(self.highest).estimate(word(0) as u16).context("index")?.0;
        let plain = self.key.open(packet, 12, outgoing).with_context(|| format!("wrong tag at {outgoing}"))?;
        ensure!(plain.len() >= 8, "payload of {} bytes", plain.len());
        let incoming = u64::from_be_bytes(plain[..8].try_into()?);
        ensure!(plain == payload(self.source, incoming, plain.len()), "payload of {incoming} is damaged");
        ensure!(
            word(4) == timestamp(incoming).wrapping_add(self.timestamp_offset),
            "timestamp {} of {incoming}",
            word(4)
        );
        self.highest = self.highest.max(outgoing);
        Ok(Copy { incoming, outgoing })
    }
}

/// A UDP socket in a host, with room for bursts.
///
/// # Errors
/// As the socket says.
pub fn bind(host: &NetNs, own: SocketAddr) -> Result<UdpSocket> {
    let socket = host.run(|| UdpSocket::bind(own)).with_context(|| own.to_string())?;
    let bytes: libc::c_int = 8 << 20;
    // SAFETY: the descriptor is open, and the option takes a C int, which `bytes` is.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_RCVBUFFORCE,
            (&raw const bytes).cast(),
            size_of_val(&bytes) as libc::socklen_t,
        )
    };
    ensure!(result == 0, "SO_RCVBUFFORCE: {}", std::io::Error::last_os_error());
    Ok(socket)
}
