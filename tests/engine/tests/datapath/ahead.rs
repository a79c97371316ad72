//! Keystream that is not there, and plaintext for the userspace engine. (Rings that are filled:
//! `tests/engine_keystream.rs`, by their own producer.)

use anyhow::{Context, Result, ensure};
use aya::{maps::RingBuf, programs::XdpMode};
use forwarder_common::{Counter, maps::TapRecord, rtp::FIXED_LEN};
use tests_engine::wire::on_wire;

use crate::{
    egress::Fan,
    fixture::{Media, World, publishers},
};

/// What the tests of this file demand to move.
pub const EXERCISED: [Counter; 4] =
    [Counter::KeystreamUnderrun, Counter::KeystreamUnderrunOpen, Counter::Tapped, Counter::TapFull];

/// Tracks that have been promised a ring, whose place is still empty.
#[test]
fn without_keystream_it_is_aes_and_counted() -> Result<()> {
    on_wire(XdpMode::Driver, 1, |wire| {
        let fan = Fan::new(wire, 4)?;
        fan.wire.datapath.change_publisher(0, |track| track.keystream = 8)?;
        for slot in 0..4 {
            fan.wire.datapath.change_subscriber(slot, |track| track.keystream = 8)?;
        }
        let before = fan.wire.datapath.counters()?;
        let media = Media::of(&publishers()[0]);
        fan.wire.taps[0].send(&media.bytes())?;
        let copies = fan.wire.taps[0].receive_all(4, crate::egress::PATIENCE)?;
        ensure!(copies.len() == 4, "{} of 4 copies", copies.len());
        for (copy, member) in copies.iter().zip(&fan.members) {
            member.check(copy, &media)?;
        }
        let moved = fan.wire.datapath.counters()?.since(&before);
        for (counter, count) in [(Counter::KeystreamUnderrunOpen, 1), (Counter::KeystreamUnderrun, 4)] {
            ensure!(moved.contains(&(counter, count)), "counters moved: {moved:?}");
        }
        Ok(())
    })
}

#[test]
fn tapped_packets_reach_userspace_in_the_clear() -> Result<()> {
    const TAP: u32 = 0x8000_0007;
    on_wire(XdpMode::Driver, 1, |wire| {
        let fan = Fan::new(wire, 1)?;
        let datapath = &mut fan.wire.datapath;
        let mut taps = datapath.taps()?;
        // With and without subscribers in the kernel, and every payload length that is special.
        for (round, len) in [0, 1, 15, 16, 100, 1399, 1400, 1444].into_iter().enumerate() {
            let fanout = (round % 2 == 0).then_some(0);
            fan.wire.datapath.point_to_fanout(0, fanout)?;
            fan.wire.datapath.change_publisher(0, |track| track.tap = TAP)?;
            let mut media = Media::at(&publishers()[0], World::FIRST + 1 + round as u64);
            media.payload = (0..len).map(|i| (i * 7 + round) as u8).collect();
            fan.wire.taps[0].send(&media.bytes())?;
            if fanout.is_some() {
                fan.wire.taps[0].receive(crate::egress::PATIENCE)?.context("the kernel's own copy")?;
            }
            let record = next(&mut taps)?;
            let (tap, index, header, payload) = TapRecord::parse(&record).context("a record")?;
            ensure!((tap, index.0) == (TAP, media.index), "tap {tap:#x}, index {}", index.0);
            ensure!(payload == media.payload, "payload of {len} bytes");
            let sent = forwarder_common::RtpHeader::new(media.rtp.build()[..FIXED_LEN].try_into()?);
            ensure!(header == sent, "header {header:?}");
        }
        Ok(())
    })
}

#[test]
fn a_reader_that_is_too_slow_loses_packets_and_that_is_counted() -> Result<()> {
    on_wire(XdpMode::Driver, 1, |wire| {
        let fan = Fan::new(wire, 1)?;
        fan.wire.datapath.point_to_fanout(0, None)?;
        fan.wire.datapath.change_publisher(0, |track| track.tap = 1)?;
        let before = fan.wire.datapath.counters()?;
        for n in 0..1000 {
            fan.wire.taps[0].send(&Media::at(&publishers()[0], World::FIRST + 1 + n).bytes())?;
        }
        let counters = fan.wire.datapath.counters_at_rest()?;
        let moved = |counter| counters.get(counter) - before.get(counter);
        let (tapped, full) = (moved(Counter::Tapped), moved(Counter::TapFull));
        ensure!(tapped > 0 && full > 0 && tapped + full == moved(Counter::Opened), "{tapped} tapped, {full} lost");
        Ok(())
    })
}

/// The next record. On a quiet machine the datapath has submitted it by the time that its packet was sent.
fn next(taps: &mut RingBuf<aya::maps::MapData>) -> Result<Vec<u8>> {
    for _ in 0..4000 {
        if let Some(record) = taps.next() {
            return Ok(record.to_vec());
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    anyhow::bail!("no record came")
}
