//! `penstock reload`: SIGHUP where there is neither a shell nor `kill`, as in the image.

use std::path::PathBuf;

use anyhow::{Context, bail, ensure};
use clap::Args;

use super::{
    OK,
    ask::{Address, within_patience},
};
use crate::inspect;

#[derive(Debug, Args)]
pub(super) struct Options {
    #[command(flatten)]
    address: Address,

    /// Where the server pins its maps (kernel.pin_dir)
    #[arg(long, value_name = "DIR", env = "PENSTOCK_PIN_DIR")]
    pin_dir: Option<PathBuf>,
}

/// Sends SIGHUP to the server, unless its file has a mistake. What has changed is in the server's log.
///
/// # Errors
/// A mistake in the file, no server, or one of another host or container.
pub(super) fn run(options: &Options) -> anyhow::Result<u8> {
    let config = options.address.config()?;
    let pin_dir = options.pin_dir.as_ref().unwrap_or(&config.kernel.pin_dir);
    let pid = match inspect::Pinned::open(pin_dir) {
        Ok(pinned) => pinned.server.pid,
        Err(maps) => {
            let server = options.address.server(&config)?;
            let state = within_patience(server.state());
            let state =
                state.with_context(|| format!("no server is found: {maps:#}; {} does not tell", server.url()))?;
            inspect::pid(&state).context("the server does not tell its pid")?.try_into()?
        }
    };
    let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    ensure!(name.trim_end() == "penstock", "process {pid} is no penstock: run this where the server runs");
    // SAFETY: no memory. The pid is positive, or /proc would not have had it.
    if unsafe { libc::kill(pid.cast_signed(), libc::SIGHUP) } != 0 {
        bail!("process {pid}: {}", std::io::Error::last_os_error());
    }
    Ok(OK)
}
