//! From runs to figures: medians, JSON, tables, and the targets.

use std::time::Duration;

use anyhow::{Result, bail};
use serde_json::{Value, json};

use super::{
    case::{Case, Origin},
    contender::Contender,
    cpu::Busy,
    run::Measured,
};

/// A figure: median, lowest and highest of the rounds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Figure {
    pub median: f64,
    pub min: f64,
    pub max: f64,
}

impl Figure {
    /// Of all values. `None`: there are none, or one of them is not known.
    pub fn of_known(values: impl IntoIterator<Item = Option<f64>>) -> Option<Self> {
        let values: Vec<f64> = values.into_iter().collect::<Option<_>>()?;
        (!values.is_empty()).then(|| Self::of(values))
    }

    /// Of at least one value.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Self {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let at = |place: usize| values.get(place).copied().unwrap_or(f64::NAN);
        let last = values.len().saturating_sub(1);
        Self { median: (at(last / 2) + at(last.div_ceil(2))) / 2.0, min: at(0), max: at(last) }
    }

    pub(crate) fn text(&self, digits: usize) -> String {
        format!("{:.digits$} ({:.digits$}–{:.digits$})", self.median, self.min, self.max)
    }

    pub(crate) fn json(&self) -> Value {
        json!({ "median": self.median, "min": self.min, "max": self.max })
    }
}

/// What a contender showed in a case.
pub struct Entry {
    pub contender: Contender,
    /// Those that came to their end.
    pub runs: Vec<Measured>,
    /// How many did not.
    pub failed: usize,
}

/// A run that did not come to its end.
pub struct Failure {
    /// In what: a case, or a closer look.
    pub case: String,
    /// Who.
    pub name: String,
    /// Another server: what it does wrong costs its own figures and nothing else.
    pub is_peer: bool,
    pub why: String,
}

impl Failure {
    /// All of them, if there are any.
    pub fn table(failures: &[Self]) -> Option<Table> {
        // The reason alone: the rest, a server's log for the most part, has been said when it happened.
        let first = |why: &str| why.lines().next().unwrap_or_default().chars().take(200).collect();
        let rows = failures.iter().map(|one| vec![one.case.clone(), one.name.clone(), first(&one.why)]);
        (!failures.is_empty()).then(|| Table {
            title: "Runs that failed, whose figures are missing above".into(),
            header: vec!["case", "", "why"],
            rows: rows.collect(),
        })
    }

    /// Whether all of them are another server's.
    ///
    /// # Errors
    /// Names one of ours.
    pub fn all_of_peers(failures: &[Self]) -> Result<()> {
        match failures.iter().find(|failure| !failure.is_peer) {
            None => Ok(()),
            Some(Self { case, name, why, .. }) => bail!("{case}: {name}: {why}"),
        }
    }
}

/// A name, and how many of its runs failed.
pub(crate) fn with_failures(name: &str, failed: usize, runs: usize) -> String {
    match failed {
        0 => name.to_owned(),
        failed => format!("{name} ({failed} of {} runs failed)", failed + runs),
    }
}

/// A cell of a table: what is not known is no number.
pub(crate) fn cell(figure: Option<Figure>, digits: usize) -> String {
    figure.map_or_else(|| "–".into(), |figure| figure.text(digits))
}

/// A cell: lost of expected.
pub fn loss_cell(lost: Option<u64>, expected: u64) -> String {
    lost.map_or_else(|| "–".into(), |lost| format!("{lost} of {expected}"))
}

/// One case.
pub struct Outcome {
    pub case: Case,
    /// The machine with the load generator alone; `None`: there was none.
    pub generator: Option<Figure>,
    pub entries: Vec<Entry>,
}

/// Everything.
pub struct Report {
    pub machine: String,
    pub method: String,
    /// Name of the other server, if there is one.
    pub peer: Option<String>,
    pub idle: Busy,
    pub outcomes: Vec<Outcome>,
    /// Copies per second without loss, by case.
    pub highest: Vec<(Case, Contender, f64)>,
    /// (contender, its run with every copy opened)
    pub checked: Vec<(Case, Contender, Measured)>,
    /// (contender, its run with the BPF programs timed)
    pub programs: Vec<(Case, Contender, Measured)>,
    pub failures: Vec<Failure>,
}

/// A table for people and for the documentation.
pub struct Table {
    pub title: String,
    pub header: Vec<&'static str>,
    pub rows: Vec<Vec<String>>,
}

impl Outcome {
    /// What one run cost the machine, in cores, without what it does when idle and without the generator.
    fn cores(&self, run: &Measured, idle: Busy) -> f64 {
        // The generator's figure has the idle machine in it already.
        let others = self.generator.map_or(idle.cores, |generator| generator.median);
        run.alone.unwrap_or((run.busy.cores - others).max(0.0))
    }

    /// The same in ns per copy that came. `None`: none came.
    fn ns(&self, run: &Measured, idle: Busy) -> Option<f64> {
        (run.copies > 0.0).then(|| self.cores(run, idle) * 1e9 / run.copies)
    }

    /// ns per copy of a contender.
    pub fn cost(&self, contender: Contender, idle: Busy) -> Option<Figure> {
        let entry = self.entries.iter().find(|entry| entry.contender == contender)?;
        Figure::of_known(entry.runs.iter().map(|run| self.ns(run, idle)))
    }
}

impl Entry {
    fn latency(&self, part: f64) -> Option<Figure> {
        let micros = |time: Duration| time.as_secs_f64() * 1e6;
        Figure::of_known(self.runs.iter().map(|run| run.latency.quantile(part).map(micros)))
    }

    /// Lost, and expected. `None`: not known.
    fn loss(&self) -> (Option<u64>, u64) {
        let lost = self.runs.iter().map(|run| run.lost).sum::<Option<u64>>();
        (lost.filter(|_| !self.runs.is_empty()), self.runs.iter().map(|run| run.expected).sum())
    }

    /// `None`: it has no process of its own, or no run.
    fn megabytes(&self) -> Option<Figure> {
        let megabytes = |run: &Measured| (run.memory.process + run.memory.maps) as f64 / 1e6;
        Figure::of_known(self.runs.iter().map(|run| Some(megabytes(run)).filter(|_| run.memory.process > 0)))
    }
}

impl Report {
    /// What a contender is called in it.
    pub fn title(&self, contender: Contender) -> &str {
        self.peer.as_deref().filter(|_| contender == Contender::Peer).unwrap_or(contender.title())
    }

    /// All tables.
    pub fn tables(&self) -> Vec<Table> {
        let mut tables: Vec<Table> = self.outcomes.iter().map(|outcome| self.case_table(outcome)).collect();
        tables.extend(self.highest_table());
        tables.extend(self.checked_table());
        tables.extend(self.programs_table());
        tables.extend(Failure::table(&self.failures));
        tables.push(self.targets_table());
        tables
    }

    fn case_table(&self, outcome: &Outcome) -> Table {
        let socket = outcome.cost(Contender::Socket, self.idle);
        let row = |entry: &Entry| {
            let cost = outcome.cost(entry.contender, self.idle);
            let ratio = cost.zip(socket).map(|(cost, socket)| cost.median / socket.median);
            let percent = |run| Some(100.0 * outcome.cores(run, self.idle));
            let (lost, expected) = entry.loss();
            let underruns: u64 = entry.runs.iter().map(|run| run.underruns).sum();
            // Another server has no keystream ahead of time.
            let has_underruns = entry.contender != Contender::Peer && !entry.runs.is_empty();
            vec![
                with_failures(self.title(entry.contender), entry.failed, entry.runs.len()),
                cell(cost, 0),
                ratio.map_or_else(|| "–".into(), |ratio| format!("{ratio:.2}")),
                cell(Figure::of_known(entry.runs.iter().map(percent)), 1),
                cell(entry.latency(0.5), 0),
                cell(entry.latency(0.99), 0),
                cell(entry.megabytes(), 1),
                loss_cell(lost, expected),
                if has_underruns { underruns.to_string() } else { "–".into() },
            ]
        };
        let generator = match outcome.generator {
            Some(generator) => format!("load generator alone: {} % of a core", percent(generator)),
            None => "the source is in the process and counts".into(),
        };
        Table {
            title: format!("{}, {:.0} copies/s ({generator})", outcome.case.title(), outcome.case.copies()),
            header: vec![
                "",
                "ns per copy",
                "to sendmmsg",
                "% of a core",
                "p50, µs",
                "p99, µs",
                "memory, MB",
                "lost",
                "underruns",
            ],
            rows: outcome.entries.iter().map(row).collect(),
        }
    }

    fn highest_table(&self) -> Option<Table> {
        let rows = self.highest.iter().map(|(case, contender, copies)| {
            let gigabits = copies * (case.payload as f64 + 70.0) * 8.0 / 1e9;
            vec![case.title(), self.title(*contender).into(), format!("{copies:.0}"), format!("{gigabits:.2}")]
        });
        (!self.highest.is_empty()).then(|| Table {
            title: "Highest rate without loss on one core".into(),
            header: vec!["case", "", "copies/s", "Gbit/s on the wire"],
            rows: rows.collect(),
        })
    }

    fn checked_table(&self) -> Option<Table> {
        let rows = self.checked.iter().map(|(case, contender, run)| {
            let verdict = run.verdict.clone().unwrap_or_default();
            vec![
                format!("{}, {:.0} copies/s", case.title(), case.copies()),
                self.title(*contender).into(),
                run.expected.to_string(),
                verdict.right.to_string(),
                (verdict.wrong + verdict.repeated).to_string(),
                verdict.first.unwrap_or_default(),
            ]
        });
        (!self.checked.is_empty()).then(|| Table {
            title: "Every copy of every viewer opened and compared".into(),
            header: vec!["case", "", "expected", "right", "wrong", "the first wrong one"],
            rows: rows.collect(),
        })
    }

    fn programs_table(&self) -> Option<Table> {
        let rows = self.programs.iter().flat_map(|(case, contender, run)| {
            run.programs.iter().map(move |program| {
                vec![
                    case.title(),
                    self.title(*contender).into(),
                    program.name.clone(),
                    format!("{:.0}", program.runs),
                    format!("{:.0}", program.ns),
                    format!("{:.1}", program.runs * program.ns / 1e7),
                ]
            })
        });
        let rows: Vec<_> = rows.collect();
        (!rows.is_empty()).then(|| Table {
            title: "Where the kernel's time goes: BPF programs by the kernel's run-time statistics".into(),
            header: vec!["case", "", "program", "runs/s", "ns per run", "% of a core"],
            rows,
        })
    }

    fn targets_table(&self) -> Table {
        let mut rows = Vec::new();
        for outcome in &self.outcomes {
            targets(outcome, self.idle, &mut rows);
        }
        Table { title: "Targets".into(), header: vec!["case", "", "is", "shall be", ""], rows }
    }

    /// Everything, for programs.
    pub fn json(&self) -> Value {
        let outcomes = self.outcomes.iter().map(|outcome| {
            let entries = outcome.entries.iter().map(|entry| self.entry_json(outcome, entry));
            json!({
                "case": case_json(&outcome.case),
                "generator_cores": outcome.generator.as_ref().map(Figure::json),
                "contenders": entries.collect::<Vec<_>>(),
            })
        });
        let tables = self.tables().into_iter();
        json!({
            "machine": self.machine,
            "method": self.method,
            "other_server": self.peer,
            "idle_cores": { "scheduler": self.idle.cores, "proc_stat": self.idle.not_idle },
            "outcomes": outcomes.collect::<Vec<_>>(),
            "highest_rate": self.highest.iter().map(|(case, contender, copies)| json!({
                "case": case_json(case), "contender": contender.name(), "copies_per_s": copies,
            })).collect::<Vec<_>>(),
            "checked": self.checked.iter().map(|(case, contender, run)| json!({
                "case": case_json(case), "contender": contender.name(), "expected": run.expected,
                "right": run.verdict.as_ref().map(|verdict| verdict.right),
                "wrong": run.verdict.as_ref().map(|verdict| verdict.wrong + verdict.repeated),
            })).collect::<Vec<_>>(),
            "programs": self.programs.iter().map(|(case, contender, run)| json!({
                "case": case_json(case), "contender": contender.name(),
                "programs": run.programs.iter().map(|program| json!({
                    "name": program.name, "runs_per_s": program.runs, "ns": program.ns,
                })).collect::<Vec<_>>(),
            })).collect::<Vec<_>>(),
            "targets": tables.filter(|table| table.title == "Targets").flat_map(|table| table.rows).collect::<Vec<_>>(),
        })
    }

    fn entry_json(&self, outcome: &Outcome, entry: &Entry) -> Value {
        let known = |value: &dyn Fn(&Measured) -> Option<f64>| {
            Figure::of_known(entry.runs.iter().map(value)).map(|figure| figure.json())
        };
        let each = |value: &dyn Fn(&Measured) -> f64| known(&|run| Some(value(run)));
        let (lost, expected) = entry.loss();
        json!({
            "contender": entry.contender.name(),
            "failed_runs": entry.failed,
            "ns_per_copy": known(&|run| outcome.ns(run, self.idle)),
            "machine_cores": each(&|run| run.busy.cores),
            "machine_cores_by_proc_stat": each(&|run| run.busy.not_idle),
            "server_alone_cores": known(&|run| run.alone),
            "process_cores": each(&|run| run.process),
            "copies_per_s": each(&|run| run.copies),
            "latency_us": { "p50": entry.latency(0.5).map(|f| f.json()), "p99": entry.latency(0.99).map(|f| f.json()) },
            "process_bytes": each(&|run| run.memory.process as f64),
            "map_bytes": each(&|run| run.memory.maps as f64),
            "expected": expected,
            "lost": lost,
            "underruns": entry.runs.iter().map(|run| run.underruns).sum::<u64>(),
            "drops": entry.runs.iter().flat_map(|run| run.drops.clone()).collect::<Vec<_>>(),
            "late_us": each(&|run| run.late.as_secs_f64() * 1e6),
        })
    }
}

fn percent(figure: Figure) -> String {
    Figure { median: 100.0 * figure.median, min: 100.0 * figure.min, max: 100.0 * figure.max }.text(1)
}

fn case_json(case: &Case) -> Value {
    json!({
        "name": case.name(), "streams": case.streams, "viewers": case.viewers, "payload": case.payload,
        "rate": case.rate, "source": case.origin == Origin::Source,
    })
}

/// The targets that a case decides.
fn targets(outcome: &Outcome, idle: Busy, rows: &mut Vec<Vec<String>>) {
    let case = &outcome.case;
    let mut row = |what: &str, is: String, shall: &str, met: bool| {
        let verdict = if met { "met" } else { "not met" };
        rows.push(vec![case.title(), what.into(), is, shall.into(), verdict.into()]);
    };
    let cost = |contender| outcome.cost(contender, idle).map(|figure| figure.median);
    let fan_out = case.streams == 1 && [64, 512].contains(&case.viewers);
    if let (true, Some(kernel), Some(socket)) = (fan_out, cost(Contender::Kernel), cost(Contender::Socket)) {
        let ratio = kernel / socket;
        let (shall, most) = if case.payload <= 100 { ("≤ 0.60", 0.6) } else { ("< 1.00", 0.999) };
        row("kernel engine to sendmmsg, CPU", format!("{ratio:.2}"), shall, ratio <= most);
    }
    if let (true, Some(kernel), Some(socket)) = (fan_out, cost(Contender::Kernel), cost(Contender::SocketOpenssl)) {
        let ratio = kernel / socket;
        row("kernel engine to sendmmsg with OpenSSL, CPU", format!("{ratio:.2}"), "≤ 0.60", ratio <= 0.6);
    }
    if let (true, Some(xdp), Some(socket)) = (fan_out, cost(Contender::Xdp), cost(Contender::Socket)) {
        let ratio = xdp / socket;
        row("userspace by XDP to sendmmsg, CPU", format!("{ratio:.2}"), "≤ 0.35", ratio <= 0.35);
    }
    if let (true, Some(xdp), Some(limit)) = (fan_out, cost(Contender::Xdp), cost(Contender::Limit)) {
        let ratio = xdp / limit;
        row("userspace by XDP to the limit, CPU", format!("{ratio:.2}"), "≤ 3.00", ratio <= 3.0);
    }
    if let Some(peer) = cost(Contender::Peer) {
        for ours in [Contender::Kernel, Contender::Xdp] {
            let Some(ratio) = cost(ours).map(|ours| ours / peer) else { continue };
            let what = format!("{} to the other server, CPU", ours.title());
            row(&what, format!("{ratio:.2}"), "≤ 0.33", ratio <= 1.0 / 3.0);
        }
    }
    let cameras = case.origin == Origin::Source && case.streams == 512;
    let ours = |entry: &&Entry| cameras && entry.contender != Contender::Peer;
    for entry in outcome.entries.iter().filter(ours) {
        let cores = Figure::of_known(entry.runs.iter().map(|run| Some(100.0 * outcome.cores(run, idle))));
        if let (Some(cores), Some(memory)) = (cores, entry.megabytes()) {
            let (cores, memory, title) = (cores.median, memory.median, entry.contender.title());
            row(&format!("{title}, CPU"), format!("{cores:.1} %"), "< 15 % of a core", cores < 15.0);
            row(&format!("{title}, memory"), format!("{memory:.1} MB"), "< 45 MB", memory < 45.0);
        }
    }
    for entry in outcome.entries.iter().filter(|entry| entry.contender == Contender::Kernel) {
        if let Some(p99) = entry.latency(0.99).map(|figure| figure.median) {
            row("kernel engine, added latency, p99", format!("{p99:.0} µs"), "< 1000 µs", p99 < 1000.0);
        }
        if let (Some(lost), _) = entry.loss() {
            row("kernel engine, lost", lost.to_string(), "0", lost == 0);
        }
    }
}

impl Table {
    /// As Markdown.
    pub fn markdown(&self) -> String {
        let line = |cells: Vec<&str>| format!("| {} |\n", cells.join(" | "));
        let mut text = format!("{}\n\n{}", self.title, line(self.header.clone()));
        text += &line(vec!["---"; self.header.len()]);
        self.rows.iter().for_each(|row| text += &line(row.iter().map(String::as_str).collect()));
        text
    }

    /// For the terminal.
    pub fn text(&self) -> String {
        let mut table = comfy_table::Table::new();
        table.set_header(&self.header).add_rows(&self.rows);
        format!("{}\n{table}\n", self.title)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_medians_with_their_range() {
        assert_eq!(Figure::of([3.0, 1.0, 2.0]), Figure { median: 2.0, min: 1.0, max: 3.0 });
        assert_eq!(Figure::of([4.0, 1.0]).median, 2.5);
        assert_eq!(Figure::of([3.0]).text(1), "3.0 (3.0–3.0)");
    }

    #[test]
    fn what_is_not_known_is_no_number() {
        assert_eq!(Figure::of_known([Some(1.0), None]), None);
        assert_eq!(Figure::of_known([]), None);
        assert_eq!(
            (cell(None, 1), loss_cell(None, 7), loss_cell(Some(3), 7)),
            ("–".into(), "–".into(), "3 of 7".into())
        );
        let idle = Busy::default();
        // One that failed whenever it ran, one that sends packets of its own, one that is ours.
        let own = Measured { alone: Some(0.5), expected: 100, ..Measured::default() };
        let ours = Measured { copies: 100.0, expected: 100, lost: Some(1), ..Measured::default() };
        let entry = |contender, runs: Vec<Measured>, failed| Entry { contender, runs, failed };
        let outcome = |peer| Outcome {
            case: Case::fan_out(8, 500),
            generator: None,
            entries: vec![entry(Contender::Kernel, vec![ours.clone()], 0), peer],
        };
        for (peer, title) in
            [(entry(Contender::Peer, vec![], 2), "x (2 of 2 runs failed)"), (entry(Contender::Peer, vec![own], 0), "x")]
        {
            let failures = vec![Failure { case: "c".into(), name: "x".into(), is_peer: true, why: "gone\nlog".into() }];
            let report = Report { peer: Some("x".into()), outcomes: vec![outcome(peer)], failures, ..empty(idle) };
            let tables = report.tables();
            let row = &tables[0].rows[1];
            assert_eq!((row[0].as_str(), row[1].as_str(), row[4].as_str(), row[7].as_str()), (title, "–", "–", "–"));
            assert_eq!(tables[0].rows[0][7], "1 of 100");
            assert!(tables.iter().any(|table| table.rows == [["c", "x", "gone"]]));
            let text: String = tables.iter().map(Table::markdown).collect::<String>() + &report.json().to_string();
            assert!(!text.contains("NaN") && !text.contains("inf"), "{text}");
        }
    }

    fn empty(idle: Busy) -> Report {
        Report {
            machine: String::new(),
            method: String::new(),
            peer: None,
            idle,
            outcomes: vec![],
            highest: vec![],
            checked: vec![],
            programs: vec![],
            failures: vec![],
        }
    }
}
