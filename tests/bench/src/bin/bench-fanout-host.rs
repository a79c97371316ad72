//! The process under test of `bench-fanout`, which starts it: `tests_bench::host`.

use anyhow::Result;
use clap::Parser as _;
use tests_bench::host::{Options, run};

fn main() -> Result<()> {
    run(&Options::parse())
}
