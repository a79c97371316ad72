//! Medians, a table, JSON.

use comfy_table::{Table, presets};
use serde_json::{Value, json};

use super::{
    cells::Cell,
    field::{COUNTERS, Middle, Run},
};

/// All runs of a line with the same in the middle.
pub struct Entry {
    pub cell: &'static Cell,
    pub middle: Middle,
    pub runs: Vec<Run>,
}

impl Entry {
    /// The middle one of the runs by a figure.
    #[must_use]
    pub fn median(&self, figure: impl Fn(&Run) -> f64) -> f64 {
        let mut all: Vec<f64> = self.runs.iter().map(figure).collect();
        all.sort_by(f64::total_cmp);
        match all.len() {
            0 => f64::NAN,
            len if len % 2 == 1 => all[len / 2],
            len => (all[len / 2 - 1] + all[len / 2]) / 2.0,
        }
    }

    fn row(&self) -> Vec<String> {
        let stalls: Vec<f64> = self.runs.iter().map(|run| run.stalled).collect();
        let (least, most) =
            (stalls.iter().copied().fold(f64::MAX, f64::min), stalls.iter().copied().fold(0.0, f64::max));
        let stall = match self.runs.len() {
            1 => format!("{most:.1}"),
            _ => format!("{:.1} ({least:.1} to {most:.1})", self.median(|run| run.stalled)),
        };
        let counted = |place: usize| match self.middle {
            Middle::Nobody => "–".to_owned(),
            _ => format!("{:.0}", self.median(|run| run.counters[place] as f64)),
        };
        let figures = [self.median(|run| run.shown), self.median(|run| run.sent_kbps), self.median(|run| run.qp)];
        [self.cell.name.to_owned(), self.middle.name().to_owned(), stall]
            .into_iter()
            .chain(figures.map(|figure| format!("{figure:.0}")))
            .chain([format!("{:.0}", self.median(|run| run.lost as f64))])
            .chain((0..COUNTERS.len()).map(counted))
            .collect()
    }

    fn json(&self) -> Value {
        let run = |run: &Run| {
            let counters: serde_json::Map<String, Value> = COUNTERS
                .iter()
                .zip(run.counters)
                .map(|((name, _), count)| ((*name).to_owned(), count.into()))
                .collect();
            json!({
                "stalled_s_per_min": run.stalled,
                "shown_per_s": run.shown,
                "sent_kbps": run.sent_kbps,
                "qp": run.qp,
                "lost_by_the_line": run.lost,
                "counters": counters,
            })
        };
        json!({
            "line": self.cell.name,
            "middle": self.middle.name(),
            "runs": self.runs.iter().map(run).collect::<Vec<_>>(),
        })
    }
}

/// As text, or as Markdown.
#[must_use]
pub fn table(entries: &[Entry], markdown: bool) -> String {
    let mut table = Table::new();
    table.load_style(if markdown { presets::ASCII_MARKDOWN } else { presets::UTF8_BORDERS_ONLY });
    let first = ["line", "in the middle", "stalled, s/min", "shown, 1/s", "sent, kbit/s", "QP", "lost"];
    table.set_header(first.into_iter().chain(COUNTERS.map(|(_, head)| head)));
    entries.iter().for_each(|entry| _ = table.add_row(entry.row()));
    table.to_string()
}

/// For programs.
#[must_use]
pub fn json(entries: &[Entry], seconds: f64) -> Value {
    json!({ "seconds": seconds, "entries": entries.iter().map(Entry::json).collect::<Vec<_>>() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::cells::CELLS;

    #[test]
    fn medians_and_rows() {
        let run = |stalled| Run { stalled, shown: 25.0, sent_kbps: 1200.0, qp: 30.0, counters: [7; 8], lost: 3 };
        let mut entry = Entry { cell: &CELLS[0], middle: Middle::Kernel, runs: vec![run(3.0), run(1.0), run(2.0)] };
        assert_eq!(entry.median(|run| run.stalled), 2.0);
        assert!(table(std::slice::from_ref(&entry), true).contains("2.0 (1.0 to 3.0)"));
        entry.runs.truncate(2);
        assert_eq!(entry.median(|run| run.stalled), 2.0);
        assert_eq!(json(&[entry], 5.0)["entries"][0]["runs"][0]["counters"]["packets_repaired"], 7);
        let quick: Vec<_> = CELLS.iter().filter(|cell| cell.quick).collect();
        assert_eq!(quick.len(), 3, "as many as CI has time for");
    }
}
