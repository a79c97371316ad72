//! A bad line between two hosts: packets are lost, late, out of order, there twice, or wait in a queue; or a NAT gives
//! one of them other ports.
//!
//! A switch in this process joins two interfaces of a namespace of its own, frame by frame. Only UDP suffers: HTTP is
//! not what these tests are about. What becomes of a packet is [`Shaper`]'s decision, which knows no clock and no
//! socket; the same seed decides the same.

use std::{
    cmp::Reverse,
    collections::{BTreeSet, BinaryHeap},
    io,
    mem::{size_of, zeroed},
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};

use crate::netns::{End, NetNs, veth};
use crate::srtp::Random;

/// How bad a line is, in one direction. The default is a good one.
#[derive(Clone, Copy, Debug, Default)]
pub struct Line {
    /// Of a thousand packets, how many are lost.
    pub loss: u32,
    /// Lost packets follow each other, so many on average; 0 and 1: each for itself.
    pub burst: u32,
    /// On the way.
    pub delay: Duration,
    /// Longer by up to this, without overtaking.
    pub jitter: Duration,
    /// Of a thousand packets, how many are late by `late`, so that others overtake them.
    pub reordered: u32,
    pub late: Duration,
    /// Of a thousand packets, how many come twice.
    pub twice: u32,
    /// Bits a second, 0: any number; and how long a packet may wait for its turn, beyond which it is lost.
    pub rate: u64,
    pub queue: Duration,
}

/// What a line has done to UDP packets, in one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    pub packets: u64,
    pub lost: u64,
    /// Of these, because the queue was full.
    pub queue_full: u64,
    pub reordered: u64,
    pub twice: u64,
}

/// Decides what becomes of packets.
pub struct Shaper {
    line: Line,
    dice: Random,
    /// The last packet was lost, and the next one is likely to be.
    in_burst: bool,
    /// When the last packet that nobody may overtake arrives, and when the last one has left the queue.
    last: Option<Instant>,
    free: Option<Instant>,
    seen: Seen,
}

impl Shaper {
    /// A good line.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let (line, dice) = (Line::default(), Random::new(seed));
        Self { line, dice, in_burst: false, last: None, free: None, seen: Seen::default() }
    }

    fn chance(&mut self, permille: u32) -> bool {
        self.dice.below(1000) < permille as usize
    }

    fn up_to(&mut self, most: Duration) -> Duration {
        most * self.dice.below(1000) as u32 / 1000
    }

    /// Gilbert's model: losses are as frequent as the line says, and stick together.
    fn loses(&mut self) -> bool {
        let Line { loss, burst, .. } = self.line;
        self.in_burst = match self.in_burst && burst > 1 {
            true => self.chance(1000 - 1000 / burst),
            false if burst > 1 => self.chance((loss * 1000 / (1000 - loss.min(999)) / burst).max(u32::from(loss > 0))),
            false => self.chance(loss),
        };
        self.in_burst
    }

    /// When a packet of `len` bytes arrives that comes `now`: never, once, or twice.
    pub fn pass(&mut self, now: Instant, len: usize) -> Vec<Instant> {
        self.seen.packets += 1;
        if self.loses() {
            self.seen.lost += 1;
            return vec![];
        }
        let mut leaves = now;
        let takes = (len as u64 * 8_000_000_000).checked_div(self.line.rate).map(Duration::from_nanos);
        if let Some(takes) = takes {
            let turn = self.free.map_or(now, |free| free.max(now));
            if turn - now > self.line.queue {
                (self.seen.lost, self.seen.queue_full) = (self.seen.lost + 1, self.seen.queue_full + 1);
                return vec![];
            }
            leaves = turn + takes;
            self.free = Some(leaves);
        }
        let mut arrives = leaves + self.line.delay + self.up_to(self.line.jitter);
        if self.chance(self.line.reordered) {
            self.seen.reordered += 1;
            arrives += self.line.late;
        } else {
            arrives = self.last.map_or(arrives, |last| last.max(arrives));
            self.last = Some(arrives);
        }
        let twice = self.chance(self.line.twice);
        self.seen.twice += u64::from(twice);
        vec![arrives; 1 + usize::from(twice)]
    }
}

/// A NAT for one of the hosts, as far as ports go.
#[derive(Clone, Debug, Default)]
struct Nat {
    /// Which host is behind it.
    side: usize,
    /// Bits in which a port outside differs from the one inside; 0: none, no NAT.
    turned: u16,
    /// Ports inside that have sent something since: nobody else gets anything.
    open: BTreeSet<u16>,
}

impl Nat {
    /// Changes the port of a UDP packet from this side. `false`: it leads nowhere.
    fn translate(&mut self, side: usize, frame: &mut [u8]) -> bool {
        let Some(udp) = udp_offset(&frame[VNET..]).filter(|_| self.turned != 0).map(|at| at + VNET) else {
            return true;
        };
        let leaves = side == self.side;
        let at = if leaves { udp } else { udp + 2 };
        let Some([a, b]) = frame.get(at..at + 2).and_then(|port| <[u8; 2]>::try_from(port).ok()) else { return false };
        let before = u16::from_be_bytes([a, b]);
        let after = before ^ self.turned;
        if leaves {
            self.open.insert(before);
        } else if !self.open.contains(&after) {
            return false;
        }
        frame[at..at + 2].copy_from_slice(&after.to_be_bytes());
        // What the kernel is to complete itself says nothing of ports yet (VIRTIO_NET_HDR_F_NEEDS_CSUM).
        if frame[0] & 1 == 0 {
            update_checksum(&mut frame[udp + 6..], before, after);
        }
        true
    }
}

/// RFC 1624: eqn. 3. A checksum of 0 is none.
fn update_checksum(place: &mut [u8], before: u16, after: u16) {
    let Some(bytes) = place.first_chunk_mut::<2>() else { return };
    let sum = u16::from_be_bytes(*bytes);
    if sum == 0 {
        return;
    }
    let mut new = u32::from(!sum) + u32::from(!before) + u32::from(after);
    while new >> 16 != 0 {
        new = (new & 0xffff) + (new >> 16);
    }
    let new = !(new as u16);
    *bytes = if new == 0 { 0xffff_u16 } else { new }.to_be_bytes();
}

/// Two interfaces joined by a switch. The first direction is from the first one to the second.
pub struct BadLine {
    shapers: Arc<Mutex<[Shaper; 2]>>,
    nat: Arc<Mutex<Nat>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    _namespace: NetNs,
}

impl BadLine {
    /// Joins an interface of each of two hosts, which are made here. A good line at first.
    ///
    /// # Errors
    /// Without root, and what the kernel says.
    pub fn between(a: End<'_>, b: End<'_>, seed: u64) -> Result<Self> {
        let namespace = NetNs::new("line")?;
        for (end, interface) in [(a, "side0"), (b, "side1")] {
            veth(end, End { namespace: &namespace, interface, addresses: &[] })?;
        }
        let ports = namespace.run(|| Ok::<_, anyhow::Error>([Port::open("side0")?, Port::open("side1")?]))?;
        let shapers = Arc::new(Mutex::new([Shaper::new(seed), Shaper::new(!seed)]));
        let stop = Arc::new(AtomicBool::new(false));
        let nat = Arc::new(Mutex::new(Nat::default()));
        let switch = Switch {
            ports,
            shapers: Arc::clone(&shapers),
            nat: Arc::clone(&nat),
            stop: Arc::clone(&stop),
            waiting: BinaryHeap::new(),
            number: 0,
        };
        let thread = thread::Builder::new().name("bad-line".into()).spawn(move || switch.run())?;
        Ok(Self { shapers, nat, stop, thread: Some(thread), _namespace: namespace })
    }

    fn lock(&self) -> MutexGuard<'_, [Shaper; 2]> {
        self.shapers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the line so bad, in both directions, from now on.
    pub fn set(&self, [there, back]: [Line; 2]) {
        let mut shapers = self.lock();
        (shapers[0].line, shapers[1].line) = (there, back);
    }

    /// Gives one of the hosts (0: the first, 1: the second) other UDP ports, as the other one sees it. What goes to those
    /// that it had before leads nowhere.
    pub fn change_ports(&self, side: usize) {
        let mut nat = self.nat.lock().unwrap_or_else(PoisonError::into_inner);
        // Within the upper half of all ports, which is where clients have theirs.
        nat.turned = nat.turned % 0x3000 + 0x0111;
        (nat.side, nat.open) = (side, BTreeSet::new());
    }

    /// What it has done, by direction.
    #[must_use]
    pub fn seen(&self) -> [Seen; 2] {
        self.lock().each_ref().map(|shaper| shaper.seen)
    }
}

impl Drop for BadLine {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A frame on its way, by the time of its arrival.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Waiting {
    at: Instant,
    /// In the order in which they came.
    number: u64,
    port: usize,
    frame: Vec<u8>,
}

struct Switch {
    ports: [Port; 2],
    shapers: Arc<Mutex<[Shaper; 2]>>,
    nat: Arc<Mutex<Nat>>,
    stop: Arc<AtomicBool>,
    waiting: BinaryHeap<Reverse<Waiting>>,
    number: u64,
}

impl Switch {
    fn run(mut self) {
        let mut buffer = vec![0; 1 << 17];
        while !self.stop.load(Relaxed) {
            self.wait();
            for port in 0..2 {
                while let Some(len) = self.ports[port].receive(&mut buffer) {
                    self.take(port, &buffer[..len]);
                }
            }
            let now = Instant::now();
            while self.waiting.peek().is_some_and(|Reverse(first)| first.at <= now) {
                let Some(Reverse(first)) = self.waiting.pop() else { break };
                self.ports[first.port].send(&first.frame);
            }
        }
    }

    /// Until there is something to do.
    fn wait(&self) {
        let next = self.waiting.peek().map_or(Duration::from_millis(20), |Reverse(first)| {
            first.at.saturating_duration_since(Instant::now()).min(Duration::from_millis(20))
        });
        let timeout = libc::timespec { tv_sec: 0, tv_nsec: next.as_nanos() as libc::c_long };
        let mut poll =
            self.ports.each_ref().map(|port| libc::pollfd { fd: port.0.as_raw_fd(), events: libc::POLLIN, revents: 0 });
        // SAFETY: two valid entries, a valid time, and no signal mask.
        unsafe { libc::ppoll(poll.as_mut_ptr(), 2, &raw const timeout, std::ptr::null()) };
    }

    fn take(&mut self, port: usize, frame: &[u8]) {
        let now = Instant::now();
        let mut frame = frame.to_vec();
        if !self.nat.lock().unwrap_or_else(PoisonError::into_inner).translate(port, &mut frame) {
            return;
        }
        let times = match udp_offset(&frame[VNET..]).is_some() {
            true => self.shapers.lock().unwrap_or_else(PoisonError::into_inner)[port].pass(now, frame.len() - VNET),
            false => vec![now],
        };
        for at in times {
            self.number += 1;
            self.waiting.push(Reverse(Waiting { at, number: self.number, port: 1 - port, frame: frame.clone() }));
        }
    }
}

/// Where the UDP header of a frame is: Ethernet, IPv4 without options or IPv6 without extensions, UDP.
fn udp_offset(frame: &[u8]) -> Option<usize> {
    let (protocol, offset) = match frame.get(12..14) {
        Some([0x08, 0x00]) => (frame.get(23)?, 14 + 20),
        Some([0x86, 0xdd]) => (frame.get(20)?, 14 + 40),
        _ => return None,
    };
    (*protocol == 17 && frame.len() >= offset + 8).then_some(offset)
}

/// `struct virtio_net_hdr` in front of each frame: what the kernel has joined (TCP) it splits again behind us.
const VNET: usize = 10;
/// linux/if_packet.h.
const PACKET_VNET_HDR: i32 = 15;
const PACKET_IGNORE_OUTGOING: i32 = 23;

/// Raw access to an interface.
struct Port(OwnedFd);

impl Port {
    /// Of the calling thread's network namespace.
    fn open(interface: &str) -> Result<Self> {
        let name = std::ffi::CString::new(interface)?;
        // SAFETY: a string that ends in NUL.
        let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
        ensure!(index != 0, "{interface}: {}", io::Error::last_os_error());
        let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        // SAFETY: no memory.
        let fd = unsafe { libc::socket(libc::AF_PACKET, kind, 0) };
        ensure!(fd >= 0, "AF_PACKET socket: {}", io::Error::last_os_error());
        // SAFETY: a new descriptor that nobody else owns.
        let port = Self(unsafe { OwnedFd::from_raw_fd(fd) });
        port.set(libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, 64 << 20)?;
        port.set(libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, 64 << 20)?;
        port.set(libc::SOL_PACKET, PACKET_VNET_HDR, 1)?;
        port.set(libc::SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)?;
        // SAFETY: all zeros is a valid address.
        let mut address: libc::sockaddr_ll = unsafe { zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
        address.sll_ifindex = index as i32;
        // Frames for the other side have its address, not this interface's.
        let membership = libc::packet_mreq {
            mr_ifindex: index as i32,
            mr_type: libc::PACKET_MR_PROMISC as u16,
            mr_alen: 0,
            mr_address: [0; 8],
        };
        port.option(libc::SOL_PACKET, libc::PACKET_ADD_MEMBERSHIP, &membership)?;
        let len = size_of::<libc::sockaddr_ll>() as u32;
        // SAFETY: a valid address of that length.
        let bound = unsafe { libc::bind(fd, (&raw const address).cast(), len) };
        ensure!(bound == 0, "bind to {interface}: {}", io::Error::last_os_error());
        Ok(port)
    }

    fn set(&self, level: i32, option: i32, value: i32) -> Result<()> {
        self.option(level, option, &value)
    }

    fn option<T>(&self, level: i32, option: i32, value: &T) -> Result<()> {
        let (value, len) = (std::ptr::from_ref(value).cast(), size_of::<T>() as u32);
        // SAFETY: the caller gives the type that the option takes.
        let done = unsafe { libc::setsockopt(self.0.as_raw_fd(), level, option, value, len) };
        (done == 0).then_some(()).with_context(|| format!("option {level}/{option}: {}", io::Error::last_os_error()))
    }

    /// The next frame, if there is one.
    fn receive(&self, buffer: &mut [u8]) -> Option<usize> {
        // SAFETY: the buffer is valid for its length.
        let len = unsafe { libc::recv(self.0.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), 0) };
        usize::try_from(len).ok().filter(|len| *len > VNET)
    }

    /// A frame that the kernel does not take is lost, as on any line.
    fn send(&self, frame: &[u8]) {
        // SAFETY: the frame is valid for its length.
        unsafe { libc::send(self.0.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PACKETS: u64 = 100_000;

    fn play(line: Line, every: Duration) -> (Vec<Vec<Duration>>, Seen) {
        let (mut shaper, start) = (Shaper::new(7), Instant::now());
        shaper.line = line;
        let mut pass = |n: u64| {
            let times = shaper.pass(start + every * n as u32, 1000);
            times.into_iter().map(|at| at - start).collect()
        };
        let all = (0..PACKETS).map(&mut pass).collect();
        (all, shaper.seen)
    }

    /// A frame with a UDP packet of these ports, and its checksum.
    fn frame(source: u16, destination: u16) -> Vec<u8> {
        let mut frame = vec![0; VNET + 14 + 20 + 8];
        frame[VNET + 12] = 0x08;
        frame[VNET + 23] = 17;
        let udp = VNET + 34;
        frame[udp..udp + 2].copy_from_slice(&source.to_be_bytes());
        frame[udp + 2..udp + 4].copy_from_slice(&destination.to_be_bytes());
        let sum = u32::from(source) + u32::from(destination);
        let folded = !((sum & 0xffff) as u16 + (sum >> 16) as u16);
        frame[udp + 6..].copy_from_slice(&folded.to_be_bytes());
        frame
    }

    #[test]
    fn a_nat_turns_ports_there_and_back_and_forgets_those_before() {
        let mut nat = Nat { side: 1, turned: 0x0111, open: BTreeSet::new() };
        let mut out = frame(40_000, 8189);
        assert!(nat.translate(1, &mut out) && out == frame(40_000 ^ 0x0111, 8189), "with the right checksum");
        let mut back = frame(8189, 40_000 ^ 0x0111);
        assert!(nat.translate(0, &mut back) && back == frame(8189, 40_000));
        assert!(!nat.translate(0, &mut frame(8189, 40_000)), "nobody has sent from there");
        nat.turned = 0x0222;
        nat.open.clear();
        assert!(!nat.translate(0, &mut frame(8189, 40_000 ^ 0x0111)), "the port before");
        let mut tcp = frame(1, 2);
        tcp[VNET + 23] = 6;
        assert!(Nat { turned: 5, ..Nat::default() }.translate(0, &mut tcp.clone()));
        assert!(Nat::default().translate(0, &mut frame(1, 2)), "no NAT");
    }

    #[test]
    fn a_good_line_changes_nothing() {
        let (all, seen) = play(Line::default(), Duration::from_millis(1));
        assert!(all.iter().enumerate().all(|(n, times)| *times == [Duration::from_millis(n as u64)]));
        assert_eq!(seen, Seen { packets: PACKETS, ..Seen::default() });
    }

    #[test]
    fn losses_are_as_many_as_asked_for_and_as_long() {
        for (burst, least, most) in [(0, 1.0, 1.2), (4, 3.5, 4.5)] {
            let (all, seen) = play(Line { loss: 50, burst, ..Line::default() }, Duration::from_millis(1));
            let bursts = all.windows(2).filter(|pair| !pair[0].is_empty() && pair[1].is_empty()).count() as f64;
            assert!((4_000..6_000).contains(&seen.lost), "{seen:?}");
            let mean = seen.lost as f64 / bursts;
            assert!((least..most).contains(&mean), "{mean} for {burst}");
        }
    }

    #[test]
    fn late_packets_are_overtaken_and_jitter_overtakes_nobody() {
        let ms = Duration::from_millis;
        let (all, _) = play(Line { delay: ms(20), jitter: ms(30), ..Line::default() }, ms(1));
        assert!(all.is_sorted() && all.iter().all(|times| times.len() == 1));
        let (all, seen) = play(Line { reordered: 50, late: ms(30), twice: 20, ..Line::default() }, ms(1));
        let overtaken = all.windows(2).filter(|pair| pair[0][0] > pair[1][0]).count() as u64;
        assert!(overtaken > seen.reordered / 2 && (4_000..6_000).contains(&seen.reordered), "{seen:?}");
        assert!(all.iter().filter(|times| times.len() == 2).count() as u64 == seen.twice && seen.twice > 1_000);
    }

    #[test]
    fn a_narrow_line_has_its_rate_and_its_queue() {
        // 8 Mbit/s into 4 Mbit/s: half is lost, and nothing waits longer than the queue allows.
        let line = Line { rate: 4_000_000, queue: Duration::from_millis(100), ..Line::default() };
        let (all, seen) = play(line, Duration::from_millis(1));
        assert!((seen.lost * 2).abs_diff(PACKETS) < PACKETS / 100 && seen.lost == seen.queue_full, "{seen:?}");
        let waited = all
            .iter()
            .enumerate()
            .flat_map(|(n, times)| times.iter().map(move |at| *at - Duration::from_millis(n as u64)));
        assert!(waited.max() <= Some(Duration::from_millis(103)));
    }
}
