//! A random session, the same for every engine that it is played to: joins, leaves, loss, reordering, duplicates,
//! wraps of the sequence number. What each viewer receives is kept as it came off the wire.

use std::collections::BTreeMap;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use penstock_engine::Engine;

use tests_kit::srtp::{Key, Random};

use crate::lab::{Lab, PATIENCE, Publisher, Server, Viewer, address};

/// Viewers that come and go.
const VIEWERS: u16 = 12;
/// Steps of a script.
const STEPS: usize = 72;
/// No copy has come for this long: all have.
const QUIET: Duration = Duration::from_millis(60);

/// One thing that happens.
#[derive(Clone, Debug)]
pub enum Step {
    /// The viewer with this number attaches, with the indices after those that it had before.
    Join(u16),
    Leave(u16),
    /// Packets with these distances to the publisher's next index, in this order, of this payload length.
    Send {
        distances: Vec<i64>,
        payload_len: usize,
    },
    /// The publisher sends nothing for so many indices: they are lost.
    Lose(u64),
}

/// A script that follows from `seed` alone.
pub fn script(seed: u64) -> Vec<Step> {
    let mut random = Random::new(seed);
    let mut present = [false; VIEWERS as usize];
    // A viewer alone has a way of its own in the kernel: so one, two, one, two.
    let mut steps = vec![Step::Join(0)];
    for change in [Some(Step::Join(1)), Some(Step::Leave(1)), Some(Step::Join(1)), None] {
        for _ in 0..3 {
            steps.push(Step::Send { distances: burst(&mut random), payload_len: 9 + random.below(1190) });
        }
        steps.extend(change);
    }
    (present[0], present[1]) = (true, true);
    while steps.len() < STEPS {
        let step = match random.below(10) {
            0..=1 => {
                let viewer = random.below(present.len());
                present[viewer] = !present[viewer];
                if present[viewer] { Step::Join(viewer as u16) } else { Step::Leave(viewer as u16) }
            }
            2 => Step::Lose(random.below(300) as u64),
            _ => Step::Send { distances: burst(&mut random), payload_len: 9 + random.below(1190) },
        };
        steps.push(step);
    }
    steps
}

/// Packets in order, or with losses, swaps and repetitions.
fn burst(random: &mut Random) -> Vec<i64> {
    let mut distances: Vec<i64> = (0..1 + random.below(20) as i64).collect();
    if random.below(2) == 0 {
        return distances;
    }
    distances.retain(|_| random.below(8) != 0);
    for at in 1..distances.len() {
        if random.below(6) == 0 {
            distances.swap(at - 1, at);
        }
    }
    for _ in 0..random.below(4) {
        if let Some(again) = distances.get(random.below(distances.len().max(1))).copied() {
            // Also from before the burst: replayed, or too old.
            let back = [0, 1, 40, 400][random.below(4)];
            distances.insert(random.below(distances.len() + 1), again - back);
        }
    }
    distances
}

/// Packets by viewer, as they came off the wire.
pub type Received = BTreeMap<u16, Vec<Vec<u8>>>;

/// Plays a script to a running engine, over IPv4 on one link and IPv6 on another.
///
/// # Errors
/// The engine refuses something, or does not report in time what it did.
pub fn play<E: Engine>(lab: &Lab, server: &mut Server<E>, script: &[Step], key_len: usize) -> Result<Received> {
    let mut publisher = Publisher::join(
        server,
        &lab.peers[0],
        lab.server_address(0, false),
        address(0, 2, false, 5000),
        Key::test(key_len, 1),
    )?;
    let mut viewers: BTreeMap<u16, (Viewer, bool)> = BTreeMap::new();
    let mut received = Received::new();
    let mut sent = 0;
    for step in script {
        match step {
            Step::Join(number) => join(lab, server, &publisher, &mut viewers, *number, key_len)?,
            Step::Leave(number) => {
                if let Some((viewer, attached)) = viewers.get_mut(number) {
                    server.engine.remove_subscriber_track(viewer.track);
                    viewer.next_out = server.stopped(viewer.track)?;
                    *attached = false;
                }
            }
            Step::Lose(count) => publisher.index += count,
            Step::Send { distances, payload_len } => {
                publisher.payload_len = *payload_len;
                let next = publisher.index + 1;
                for distance in distances {
                    let index = next.saturating_add_signed(*distance);
                    publisher.send_index(index)?;
                    publisher.index = publisher.index.max(index);
                }
                sent += distances.len() as u64;
                settled(server, sent)?;
            }
        }
        // Everything arrives before the next thing happens: what is compared is what the engines do, not their speed.
        for (place, (number, (viewer, _))) in viewers.iter().enumerate() {
            let quiet =
                if place == 0 && matches!(step, Step::Send { .. }) { QUIET } else { Duration::from_micros(100) };
            received.entry(*number).or_default().extend(viewer.packets(quiet)?);
        }
    }
    ensure!(received.values().all(|packets| !packets.is_empty()), "a viewer got nothing: the script tests nothing");
    Ok(received)
}

/// Waits until the engine has made up its mind about so many packets in all, and has sent what it made of them: how long
/// that takes is not compared.
fn settled<E: Engine>(server: &Server<E>, sent: u64) -> Result<()> {
    const VERDICTS: [&str; 4] = ["opened", "drop_replayed", "drop_too_old", "drop_auth_failed"];
    let sum = |names: &[&str]| names.iter().map(|name| server.counter(name)).sum::<u64>();
    let give_up = Instant::now() + PATIENCE;
    while sum(&VERDICTS) < sent {
        ensure!(Instant::now() < give_up, "{sent} packets were sent: {:?}", server.engine.counters());
        thread::sleep(Duration::from_millis(1));
    }
    // Where the kernel does not tell what devices took, the silence after this is all there is.
    let give_up = Instant::now() + QUIET;
    while sum(&["transmitted", "drop_ring_full"]) < sum(&["sealed"]) && Instant::now() < give_up {
        thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

fn join<E: Engine>(
    lab: &Lab,
    server: &mut Server<E>,
    publisher: &Publisher,
    viewers: &mut BTreeMap<u16, (Viewer, bool)>,
    number: u16,
    key_len: usize,
) -> Result<()> {
    let viewer = match viewers.entry(number) {
        std::collections::btree_map::Entry::Occupied(entry) => {
            let (viewer, attached) = entry.into_mut();
            viewer.attach(server, publisher)?;
            *attached = true;
            viewer
        }
        std::collections::btree_map::Entry::Vacant(entry) => {
            let link = usize::from(number) % lab.peers.len();
            let ipv6 = link == 1;
            let (local, own) = (lab.server_address(link, ipv6), address(link, 2, ipv6, 10_000 + number));
            let key = Key::test(key_len, 100 + u32::from(number));
            let viewer = Viewer::join(server, publisher, &lab.peers[link], local, own, key)?;
            &mut entry.insert((viewer, true)).0
        }
    };
    let track = viewer.track;
    server.started(track)
}
