//! The process under test of `bench-fanout`, which starts it: `penstock_tests::bench::host`.

use anyhow::Result;
use clap::Parser as _;
use penstock_tests::bench::host::{Options, run};

fn main() -> Result<()> {
    run(&Options::parse())
}
