//! The kernel engine forwards: every copy that arrives is opened with its viewer's key and compared.

use anyhow::{Result, ensure};
use penstock_engine::{Engine, kernel::Mode};
use tests_engine::lab::{Lab, Publisher, Server, Viewer, address, receive_all};
use tests_kit::srtp::Key;

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
    check(case, &lab, &server, &publisher, &mut viewers)?;
    ensure!(server.other_events().is_empty(), "unasked events");
    Ok(())
}

fn check(case: &Case, lab: &Lab, server: &Server, publisher: &Publisher, viewers: &mut [Viewer]) -> Result<()> {
    let all = receive_all(lab, server, viewers, case.packets)?;
    for (viewer, copies) in viewers.iter().zip(all) {
        let counters = || server.engine.counters().into_iter().filter(|(_, count)| *count != 0).collect::<Vec<_>>();
        // None is missing but those that full rings have counted.
        ensure!(copies.len() <= case.packets, "{} of {} copies: {:?}", copies.len(), case.packets, counters());
        let first = publisher.index + 1 - case.packets as u64;
        for copy in &copies {
            ensure!(copy.outgoing - viewer.next_out == copy.incoming - first, "{copy:?}, the first is {first}");
        }
        ensure!(copies.is_sorted_by(|one, next| one.incoming < next.incoming), "out of order: {copies:?}");
        let stats = server.engine.subscriber_stats(viewer.track).unwrap_or_default();
        ensure!(stats.packets == case.packets as u64, "{stats:?}");
        ensure!(stats.octets == (case.packets * publisher.payload_len) as u64, "{stats:?}");
    }
    let stats = server.engine.publisher_stats(publisher.track).unwrap_or_default();
    ensure!(stats.packets == case.packets as u64 && stats.highest.0 == publisher.index, "{stats:?}");
    server.counts("opened", case.packets as u64)?;
    server.counts("sealed", (case.packets * viewers.len()) as u64)?;
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
