//! `penstock version`.

use clap::Args;

use super::{OK, output};
use crate::build_info;

#[derive(Debug, Args)]
pub(super) struct Options {
    /// One JSON object
    #[arg(long)]
    json: bool,
}

/// Prints what this binary is.
///
/// # Errors
/// None but that of standard output.
pub(super) fn run(options: &Options) -> anyhow::Result<u8> {
    let build = build_info::current();
    if options.json {
        output::print_line(serde_json::to_string(build)?)?;
        return Ok(OK);
    }
    output::print_line(format_args!(
        "penstock {} ({}, {}-{}, map layout {})",
        build.version, build.profile, build.arch, build.os, build.map_layout
    ))?;
    let object = if build.bpf_build_id.is_empty() { "none, so no kernel engine" } else { &build.bpf_build_id };
    output::print_line(format_args!(
        "commit       {}\nbuild id     {}\nBPF build id {object}",
        build.commit, build.build_id
    ))?;
    Ok(OK)
}
