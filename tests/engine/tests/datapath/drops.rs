//! Every reason for which the ingress program drops a packet of a known SSRC.

use anyhow::Result;
use forwarder_common::{Counter, SessionKey, maps::MAX_PAYLOAD, seq::REPLAY_WINDOW};
use tests_engine::bpf::Lease;

use crate::fixture::{Expect, Fixture, Media, World, publishers};

/// One fault at a time, for a 128-bit key by IPv4 and a 256-bit key by IPv6.
pub fn fixtures() -> Vec<Fixture> {
    publishers().iter().flat_map(|publisher| of(&Media::of(publisher))).collect()
}

fn of(media: &Media) -> Vec<Fixture> {
    let version = if media.publisher.peer.is_ipv4() { "IPv4" } else { "IPv6" };
    let drop = |what: &str, media: &Media, counter| {
        Fixture::new(format!("{version} {what}"), media.bytes(), Expect::Drop(counter))
    };
    let mut fixtures = headers(media, &drop);
    fixtures.extend(forged(media, version));

    let mut other = media.clone();
    other.payload = vec![1; MAX_PAYLOAD + 1];
    fixtures.push(drop("payload of 1445 bytes", &other, Counter::DropOversize));
    other.payload = vec![1; 2000];
    fixtures.push(drop("payload of 2000 bytes", &other, Counter::DropOversize));
    other.payload = vec![1; MAX_PAYLOAD];
    fixtures.push(Fixture::new(format!("{version} payload of 1444 bytes"), other.bytes(), other.redirect()));

    // What the userspace engine opens is counted and passes, whatever it is.
    let name = format!("{version} diverted");
    fixtures.push(Fixture::new(name, media.bytes(), Expect::Pass(Counter::PassDiverted)).arranged(|world| {
        world.datapath.change_publisher(0, |track| track.diverted = 1)?;
        world.datapath.change_publisher(1, |track| track.diverted = 1)
    }));
    fixtures.push(drop("lease ran out", media, Counter::DropPublisherExpired).arranged(|world| {
        world.datapath.set_lease(0, Lease::Expired)?;
        world.datapath.set_lease(1, Lease::Expired)
    }));
    fixtures.push(drop("the first packet again", &Media::at(&media.publisher, World::FIRST), Counter::DropReplayed));
    for back in [1, 100, REPLAY_WINDOW as u64 - 1] {
        let early = Media::at(&media.publisher, World::FIRST - back);
        fixtures.push(drop(&format!("{back} before the first packet"), &early, Counter::DropReplayed));
    }
    for back in [REPLAY_WINDOW as u64, 5000, 0x7fff] {
        let early = Media::at(&media.publisher, World::FIRST - back);
        fixtures.push(drop(&format!("{back} before the first packet"), &early, Counter::DropTooOld));
    }

    let nobody = Expect::NoSubscriber { payload: media.payload.clone(), index: media.index };
    let name = format!("{version} without fan-out");
    fixtures.push(Fixture::new(name, media.bytes(), nobody.clone()).arranged(|world| {
        world.datapath.point_to_fanout(0, None)?;
        world.datapath.point_to_fanout(1, None)
    }));
    let name = format!("{version} with a fan-out of nobody");
    fixtures.push(Fixture::new(name, media.bytes(), nobody).arranged(|world| {
        world.datapath.set_fanout(1, &[])?;
        world.datapath.point_to_fanout(0, Some(1))?;
        world.datapath.point_to_fanout(1, Some(1))
    }));

    fixtures.push(drop("session slot beyond the map", media, Counter::DropInternalIngress).arranged(|world| {
        world.datapath.change_publisher(0, |track| track.session = 1_000_000)?;
        world.datapath.change_publisher(1, |track| track.session = 1_000_000)
    }));
    fixtures.push(drop("session without a key", media, Counter::DropInternalIngress).arranged(|world| {
        world.datapath.set_key(0, SessionKey::EMPTY)?;
        world.datapath.set_key(1, SessionKey::EMPTY)
    }));
    fixtures
}

/// CSRC lists and extensions that do not fit the packet.
fn headers(media: &Media, drop: &dyn Fn(&str, &Media, Counter) -> Fixture) -> Vec<Fixture> {
    let mut fixtures = Vec::new();
    let malformed = Counter::DropMalformedRtp;
    let patched = |what: &str, change: &dyn Fn(&mut Vec<u8>)| {
        let mut frame = media.frame();
        change(&mut frame.payload);
        Fixture { packet: frame.build(), ..drop(what, media, malformed) }
    };
    // 128 bytes of packet: 12 of header, 100 of payload, 16 of tag.
    fixtures.push(patched("15 CSRCs announced in a datagram of 60 bytes", &|packet| {
        packet[0] |= 0x0f;
        packet.truncate(60);
    }));
    fixtures.push(patched("CSRCs that leave no room for the tag", &|packet| {
        packet[0] |= 0x0f;
        packet.truncate(12 + 60 + 15);
    }));
    fixtures.push(patched("extension that starts behind the packet", &|packet| {
        packet[0] |= 0x1f;
        packet.truncate(12 + 60);
    }));
    for words in [25u16, 26, 27, 100, 0x3fff, 0x4000, 0xffff] {
        fixtures.push(patched(&format!("extension of {words} words"), &|packet| {
            packet[0] |= 0x10;
            packet[14..16].copy_from_slice(&words.to_be_bytes());
        }));
    }
    for len in 12..12 + 4 + 16 {
        fixtures.push(patched(&format!("extension bit in a datagram of {len} bytes"), &|packet| {
            packet[0] |= 0x10;
            packet[14..16].fill(0);
            packet.truncate(len);
        }));
    }
    fixtures
}

/// Every byte of the tag, and bytes of the header and the payload, one bit each.
fn forged(media: &Media, version: &str) -> Vec<Fixture> {
    let mut media = media.clone();
    media.rtp.csrcs = vec![0xdead_beef];
    media.rtp.extension = Some((0xbede, vec![0x10, 0xaa, 0, 0]));
    let header_len = media.rtp.build().len();
    let sealed = media.sealed();
    let tag = sealed.len() - 16;
    // P, M, timestamp, CSRC, extension. The other header bits change the packet's way before the tag
    // is looked at; sequence numbers have their own fixture below.
    let header = [(0, 0x20), (1, 0x80), (4, 0x01), (7, 0x80), (12, 0x01), (15, 0x80), (20, 0x04), (21, 0x01)];
    let payload = (header_len..tag).step_by(7).chain([tag - 1]).map(|at| (at, 1 << (at % 8)));
    let tag_bytes = (tag..sealed.len()).flat_map(|at| [(at, 0x01), (at, 0x80)]);
    let mut fixtures: Vec<Fixture> = header
        .into_iter()
        .chain(payload)
        .chain(tag_bytes)
        .map(|(at, bit): (usize, u8)| {
            let mut frame = media.frame();
            frame.payload[at] ^= bit;
            let name = format!("{version} forged: bit {bit:#04x} of byte {at}");
            Fixture::new(name, frame.build(), Expect::Drop(Counter::DropAuthFailed))
        })
        .collect();
    let mut auth_failed = |what: &str, packet: Vec<u8>| {
        let name = format!("{version} forged: {what}");
        fixtures.push(Fixture::new(name, packet, Expect::Drop(Counter::DropAuthFailed)));
    };
    for distance in [1u64, 2, 100, 0x7ffe] {
        let mut frame = media.frame();
        let seq = (media.index + distance) as u16;
        frame.payload[2..4].copy_from_slice(&seq.to_be_bytes());
        auth_failed(&format!("sequence number {distance} ahead"), frame.build());
    }
    let mut other_cycle = media.clone();
    other_cycle.index += 1 << 16;
    auth_failed("sealed in the next cycle", other_cycle.bytes());
    let mut other_key = media.clone();
    other_key.publisher.key.key[3] ^= 1;
    auth_failed("another key", other_key.bytes());
    let mut other_salt = media.clone();
    other_salt.publisher.key.salt[11] ^= 1;
    auth_failed("another salt", other_salt.bytes());
    let mut frame = media.frame();
    let len = frame.payload.len();
    frame.payload.truncate(len - 1);
    auth_failed("one byte short", frame.build());
    let mut shorter = media.frame().build();
    let at = media.frame().l4() + 4;
    let len = u16::from_be_bytes([shorter[at], shorter[at + 1]]) - 1;
    shorter[at..at + 2].copy_from_slice(&len.to_be_bytes());
    auth_failed("UDP length one short", shorter);
    let mut frame = media.frame();
    frame.payload.push(0);
    auth_failed("one byte long", frame.build());
    let mut frame = media.frame();
    frame.payload[header_len..].fill(0);
    auth_failed("zeros", frame.build());
    fixtures
}

#[test]
fn every_reason() -> Result<()> {
    let fixtures = fixtures();
    World::new()?.check_all(&fixtures)?;
    println!("{} fixtures", fixtures.len());
    Ok(())
}
