//! One subscriber and all keystream there: opened, sealed and sent in one run. Whatever is missing, it is
//! the same packet by the long way.

use anyhow::{Context, Result, ensure};
use aya::programs::XdpMode;
use forwarder_common::{Counter, keystream::FAST_BLOCKS, subsets};
use tests_engine::wire::{Wire, on_wire};
use tests_engine::{
    bpf::{Datapath, Lease, Publisher},
    keystream::{Keystreams, Ring},
};
use tests_kit::{
    frame::DOT1Q,
    srtp::{Key, Random},
};

use crate::{
    egress::{Fan, Member, PATIENCE},
    fixture::{Media, World, publishers},
    lengths::random_header,
};

/// What the tests of this file demand to move.
pub const EXERCISED: [Counter; 1] = [Counter::Direct];

/// More than packets that a test has in flight.
const ENTRIES: u32 = 8;

/// Member `number` alone, and a publisher whose keystream a test fills.
struct One<'a> {
    fan: Fan<'a>,
    publisher: Publisher,
    keystreams: Keystreams,
}

impl<'a> One<'a> {
    fn new(wire: &'a mut Wire, number: u32, mut publisher: Publisher) -> Result<Self> {
        let mut member = Member::mixed(number, 0, wire.nics[0])?;
        member.subscriber.key = Key::random(member.subscriber.key.key.len());
        publisher.key = Key::random(publisher.key.key.len());
        let fan = Fan::of(wire, vec![member])?;
        fan.wire.datapath.set_publisher(0, &publisher)?;
        let keystreams = keystreams(&mut fan.wire.datapath, &publisher, &fan.members)?;
        Ok(Self { fan, publisher, keystreams })
    }

    /// A random packet.
    fn media(&self, index: u64, len: usize, random: &mut Random) -> Media {
        let mut media = Media::at(&self.publisher, index);
        random_header(&mut media, random);
        media.payload = random.bytes(len);
        media
    }
}

fn keystreams(datapath: &mut Datapath, publisher: &Publisher, members: &[Member]) -> Result<Keystreams> {
    let members = members.iter().map(|member| &member.subscriber);
    let tracks = members.map(|subscriber| (&subscriber.key, subscriber.ssrc, subscriber.index_offset));
    Keystreams::install(datapath, (&publisher.key, publisher.ssrc), tracks, ENTRIES)
}

/// What must move, if there is one subscriber, and keystream for whoever takes it.
pub fn direct(media: &Media) -> Vec<(Counter, u64)> {
    let (header, len) = (media.rtp.build().len(), media.payload.len());
    if len > Ring::LONGEST {
        return vec![(Counter::KeystreamUnderrun, 1), (Counter::KeystreamUnderrunOpen, 1)];
    }
    let fits = 1 + header.div_ceil(16) + len.div_ceil(16) <= subsets::BLOCKS;
    vec![(Counter::Direct, u64::from(fits))]
}

/// Every payload length and kind of header; 128 and 256 bits, IPv4 and IPv6, with and without 802.1Q, on
/// both sides; bytes behind the packet.
#[test]
fn every_length() -> Result<()> {
    let lengths = |step| (0..=Ring::LONGEST).step_by(step).chain([15, 16, 17, 63, 64, 65, 1247, 1248, 1249]);
    let runs = [(0, 0, 1), (1, 1, 1), (2, 1, 7), (3, 0, 7), (5, 1, 7), (8, 0, 7)];
    for (number, publisher, step) in runs {
        on_wire(XdpMode::Driver, 1, |wire| {
            let mut one = One::new(wire, number, publishers()[publisher].clone())?;
            let mut random = Random::new(u64::from(number));
            for (i, len) in lengths(step).enumerate() {
                let media = one.media(World::FIRST + 1 + i as u64, len, &mut random);
                one.keystreams.fill(media.index)?;
                let mut frame = media.frame();
                frame.tags = if i % 3 == 0 { vec![(DOT1Q, 7)] } else { vec![] };
                frame.trailer = vec![0; i % 5];
                let sent = one.fan.send_counting(&media, &frame.build(), &direct(&media));
                sent.with_context(|| format!("member {number}, payload of {len} bytes"))?;
            }
            one.fan.silent()
        })?;
    }
    Ok(())
}

#[test]
fn generic_mode() -> Result<()> {
    for number in [0, 1, 2] {
        on_wire(XdpMode::Skb, 1, |wire| {
            let mut one = One::new(wire, number, publishers()[0].clone())?;
            let mut random = Random::new(5);
            for (i, len) in [0, 1, 16, 100, 1100, 1248].into_iter().enumerate() {
                let media = one.media(World::FIRST + 1 + i as u64, len, &mut random);
                one.keystreams.fill(media.index)?;
                one.fan.send_counting(&media, &media.bytes(), &direct(&media))?;
            }
            one.fan.silent()
        })?;
    }
    Ok(())
}

/// Without the publisher's keystream, the subscriber's, or both.
#[test]
fn missing_keystream() -> Result<()> {
    for (number, publisher) in [(0, 1), (1, 0), (2, 0), (3, 1)] {
        on_wire(XdpMode::Driver, 1, |wire| {
            let mut one = One::new(wire, number, publishers()[publisher].clone())?;
            let mut random = Random::new(6);
            for round in 0..40 {
                let len = 1 + random.below(Ring::LONGEST);
                let mut media = one.media(World::FIRST + 1 + round, len, &mut random);
                media.rtp.extension = None;
                let more = match round % 4 {
                    0 => {
                        one.keystreams.fill(media.index)?;
                        direct(&media)
                    }
                    1 => {
                        one.keystreams.fill_some(media.index, &[])?;
                        vec![(Counter::KeystreamUnderrun, 1)]
                    }
                    2 => {
                        one.keystreams.fill_copies(media.index)?;
                        vec![(Counter::KeystreamUnderrunOpen, 1)]
                    }
                    _ => vec![(Counter::KeystreamUnderrun, 1), (Counter::KeystreamUnderrunOpen, 1)],
                };
                one.fan.send_counting(&media, &media.bytes(), &more).with_context(|| format!("round {round}"))?;
            }
            one.fan.silent()
        })?;
    }
    Ok(())
}

/// Entries of every length on both sides: what does not fit goes the long way, and what an entry holds behind
/// its blocks, here ones, never leaves.
#[test]
fn entries_of_every_length() -> Result<()> {
    for (number, publisher) in [(0, 1), (3, 0)] {
        on_wire(XdpMode::Driver, 1, |wire| {
            let mut one = One::new(wire, number, publishers()[publisher].clone())?;
            let mut random = Random::new(8);
            for round in 0..600 {
                let most = [3, 8, 30, FAST_BLOCKS][random.below(4)];
                let blocks = [1 + random.below(most), 1 + random.below(most)];
                // Often just what an entry has, or a byte more.
                let lens = [random.below(16 * most + 1), 16 * blocks[0], 16 * blocks[1], 16 * blocks[1] + 1];
                let len = lens[random.below(4)].min(Ring::LONGEST);
                let mut media = one.media(World::FIRST + 1 + round, len, &mut random);
                media.rtp.extension = None;
                one.keystreams.fill_blocks(media.index, &blocks)?;
                let short = blocks.map(|blocks| u64::from(16 * blocks < len));
                let more = [
                    (Counter::KeystreamUnderrunOpen, short[0]),
                    (Counter::KeystreamUnderrun, short[1]),
                    (Counter::Direct, u64::from(short == [0, 0])),
                ];
                let sent = one.fan.send_counting(&media, &media.bytes(), &more);
                sent.with_context(|| format!("round {round}: {len} bytes, entries of {blocks:?}"))?;
            }
            one.fan.silent()
        })?;
    }
    Ok(())
}

/// A forged packet takes no keystream and sends nothing; the true one with its index goes the short way.
#[test]
fn forged_then_true_then_again() -> Result<()> {
    on_wire(XdpMode::Driver, 1, |wire| {
        let mut one = One::new(wire, 3, publishers()[0].clone())?;
        let mut random = Random::new(7);
        for round in 0..30 {
            let len = random.below(1100);
            let media = one.media(World::FIRST + 1 + round, len, &mut random);
            one.keystreams.fill(media.index)?;
            let good = media.bytes();
            let datapath = &one.fan.wire.datapath;
            let (before, state) = (datapath.counters()?, datapath.publisher_state(0)?);
            for part in 0..3 {
                let mut forged = good.clone();
                let at = match part {
                    0 => good.len() - 1 - random.below(16),
                    1 => good.len() - 1 - random.below(len + 16),
                    // The timestamp, which only the tag protects.
                    _ => 42 + 4 + random.below(4),
                };
                forged[at] ^= 1 << random.below(8);
                one.fan.wire.taps[0].send(&forged)?;
            }
            let datapath = &one.fan.wire.datapath;
            let moved = datapath.moved_with(&before, Counter::DropAuthFailed)?;
            ensure!(moved == [(Counter::DropAuthFailed, 3)], "counters moved: {moved:?}");
            let after = datapath.publisher_state(0)?;
            ensure!(after.replay.highest() == state.replay.highest() && after.packets == state.packets, "state moved");
            one.fan.send_counting(&media, &good, &direct(&media)).with_context(|| format!("round {round}"))?;
            let before = one.fan.wire.datapath.counters()?;
            one.fan.wire.taps[0].send(&good)?;
            let moved = one.fan.wire.datapath.moved_with(&before, Counter::DropReplayed)?;
            ensure!(moved == [(Counter::DropReplayed, 1)], "counters moved: {moved:?}");
        }
        one.fan.silent()
    })
}

/// The second viewer comes and goes, packet by packet; the frames follow each other as fast as they can.
#[test]
fn one_two_one() -> Result<()> {
    const ROUNDS: u64 = 60;
    for mode in [XdpMode::Driver, XdpMode::Skb] {
        on_wire(mode, 1, |wire| {
            let ifindex = wire.nics[0];
            let fan = Fan::new(wire, 2)?;
            let publisher = publishers()[0].clone();
            fan.wire.datapath.set_fanout(1, &[(ifindex, vec![0])])?;
            let mut keystreams = keystreams(&mut fan.wire.datapath, &publisher, &fan.members)?;
            let mut random = Random::new(8);
            let before = fan.wire.datapath.counters()?;
            let mut singles = 0;
            for burst in 0..ROUNDS / 4 {
                let packets: Vec<Media> = (0..4)
                    .map(|n| {
                        let mut media = Media::at(&publisher, World::FIRST + 1 + 4 * burst + n);
                        media.payload = random.bytes(1 + n as usize * 300);
                        media
                    })
                    .collect();
                for media in &packets {
                    keystreams.fill(media.index)?;
                }
                for media in packets {
                    let two = random.below(2) == 0;
                    fan.wire.datapath.point_to_fanout(0, Some(u32::from(!two)))?;
                    fan.wire.taps[0].send(&media.bytes())?;
                    singles += u64::from(!two);
                    // Before the track turns again: a busy kernel may take the packet later.
                    let members = if two { 2 } else { 1 };
                    let copies = fan.wire.taps[0].receive_all(members, PATIENCE)?;
                    ensure!(copies.len() == members, "{} of {members} copies", copies.len());
                    for (copy, member) in copies.iter().zip(&fan.members) {
                        member.check(copy, &media)?;
                    }
                }
            }
            let moved = fan.wire.datapath.counters()?.since(&before);
            ensure!(moved.contains(&(Counter::Direct, singles)), "{singles} packets for one, {moved:?}");
            ensure!(!moved.iter().any(|(counter, _)| *counter == Counter::KeystreamUnderrun), "{moved:?}");
            let states = [0, 1].map(|slot| fan.wire.datapath.subscriber_state(slot).map(|state| state.packets));
            let [first, second] = states;
            ensure!((first?, second?) == (ROUNDS, ROUNDS - singles), "packets of the subscribers");
            fan.silent()
        })?;
    }
    Ok(())
}

/// Plaintext is wanted as well: the long way, and the tap has it.
#[test]
fn with_a_tap_it_is_the_long_way() -> Result<()> {
    on_wire(XdpMode::Driver, 1, |wire| {
        let mut one = One::new(wire, 0, publishers()[0].clone())?;
        let mut random = Random::new(9);
        one.fan.wire.datapath.change_publisher(0, |track| track.tap = 1)?;
        let media = one.media(World::FIRST + 1, 700, &mut random);
        one.keystreams.fill(media.index)?;
        one.fan.send_counting(&media, &media.bytes(), &[(Counter::Tapped, 1)])
    })
}

/// What egress would drop is dropped and counted as ever, and takes no keystream of the subscriber.
#[test]
fn drops_are_counted_as_ever() -> Result<()> {
    type Arrange = fn(&mut Datapath) -> Result<()>;
    let faults: [(Arrange, Counter); 3] = [
        (|datapath| datapath.set_lease(Datapath::FIRST_SUBSCRIBER, Lease::Expired), Counter::DropSubscriberExpired),
        (|datapath| datapath.change_subscriber(0, |track| track.first_in = u64::MAX >> 17), Counter::DropBeforeJoin),
        (|datapath| datapath.change_path(0, |path| path.header_len = 43), Counter::DropInternalEgress),
    ];
    for (arrange, reason) in faults {
        let checked = on_wire(XdpMode::Driver, 1, |wire| {
            let mut one = One::new(wire, 0, publishers()[0].clone())?;
            arrange(&mut one.fan.wire.datapath)?;
            let before = one.fan.wire.datapath.counters()?;
            let media = Media::at(&one.publisher, World::FIRST + 1);
            one.keystreams.fill(media.index)?;
            one.fan.wire.taps[0].send(&media.bytes())?;
            // At most the frame that kicks the device.
            if let Some(frame) = one.fan.wire.taps[0].receive(std::time::Duration::from_millis(30))? {
                ensure!(frame[12..14] == [0x88, 0xb6], "a copy left: {}", hex::encode(frame));
            }
            let moved = one.fan.wire.datapath.moved_with(&before, reason)?;
            let count = |counter| moved.iter().find(|(other, _)| *other == counter).map_or(0, |(_, by)| *by);
            ensure!(count(reason) == 1 && count(Counter::Opened) == 1, "counters moved: {moved:?}");
            ensure!(count(Counter::Sealed) == 0 && count(Counter::Direct) == 0, "counters moved: {moved:?}");
            let state = one.fan.wire.datapath.subscriber_state(0)?;
            ensure!(state.packets == 0 && state.drops.iter().sum::<u64>() == 1, "{state:?}");
            Ok(())
        });
        checked.with_context(|| format!("{reason:?}"))?;
    }
    Ok(())
}
