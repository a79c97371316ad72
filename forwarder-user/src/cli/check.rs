//! `penstock config check`.

use std::path::PathBuf;

use clap::Args;

use super::{OK, output};
use crate::config::Config;

#[derive(Debug, Args)]
pub(super) struct Options {
    /// Configuration file
    file: PathBuf,
}

/// Loads the file as `serve` would and prints the result.
///
/// # Errors
/// What is wrong with it.
pub(super) fn run(options: &Options) -> anyhow::Result<u8> {
    let config = Config::load(&options.file)?;
    output::print_line(format_args!("# {} can be used. With all defaults it says:\n", options.file.display()))?;
    output::print(toml::to_string(&config)?)?;
    Ok(OK)
}
