//! `penstock streams`, `sessions` and `maps`: reads the pinned maps of a server from a second
//! process. It needs nothing of the server, so it works when that hangs, and on what a killed one
//! left behind. What the maps do not have, the userspace engine's sessions, is added from the server's answer, if
//! there is one.

mod entries;
mod live;
mod read;
mod table;
mod told;
mod view;

use std::path::PathBuf;

use anyhow::{Result, bail};

pub use self::{
    entries::{MapView, entries, map_views},
    live::{Live, LiveSession, LiveStream, LiveView, Sort},
    read::Pinned,
    told::pid,
    view::{Interface, Liveness, ServerView, SessionView, Snapshot, StreamView, TrackView},
};

/// What the user asked for.
#[derive(Clone, Debug)]
pub struct Options {
    /// `kernel.pin_dir` of the server.
    pub pin_dir: PathBuf,
    /// JSON instead of tables.
    pub json: bool,
    /// What the server said.
    pub answer: Answer,
}

/// The server's own view of its sessions, or why there is none.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Whom we asked.
    pub url: String,
    /// The JSON of `GET /api/v1/state`.
    pub state: Result<serde_json::Value, String>,
}

impl Answer {
    /// For those who want what the maps have and no more.
    pub fn not_asked() -> Self {
        Self { url: "the server".into(), state: Err("it was not asked".into()) }
    }
}

/// Prints the streams.
///
/// # Errors
/// Neither are there maps that can be read, nor does the server answer.
pub fn streams(options: &Options) -> Result<()> {
    print(&streams_text(options)?)
}

/// Prints the sessions and their tracks.
///
/// # Errors
/// Neither are there maps that can be read, nor does the server answer.
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

/// A look of [`Live`] as tables for people: at most so many rows, streams first.
pub fn live_text(view: &LiveView, rows: usize) -> String {
    let head = view.server.as_ref().map(table::server).unwrap_or_default();
    let note = view.note.as_ref().map(|note| format!("{note}\n")).unwrap_or_default();
    format!("{head}{note}{}", table::live(view, rows))
}

/// Everything, and what could not be had.
fn look(options: &Options) -> Result<(Snapshot, Option<String>)> {
    let pinned = Pinned::open(&options.pin_dir).and_then(|pinned| pinned.snapshot());
    let Answer { url, state } = &options.answer;
    match (pinned, state) {
        (Err(maps), Err(problem)) => bail!("{maps:#}; and {url} does not tell: {problem}"),
        (Err(_), Ok(state)) => {
            let mut snapshot = Snapshot::default();
            told::add(&mut snapshot, state);
            Ok((snapshot, Some(format!("no maps in {}: as {url} tells", options.pin_dir.display()))))
        }
        (Ok(snapshot), Err(problem)) => {
            let missing = format!("{url} does not tell ({problem}): without sessions of the userspace engine");
            Ok((snapshot, Some(missing)))
        }
        (Ok(mut snapshot), Ok(state)) => {
            let ours = snapshot.server.as_ref().map(|server| u64::from(server.pid));
            if told::pid(state) != ours {
                let missing = format!("{url} is another server (see --url): without sessions of the userspace engine");
                return Ok((snapshot, Some(missing)));
            }
            told::add(&mut snapshot, state);
            Ok((snapshot, None))
        }
    }
}

/// What [`streams`] prints.
///
/// # Errors
/// As [`streams`].
pub fn streams_text(options: &Options) -> Result<String> {
    let (snapshot, note) = look(options)?;
    if options.json {
        let value = serde_json::json!({
            "server": snapshot.server,
            "note": note,
            "streams": snapshot.streams(),
            "counters": snapshot.counters,
        });
        return json(&value);
    }
    Ok(format!("{}\n{}", head(&snapshot, note), table::streams(&snapshot)))
}

/// What [`sessions`] prints.
///
/// # Errors
/// As [`sessions`].
pub fn sessions_text(options: &Options) -> Result<String> {
    let (snapshot, note) = look(options)?;
    if options.json {
        let value = serde_json::json!({ "server": snapshot.server, "note": note, "sessions": snapshot.sessions });
        return json(&value);
    }
    Ok(format!("{}\n{}", head(&snapshot, note), table::sessions(&snapshot)))
}

fn head(snapshot: &Snapshot, note: Option<String>) -> String {
    let server = snapshot.server.as_ref().map(table::server).unwrap_or_default();
    server + &note.map(|note| note + "\n").unwrap_or_default()
}

/// What [`maps`] prints.
///
/// # Errors
/// As [`maps`].
pub fn maps_text(options: &Options, name: Option<&str>) -> Result<String> {
    let pinned = Pinned::open(&options.pin_dir)?;
    if let Some(name) = name {
        let name = name.to_uppercase();
        let entries = entries(&pinned, &name)?;
        if options.json {
            return json(&serde_json::json!({ "map": name, "entries": entries }));
        }
        return Ok(table::entries(&name, &entries));
    }
    let maps = map_views(&pinned)?;
    let server = pinned.server_view(penstock_engine::clock::boottime_ns());
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
