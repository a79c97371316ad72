//! What a viewer lost is sent again, by either engine: the same to the byte, or by RTX with the original within.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use forwarder_common::ExtendedSeq;
use penstock_engine::{Engine, NewRepairTrack, RtxSource, Unrepaired, kernel, repair, userspace};
use tests_engine::lab::{Lab, PATIENCE, Publisher, Server, Viewer, address};
use tests_kit::srtp::Key;

const PACKETS: usize = 30;
const RTX_SSRC: u32 = 0x7000_0000;

/// A publisher and so many viewers, each with a key of its own.
fn join<E: Engine>(
    lab: &Lab,
    server: &mut Server<E>,
    viewers: u16,
    key_len: usize,
) -> Result<(Publisher, Vec<Viewer>)> {
    let (peer, local) = (&lab.peers[0], lab.server_address(0, false));
    let publisher = Publisher::join(server, peer, local, address(0, 2, false, 5000), Key::random(key_len))?;
    let mut all = Vec::new();
    for n in 0..viewers {
        let own = address(0, 2, false, 10_000 + n);
        all.push(Viewer::join(server, &publisher, peer, local, own, Key::random(key_len))?);
        server.started(all[usize::from(n)].track)?;
    }
    Ok((publisher, all))
}

/// The next packet as it reached a viewer.
fn next(viewer: &Viewer) -> Result<Vec<u8>> {
    let mut buffer = [0; 2048];
    viewer.socket.set_read_timeout(Some(PATIENCE))?;
    let len = viewer.socket.recv(&mut buffer).context("no packet")?;
    Ok(buffer[..len].to_vec())
}

/// Sends until so many packets were sent again to each viewer; each is compared with its original.
///
/// Nothing is kept before the engine has found room for it, nor for longer than a second, which a busy machine may
/// take: what is missing for either reason is another packet's turn.
fn repair_all<E: Engine>(server: &Server<E>, publisher: &mut Publisher, viewers: &[Viewer]) -> Result<()> {
    let give_up = Instant::now() + PATIENCE;
    // The next index of each source for repairs, beside it.
    let source = || (RtxSource::new(RTX_SSRC, 120, ExtendedSeq(0xfff0)), 0xfff0);
    let (mut done, mut rtx) = (0, viewers.iter().map(|_| source()).collect::<Vec<_>>());
    while done < PACKETS {
        ensure!(Instant::now() < give_up, "{done} of {PACKETS} sent again: {:?}", server.engine.counters());
        publisher.send()?;
        let packets = viewers.iter().map(next).collect::<Result<Vec<_>>>()?;
        let seq = |packet: &[u8]| u16::from_be_bytes([packet[2], packet[3]]);
        let mut whole = true;
        for ((viewer, packet), (rtx, rtx_index)) in viewers.iter().zip(&packets).zip(&mut rtx) {
            match server.engine.repair(viewer.track, seq(packet), None) {
                Ok(again) => ensure!(again == *packet, "sent again otherwise"),
                Err(Unrepaired::Missing(index)) => {
                    ensure!(index.0 == publisher.index, "{index:?} of {}", publisher.index);
                    whole = false;
                    continue;
                }
                Err(other) => anyhow::bail!("{other:?}"),
            }
            let Ok(by_rtx) = server.engine.repair(viewer.track, seq(packet), Some(rtx)) else {
                whole = false;
                continue;
            };
            let sealed = viewer.key.open(&by_rtx, 12, *rtx_index).context("tag of the repair")?;
            *rtx_index += 1;
            ensure!(by_rtx[1] == 120 | 0x80 && by_rtx[8..12] == RTX_SSRC.to_be_bytes(), "{:02x?}", &by_rtx[..12]);
            ensure!(by_rtx[4..8] == packet[4..8] && sealed[..2] == packet[2..4], "{:02x?}", &sealed[..2]);
            ensure!(sealed[2..10] == publisher.index.to_be_bytes(), "{:02x?}", &sealed[2..10]);
        }
        done += usize::from(whole);
    }
    // What was never sent is no business of repairs.
    let ahead = publisher.index.wrapping_add(viewers[0].next_out).wrapping_add(1000) as u16;
    ensure!(server.engine.repair(viewers[0].track, ahead, None) == Err(Unrepaired::NeverSent));
    Ok(())
}

fn of_the_kernel(viewers: u16, key_len: usize, direct: bool) -> Result<()> {
    let lab = Lab::new(1)?;
    let mut server = lab.start(kernel::Config { direct, ..lab.config() })?;
    let (mut publisher, viewers) = join(&lab, &mut server, viewers, key_len)?;
    repair_all(&server, &mut publisher, &viewers)?;
    let by_the_short_way = server.counter("direct");
    ensure!((by_the_short_way > 0) == (direct && viewers.len() == 1), "{by_the_short_way} by the short way");
    server.counts("not_kept", 0)
}

/// The short way never has the plaintext: the packet is kept as it came.
#[test]
fn one_viewer_of_the_kernel_by_the_short_way() -> Result<()> {
    of_the_kernel(1, 16, true)
}

#[test]
fn one_viewer_of_the_kernel_by_the_long_way() -> Result<()> {
    of_the_kernel(1, 32, false)
}

#[test]
fn three_viewers_of_the_kernel() -> Result<()> {
    of_the_kernel(3, 16, true)
}

#[test]
fn viewers_of_the_userspace_engine() -> Result<()> {
    let mut lab = Lab::new(1)?;
    let (mut server, _threads) = lab.start_userspace(userspace::Config::default(), false)?;
    let (mut publisher, viewers) = join(&lab, &mut server, 3, 32)?;
    repair_all(&server, &mut publisher, &viewers)
}

/// Memory that is nobody's is not taken, and comes back.
#[test]
fn memory_follows_the_tracks() -> Result<()> {
    let lab = Lab::new(1)?;
    let memory = std::sync::Arc::new(repair::Memory::new(1 << 20));
    let repair = repair::Settings { memory: memory.clone(), track: 512 << 10 };
    let mut server = lab.start(kernel::Config { repair, ..lab.config() })?;
    ensure!(memory.used() == 0);
    let (mut publisher, viewers) = join(&lab, &mut server, 1, 16)?;
    repair_all(&server, &mut publisher, &viewers)?;
    let used = memory.used();
    ensure!(used == 4 * (96 << 10), "{used} bytes");
    server.engine.remove_session(publisher.session);
    server.engine.remove_session(viewers[0].session);
    server.stopped(viewers[0].track)?;
    // Another one takes the chunks that the first has left.
    let own = address(0, 2, false, 5001);
    let mut publisher = Publisher::join(&server, &lab.peers[0], lab.server_address(0, false), own, Key::random(16))?;
    publisher.send_some(5)?;
    ensure!(memory.used() == used, "{} bytes", memory.used());
    Ok(())
}

/// Without memory nothing is kept, and nothing else changes.
#[test]
fn nothing_is_kept_without_memory() -> Result<()> {
    let lab = Lab::new(1)?;
    let config = kernel::Config { repair: repair::Settings::none(), ..lab.config() };
    let mut server = lab.start(config)?;
    let (mut publisher, viewers) = join(&lab, &mut server, 1, 16)?;
    publisher.send_some(20)?;
    let packets = viewers[0].packets(Duration::from_millis(100))?;
    let last = packets.last().context("nothing came")?;
    let again = server.engine.repair(viewers[0].track, u16::from_be_bytes([last[2], last[3]]), None);
    ensure!(matches!(again, Err(Unrepaired::Missing(_))), "{again:?}");
    Ok(())
}

/// What a publisher's packets lack is told, and what comes late goes to everybody, once.
fn gaps_are_told<E: Engine>(lab: &Lab, server: &mut Server<E>) -> Result<()> {
    let (mut publisher, mut viewers) = join(lab, server, 1, 16)?;
    let first = publisher.index + 1;
    publisher.send_some(5)?;
    let lost = [publisher.index + 1, publisher.index + 2];
    publisher.index += 2;
    publisher.send_some(3)?;
    missing_is(server, &publisher, first, &lost)?;
    ensure!(server.engine.gaps() == 1, "{} gaps", server.engine.gaps());
    // Far behind by now: a publisher answers after a round trip.
    publisher.send_some(400)?;
    publisher.send_index(lost[0])?;
    // The same index with another content, which a hostile publisher may send: one of the two goes on.
    publisher.payload_len = 700;
    publisher.send_index(lost[0])?;
    missing_is(server, &publisher, first, &lost[1..])?;
    let copies = viewers[0].receive_count(5 + 3 + 400 + 1)?;
    ensure!(copies.iter().filter(|copy| copy.incoming == lost[0]).count() == 1, "{copies:?}");
    ensure!(copies.iter().all(|copy| copy.incoming != lost[1]), "{copies:?}");
    server.counts("drop_replayed", 1)?;
    ensure!(server.engine.gaps() == 1, "{} gaps", server.engine.gaps());
    Ok(())
}

fn missing_is<E: Engine>(server: &Server<E>, publisher: &Publisher, first: u64, wanted: &[u64]) -> Result<()> {
    let give_up = Instant::now() + PATIENCE;
    loop {
        let received = server.engine.received(publisher.track, first).context("no such track")?;
        if received.highest == publisher.index && received.missing == wanted {
            return Ok(());
        }
        ensure!(Instant::now() < give_up, "{received:?} instead of {wanted:?}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn the_kernel_tells_what_is_missing() -> Result<()> {
    let lab = Lab::new(1)?;
    let mut server = lab.start(lab.config())?;
    gaps_are_told(&lab, &mut server)
}

#[test]
fn the_userspace_engine_tells_what_is_missing() -> Result<()> {
    let mut lab = Lab::new(1)?;
    let (mut server, _threads) = lab.start_userspace(userspace::Config::default(), false)?;
    gaps_are_told(&lab, &mut server)
}

/// SSRC and payload type by which publishers send again.
const REPAIRS: (u32, u8) = (0x7100_0000, 97);

/// Sends by RTX what is said to have been lost under this index.
fn send_again(publisher: &Publisher, rtx_index: u64, lost: u64, payload: &[u8]) -> Result<()> {
    let mut header = vec![0x80, REPAIRS.1 | 0x80];
    header.extend((rtx_index as u16).to_be_bytes());
    header.extend([0, 0, 0, 9]);
    header.extend(REPAIRS.0.to_be_bytes());
    let payload = [&(lost as u16).to_be_bytes(), payload].concat();
    publisher.socket.send(&publisher.key.seal(&header, &payload, rtx_index))?;
    Ok(())
}

/// A publisher sends indices twice, with two contents, on the SSRC of its media and by RTX, in either order: one of them
/// reaches the viewers, whatever the other one says.
fn one_of_two<E: Engine>(lab: &Lab, server: &mut Server<E>, viewers: u16) -> Result<()> {
    const ROUNDS: u64 = 20;
    const REPAIR: &[u8] = b"another";
    let (mut publisher, viewers) = join(lab, server, viewers, 16)?;
    let (ssrc, payload_type) = REPAIRS;
    let first = ExtendedSeq(0xfffa);
    let new = NewRepairTrack { ssrc, payload_type, of: publisher.track, first, sequence_extension: None };
    server.engine.add_repair_track(publisher.session, new)?;
    let seq = |packet: &[u8]| u16::from_be_bytes([packet[2], packet[3]]);
    let expect = |what: &str, len: usize, after: &mut Vec<u16>, step: i16| -> Result<()> {
        for (viewer, last) in viewers.iter().zip(after) {
            let packet = next(viewer).with_context(|| what.to_owned())?;
            let wanted = last.wrapping_add_signed(step);
            ensure!(packet.len() == 12 + len + 16, "{what}: {} bytes", packet.len());
            ensure!(seq(&packet) == wanted, "{what}: {} instead of {wanted}", seq(&packet));
            *last = wanted;
        }
        Ok(())
    };
    publisher.send()?;
    let mut last = viewers.iter().map(|viewer| Ok(seq(&next(viewer)?))).collect::<Result<Vec<_>>>()?;
    let (media, mut rtx_index) = (publisher.payload_len, first.0);
    for _ in 0..ROUNDS {
        publisher.index += 1;
        let lost = publisher.index;
        publisher.send()?;
        expect("behind a gap", media, &mut last, 2)?;
        rtx_index += 1;
        send_again(&publisher, rtx_index, lost, REPAIR)?;
        expect("the repair", REPAIR.len(), &mut last, -1)?;
        // The original, late.
        publisher.send_index(lost)?;
        publisher.send()?;
        expect("nothing of the original", media, &mut last, 2)?;
        // And a repair of what has come.
        rtx_index += 1;
        send_again(&publisher, rtx_index, publisher.index, REPAIR)?;
        publisher.send()?;
        expect("nothing of what repairs nothing", media, &mut last, 1)?;
    }
    for viewer in &viewers {
        ensure!(viewer.packets(Duration::from_millis(200))?.is_empty(), "something was forwarded twice");
    }
    server.counts("repairs_unwrapped", ROUNDS)?;
    server.counts("repairs_useless", ROUNDS)?;
    server.counts("repairs_refused", 0)?;
    server.counts("drop_replayed", ROUNDS)
}

#[test]
fn of_an_original_and_its_repair_the_kernel_forwards_one() -> Result<()> {
    for viewers in [1, 3] {
        let mut lab = Lab::new(1)?;
        let config = lab.config();
        let (mut server, _threads) = lab.start_auto(config, userspace::Config::default())?;
        one_of_two(&lab, &mut server, viewers)?;
    }
    Ok(())
}

#[test]
fn of_an_original_and_its_repair_the_userspace_engine_forwards_one() -> Result<()> {
    let mut lab = Lab::new(1)?;
    let (mut server, _threads) = lab.start_userspace(userspace::Config::default(), false)?;
    one_of_two(&lab, &mut server, 3)
}
