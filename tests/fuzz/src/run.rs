//! Rounds of mutated inputs.

use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind};

use anyhow::{Result, bail};

use crate::mutate::{Random, mutate};
use crate::targets::Target;
use crate::{allocations, corpus};

/// Inputs with new outcomes that are kept in a run.
const KEPT: usize = 4096;

/// One target being fuzzed.
pub struct Run {
    target: &'static Target,
    random: Random,
    inputs: Vec<Vec<u8>>,
    outcomes: HashSet<u64>,
    /// Inputs that were tried.
    pub tried: u64,
}

impl Run {
    /// Tries the corpus.
    ///
    /// # Errors
    /// There is none, or one of it does harm: with its file's name.
    pub fn new(target: &'static Target, seed: u64) -> Result<Self> {
        let mut run = Self { target, random: Random::new(seed), inputs: vec![], outcomes: HashSet::new(), tried: 0 };
        for (name, input) in corpus::of(target)? {
            let outcome = run.attempt(&input).map_err(|harm| anyhow::anyhow!("{}: {name}: {harm}", target.name))?;
            run.outcomes.insert(outcome);
            run.inputs.push(input);
        }
        Ok(run)
    }

    /// Different outcomes so far.
    pub fn outcomes(&self) -> usize {
        self.outcomes.len()
    }

    /// Tries so many more.
    ///
    /// # Errors
    /// One does harm. It is in the corpus from then on.
    pub fn rounds(&mut self, rounds: u64) -> Result<()> {
        for _ in 0..rounds {
            let mut input = self.inputs[self.random.below(self.inputs.len())].clone();
            let other = self.inputs[self.random.below(self.inputs.len())].clone();
            mutate(&mut input, &other, self.target.words, &mut self.random);
            match self.attempt(&input) {
                Ok(outcome) if self.inputs.len() < KEPT && self.outcomes.insert(outcome) => self.inputs.push(input),
                Ok(_) => {}
                Err(harm) => {
                    let path = corpus::keep(self.target, &input)?;
                    bail!("{}: {harm}; the input is in {}", self.target.name, path.display());
                }
            }
        }
        Ok(())
    }

    /// What has come of an input, or what went wrong.
    fn attempt(&mut self, input: &[u8]) -> Result<u64, String> {
        self.tried += 1;
        let run = || catch_unwind(AssertUnwindSafe(|| (self.target.run)(input)));
        let (result, bytes) = allocations::of(run);
        let outcome = result.map_err(|panic| {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            format!("it panics: {}", text.unwrap_or_default())
        })??;
        let (each, fixed) = self.target.allocates;
        let most = each * input.len() as u64 + fixed;
        if bytes > most {
            return Err(format!("{} bytes of input make it allocate {bytes} bytes, more than {most}", input.len()));
        }
        Ok(outcome)
    }
}
