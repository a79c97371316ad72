//! The `penstock` command. See `penstock --help`.

use std::process::ExitCode;

fn main() -> ExitCode {
    penstock::cli::run()
}
