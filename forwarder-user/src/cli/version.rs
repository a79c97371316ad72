//! `penstock version`.

use clap::Args;
use forwarder_common::maps::LAYOUT_VERSION;
use serde_json::json;

use super::OK;

#[derive(Debug, Args)]
pub struct Options {
    /// One JSON object
    #[arg(long)]
    json: bool,
}

/// Prints what this binary is.
///
/// # Errors
/// None so far.
pub fn run(options: &Options) -> anyhow::Result<u8> {
    let version = env!("CARGO_PKG_VERSION");
    let profile = if cfg!(debug_assertions) { "debug" } else { "release" };
    let (arch, os) = (std::env::consts::ARCH, std::env::consts::OS);
    if options.json {
        println!(
            "{}",
            json!({ "version": version, "profile": profile, "arch": arch, "os": os, "map_layout": LAYOUT_VERSION })
        );
    } else {
        println!("penstock {version} ({profile}, {arch}-{os}, map layout {LAYOUT_VERSION})");
    }
    Ok(OK)
}
