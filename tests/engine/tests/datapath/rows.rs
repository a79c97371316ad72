//! Filled rings: with many copies every tag is made of the packet's rows, with few by table, and every
//! mixture gives what the reference gives.

use anyhow::{Context, Result, ensure};
use aya::programs::XdpMode;
use forwarder_common::{Counter, keystream::FAST_BLOCKS, tower};
use tests_engine::wire::on_wire_with;
use tests_engine::{
    bpf::Ways,
    keystream::{Keystreams, Ring},
};
use tests_kit::srtp::{Key, Random};

use crate::{
    direct::direct,
    egress::{Fan, Member},
    fixture::{Media, World, publishers},
    lengths::random_header,
};

/// What the tests of this file demand to move.
pub const EXERCISED: [Counter; 2] = [Counter::OpenedByRows, Counter::SealedByRows];

/// More than packets that a test has in flight.
const ENTRIES: u32 = 8;

/// Blocks of header and payload that rows have room for.
const MOST_BLOCKS: usize = tower::ROWS - 1;

fn keystreams(fan: &mut Fan<'_>) -> Result<Keystreams> {
    let publisher = &publishers()[0];
    let members = fan.members.iter().map(|member| &member.subscriber);
    let tracks: Vec<_> =
        members.map(|subscriber| (&subscriber.key, subscriber.ssrc, subscriber.index_offset)).collect();
    Keystreams::install(&mut fan.wire.datapath, (&publisher.key, publisher.ssrc), tracks, ENTRIES)
}

/// Rows for every packet.
const ALWAYS: Ways = Ways { tower_work: 0, direct: false };

/// What must move when all keystream is there, and packets go these ways.
fn by_rows(ways: Ways, media: &Media, copies: u64) -> Vec<(Counter, u64)> {
    let len = media.payload.len();
    if copies == 1 && ways.direct {
        return direct(media);
    }
    if len > Ring::LONGEST {
        return vec![(Counter::KeystreamUnderrun, copies), (Counter::KeystreamUnderrunOpen, 1)];
    }
    if copies as usize * len.div_ceil(16) < ways.tower_work as usize {
        return Vec::new();
    }
    let header = media.rtp.build().len();
    let opened = header.div_ceil(16) + len.div_ceil(16) <= MOST_BLOCKS;
    vec![(Counter::OpenedByRows, u64::from(opened)), (Counter::SealedByRows, copies)]
}

/// Every payload length, 128 and 256 bits, IPv4 and IPv6 (so also under the UDP checksum), with headers
/// of every kind.
#[test]
fn every_length() -> Result<()> {
    on_wire_with(ALWAYS, XdpMode::Driver, 1, |wire| {
        let ifindex = wire.nics[0];
        let mut members = (0..4).map(|number| Member::mixed(number, 0, ifindex)).collect::<Result<Vec<_>>>()?;
        for member in &mut members {
            member.subscriber.key = Key::random(member.subscriber.key.key.len());
        }
        let mut fan = Fan::of(wire, members)?;
        let mut keystreams = keystreams(&mut fan)?;
        let mut random = Random::new(11);
        for len in 0..=crate::egress::FOR_ALL {
            let mut media = Media::at(&publishers()[0], World::FIRST + 1 + len as u64);
            random_header(&mut media, &mut random);
            media.payload = random.bytes(len);
            keystreams.fill(media.index)?;
            let more = by_rows(ALWAYS, &media, 4);
            fan.send_counting(&media, &media.bytes(), &more).with_context(|| format!("payload of {len} bytes"))?;
        }
        fan.silent()
    })
}

/// Below and above the work from which rows are used, without such a limit, and in both modes.
#[test]
fn every_fan_out() -> Result<()> {
    let runs = [
        (XdpMode::Driver, Ways::default(), &[1, 2, 3, 8, 16, 17, 40][..]),
        (XdpMode::Driver, ALWAYS, &[1, 2, 20]),
        (XdpMode::Skb, Ways::default(), &[2, 3, 20]),
    ];
    for (mode, ways, counts) in runs {
        for count in counts {
            on_wire_with(ways, mode, 1, |wire| {
                let mut fan = Fan::new(wire, *count)?;
                let mut keystreams = keystreams(&mut fan)?;
                let mut random = Random::new(u64::from(*count));
                for (i, len) in
                    [0, 1, 15, 16, 17, 63, 64, 65, 112, 113, 1100, 1247, 1248, 1249, 1388, crate::egress::FOR_ALL]
                        .into_iter()
                        .enumerate()
                {
                    let mut media = Media::at(&publishers()[0], World::FIRST + 1 + i as u64);
                    random_header(&mut media, &mut random);
                    media.payload = random.bytes(len);
                    keystreams.fill(media.index)?;
                    let more = by_rows(ways, &media, u64::from(*count));
                    let sent = fan.send_counting(&media, &media.bytes(), &more);
                    sent.with_context(|| format!("{mode:?}, {count} copies, {len} bytes"))?;
                }
                fan.silent()
            })?;
        }
    }
    Ok(())
}

/// Entries of every length, for payloads of every length: what fits is sealed from them, what does not goes
/// by AES, and what an entry holds behind its blocks, here ones, never leaves.
#[test]
fn entries_of_every_length() -> Result<()> {
    on_wire_with(ALWAYS, XdpMode::Driver, 1, |wire| {
        let mut fan = Fan::new(wire, 4)?;
        let mut keystreams = keystreams(&mut fan)?;
        let mut random = Random::new(7);
        for round in 0..600 {
            let mut media = Media::at(&publishers()[0], World::FIRST + 1 + round);
            let most = [3, 8, 30, FAST_BLOCKS][random.below(4)];
            let blocks: Vec<usize> = (0..5).map(|_| 1 + random.below(most)).collect();
            // Often just what an entry has, or a byte more.
            let lens = [random.below(16 * most + 1), 16 * blocks[0], 16 * blocks[1], 16 * blocks[2] + 1];
            let len = lens[random.below(4)].min(Ring::LONGEST);
            media.payload = random.bytes(len);
            keystreams.fill_blocks(media.index, &blocks)?;
            let short: Vec<u64> = blocks.iter().map(|blocks| u64::from(16 * blocks < media.payload.len())).collect();
            let copies: u64 = short[1..].iter().sum();
            let more = [
                (Counter::KeystreamUnderrun, copies),
                (Counter::KeystreamUnderrunOpen, short[0]),
                (Counter::OpenedByRows, 1 - short[0]),
                (Counter::SealedByRows, 4 - copies),
            ];
            let sent = fan.send_counting(&media, &media.bytes(), &more);
            sent.with_context(|| format!("round {round}: {} bytes, entries of {blocks:?}", media.payload.len()))?;
        }
        fan.silent()
    })
}

/// A packet that is opened by AES still gives its copies rows; copies without keystream do without.
#[test]
fn some_keystream_is_missing() -> Result<()> {
    on_wire_with(ALWAYS, XdpMode::Driver, 1, |wire| {
        let mut fan = Fan::new(wire, 6)?;
        let mut keystreams = keystreams(&mut fan)?;
        let mut random = Random::new(3);
        for round in 0..40 {
            let mut media = Media::at(&publishers()[0], World::FIRST + 1 + round);
            let len = 1 + random.below(Ring::LONGEST);
            media.payload = random.bytes(len);
            let more = if round % 2 == 0 {
                keystreams.fill_copies(media.index)?;
                vec![(Counter::KeystreamUnderrunOpen, 1), (Counter::SealedByRows, 6)]
            } else {
                keystreams.fill_some(media.index, &[0, 3, 5])?;
                vec![(Counter::KeystreamUnderrun, 3), (Counter::OpenedByRows, 1), (Counter::SealedByRows, 3)]
            };
            fan.send_counting(&media, &media.bytes(), &more).with_context(|| format!("round {round}"))?;
        }
        fan.silent()
    })
}

/// A forged packet meets a filled ring: nothing leaves, nothing moves, and the true packet with the same
/// index still has its keystream and rows of its own.
#[test]
fn forged_then_true() -> Result<()> {
    on_wire_with(ALWAYS, XdpMode::Driver, 1, |wire| {
        let mut fan = Fan::new(wire, 5)?;
        let mut keystreams = keystreams(&mut fan)?;
        let mut random = Random::new(4);
        for round in 0..30 {
            let mut media = Media::at(&publishers()[0], World::FIRST + 1 + round);
            random_header(&mut media, &mut random);
            let len = 1 + random.below(1100);
            media.payload = random.bytes(len);
            keystreams.fill(media.index)?;
            let good = media.bytes();
            let (before, state) = (fan.wire.datapath.counters()?, fan.wire.datapath.publisher_state(0)?);
            for _ in 0..3 {
                let mut forged = good.clone();
                // In the payload or the tag.
                let at = forged.len() - 1 - random.below(media.payload.len() + 16);
                forged[at] ^= 1 << random.below(8);
                fan.wire.taps[0].send(&forged)?;
            }
            let moved = fan.wire.datapath.moved_with(&before, Counter::DropAuthFailed)?;
            ensure!(moved == [(Counter::DropAuthFailed, 3)], "counters moved: {moved:?}");
            let after = fan.wire.datapath.publisher_state(0)?;
            ensure!(after.replay.highest() == state.replay.highest() && after.packets == state.packets, "state moved");
            let more = by_rows(ALWAYS, &media, 5);
            fan.send_counting(&media, &good, &more).with_context(|| format!("round {round}"))?;
        }
        fan.silent()
    })
}
