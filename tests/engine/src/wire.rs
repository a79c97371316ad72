//! The datapath on a veth: real frames in, every copy read back at the far end.

use std::{
    io,
    mem::{size_of, zeroed},
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    sync::OnceLock,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use aya::programs::XdpMode;
use tests_kit::{
    frame::DOT1Q,
    netns::{End, NetNs, veth},
};

use penstock_engine::bpf::probe;

use crate::bpf::{Datapath, Ways};

/// Raw access to one end of a veth pair: sends frames, and sees those that come in.
pub struct Tap {
    socket: OwnedFd,
}

impl Tap {
    /// Opens it on an interface of the calling thread's network namespace.
    ///
    /// # Errors
    /// Without root, and what the kernel says.
    pub fn open(ifindex: u32) -> Result<Self> {
        Self::bound(ifindex, libc::ETH_P_ALL as u16)
    }

    /// Opens it to send only: frames that come in cost nothing.
    ///
    /// # Errors
    /// Without root, and what the kernel says.
    pub fn sender(ifindex: u32) -> Result<Self> {
        Self::bound(ifindex, 0)
    }

    fn bound(ifindex: u32, protocol: u16) -> Result<Self> {
        // SAFETY: no memory.
        let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
        ensure!(fd >= 0, "AF_PACKET socket: {}", io::Error::last_os_error());
        // SAFETY: a new descriptor that nobody else owns.
        let tap = Self { socket: unsafe { OwnedFd::from_raw_fd(fd) } };
        tap.set(libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, 512 << 20)?;
        tap.set(libc::SOL_PACKET, libc::PACKET_AUXDATA, 1)?;
        tap.set(libc::SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)?;
        // SAFETY: all zeros is a valid address.
        let mut address: libc::sockaddr_ll = unsafe { zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = protocol.to_be();
        address.sll_ifindex = ifindex as i32;
        let len = size_of::<libc::sockaddr_ll>() as u32;
        // SAFETY: a valid address of that length.
        let bound = unsafe { libc::bind(fd, (&raw const address).cast(), len) };
        ensure!(bound == 0, "bind to interface {ifindex}: {}", io::Error::last_os_error());
        Ok(tap)
    }

    fn set(&self, level: i32, option: i32, value: i32) -> Result<()> {
        let len = size_of::<i32>() as u32;
        // SAFETY: the option takes an int.
        let done = unsafe { libc::setsockopt(self.socket.as_raw_fd(), level, option, (&raw const value).cast(), len) };
        ensure!(done == 0, "socket option {level}/{option}: {}", io::Error::last_os_error());
        Ok(())
    }

    /// Sends a frame.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn send(&self, frame: &[u8]) -> Result<()> {
        // SAFETY: the buffer is valid for its length.
        let sent = unsafe { libc::send(self.socket.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0) };
        ensure!(sent == frame.len() as isize, "send of {} bytes: {}", frame.len(), io::Error::last_os_error());
        Ok(())
    }

    /// The next UDP frame that comes in; `None` if none does in time.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn receive(&self, timeout: Duration) -> Result<Option<Vec<u8>>> {
        let end = Instant::now() + timeout;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let mut poll = libc::pollfd { fd: self.socket.as_raw_fd(), events: libc::POLLIN, revents: 0 };
            // SAFETY: one valid entry.
            let ready = unsafe { libc::poll(&raw mut poll, 1, left.as_millis() as i32) };
            ensure!(ready >= 0, "poll: {}", io::Error::last_os_error());
            if ready == 0 {
                return Ok(None);
            }
            let frame = self.read()?;
            if is_udp(&frame) || is_kick(&frame) {
                return Ok(Some(frame));
            }
        }
    }

    /// `count` frames, or what comes of them in time.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn receive_all(&self, count: usize, timeout: Duration) -> Result<Vec<Vec<u8>>> {
        let end = Instant::now() + timeout;
        let mut frames = Vec::with_capacity(count);
        while frames.len() < count {
            match self.receive(end.saturating_duration_since(Instant::now()))? {
                Some(frame) => frames.push(frame),
                None => break,
            }
        }
        Ok(frames)
    }

    /// Frames that this socket itself lost since the last call.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn lost(&self) -> Result<u32> {
        let mut statistics = [0u32; 2];
        let mut len = size_of_val(&statistics) as u32;
        // SAFETY: the option gives two 32-bit numbers.
        let done = unsafe {
            libc::getsockopt(
                self.socket.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_STATISTICS,
                statistics.as_mut_ptr().cast(),
                &raw mut len,
            )
        };
        ensure!(done == 0, "PACKET_STATISTICS: {}", io::Error::last_os_error());
        Ok(statistics[1])
    }

    fn read(&self) -> Result<Vec<u8>> {
        let mut bytes = vec![0u8; 4096];
        let mut control = [0u64; 16];
        let mut piece = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
        // SAFETY: all zeros is a valid header.
        let mut message: libc::msghdr = unsafe { zeroed() };
        message.msg_iov = &raw mut piece;
        message.msg_iovlen = 1;
        message.msg_control = control.as_mut_ptr().cast();
        message.msg_controllen = size_of_val(&control);
        // SAFETY: all buffers are valid for their lengths and outlive the call.
        let len = unsafe { libc::recvmsg(self.socket.as_raw_fd(), &raw mut message, libc::MSG_DONTWAIT) };
        ensure!(len >= 0, "recvmsg: {}", io::Error::last_os_error());
        bytes.truncate(len as usize);
        if let Some(tag) = vlan_tag(&message) {
            // The kernel takes the tag out of the bytes before it shows them.
            bytes.splice(12..12, [DOT1Q.to_be_bytes(), tag.to_be_bytes()].concat());
        }
        Ok(bytes)
    }
}

/// From `linux/if_packet.h`; the libc crate lacks it.
const PACKET_IGNORE_OUTGOING: i32 = 23;

fn vlan_tag(message: &libc::msghdr) -> Option<u16> {
    // SAFETY: the kernel has filled in the control buffer of this message.
    let mut header = unsafe { libc::CMSG_FIRSTHDR(message) };
    while !header.is_null() {
        // SAFETY: not null, so it lies in the control buffer.
        let (level, kind) = unsafe { ((*header).cmsg_level, (*header).cmsg_type) };
        if level == libc::SOL_PACKET && kind == libc::PACKET_AUXDATA {
            // SAFETY: data of this kind is one `tpacket_auxdata`, perhaps not aligned.
            let aux: libc::tpacket_auxdata =
                unsafe { libc::CMSG_DATA(header).cast::<libc::tpacket_auxdata>().read_unaligned() };
            return (aux.tp_status & libc::TP_STATUS_VLAN_VALID != 0).then_some(aux.tp_vlan_tci);
        }
        // SAFETY: as above.
        header = unsafe { libc::CMSG_NXTHDR(message, header) };
    }
    None
}

/// What the egress program sends in the place of a last copy that it drops.
fn is_kick(frame: &[u8]) -> bool {
    frame.get(12..14) == Some(&[0x88, 0xb6])
}

fn is_udp(frame: &[u8]) -> bool {
    let tag = if frame.get(12..14) == Some(&DOT1Q.to_be_bytes()) { 4 } else { 0 };
    match frame.get(12 + tag..14 + tag) {
        Some([0x08, 0x00]) => frame.get(23 + tag) == Some(&17),
        Some([0x86, 0xdd]) => frame.get(20 + tag) == Some(&17),
        _ => false,
    }
}

/// A datapath on one or two interfaces, and what is at their far ends.
pub struct Wire {
    pub datapath: Datapath,
    /// Interfaces with the ingress program.
    pub nics: Vec<u32>,
    /// The interfaces at their far ends, in the same order.
    pub far: Vec<u32>,
    /// Access to those.
    pub taps: Vec<Tap>,
}

/// Runs `test` with a datapath on `nics` veth interfaces, in a network namespace of its own.
///
/// # Errors
/// Without root, and whatever fails in between.
pub fn on_wire(mode: XdpMode, nics: usize, test: impl FnOnce(&mut Wire) -> Result<()> + Send) -> Result<()> {
    on_wire_with(Ways::default(), mode, nics, test)
}

/// What a start asks before it takes generic mode: on some kernels, 6.18.15 among them, copies share their data or are
/// lost. Asked once.
fn generic_copies() -> Result<(), &'static str> {
    static WORKS: OnceLock<Result<(), String>> = OnceLock::new();
    WORKS.get_or_init(probe::generic_copies).as_ref().copied().map_err(String::as_str)
}

/// The same, where packets go other ways than usual. Passes in generic mode where a start would refuse it.
///
/// # Errors
/// As [`on_wire`].
pub fn on_wire_with(
    ways: Ways,
    mode: XdpMode,
    nics: usize,
    test: impl FnOnce(&mut Wire) -> Result<()> + Send,
) -> Result<()> {
    if mode == XdpMode::Skb
        && let Err(why) = generic_copies()
    {
        println!("this kernel's generic mode is refused, as it is at a start: {why}");
        return Ok(());
    }
    let namespace = NetNs::new("datapath")?;
    // The far ends would announce themselves by MLD, and the datapath would count that.
    let quiet = || std::fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1");
    namespace.run(quiet).context("switching IPv6 of the kernel's own off")?;
    let mut ends = Vec::new();
    for i in 0..nics {
        let (near, far) = (format!("nic{i}"), format!("far{i}"));
        let end = |interface| End { namespace: &namespace, interface, addresses: &[] };
        veth(end(&near), end(&far))?;
        // The largest payload with every header and tag that a fixture adds is beyond 1,500 bytes.
        for interface in [&near, &far] {
            namespace.ip(["link", "set", interface, "mtu", "2000"])?;
        }
        ends.push((namespace.ifindex(&near)?, namespace.ifindex(&far)?));
    }
    namespace.run(|| {
        let mut datapath = Datapath::load_with(ways)?;
        let taps = ends.iter().map(|(_, far)| Tap::open(*far)).collect::<Result<_>>()?;
        for (near, _) in &ends {
            datapath.attach(*near, mode).with_context(|| format!("{mode:?}"))?;
        }
        let (nics, far) = ends.into_iter().unzip();
        test(&mut Wire { datapath, nics, far, taps })
    })
}
