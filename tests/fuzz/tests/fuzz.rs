//! A little of `cargo xtask fuzz`, always the same: the whole corpus, and as many mutated inputs as are tried in a
//! moment.

use anyhow::Result;
use tests_fuzz::allocations::{self, Counting};
use tests_fuzz::run::Run;
use tests_fuzz::targets::TARGETS;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Inputs for each target.
const ROUNDS: u64 = 2000;

#[test]
fn nothing_that_comes_from_outside_does_harm() -> Result<()> {
    for target in &TARGETS {
        let mut run = Run::new(target, 1)?;
        let before = run.outcomes();
        run.rounds(ROUNDS)?;
        println!("{}: {} outcomes, {before} of the corpus", target.name, run.outcomes());
    }
    Ok(())
}

#[test]
fn allocations_are_counted() {
    let (kept, bytes) = allocations::of(|| vec![0u8; 10_000]);
    assert!(bytes >= kept.len() as u64);
}
