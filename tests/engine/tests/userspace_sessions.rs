//! Sessions of the userspace engine: leases, removal, addresses that change.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use penstock_engine::{Engine as _, Transport, userspace};
use tests_engine::lab::{Lab, PATIENCE, Publisher, Viewer, address, bind, receive_all};
use tests_kit::srtp::Key;

const QUIET: Duration = Duration::from_millis(100);

/// RFC 7675: without consent neither side's media goes on, also right after a silence.
#[test]
fn leases_end_when_nobody_refreshes() -> Result<()> {
    let mut lab = Lab::new(1)?;
    let lease = Duration::from_secs(3);
    let (server, _threads) = lab.start_userspace(userspace::Config { lease, ..userspace::Config::default() }, false)?;
    let (peer, local) = (&lab.peers[0], lab.server_address(0, false));
    let mut publisher = Publisher::join(&server, peer, local, address(0, 2, false, 5000), Key::random(16))?;
    let own = address(0, 2, false, 10_000);
    let mut viewer = Viewer::join(&server, &publisher, peer, local, own, Key::random(16))?;
    publisher.send_some(3)?;
    ensure!(viewer.receive_count(3)?.len() == 3);
    thread::sleep(lease);

    publisher.send()?;
    ensure!(viewer.receive(QUIET)?.is_empty(), "the publisher's lease is over");
    server.counts("drop_publisher_expired", 1)?;
    server.engine.refresh_session(publisher.session);
    publisher.send()?;
    ensure!(viewer.receive(QUIET)?.is_empty(), "the viewer's lease is over");
    server.counts("drop_subscriber_expired", 1)?;
    server.engine.refresh_session(viewer.session);
    publisher.send_some(2)?;
    ensure!(viewer.receive_count(2)?.len() == 2, "both are there again");
    Ok(())
}

#[test]
fn peers_move_and_leave() -> Result<()> {
    move_and_leave(false)
}

#[test]
fn peers_move_and_leave_by_xdp() -> Result<()> {
    move_and_leave(true)
}

fn move_and_leave(xdp: bool) -> Result<()> {
    let mut lab = Lab::new(2)?;
    let (mut server, _threads) = lab.start_userspace(userspace::Config::default(), xdp)?;
    let (near, far) = (lab.server_address(0, false), lab.server_address(1, true));
    let mut publisher = Publisher::join(&server, &lab.peers[0], near, address(0, 2, false, 5000), Key::random(32))?;
    let own = address(0, 2, false, 10_000);
    let mut viewer = Viewer::join(&server, &publisher, &lab.peers[0], near, own, Key::random(32))?;
    publisher.send_some(2)?;
    ensure!(viewer.receive_count(2)?.len() == 2);

    // Both go on elsewhere, over another interface and family: indices too.
    let own = address(1, 2, true, 10_000);
    viewer.socket = bind(&lab.peers[1], own)?;
    server.engine.move_session(viewer.session, Transport::udp(far, own))?;
    server.carried(viewer.session)?;
    let own = address(1, 2, true, 5000);
    publisher.socket = bind(&lab.peers[1], own)?;
    publisher.socket.connect(far)?;
    server.engine.move_session(publisher.session, Transport::udp(far, own))?;
    publisher.send_some(2)?;
    let copies = viewer.receive_count(2)?;
    ensure!(copies.len() == 2 && copies[0].outgoing == viewer.next_out + 2, "{copies:?}");

    server.engine.remove_session(viewer.session);
    ensure!(server.stopped(viewer.track)? == viewer.next_out + 4);
    publisher.send()?;
    ensure!(viewer.receive(QUIET)?.is_empty());
    server.counts("drop_no_subscriber", 1)?;
    ensure!(server.engine.subscriber_stats(viewer.track).is_none());
    server.engine.remove_session(publisher.session);
    ensure!(server.engine.publisher_stats(publisher.track).is_none());
    Ok(())
}

/// A trigger sends 128 frames at most, and a ring holds 256: larger fan-outs and bursts are split.
#[test]
fn three_hundred_viewers_by_xdp() -> Result<()> {
    const PACKETS: usize = 20;
    let mut lab = Lab::new(1)?;
    let (server, _threads) = lab.start_userspace(userspace::Config::default(), true)?;
    let (peer, local) = (&lab.peers[0], lab.server_address(0, false));
    let mut publisher = Publisher::join(&server, peer, local, address(0, 2, false, 5000), Key::random(16))?;
    let mut viewers = Vec::new();
    for n in 0..300 {
        let own = address(0, 2, n % 2 == 1, 10_000 + n);
        let local = lab.server_address(0, n % 2 == 1);
        viewers.push(Viewer::join(&server, &publisher, peer, local, own, Key::random(16))?);
    }
    for _ in 0..PACKETS / 2 {
        publisher.send_some(2)?;
        thread::sleep(Duration::from_millis(20));
    }
    let give_up = Instant::now() + PATIENCE;
    let done = || server.counter("transmitted_by_xdp") + server.counter("drop_ring_full");
    while done() < 300 * PACKETS as u64 {
        ensure!(Instant::now() < give_up, "{:?}", server.engine.counters());
        thread::sleep(Duration::from_millis(5));
    }
    let copies = receive_all(&lab, &server, &mut viewers, PACKETS)?;
    ensure!(copies.iter().all(|copies| copies.len() <= PACKETS), "more than {PACKETS} copies");
    Ok(())
}

/// Frames for a device that has gone are given up and counted; viewers behind others lose nothing.
#[test]
fn a_device_that_vanishes_harms_nobody_else() -> Result<()> {
    let mut lab = Lab::new(2)?;
    let (server, _threads) = lab.start_userspace(userspace::Config::default(), true)?;
    let locals = [0, 1].map(|n| lab.server_address(n, false));
    let own = address(0, 2, false, 5000);
    let mut publisher = Publisher::join(&server, &lab.peers[0], locals[0], own, Key::random(16))?;
    let mut viewers = Vec::new();
    for (n, local) in locals.into_iter().enumerate() {
        let own = address(n, 2, false, 10_000);
        viewers.push(Viewer::join(&server, &publisher, &lab.peers[n], local, own, Key::random(16))?);
    }
    publisher.send_some(5)?;
    for viewer in &mut viewers {
        ensure!(viewer.receive_count(5)?.len() == 5);
    }
    lab.server.ip(["link", "del", "s1"])?;
    publisher.send_some(20)?;
    ensure!(viewers[0].receive_count(2)?.len() == 20, "{:?}", server.engine.counters());
    server.counts("sealed", 5 * 2 + 20 * 2)?;
    server.counts("transmitted", 5 * 2 + 20)?;
    // Until it is looked at again: then there is no way to the second one.
    server.engine.refresh_session(viewers[1].session);
    let give_up = Instant::now() + PATIENCE;
    while server.engine.describe_session(viewers[1].session) != "userspace socket" {
        ensure!(Instant::now() < give_up, "still {}", server.engine.describe_session(viewers[1].session));
        thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}
