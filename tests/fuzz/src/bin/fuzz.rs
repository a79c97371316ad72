//! `cargo xtask fuzz`: minutes or hours of it.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};
use clap::Parser;
use tests_fuzz::allocations::Counting;
use tests_fuzz::run::Run;
use tests_fuzz::targets::TARGETS;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Inputs between two looks at the clock.
const ROUNDS: u64 = 500;

/// Fuzzes every parser that sees outside bytes, or one; fails at the first input that does harm, which is then in the
/// corpus.
#[derive(Parser)]
#[command(name = "fuzz")]
struct Options {
    /// One of them alone
    target: Option<String>,
    /// How long each is fuzzed
    #[arg(long, default_value_t = 1)]
    minutes: u64,
    /// The same seed tries the same inputs; without one it is the time
    #[arg(long)]
    seed: Option<u64>,
    /// Name them
    #[arg(long)]
    list: bool,
}

fn main() -> Result<()> {
    let options = Options::parse();
    if options.list {
        TARGETS.iter().for_each(|target| println!("{:16}  {}", target.name, target.what));
        return Ok(());
    }
    let wanted = |name: &str| options.target.as_deref().is_none_or(|target| target == name);
    let chosen: Vec<_> = TARGETS.iter().filter(|target| wanted(target.name)).collect();
    anyhow::ensure!(!chosen.is_empty(), "there is no such target: --list names them");
    let now = SystemTime::now().duration_since(UNIX_EPOCH).context("the clock")?.as_secs();
    let seed = options.seed.unwrap_or(now);
    println!("seed {seed}");
    // Panics are found by those who run, and told with their input.
    std::panic::set_hook(Box::new(|_| ()));
    for target in chosen {
        let end = Instant::now() + Duration::from_secs(60 * options.minutes);
        let mut run = Run::new(target, seed)?;
        while Instant::now() < end {
            run.rounds(ROUNDS)?;
        }
        println!("{:16}  {:>9} inputs, {:>5} outcomes, none did harm", target.name, run.tried, run.outcomes());
    }
    Ok(())
}
