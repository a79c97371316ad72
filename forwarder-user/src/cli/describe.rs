//! `penstock completions` and `man`: the command line described for shells and for people.

use std::{fs, path::PathBuf};

use anyhow::Context as _;
use clap::{Args, Command};
use clap_complete::Shell;

use super::{OK, output};

const EXAMPLES: &str = "\
Examples:
  penstock completions bash > /usr/share/bash-completion/completions/penstock
  penstock completions zsh > /usr/share/zsh/vendor-completions/_penstock
  penstock completions fish > /usr/share/fish/vendor_completions.d/penstock.fish";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Completions {
    /// Whose
    shell: Shell,
}

#[derive(Debug, Args)]
pub(super) struct Man {
    /// Where they go: penstock.1, penstock-serve.1, …; made if it is not there
    directory: PathBuf,
}

/// Prints them.
///
/// # Errors
/// That of standard output.
pub(super) fn completions(options: &Completions, command: &mut Command) -> anyhow::Result<u8> {
    let mut text = Vec::new();
    clap_complete::generate(options.shell, command, "penstock", &mut text);
    output::print(String::from_utf8(text)?)?;
    Ok(OK)
}

/// Writes them.
///
/// # Errors
/// The directory cannot be made or written.
pub(super) fn man(options: &Man, command: Command) -> anyhow::Result<u8> {
    let directory = &options.directory;
    fs::create_dir_all(directory).with_context(|| directory.display().to_string())?;
    clap_mangen::generate_to(command, directory).with_context(|| directory.display().to_string())?;
    Ok(OK)
}
