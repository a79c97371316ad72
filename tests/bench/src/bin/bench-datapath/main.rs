//! `cargo xtask bench datapath`: what a packet costs in the BPF programs. Method and first figures:
//! `docs/benchmarks.md`.

mod one;
mod rows;

use std::{
    fs,
    net::SocketAddr,
    path::Path as FilePath,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use aya::{
    programs::{ProgramInfo, XdpMode, loaded_programs},
    sys::{Stats, enable_stats},
};
use clap::Parser;
use forwarder_common::{Counter, maps::Path};
use serde_json::{Value, json};
use tests_engine::bpf::{Datapath, MEDIA_PORT, Publisher, Subscriber};
use tests_engine::wire::{Tap, Wire, on_wire};
use tests_kit::{
    frame::{Frame, Rtp},
    srtp::Key,
};

const PAYLOADS: [usize; 4] = [100, 500, 1100, 1400];
const KEYS: [usize; 2] = [16, 32];
const FANOUTS: [u32; 4] = [1, 16, 64, 128];
/// Index from which the SSRC was learnt.
const FIRST: u64 = 0x1_0000;

/// ns per packet of the BPF programs.
#[derive(Parser)]
struct Options {
    /// Rounds; figures are the median of the rounds, with the lowest and the highest.
    #[arg(long, default_value_t = 7)]
    rounds: usize,
    /// Packets in a round.
    #[arg(long, default_value_t = 200)]
    packets: u64,
    /// Only the comparison of GHASH by table and by rows.
    #[arg(long)]
    only_rows: bool,
    /// Only the comparison of the two ways of a packet with one subscriber.
    #[arg(long, conflicts_with = "only_rows")]
    only_one: bool,
    /// Prints JSON instead of tables.
    #[arg(long)]
    json: bool,
    /// Replaces the tables in docs/benchmarks.md.
    #[arg(long, conflicts_with_all = ["only_rows", "only_one"])]
    write_docs: bool,
}

/// A figure in ns: median, lowest and highest of the rounds.
#[derive(Clone, Copy)]
struct Figure {
    median: f64,
    min: f64,
    max: f64,
}

impl Figure {
    fn of(mut rounds: Vec<f64>) -> Self {
        rounds.sort_by(f64::total_cmp);
        Self { median: rounds[rounds.len() / 2], min: rounds[0], max: rounds[rounds.len() - 1] }
    }

    fn text(&self) -> String {
        format!("{:.0} ({:.0}–{:.0})", self.median, self.min, self.max)
    }

    fn json(&self) -> Value {
        json!({ "median": self.median, "min": self.min, "max": self.max })
    }
}

/// One table of the report.
struct Table {
    name: &'static str,
    title: &'static str,
    header: Vec<String>,
    rows: Vec<Vec<String>>,
    json: Vec<Value>,
}

fn main() -> Result<()> {
    let options = Options::parse();
    ensure!(options.rounds > 0 && options.packets > 0, "at least one round of one packet");
    ensure!(
        options.packets <= 30_000,
        "at most 30000 packets a round: the sequence numbers must not overtake themselves"
    );
    let mut tables = Vec::new();
    if !options.only_rows && !options.only_one {
        tables.extend([programs()?, open(&options)?]);
        tables.extend(fan_out(&options)?);
    }
    if !options.only_one {
        tables.push(rows::rows(&options)?);
    }
    if !options.only_rows {
        tables.push(one::one(&options)?);
    }
    if options.json {
        let tables: serde_json::Map<_, _> =
            tables.iter().map(|table| (table.name.to_owned(), json!(table.json))).collect();
        println!("{}", serde_json::to_string_pretty(&json!({ "machine": machine(), "tables": tables }))?);
    } else {
        println!("{}\n", machine());
        for table in &tables {
            let mut text = comfy_table::Table::new();
            text.set_header(&table.header).add_rows(&table.rows);
            println!("{}\n{text}\n", table.title);
        }
    }
    if options.write_docs { write_docs(&options, &tables) } else { Ok(()) }
}

/// Sizes and the verifier's work.
fn programs() -> Result<Table> {
    let mut datapath = Datapath::load()?;
    let mut rows = Vec::new();
    let mut values = Vec::new();
    for name in ["penstock_ingress", "penstock_forward", "penstock_direct", "penstock_egress"] {
        let info = datapath.program(name)?.info()?;
        let verified = info.verified_instruction_count().unwrap_or(0);
        let (xlated, jited) = (info.size_translated().unwrap_or(0), info.size_jitted());
        rows.push(vec![name.into(), verified.to_string(), (xlated / 8).to_string(), jited.to_string()]);
        values.push(json!({ "program": name, "verified_instructions": verified,
            "translated_instructions": xlated / 8, "jited_bytes": jited }));
    }
    Ok(Table {
        name: "programs",
        title: "Programs",
        header: ["program", "instructions verified", "instructions", "machine code, bytes"].map(String::from).to_vec(),
        rows,
        json: values,
    })
}

/// The ingress program without fan-out: classify, replay list, decrypt, authenticate, account. And a
/// packet for another port, which is what foreign traffic costs and what the clock itself costs.
fn open(options: &Options) -> Result<Table> {
    let mut datapath = Datapath::load()?;
    let (mut rows, mut values) = (Vec::new(), Vec::new());
    let mut other_port = Frame::new(peer()?, local()?, vec![0x80; 100]);
    other_port.destination.set_port(MEDIA_PORT + 1);
    let foreign = timed(options, |_| Ok(vec![other_port.build(); options.packets as usize]), &mut datapath)?;
    rows.push(vec!["another port".into(), "100".into(), "–".into(), foreign.text()]);
    values.push(json!({ "packet": "another port", "payload": 100, "ns": foreign.json() }));
    for key_len in KEYS {
        let publisher = publisher(key_len, None)?;
        for payload in PAYLOADS {
            let packets = |round| {
                let indices = FIRST + 1 + round * options.packets..FIRST + 1 + (round + 1) * options.packets;
                Ok(indices.map(|index| media(&publisher, index, payload)).collect())
            };
            datapath.set_publisher(0, &publisher)?;
            let before = datapath.counters()?;
            let figure = timed(options, packets, &mut datapath)?;
            let opened = datapath.counters()?.get(Counter::Opened) - before.get(Counter::Opened);
            ensure!(opened == options.packets * options.rounds as u64, "{opened} packets were opened");
            rows.push(vec!["media".into(), payload.to_string(), (8 * key_len).to_string(), figure.text()]);
            values.push(json!({ "packet": "media", "payload": payload, "key_bits": 8 * key_len, "ns": figure.json() }));
        }
    }
    Ok(Table {
        name: "open",
        title: "Open: ns per packet in penstock_ingress, nobody plays",
        header: ["packet", "payload, bytes", "key, bits", "ns: median (min–max)"].map(String::from).to_vec(),
        rows,
        json: values,
    })
}

/// Runs each packet once; a round's figure is the median of its packets.
fn timed(options: &Options, packets: impl Fn(u64) -> Result<Vec<Vec<u8>>>, datapath: &mut Datapath) -> Result<Figure> {
    let mut rounds = Vec::new();
    for round in 0..options.rounds as u64 {
        let packets = packets(round)?;
        let times = packets.iter().map(|packet| Ok(datapath.ingress(packet)?.duration.as_nanos() as f64));
        rounds.push(Figure::of(times.collect::<Result<_>>()?).median);
    }
    Ok(Figure::of(rounds))
}

/// The whole way over a veth: the egress program by the kernel's run-time statistics, everything by
/// the clock.
fn fan_out(options: &Options) -> Result<[Table; 2]> {
    let (mut seal, mut whole) = ((Vec::new(), Vec::new()), (Vec::new(), Vec::new()));
    on_wire(XdpMode::Driver, 1, |wire| {
        // The receiving taps would cost a copy for each frame.
        wire.taps.clear();
        let sender = Tap::sender(wire.far[0])?;
        for key_len in KEYS {
            for payload in PAYLOADS {
                for members in FANOUTS {
                    let [by_clock, in_egress] = fan_out_of(options, wire, &sender, key_len, payload, members)?;
                    let labels = [payload.to_string(), (8 * key_len).to_string(), members.to_string()];
                    let value = |ns: &Figure| json!({ "payload": payload, "key_bits": 8 * key_len, "members": members, "ns": ns.json() });
                    whole.0.push([labels.to_vec(), vec![by_clock.text()]].concat());
                    whole.1.push(value(&by_clock));
                    if members == 64 {
                        seal.0.push(vec![labels[0].clone(), labels[1].clone(), in_egress.text()]);
                        seal.1.push(value(&in_egress));
                    }
                }
            }
        }
        Ok(())
    })?;
    let header = |columns: &[&str]| columns.iter().map(|column| (*column).to_owned()).collect();
    Ok([
        Table {
            name: "seal",
            title: "Seal: ns per copy in penstock_egress (BPF run-time statistics, fan-out of 64)",
            header: header(&["payload, bytes", "key, bits", "ns: median (min–max)"]),
            rows: seal.0,
            json: seal.1,
        },
        Table {
            name: "fan_out",
            title: "Fan-out: ns per copy by the clock, open, clone, seal and veth",
            header: header(&["payload, bytes", "key, bits", "copies", "ns per copy: median (min–max)"]),
            rows: whole.0,
            json: whole.1,
        },
    ])
}

/// ns per copy by the clock, and in the egress program.
fn fan_out_of(
    options: &Options,
    wire: &mut Wire,
    sender: &Tap,
    key_len: usize,
    payload: usize,
    members: u32,
) -> Result<[Figure; 2]> {
    let datapath = &mut wire.datapath;
    for slot in 0..members {
        datapath.set_subscriber(slot, &subscriber(slot, key_len, wire.nics[0])?)?;
    }
    datapath.set_fanout(0, &[(wire.nics[0], (0..members).collect())])?;
    let publisher = publisher(key_len, Some(0))?;
    datapath.set_publisher(0, &publisher)?;
    // About as many copies in each round, whatever the fan-out.
    let packets = (options.packets * 16 / u64::from(members)).clamp(20, options.packets);
    let (mut by_clock, mut in_egress) = (Vec::new(), Vec::new());
    for round in 0..2 * options.rounds as u64 {
        let indices = FIRST + 1 + round * packets..FIRST + 1 + (round + 1) * packets;
        let frames: Vec<Vec<u8>> = indices.map(|index| media(&publisher, index, payload)).collect();
        let copies = packets * u64::from(members);
        if round % 2 == 0 {
            let times = send_all(datapath, sender, &frames, members)?;
            ensure!(times.len() * 2 >= frames.len(), "the kernel does the work elsewhere: the machine is too busy");
            by_clock.push(Figure::of(times).median);
        } else {
            let sent = |datapath: &Datapath| send_all(datapath, sender, &frames, members).map(drop);
            let [_, (ns, runs)] = run_times(datapath, sent)?;
            ensure!(runs == copies, "{runs} runs for {copies} copies");
            in_egress.push(ns as f64 / copies as f64);
        }
    }
    Ok([Figure::of(by_clock), Figure::of(in_egress)])
}

/// Sends one packet after the other. For those whose copies were all sealed when the system call came
/// back: how long it took. (The kernel may leave the work to a thread of its own; then the clock says
/// nothing.)
fn send_all(datapath: &Datapath, sender: &Tap, frames: &[Vec<u8>], members: u32) -> Result<Vec<f64>> {
    let mut times = Vec::new();
    for frame in frames {
        let before = datapath.counter(Counter::Sealed)?;
        let start = Instant::now();
        sender.send(frame)?;
        let took = start.elapsed();
        let sealed = || Ok::<_, anyhow::Error>(datapath.counter(Counter::Sealed)? - before);
        if sealed()? == u64::from(members) {
            times.push(took.as_nanos() as f64 / f64::from(members));
        }
        while sealed()? < u64::from(members) {
            ensure!(start.elapsed() < Duration::from_secs(20), "copies are missing");
            std::thread::yield_now();
        }
    }
    Ok(times)
}

/// Run time in ns and runs of the ingress and of the egress program during `work`.
fn run_times(datapath: &mut Datapath, work: impl FnOnce(&Datapath) -> Result<()>) -> Result<[(u64, u64); 2]> {
    const PROGRAMS: [&str; 2] = ["penstock_ingress", "penstock_egress"];
    let statistics = enable_stats(Stats::RunTime)?;
    let before = PROGRAMS.map(|name| run_time(datapath, name));
    work(datapath)?;
    let after = PROGRAMS.map(|name| run_time(datapath, name));
    drop(statistics);
    let [ingress, egress] = after;
    let [ingress_before, egress_before] = before;
    let during = |after: (u64, u64), before: (u64, u64)| (after.0 - before.0, after.1 - before.1);
    Ok([during(ingress?, ingress_before?), during(egress?, egress_before?)])
}

/// Run time in ns and runs of a program.
fn run_time(datapath: &mut Datapath, name: &str) -> Result<(u64, u64)> {
    let id = datapath.program(name)?.info()?.id();
    let info: ProgramInfo = loaded_programs().flatten().find(|info| info.id() == id).context("a loaded program")?;
    Ok((info.run_time().as_nanos() as u64, info.run_count()))
}

fn peer() -> Result<SocketAddr> {
    Ok("192.0.2.1:40000".parse()?)
}

fn local() -> Result<SocketAddr> {
    Ok(SocketAddr::from(([192, 0, 2, 2], MEDIA_PORT)))
}

fn publisher(key_len: usize, fanout: Option<u32>) -> Result<Publisher> {
    Ok(Publisher {
        key: Key::test(key_len, 1),
        peer: peer()?,
        local: local()?,
        ssrc: 0x1122_3344,
        payload_type: 96,
        first: FIRST,
        fanout,
    })
}

fn subscriber(slot: u32, key_len: usize, ifindex: u32) -> Result<Subscriber> {
    let peer = SocketAddr::from(([10, 0, 0, slot as u8], 6000));
    Ok(Subscriber {
        key: Key::test(key_len, 100 + slot),
        path: Path::new(ifindex, [2; 6], [4; 6], None, local()?, peer).context("path")?,
        ssrc: slot,
        payload_type: 96,
        index_offset: 0,
        timestamp_offset: 0,
        first_in: 0,
        ds: 0,
    })
}

fn media(publisher: &Publisher, index: u64, payload: usize) -> Vec<u8> {
    let header = Rtp::new(96, index as u16, index as u32, publisher.ssrc).build();
    let packet = publisher.key.seal(&header, &vec![0x5a; payload], index);
    Frame::new(publisher.peer, publisher.local, packet).build()
}

/// Kernel and processor, in a line.
fn machine() -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let cpu = read("/proc/cpuinfo");
    let model =
        cpu.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or("").trim_matches([' ', '\t', ':']);
    let cpus = cpu.lines().filter(|line| line.starts_with("processor")).count();
    format!("Linux {}, {cpus} CPUs, {model}", read("/proc/sys/kernel/osrelease").trim())
}

/// Replaces what is between the markers of docs/benchmarks.md.
fn write_docs(options: &Options, tables: &[Table]) -> Result<()> {
    const BEGIN: &str = "<!-- bench-datapath: begin -->\n";
    const END: &str = "<!-- bench-datapath: end -->";
    let path = FilePath::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/benchmarks.md");
    let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let (Some(begin), Some(end)) = (text.find(BEGIN), text.find(END)) else {
        bail!("{} lacks its markers", path.display());
    };
    let mut report = format!("\n{}; {} rounds of {} packets.\n", machine(), options.rounds, options.packets);
    for table in tables {
        let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
        report += &format!("\n{}\n\n{}", table.title, line(&table.header));
        report += &line(&vec!["---".to_owned(); table.header.len()]);
        table.rows.iter().for_each(|row| report += &line(row));
    }
    let text = [&text[..begin + BEGIN.len()], &report, "\n", &text[end..]].concat();
    fs::write(&path, text)?;
    eprintln!("wrote {}", path.display());
    Ok(())
}
