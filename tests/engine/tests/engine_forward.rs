//! The kernel engine forwards: every copy that arrives is opened with its viewer's key and compared.

use std::time::Duration;

use anyhow::{Result, ensure};
use penstock::{config::Mode, engine::Engine};
use tests_engine::lab::{Lab, Publisher, Server, Viewer, address};
use tests_kit::srtp::Key;

/// All copies have arrived when the first viewer has heard nothing for this long.
const QUIET: Duration = Duration::from_millis(100);

/// So there is no need to wait again for each of the others.
const NO_WAIT: Duration = Duration::from_micros(100);

struct Case {
    viewers: u16,
    packets: usize,
    key_len: usize,
    mode: Mode,
    ipv6: bool,
    /// Viewers are on the publisher's link, or alternately on that and a second one.
    links: usize,
}

const PLAIN: Case = Case { viewers: 1, packets: 50, key_len: 16, mode: Mode::Native, ipv6: false, links: 1 };

fn forward(case: &Case) -> Result<()> {
    let lab = Lab::new(case.links)?;
    let mut config = lab.config();
    config.mode = case.mode;
    let mut server = lab.start(config)?;
    let local = lab.server_address(0, case.ipv6);
    let key = Key::random(case.key_len);
    let mut publisher = Publisher::join(&server, &lab.peers[0], local, address(0, 2, case.ipv6, 5000), key)?;
    let mut viewers = Vec::new();
    for n in 0..case.viewers {
        let link = usize::from(n) % case.links;
        let own = address(link, 2, case.ipv6, 10_000 + n);
        let local = lab.server_address(link, case.ipv6);
        let key = Key::random(case.key_len);
        viewers.push(Viewer::join(&server, &publisher, &lab.peers[link], local, own, key)?);
    }
    for viewer in &viewers {
        server.started(viewer.track)?;
    }
    publisher.send_some(case.packets)?;
    check(case, &server, &publisher, &mut viewers)?;
    ensure!(server.other_events().is_empty(), "unasked events");
    Ok(())
}

fn check(case: &Case, server: &Server, publisher: &Publisher, viewers: &mut [Viewer]) -> Result<()> {
    for (n, viewer) in viewers.iter_mut().enumerate() {
        let copies = viewer.receive(if n == 0 { QUIET } else { NO_WAIT })?;
        let counters = || server.engine.counters().into_iter().filter(|(_, count)| *count != 0).collect::<Vec<_>>();
        ensure!(copies.len() == case.packets, "{} of {} copies: {:?}", copies.len(), case.packets, counters());
        ensure!(copies[0].outgoing == viewer.next_out, "starts with {:?}", copies[0]);
        let offset = copies[0].outgoing.wrapping_sub(copies[0].incoming);
        for pair in copies.windows(2) {
            ensure!(pair[1].incoming == pair[0].incoming + 1, "{pair:?}");
            ensure!(pair[1].outgoing == pair[1].incoming.wrapping_add(offset), "{pair:?}");
        }
        let stats = server.engine.subscriber_stats(viewer.track).unwrap_or_default();
        ensure!(stats.packets == case.packets as u64, "{stats:?}");
        ensure!(stats.octets == (case.packets * publisher.payload_len) as u64, "{stats:?}");
    }
    let stats = server.engine.publisher_stats(publisher.track).unwrap_or_default();
    ensure!(stats.packets == case.packets as u64 && stats.highest.0 == publisher.index, "{stats:?}");
    ensure!(server.counter("opened") == case.packets as u64);
    ensure!(server.counter("sealed") == (case.packets * viewers.len()) as u64);
    Ok(())
}

#[test]
fn one_viewer() -> Result<()> {
    forward(&PLAIN)
}

#[test]
fn sixteen_viewers_with_256_bit_keys() -> Result<()> {
    forward(&Case { viewers: 16, key_len: 32, ..PLAIN })
}

#[test]
fn two_hundred_viewers() -> Result<()> {
    forward(&Case { viewers: 200, ..PLAIN })
}

#[test]
fn two_interfaces() -> Result<()> {
    forward(&Case { viewers: 21, links: 2, ..PLAIN })
}

#[test]
fn ipv6() -> Result<()> {
    forward(&Case { viewers: 16, ipv6: true, ..PLAIN })
}

#[test]
fn generic_mode() -> Result<()> {
    forward(&Case { viewers: 16, mode: Mode::Generic, ..PLAIN })
}
