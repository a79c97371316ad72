//! `penstock kick`, `drain` and `stream`: the API of a running server, for people.

use anyhow::{bail, ensure};
use axum::http::Method;
use clap::{Args, Subcommand};
use serde_json::json;

use super::{
    OK,
    ask::{Address, within_patience},
    output,
};
use crate::config::stream_name_problem;

#[derive(Debug, Args)]
pub(super) struct Kick {
    #[command(flatten)]
    address: Address,

    /// Session, as `penstock sessions` and the log name it
    session: String,
}

#[derive(Debug, Args)]
pub(super) struct Drain {
    #[command(flatten)]
    address: Address,

    /// Take new sessions again
    #[arg(long)]
    off: bool,
}

#[derive(Debug, Subcommand)]
pub(super) enum Stream {
    /// Add a stream with a source of its own, or give it another one
    Add(Add),
    /// Take a stream's source away
    Remove(Remove),
}

#[derive(Debug, Args)]
pub(super) struct Add {
    #[command(flatten)]
    address: Address,

    /// Its name
    stream: String,

    /// The camera: rtsp://USER:PASSWORD@HOST/PATH; "-" reads it from standard input, which other users do not see
    source: String,

    /// Connect while somebody watches, not always
    #[arg(long)]
    on_demand: bool,

    /// Keep it beyond the end of the server's process (api.streams_file)
    #[arg(long)]
    persist: bool,
}

#[derive(Debug, Args)]
pub(super) struct Remove {
    #[command(flatten)]
    address: Address,

    /// Its name
    stream: String,

    /// Forget it for good (api.streams_file)
    #[arg(long)]
    persist: bool,
}

/// Ends a session.
///
/// # Errors
/// There is none of this name, or the server does not let us.
pub(super) fn kick(options: &Kick) -> anyhow::Result<u8> {
    ensure!(options.session.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-'), "that is no session");
    ask(&options.address, Method::DELETE, &format!("/api/v1/sessions/{}", options.session), None)
}

/// Lets a server take no new sessions, or take them again.
///
/// # Errors
/// It does not let us.
pub(super) fn drain(options: &Drain) -> anyhow::Result<u8> {
    match options.off {
        false => ask(&options.address, Method::POST, "/api/v1/drain", Some(json!({}))),
        true => ask(&options.address, Method::DELETE, "/api/v1/drain", None),
    }
}

/// Adds or removes a stream.
///
/// # Errors
/// The server refuses it, in its words.
pub(super) fn stream(command: &Stream) -> anyhow::Result<u8> {
    match command {
        Stream::Add(options) => {
            let source = match options.source.as_str() {
                "-" => std::io::read_to_string(std::io::stdin())?.trim().to_owned(),
                source => source.to_owned(),
            };
            let document = json!({ "source": source, "on_demand": options.on_demand });
            ask(&options.address, Method::PUT, &path(&options.stream, options.persist)?, Some(document))
        }
        Stream::Remove(options) => {
            ask(&options.address, Method::DELETE, &path(&options.stream, options.persist)?, None)
        }
    }
}

fn path(stream: &str, persist: bool) -> anyhow::Result<String> {
    if let Some(problem) = stream_name_problem(stream) {
        bail!(problem);
    }
    Ok(format!("/api/v1/streams/{}?persist={persist}", stream.replace('/', "%2F")))
}

fn ask(address: &Address, method: Method, path: &str, document: Option<serde_json::Value>) -> anyhow::Result<u8> {
    let server = address.server(&address.config_as_far_as_it_goes()?)?;
    let answered = within_patience(server.manage(method, path, document))?;
    if !answered.is_empty() {
        output::print_line(answered)?;
    }
    Ok(OK)
}
