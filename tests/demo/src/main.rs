//! `cargo xtask demo`: one publisher, many viewers, and the kernel in between.

use std::process::ExitCode;

use crate::demo::{self, Options};
use clap::Parser;

fn main() -> ExitCode {
    match demo::run(&Options::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("demo: {error:#}");
            ExitCode::FAILURE
        }
    }
}
