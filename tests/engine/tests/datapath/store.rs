//! What is counted beside a packet's way: gaps before it, and that it is not kept. What is kept, and sent again:
//! `engine_repair`.

use anyhow::{Result, ensure};
use forwarder_common::{Counter, store::Range};

use crate::fixture::{Media, World};

/// What the tests of this file demand to move.
pub const EXERCISED: [Counter; 2] = [Counter::NotKept, Counter::Gaps];

/// How much a counter moves while a packet runs.
fn counted(world: &mut World, packet: &[u8], counter: Counter) -> Result<u64> {
    let before = world.datapath.counters()?;
    world.datapath.ingress(packet)?;
    let after = world.datapath.counters()?;
    ensure!(after.get(Counter::Opened) <= before.get(Counter::Opened) + 1);
    Ok(after.get(counter) - before.get(counter))
}

#[test]
fn packets_that_come_ahead_of_others_are_counted() -> Result<()> {
    let mut world = World::new()?;
    let publisher = world.publishers[0].clone();
    // By distance from the first one: in order, ahead, late, in order again, ahead by half a cycle nearly.
    for (distance, gaps) in [(1, 0), (5, 1), (3, 0), (6, 0), (0x7000, 1), (0x7000, 0)] {
        let media = Media::at(&publisher, World::FIRST + distance);
        let moved = counted(&mut world, &media.bytes(), Counter::Gaps)?;
        ensure!(moved == gaps, "{moved} gaps at {distance}");
    }
    // What is not authentic says nothing.
    let mut forged = Media::at(&publisher, World::FIRST + 0x7010).bytes();
    let last = forged.len() - 1;
    forged[last] ^= 1;
    ensure!(counted(&mut world, &forged, Counter::Gaps)? == 0, "a forged packet");
    Ok(())
}

#[test]
fn a_packet_that_cannot_be_kept_goes_on() -> Result<()> {
    let mut world = World::new()?;
    let publisher = world.publishers[0].clone();
    // There is no such chunk.
    let store = Range { first: 0, chunks_log: 0 }.pack();
    world.datapath.change_publisher(0, |track| track.store = store)?;
    for distance in 1..4 {
        let media = Media::at(&publisher, World::FIRST + distance);
        let not_kept = counted(&mut world, &media.bytes(), Counter::NotKept)?;
        ensure!(not_kept == 1, "{not_kept}");
    }
    ensure!(world.datapath.publisher_state(0)?.packets == 3, "they were opened all the same");
    Ok(())
}
