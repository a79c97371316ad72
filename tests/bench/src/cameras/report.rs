//! From runs to tables, JSON and targets.

use serde_json::{Value, json};

use super::run::Measured;
use crate::report::{Figure, Table};

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
    pub runs: Vec<Measured>,
}

impl Entry {
    fn figure(&self, of: impl Fn(&Measured) -> f64) -> Figure {
        Figure::of(self.runs.iter().map(of))
    }

    fn sum(&self, of: impl Fn(&Measured) -> u64) -> u64 {
        self.runs.iter().map(of).sum()
    }

    fn cells(&self) -> Vec<String> {
        let percent = |of: fn(&Measured) -> f64| self.figure(|run| 100.0 * of(run)).text(1);
        // Of a server that we did not start, nobody knows what it receives.
        let apart = self.runs.iter().all(|run| run.apart);
        let millis = |of: fn(&Measured) -> f64| self.figure(of).text(1);
        vec![
            self.name.clone(),
            percent(Measured::server),
            percent(|run| run.cores.process),
            if apart { percent(|run| run.cores.receiving) } else { "–".into() },
            self.figure(|run| run.server() * 1e9 / (run.expected as f64 / run.seconds)).text(0),
            self.figure(Measured::megabytes).text(1),
            millis(|run| run.p50.as_secs_f64() * 1e3),
            millis(|run| run.p99.as_secs_f64() * 1e3),
            format!("{} of {}", self.sum(|run| run.lost), self.sum(|run| run.expected)),
            format!("{} / {}", self.sum(|run| run.right), self.sum(|run| run.wrong + run.missing)),
        ]
    }

    fn json(&self) -> Value {
        let figure = |of: fn(&Measured) -> f64| self.figure(of).json();
        json!({
            "name": self.name,
            "other_server": self.is_peer,
            "receiving_is_known": self.runs.iter().all(|run| run.apart),
            "server_cores": figure(Measured::server),
            "process_cores": figure(|run| run.cores.process),
            "receiving_cores": figure(|run| run.cores.receiving),
            "ksoftirqd_cores": figure(|run| run.cores.ksoftirqd),
            "generator_cores": figure(|run| run.cores.generator),
            "viewers_cores": figure(|run| run.cores.viewers),
            "process_bytes": figure(|run| run.memory.process as f64),
            "maps_bytes": figure(|run| run.memory.maps as f64),
            "p50_seconds": figure(|run| run.p50.as_secs_f64()),
            "p99_seconds": figure(|run| run.p99.as_secs_f64()),
            "longest_seconds": figure(|run| run.longest.as_secs_f64()),
            "expected": self.sum(|run| run.expected),
            "lost": self.sum(|run| run.lost),
            "opened_right": self.sum(|run| run.right),
            "opened_wrong": self.sum(|run| run.wrong),
            "opened_missing": self.sum(|run| run.missing),
            "frames_left_out": self.sum(|run| run.left_out),
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
        (wrong > 0 || right == 0).then(|| format!("{}: {wrong} packets wrong, {right} right", self.name))
    }
}

/// All tables.
pub fn tables(cases: &[Case]) -> Vec<Table> {
    let mut tables: Vec<Table> = cases.iter().map(case_table).collect();
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
    let peer = case.entries.iter().find(|entry| entry.is_peer).map(|peer| peer.figure(Measured::server).median);
    for entry in case.entries.iter().filter(|entry| !entry.is_peer) {
        let mut row = |what: &str, is: String, shall: &str, met: bool| {
            let verdict = if met { "met" } else { "not met" };
            let title = format!("{} cameras, {}", case.cameras, entry.name);
            rows.push(vec![title, what.into(), is, shall.into(), verdict.into()]);
        };
        if case.cameras == 512 {
            let cores = 100.0 * entry.figure(Measured::server).median;
            row("CPU", format!("{cores:.1} %"), "< 15 % of a core", cores < 15.0);
            let megabytes = entry.figure(Measured::megabytes).median;
            row("memory", format!("{megabytes:.1} MB"), "< 45 MB", megabytes < 45.0);
        }
        let p99 = entry.figure(|run| run.p99.as_secs_f64() * 1e3).median;
        row("latency, p99", format!("{p99:.1} ms"), "< 100 ms", p99 < 100.0);
        let loss = 100.0 * entry.figure(Measured::loss).max;
        row("loss", format!("{loss:.3} %"), "< 0.1 %", loss < 0.1);
        if let Some(peer) = peer {
            let ratio = entry.figure(Measured::server).median / peer;
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
