//! The media sockets, and the threads that read them.
//!
//! Each local address has one socket per thread, all on the same port (SO_REUSEPORT): the kernel keeps
//! a peer with one of them, so its packets stay in order. A thread reads everything that has arrived,
//! gives the RTP that the engine knows to the engine, and everything else to the control task.

pub mod tcp;

use std::{
    io::{self, IoSliceMut, Read as _, Write as _},
    net::{SocketAddr, UdpSocket},
    os::{
        fd::{AsFd as _, AsRawFd as _},
        unix::net::UnixStream,
    },
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use forwarder_common::rtp::{Protocol, protocol};
use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::{setsockopt, sockopt},
};
use quinn_udp::{RecvMeta, UdpSockRef, UdpSocketState};
use socket2::{Domain, Protocol as SocketProtocol, Socket, Type};
use tokio::sync::mpsc::Sender;

use self::tcp::Connections;

/// More threads than this have nothing to do that one network card could bring.
const MAX_THREADS: usize = 4;
/// Buffers that a thread reads into at once. GRO joins up to 64 KiB of a peer's datagrams in each.
const BUFFERS: usize = 8;
const BUFFER: usize = 1 << 16;
/// Reads of one socket before the others get their turn.
const ROUNDS: usize = 4;
/// What comes for the control task within this time is read together: the checks and reports of hundreds of
/// viewers come one by one, and would wake this thread and that task for each.
const GATHER: Duration = Duration::from_millis(5);
/// RTCP packet type of NACK and congestion control (RFC 4585 §6.1). It is in the clear in SRTCP too.
const TRANSPORT_FEEDBACK: u8 = 205;
/// A thread that has had media within this time does not wait: a packet would wait too.
const MEDIA: Duration = Duration::from_secs(1);

/// Local addresses that there is room for.
const MAX_ADDRESSES: usize = 64;

/// Threads that read the media sockets.
pub fn reading_threads() -> usize {
    thread::available_parallelism().map_or(1, usize::from).min(MAX_THREADS)
}

/// A datagram for the control task.
#[derive(Debug)]
pub struct Datagram {
    /// Number of the local address.
    pub socket: usize,
    /// Where it came from, without IPv6 flow label.
    pub peer: SocketAddr,
    /// UDP payload; one of a batch that the system had joined (GRO) stands alone here.
    pub bytes: Vec<u8>,
}

/// What an engine does with RTP, on one thread.
pub trait Worker: Send {
    /// An RTP packet. `true`: it is the engine's, whatever becomes of it. Its bytes may be changed then.
    fn rtp(&mut self, socket: usize, peer: SocketAddr, packet: &mut [u8]) -> bool;

    /// Everything that had arrived has been given: send what came of it.
    fn flush(&mut self);
}

/// All sockets. Local addresses are added while the server runs, and none is taken away: the socket of an address that
/// the host has lost receives nothing, and serves again when the address is back.
#[derive(Debug)]
pub struct MediaSockets {
    /// By number of the local address, those in use first.
    groups: Box<[OnceLock<Group>]>,
    threads: usize,
    buffer: usize,
    /// Whoever adds an address.
    adding: Mutex<()>,
    /// Peers by TCP, all under one number ([`tcp::TCP`]).
    connections: OnceLock<Arc<Connections>>,
}

/// The sockets of a local address, by thread.
#[derive(Debug)]
struct Group {
    bound: SocketAddr,
    sockets: Vec<UdpSocket>,
}

impl MediaSockets {
    /// Binds `threads` sockets to each address. `buffer`: bytes for receiving and sending, as far as
    /// the system grants them. Port 0 lets the system choose.
    ///
    /// # Errors
    /// A socket cannot be bound; the error names its address.
    pub fn bind(addresses: &[SocketAddr], threads: usize, buffer: usize) -> io::Result<Self> {
        if addresses.is_empty() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "no media address is configured"));
        }
        let this = Self {
            groups: (0..MAX_ADDRESSES.max(addresses.len())).map(|_| OnceLock::new()).collect(),
            threads: threads.max(1),
            buffer,
            adding: Mutex::new(()),
            connections: OnceLock::new(),
        };
        addresses.iter().try_for_each(|address| this.add(*address).map(drop))?;
        Ok(this)
    }

    /// Binds the sockets of another address, and returns its number. The reading threads are to be told:
    /// [`Threads::look_again`].
    ///
    /// # Errors
    /// It cannot be bound, or there are too many; the error names the address.
    pub fn add(&self, address: SocketAddr) -> io::Result<usize> {
        let _adding = self.adding.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(number) = self.number(address) {
            return Ok(number);
        }
        let named = |error: io::Error| io::Error::new(error.kind(), format!("media socket {address}: {error}"));
        let full = || named(io::Error::other(format!("there are {} already", self.groups.len())));
        let (number, place) =
            self.groups.iter().enumerate().find(|(_, group)| group.get().is_none()).ok_or_else(full)?;
        let sockets = bind_group(address, self.threads, self.buffer).map_err(named)?;
        let bound = sockets[0].local_addr()?;
        // Nobody else adds.
        let _ = place.set(Group { bound, sockets });
        Ok(number)
    }

    fn groups(&self) -> impl Iterator<Item = &Group> {
        self.groups.iter().map_while(OnceLock::get)
    }

    /// Where the sockets are bound, by number.
    pub fn bound(&self) -> Vec<SocketAddr> {
        self.groups().map(|group| group.bound).collect()
    }

    /// Local addresses.
    pub fn count(&self) -> usize {
        self.groups().count()
    }

    /// The number of a local address.
    pub fn number(&self, local: SocketAddr) -> Option<usize> {
        self.groups().position(|group| group.bound == local)
    }

    /// The local address with a number.
    pub fn local(&self, number: usize) -> Option<SocketAddr> {
        Some(self.groups.get(number)?.get()?.bound)
    }

    /// Sockets of each local address.
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// The socket of a local address that a thread uses.
    pub fn get(&self, number: usize, thread: usize) -> Option<&UdpSocket> {
        let group = self.groups.get(number)?.get()?;
        group.sockets.get(thread % group.sockets.len().max(1))
    }

    /// Media may come by TCP too. Before the engine is told of the sockets.
    pub fn set_tcp(&self, connections: Arc<Connections>) {
        if self.connections.set(connections).is_err() {
            tracing::warn!("the media sockets have their connections already");
        }
    }

    /// Peers by TCP, if any may come so.
    pub fn tcp(&self) -> Option<&Arc<Connections>> {
        self.connections.get()
    }

    /// Sends a datagram, or a packet by TCP. `false`: the system did not take it.
    pub fn send(&self, number: usize, peer: SocketAddr, bytes: &[u8]) -> bool {
        if number == tcp::TCP {
            return self.tcp().is_some_and(|connections| connections.send(peer, bytes));
        }
        self.get(number, 0).is_some_and(|socket| socket.send_to(bytes, peer).is_ok())
    }
}

fn bind_group(address: SocketAddr, threads: usize, buffer: usize) -> io::Result<Vec<UdpSocket>> {
    if address.ip().is_unspecified() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "a wildcard is no address that copies can leave from"));
    }
    // Sharing a port with ourselves must not hide that another server has it.
    let first = bind(address, buffer, false)?;
    if threads == 1 {
        return Ok(vec![first]);
    }
    let address = first.local_addr()?;
    setsockopt(&first, sockopt::ReusePort, &true)?;
    let others = (1..threads).map(|_| bind(address, buffer, true));
    std::iter::once(Ok(first)).chain(others).collect()
}

fn bind(address: SocketAddr, buffer: usize, shared: bool) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(SocketProtocol::UDP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    if shared {
        setsockopt(&socket, sockopt::ReusePort, &true)?;
    }
    // Best effort: without CAP_NET_ADMIN the system caps these at net.core.{r,w}mem_max.
    let _ = socket.set_recv_buffer_size(buffer);
    let _ = socket.set_send_buffer_size(buffer);
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket.into())
}

/// What the threads saw.
#[derive(Debug, Default)]
pub struct IoCounters {
    /// All that came, those for the engine included.
    pub datagrams: AtomicU64,
    /// The control task was too slow to take them.
    pub control_queue_full: AtomicU64,
}

/// The reading threads. Dropping it ends them.
pub struct Threads {
    bells: Vec<UnixStream>,
    threads: Vec<JoinHandle<()>>,
    _tcp: Option<tcp::Thread>,
    /// Since the start, all threads together.
    pub counters: Arc<IoCounters>,
}

impl Threads {
    /// Starts one thread for each socket of an address, and one for peers by TCP; `worker` makes the engine's part of one.
    ///
    /// # Errors
    /// What the system says.
    pub fn start(
        sockets: &Arc<MediaSockets>,
        control: &Sender<Datagram>,
        mut worker: impl FnMut(usize) -> Option<Box<dyn Worker>>,
    ) -> io::Result<Self> {
        let mut this = Self { bells: vec![], threads: vec![], _tcp: None, counters: Arc::default() };
        for number in 0..sockets.threads() {
            let (bell, rung) = UnixStream::pair()?;
            let reader = Reader {
                states: states(sockets, number)?,
                sockets: Arc::clone(sockets),
                number,
                control: control.clone(),
                worker: worker(number),
                counters: Arc::clone(&this.counters),
                buffers: (0..BUFFERS).map(|_| vec![0; BUFFER]).collect(),
                media: None,
            };
            let thread =
                thread::Builder::new().name(format!("penstock-io-{number}")).spawn(move || reader.run(rung))?;
            this.bells.push(bell);
            this.threads.push(thread);
        }
        if let Some(connections) = sockets.tcp() {
            let worker = worker(sockets.threads());
            this._tcp = Some(tcp::Thread::start(connections, control, worker, &this.counters)?);
        }
        Ok(this)
    }

    /// Addresses were added to the sockets: they are read from now on.
    pub fn look_again(&self) {
        for mut bell in &self.bells {
            // A bell that rings already is enough, and one without a thread rings for nobody.
            let _ = bell.write(&[1]);
        }
    }
}

/// Those of all sockets that a thread reads.
fn states(sockets: &MediaSockets, thread: usize) -> io::Result<Vec<Option<UdpSocketState>>> {
    (0..sockets.count()).map(|socket| state_of(sockets, socket, thread).map(Some)).collect()
}

fn state_of(sockets: &MediaSockets, socket: usize, thread: usize) -> io::Result<UdpSocketState> {
    state(sockets.get(socket, thread).ok_or(io::ErrorKind::NotFound)?)
}

/// What a socket can do, and prepares it. quinn-udp wants datagrams that nobody divides, for its own looking for the
/// path's MTU. Media may be divided where the kernel knows (by ICMP, or a route) that it does not fit: late is better
/// than never.
pub(crate) fn state(socket: &UdpSocket) -> io::Result<UdpSocketState> {
    let state = UdpSocketState::new(UdpSockRef::from(socket))?;
    let (level, option, value) = match socket.local_addr()? {
        SocketAddr::V4(_) => (libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_WANT),
        SocketAddr::V6(_) => (libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_WANT),
    };
    let length = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the pointer is to a live number of the length that is given; the call only reads it.
    let set = unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, (&raw const value).cast(), length) };
    if set == 0 { Ok(state) } else { Err(io::Error::last_os_error()) }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.bells.clear();
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a thread of the media sockets had panicked");
            }
        }
    }
}

struct Reader {
    sockets: Arc<MediaSockets>,
    /// `None`: it cannot be read, which was told.
    states: Vec<Option<UdpSocketState>>,
    number: usize,
    control: Sender<Datagram>,
    worker: Option<Box<dyn Worker>>,
    counters: Arc<IoCounters>,
    /// The pool: every datagram is read into one of these, and opened there.
    buffers: Vec<Vec<u8>>,
    /// When media came last.
    media: Option<Instant>,
}

impl Reader {
    fn run(mut self, mut bell: UnixStream) {
        loop {
            let ready = match self.wait(&mut bell) {
                Ok(Some(ready)) => ready,
                Ok(None) => return,
                Err(error) => return tracing::error!("media sockets are not read any more: {error}"),
            };
            self.look_again();
            let mut drained = true;
            for socket in ready {
                drained &= self.read(socket);
            }
            // Behind what was read, so that what comes after a silence is read at once.
            if drained && self.media.is_none_or(|media| media.elapsed() > MEDIA) {
                thread::sleep(GATHER);
            }
        }
    }

    /// Takes up sockets that were added.
    fn look_again(&mut self) {
        while self.states.len() < self.sockets.count() {
            let state = state_of(&self.sockets, self.states.len(), self.number);
            if let Err(error) = &state {
                tracing::error!("the media socket of a new address is not read: {error}");
            }
            self.states.push(state.ok());
        }
    }

    /// Sockets with something to read; `None` at the end.
    fn wait(&self, bell: &mut UnixStream) -> io::Result<Option<Vec<usize>>> {
        let read = self.states.iter().enumerate().filter(|(_, state)| state.is_some()).map(|(number, _)| number);
        let sockets: Vec<_> =
            read.filter_map(|number| Some((number, self.sockets.get(number, self.number)?))).collect();
        let mut files: Vec<_> =
            sockets.iter().map(|(_, socket)| PollFd::new(socket.as_fd(), PollFlags::POLLIN)).collect();
        files.push(PollFd::new(bell.as_fd(), PollFlags::POLLIN));
        match poll(&mut files, PollTimeout::NONE) {
            Ok(_) => {}
            Err(nix::errno::Errno::EINTR) => return Ok(Some(vec![])),
            Err(error) => return Err(error.into()),
        }
        let any = |file: &PollFd<'_>| file.revents().is_some_and(|events| !events.is_empty());
        let rung = files.pop().is_some_and(|file| any(&file));
        let ready: Vec<usize> =
            files.iter().zip(&sockets).filter(|(file, _)| any(file)).map(|(_, (number, _))| *number).collect();
        drop(files);
        if rung && bell.read(&mut [0])? == 0 {
            return Ok(None);
        }
        Ok(Some(ready))
    }

    /// Reads a socket. `false`: there is more.
    fn read(&mut self, number: usize) -> bool {
        for _ in 0..ROUNDS {
            let Some(socket) = self.sockets.get(number, self.number) else { return true };
            let mut meta = [empty_meta(); BUFFERS];
            let mut buffers = self.buffers.iter_mut();
            let mut slices: [IoSliceMut<'_>; BUFFERS] =
                std::array::from_fn(|_| IoSliceMut::new(buffers.next().map_or(&mut [][..], |buffer| &mut buffer[..])));
            let Some(Some(state)) = self.states.get(number) else { return true };
            let count = match state.recv(UdpSockRef::from(socket), &mut slices, &mut meta) {
                Ok(count) => count,
                // An ICMP error of an earlier send: of no use to us, and the queue goes on after it.
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => continue,
                Err(_) => return true,
            };
            let mut media = false;
            for (buffer, meta) in self.buffers.iter_mut().zip(&meta).take(count) {
                let peer = canonical(meta.addr);
                let Some(filled) = buffer.get_mut(..meta.len) else { continue };
                for datagram in filled.chunks_mut(meta.stride.max(1)) {
                    self.counters.datagrams.fetch_add(1, Ordering::Relaxed);
                    let is_rtp =
                        matches!(&*datagram, [first, second, ..] if protocol(*first, *second) == Protocol::Rtp);
                    media |= is_rtp;
                    if let Some(worker) = self.worker.as_mut()
                        && is_rtp
                        && worker.rtp(number, peer, datagram)
                    {
                        continue;
                    }
                    // Lost packets that are asked for wait for as short a time as new ones; and when those of a new
                    // SSRC came is told to their sender.
                    media |= matches!(&*datagram, [128..=191, TRANSPORT_FEEDBACK, ..]);
                    let datagram = Datagram { socket: number, peer, bytes: datagram.to_vec() };
                    if self.control.try_send(datagram).is_err() {
                        self.counters.control_queue_full.fetch_add(1, Ordering::Relaxed);
                    }
                }
            }
            if let Some(worker) = &mut self.worker {
                worker.flush();
            }
            if media {
                self.media = Some(Instant::now());
            }
            if count < BUFFERS {
                return true;
            }
        }
        false
    }
}

fn empty_meta() -> RecvMeta {
    RecvMeta::default()
}

/// Flow labels differ from packet to packet and are no part of an address.
fn canonical(peer: SocketAddr) -> SocketAddr {
    match peer {
        SocketAddr::V6(mut v6) => {
            v6.set_flowinfo(0);
            SocketAddr::V6(v6)
        }
        v4 => v4,
    }
}
