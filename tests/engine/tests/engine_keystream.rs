//! Keystream ahead of time, end to end: what is sealed from rings, from rings that are far too small, and without any,
//! is the same. Every packet on the wire is opened and compared.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use penstock_engine::{Engine as _, kernel::keystream::Settings};
use tests_engine::lab::{Lab, PATIENCE, Publisher, Server, Viewer, address, receive_all};
use tests_kit::srtp::{Key, Random};

const VIEWERS: u16 = 6;
/// Packets of a new video stream for which there is keystream.
const AHEAD: u64 = 72;
/// As many are left of it when the producer is woken again, after every 9 packets: what a test can wait for at any time.
const READY: u64 = AHEAD - 8;

struct Bench {
    lab: Lab,
    server: Server,
    publisher: Publisher,
    viewers: Vec<Viewer>,
}

impl Bench {
    fn new(keystream: Option<Settings>, key_len: usize) -> Result<Self> {
        let lab = Lab::new(1)?;
        let rings = keystream.is_some();
        let mut server = lab.start(penstock_engine::kernel::Config { keystream, ..lab.config() })?;
        let (peer, local) = (&lab.peers[0], lab.server_address(0, false));
        let own = address(0, 2, false, 5000);
        let publisher = Publisher::join(&server, peer, local, own, Key::random(key_len))?;
        let mut viewers = Vec::new();
        for n in 0..VIEWERS {
            let own = address(0, 2, false, 10_000 + n);
            viewers.push(Viewer::join(&server, &publisher, peer, local, own, Key::random(key_len))?);
        }
        for viewer in &viewers {
            server.started(viewer.track)?;
        }
        let give_up = Instant::now() + PATIENCE;
        while rings && server.counter("keystream_rings_installed") < u64::from(VIEWERS) + 1 {
            ensure!(Instant::now() < give_up, "rings are not installed: {:?}", server.engine.counters());
            thread::sleep(Duration::from_millis(5));
        }
        Ok(Self { lab, server, publisher, viewers })
    }

    /// Waits until the rings have had keystream for so many packets: how soon that is, is not the test's matter.
    fn stocked(&self, packets: u64) -> Result<()> {
        self.filled(packets * (u64::from(VIEWERS) + 1))
    }

    /// Waits until so many entries have been filled, all rings together.
    fn filled(&self, entries: u64) -> Result<()> {
        let give_up = Instant::now() + PATIENCE;
        while self.server.counter("keystream_entries_filled") < entries {
            ensure!(Instant::now() < give_up, "the producer is stuck: {:?}", self.server.engine.counters());
            thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// Every viewer has got `count` packets, each of which opened and was what the publisher sent, or a full ring has
    /// counted it.
    fn all_arrived(&mut self, count: usize) -> Result<()> {
        let copies = receive_all(&self.lab, &self.server, &mut self.viewers, count)?;
        ensure!(copies.iter().all(|copies| copies.len() <= count), "more than {count} copies");
        Ok(())
    }
}

fn usual() -> Option<Settings> {
    Some(Settings { memory: 64 << 20, fixed_entries: None })
}

fn tiny(entries: u32) -> Option<Settings> {
    Some(Settings { memory: 64 << 20, fixed_entries: Some(entries) })
}

#[test]
fn an_even_stream_never_needs_aes_in_bpf() -> Result<()> {
    for key_len in [16, 32] {
        let mut bench = Bench::new(tiny(80), key_len)?;
        bench.stocked(AHEAD)?;
        for sent in (0..600).step_by(40) {
            bench.stocked(sent + 40)?;
            for _ in 0..40 {
                bench.publisher.send()?;
            }
        }
        bench.all_arrived(600)?;
        let filled = bench.server.counter("keystream_entries_filled");
        ensure!(filled > 600 * u64::from(VIEWERS), "{filled} entries filled");
        let under = ["keystream_underrun", "keystream_underrun_open"].map(|name| bench.server.counter(name));
        ensure!(under == [0, 0], "underruns {under:?}");
    }
    Ok(())
}

#[test]
fn a_keyframe_of_sixty_packets_at_once_is_in_stock() -> Result<()> {
    let mut bench = Bench::new(usual(), 16)?;
    bench.stocked(AHEAD)?;
    for round in 0..5 {
        bench.stocked(60 * (round + 1))?;
        for _ in 0..60 {
            bench.publisher.send()?;
        }
        bench.all_arrived(60)?;
        let under = bench.server.counter("keystream_underrun");
        ensure!(under == 0, "{under} underruns in round {round}");
    }
    Ok(())
}

#[test]
fn without_a_producer_the_stream_still_plays() -> Result<()> {
    let mut bench = Bench::new(None, 16)?;
    bench.publisher.send_some(50)?;
    bench.all_arrived(50)?;
    ensure!(bench.server.counter("sealed") == 50 * u64::from(VIEWERS));
    Ok(())
}

#[test]
fn entries_serve_the_longest_payload_that_is_forwarded() -> Result<()> {
    let mut bench = Bench::new(usual(), 16)?;
    bench.stocked(AHEAD)?;
    for len in [1248, 1249, 1388, 1424] {
        bench.publisher.payload_len = len;
        bench.publisher.send()?;
    }
    bench.all_arrived(4)?;
    ensure!(bench.server.counter("keystream_underrun") == 0);
    ensure!(bench.server.counter("keystream_underrun_open") == 0);
    Ok(())
}

/// After short packets entries are short, and the first long one finds too little in them; it wakes the producer,
/// which makes those that wait ready longer.
#[test]
fn longer_payloads_underrun_until_the_producer_has_seen_one() -> Result<()> {
    let mut bench = Bench::new(tiny(80), 16)?;
    bench.publisher.payload_len = 100;
    for sent in (0..600).step_by(40) {
        bench.stocked(sent + READY)?;
        for _ in 0..40 {
            bench.publisher.send()?;
        }
    }
    bench.all_arrived(600)?;
    bench.stocked(600 + READY)?;
    let under =
        |bench: &Bench| ["keystream_underrun", "keystream_underrun_open"].map(|name| bench.server.counter(name));
    ensure!(under(&bench) == [0, 0], "underruns of short packets: {:?}", under(&bench));
    let filled = bench.server.counter("keystream_entries_filled");
    bench.publisher.payload_len = 1100;
    bench.publisher.send()?;
    // All that were ready: as many as a stock has at its lowest, made again.
    bench.filled(filled + READY * (u64::from(VIEWERS) + 1))?;
    ensure!(under(&bench) == [u64::from(VIEWERS), 1], "underruns of the first long packet: {:?}", under(&bench));
    for _ in 0..60 {
        bench.publisher.send()?;
    }
    bench.all_arrived(61)?;
    ensure!(under(&bench) == [u64::from(VIEWERS), 1], "underruns of later ones: {:?}", under(&bench));
    Ok(())
}

/// Seven rings would like 80 entries each, and there is room for 300: nobody goes without, and nobody
/// has more than an even share.
#[test]
fn rings_shrink_for_those_who_come_later() -> Result<()> {
    const ENTRY: u64 = size_of::<forwarder_common::keystream::Entry>() as u64;
    const MEMORY: u64 = 300 * ENTRY;
    let mut bench = Bench::new(Some(Settings { memory: MEMORY, fixed_entries: None }), 16)?;
    let give_up = Instant::now() + PATIENCE;
    loop {
        let [rings, memory] = ["keystream_rings", "keystream_memory_bytes"].map(|name| bench.server.counter(name));
        ensure!(memory <= MEMORY, "{memory} of {MEMORY} bytes");
        if rings == u64::from(VIEWERS) + 1 && memory <= 7 * 32 * ENTRY {
            break;
        }
        ensure!(Instant::now() < give_up, "{rings} rings, {memory} bytes");
        thread::sleep(Duration::from_millis(2));
    }
    // As soon as the small rings are stocked, and however long that takes, they are enough.
    loop {
        let before = bench.server.counter("keystream_underrun");
        for _ in 0..12 {
            bench.publisher.send()?;
        }
        bench.all_arrived(12)?;
        let under = bench.server.counter("keystream_underrun") - before;
        if under == 0 {
            return Ok(());
        }
        ensure!(Instant::now() < give_up, "{under} underruns");
    }
}

/// Rings of a few entries, bursts that overrun them, loss, reordering and duplicates: the producer refills while the
/// datapath reads, at the same places, and entries change their length. Whatever leaves must open, or must have been counted and not left.
#[test]
fn tiny_rings_under_a_hostile_schedule() -> Result<()> {
    for (entries, seed) in [(9, 1), (16, 2), (11, 3)] {
        let mut bench = Bench::new(tiny(entries), 16)?;
        let mut random = Random::new(seed);
        let mut accepted = 0;
        for round in 0..150 {
            // For some hundreds of packets short ones only, so that entries get short; then long ones again.
            let longest = [1200, 60, 700, 150][round / 40];
            let first = bench.publisher.index + 1 + random.below(12) as u64 * u64::from(random.below(4) == 0);
            let count = 1 + random.below(25) as u64;
            let mut indices: Vec<u64> = (first..first + count).filter(|_| random.below(10) != 0).collect();
            for at in 1..indices.len() {
                if random.below(5) == 0 {
                    indices.swap(at - 1, at);
                }
            }
            accepted += indices.len();
            for index in &indices {
                bench.publisher.payload_len = 20 + random.below(longest);
                bench.publisher.send_index(*index)?;
                if random.below(8) == 0 {
                    bench.publisher.send_index(*index)?;
                }
            }
            bench.publisher.index = first + count - 1;
            if random.below(3) == 0 {
                thread::sleep(Duration::from_micros(random.below(8000) as u64));
            }
        }
        bench.all_arrived(accepted)?;
        ensure!(bench.server.counter("sealed") == accepted as u64 * u64::from(VIEWERS));
        let under = bench.server.counter("keystream_underrun");
        ensure!(under > 0, "the rings were never empty: the test tests nothing");
        ensure!(under < accepted as u64 * u64::from(VIEWERS), "the rings were never used");
    }
    Ok(())
}
