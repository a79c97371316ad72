//! What came of the guests: against the limits, as a table for people, and as JSON for programs.

use std::collections::BTreeMap;

use super::{
    FIXTURES,
    catalogue::{Kernel, Purpose},
    guest::{Event, Report},
    stack::{self, Chain},
};

/// Most instructions that a verifier may walk for a program: half of what it allows.
pub(super) const INSTRUCTIONS: u64 = 500_000;

/// Most copies that may be lost of a thousand: an emulated processor does not always come in time to empty a socket.
const LOST: u64 = 1;

/// A program, on one kernel.
#[derive(Clone, Debug)]
pub(super) struct Program {
    pub object: String,
    pub name: String,
    /// `None` where the kernel does not tell.
    pub instructions: Option<u64>,
    pub milliseconds: u64,
    /// Why the verifier refuses it.
    pub refused: Option<String>,
}

/// A run of the server.
#[derive(Clone, Debug)]
pub(super) struct Forwarding {
    pub link: String,
    pub engine: String,
    pub forwarded: u64,
    pub lost: u64,
    pub problem: String,
}

/// What came of one kernel.
#[derive(Clone, Debug)]
pub(super) struct Result {
    pub kernel: Kernel,
    pub release: String,
    pub accelerator: &'static str,
    pub seconds: f32,
    pub programs: Vec<Program>,
    pub passed: Vec<String>,
    /// Name and output.
    pub failed: Vec<(String, String)>,
    pub forwarding: Vec<Forwarding>,
    /// Lines of `penstock verify`.
    pub verified: Vec<Event>,
    /// What the server said when it refused to run.
    pub refusal: Option<String>,
    /// What is wrong, for people; empty if all is well.
    pub problems: Vec<String>,
}

/// Everything that was found.
pub(super) struct Matrix {
    /// By object.
    pub chains: Vec<(String, Vec<Chain>)>,
    pub results: Vec<Result>,
}

impl Result {
    /// Reads what a guest said. `steps`: what it had to do; `programs`: object and name of those that it had to load.
    pub(super) fn new(
        kernel: Kernel,
        release: &str,
        accelerator: &'static str,
        report: &Report,
        steps: &[&str],
        programs: &[(String, String)],
    ) -> Self {
        let mut result = Self {
            kernel,
            release: release.to_owned(),
            accelerator,
            seconds: report.time.as_secs_f32(),
            programs: Vec::new(),
            passed: Vec::new(),
            failed: Vec::new(),
            forwarding: Vec::new(),
            verified: Vec::new(),
            refusal: None,
            problems: Vec::new(),
        };
        report.events.iter().for_each(|event| result.read(event));
        if !report.whole {
            let last = report.events.last().map_or("nothing".into(), |event| event.join(" "));
            result.problems.push(format!("the guest did not come to its end; the last that it said: {last}"));
        }
        result.judge(steps, programs);
        result
    }

    fn read(&mut self, event: &Event) {
        let field = |n: usize| event.get(n).cloned().unwrap_or_default();
        let number = |n: usize| field(n).parse::<u64>().ok();
        match event.first().map(String::as_str) {
            Some("program") => self.programs.push(Program {
                object: field(1),
                name: field(2),
                instructions: number(3),
                milliseconds: number(4).unwrap_or(0),
                refused: None,
            }),
            Some("refused") => self.programs.push(Program {
                object: field(1),
                name: field(2),
                instructions: None,
                milliseconds: 0,
                refused: Some(field(3)),
            }),
            Some("fixture") if field(2) == "ok" => self.passed.push(field(1)),
            Some("fixture") => self.failed.push((field(1), field(3))),
            Some("forwarded") => self.forwarding.push(Forwarding {
                link: field(1),
                engine: field(2),
                forwarded: number(3).unwrap_or(0),
                lost: number(4).unwrap_or(0),
                problem: field(5),
            }),
            Some("verified") => self.verified.push(event[1..].to_vec()),
            Some("refusal") => self.refusal = Some(field(1)),
            Some("failed") => self.problems.push(format!("{}: {}", field(1), field(2))),
            _ => {}
        }
    }

    /// Adds what is wrong.
    fn judge(&mut self, steps: &[&str], programs: &[(String, String)]) {
        let mut problems = Vec::new();
        let did = |names: &[&str]| steps.iter().any(|step| names.contains(step));
        if did(&["load"]) {
            for (object, name) in programs {
                let told = |it: &&Program| it.object == *object && (it.name == *name || it.name == "(maps)");
                match self.programs.iter().find(told) {
                    None => problems.push(format!("{object}, {name}: was not loaded")),
                    Some(Program { refused: Some(why), .. }) => {
                        problems.push(format!("{object}, {name}: refused: {why}"))
                    }
                    Some(Program { instructions: Some(count), .. }) if *count > INSTRUCTIONS => {
                        problems.push(format!("{object}, {name}: {} instructions", grouped(*count)));
                    }
                    Some(_) => {}
                }
            }
        }
        if did(&["fixtures", "some-fixtures"]) {
            let ran =
                |name: &&&str| self.passed.iter().chain(self.failed.iter().map(|it| &it.0)).any(|it| it == **name);
            let missing: Vec<_> = FIXTURES.iter().filter(|name| !ran(name)).copied().collect();
            if !missing.is_empty() {
                problems.push(format!("fixtures that did not run: {}", missing.join(", ")));
            }
        }
        problems.extend(self.failed.iter().map(|(name, output)| format!("fixture {name} failed: {output}")));
        if did(&["forward"]) && self.forwarding.len() != 4 {
            problems.push(format!("{} of 4 forwarding runs came to an end", self.forwarding.len()));
        }
        for run in &self.forwarding {
            let name = format!("{}, {} engine", run.link, run.engine);
            if !run.problem.is_empty() {
                problems.push(format!("{name}: {}", run.problem));
            } else if run.forwarded == 0 || run.lost * 1000 > run.forwarded * LOST {
                problems.push(format!("{name}: {} copies came, {} were lost", run.forwarded, run.lost));
            }
        }
        if did(&["refusal"]) && self.refusal.is_none() && self.problems.is_empty() {
            problems.push("the server did not say why it refuses this kernel".into());
        }
        self.problems.extend(problems);
    }

    fn fixtures(&self) -> String {
        match (self.passed.len(), self.failed.len()) {
            (0, 0) => "–".into(),
            (passed, 0) => format!("{passed} passed"),
            (passed, failed) => format!("{passed} passed, {failed} failed"),
        }
    }
}

impl Matrix {
    /// All that is wrong.
    pub(super) fn problems(&self) -> Vec<String> {
        let deep = self.chains.iter().flat_map(|(object, chains)| {
            chains.iter().filter(|chain| chain.depth > stack::LIMIT).map(move |chain| {
                let path: Vec<_> = chain.functions.iter().map(|(name, frame)| format!("{name} {frame}")).collect();
                format!("{object}, {}: {} bytes of stack: {}", chain.program, chain.depth, path.join(", "))
            })
        });
        let kernels = self.results.iter().flat_map(|result| {
            result.problems.iter().map(move |problem| format!("{} ({}): {problem}", result.kernel.name, result.release))
        });
        deep.chain(kernels).collect()
    }

    /// For people.
    pub(super) fn table(&self) -> String {
        let mut rows = vec![vec!["program".to_owned(), "stack".into()]];
        rows[0].extend(self.results.iter().map(|result| result.release.clone()));
        for (object, chains) in &self.chains {
            for chain in chains {
                let mut row = vec![chain.program.clone(), chain.depth.to_string()];
                row.extend(self.results.iter().map(|result| result.cell(object, &chain.program)));
                rows.push(row);
            }
        }
        let mut more = |name: &str, cell: &dyn Fn(&Result) -> String| {
            let cells: Vec<_> = self.results.iter().map(cell).collect();
            if cells.iter().any(|cell| cell != "–") {
                rows.push([vec![name.to_owned(), String::new()], cells].concat());
            }
        };
        more("fixtures", &Result::fixtures);
        for (link, engine) in
            [("veth", "kernel"), ("veth", "userspace"), ("virtio_net", "kernel"), ("virtio_net", "userspace")]
        {
            more(&format!("{link}, {engine} engine"), &|result| {
                let run = result.forwarding.iter().find(|run| run.link == link && run.engine == engine);
                run.map_or("–".into(), |run| match run.problem.is_empty() {
                    true => format!("{} came, {} lost", grouped(run.forwarded), run.lost),
                    false => "failed".into(),
                })
            });
        }
        more("penstock verify", &|result| match (
            result.verified.is_empty(),
            result.verified.iter().any(|it| it[1] == "false"),
        ) {
            (true, _) => "–".into(),
            (false, true) => "failed".into(),
            (false, false) => "all lines right".into(),
        });
        more("refused with the reason", &|result| match (&result.refusal, result.kernel.purpose) {
            (Some(_), _) => "yes".into(),
            (None, Purpose::Refuse) => "no".into(),
            (None, Purpose::Serve) => "–".into(),
        });
        more("guest", &|result| format!("{}, {:.0} s", result.accelerator, result.seconds));
        format!(
            "verified instructions and load time of each program on each kernel; at most {} instructions,\n\
             and {} of 512 bytes of stack by the older rounding\n\n{}",
            grouped(INSTRUCTIONS),
            stack::LIMIT,
            align(&rows)
        )
    }

    /// For programs.
    pub(super) fn json(&self) -> String {
        let chains = self.chains.iter().flat_map(|(object, chains)| {
            chains.iter().map(move |chain| {
                let functions = chain
                    .functions
                    .iter()
                    .map(|(name, frame)| object_of(&[("name", text(name)), ("frame", frame.to_string())]));
                object_of(&[
                    ("object", text(object)),
                    ("program", text(&chain.program)),
                    ("stack", chain.depth.to_string()),
                    ("functions", list(functions)),
                ])
            })
        });
        let problems = self.problems();
        object_of(&[
            ("ok", problems.is_empty().to_string()),
            ("limits", object_of(&[("instructions", INSTRUCTIONS.to_string()), ("stack", stack::LIMIT.to_string())])),
            ("programs", list(chains)),
            ("kernels", list(self.results.iter().map(Result::json))),
            ("problems", list(problems.iter().map(|problem| text(problem)))),
        ])
    }
}

impl Result {
    fn cell(&self, object: &str, program: &str) -> String {
        let of_maps = |it: &&Program| it.object == object && (it.name == program || it.name == "(maps)");
        match self.programs.iter().find(of_maps) {
            None => "–".into(),
            Some(Program { refused: Some(_), .. }) => "refused".into(),
            Some(it) => {
                let count = it.instructions.map_or_else(|| "?".into(), grouped);
                format!("{count} {:>5.1} s", it.milliseconds as f32 / 1000.0)
            }
        }
    }

    fn json(&self) -> String {
        let programs = self.programs.iter().map(|it| {
            object_of(&[
                ("object", text(&it.object)),
                ("program", text(&it.name)),
                ("instructions", it.instructions.map_or("null".into(), |count| count.to_string())),
                ("load_ms", it.milliseconds.to_string()),
                ("refused", it.refused.as_ref().map_or("null".into(), |why| text(why))),
            ])
        });
        let forwarding = self.forwarding.iter().map(|it| {
            object_of(&[
                ("link", text(&it.link)),
                ("engine", text(&it.engine)),
                ("forwarded", it.forwarded.to_string()),
                ("lost", it.lost.to_string()),
                ("problem", if it.problem.is_empty() { "null".into() } else { text(&it.problem) }),
            ])
        });
        let failed =
            self.failed.iter().map(|(name, output)| object_of(&[("name", text(name)), ("output", text(output))]));
        let verified = self.verified.iter().map(|line| list(line.iter().map(|word| text(word))));
        object_of(&[
            ("kernel", text(self.kernel.name)),
            ("release", text(&self.release)),
            ("machine", text(self.kernel.machine.name())),
            ("accelerator", text(self.accelerator)),
            ("seconds", format!("{:.1}", self.seconds)),
            ("programs", list(programs)),
            ("fixtures_passed", list(self.passed.iter().map(|name| text(name)))),
            ("fixtures_failed", list(failed)),
            ("forwarding", list(forwarding)),
            ("verified", list(verified)),
            ("refusal", self.refusal.as_ref().map_or("null".into(), |why| text(why))),
            ("problems", list(self.problems.iter().map(|problem| text(problem)))),
        ])
    }
}

/// `1,234,567`.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (n, digit) in digits.chars().enumerate() {
        if n > 0 && (digits.len() - n).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// Columns side by side: the first to the left, the others to the right.
fn align(rows: &[Vec<String>]) -> String {
    let mut widths = BTreeMap::new();
    for (n, cell) in rows.iter().flat_map(|row| row.iter().enumerate()) {
        let width: &mut usize = widths.entry(n).or_default();
        *width = (*width).max(cell.chars().count());
    }
    let line = |row: &Vec<String>| {
        let cells = row.iter().enumerate().map(|(n, cell)| {
            let width = widths[&n];
            if n == 0 { format!("{cell:<width$}") } else { format!("  {cell:>width$}") }
        });
        format!("{}\n", cells.collect::<String>().trim_end())
    };
    rows.iter().map(line).collect()
}

fn object_of(fields: &[(&str, String)]) -> String {
    let fields: Vec<_> = fields.iter().map(|(key, value)| format!("{}:{value}", text(key))).collect();
    format!("{{{}}}", fields.join(","))
}

fn list(items: impl Iterator<Item = String>) -> String {
    format!("[{}]", items.collect::<Vec<_>>().join(","))
}

/// A string of JSON (RFC 8259 §7).
fn text(text: &str) -> String {
    let mut out = String::from('"');
    for character in text.chars() {
        match character {
            '"' | '\\' => out.extend(['\\', character]),
            control if control < ' ' => out.push_str(&format!("\\u{:04x}", u32::from(control))),
            other => out.push(other),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::kernels::catalogue;

    fn report(lines: &[&str], whole: bool) -> Report {
        let events = lines.iter().map(|line| line.split('\t').map(str::to_owned).collect()).collect();
        Report { events, whole, time: Duration::from_secs(9) }
    }

    fn result(lines: &[&str], whole: bool, steps: &[&str]) -> Result {
        let programs = [("o".to_owned(), "p".to_owned())];
        Result::new(catalogue::find("6.1").unwrap(), "6.1.0", "TCG", &report(lines, whole), steps, &programs)
    }

    #[test]
    fn what_was_not_said_is_a_problem() {
        assert!(result(&["program\to\tp\t500000\t3"], true, &["load"]).problems.is_empty());
        for (lines, whole, steps) in [
            (&["program\to\tp\t500001\t3"][..], true, &["load"][..]),
            (&["program\to\tq\t5\t3"], true, &["load"]),
            (&["refused\to\tp\tR1 unbounded"], true, &["load"]),
            (&["refused\to\t(maps)\tno memory"], true, &["load"]),
            (&["program\to\tp\t5\t3"], false, &["load"]),
            (&[], true, &["fixtures"]),
            (&["fixture\tdrops::every_reason\tok\t"], true, &["some-fixtures"]),
            (&["forwarded\tveth\tkernel\t100\t0\t"], true, &["forward"]),
            (&[], true, &["refusal"]),
            (&["failed\tload\twhy"], true, &[]),
        ] {
            let result = result(lines, whole, steps);
            assert_eq!(result.problems.len(), 1, "{lines:?}: {:?}", result.problems);
        }
        for outcome in ["ok\t", "FAILED\twhy"] {
            let mut lines: Vec<_> = FIXTURES.iter().map(|name| format!("fixture\t{name}\tok\t")).collect();
            lines[0] = format!("fixture\t{}\t{outcome}", FIXTURES[0]);
            let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
            let problems = result(&lines, true, &["fixtures"]).problems;
            assert_eq!(problems.is_empty(), outcome == "ok\t", "{problems:?}");
        }
        let runs = ["veth\tkernel", "veth\tuserspace", "virtio_net\tkernel", "virtio_net\tuserspace"];
        let lines = |end: &str| runs.map(|run| format!("forwarded\t{run}\t{end}"));
        for (end, problems) in [("2000\t2\t", 0), ("2000\t3\t", 4), ("0\t0\t", 4), ("0\t0\twhy", 4)] {
            let lines = lines(end);
            let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
            assert_eq!(result(&lines, true, &["forward"]).problems.len(), problems, "{end}");
        }
    }

    #[test]
    fn the_table_has_a_column_for_each_kernel() {
        let chain = Chain { program: "p".into(), depth: 480, functions: vec![("p".into(), 470)] };
        let matrix = Matrix {
            chains: vec![("o".into(), vec![chain])],
            results: vec![result(&["program\to\tp\t1234567\t1500"], true, &["load"])],
        };
        let table = matrix.table();
        assert!(table.contains("p          480  1,234,567   1.5 s"), "{table}");
        assert_eq!(matrix.problems().len(), 2, "instructions and stack: {:?}", matrix.problems());
        assert!(matrix.json().starts_with("{\"ok\":false,\"limits\":{\"instructions\":500000,\"stack\":448}"));
    }

    #[test]
    fn strings_are_json() {
        assert_eq!(text("a\"b\\c\td"), "\"a\\\"b\\\\c\\u0009d\"");
        assert_eq!(grouped(873_775), "873,775");
        assert_eq!(grouped(12), "12");
    }
}
