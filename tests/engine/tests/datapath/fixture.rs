//! A packet for the ingress program and everything that must follow from it.

use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use forwarder_common::{
    Counter,
    maps::{Path, PublisherState, publisher_drop},
};
use tests_engine::bpf::{Datapath, MEDIA_PORT, Publisher, Run, Subscriber};
use tests_kit::{
    frame::{Frame, Rtp},
    srtp::Key,
};

/// XDP actions.
pub const DROP: u32 = 1;
pub const PASS: u32 = 2;
pub const REDIRECT: u32 = 4;

/// Interface that exists in every network namespace; nothing is sent by it in a test run.
const LOOPBACK: u32 = 1;

/// Where the ingress program leaves the payload of a packet that it redirects.
const PAYLOAD_OFFSET: usize = 54;

/// What must become of a packet.
#[derive(Clone, Debug)]
pub enum Expect {
    /// To the network stack, unchanged, counted here and nowhere else; but packets of a diverted track count there too.
    Pass(Counter),
    /// Dropped and counted here and nowhere else; the track's state stays as it is.
    Drop(Counter),
    /// Opened with this index, and on its way to the egress program.
    Redirect { payload: Vec<u8>, index: u64 },
    /// Opened with this index, but for nobody.
    NoSubscriber { payload: Vec<u8>, index: u64 },
}

impl Expect {
    /// Counters that move.
    pub fn counters(&self) -> Vec<(Counter, u64)> {
        match self {
            Expect::Pass(counter) | Expect::Drop(counter) => vec![(*counter, 1)],
            Expect::Redirect { payload, .. } => opened(payload),
            Expect::NoSubscriber { payload, .. } => [vec![(Counter::DropNoSubscriber, 1)], opened(payload)].concat(),
        }
    }

    fn verdict(&self) -> u32 {
        match self {
            Expect::Pass(_) => PASS,
            Expect::Drop(_) | Expect::NoSubscriber { .. } => DROP,
            Expect::Redirect { .. } => REDIRECT,
        }
    }
}

fn opened(payload: &[u8]) -> Vec<(Counter, u64)> {
    let mut moved = vec![(Counter::Opened, 1), (Counter::OpenedBytes, payload.len() as u64)];
    moved.retain(|(_, by)| *by != 0);
    moved
}

/// How the maps differ from the usual ones.
pub type Arrange = fn(&mut World) -> Result<()>;

/// A packet, the state it meets, and what must follow.
#[derive(Clone)]
pub struct Fixture {
    pub name: String,
    pub arrange: Arrange,
    pub packet: Vec<u8>,
    pub expect: Expect,
}

impl Fixture {
    /// Meets the usual state.
    pub fn new(name: impl Into<String>, packet: Vec<u8>, expect: Expect) -> Self {
        Self { name: name.into(), arrange: |_| Ok(()), packet, expect }
    }

    /// Meets another state.
    pub fn arranged(self, arrange: Arrange) -> Self {
        Self { arrange, ..self }
    }
}

/// A loaded datapath with one publisher by IPv4 (slot 0), one by IPv6 (slot 1), and three subscribers
/// of both.
pub struct World {
    pub datapath: Datapath,
    pub publishers: [Publisher; 2],
}

impl World {
    /// Index from which the SSRCs were learnt: in the third cycle, so that a wrong ROC shows.
    pub const FIRST: u64 = 0x2_1000;

    /// # Errors
    /// As [`Datapath::load`].
    pub fn new() -> Result<Self> {
        let mut datapath = Datapath::load()?;
        for member in 0..3 {
            let local = SocketAddr::from(([192, 0, 2, 2], MEDIA_PORT));
            let peer = SocketAddr::from(([192, 0, 2, 100 + member as u8], 6000));
            let path = Path::new(LOOPBACK, [2; 6], [4; 6], None, local, peer).context("path")?;
            let subscriber = Subscriber {
                key: Key::test(16, 100 + member),
                path,
                ssrc: 7000 + member,
                payload_type: 97,
                index_offset: 0,
                timestamp_offset: 0,
                first_in: 0,
                ds: 0,
            };
            datapath.set_subscriber(member, &subscriber)?;
        }
        datapath.set_fanout(0, &[(LOOPBACK, vec![0, 1, 2])])?;
        let mut world = Self { datapath, publishers: publishers() };
        world.reset()?;
        Ok(world)
    }

    /// Undoes what fixtures have arranged, and what packets have moved.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn reset(&mut self) -> Result<()> {
        for (slot, publisher) in self.publishers.iter().enumerate() {
            self.datapath.set_publisher(slot as u32, publisher)?;
        }
        Ok(())
    }

    /// Runs a fixture from the usual state and checks everything that it expects.
    ///
    /// # Errors
    /// Names the fixture and the first thing that is different.
    pub fn check(&mut self, fixture: &Fixture) -> Result<()> {
        self.reset()
            .and_then(|()| (fixture.arrange)(self))
            .and_then(|()| self.run(&fixture.packet, &fixture.expect))
            .with_context(|| format!("fixture `{}`", fixture.name))
    }

    /// Runs all fixtures and reports every one that fails.
    ///
    /// # Errors
    /// Names each failed fixture.
    pub fn check_all(&mut self, fixtures: &[Fixture]) -> Result<()> {
        let failed: Vec<String> =
            fixtures.iter().filter_map(|fixture| self.check(fixture).err()).map(|error| format!("{error:#}")).collect();
        ensure!(failed.is_empty(), "{} of {} fixtures failed:\n{}", failed.len(), fixtures.len(), failed.join("\n"));
        Ok(())
    }

    /// Runs a packet from the present state and checks everything that is expected of it.
    ///
    /// # Errors
    /// Names the first thing that is different.
    pub fn run(&mut self, packet: &[u8], expect: &Expect) -> Result<()> {
        let (counters, states) = (self.datapath.counters()?, self.states()?);
        let run = self.datapath.ingress(packet)?;
        let moved = self.datapath.counters()?.since(&counters);
        ensure!(moved == expect.counters(), "counters moved: {moved:?}, expected: {:?}", expect.counters());
        ensure!(run.verdict == expect.verdict(), "verdict {}, expected {}", run.verdict, expect.verdict());
        self.check_packet(packet, &run, expect)?;
        self.check_state(&states, packet, expect)
    }

    fn states(&self) -> Result<[PublisherState; 2]> {
        Ok([self.datapath.publisher_state(0)?, self.datapath.publisher_state(1)?])
    }

    fn check_packet(&self, packet: &[u8], run: &Run, expect: &Expect) -> Result<()> {
        match expect {
            Expect::Pass(_) => ensure!(run.packet == packet, "a passed packet was changed"),
            Expect::Redirect { payload, .. } => {
                let len = PAYLOAD_OFFSET + payload.len() + 16;
                ensure!(run.packet.len() == len, "{} bytes go to egress, expected {len}", run.packet.len());
                ensure!(run.packet[PAYLOAD_OFFSET..][..payload.len()] == payload[..], "plaintext is wrong");
            }
            // Nobody sees the bytes of a dropped packet.
            Expect::Drop(_) | Expect::NoSubscriber { .. } => {}
        }
        Ok(())
    }

    /// Whatever was not authenticated moves no state but its drop counter (RFC 3711 §3.3).
    fn check_state(&self, before: &[PublisherState; 2], packet: &[u8], expect: &Expect) -> Result<()> {
        let ipv6 = [0x86, 0xdd];
        let slot = usize::from(packet[12..14] == ipv6 || packet.get(16..18) == Some(&ipv6));
        let after = self.states()?;
        for other in (0..2).filter(|other| *other != slot) {
            ensure!(bytes(&before[other]) == bytes(&after[other]), "another track's state moved");
        }
        let (before, after) = (&before[slot], &after[slot]);
        match expect {
            Expect::Pass(counter) => {
                let mut expected = PublisherState::from_bytes(&bytes(before));
                // So userspace learns whether XDP sees all of them.
                expected.packets += u64::from(*counter == Counter::PassDiverted);
                ensure!(bytes(&expected) == bytes(after), "a passed packet moved its track's state");
            }
            Expect::Drop(counter) => {
                let mut expected = PublisherState::from_bytes(&bytes(before));
                if let Some(reason) = publisher_drop(*counter) {
                    expected.drops[reason] += 1;
                }
                ensure!(bytes(&expected) == bytes(after), "state after a drop: {after:?}, expected: {expected:?}");
            }
            Expect::Redirect { payload, index } | Expect::NoSubscriber { payload, index } => {
                let highest = before.replay.highest().0.max(*index);
                ensure!(after.replay.highest().0 == highest, "highest index {:?}", after.replay.highest());
                ensure!(after.replay.check(forwarder_common::ExtendedSeq(*index)).is_err(), "index not recorded");
                ensure!(after.packets == before.packets + 1, "packets {}", after.packets);
                ensure!(after.octets == before.octets + payload.len() as u64, "octets {}", after.octets);
                ensure!(after.drops == before.drops && after.first == before.first, "drops or first moved");
                ensure!(after.last_arrival_ns > before.last_arrival_ns, "arrival {}", after.last_arrival_ns);
            }
        }
        Ok(())
    }
}

fn bytes(state: &PublisherState) -> forwarder_common::maps::PublisherStateBytes {
    // SAFETY: the struct is `repr(C)` of integers without padding, and the array has its size.
    unsafe { std::ptr::read(std::ptr::from_ref(state).cast()) }
}

/// The publishers of the world: 128-bit key by IPv4, 256-bit key by IPv6.
pub fn publishers() -> [Publisher; 2] {
    let v4 = Publisher {
        key: Key::test(16, 1),
        peer: "192.0.2.1:40000".parse().expect("address"),
        local: SocketAddr::from(([192, 0, 2, 2], MEDIA_PORT)),
        ssrc: 0x1122_3344,
        payload_type: 96,
        first: World::FIRST,
        fanout: Some(0),
    };
    let v6 = Publisher {
        key: Key::test(32, 2),
        peer: "[2001:db8::1]:40000".parse().expect("address"),
        local: SocketAddr::new("2001:db8::2".parse().expect("address"), MEDIA_PORT),
        ssrc: 0x5566_7788,
        ..v4.clone()
    };
    [v4, v6]
}

/// An RTP packet of a publisher before it is sealed, ready to be changed.
#[derive(Clone, Debug)]
pub struct Media {
    pub publisher: Publisher,
    pub rtp: Rtp,
    pub index: u64,
    pub payload: Vec<u8>,
}

impl Media {
    /// The packet after the first one, with a payload of 100 bytes.
    pub fn of(publisher: &Publisher) -> Self {
        Self::at(publisher, publisher.first + 1)
    }

    /// The packet with an index.
    pub fn at(publisher: &Publisher, index: u64) -> Self {
        let rtp = Rtp::new(publisher.payload_type, index as u16, 0x0a0b_0c0d, publisher.ssrc);
        let payload = (0..100).map(|i| (i ^ index) as u8).collect();
        Self { publisher: publisher.clone(), rtp, index, payload }
    }

    /// The SRTP packet.
    pub fn sealed(&self) -> Vec<u8> {
        self.publisher.key.seal(&self.rtp.build(), &self.payload, self.index)
    }

    /// In a plain frame.
    pub fn frame(&self) -> Frame {
        Frame::new(self.publisher.peer, self.publisher.local, self.sealed())
    }

    /// The bytes of the plain frame.
    pub fn bytes(&self) -> Vec<u8> {
        self.frame().build()
    }

    /// It is opened and redirected.
    pub fn redirect(&self) -> Expect {
        Expect::Redirect { payload: self.payload.clone(), index: self.index }
    }
}

/// Counters that a list of fixtures moves.
pub fn counters_of(fixtures: &[Fixture]) -> Vec<Counter> {
    fixtures.iter().flat_map(|fixture| fixture.expect.counters()).map(|(counter, _)| counter).collect()
}
