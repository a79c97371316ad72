//! The xdp transmitter at a device whose ring is full: a TAP, whose ring is emptied only when the test
//! reads it. What the device refuses is sent again; what it goes on refusing is counted.

use std::{
    ffi::c_int,
    fs::{File, OpenOptions},
    io::{ErrorKind, Read as _},
    os::fd::AsRawFd as _,
    os::unix::fs::OpenOptionsExt as _,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, ensure};
use forwarder_common::maps::Path;
use penstock_engine::{
    Dscp, Transport,
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
    path.max_payload = PACKET as u16;
    path.header[12..15].copy_from_slice(&[8, 0, 0x45]);
    let nobody = "192.0.2.1:9".parse()?;
    let transport = Transport::udp(nobody, nobody);
    let dscp = Dscp::default();
    Ok((sender, transmitter, Destination { socket: 0, transport, path: Some(path), dscp }))
}

/// Sends packets that carry their number, beginning with this one.
fn send(transmitter: &mut XdpTransmitter, to: &Destination, first: u32) -> Result<Sent> {
    for number in first..first + FRAMES {
        let room = transmitter.reserve(to, PACKET).context("no room")?;
        room.fill(number as u8);
        room[..4].copy_from_slice(&number.to_be_bytes());
    }
    transmitter.flush();
    Ok(transmitter.sent())
}

/// A round in which the ring was full and more got through than it holds shows it. There may be rounds in which the
/// reader had no processor for as long as the transmitter has patience: then the rest must have been counted.
#[test]
fn what_a_full_ring_refuses_is_sent_again() -> Result<()> {
    let namespace = NetNs::new("ring")?;
    namespace.run(|| {
        let mut tap = Tap::new(&namespace)?;
        let (_sender, mut transmitter, to) = transmitter(tap.ifindex)?;
        let over = Arc::new(AtomicBool::new(false));
        let reader = {
            let over = Arc::clone(&over);
            thread::spawn(move || -> Result<Vec<u32>> {
                let mut numbers = Vec::new();
                loop {
                    // In this order: what came before the end is read after it.
                    let last = over.load(Ordering::Acquire);
                    match tap.next()? {
                        Some(number) => numbers.push(number),
                        None if last => return Ok(numbers),
                        // The ring fills meanwhile.
                        None => thread::sleep(Duration::from_micros(500)),
                    }
                }
            })
        };
        let (mut rounds, end) = (0, Instant::now() + Duration::from_secs(20));
        let (mut before, mut shown) = (Sent::default(), false);
        while !shown && Instant::now() < end {
            let sent = send(&mut transmitter, &to, rounds * FRAMES)?;
            shown = sent.resent > before.resent && sent.packets - before.packets > RING;
            (before, rounds) = (sent, rounds + 1);
        }
        over.store(true, Ordering::Release);
        let mut numbers = reader.join().expect("the reader")?;
        // Each once. A batch's order may change: while its first frames are refused, later ones find room.
        numbers.sort_unstable();
        let all = numbers.len();
        numbers.dedup();
        let sent = transmitter.sent();
        ensure!(
            numbers.len() == all && all as u64 == sent.packets,
            "{all} frames arrived in {rounds} rounds; {sent:?}"
        );
        ensure!(sent.packets + sent.dropped == u64::from(rounds * FRAMES), "{sent:?}");
        ensure!(shown, "in {rounds} rounds nothing that was refused got through: {sent:?}");
        Ok(())
    })
}

#[test]
fn what_a_ring_goes_on_refusing_is_counted() -> Result<()> {
    let namespace = NetNs::new("ring")?;
    namespace.run(|| {
        let mut tap = Tap::new(&namespace)?;
        let (_sender, mut transmitter, to) = transmitter(tap.ifindex)?;
        let sent = send(&mut transmitter, &to, 0)?;
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
