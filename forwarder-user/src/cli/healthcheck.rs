//! `penstock healthcheck`: the image has no other program that could ask.

use anyhow::Context;

use super::{
    OK,
    ask::{Address, within_patience},
};

/// Asks `GET /healthz`.
///
/// # Errors
/// The server does not answer, or takes no sessions.
pub(super) fn run(address: &Address) -> anyhow::Result<u8> {
    let mut config = address.config_as_far_as_it_goes()?;
    if let Some(own) = config.http.health_listen.first() {
        config.http.listen = vec![*own];
    }
    let server = address.server(&config)?;
    within_patience(server.health()).context("not healthy")?;
    Ok(OK)
}
