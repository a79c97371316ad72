//! Log lines on standard error.

use std::io::IsTerminal;

use anyhow::Context;
use tracing_subscriber::EnvFilter;

use crate::config::{Log, LogFormat};

/// Changes the level of a running process.
pub(super) struct Level(Box<dyn Fn(EnvFilter) -> anyhow::Result<()> + Send + Sync>);

impl Level {
    /// Takes over `log.level`.
    ///
    /// # Errors
    /// It cannot be understood.
    pub(super) fn set(&self, level: &str) -> anyhow::Result<()> {
        (self.0)(filter(level)?)
    }
}

/// What `log.level` means.
///
/// # Errors
/// It cannot be understood.
pub(super) fn filter(level: &str) -> anyhow::Result<EnvFilter> {
    EnvFilter::try_new(level).with_context(|| format!("log.level: {level:?}"))
}

/// Starts logging for the whole process.
///
/// # Errors
/// `log.level` cannot be understood, or logging was started before.
pub(super) fn start(log: &Log) -> anyhow::Result<Level> {
    let builder = tracing_subscriber::fmt().with_env_filter(filter(&log.level)?).with_writer(std::io::stderr);
    let failed = |error| anyhow::anyhow!("cannot start logging: {error}");
    Ok(match log.format {
        LogFormat::Text => {
            let builder = builder.with_ansi(std::io::stderr().is_terminal()).with_filter_reloading();
            let handle = builder.reload_handle();
            builder.try_init().map_err(failed)?;
            Level(Box::new(move |filter| Ok(handle.reload(filter)?)))
        }
        LogFormat::Json => {
            let builder = builder.json().flatten_event(true).with_filter_reloading();
            let handle = builder.reload_handle();
            builder.try_init().map_err(failed)?;
            Level(Box::new(move |filter| Ok(handle.reload(filter)?)))
        }
    })
}
