//! Log lines on standard error, by way of a queue: see [`log_queue`].

use std::{backtrace::Backtrace, io::IsTerminal, panic, thread, time::Duration};

use anyhow::Context;
use tracing_subscriber::EnvFilter;

use crate::{
    config::{Log, LogFormat},
    log_queue,
};

/// What the decoder of AAC says.
const DECODER: &str = "symphonia_codec_aac=off";
/// How long the end of the process waits for the log's reader.
const PATIENCE: Duration = Duration::from_secs(1);

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
    let filter = EnvFilter::try_new(level).with_context(|| format!("log.level: {level:?}"))?;
    // It has a line for each unit that it does not take, and strangers send those; they are counted.
    Ok(filter.add_directive(DECODER.parse().context("log.level")?))
}

/// Starts logging for the whole process, of panics too: what the standard library prints would wait for a reader that
/// hangs.
///
/// # Errors
/// `log.level` cannot be understood, or logging was started before.
pub(super) fn start(log: &Log) -> anyhow::Result<Level> {
    let writer = log_queue::stderr().context("cannot start the thread of the log")?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter(&log.level)?).with_writer(writer);
    // They would be told by `eprintln!`, which panics where standard error cannot be written.
    let builder = builder.log_internal_errors(false);
    log_panics();
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

/// Waits a moment for the last lines to be written. At the end of the process.
pub(super) fn finish() {
    log_queue::flush(PATIENCE);
}

fn log_panics() {
    panic::set_hook(Box::new(|panic| {
        let thread = thread::current();
        let name = thread.name().unwrap_or("without a name");
        let backtrace = Backtrace::capture();
        tracing::error!("thread {name} has panicked, which is a bug: {panic}\n{backtrace}");
    }));
}
