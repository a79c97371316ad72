//! Copies and packets that must not go out.

use anyhow::{Context, Result, ensure};
use aya::programs::XdpMode;
use forwarder_common::{Counter, SessionKey};
use tests_engine::bpf::{Datapath, Lease};
use tests_engine::wire::on_wire;

use crate::{
    egress::{Fan, PATIENCE},
    fixture::{Media, World, publishers},
};

/// What the tests of this file demand to move.
pub const EXERCISED: [Counter; 4] =
    [Counter::DropSubscriberExpired, Counter::DropBeforeJoin, Counter::DropInternalEgress, Counter::Kicks];

/// A fault of one copy, and the counter that tells of it.
type Fault = (&'static str, fn(&mut Datapath, u32) -> Result<()>, Counter);

const FAULTED: u32 = 1;

/// Each way in which a copy can fail drops that copy, and only that one.
#[test]
fn a_dropped_copy_leaves_the_others_alone() -> Result<()> {
    let faults: [Fault; 7] = [
        (
            "lease ran out",
            |datapath, slot| datapath.set_lease(Datapath::FIRST_SUBSCRIBER + slot, Lease::Expired),
            Counter::DropSubscriberExpired,
        ),
        (
            "packet from before the join",
            |datapath, slot| datapath.change_subscriber(slot, |track| track.first_in = World::FIRST + 2),
            Counter::DropBeforeJoin,
        ),
        (
            "session without a key",
            |datapath, slot| datapath.set_key(Datapath::FIRST_SUBSCRIBER + slot, SessionKey::EMPTY),
            Counter::DropInternalEgress,
        ),
        (
            "session slot beyond the map",
            |datapath, slot| datapath.change_subscriber(slot, |track| track.session = 1_000_000),
            Counter::DropInternalEgress,
        ),
        (
            "session without a path",
            |datapath, slot| {
                datapath.change_session(Datapath::FIRST_SUBSCRIBER + slot, |session| session.path = u32::MAX)
            },
            Counter::DropInternalEgress,
        ),
        (
            "path by another interface",
            |datapath, slot| datapath.change_path(slot, |path| path.egress_ifindex += 1000),
            Counter::DropInternalEgress,
        ),
        (
            "path with a header of no known length",
            |datapath, slot| datapath.change_path(slot, |path| path.header_len = 43),
            Counter::DropInternalEgress,
        ),
    ];
    let demanded: Vec<Counter> = faults.iter().map(|(_, _, counter)| *counter).collect();
    assert!(EXERCISED.iter().all(|counter| demanded.contains(counter) || *counter == Counter::Kicks));
    for (name, arrange, counter) in faults {
        let checked = on_wire(XdpMode::Driver, 1, |wire| {
            let fan = Fan::new(wire, 4)?;
            arrange(&mut fan.wire.datapath, FAULTED)?;
            let before = fan.wire.datapath.counters()?;
            let media = Media::of(&publishers()[0]);
            fan.wire.taps[0].send(&media.bytes())?;
            let copies = fan.wire.taps[0].receive_all(3, PATIENCE)?;
            ensure!(copies.len() == 3, "{} of 3 copies came", copies.len());
            for (copy, member) in copies.iter().zip([0, 2, 3]) {
                fan.members[member].check(copy, &media)?;
            }
            fan.silent()?;
            let moved = fan.wire.datapath.moved_with(&before, counter)?;
            let len = media.payload.len() as u64;
            let expected = [
                (counter, 1),
                (Counter::Opened, 1),
                (Counter::OpenedBytes, len),
                (Counter::Sealed, 3),
                (Counter::SealedBytes, 3 * len),
            ];
            ensure!(moved == expected, "counters moved: {moved:?}, expected {expected:?}");
            let state = fan.wire.datapath.subscriber_state(FAULTED)?;
            ensure!(state.packets == 0 && state.drops.iter().sum::<u64>() == 1, "{state:?}");
            Ok(())
        });
        checked.with_context(|| format!("fault `{name}`"))?;
    }
    Ok(())
}

/// The kernel kicks a device with the last copy, so a frame that nobody takes goes in its place.
#[test]
fn a_dropped_last_copy_becomes_a_kick() -> Result<()> {
    on_wire(XdpMode::Driver, 1, |wire| {
        let fan = Fan::new(wire, 4)?;
        fan.wire.datapath.set_lease(Datapath::FIRST_SUBSCRIBER + 3, Lease::Expired)?;
        let before = fan.wire.datapath.counters()?;
        let media = Media::of(&publishers()[0]);
        fan.wire.taps[0].send(&media.bytes())?;
        let frames = fan.wire.taps[0].receive_all(4, PATIENCE)?;
        let moved = fan.wire.datapath.counters()?.since(&before);
        ensure!(frames.len() == 4, "{} of 4 frames came; {moved:?}", frames.len());
        for (copy, member) in frames.iter().zip(&fan.members[..3]) {
            member.check(copy, &media)?;
        }
        let (macs, rest) = frames[3].split_at(12);
        ensure!(macs[..6] == macs[6..] && rest[..2] == [0x88, 0xb6], "{:02x?}", frames[3]);
        ensure!(rest.len() == 48 && rest[2..].iter().all(|byte| *byte == 0), "media in it: {rest:02x?}");
        let moved = fan.wire.datapath.counters()?.since(&before);
        ensure!(moved.contains(&(Counter::Kicks, 1)) && moved.contains(&(Counter::DropSubscriberExpired, 1)));
        Ok(())
    })
}

/// What is not opened reaches nobody.
#[test]
fn nothing_leaves_for_a_packet_that_is_not_opened() -> Result<()> {
    on_wire(XdpMode::Driver, 1, |wire| {
        let mut fan = Fan::new(wire, 3)?;
        let media = Media::of(&publishers()[0]);
        let mut forged = media.frame();
        *forged.payload.last_mut().context("tag")? ^= 1;
        let before = fan.wire.datapath.counters()?;
        fan.wire.taps[0].send(&forged.build())?;
        fan.wire.datapath.moved_with(&before, Counter::DropAuthFailed)?;
        fan.silent()?;
        fan.send(&media, &media.bytes())?;
        fan.wire.taps[0].send(&media.bytes())?;
        fan.silent()
    })
}
