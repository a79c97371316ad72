//! `penstock config import`.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::Args;

use super::{OK, PARTLY, output};
use crate::config::mediamtx;

#[derive(Debug, Args)]
pub(super) struct Options {
    /// Configuration of MediaMTX, usually mediamtx.yml
    file: PathBuf,
}

/// Writes our configuration to standard output, and what it leaves out to standard error.
///
/// # Errors
/// The file cannot be read or understood.
pub(super) fn run(options: &Options) -> anyhow::Result<u8> {
    let origin = options.file.display().to_string();
    let text = std::fs::read_to_string(&options.file).with_context(|| format!("cannot read {origin}"))?;
    let imported = mediamtx::import(&text).map_err(anyhow::Error::msg).with_context(|| origin.clone())?;
    output::print(imported.to_toml(&origin))?;
    for note in &imported.notes {
        output::complain(format_args!("note: {note}"));
    }
    for left_out in &imported.left_out {
        output::complain(format_args!("left out: {left_out}"));
    }
    Ok(if imported.left_out.is_empty() { OK } else { PARTLY })
}
