//! The command line.

mod announce;
mod ask;
mod check;
mod describe;
mod doctor;
mod edit;
mod healthcheck;
mod host;
mod import;
mod inspect;
mod limits;
mod logging;
mod manage;
mod network;
mod options;
mod output;
mod privileges;
mod probe;
mod reload;
mod report;
mod serve;
mod signal;
mod top;
mod uplinks;
mod verify;
mod version;

use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};

/// All went well.
pub const OK: u8 = 0;
/// It could not be done; standard error says why.
pub const FAILED: u8 = 1;
/// The command line or the configuration is wrong. `clap` uses the same.
pub const USAGE: u8 = 2;
/// A second signal ended the server before it had closed all sessions.
pub const FORCED: u8 = 3;
/// `config import` has left something out.
pub const PARTLY: u8 = 4;
/// A limit of the process is too low for a server: open files, memory.
pub const TOO_LOW: u8 = 5;

const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  it could not be done; standard error says why
  2  the command line or the configuration is wrong
  3  `serve` was ended by a second signal before all sessions were closed
  4  `config import` has left something out; standard error says what
  5  a limit of the process is too low for a server (open files, memory); standard error says which, and what it needs";

/// WebRTC forwarder: publish once by WHIP, watch many times by WHEP. The kernel decrypts each packet
/// once and re-encrypts it for every viewer, in XDP.
#[derive(Debug, Parser)]
#[command(name = "penstock", version, after_help = EXIT_CODES, disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the server
    Serve(Box<options::Options>),
    /// Tell whether a server can run here, how fast, and what is in its way
    Doctor(Box<doctor::Options>),
    /// Look at a camera without a server: what it sends, what browsers will play, what is odd
    Probe(Box<probe::Options>),
    /// List the streams of a running server, from the kernel's maps and the server itself
    Streams(inspect::Options),
    /// List its sessions of both engines: peer, engine, profile, SSRCs, packets, drops, age, expiry
    Sessions(inspect::Options),
    /// List its BPF maps, or print the entries of one
    Maps(inspect::MapOptions),
    /// Watch streams and sessions of a running server, also of one that hangs
    Top(top::Options),
    /// Publish to a running server, play from it, and judge it: sessions, AES-GCM, loss, latency, CPU, memory
    Verify(Box<verify::Options>),
    /// Exit with 0 if a running server takes sessions: for the health check of a container
    Healthcheck(ask::Address),
    /// End a session of a running server
    Kick(manage::Kick),
    /// Let a running server take no new sessions; those that are there go on
    Drain(manage::Drain),
    /// Add or remove a stream of a running server
    #[command(subcommand)]
    Stream(manage::Stream),
    /// Make a running server read its configuration again: SIGHUP
    Reload(signal::Options),
    /// Work with configuration files
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Gather what a bug report needs into one file, without secrets
    Report(Box<report::Options>),
    /// Print what a shell needs to complete our command line
    Completions(describe::Completions),
    /// Write a man page for each command
    Man(describe::Man),
    /// Print version, build and map layout
    Version(version::Options),
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Tell whether a file can be used, and what it says with all defaults filled in
    Check(check::Options),
    /// Make one from MediaMTX's: written to standard output, what it leaves out to standard error
    Import(import::Options),
}

/// Runs the program.
pub fn run() -> ExitCode {
    let cli = Cli::parse();
    let result = match cli.command {
        Command::Serve(options) => serve::run(&options),
        Command::Doctor(options) => doctor::run(&options),
        Command::Probe(options) => probe::run(&options),
        Command::Streams(options) => inspect::streams(&options),
        Command::Sessions(options) => inspect::sessions(&options),
        Command::Maps(options) => inspect::maps(&options),
        Command::Top(options) => top::run(&options),
        Command::Verify(options) => verify::run(&options),
        Command::Healthcheck(address) => healthcheck::run(&address),
        Command::Kick(options) => manage::kick(&options),
        Command::Drain(options) => manage::drain(&options),
        Command::Stream(command) => manage::stream(&command),
        Command::Reload(options) => signal::run(&options),
        Command::Config(ConfigCommand::Check(options)) => check::run(&options),
        Command::Config(ConfigCommand::Import(options)) => import::run(&options),
        Command::Report(options) => report::run(&options),
        Command::Completions(options) => describe::completions(&options, &mut Cli::command()),
        Command::Man(options) => describe::man(&options, Cli::command()),
        Command::Version(options) => version::run(&options),
    };
    match result {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            output::complain(format_args!("penstock: {error:#}"));
            let is_usage = error.chain().any(|cause| cause.is::<crate::config::ConfigError>());
            let is_limit = error.chain().any(|cause| cause.is::<limits::TooLow>());
            ExitCode::from(if is_usage {
                USAGE
            } else if is_limit {
                TOO_LOW
            } else {
                FAILED
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
