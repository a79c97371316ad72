//! `penstock streams`, `sessions` and `maps`.

use std::path::PathBuf;

use clap::Args;

use super::OK;
use crate::{config::Config, inspect};

const EXAMPLES: &str = "\
Examples:
  penstock sessions
  penstock streams --json | jq '.streams[].name'
  penstock maps counters

Reads the maps that a server has pinned, from a process of its own: it needs root, and no answer from
the server. A bpffs that was mounted in another mount namespace (a container) is seen only in there.";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Options {
    /// JSON instead of tables
    #[arg(long)]
    json: bool,

    /// Session keys in the clear, for debugging: whoever sees them can decrypt the media
    #[arg(long)]
    show_secrets: bool,

    /// Where the server pins its maps (kernel.pin_dir)
    #[arg(long, value_name = "DIR")]
    pin_dir: Option<PathBuf>,

    /// The server's configuration file, for its kernel.pin_dir
    #[arg(long, short, value_name = "FILE", env = "PENSTOCK_CONFIG")]
    config: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct MapOptions {
    /// Print the entries of this map, e.g. counters, sessions, keys
    name: Option<String>,

    #[command(flatten)]
    options: Options,
}

impl Options {
    fn resolve(&self) -> anyhow::Result<inspect::Options> {
        let pin_dir = match (&self.pin_dir, &self.config) {
            (Some(directory), _) => directory.clone(),
            (None, Some(file)) => Config::load(file)?.kernel.pin_dir,
            (None, None) => Config::default().kernel.pin_dir,
        };
        Ok(inspect::Options { pin_dir, json: self.json, show_secrets: self.show_secrets })
    }
}

/// Prints the streams.
///
/// # Errors
/// No server has its maps there, or they cannot be read.
pub fn streams(options: &Options) -> anyhow::Result<u8> {
    inspect::streams(&options.resolve()?).map(|()| OK)
}

/// Prints the sessions.
///
/// # Errors
/// As [`streams`].
pub fn sessions(options: &Options) -> anyhow::Result<u8> {
    inspect::sessions(&options.resolve()?).map(|()| OK)
}

/// Prints the maps, or the entries of one.
///
/// # Errors
/// As [`streams`], and an unknown name.
pub fn maps(options: &MapOptions) -> anyhow::Result<u8> {
    inspect::maps(&options.options.resolve()?, options.name.as_deref()).map(|()| OK)
}
