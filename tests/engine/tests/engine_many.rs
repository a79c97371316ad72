//! Streams with more viewers than one pass of the kernel engine serves: the first stay in the kernel, the others get
//! theirs from the userspace engine, by XDP. Every copy is opened and compared.

use std::{
    collections::BTreeSet,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use penstock_engine::{Engine as _, kernel, userspace};
use tests_engine::lab::{Lab, PATIENCE, Publisher, Viewer, address, receive_all};
use tests_kit::srtp::Key;

const PACKETS: usize = 20;

fn serve(count: u16, copies_per_pass: usize) -> Result<()> {
    raise_open_files()?;
    let mut lab = Lab::new(1)?;
    let limits = kernel::Limits {
        sessions: 4096,
        subscriber_tracks: 4096,
        viewers_per_stream: copies_per_pass,
        ..kernel::Limits::default()
    };
    let userspace = userspace::Config { sessions: 4096, subscriber_tracks: 4096, ..userspace::Config::default() };
    let config = kernel::Config { limits, ..lab.config() };
    let (mut server, _threads) = lab.start_auto(config, userspace)?;
    let (peer, local) = (&lab.peers[0], lab.server_address(0, false));
    let own = address(0, 2, false, 5000);
    let mut publisher = Publisher::join(&server, peer, local, own, Key::random(16))?;
    let mut viewers = Vec::new();
    for n in 0..count {
        let own = address(0, 2, false, 10_000 + n);
        viewers.push(Viewer::join(&server, &publisher, peer, local, own, Key::random(16))?);
    }
    for viewer in &viewers {
        server.started(viewer.track)?;
    }
    let carried = |by: &str| {
        let carried = |viewer: &&Viewer| server.engine.describe_session(viewer.session).starts_with(by);
        viewers.iter().filter(carried).count()
    };
    ensure!(carried("kernel") == copies_per_pass);
    let give_up = Instant::now() + PATIENCE;
    while carried("userspace xdp") < usize::from(count) - copies_per_pass {
        ensure!(Instant::now() < give_up, "{} viewers by XDP from userspace", carried("userspace xdp"));
        thread::sleep(Duration::from_millis(20));
    }
    for _ in 0..PACKETS {
        publisher.send()?;
        // As long as the slowest viewer's socket needs, on two cores without optimisation.
        thread::sleep(Duration::from_millis(30));
    }
    // None is missing but those that full rings and buffers have counted.
    let all = receive_all(&lab, &server, &mut viewers, PACKETS)?;
    let first = publisher.index + 1 - PACKETS as u64;
    for (n, (viewer, copies)) in viewers.iter().zip(all).enumerate() {
        let places = copies.iter().map(|copy| (copy.incoming - first, copy.outgoing - viewer.next_out));
        let places: BTreeSet<_> = places.collect();
        ensure!(places.len() == copies.len() && copies.len() <= PACKETS, "viewer {n}: {copies:?}");
        ensure!(places.iter().all(|(sent, came)| sent == came), "viewer {n}: {copies:?}");
    }
    server.counts("sealed", PACKETS as u64 * u64::from(count))?;
    // One plaintext copy for each packet.
    server.counts("tapped", PACKETS as u64 - server.counter("tap_full"))?;
    Ok(())
}

/// A socket for each viewer.
fn raise_open_files() -> Result<()> {
    let limit = libc::rlimit { rlim_cur: 16_384, rlim_max: 16_384 };
    // SAFETY: a valid value of the type that the call takes.
    let result = unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) };
    ensure!(result == 0, "RLIMIT_NOFILE: {}", std::io::Error::last_os_error());
    Ok(())
}

#[test]
fn five_hundred_and_twelve_viewers() -> Result<()> {
    serve(512, 200)
}

#[test]
fn two_thousand_and_forty_eight_viewers() -> Result<()> {
    serve(2048, 200)
}
