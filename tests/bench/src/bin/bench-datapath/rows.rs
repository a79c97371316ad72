//! From how many copies on the rows of a packet pay: keystream is there for everything, GHASH is by table
//! in one datapath and by rows in another, and the two take turns.

use anyhow::{Result, ensure};
use aya::programs::XdpMode;
use forwarder_common::Counter;
use serde_json::json;
use tests_engine::wire::{Tap, Wire, on_wire_with};
use tests_engine::{bpf::Ways, keystream::Keystreams};

use crate::{FIRST, Figure, Options, Table, media, publisher, run_times, send_all, subscriber};

const PAYLOADS: [usize; 3] = [100, 500, 1100];
const FANOUTS: [u32; 9] = [1, 2, 3, 4, 6, 8, 16, 64, 128];
const KEY_LEN: usize = 16;
/// Packets between two fillings of the rings.
const PACKETS: u64 = 64;

/// A datapath under measurement.
struct Side<'a> {
    wire: &'a mut Wire,
    sender: Tap,
    by_rows: bool,
}

/// ns in ingress and in egress, both per packet.
struct Round {
    ingress: f64,
    egress: f64,
}

/// The table of the report.
pub fn rows(options: &Options) -> Result<Table> {
    let (mut rows, mut values) = (Vec::new(), Vec::new());
    on_wire_with(ways(u32::MAX), XdpMode::Driver, 1, |by_table| {
        let by_table = side(by_table, false)?;
        on_wire_with(ways(0), XdpMode::Driver, 1, |by_rows| {
            let mut sides = [by_table, side(by_rows, true)?];
            for payload in PAYLOADS {
                for members in FANOUTS {
                    let mut rounds: [Vec<Round>; 2] = [Vec::new(), Vec::new()];
                    let mut keystreams = Vec::new();
                    for side in &mut sides {
                        keystreams.push(install(side.wire, members)?);
                    }
                    for round in 0..options.rounds as u64 {
                        for (n, side) in sides.iter_mut().enumerate() {
                            rounds[n].push(one_round(side, &mut keystreams[n], round, payload, members)?);
                        }
                    }
                    let figure = |n: usize, of: fn(&Round) -> f64| Figure::of(rounds[n].iter().map(of).collect());
                    let whole = |n| figure(n, |round| round.ingress + round.egress);
                    let per_copy = |n: usize| {
                        Figure::of(rounds[n].iter().map(|round| round.egress / f64::from(members)).collect())
                    };
                    let pairs = rounds[0].iter().zip(&rounds[1]);
                    let ratio = pairs.map(|(old, new)| (new.ingress + new.egress) / (old.ingress + old.egress));
                    let ratio = Figure::of(ratio.collect());
                    let pair = |old: Figure, new: Figure| format!("{:.0} → {:.0}", old.median, new.median);
                    let ingress = [figure(0, |round| round.ingress), figure(1, |round| round.ingress)];
                    rows.push(vec![
                        payload.to_string(),
                        members.to_string(),
                        pair(ingress[0], ingress[1]),
                        pair(per_copy(0), per_copy(1)),
                        pair(whole(0), whole(1)),
                        format!("{:.2} ({:.2}–{:.2})", ratio.median, ratio.min, ratio.max),
                    ]);
                    values.push(json!({ "payload": payload, "members": members,
                        "ingress_ns": [ingress[0].json(), ingress[1].json()],
                        "copy_ns": [per_copy(0).json(), per_copy(1).json()],
                        "packet_ns": [whole(0).json(), whole(1).json()], "ratio": ratio.json() }));
                }
            }
            Ok(())
        })
    })?;
    let header = ["payload, bytes", "copies", "ingress", "egress, a copy", "both, a packet with its copies", "ratio"];
    Ok(Table {
        name: "rows",
        title: "GHASH by table → by rows, all keystream there: ns (BPF run-time statistics, medians)",
        header: header.map(String::from).to_vec(),
        rows,
        json: values,
    })
}

/// The short way would leave nothing to compare with one copy.
const fn ways(tower_work: u32) -> Ways {
    Ways { tower_work, direct: false }
}

fn side(wire: &mut Wire, by_rows: bool) -> Result<Side<'_>> {
    // The receiving taps would cost a copy for each frame.
    wire.taps.clear();
    let sender = Tap::sender(wire.far[0])?;
    Ok(Side { wire, sender, by_rows })
}

fn install(wire: &mut Wire, members: u32) -> Result<Keystreams> {
    let mut subscribers = Vec::new();
    for slot in 0..members {
        let subscriber = subscriber(slot, KEY_LEN, wire.nics[0])?;
        wire.datapath.set_subscriber(slot, &subscriber)?;
        subscribers.push(subscriber);
    }
    wire.datapath.set_fanout(0, &[(wire.nics[0], (0..members).collect())])?;
    let publisher = publisher(KEY_LEN, Some(0))?;
    wire.datapath.set_publisher(0, &publisher)?;
    let tracks = subscribers.iter().map(|subscriber| (&subscriber.key, subscriber.ssrc, subscriber.index_offset));
    Keystreams::install(&mut wire.datapath, (&publisher.key, publisher.ssrc), tracks, PACKETS as u32)
}

fn one_round(
    side: &mut Side<'_>,
    keystreams: &mut Keystreams,
    round: u64,
    payload: usize,
    members: u32,
) -> Result<Round> {
    let publisher = publisher(KEY_LEN, Some(0))?;
    let indices = FIRST + 1 + round * PACKETS..FIRST + 1 + (round + 1) * PACKETS;
    indices.clone().try_for_each(|index| keystreams.fill(index))?;
    let frames: Vec<Vec<u8>> = indices.map(|index| media(&publisher, index, payload)).collect();
    let datapath = &mut side.wire.datapath;
    let counted = datapath.counter(Counter::SealedByRows)?;
    let sent = |datapath: &_| send_all(datapath, &side.sender, &frames, members).map(drop);
    let [(ingress, _), (egress, runs)] = run_times(datapath, sent)?;
    let by_rows = datapath.counter(Counter::SealedByRows)? - counted;
    let copies = PACKETS * u64::from(members);
    ensure!(by_rows == if side.by_rows { copies } else { 0 }, "{by_rows} of {copies} copies by rows");
    ensure!(runs == copies, "{runs} runs for {copies} copies");
    let a_packet = |ns: u64| ns as f64 / PACKETS as f64;
    Ok(Round { ingress: a_packet(ingress), egress: a_packet(egress) })
}
