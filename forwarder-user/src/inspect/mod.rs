//! `penstock streams`, `sessions` and `maps`: reads the pinned maps of a server from a second
//! process. It needs nothing of the server, so it works when that hangs, and on what a killed one
//! left behind.

mod entries;
mod read;
mod table;
mod view;

use std::path::PathBuf;

use anyhow::Result;

pub use self::{
    entries::{MapView, entries, map_views},
    read::Pinned,
    view::{Interface, Liveness, ServerView, SessionView, Snapshot, StreamView, TrackView},
};

/// What the user asked for.
#[derive(Clone, Debug)]
pub struct Options {
    /// `kernel.pin_dir` of the server.
    pub pin_dir: PathBuf,
    /// JSON instead of tables.
    pub json: bool,
    /// Session keys in the clear.
    pub show_secrets: bool,
}

/// Prints the streams.
///
/// # Errors
/// No server has its maps there, or they cannot be read.
pub fn streams(options: &Options) -> Result<()> {
    print(&streams_text(options)?)
}

/// Prints the sessions and their tracks.
///
/// # Errors
/// No server has its maps there, or they cannot be read.
pub fn sessions(options: &Options) -> Result<()> {
    print(&sessions_text(options)?)
}

/// Prints the maps, or the entries of one of them.
///
/// # Errors
/// No server has its maps there, or they cannot be read, or there is no such map.
pub fn maps(options: &Options, name: Option<&str>) -> Result<()> {
    print(&maps_text(options, name)?)
}

/// What [`streams`] prints.
///
/// # Errors
/// As [`streams`].
pub fn streams_text(options: &Options) -> Result<String> {
    let snapshot = Pinned::open(&options.pin_dir)?.snapshot()?;
    if options.json {
        let value = serde_json::json!({
            "server": snapshot.server,
            "streams": snapshot.streams(),
            "counters": snapshot.counters,
        });
        return json(&value);
    }
    Ok(format!("{}\n{}", table::server(&snapshot.server), table::streams(&snapshot)))
}

/// What [`sessions`] prints.
///
/// # Errors
/// As [`sessions`].
pub fn sessions_text(options: &Options) -> Result<String> {
    let snapshot = Pinned::open(&options.pin_dir)?.snapshot()?;
    if options.json {
        return json(&serde_json::json!({ "server": snapshot.server, "sessions": snapshot.sessions }));
    }
    Ok(format!("{}\n{}", table::server(&snapshot.server), table::sessions(&snapshot)))
}

/// What [`maps`] prints.
///
/// # Errors
/// As [`maps`].
pub fn maps_text(options: &Options, name: Option<&str>) -> Result<String> {
    let pinned = Pinned::open(&options.pin_dir)?;
    if let Some(name) = name {
        let name = name.to_uppercase();
        let entries = entries(&pinned, &name, options.show_secrets)?;
        if options.json {
            return json(&serde_json::json!({ "map": name, "entries": entries }));
        }
        return Ok(table::entries(&name, &entries));
    }
    let maps = map_views(&pinned)?;
    let server = pinned.server_view(crate::engine::kernel::clock::boottime_ns());
    if options.json {
        return json(&serde_json::json!({ "server": server, "maps": maps }));
    }
    Ok(format!("{}\n{}", table::server(&server), table::maps(&maps)))
}

fn json(value: &serde_json::Value) -> Result<String> {
    Ok(format!("{}\n", serde_json::to_string_pretty(value)?))
}

/// Prints, and takes a reader that has seen enough (`| head`) for success.
fn print(text: &str) -> Result<()> {
    use std::io::Write as _;
    match std::io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}
