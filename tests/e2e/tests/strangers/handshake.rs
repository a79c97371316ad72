//! Somebody sends from a peer's own address while it shakes hands.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use anyhow::{Result, ensure};
use tests_kit::peer::Kind;
use tests_kit::stage::{Layout, Stage, synthetic};

const SERVER: Ipv4Addr = Ipv4Addr::new(10, 60, 0, 1);
const MEDIA: u16 = 8443;

fn socket(family: i32, kind: i32, protocol: i32) -> Result<OwnedFd> {
    // SAFETY: no pointers; the descriptor is checked and owned at once.
    let fd = unsafe { libc::socket(family, kind | libc::SOCK_CLOEXEC, protocol) };
    ensure!(fd >= 0, "socket: {}", io::Error::last_os_error());
    // SAFETY: it was just opened, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// An IPv4 packet with a UDP datagram to the server's media port; the kernel completes the header.
fn spoofed(from: Ipv4Addr, port: u16, payload: &[u8]) -> Vec<u8> {
    let len = (28 + payload.len()) as u16;
    let mut packet = vec![0x45, 0];
    packet.extend(len.to_be_bytes());
    packet.extend([0, 0, 0, 0, 64, 17, 0, 0]);
    packet.extend(from.octets());
    packet.extend(SERVER.octets());
    packet.extend(port.to_be_bytes());
    packet.extend(MEDIA.to_be_bytes());
    packet.extend((len - 20).to_be_bytes());
    // No checksum, which IPv4 allows.
    packet.extend([0, 0]);
    packet.extend_from_slice(payload);
    packet
}

fn record(kind: u8, sequence: u64, content: &[u8]) -> Vec<u8> {
    let sequence = sequence.to_be_bytes();
    [&[kind, 0xfe, 0xfd, 0, 0][..], &sequence[2..], &(content.len() as u16).to_be_bytes(), content].concat()
}

fn message(kind: u8, number: u16, body: &[u8]) -> Vec<u8> {
    let len = &(body.len() as u32).to_be_bytes()[1..];
    [&[kind][..], len, &number.to_be_bytes(), &[0, 0, 0], len, body].concat()
}

/// Records of nobody's handshake: ClientHellos, alerts, messages of a client and of a server, and what is nothing.
fn records(turn: u64) -> Vec<Vec<u8>> {
    let mut hello = vec![0xfe, 0xfd];
    hello.extend((0..32).map(|place| (turn * 7 + place) as u8));
    hello.extend([0, 0, 0, 4, 0xc0, 0x2b, 0xc0, 0x2f, 1, 0, 0, 13, 0, 10, 0, 4, 0, 2, 0, 29, 0, 23, 0, 0, 0]);
    hello.truncate(hello.len() - 1);
    let key = [&[65, 4][..], &[turn as u8; 64]].concat();
    let far = (1 << 48) - 1 - turn;
    vec![
        record(22, turn, &message(1, 0, &hello)),
        record(22, far, &message(1, 1, &hello)),
        record(21, far, &[2, 40]),
        record(21, turn, &[1, 0]),
        record(22, far, &message(11, 1, &[0, 0, 3, 0, 0, 0])),
        record(22, far, &message(11, 2, &[0, 0, 3, 0, 0, 0])),
        record(22, far, &message(16, 3, &key)),
        record(22, far, &message(15, 4, &[4, 3, 0, 8, 1, 2, 3, 4, 5, 6, 7, 8])),
        record(22, far, &message(14, 4, &[])),
        record(20, far, &[1]),
        record(23, far, &[7; 300]),
        [&[22, 0xfe, 0xfd, 0, 1, 0, 0, 0, 0, 0, 0, 0, 40][..], &[9; 40]].concat(),
        [&[63][..], &[turn as u8; 40]].concat(),
    ]
}

/// Answers each STUN message and each ClientHello that leaves the namespace with records of its own from the same
/// address. How many there were.
fn haunt(over: &AtomicBool, count: &AtomicU64) -> Result<()> {
    let all = i32::from((libc::ETH_P_ALL as u16).to_be());
    let ears = socket(libc::AF_PACKET, libc::SOCK_DGRAM | libc::SOCK_NONBLOCK, all)?;
    let mouth = socket(libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_RAW)?;
    let (mut buffer, mut turn) = ([0; 2048], 0);
    while !over.load(Relaxed) {
        // SAFETY: the buffer is as long as is said.
        let len = unsafe { libc::recv(ears.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), 0) };
        let Ok(len) = usize::try_from(len) else {
            std::thread::sleep(std::time::Duration::from_millis(1));
            continue;
        };
        let packet = &buffer[..len];
        let to_server = len > 42 && packet[0] == 0x45 && packet[9] == 17 && packet[16..20] == SERVER.octets();
        let mine = packet.get(29..33).is_some_and(|magic| magic == [0xfe, 0xfd, 0, 0]) && packet[34..39] != [0; 5];
        if !to_server || packet[22..24] != MEDIA.to_be_bytes() || mine || !matches!(packet[28], 0 | 22) {
            continue;
        }
        let from = Ipv4Addr::new(packet[12], packet[13], packet[14], packet[15]);
        let port = u16::from_be_bytes([packet[20], packet[21]]);
        turn += 1;
        for payload in records(turn) {
            let bytes = spoofed(from, port, &payload);
            let address = socket2::SockAddr::from(std::net::SocketAddr::from((SERVER, 0)));
            // SAFETY: bytes and address are as long as is said.
            let sent = unsafe {
                let (address, size) = (address.as_ptr().cast(), address.len());
                libc::sendto(mouth.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), 0, address, size)
            };
            count.fetch_add(u64::from(sent > 0), Relaxed);
        }
    }
    Ok(())
}

fn everybody_connects(stack: &str) -> Result<()> {
    let stage = Stage::new(Layout::OneNic, "native", &format!("[media]\ndtls = \"{stack}\"\n"))?;
    let (over, count) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let haunted = stage.near.spawn("stranger", {
        let (over, count) = (Arc::clone(&over), Arc::clone(&count));
        move || haunt(&over, &count)
    })?;
    let source = synthetic(50);
    let publisher = stage.publish(&source, stage.publishing())?;
    let viewers = stage.play(8, &source, stage.playing())?;
    let all: Vec<usize> = (0..8).collect();
    stage.flows(&viewers, &all, Kind::Video, 50)?;
    over.store(true, Relaxed);
    haunted.join().map_err(|_| anyhow::anyhow!("the stranger panicked"))??;
    let sent = count.load(Relaxed);
    ensure!(sent > 200, "{sent} records are no attack");
    let state = stage.server.get("/api/v1/state")?;
    let counters = &state["counters"]["control"];
    ensure!(counters["sessions_failed"] == 0 && counters["sessions_timed_out"] == 0, "{counters:#}");
    drop(viewers);
    publisher.stop().map(drop)
}

#[test]
fn a_stranger_at_the_peers_address_ends_no_handshake_of_openssl() -> Result<()> {
    everybody_connects("openssl")
}

#[test]
fn a_stranger_at_the_peers_address_ends_no_handshake_of_str0m() -> Result<()> {
    everybody_connects("str0m")
}
