//! Every branch of the classification, and truncation at every byte of every header.

use anyhow::{Result, ensure};
use forwarder_common::Counter;
use tests_engine::bpf::MEDIA_PORT;
use tests_kit::frame::DOT1Q;

use crate::fixture::{Expect, Fixture, Media, World, publishers};

/// A change of the frame's bytes, and what it makes of the packet.
type Patch = (&'static str, usize, u8, Counter);

/// What passes to the network stack, and why.
pub fn fixtures() -> Vec<Fixture> {
    let mut fixtures = opened();
    fixtures.extend(protocols());
    fixtures.extend(ipv4());
    fixtures.extend(ipv6());
    fixtures.extend(flows());
    fixtures.extend(truncated());
    fixtures.extend(short_datagrams());
    fixtures
}

fn pass(name: impl Into<String>, packet: Vec<u8>, counter: Counter) -> Fixture {
    Fixture::new(name, packet, Expect::Pass(counter))
}

/// The two media packets that everything else is a variation of: by IPv4 and by IPv6.
fn media() -> [Media; 2] {
    publishers().map(|publisher| Media::of(&publisher))
}

fn version(media: &Media) -> &'static str {
    if media.publisher.peer.is_ipv4() { "IPv4" } else { "IPv6" }
}

/// Media in each form that is taken.
fn opened() -> Vec<Fixture> {
    let mut fixtures = Vec::new();
    for media in media() {
        let name = |what: &str| format!("{} {what}", version(&media));
        fixtures.push(Fixture::new(name("plain"), media.bytes(), media.redirect()));

        let mut tagged = media.frame();
        tagged.tags = vec![(DOT1Q, 0x6005)];
        fixtures.push(Fixture::new(name("802.1Q"), tagged.build(), media.redirect()));

        for padding in [1, 2, 18, 64] {
            let mut padded = media.frame();
            padded.trailer = vec![0xee; padding];
            let name = name(&format!("{padding} bytes behind the IP packet"));
            fixtures.push(Fixture::new(name, padded.build(), media.redirect()));
        }

        // IP packet longer than the datagram in it.
        let mut slack = media.frame();
        slack.trailer = vec![0xee; 5];
        let l3 = slack.l3();
        let at = if media.publisher.peer.is_ipv4() { l3 + 2 } else { l3 + 4 };
        let mut slack = slack.build();
        let longer = u16::from_be_bytes([slack[at], slack[at + 1]]) + 5;
        slack[at..at + 2].copy_from_slice(&longer.to_be_bytes());
        fixtures.push(Fixture::new(name("5 bytes between datagram and IP end"), slack, media.redirect()));

        let mut zero_checksum = media.bytes();
        let at = media.frame().l4() + 6;
        zero_checksum[at..at + 2].fill(0);
        // Checksums are the tag's business: it is stronger (IPv6 forbids 0, but a NAT may not care).
        fixtures.push(Fixture::new(name("UDP checksum 0"), zero_checksum, media.redirect()));

        let mut rich = media.clone();
        rich.rtp.marker = true;
        rich.rtp.padding = true;
        rich.rtp.csrcs = (0..15).collect();
        rich.rtp.extension = Some((0xbede, vec![0x10, 0xff, 0, 0]));
        fixtures.push(Fixture::new(name("15 CSRCs and an extension"), rich.bytes(), rich.redirect()));

        let mut empty_extension = media.clone();
        empty_extension.rtp.extension = Some((0x1000, Vec::new()));
        fixtures.push(Fixture::new(name("empty extension"), empty_extension.bytes(), empty_extension.redirect()));

        let mut dscp = media.bytes();
        let l3 = media.frame().l3();
        dscp[l3 + 1] = if media.publisher.peer.is_ipv4() { 0xb8 } else { 0x12 };
        fixtures.push(Fixture::new(name("DSCP or flow label"), dscp, media.redirect()));
    }
    let mut reserved = media()[0].frame();
    reserved.fragment = 0x4000;
    fixtures.push(Fixture::new("IPv4 don't fragment", reserved.build(), media()[0].redirect()));
    fixtures
}

/// RFC 7983 and RFC 5761: every first byte, and every second byte behind an RTP one.
fn protocols() -> Vec<Fixture> {
    let mut fixtures = Vec::new();
    for media in media() {
        for first in 0..=255u8 {
            let counter = match first {
                0..=3 => Counter::PassStun,
                20..=63 => Counter::PassDtls,
                128..=191 => continue,
                _ => Counter::PassOtherProtocol,
            };
            let mut frame = media.frame();
            frame.payload[0] = first;
            fixtures.push(pass(format!("{} first byte {first}", version(&media)), frame.build(), counter));
        }
        for second in (64..=95).chain(192..=223) {
            let mut frame = media.frame();
            frame.payload[1] = second;
            fixtures.push(pass(
                format!("{} RTCP, second byte {second}", version(&media)),
                frame.build(),
                Counter::PassRtcp,
            ));
        }
    }
    let mut not_ip = media()[0].bytes();
    for (name, ethertype) in [("ARP", 0x0806u16), ("802.1ad", 0x88a8), ("length field", 0x0040), ("LLDP", 0x88cc)] {
        not_ip[12..14].copy_from_slice(&ethertype.to_be_bytes());
        fixtures.push(pass(name, not_ip.clone(), Counter::PassNotIp));
    }
    for media in media() {
        for outer in [0x88a8, DOT1Q] {
            let mut double = media.frame();
            double.tags = vec![(outer, 5), (DOT1Q, 6)];
            let name = format!("{} two tags, outer {outer:#06x}", version(&media));
            fixtures.push(pass(name, double.build(), Counter::PassNotIp));
        }
    }
    fixtures
}

fn ipv4() -> Vec<Fixture> {
    let [media, _] = media();
    let l3 = media.frame().l3();
    let l4 = media.frame().l4();
    let patches: [Patch; 12] = [
        ("IPv4 version 5", l3, 0x55, Counter::PassMalformedIp),
        ("IPv4 version 6", l3, 0x65, Counter::PassMalformedIp),
        ("IPv4 header of 16 bytes", l3, 0x44, Counter::PassMalformedIp),
        ("IPv4 header of 0 bytes", l3, 0x40, Counter::PassMalformedIp),
        ("IPv4 total length beyond the frame", l3 + 3, 0xff, Counter::PassMalformedIp),
        ("TCP", l3 + 9, 6, Counter::PassNotUdp),
        ("ICMP", l3 + 9, 1, Counter::PassNotUdp),
        ("other port", l4 + 3, 0x8d, Counter::PassOtherPort),
        ("other port, high byte", l4 + 2, 0x93, Counter::PassOtherPort),
        ("UDP length beyond the IP packet", l4 + 5, 0xff, Counter::PassMalformedUdp),
        ("UDP length one beyond the IP packet", l4 + 5, 137, Counter::PassMalformedUdp),
        ("UDP length far beyond the IP packet", l4 + 4, 0xff, Counter::PassMalformedUdp),
    ];
    let mut fixtures: Vec<Fixture> = patches
        .into_iter()
        .map(|(name, at, value, counter)| {
            let mut bytes = media.bytes();
            assert_ne!(bytes[at], value, "{name} changes nothing");
            bytes[at] = value;
            pass(name, bytes, counter)
        })
        .collect();

    for (name, total) in [("below its header", 19u16), ("0", 0)] {
        let mut bytes = media.bytes();
        bytes[l3 + 2..l3 + 4].copy_from_slice(&total.to_be_bytes());
        fixtures.push(pass(format!("IPv4 total length {name}"), bytes, Counter::PassMalformedIp));
    }
    for len in 0..8u16 {
        let mut bytes = media.bytes();
        bytes[l4 + 4..l4 + 6].copy_from_slice(&len.to_be_bytes());
        fixtures.push(pass(format!("UDP length {len}"), bytes, Counter::PassMalformedUdp));
    }
    for len in (4..=40).step_by(4) {
        let mut frame = media.frame();
        frame.ip_options = vec![1; len];
        fixtures.push(pass(format!("IPv4 options of {len} bytes"), frame.build(), Counter::PassIpOptions));
    }
    for (name, fragment) in [("first", 0x2000), ("middle", 0x2010), ("last", 0x0010), ("offset 8191", 0x1fff)] {
        let mut frame = media.frame();
        frame.fragment = fragment;
        fixtures.push(pass(format!("IPv4 {name} fragment"), frame.build(), Counter::PassFragment));
    }
    fixtures
}

fn ipv6() -> Vec<Fixture> {
    let [_, media] = media();
    let l3 = media.frame().l3();
    let l4 = media.frame().l4();
    let patches: [Patch; 8] = [
        ("IPv6 version 4", l3, 0x45, Counter::PassMalformedIp),
        ("IPv6 version 7", l3, 0x70, Counter::PassMalformedIp),
        ("IPv6 payload length beyond the frame", l3 + 5, 0xff, Counter::PassMalformedIp),
        ("IPv6 TCP", l3 + 6, 6, Counter::PassNotUdp),
        ("IPv6 ICMP", l3 + 6, 58, Counter::PassNotUdp),
        ("IPv6 no next header", l3 + 6, 59, Counter::PassNotUdp),
        ("IPv6 other port", l4 + 3, 0x8d, Counter::PassOtherPort),
        ("IPv6 UDP length beyond the packet", l4 + 5, 0xff, Counter::PassMalformedUdp),
    ];
    let mut fixtures: Vec<Fixture> = patches
        .into_iter()
        .map(|(name, at, value, counter)| {
            let mut bytes = media.bytes();
            assert_ne!(bytes[at], value, "{name} changes nothing");
            bytes[at] = value;
            pass(name, bytes, counter)
        })
        .collect();
    // (name, next header, length)
    let headers = [
        ("hop-by-hop", 0, 8),
        ("routing", 43, 24),
        ("authentication", 51, 24),
        ("destination options", 60, 8),
        ("mobility", 135, 8),
        ("HIP", 139, 40),
        ("shim6", 140, 8),
    ];
    for (name, kind, len) in headers {
        let mut frame = media.frame();
        frame.extensions = vec![(kind, vec![0; len])];
        fixtures.push(pass(format!("IPv6 {name} header"), frame.build(), Counter::PassIpv6Extension));
    }
    let mut chain = media.frame();
    chain.extensions = vec![(0, vec![0; 8]), (60, vec![0; 8]), (43, vec![0; 8])];
    fixtures.push(pass("IPv6 chain of extension headers", chain.build(), Counter::PassIpv6Extension));
    for (name, field) in [("atomic", 0u16), ("first", 1), ("later", 0x00b8), ("last", 0x00b9)] {
        let mut frame = media.frame();
        let mut header = vec![0; 8];
        header[2..4].copy_from_slice(&field.to_be_bytes());
        frame.extensions = vec![(44, header)];
        fixtures.push(pass(format!("IPv6 {name} fragment"), frame.build(), Counter::PassFragment));
    }
    fixtures
}

/// One thing of (5-tuple, SSRC) at a time is another one.
fn flows() -> Vec<Fixture> {
    let mut fixtures = Vec::new();
    for media in media() {
        let name = |what: &str| format!("{} {what}", version(&media));
        let unknown = |name: String, media: &Media| pass(name, media.bytes(), Counter::PassUnknownSsrc);
        let mut other = media.clone();
        other.rtp.ssrc ^= 1;
        fixtures.push(unknown(name("other SSRC"), &other));
        let mut other = media.clone();
        other.publisher.peer.set_port(40_001);
        fixtures.push(unknown(name("other source port"), &other));
        let (peer, local) = match media.publisher.peer {
            std::net::SocketAddr::V4(_) => ("198.51.100.1:40000", format!("198.51.100.2:{MEDIA_PORT}")),
            std::net::SocketAddr::V6(_) => ("[2001:db8:1::1]:40000", format!("[2001:db8:1::2]:{MEDIA_PORT}")),
        };
        let mut other = media.clone();
        other.publisher.peer = peer.parse().expect("address");
        fixtures.push(unknown(name("other source address"), &other));
        let mut other = media.clone();
        other.publisher.local = local.parse().expect("address");
        fixtures.push(unknown(name("other destination address"), &other));
        let forgotten = unknown(name("forgotten"), &media).arranged(|world| {
            let [v4, v6] = world.publishers.clone();
            world.datapath.forget_publisher(&v4)?;
            world.datapath.forget_publisher(&v6)
        });
        fixtures.push(forgotten);
    }
    // An IPv4 flow is not reachable by the same address written as IPv4-mapped IPv6.
    let mut mapped = media()[0].clone();
    mapped.publisher.peer = "[::ffff:192.0.2.3]:40000".parse().expect("address");
    mapped.publisher.local = format!("[::ffff:192.0.2.2]:{MEDIA_PORT}").parse().expect("address");
    fixtures.push(pass("IPv4-mapped addresses of nobody", mapped.bytes(), Counter::PassUnknownSsrc));
    fixtures
}

/// Frames cut off at every byte, with headers that still announce the whole packet. The kernel takes
/// frames from 14 bytes on.
fn truncated() -> Vec<Fixture> {
    let mut fixtures = Vec::new();
    for media in media() {
        for tags in [vec![], vec![(DOT1Q, 5)]] {
            let mut frame = media.frame();
            frame.tags = tags;
            let bytes = frame.build();
            let ip_header = if media.publisher.peer.is_ipv4() { 20 } else { 40 };
            for len in 14..bytes.len() {
                let counter =
                    if len < frame.l3() + ip_header { Counter::PassTruncated } else { Counter::PassMalformedIp };
                let name = format!("{} with {} tags cut to {len} bytes", version(&media), frame.tags.len());
                fixtures.push(pass(name, bytes[..len].to_vec(), counter));
            }
        }
    }
    fixtures
}

/// Datagrams that really are short: lengths and checksums are right.
fn short_datagrams() -> Vec<Fixture> {
    let mut fixtures = Vec::new();
    for media in media() {
        let whole = media.frame();
        let header_len = media.rtp.build().len();
        // Shorter than header and tag, with the flow known: not malformed IP, but no SRTP either.
        for len in 0..header_len + 16 {
            let mut frame = whole.clone();
            frame.payload.truncate(len);
            let expect = match len {
                0 => Expect::Pass(Counter::PassOtherProtocol),
                1..12 => Expect::Pass(Counter::PassTruncated),
                _ => Expect::Drop(Counter::DropMalformedRtp),
            };
            let name = format!("{} datagram of {len} bytes", version(&media));
            fixtures.push(Fixture::new(name.clone(), frame.build(), expect.clone()));
            // With Ethernet padding behind it, which must not be read as part of the packet.
            frame.trailer = whole.payload[len..].to_vec();
            fixtures.push(Fixture::new(format!("{name}, padded"), frame.build(), expect));
        }
        // IP payload too short for UDP.
        for len in 0..8 {
            let mut bytes = whole.build();
            bytes.truncate(whole.l4() + len);
            let l3 = whole.l3();
            let (at, ip_len) = if media.publisher.peer.is_ipv4() { (l3 + 2, 20 + len) } else { (l3 + 4, len) };
            bytes[at..at + 2].copy_from_slice(&(ip_len as u16).to_be_bytes());
            fixtures.push(pass(
                format!("{} {len} bytes of UDP header", version(&media)),
                bytes,
                Counter::PassTruncated,
            ));
        }
    }
    fixtures
}

#[test]
fn every_branch() -> Result<()> {
    let fixtures = fixtures();
    World::new()?.check_all(&fixtures)?;
    println!("{} fixtures", fixtures.len());
    Ok(())
}

/// The first byte of a datagram decides as RFC 7983 says also where nothing else fits.
#[test]
fn one_byte_datagrams() -> Result<()> {
    let mut world = World::new()?;
    let [media, _] = media();
    for first in 0..=255u8 {
        let mut frame = media.frame();
        frame.payload = vec![first];
        let counter = match first {
            0..=3 => Counter::PassStun,
            20..=63 => Counter::PassDtls,
            128..=191 => Counter::PassTruncated,
            _ => Counter::PassOtherProtocol,
        };
        world.run(&frame.build(), &Expect::Pass(counter))?;
    }
    Ok(())
}

/// Random bytes at random places: any verdict is fine but opening, and exactly one counter moves.
#[test]
fn damaged_packets_have_one_verdict() -> Result<()> {
    let mut world = World::new()?;
    let mut random = tests_kit::srtp::Random::new(7);
    for round in 0..20_000 {
        let media = &media()[round % 2];
        let mut bytes = media.bytes();
        for _ in 0..=random.below(4) {
            let at = random.below(bytes.len());
            bytes[at] = random.number() as u8;
        }
        if random.below(4) == 0 {
            bytes.truncate(14 + random.below(bytes.len() - 14));
        }
        let before = world.datapath.counters()?;
        let run = world.datapath.ingress(&bytes)?;
        let moved = world.datapath.counters()?.since(&before);
        if run.verdict == crate::fixture::REDIRECT {
            // Only bytes that no tag covers were hit; start again from the usual state.
            world.reset()?;
            continue;
        }
        ensure!(moved.len() == 1 && moved[0].1 == 1, "round {round}: {moved:?}");
        let pass = moved[0].0.kind() == forwarder_common::counter::Kind::Pass;
        ensure!(run.verdict == if pass { 2 } else { 1 }, "round {round}: verdict {} for {moved:?}", run.verdict);
        ensure!(!pass || run.packet == bytes, "round {round}: a passed packet was changed");
    }
    Ok(())
}
