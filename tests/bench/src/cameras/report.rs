//! From runs to tables, JSON and targets.

use serde_json::{Value, json};

use super::run::Measured;
use crate::report::{Failure, Figure, Table, cell, loss_cell, with_failures};

/// So many cameras, and what the server showed with them, way by way.
pub struct Case {
    pub cameras: u32,
    /// Of our server: `tcp` or `udp`.
    pub transport: String,
    pub entries: Vec<Entry>,
}

/// A way to set the server up, or another server.
pub struct Entry {
    pub name: String,
    pub is_peer: bool,
    /// Those that came to their end.
    pub runs: Vec<Measured>,
    /// How many did not.
    pub failed: usize,
}

impl Entry {
    /// `None`: it is not known of one of the runs, or there are none.
    fn known(&self, of: impl Fn(&Measured) -> Option<f64>) -> Option<Figure> {
        Figure::of_known(self.runs.iter().map(of))
    }

    fn figure(&self, of: impl Fn(&Measured) -> f64) -> Option<Figure> {
        self.known(|run| Some(of(run)))
    }

    fn millis(&self, part: f64) -> Option<Figure> {
        self.known(|run| Some(run.latency(part)?.as_secs_f64() * 1e3))
    }

    /// `None`: nobody knows.
    fn lost(&self) -> Option<u64> {
        self.runs.iter().map(|run| run.lost).sum::<Option<u64>>().filter(|_| !self.runs.is_empty())
    }

    fn sum(&self, of: impl Fn(&Measured) -> u64) -> u64 {
        self.runs.iter().map(of).sum()
    }

    fn cells(&self) -> Vec<String> {
        let percent = |of: fn(&Measured) -> f64| cell(self.figure(|run| 100.0 * of(run)), 1);
        // Of a server that we did not start, nobody knows what it receives.
        let receiving = self.known(|run| run.apart.then_some(100.0 * run.cores.receiving));
        let opened = format!("{} / {}", self.sum(|run| run.right), self.sum(|run| run.wrong + run.missing));
        vec![
            with_failures(&self.name, self.failed, self.runs.len()),
            percent(Measured::server),
            percent(|run| run.cores.process),
            cell(receiving, 1),
            cell(self.known(Measured::ns_per_packet), 0),
            cell(self.figure(Measured::megabytes), 1),
            cell(self.millis(0.5), 1),
            cell(self.millis(0.99), 1),
            loss_cell(self.lost(), self.sum(|run| run.expected)),
            if self.runs.is_empty() { "–".into() } else { opened },
        ]
    }

    fn json(&self) -> Value {
        let figure = |of: fn(&Measured) -> f64| self.figure(of).map(|figure| figure.json());
        let latency = |part: f64| {
            let seconds = self.known(|run| Some(run.latency(part)?.as_secs_f64()));
            seconds.map(|figure| figure.json())
        };
        json!({
            "name": self.name,
            "other_server": self.is_peer,
            "failed_runs": self.failed,
            "receiving_is_known": self.runs.iter().all(|run| run.apart),
            "server_cores": figure(Measured::server),
            "process_cores": figure(|run| run.cores.process),
            "receiving_cores": figure(|run| run.cores.receiving),
            "ksoftirqd_cores": figure(|run| run.cores.ksoftirqd),
            "generator_cores": figure(|run| run.cores.generator),
            "viewers_cores": figure(|run| run.cores.viewers),
            "process_bytes": figure(|run| run.memory.process as f64),
            "maps_bytes": figure(|run| run.memory.maps as f64),
            "p50_seconds": latency(0.5),
            "p99_seconds": latency(0.99),
            "longest_seconds": latency(1.0),
            "packets_per_s": figure(|run| run.rate),
            "expected": self.sum(|run| run.expected),
            "lost": self.lost(),
            "opened_right": self.sum(|run| run.right),
            "opened_wrong": self.sum(|run| run.wrong),
            "opened_missing": self.sum(|run| run.missing),
            "packets_left_out": self.sum(|run| run.left_out),
            "generator_late_seconds": figure(|run| run.late.as_secs_f64()),
        })
    }

    /// `None`: it is right. Else what is not.
    pub fn wrong(&self) -> Option<String> {
        // Another server may lose or change what it likes: the table shows it.
        if self.is_peer {
            return None;
        }
        let (wrong, right) = (self.sum(|run| run.wrong), self.sum(|run| run.right));
        (wrong > 0 || right == 0 && !self.runs.is_empty())
            .then(|| format!("{}: {wrong} packets wrong, {right} right", self.name))
    }
}

/// All tables.
pub fn tables(cases: &[Case], failures: &[Failure]) -> Vec<Table> {
    let mut tables: Vec<Table> = cases.iter().map(case_table).collect();
    tables.extend(Failure::table(failures));
    let mut rows = vec![];
    for case in cases {
        targets(case, &mut rows);
    }
    tables.push(Table { title: "Targets".into(), header: vec!["case", "", "is", "shall be", ""], rows });
    tables
}

fn case_table(case: &Case) -> Table {
    Table {
        title: format!(
            "{} cameras at 1 Mbit/s by RTSP over {}, 1 viewer each",
            case.cameras,
            case.transport.to_uppercase()
        ),
        header: vec![
            "",
            "% of a core",
            "of it, process",
            "of it, receiving",
            "ns per packet",
            "memory, MB",
            "p50, ms",
            "p99, ms",
            "lost",
            "opened: right / not",
        ],
        rows: case.entries.iter().map(Entry::cells).collect(),
    }
}

fn targets(case: &Case, rows: &mut Vec<Vec<String>>) {
    let cores = |entry: &Entry| entry.figure(Measured::server).map(|figure| figure.median);
    let peer = case.entries.iter().find(|entry| entry.is_peer).and_then(cores);
    for entry in case.entries.iter().filter(|entry| !entry.is_peer) {
        let mut row = |what: &str, is: String, shall: &str, met: bool| {
            let verdict = if met { "met" } else { "not met" };
            let title = format!("{} cameras, {}", case.cameras, entry.name);
            rows.push(vec![title, what.into(), is, shall.into(), verdict.into()]);
        };
        if let (512, Some(cores), Some(memory)) = (case.cameras, cores(entry), entry.figure(Measured::megabytes)) {
            row("CPU", format!("{:.1} %", 100.0 * cores), "< 15 % of a core", cores < 0.15);
            row("memory", format!("{:.1} MB", memory.median), "< 45 MB", memory.median < 45.0);
        }
        if let Some(p99) = entry.millis(0.99).map(|figure| figure.median) {
            row("latency, p99", format!("{p99:.1} ms"), "< 100 ms", p99 < 100.0);
        }
        if let Some(loss) = entry.known(Measured::loss).map(|figure| 100.0 * figure.max) {
            row("loss", format!("{loss:.3} %"), "< 0.1 %", loss < 0.1);
        }
        if let Some(ratio) = cores(entry).zip(peer).map(|(ours, peer)| ours / peer) {
            row("CPU to the other server's", format!("{ratio:.2}"), "≤ 0.33", ratio <= 1.0 / 3.0);
        }
    }
}

/// Everything, for programs.
pub fn json(machine: &str, cases: &[Case]) -> Value {
    let case = |case: &Case| {
        let entries: Vec<Value> = case.entries.iter().map(Entry::json).collect();
        json!({ "cameras": case.cameras, "transport": case.transport, "entries": entries })
    };
    json!({ "machine": machine, "cases": cases.iter().map(case).collect::<Vec<_>>() })
}
