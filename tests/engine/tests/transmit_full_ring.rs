//! The xdp transmitter at a device whose ring is full: a TAP, whose ring is emptied only when the test
//! reads it. What the device refuses is sent again; what it goes on refusing is counted.

use std::{
    ffi::c_int,
    fs::{File, OpenOptions},
    io::{ErrorKind, Read as _},
    os::fd::AsRawFd as _,
    os::unix::fs::OpenOptionsExt as _,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, ensure};
use forwarder_common::maps::Path;
use penstock::engine::{
    Transport,
    transmit::{
        Destination, Sent, Transmitter as _,
        xdp::{XdpSender, XdpTransmitter},
    },
};
use tests_kit::netns::NetNs;

/// Frames that the device's ring takes.
const RING: u64 = 64;
const FRAMES: u32 = 1000;
const HEADER: usize = 42;
const PACKET: usize = 200;

const TUNSETIFF: u64 = 0x4004_54ca;

/// The end of a TAP device from which the test reads what the device was given.
struct Tap {
    file: File,
    ifindex: u32,
}

impl Tap {
    /// In the namespace of the calling thread.
    fn new(namespace: &NetNs) -> Result<Self> {
        let mut options = OpenOptions::new();
        let options = options.read(true).write(true).custom_flags(libc::O_NONBLOCK);
        let file = options.open("/dev/net/tun").context("/dev/net/tun: does the kernel have tun?")?;
        // SAFETY: all zeros is a valid request.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        for (to, from) in request.ifr_name.iter_mut().zip(b"tap0") {
            *to = from.cast_signed();
        }
        request.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI) as i16;
        // SAFETY: the request is what this call takes.
        let made: c_int = unsafe { libc::ioctl(file.as_raw_fd(), TUNSETIFF as _, &raw const request) };
        ensure!(made == 0, "TUNSETIFF: {}", std::io::Error::last_os_error());
        namespace.ip(["link", "set", "tap0", "txqueuelen", &RING.to_string(), "up"])?;
        // SAFETY: a name with its zero.
        let ifindex = unsafe { libc::if_nametoindex(c"tap0".as_ptr()) };
        ensure!(ifindex != 0, "tap0 has no index");
        Ok(Self { file, ifindex })
    }

    /// The number in the next frame of ours, if there is one.
    fn next(&mut self) -> Result<Option<u32>> {
        let mut frame = [0; 2048];
        loop {
            let len = match self.file.read(&mut frame) {
                Ok(len) => len,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
                Err(error) => return Err(error.into()),
            };
            if len != HEADER + PACKET {
                // The kernel's own: neighbour and router solicitations.
                continue;
            }
            let number = u32::from_be_bytes(*frame[HEADER..].first_chunk().context("short")?);
            ensure!(frame[HEADER + 4..len].iter().all(|byte| *byte == number as u8), "frame {number} has other bytes");
            return Ok(Some(number));
        }
    }
}

/// A transmitter, and where it sends.
fn transmitter(ifindex: u32) -> Result<(XdpSender, XdpTransmitter, Destination)> {
    let sender = XdpSender::start(1).map_err(|reason| anyhow!(reason))?;
    sender.add_device(ifindex).map_err(|reason| anyhow!(reason))?;
    let transmitter = sender.transmitter().context("no transmitter")?;
    // SAFETY: all zeros is a valid path: integers only.
    let mut path: Path = unsafe { std::mem::zeroed() };
    (path.egress_ifindex, path.header_len, path.l3_offset, path.ip_version) = (ifindex, HEADER as u8, 14, 4);
    path.header[12..15].copy_from_slice(&[8, 0, 0x45]);
    let nobody = "192.0.2.1:9".parse()?;
    let transport = Transport { local: nobody, peer: nobody };
    Ok((sender, transmitter, Destination { socket: 0, transport, path: Some(path) }))
}

/// Lets the calling thread run whenever it has something to do. The transmitter has little patience with a full ring,
/// and on a busy machine others would have the processor for longer.
fn at_once() -> Result<()> {
    let priority = libc::sched_param { sched_priority: 1 };
    // SAFETY: 0 is the calling thread.
    let done = unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &raw const priority) };
    ensure!(done == 0, "SCHED_FIFO: {}", std::io::Error::last_os_error());
    Ok(())
}

/// Sends packets that carry their number.
fn send(transmitter: &mut XdpTransmitter, to: &Destination) -> Result<Sent> {
    for number in 0..FRAMES {
        let room = transmitter.reserve(to, PACKET).context("no room")?;
        room.fill(number as u8);
        room[..4].copy_from_slice(&number.to_be_bytes());
    }
    transmitter.flush();
    Ok(transmitter.sent())
}

#[test]
fn what_a_full_ring_refuses_is_sent_again() -> Result<()> {
    let namespace = NetNs::new("ring")?;
    namespace.run(|| {
        let mut tap = Tap::new(&namespace)?;
        let (_sender, mut transmitter, to) = transmitter(tap.ifindex)?;
        let reader = thread::spawn(move || -> Result<Vec<u32>> {
            at_once()?;
            let (mut numbers, end) = (Vec::new(), Instant::now() + Duration::from_secs(10));
            while numbers.len() < FRAMES as usize && Instant::now() < end {
                match tap.next()? {
                    Some(number) => numbers.push(number),
                    // The ring fills meanwhile.
                    None => thread::sleep(Duration::from_micros(500)),
                }
            }
            Ok(numbers)
        });
        let sent = send(&mut transmitter, &to)?;
        let mut numbers = reader.join().expect("the reader")?;
        // Each once. A batch's order may change: while its first frames are refused, later ones find room.
        numbers.sort_unstable();
        ensure!(numbers.iter().copied().eq(0..FRAMES), "{} of {FRAMES} frames; {sent:?}", numbers.len());
        ensure!(sent.packets == u64::from(FRAMES) && sent.dropped == 0, "{sent:?}");
        ensure!(sent.resent > 0, "the ring was never full: {sent:?}");
        Ok(())
    })
}

#[test]
fn what_a_ring_goes_on_refusing_is_counted() -> Result<()> {
    let namespace = NetNs::new("ring")?;
    namespace.run(|| {
        let mut tap = Tap::new(&namespace)?;
        let (_sender, mut transmitter, to) = transmitter(tap.ifindex)?;
        let sent = send(&mut transmitter, &to)?;
        ensure!(sent.packets + sent.dropped == u64::from(FRAMES), "{sent:?}");
        // Frames of the kernel's own may have taken places.
        ensure!((1..=RING).contains(&sent.packets), "{sent:?}");
        let mut arrived = 0;
        while tap.next()?.is_some() {
            arrived += 1;
        }
        ensure!(arrived == sent.packets, "{arrived} frames arrived; {sent:?}");
        // The device is there, so it is still used.
        ensure!(transmitter.reaches(&to));
        Ok(())
    })
}
