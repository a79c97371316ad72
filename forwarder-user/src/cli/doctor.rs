//! `penstock doctor`.

use std::net::IpAddr;

use clap::Args;

use super::{FAILED, OK, host::Host, options, output};
use crate::{
    config::{Config, EngineChoice},
    doctor::{self, Need, Report},
};

const EXAMPLES: &str = "\
Examples:
  penstock doctor
  penstock doctor --config /etc/penstock.toml
  penstock doctor --interface eth0 --engine kernel --json

Takes the options of `penstock serve`. Programs are loaded, attached and bound for a moment, and let go
again. Run it before a server starts: what a running one has in use is not free.
Exit code 0: a server with this configuration serves as it should; lines marked (advice) do not count.";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Options {
    /// One JSON object
    #[arg(long)]
    json: bool,

    /// All that the kernel's verifier says of a program that it refuses, not its last three lines
    #[arg(long, short)]
    verbose: bool,

    #[command(flatten)]
    serve: options::Options,
}

/// Examines this machine.
///
/// # Errors
/// The configuration is wrong, or the kernel does not tell its interfaces.
pub(super) fn run(options: &Options) -> anyhow::Result<u8> {
    let config = options.serve.config()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let chosen = runtime.block_on(choose(&config))?;
    let report = match chosen {
        Ok((interfaces, addresses)) => doctor::examine(&config, &interfaces, &addresses, options.verbose),
        Err(error) => {
            let mut report = Report::default();
            let mend = "name interfaces and addresses that exist (ip address)";
            report.bad(Need::Server, "interfaces and addresses", format!("{error:#}"), mend);
            doctor::conclude_without(&mut report, &config);
            report
        }
    };
    if options.json {
        output::print_line(serde_json::to_string_pretty(&report)?)?;
    } else {
        output::print_line(report.to_text())?;
    }
    Ok(if report.ok { OK } else { FAILED })
}

/// As `serve` does. The inner error is a finding.
async fn choose(config: &Config) -> anyhow::Result<anyhow::Result<(Vec<String>, Vec<IpAddr>)>> {
    let host = Host::read().await?;
    Ok(match config.media.engine {
        EngineChoice::Kernel => host.choose(&config.kernel.interfaces, &config.media.addresses),
        _ => host.choose_any(&config.kernel.interfaces, &config.media.addresses),
    })
}
