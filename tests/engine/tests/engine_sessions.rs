//! Sessions come, move and go while media flows.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use penstock_engine::{
    Engine, EngineError, Event, Kind, NewPublisherTrack, PublisherTrackId, Transport,
    kernel::{Config, Limits},
};
use tests_engine::lab::{Copy, Lab, PATIENCE, Publisher, Server, Viewer, address, bind, media_key};
use tests_kit::srtp::{Key, Random};

const QUIET: Duration = Duration::from_millis(60);

/// One link, a publisher and some viewers on it.
fn stage(viewers: u16, configure: impl FnOnce(&mut Config)) -> Result<(Lab, Server, Publisher, Vec<Viewer>)> {
    let lab = Lab::new(1)?;
    let mut config = lab.config();
    configure(&mut config);
    let mut server = lab.start(config)?;
    let publisher = publisher(&lab, &server, 5000)?;
    let viewers = (0..viewers).map(|n| viewer(&lab, &server, &publisher, n)).collect::<Result<Vec<_>>>()?;
    for viewer in &viewers {
        server.started(viewer.track)?;
    }
    Ok((lab, server, publisher, viewers))
}

fn publisher(lab: &Lab, server: &Server, port: u16) -> Result<Publisher> {
    let local = lab.server_address(0, false);
    Publisher::join(server, &lab.peers[0], local, address(0, 2, false, port), Key::random(16))
}

fn viewer(lab: &Lab, server: &Server, publisher: &Publisher, n: u16) -> Result<Viewer> {
    let local = lab.server_address(0, false);
    let own = address(0, 2, false, 10_000 + n);
    Viewer::join(server, publisher, &lab.peers[0], local, own, Key::random(16))
}

/// The viewers got exactly these packets.
fn expect(viewers: &mut [Viewer], wanted: &[u64]) -> Result<()> {
    for viewer in viewers {
        let copies: Vec<u64> = viewer.receive_count(wanted.len())?.iter().map(|copy| copy.incoming).collect();
        ensure!(copies == wanted, "got {copies:?}, wanted {wanted:?}");
    }
    Ok(())
}

/// Sends three packets; their indices.
fn three(publisher: &mut Publisher) -> Result<Vec<u64>> {
    (0..3).map(|_| publisher.send()).collect()
}

/// Devmap sends 16 frames at a time and kicks the device with the last of them: if that one is dropped, here
/// because its viewer's lease has ended, the others must not wait for the next packet.
#[test]
fn a_dropped_last_copy_holds_up_nobody() -> Result<()> {
    let lease = Duration::from_secs(4);
    let (_lab, server, mut publisher, mut viewers) = stage(17, |config| config.lease = lease)?;
    thread::sleep(lease / 2);
    server.engine.refresh_session(publisher.session);
    viewers[..16].iter().for_each(|viewer| server.engine.refresh_session(viewer.session));
    thread::sleep(lease / 2 + Duration::from_millis(20));
    let index = publisher.send()?;
    expect(&mut viewers[..16], &[index])?;
    expect(&mut viewers[16..], &[])?;
    server.counts("drop_subscriber_expired", 1)?;
    server.counts("kicks", 1)?;
    Ok(())
}

#[test]
fn joining_and_leaving_under_load_never_reuses_an_index() -> Result<()> {
    let (_lab, mut server, mut publisher, mut viewers) = stage(12, |_| {})?;
    publisher.payload_len = 200;
    let track = publisher.track;
    let stop = Arc::new(AtomicBool::new(false));
    let sender = {
        let stop = Arc::clone(&stop);
        thread::spawn(move || -> Result<u64> {
            while !stop.load(Ordering::Relaxed) {
                publisher.send_some(1)?;
            }
            Ok(publisher.index)
        })
    };
    let mut random = Random::new(1);
    let mut seen: Vec<HashMap<u64, u64>> = vec![HashMap::new(); viewers.len()];
    let mut attached = vec![true; viewers.len()];
    let mut rejoined = 0;
    for _ in 0..50 {
        let n = random.below(viewers.len());
        let viewer = &mut viewers[n];
        if attached[n] {
            server.engine.remove_subscriber_track(viewer.track);
            let next_out = server.stopped(viewer.track)?;
            record(&mut seen[n], &viewer.receive(Duration::from_millis(5))?)?;
            ensure!(next_out >= viewer.next_out, "{next_out} below {}", viewer.next_out);
            ensure!(seen[n].keys().all(|used| *used < next_out), "an index at or above {next_out} was used");
            viewer.next_out = next_out;
        } else {
            viewer.attach_to(&server, track)?;
            server.started(viewer.track)?;
            record(&mut seen[n], &viewer.receive_first()?)?;
            rejoined += 1;
        }
        attached[n] = !attached[n];
    }
    stop.store(true, Ordering::Relaxed);
    let last = sender.join().ok().context("sender panicked")??;
    for (viewer, seen) in viewers.iter_mut().zip(&mut seen) {
        record(seen, &viewer.receive(QUIET)?)?;
    }
    ensure!(rejoined >= 15, "only {rejoined} joins");
    let heard = || server.engine.publisher_stats(track).is_some_and(|stats| stats.highest.0 == last);
    let give_up = std::time::Instant::now() + PATIENCE;
    while !heard() {
        ensure!(std::time::Instant::now() < give_up, "{:?}", server.engine.publisher_stats(track));
        thread::sleep(Duration::from_millis(1));
    }
    ensure!(server.counter("drop_internal_egress") == 0 && server.counter("drop_internal_ingress") == 0);
    ensure!(server.other_events().is_empty(), "unasked events");
    Ok(())
}

/// Each outgoing index once.
fn record(seen: &mut HashMap<u64, u64>, copies: &[Copy]) -> Result<()> {
    for copy in copies {
        ensure!(seen.insert(copy.outgoing, copy.incoming).is_none(), "{copy:?} came twice");
    }
    Ok(())
}

#[test]
fn a_viewer_goes_on_with_the_next_publisher() -> Result<()> {
    let (lab, mut server, mut first, mut viewers) = stage(2, |_| {})?;
    let sent = three(&mut first)?;
    let before: Vec<u64> = viewers[0].receive_count(3)?.iter().map(|copy| copy.outgoing).collect();
    server.engine.remove_session(first.session);
    for viewer in &mut viewers {
        viewer.next_out = server.stopped(viewer.track)?;
    }
    let ended = first.track;
    let highest = server.event("publisher stopped", |event| match event {
        Event::PublisherTrackStopped { track, highest } if *track == ended => Some(*highest),
        _ => None,
    })?;
    ensure!(Some(&highest.0) == sent.last(), "{highest:?} after {sent:?}");
    ensure!(before.iter().all(|used| *used < viewers[0].next_out));

    first.send()?;
    let mut second = publisher(&lab, &server, 5001)?;
    for viewer in &mut viewers {
        viewer.receive(QUIET)?;
        viewer.attach(&server, &second)?;
        server.started(viewer.track)?;
    }
    let sent = three(&mut second)?;
    let copies = viewers[0].receive_count(sent.len())?;
    ensure!(copies.iter().map(|copy| copy.incoming).eq(sent), "{copies:?}");
    ensure!(copies[0].outgoing == viewers[0].next_out, "{copies:?}");
    Ok(())
}

#[test]
fn removed_sessions_fall_silent_and_leave_no_entry() -> Result<()> {
    let (lab, mut server, mut publisher, mut viewers) = stage(3, |_| {})?;
    let sent = three(&mut publisher)?;
    expect(&mut viewers, &sent)?;
    server.engine.remove_session(viewers[1].session);
    server.stopped(viewers[1].track)?;
    let sent = three(&mut publisher)?;
    ensure!(viewers[1].receive(QUIET)?.is_empty(), "media after the session was removed");
    viewers.swap_remove(1);
    expect(&mut viewers, &sent)?;

    server.engine.remove_session(publisher.session);
    let ended = publisher.track;
    let highest = server.event("publisher stopped", |event| match event {
        Event::PublisherTrackStopped { track, highest } if *track == ended => Some(*highest),
        _ => None,
    })?;
    ensure!(Some(&highest.0) == sent.last(), "{highest:?} after {sent:?}");
    three(&mut publisher)?;
    expect(&mut viewers, &[])?;
    for viewer in &viewers {
        server.engine.remove_session(viewer.session);
    }
    let pinned = penstock::inspect::Pinned::open(&lab.bpf.path().join("penstock"))?;
    let used = |map| penstock::inspect::entries(&pinned, map).map(|entries| entries.len());
    let give_up = std::time::Instant::now() + PATIENCE;
    for map in ["SESSIONS", "LEASES", "FLOWS", "PUBLISHER_TRACKS", "SUBSCRIBER_TRACKS"] {
        while used(map)? != 0 {
            ensure!(std::time::Instant::now() < give_up, "{map} still has {} entries", used(map)?);
            thread::sleep(Duration::from_millis(5));
        }
    }
    // Handles of former occupants name nothing.
    ensure!(server.engine.publisher_stats(publisher.track).is_none());
    let late = server.engine.add_publisher_track(publisher.session, new_track());
    ensure!(matches!(late, Err(EngineError::Unknown(_))), "{late:?}");
    Ok(())
}

fn new_track() -> NewPublisherTrack {
    NewPublisherTrack {
        ssrc: 1,
        kind: Kind::Audio,
        payload_type: 111,
        clock_rate: 48_000,
        first: forwarder_common::ExtendedSeq(1),
        sequence_extension: None,
    }
}

#[test]
fn leases_end_when_nobody_refreshes() -> Result<()> {
    let lease = Duration::from_secs(3);
    let (_lab, server, mut publisher, mut viewers) = stage(2, |config| config.lease = lease)?;
    let refresh = |viewers: &[Viewer], publisher: &Publisher| {
        server.engine.refresh_session(publisher.session);
        viewers.iter().for_each(|viewer| server.engine.refresh_session(viewer.session));
    };
    refresh(&viewers, &publisher);
    let sent = three(&mut publisher)?;
    expect(&mut viewers, &sent)?;
    thread::sleep(lease);
    three(&mut publisher)?;
    expect(&mut viewers, &[])?;
    server.counts("drop_publisher_expired", 3)?;

    server.engine.refresh_session(publisher.session);
    three(&mut publisher)?;
    expect(&mut viewers, &[])?;
    server.counts("drop_subscriber_expired", 6)?;

    refresh(&viewers, &publisher);
    let sent = three(&mut publisher)?;
    expect(&mut viewers, &sent)
}

#[test]
fn peers_move_between_ports_and_interfaces() -> Result<()> {
    let lab = Lab::new(2)?;
    let mut server = lab.start(lab.config())?;
    let mut publisher = publisher(&lab, &server, 5000)?;
    let mut viewers = vec![viewer(&lab, &server, &publisher, 0)?, viewer(&lab, &server, &publisher, 1)?];
    for viewer in &viewers {
        server.started(viewer.track)?;
    }
    let sent = three(&mut publisher)?;
    expect(&mut viewers, &sent)?;

    for (link, port) in [(0, 11_000), (1, 11_001), (0, 11_002)] {
        let own = address(link, 2, false, port);
        viewers[0].socket = bind(&lab.peers[link], own)?;
        let transport = Transport::udp(lab.server_address(link, false), own);
        server.engine.move_session(viewers[0].session, transport)?;
        // The neighbour on the second link is asked for first.
        wait_for_copy(&mut publisher, &viewers[0])?;
        let sent = three(&mut publisher)?;
        for viewer in &mut viewers {
            // And some of what was sent before.
            let (mut copies, give_up) = (vec![], std::time::Instant::now() + PATIENCE);
            while !copies.ends_with(&sent) && std::time::Instant::now() < give_up {
                copies.extend(viewer.receive(QUIET)?.iter().map(|copy| copy.incoming));
            }
            ensure!(copies.ends_with(&sent), "after the move to {own}: {copies:?}");
        }
    }

    let own = address(0, 2, false, 5555);
    let old = publisher.socket;
    publisher.socket = bind(&lab.peers[0], own)?;
    publisher.socket.connect(lab.server_address(0, false))?;
    server.engine.move_session(publisher.session, Transport::udp(lab.server_address(0, false), own))?;
    let sent = three(&mut publisher)?;
    expect(&mut viewers, &sent)?;
    publisher.send_index(publisher.index)?;
    expect(&mut viewers, &[])?;
    // The replay list moves with the publisher.
    server.counts("drop_replayed", 1)?;
    publisher.socket = old;
    three(&mut publisher)?;
    expect(&mut viewers, &[])
}

/// Sends until a copy reaches the viewer, which stays in the socket's queue.
fn wait_for_copy(publisher: &mut Publisher, viewer: &Viewer) -> Result<()> {
    viewer.socket.set_read_timeout(Some(Duration::from_millis(20)))?;
    let give_up = std::time::Instant::now() + PATIENCE;
    while std::time::Instant::now() < give_up {
        publisher.send()?;
        if viewer.socket.peek(&mut [0; 16]).is_ok() {
            return Ok(());
        }
    }
    anyhow::bail!("no copy arrives")
}

#[test]
fn full_tables_are_refused_and_work_again_when_there_is_room() -> Result<()> {
    let limits = Limits { sessions: 3, publisher_tracks: 1, subscriber_tracks: 2, viewers_per_stream: 2 };
    let (lab, mut server, mut publisher, mut viewers) = stage(2, |config| config.limits = limits)?;
    let full = |result: Result<(), EngineError>, wanted: &str| match result {
        Err(EngineError::Full { key, .. }) if key == wanted => Ok(()),
        other => Err(anyhow::anyhow!("wanted a full table {wanted}, got {other:?}")),
    };
    let own = address(0, 2, false, 10_009);
    let refused = Viewer::session(&server, lab.server_address(0, false), own, &Key::random(16));
    ensure!(refused.is_err_and(|error| error.to_string().contains("limits.sessions")));
    full(server.engine.add_publisher_track(publisher.session, new_track()).map(|_| ()), "publisher_tracks")?;
    let track = penstock_engine::NewSubscriberTrack {
        ssrc: 7,
        kind: Kind::Video,
        payload_type: 96,
        next_out: forwarder_common::ExtendedSeq(1),
        index_offset: None,
        timestamp_offset: 0,
        dscp: penstock_engine::Dscp::default(),
    };
    let again = |server: &Server, from: PublisherTrackId| {
        server.engine.add_subscriber_track(viewers[0].session, from, track).map(|_| ())
    };
    ensure!(matches!(again(&server, publisher.track), Err(EngineError::StreamFull { limit: 2 })));

    server.engine.remove_session(viewers[1].session);
    server.stopped(viewers[1].track)?;
    viewers.truncate(1);
    viewers.push(viewer(&lab, &server, &publisher, 5)?);
    server.started(viewers[1].track)?;
    let sent = three(&mut publisher)?;
    expect(&mut viewers, &sent)
}

/// A session of its own right, from the same address and with the same SSRC, takes nothing from who was first.
#[test]
fn a_flow_belongs_to_who_had_it_first() -> Result<()> {
    let (lab, server, mut publisher, mut viewers) = stage(1, |_| {})?;
    let sent = three(&mut publisher)?;
    expect(&mut viewers, &sent)?;
    let local = lab.server_address(0, false);
    let hostile = server.engine.add_session(penstock_engine::NewSession {
        id: "hostile".into(),
        stream: "other".into(),
        role: penstock_engine::Role::Publisher,
        key: media_key(&Key::random(16)),
        transport: Transport::udp(local, address(0, 2, false, 5000)),
        of_source: false,
    })?;
    let same = NewPublisherTrack { ssrc: publisher.ssrc, ..new_track() };
    let refused = server.engine.add_publisher_track(hostile, same);
    ensure!(matches!(refused, Err(EngineError::Taken { .. })), "{refused:?}");
    let elsewhere = Transport::udp(local, address(0, 2, false, 5001));
    server.engine.move_session(hostile, elsewhere)?;
    server.engine.add_publisher_track(hostile, same)?;
    let back = Transport::udp(local, address(0, 2, false, 5000));
    ensure!(matches!(server.engine.move_session(hostile, back), Err(EngineError::Taken { .. })));
    ensure!(!server.engine.restore_publisher_track(publisher.track), "nothing is amiss");
    server.engine.remove_session(hostile);
    let sent = three(&mut publisher)?;
    expect(&mut viewers, &sent)
}

#[test]
fn unreachable_peers_are_refused_with_the_reason() -> Result<()> {
    let lab = Lab::new(2)?;
    let mut config = lab.config();
    config.interfaces.truncate(1);
    let server = lab.start(config)?;
    let cases = [
        ("10.77.0.1:8443", "10.77.0.1:5000", "on this host"),
        ("10.77.0.1:8443", "192.0.2.1:5000", "no route"),
        ("10.99.0.1:8443", "10.77.0.2:5000", "no address of this host"),
        ("10.77.1.1:8443", "10.77.1.2:5000", "XDP is only on s0"),
    ];
    for (local, peer, reason) in cases {
        let refused = Viewer::session(&server, local.parse()?, peer.parse()?, &Key::random(16));
        let Err(error) = refused else { anyhow::bail!("{peer} was taken") };
        ensure!(error.to_string().contains(reason), "{peer}: {error}");
    }
    Ok(())
}

/// The kernel leaves such a device out of every broadcast, without a counter.
#[test]
fn an_interface_that_takes_no_redirects_is_refused_with_the_reason() -> Result<()> {
    let lab = Lab::new(1)?;
    let server = lab.start(lab.config())?;
    let (local, peer) = (lab.server_address(0, false), "10.77.0.2:5000".parse()?);
    lab.peers[0].ethtool(["-K", "p0", "gro", "off"])?;
    let refused = Viewer::session(&server, local, peer, &Key::random(16));
    let Err(error) = refused else { anyhow::bail!("the viewer was taken") };
    ensure!(error.to_string().contains("s0 takes no redirected frames"), "{error}");
    lab.peers[0].ethtool(["-K", "p0", "gro", "on"])?;
    Viewer::session(&server, local, peer, &Key::random(16))?;
    Ok(())
}
