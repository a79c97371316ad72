//! `penstock streams`, `sessions` and `maps`.

use std::path::PathBuf;

use clap::Args;

use super::{
    OK,
    ask::{Address, within_patience},
};
use crate::inspect::{self, Answer};

const EXAMPLES: &str = "\
Examples:
  penstock sessions
  penstock streams --json | jq '.streams[].name'
  penstock sessions --url http://192.0.2.10:8080
  penstock maps counters

Reads the maps that a server has pinned, from a process of its own: it needs root, and no answer from
the server. If the server answers, at --url or where its configuration says, its other sessions are in the
list too: those of the userspace engine, those that are still connecting, cameras. A bpffs that was mounted in another mount namespace (a container) is seen only in there.";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Options {
    /// JSON instead of tables
    #[arg(long)]
    json: bool,

    /// Where the server pins its maps (kernel.pin_dir)
    #[arg(long, value_name = "DIR", env = "PENSTOCK_PIN_DIR")]
    pin_dir: Option<PathBuf>,

    #[command(flatten)]
    address: Address,
}

#[derive(Debug, Args)]
pub(super) struct MapOptions {
    /// Print the entries of this map, e.g. counters, sessions, flows
    name: Option<String>,

    #[command(flatten)]
    options: Options,
}

impl Options {
    /// `ask`: whether the server's own answer is wanted.
    fn resolve(&self, ask: bool) -> anyhow::Result<inspect::Options> {
        let config = self.address.config_as_far_as_it_goes()?;
        let server = self.address.server(&config)?;
        let state = if ask {
            within_patience(server.state()).map_err(|error| format!("{error:#}"))
        } else {
            Err(String::new())
        };
        let answer = Answer { url: server.url(), state };
        let pin_dir = self.pin_dir.clone().unwrap_or(config.kernel.pin_dir);
        Ok(inspect::Options { pin_dir, json: self.json, answer })
    }
}

/// Prints the streams.
///
/// # Errors
/// Neither are there maps that can be read, nor does the server answer.
pub(super) fn streams(options: &Options) -> anyhow::Result<u8> {
    inspect::streams(&options.resolve(true)?).map(|()| OK)
}

/// Prints the sessions.
///
/// # Errors
/// As [`streams`].
pub(super) fn sessions(options: &Options) -> anyhow::Result<u8> {
    inspect::sessions(&options.resolve(true)?).map(|()| OK)
}

/// Prints the maps, or the entries of one.
///
/// # Errors
/// No server has its maps there, or they cannot be read, or there is no such map.
pub(super) fn maps(options: &MapOptions) -> anyhow::Result<u8> {
    inspect::maps(&options.options.resolve(false)?, options.name.as_deref()).map(|()| OK)
}
