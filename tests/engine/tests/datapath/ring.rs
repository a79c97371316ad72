//! What the egress device takes, and what it refuses because its ring is full.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use aya::programs::XdpMode;
use forwarder_common::Counter;
use tests_engine::wire::on_wire;

use crate::{
    egress::Fan,
    fixture::{Media, World, publishers},
};

/// What the tests of this file demand to move.
pub const EXERCISED: [Counter; 2] = [Counter::Transmitted, Counter::DropRingFull];

const MEMBERS: u32 = 200;

/// Packets of both publishers, sent from two threads so that several meet in one poll: the first of
/// them fills the ring of 256 frames, and the kernel drops and reports what comes after.
#[test]
fn a_full_ring_is_counted() -> Result<()> {
    on_wire(XdpMode::Driver, 1, |wire| {
        wire.datapath.watch_transmission()?;
        let fan = Fan::new(wire, MEMBERS)?;
        let before = fan.wire.datapath.counters()?;
        let tap = &fan.wire.taps[0];
        let next = AtomicU64::new(World::FIRST + 1);
        let end = Instant::now() + Duration::from_secs(20);
        let (mut arrived, mut packets) = (0, 0);
        loop {
            // Few enough copies for the socket's buffer, then count what came.
            thread::scope(|scope| -> Result<()> {
                let senders = publishers().map(|publisher| {
                    let next = &next;
                    scope.spawn(move || -> Result<()> {
                        for _ in 0..20 {
                            let media = Media::at(&publisher, next.fetch_add(1, Ordering::Relaxed));
                            tap.send(&media.bytes())?;
                        }
                        Ok(())
                    })
                });
                packets += 2 * 20;
                senders.into_iter().try_for_each(|sender| sender.join().expect("sender"))
            })?;
            while tap.receive(Duration::from_millis(50))?.is_some() {
                arrived += 1;
            }
            let moved = fan.wire.datapath.counters_at_rest()?;
            while tap.receive(Duration::from_millis(50))?.is_some() {
                arrived += 1;
            }
            let by = |counter| moved.get(counter) - before.get(counter);
            ensure!(by(Counter::Opened) == packets, "{} of {packets} packets opened", by(Counter::Opened));
            ensure!(by(Counter::Sealed) == packets * u64::from(MEMBERS), "{} sealed", by(Counter::Sealed));
            let (taken, refused) = (by(Counter::Transmitted), by(Counter::DropRingFull));
            ensure!(taken + refused == by(Counter::Sealed), "{taken} taken and {refused} refused");
            ensure!(tap.lost()? == 0, "the reader's own buffer overflowed");
            ensure!(taken == arrived, "the device took {taken} copies and {arrived} arrived");
            if refused > 0 {
                println!("{packets} packets: {taken} copies taken, {refused} refused");
                return Ok(());
            }
            ensure!(Instant::now() < end, "the ring was never full in {packets} packets of {MEMBERS} copies");
        }
    })
}

/// Without pressure every copy is taken, and copies that our own program drops are not the ring's.
#[test]
fn an_empty_ring_takes_everything() -> Result<()> {
    on_wire(XdpMode::Driver, 1, |wire| {
        wire.datapath.watch_transmission()?;
        let fan = Fan::new(wire, 20)?;
        fan.wire.datapath.change_subscriber(3, |track| track.first_in = u64::MAX)?;
        let before = fan.wire.datapath.counters()?;
        for index in 1..=10 {
            let media = Media::at(&publishers()[0], World::FIRST + index);
            fan.wire.taps[0].send(&media.bytes())?;
            let copies = fan.wire.taps[0].receive_all(19, crate::egress::PATIENCE)?;
            ensure!(copies.len() == 19, "{} of 19 copies", copies.len());
        }
        let moved = fan.wire.datapath.counters_at_rest()?.since(&before);
        let by = |counter| moved.iter().find(|(other, _)| *other == counter).map_or(0, |(_, by)| *by);
        ensure!(by(Counter::Transmitted) == 190 && by(Counter::DropRingFull) == 0, "{moved:?}");
        ensure!(by(Counter::DropBeforeJoin) == 10, "{moved:?}");
        Ok(())
    })
    .context("20 members, one of them not joined yet")
}
