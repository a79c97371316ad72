//! `penstock verify`.

use std::time::Duration;

use clap::Args;
use comfy_table::{ContentArrangement, Table, presets};

use super::{FAILED, OK, output};
use crate::{
    config::{ENV_API_TOKEN, ENV_PLAY_TOKEN, ENV_PUBLISH_TOKEN},
    verify::{self, Limits, Plan, Server, Tokens},
};

/// Columns of a line.
const WIDTH: u16 = 120;

const EXAMPLES: &str = "\
Examples:
  penstock verify --url http://192.0.2.10:8080
  penstock verify --url http://192.0.2.10:8080 --viewers 50 --seconds 60 --max-cpu 40 --max-memory-mb 300
  penstock verify --url http://192.0.2.10:8080 --build $(git rev-parse HEAD)

Publishes a stream of its own, plays it, and closes everything. Run it on another machine than the
server: on the same one its own work counts as the server's CPU.
Exit code 0: all lines with a limit are ✓.";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Options {
    /// The server's HTTP address
    #[arg(long)]
    url: String,

    /// Viewers, besides one publisher
    #[arg(long, default_value_t = 10)]
    viewers: usize,

    /// How long to measure
    #[arg(long, default_value_t = 10)]
    seconds: u64,

    /// Packets a second of 1,000 bytes each
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=2000))]
    rate: u32,

    /// Packets that may be lost, percent
    #[arg(long, default_value_t = 0.1)]
    max_loss: f64,

    /// Time from publisher to viewer that 99 of 100 packets must keep, milliseconds
    #[arg(long, default_value_t = 100)]
    max_latency_ms: u64,

    /// CPU of the server's whole machine, percent of all its CPUs
    #[arg(long)]
    max_cpu: Option<f64>,

    /// Memory of the server's process and BPF maps, MiB
    #[arg(long)]
    max_memory_mb: Option<f64>,

    /// Commit or build id that must be running, or its beginning
    #[arg(long)]
    build: Option<String>,

    #[arg(long, env = ENV_PUBLISH_TOKEN, default_value = "", hide_env_values = true, help = "Bearer token of WHIP")]
    publish_token: String,

    #[arg(long, env = ENV_PLAY_TOKEN, default_value = "", hide_env_values = true, help = "Bearer token of WHEP")]
    play_token: String,

    #[arg(long, env = ENV_API_TOKEN, default_value = "", hide_env_values = true, help = "Bearer token of the API")]
    api_token: String,

    /// JSON instead of a table
    #[arg(long)]
    json: bool,
}

/// Verifies a server.
///
/// # Errors
/// It does not answer, or does not take a publisher.
pub(super) fn run(options: &Options) -> anyhow::Result<u8> {
    let tokens = Tokens {
        publish: options.publish_token.clone(),
        play: options.play_token.clone(),
        api: options.api_token.clone(),
    };
    let server = Server::new(&options.url, tokens)?;
    let plan =
        Plan { viewers: options.viewers, length: Duration::from_secs(options.seconds.max(1)), rate: options.rate };
    let limits = Limits {
        loss: options.max_loss,
        latency: Duration::from_millis(options.max_latency_ms),
        cpu: options.max_cpu,
        memory: options.max_memory_mb,
        build: options.build.clone(),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let outcome = runtime.block_on(verify::run(&server, &plan))?;
    let lines = verify::judge(&outcome, &limits);
    let ok = lines.iter().all(|line| line.ok != Some(false));
    if options.json {
        output::print_line(serde_json::json!({ "ok": ok, "checks": lines }))?;
    } else {
        let mut table = Table::new();
        table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic).set_width(WIDTH);
        table.set_header(["", "check", "found", "limit"]);
        for line in &lines {
            let mark = match line.ok {
                Some(true) => "✓",
                Some(false) => "✗",
                None => " ",
            };
            table.add_row([mark, line.check, &line.found, &line.limit]);
        }
        output::print_line(table)?;
    }
    Ok(if ok { OK } else { FAILED })
}
