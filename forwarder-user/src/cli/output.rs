//! What commands print. A reader that has gone, as `head` does, is no error and no panic.

use std::{
    fmt::Display,
    io::{self, ErrorKind, Write as _},
};

use super::logging;
use crate::log_queue;

/// Prints to standard output, without a line's end of its own.
///
/// # Errors
/// That of standard output, unless its reader has gone.
pub(super) fn print(text: impl Display) -> io::Result<()> {
    let mut out = io::stdout().lock();
    match write!(out, "{text}").and_then(|()| out.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        other => other,
    }
}

/// The same, with a line's end.
///
/// # Errors
/// As [`print`].
pub(super) fn print_line(text: impl Display) -> io::Result<()> {
    print(format_args!("{text}\n"))
}

/// A line on standard error. In a server that is a line of its log, and waits for nobody. There is nowhere to tell an
/// error.
pub(super) fn complain(text: impl Display) {
    if log_queue::say(&text.to_string()) {
        return logging::finish();
    }
    let _ = writeln!(io::stderr(), "{text}");
}
