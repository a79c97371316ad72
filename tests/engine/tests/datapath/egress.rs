//! Copies: each subscriber gets its own headers, numbers and key, and nothing else changes.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context, Result, ensure};
use aya::programs::XdpMode;
use forwarder_common::{
    Counter,
    maps::{MAX_PAYLOAD, Path},
};
use tests_engine::bpf::{MEDIA_PORT, Subscriber};
use tests_engine::wire::{Wire, on_wire};
use tests_kit::{
    frame::{DOT1Q, Frame, Rtp},
    srtp::{Key, Random},
};

use crate::{
    fixture::{Media, World, publishers},
    lengths::random_header,
};

/// Longest payload of which copies fit the usual MTU by IPv6 too.
pub const FOR_ALL: usize = MAX_PAYLOAD - 20;

/// What the tests of this file demand to move.
pub const EXERCISED: [Counter; 4] =
    [Counter::Sealed, Counter::SealedBytes, Counter::DropPayloadType, Counter::DropTooBigForPath];

/// How long copies may take to arrive.
pub const PATIENCE: Duration = Duration::from_secs(20);
/// How long to look for copies that must not arrive.
const SILENCE: Duration = Duration::from_millis(30);

/// A subscriber and the frame that it must get.
#[derive(Clone)]
pub struct Member {
    pub subscriber: Subscriber,
    /// Position of its interface.
    pub nic: usize,
    local: SocketAddr,
    peer: SocketAddr,
    tag: Option<u16>,
}

impl Member {
    /// Number `number` of a fan-out in which IPv4 and IPv6, tagged and untagged, 128 and 256 bits,
    /// offsets and payload types alternate in different rhythms.
    pub fn mixed(number: u32, nic: usize, ifindex: u32) -> Result<Self> {
        let host = (number % 250) as u8 + 1;
        let port = 20_000 + number as u16;
        let (local, peer): (SocketAddr, SocketAddr) = match number % 2 {
            0 => (([10, 0, 0, 1], MEDIA_PORT).into(), ([10, 0, 1, host], port).into()),
            _ => (
                SocketAddr::new("fd00::1".parse()?, MEDIA_PORT),
                SocketAddr::new(format!("fd00:1::{number:x}").parse()?, port),
            ),
        };
        let tag = (number % 3 == 2).then_some(0x2000 | (100 + number as u16));
        let macs = ([2, 0, 0, 0, 1, 1], [2, 0, 0, 0, 2, host]);
        let path = Path::new(ifindex, macs.0, macs.1, tag, local, peer).context("path")?;
        let subscriber = Subscriber {
            key: Key::test(if number % 4 < 2 { 16 } else { 32 }, 1000 + number),
            path,
            ssrc: 0xa000_0000 + number,
            payload_type: [96, 111, 0, 127, 35][number as usize % 5],
            // Forward, back, across several cycles.
            index_offset: [0, 1, 0x1_0000, 0xffff, 1u64.wrapping_neg(), 0x2_0000u64.wrapping_neg(), 0x7fff_1234]
                [number as usize % 7],
            timestamp_offset: number.wrapping_mul(0x1234_5678),
            first_in: 0,
            // Every bit of it is set and is not.
            ds: [0, 46 << 2, 34 << 2, 63 << 2, 21 << 2][number as usize % 5],
        };
        Ok(Self { subscriber, nic, local, peer, tag })
    }

    /// # Errors
    /// Names what is wrong with the copy.
    pub fn check(&self, copy: &[u8], media: &Media) -> Result<()> {
        let frame = Frame::parse(copy)?;
        ensure!(frame.source_mac == self.subscriber.path.header[6..12], "source MAC");
        ensure!(frame.destination_mac == self.subscriber.path.header[..6], "destination MAC");
        ensure!(frame.tags == Vec::from_iter(self.tag.map(|tag| (DOT1Q, tag))), "tags {:?}", frame.tags);
        ensure!(frame.source == self.local, "from {}", frame.source);
        ensure!(frame.destination == self.peer, "to {}, not {}", frame.destination, self.peer);
        ensure!(frame.ds == self.subscriber.ds, "DS field {:#04x}, not {:#04x}", frame.ds, self.subscriber.ds);
        ensure!(frame.trailer.is_empty(), "{} bytes behind the packet", frame.trailer.len());
        // IPv4 without identification must not be fragmented (RFC 6864).
        ensure!(self.peer.is_ipv6() || frame.fragment == 0x4000, "fragment field {:#06x}", frame.fragment);

        let index = media.index.wrapping_add(self.subscriber.index_offset);
        let expected = Rtp {
            padding: media.rtp.padding,
            marker: media.rtp.marker,
            ..Rtp::new(
                self.subscriber.payload_type,
                index as u16,
                media.rtp.timestamp.wrapping_add(self.subscriber.timestamp_offset),
                self.subscriber.ssrc,
            )
        };
        let rtp = Rtp::parse_plain(&frame.payload)?;
        ensure!(rtp == expected, "{rtp:?}, expected {expected:?}");
        let payload = self.subscriber.key.open(&frame.payload, 12, index).context("wrong tag")?;
        ensure!(payload == media.payload, "wrong plaintext");
        Ok(())
    }
}

/// A fan-out on the wire.
pub struct Fan<'a> {
    pub wire: &'a mut Wire,
    pub members: Vec<Member>,
}

impl<'a> Fan<'a> {
    /// `count` mixed members, in turn on each interface, fed by both publishers.
    pub fn new(wire: &'a mut Wire, count: u32) -> Result<Self> {
        let nics = wire.nics.clone();
        let members = (0..count)
            .map(|number| {
                let nic = number as usize % nics.len();
                Member::mixed(number, nic, nics[nic])
            })
            .collect::<Result<Vec<_>>>()?;
        Self::of(wire, members)
    }

    /// These members.
    pub fn of(wire: &'a mut Wire, members: Vec<Member>) -> Result<Self> {
        for (slot, member) in members.iter().enumerate() {
            wire.datapath.set_subscriber(slot as u32, &member.subscriber)?;
        }
        let slots = |nic| (0..).zip(&members).filter(|(_, member)| member.nic == nic).map(|(slot, _)| slot).collect();
        let groups: Vec<(u32, Vec<u32>)> =
            wire.nics.iter().enumerate().map(|(nic, ifindex)| (*ifindex, slots(nic))).collect();
        wire.datapath.set_fanout(0, &groups)?;
        for (slot, publisher) in (0..).zip(&publishers()) {
            wire.datapath.set_publisher(slot, publisher)?;
        }
        Ok(Self { wire, members })
    }

    /// Sends a packet and checks what comes back, and all counters.
    ///
    /// # Errors
    /// Names the copy and what is wrong with it.
    pub fn send(&mut self, media: &Media, frame: &[u8]) -> Result<()> {
        self.send_counting(media, frame, &[])
    }

    /// The same, where more than the usual counters must move.
    ///
    /// # Errors
    /// As [`Fan::send`].
    pub fn send_counting(&mut self, media: &Media, frame: &[u8], more: &[(Counter, u64)]) -> Result<()> {
        let before = self.wire.datapath.counters()?;
        self.wire.taps[0].send(frame)?;
        for nic in 0..self.wire.taps.len() {
            let expected: Vec<&Member> = self.members.iter().filter(|member| member.nic == nic).collect();
            let copies = self.wire.taps[nic].receive_all(expected.len(), PATIENCE)?;
            let moved = || self.wire.datapath.counters().map(|counters| counters.since(&before));
            ensure!(copies.len() == expected.len(), "{} of {} copies, {:?}", copies.len(), expected.len(), moved()?);
            for (i, (copy, member)) in copies.iter().zip(expected).enumerate() {
                member.check(copy, media).with_context(|| format!("copy {i}: {}", hex::encode(copy)))?;
            }
        }
        let moved = self.wire.datapath.counters()?.since(&before);
        let (copies, len) = (self.members.len() as u64, media.payload.len() as u64);
        let mut expected = vec![
            (Counter::Opened, 1),
            (Counter::OpenedBytes, len),
            (Counter::Sealed, copies),
            (Counter::SealedBytes, copies * len),
        ];
        expected.extend(more);
        expected.retain(|(_, by)| *by != 0);
        expected.sort_by_key(|(counter, _)| *counter as u32);
        ensure!(moved == expected, "counters moved: {moved:?}, expected {expected:?}");
        Ok(())
    }

    /// No frame is left anywhere.
    ///
    /// # Errors
    /// There is one.
    pub fn silent(&self) -> Result<()> {
        for (nic, tap) in self.wire.taps.iter().enumerate() {
            if let Some(frame) = tap.receive(SILENCE)? {
                anyhow::bail!("unexpected frame on {nic}: {}", hex::encode(frame));
            }
        }
        Ok(())
    }
}

/// A few packets of every kind through a fan-out.
fn fan_out(mode: XdpMode, nics: usize, count: u32) -> Result<()> {
    on_wire(mode, nics, |wire| {
        let mut fan = Fan::new(wire, count)?;
        let mut random = Random::new(u64::from(count));
        for (i, len) in [1, 15, 16, 17, 100, 999, FOR_ALL].into_iter().enumerate() {
            for publisher in publishers() {
                let mut media = Media::at(&publisher, World::FIRST + 1 + i as u64);
                random_header(&mut media, &mut random);
                media.payload = random.bytes(len);
                let mut frame = media.frame();
                frame.tags = if i % 2 == 0 { vec![] } else { vec![(DOT1Q, 7)] };
                frame.trailer = vec![0; i];
                fan.send(&media, &frame.build()).with_context(|| format!("{count} members, {len} bytes"))?;
            }
        }
        fan.silent()?;
        let sent: u64 = 2 * 7;
        let octets: u64 = 2 * (1 + 15 + 16 + 17 + 100 + 999 + FOR_ALL as u64);
        for (slot, member) in (0..).zip(&fan.members) {
            let state = fan.wire.datapath.subscriber_state(slot)?;
            let last = (World::FIRST + 7).wrapping_add(member.subscriber.index_offset);
            ensure!((state.packets, state.octets) == (sent, octets), "subscriber {slot}: {state:?}");
            ensure!(state.last_index == last && state.drops == [0; 4], "subscriber {slot}: {state:?}");
            ensure!(state.last_sent_ns != 0, "subscriber {slot}: {state:?}");
        }
        Ok(())
    })
}

#[test]
fn one_two_and_sixteen_members() -> Result<()> {
    [1, 2, 16].into_iter().try_for_each(|count| fan_out(XdpMode::Driver, 1, count))
}

#[test]
fn seventeen_and_sixty_four_members() -> Result<()> {
    [17, 64].into_iter().try_for_each(|count| fan_out(XdpMode::Driver, 1, count))
}

#[test]
fn two_hundred_members() -> Result<()> {
    fan_out(XdpMode::Driver, 1, 200)
}

#[test]
fn two_interfaces() -> Result<()> {
    [1, 2, 3, 35, 200].into_iter().try_for_each(|count| fan_out(XdpMode::Driver, 2, count))
}

#[test]
fn four_interfaces() -> Result<()> {
    fan_out(XdpMode::Driver, 4, 66)
}

#[test]
fn generic_mode() -> Result<()> {
    [1, 17, 64].into_iter().try_for_each(|count| fan_out(XdpMode::Skb, 1, count))?;
    fan_out(XdpMode::Skb, 2, 20)
}

/// Every payload length, sealed with a 128-bit key over IPv4 and over IPv6 (so with every length under
/// the UDP checksum), and with a 256-bit key.
#[test]
fn every_length() -> Result<()> {
    on_wire(XdpMode::Driver, 1, |wire| {
        let ifindex = wire.nics[0];
        // 0 and 1: 128 bits, IPv4 and IPv6. 2 and 3: 256 bits, IPv4 and IPv6.
        let mut members = (0..4).map(|number| Member::mixed(number, 0, ifindex)).collect::<Result<Vec<_>>>()?;
        for member in &mut members {
            member.subscriber.key = Key::random(member.subscriber.key.key.len());
        }
        let mut fan = Fan::of(wire, members)?;
        let mut random = Random::new(5);
        for len in 0..=FOR_ALL {
            let mut media = Media::at(&publishers()[len % 2], World::FIRST + 1 + len as u64);
            random_header(&mut media, &mut random);
            media.payload = random.bytes(len);
            fan.send(&media, &media.bytes()).with_context(|| format!("payload of {len} bytes"))?;
        }
        fan.silent()
    })
}

/// A publisher's packet by IPv4 may be too long for viewers by IPv6: those get none, and it is counted.
#[test]
fn what_exceeds_a_path_is_counted() -> Result<()> {
    on_wire(XdpMode::Driver, 1, |wire| {
        let fan = Fan::new(wire, 5)?;
        for (i, len) in (FOR_ALL + 1..=MAX_PAYLOAD).enumerate() {
            let mut media = Media::at(&publishers()[0], World::FIRST + 1 + i as u64);
            media.payload = vec![7; len];
            let before = fan.wire.datapath.counters()?;
            fan.wire.taps[0].send(&media.bytes())?;
            let wide: Vec<&Member> = fan.members.iter().filter(|member| member.peer.is_ipv4()).collect();
            let copies = fan.wire.taps[0].receive_all(wide.len(), PATIENCE)?;
            let moved = fan.wire.datapath.counters()?.since(&before);
            ensure!(copies.len() == wide.len(), "{} copies, {moved:?}", copies.len());
            for (copy, member) in copies.iter().zip(&wide) {
                member.check(copy, &media)?;
            }
            let narrow = (fan.members.len() - wide.len()) as u64;
            ensure!(moved.contains(&(Counter::DropTooBigForPath, narrow)), "counters moved: {moved:?}");
        }
        fan.silent()
    })
}

/// Packets of a type that nobody has negotiated keep their sequence numbers, and their payload stays here.
#[test]
fn other_payload_types_leave_no_hole() -> Result<()> {
    for count in [1, 4] {
        on_wire(XdpMode::Driver, 1, |wire| {
            let fan = Fan::new(wire, count)?;
            for (i, payload_type) in [0, 34, 63, 97, 127].into_iter().enumerate() {
                let mut media = Media::at(&publishers()[0], World::FIRST + 1 + i as u64);
                media.rtp.payload_type = payload_type;
                media.payload = vec![9; 10 + 300 * i];
                let before = fan.wire.datapath.counters()?;
                fan.wire.taps[0].send(&media.bytes())?;
                let copies = fan.wire.taps[0].receive_all(fan.members.len(), PATIENCE)?;
                let moved = fan.wire.datapath.counters()?.since(&before);
                ensure!(copies.len() == fan.members.len(), "{} copies, {moved:?}", copies.len());
                media.payload.clear();
                for (copy, member) in copies.iter().zip(&fan.members) {
                    member.check(copy, &media)?;
                }
                ensure!(moved.contains(&(Counter::DropPayloadType, 1)), "counters moved: {moved:?}");
                let state = fan.wire.datapath.publisher_state(0)?;
                ensure!(state.other_type == u64::from(payload_type) + 1, "{state:?}");
            }
            fan.silent()
        })?;
    }
    Ok(())
}

/// The UDP checksum comes out as 0 for some packets; IPv6 then wants 0xffff (RFC 8200 §8.1).
#[test]
fn ipv6_checksum_is_never_zero() -> Result<()> {
    on_wire(XdpMode::Driver, 1, |wire| {
        let member = Member::mixed(1, 0, wire.nics[0])?;
        // The timestamp is under the checksum and may be chosen: find one that makes the sum 0xffff.
        let media = Media::of(&publishers()[0]);
        let copy = |timestamp: u32| {
            let index = media.index.wrapping_add(member.subscriber.index_offset);
            let rtp = Rtp::new(member.subscriber.payload_type, index as u16, timestamp, member.subscriber.ssrc);
            let packet = member.subscriber.key.seal(&rtp.build(), &media.payload, index);
            Frame::new(member.local, member.peer, packet)
        };
        let zero = (0u32..1 << 20).find(|timestamp| {
            let frame = copy(*timestamp);
            frame.build()[frame.l4() + 6..][..2] == [0xff, 0xff]
        });
        let zero = zero.context("no timestamp gives the checksum that is looked for")?;
        let mut media = media.clone();
        media.rtp.timestamp = zero.wrapping_sub(member.subscriber.timestamp_offset);
        let mut fan = Fan::of(wire, vec![member])?;
        fan.send(&media, &media.bytes())
    })
}

/// Outgoing sequence numbers and ROC roll over on their own, whatever the incoming ones do.
#[test]
fn outgoing_roll_over() -> Result<()> {
    on_wire(XdpMode::Driver, 1, |wire| {
        let ifindex = wire.nics[0];
        let first = World::FIRST + 1;
        // Out of phase by 0 to 5 packets, upwards and downwards, also down to index 0.
        let members = (0..12).map(|number| {
            let mut member = Member::mixed(number, 0, ifindex)?;
            let start = if number < 6 { 0x3_0000 - u64::from(number) } else { u64::from(number) - 6 };
            member.subscriber.index_offset = start.wrapping_sub(first);
            Ok(member)
        });
        let members = members.collect::<Result<Vec<_>>>()?;
        let mut fan = Fan::of(wire, members)?;
        for index in [0, 3, 1, 2, 5, 4, 8, 7, 6] {
            let media = Media::at(&publishers()[0], first + index);
            fan.send(&media, &media.bytes())?;
        }
        Ok(())
    })
}

/// The incoming roll-over, with reordering across it, is invisible but for the numbers.
#[test]
fn incoming_roll_over() -> Result<()> {
    on_wire(XdpMode::Driver, 1, |wire| {
        let mut fan = Fan::new(wire, 5)?;
        let wrap = 0x3_0000;
        let mut publisher = publishers()[0].clone();
        publisher.first = wrap - 10;
        fan.wire.datapath.set_publisher(0, &publisher)?;
        for index in [wrap - 3, wrap + 1, wrap - 2, wrap, wrap + 2, wrap - 1] {
            let media = Media::at(&publisher, index);
            fan.send(&media, &media.bytes())?;
        }
        fan.silent()
    })
}

/// The RTP examples of RFC 7714 §16.1.1 and §16.2.1, sealed by the kernel.
#[test]
fn rfc_7714_examples() -> Result<()> {
    on_wire(XdpMode::Driver, 1, |wire| {
        let expected = [
            "f24de3a3fb34de6cacba861c9d7e4bcabe633bd50d294e6f42a5f47a51c7d19b36de3adf8833899d7f27beb16a9152cf765ee4390cce",
            "32b1de78a822fe12ef9f78fa332e33aab18012389a58e2f3b50b2a0276ffae0f1ba63799b87b7aa3db36dfffd6b0f9bb7878d7a76c13",
        ];
        let ifindex = wire.nics[0];
        let mut media = Media::of(&publishers()[0]);
        media.payload = b"Gallia est omnis divisa in partes tres".to_vec();
        let members = [16, 32].map(|len| {
            let mut member = Member::mixed(0, 0, ifindex)?;
            let subscriber = &mut member.subscriber;
            subscriber.key = Key { key: (0..len).collect(), salt: *b"Quid pro quo" };
            subscriber.ssrc = 0x5501_a0b2;
            subscriber.payload_type = 64;
            subscriber.index_offset = 0xf17bu64.wrapping_sub(media.index);
            subscriber.timestamp_offset = 0x8041_f8d3u32.wrapping_sub(media.rtp.timestamp);
            Ok(member)
        });
        Fan::of(wire, members.into_iter().collect::<Result<Vec<_>>>()?)?;
        wire.taps[0].send(&media.bytes())?;
        for (copy, expected) in wire.taps[0].receive_all(2, PATIENCE)?.iter().zip(expected) {
            let header = "8040f17b8041f8d35501a0b2";
            ensure!(hex::encode(Frame::parse(copy)?.payload) == format!("{header}{expected}"));
        }
        Ok(())
    })
}
