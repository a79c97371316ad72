//! `cargo xtask demo`: one publisher, many viewers, and the kernel in between.

mod judge;
mod machine;
mod meter;
mod run;
mod table;

use std::process::ExitCode;

use clap::Parser;

use crate::run::Options;

fn main() -> ExitCode {
    match run::run(&Options::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("demo: {error:#}");
            ExitCode::FAILURE
        }
    }
}
