//! The table of `cargo xtask hosts`: each set-up, and how it went with each engine.

use std::collections::BTreeMap;

/// Last parts of the names of tests that exist twice, and their columns.
const ENGINES: [(&str, &str); 2] = [("auto", "by default"), ("userspace", "sockets alone")];

/// Tests by name (`uplinks::a_way_that_moves::auto`), and whether each has passed.
pub(super) fn of<'a>(tests: impl Iterator<Item = &'a (String, bool)>) -> String {
    let mut rows: BTreeMap<String, [Option<bool>; 2]> = BTreeMap::new();
    for (name, passed) in tests {
        let engine = ENGINES.iter().position(|(engine, _)| name.ends_with(&format!("::{engine}")));
        let base = engine.map_or(name.as_str(), |engine| &name[..name.len() - ENGINES[engine].0.len() - 2]);
        let (group, what) = base.rsplit_once("::").unwrap_or(("", base));
        let row = rows.entry(format!("{group}: {}", what.replace('_', " "))).or_default();
        row[engine.unwrap_or(0)] = Some(*passed);
    }
    let width = rows.keys().map(|row| row.chars().count()).max().unwrap_or(0);
    let line = |what: &str, cells: [&str; 2]| format!("{what:width$}  {:13}  {}", cells[0], cells[1]);
    let cell = |passed: Option<bool>| match passed {
        Some(true) => "ok",
        Some(false) => "FAILED",
        None => "–",
    };
    let head = line("set-up", ENGINES.map(|(_, title)| title));
    let rows = rows.iter().map(|(what, cells)| line(what, cells.map(cell)).trim_end().to_owned());
    std::iter::once(head).chain(rows).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn engines_stand_side_by_side() {
        let tests = [
            ("uplinks::a_way::auto".to_owned(), true),
            ("uplinks::a_way::userspace".to_owned(), false),
            ("log::a_reader_that_hangs".to_owned(), true),
        ];
        let table = of(tests.iter());
        let lines: Vec<Vec<&str>> = table
            .lines()
            .map(|line| line.split("  ").filter(|cell| !cell.is_empty()).map(str::trim).collect())
            .collect();
        assert_eq!(lines[1], ["log: a reader that hangs", "ok", "–"]);
        assert_eq!(lines[2], ["uplinks: a way", "ok", "FAILED"]);
    }
}
