//! Where the kernel's part of the time goes: run time of each BPF program.

use std::collections::BTreeMap;

use aya::programs::loaded_programs;

/// One program in the measured time.
#[derive(Clone, Debug, PartialEq)]
pub struct ProgramTime {
    pub name: String,
    /// Runs per second.
    pub runs: f64,
    /// Mean time of a run in ns.
    pub ns: f64,
}

/// Runs and ns of all programs, by id.
#[derive(Clone, Debug, Default)]
pub struct Reading(BTreeMap<u32, (String, u64, u64)>);

impl Reading {
    /// Takes one. Empty times unless the kernel's statistics are on.
    pub fn take() -> Self {
        let program = |info: aya::programs::ProgramInfo| {
            let name = info.name_as_str().unwrap_or("?").to_owned();
            (info.id(), (name, info.run_count(), info.run_time().as_nanos() as u64))
        };
        Self(loaded_programs().flatten().map(program).collect())
    }

    /// Those that ran since `before`, the one that took most first.
    pub fn since(&self, before: &Self, seconds: f64) -> Vec<ProgramTime> {
        let mut times: Vec<ProgramTime> = Vec::new();
        for (id, (name, runs, ns)) in &self.0 {
            let (ran, took) = before.0.get(id).map_or((0, 0), |(_, runs, ns)| (*runs, *ns));
            if runs > &ran && ns > &took {
                let (runs, ns) = ((runs - ran) as f64, (ns - took) as f64);
                times.push(ProgramTime { name: name.clone(), runs: runs / seconds, ns: ns / runs });
            }
        }
        times.sort_by(|one, other| (other.runs * other.ns).total_cmp(&(one.runs * one.ns)));
        times
    }
}
