//! `penstock report`: what a bug report needs, in one file, without secrets.
//!
//! | file | does |
//! | --- | --- |
//! | here | what is in it |
//! | `mask` | takes secrets and addresses out of text |
//! | `bundle` | the file |

mod bundle;
mod mask;

use std::{fs, path::PathBuf, process::Command, time::SystemTime};

use anyhow::Context as _;
use clap::Args;

use self::{bundle::Bundle, mask::Mask};
use super::{
    OK,
    ask::{Address, within_patience},
    host::Host,
    output,
};
use crate::{
    build_info,
    config::Config,
    doctor,
    inspect::{self, Answer},
};

const ABOUT: &str = "\
What a bug report for Penstock needs: version, configuration, state, metrics, the kernel's maps without keys, this
host's kernel and interfaces, the log. Passwords, tokens and keys are taken out, and every address is replaced by a
number that is the same throughout. Names of streams are in it. Look before you send it: it is text.
";
/// Newest lines of the log.
const LOG_LINES: &str = "5000";
/// Most that is read of a log file: its end.
const LOG_BYTES: usize = 4 << 20;

#[derive(Debug, Args)]
pub(super) struct Options {
    /// Where it goes
    #[arg(long, short, value_name = "FILE", default_value = "penstock-report.tar.gz")]
    output: PathBuf,

    /// File with the server's log; without it, that of the unit, as journalctl has it
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,

    /// The unit of systemd that it runs in
    #[arg(long, value_name = "NAME", default_value = "penstock")]
    unit: String,

    /// Leave addresses as they are
    #[arg(long)]
    addresses: bool,

    /// Where the server pins its maps (kernel.pin_dir)
    #[arg(long, value_name = "DIR", env = "PENSTOCK_PIN_DIR")]
    pin_dir: Option<PathBuf>,

    #[command(flatten)]
    address: Address,
}

/// Writes it. What cannot be had is said in its place.
///
/// # Errors
/// The file cannot be written.
pub(super) fn run(options: &Options) -> anyhow::Result<u8> {
    let config = options.address.config_as_far_as_it_goes()?;
    let mut mask = Mask::new(options.addresses);
    config.secrets().into_iter().for_each(|secret| mask.hide(secret.expose()));
    #[expect(clippy::disallowed_methods, reason = "the time of day, for people")]
    let mut bundle = Bundle::new(SystemTime::now());
    let mut add = |name: &str, content: anyhow::Result<String>| {
        let text = content.unwrap_or_else(|error| format!("not to be had: {error:#}\n"));
        bundle.add(name, &mask.take(&text));
    };
    add("README.txt", Ok(ABOUT.into()));
    add("version.json", Ok(serde_json::to_string_pretty(build_info::current())?));
    add("config.toml", toml::to_string(&config).map_err(Into::into));
    add("host.txt", Ok(host()));
    add("doctor.txt", doctor_text(&config));
    let server = options.address.server(&config)?;
    for path in ["/api/v1/state", "/api/v1/config", "/metrics", "/healthz?full"] {
        let name = path.trim_start_matches('/').replace(['/', '?'], "-");
        add(&format!("server/{name}"), within_patience(server.text(path)));
    }
    let state = within_patience(server.state()).map_err(|error| format!("{error:#}"));
    let pin_dir = options.pin_dir.clone().unwrap_or_else(|| config.kernel.pin_dir.clone());
    let looking = inspect::Options { pin_dir, json: true, answer: Answer { url: server.url(), state } };
    add("maps/streams.json", inspect::streams_text(&looking));
    add("maps/sessions.json", inspect::sessions_text(&looking));
    add("maps/maps.json", inspect::maps_text(&looking, None));
    add("log.txt", log(options));
    bundle.write(&options.output).with_context(|| options.output.display().to_string())?;
    output::print_line(format_args!(
        "{}: look into it before you send it (tar -xzf); it has no passwords and no keys{}",
        options.output.display(),
        if options.addresses { ", but addresses" } else { "" }
    ))?;
    Ok(OK)
}

/// Kernel, machine, interfaces: what the files of this host say, and two programs that most have.
fn host() -> String {
    let files = ["/proc/version", "/etc/os-release", "/proc/meminfo", "/proc/sys/kernel/unprivileged_bpf_disabled"];
    let mut text = String::new();
    for file in files {
        let content = fs::read_to_string(file).unwrap_or_else(|error| format!("{error}\n"));
        text += &format!("--- {file}\n{content}");
    }
    let cpus = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let one = cpus.split("\n\n").next().unwrap_or_default();
    text += &format!("--- /proc/cpuinfo, the first of {}\n{one}\n", cpus.matches("processor\t").count());
    for command in [&["ip", "-details", "-statistics", "link"][..], &["ip", "route", "show", "table", "all"]] {
        text += &format!("--- {}\n{}", command.join(" "), output_of(command));
    }
    text
}

fn output_of(command: &[&str]) -> String {
    let [program, arguments @ ..] = command else { return String::new() };
    match Command::new(program).args(arguments).output() {
        Ok(output) => String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr),
        Err(error) => format!("{program}: {error}\n"),
    }
}

/// The checks that change nothing: a server may be running.
fn doctor_text(config: &Config) -> anyhow::Result<String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let host = runtime.block_on(Host::read())?;
    let (interfaces, addresses) = host.choose_any(&config.kernel.interfaces, &config.media.addresses)?;
    Ok(doctor::glance(config, &interfaces, &addresses).to_text())
}

fn log(options: &Options) -> anyhow::Result<String> {
    let Some(file) = &options.log else {
        let unit = options.unit.as_str();
        return Ok(output_of(&["journalctl", "--no-pager", "-o", "short-iso", "-n", LOG_LINES, "-u", unit]));
    };
    let bytes = fs::read(file).with_context(|| file.display().to_string())?;
    Ok(String::from_utf8_lossy(&bytes[bytes.len().saturating_sub(LOG_BYTES)..]).into_owned())
}
