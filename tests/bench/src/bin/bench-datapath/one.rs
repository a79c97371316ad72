//! A packet with one subscriber: by the short way in one datapath and by the long one in another, in turn,
//! while all keystream is there.
//!
//! Many publishers keep each other's keys and keystream out of the processor's caches. `cold` stands for
//! them: memory twice as large as the second cache is read before each packet.

use std::hint::black_box;

use anyhow::{Result, ensure};
use aya::programs::XdpMode;
use forwarder_common::Counter;
use serde_json::json;
use tests_engine::wire::{Tap, Wire, on_wire_with};
use tests_engine::{bpf::Ways, keystream::Keystreams};

use crate::{FIRST, Figure, Options, Table, media, publisher, run_times, send_all, subscriber};

const PAYLOADS: [usize; 3] = [100, 500, 1100];
const KEY_LEN: usize = 16;
/// Packets between two fillings of the rings.
const PACKETS: u64 = 64;
const COLD_BYTES: usize = 2 << 20;

/// A datapath under measurement.
struct Side<'a> {
    wire: &'a mut Wire,
    sender: Tap,
    keystreams: Keystreams,
    direct: bool,
}

/// The table of the report.
pub fn one(options: &Options) -> Result<Table> {
    let (mut rows, mut values) = (Vec::new(), Vec::new());
    let ways = |direct| Ways { direct, ..Ways::default() };
    let mut memory = vec![1u8; COLD_BYTES];
    on_wire_with(ways(false), XdpMode::Driver, 1, |long| {
        let long = side(long, false)?;
        on_wire_with(ways(true), XdpMode::Driver, 1, |short| {
            let mut sides = [long, side(short, true)?];
            let mut block = 0;
            for payload in PAYLOADS {
                for cold in [false, true] {
                    let mut rounds: [Vec<f64>; 2] = [Vec::new(), Vec::new()];
                    for _ in 0..options.rounds {
                        for (n, side) in sides.iter_mut().enumerate() {
                            let memory = if cold { &mut memory[..] } else { &mut [] };
                            rounds[n].push(one_round(side, block, payload, memory)?);
                        }
                        block += 1;
                    }
                    let ratio = rounds[0].iter().zip(&rounds[1]).map(|(long, short)| short / long);
                    let ratio = Figure::of(ratio.collect());
                    let [long, short] = rounds.map(Figure::of);
                    let caches = if cold { "cold" } else { "warm" };
                    let percent = format!("{:.2} ({:.2}–{:.2})", ratio.median, ratio.min, ratio.max);
                    rows.push(vec![payload.to_string(), caches.into(), long.text(), short.text(), percent]);
                    values.push(json!({ "payload": payload, "cold": cold, "long_ns": long.json(),
                        "short_ns": short.json(), "ratio": ratio.json() }));
                }
            }
            Ok(())
        })
    })?;
    let header = ["payload, bytes", "caches", "long way", "short way", "ratio"];
    Ok(Table {
        name: "one",
        title: "One subscriber, all keystream there: ns in both programs, a packet (BPF run-time statistics)",
        header: header.map(String::from).to_vec(),
        rows,
        json: values,
    })
}

fn side(wire: &mut Wire, direct: bool) -> Result<Side<'_>> {
    // The receiving tap would cost a copy of each frame.
    wire.taps.clear();
    let sender = Tap::sender(wire.far[0])?;
    let to = subscriber(0, KEY_LEN, wire.nics[0])?;
    wire.datapath.set_subscriber(0, &to)?;
    wire.datapath.set_fanout(0, &[(wire.nics[0], vec![0])])?;
    let from = publisher(KEY_LEN, Some(0))?;
    wire.datapath.set_publisher(0, &from)?;
    let tracks = [(&to.key, to.ssrc, to.index_offset)];
    let keystreams = Keystreams::install(&mut wire.datapath, (&from.key, from.ssrc), tracks, PACKETS as u32)?;
    Ok(Side { wire, sender, keystreams, direct })
}

/// ns in both programs, a packet.
fn one_round(side: &mut Side<'_>, block: u64, payload: usize, memory: &mut [u8]) -> Result<f64> {
    let publisher = publisher(KEY_LEN, Some(0))?;
    let indices = FIRST + 1 + block * PACKETS..FIRST + 1 + (block + 1) * PACKETS;
    indices.clone().try_for_each(|index| side.keystreams.fill(index))?;
    let frames: Vec<Vec<u8>> = indices.map(|index| media(&publisher, index, payload)).collect();
    let datapath = &mut side.wire.datapath;
    let counted = datapath.counter(Counter::Direct)?;
    let sender = &side.sender;
    let [(ingress, _), (egress, _)] = run_times(datapath, |datapath| {
        for frame in frames.chunks(1) {
            memory.iter_mut().step_by(64).for_each(|byte| *byte = byte.wrapping_add(1));
            black_box(&memory);
            send_all(datapath, sender, frame, 1)?;
        }
        Ok(())
    })?;
    let direct = datapath.counter(Counter::Direct)? - counted;
    ensure!(direct == if side.direct { PACKETS } else { 0 }, "{direct} of {PACKETS} packets by the short way");
    Ok((ingress + egress) as f64 / PACKETS as f64)
}
