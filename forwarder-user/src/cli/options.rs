//! Options of `penstock serve`, which `penstock doctor` takes too, on top of the configuration file.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    str::FromStr,
};

use clap::Args;

use crate::config::{Config, EngineChoice, Mode, TransmitterChoice};

const EXAMPLES: &str = "\
Examples:
  penstock serve
      the interface of the default route, HTTP on [::]:8080, media on UDP port 8443
  penstock serve --interface eth0 --interface eth1 --http '[::]:8080' --media 9000
  penstock serve --media 192.0.2.10:8443
      media on this address only
  PENSTOCK_PUBLISH_TOKEN=secret penstock serve --config /etc/penstock.toml

The kernel engine needs root, or CAP_BPF, CAP_NET_ADMIN, CAP_PERFMON and CAP_SYS_ADMIN (for its
bpffs). Without these rights the userspace engine serves, at a higher cost. SIGTERM or SIGINT closes all sessions, detaches XDP and removes the pins; a second signal ends it at once. SIGHUP reads
the configuration again: keys marked [live] in config/penstock.toml.";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Options {
    /// Configuration file; without one, the defaults
    #[arg(long, short, value_name = "FILE", env = "PENSTOCK_CONFIG")]
    pub(super) config: Option<PathBuf>,

    /// Interface to attach XDP to; may be repeated (kernel.interfaces)
    #[arg(long, short, value_name = "NAME")]
    interface: Vec<String>,

    /// Address for HTTP; may be repeated (http.listen)
    #[arg(long, value_name = "ADDRESS:PORT")]
    http: Vec<SocketAddr>,

    /// UDP port, address, or both, for media; may be repeated (media.port, media.addresses)
    #[arg(long, value_name = "[ADDRESS][:PORT]")]
    media: Vec<MediaOption>,

    /// How XDP is attached (kernel.mode)
    #[arg(long, value_enum)]
    mode: Option<Mode>,

    /// What moves the media (media.engine)
    #[arg(long, value_enum)]
    engine: Option<EngineChoice>,

    /// How the userspace engine sends (media.transmitter)
    #[arg(long, value_enum)]
    transmitter: Option<TransmitterChoice>,

    /// Let rules of this host's firewall hold for every packet of media: no XDP, sockets alone (media.respect_firewall)
    #[arg(long)]
    respect_firewall: bool,

    /// Directory for the maps' pins (kernel.pin_dir)
    #[arg(long, value_name = "DIR", env = "PENSTOCK_PIN_DIR")]
    pin_dir: Option<PathBuf>,

    /// Log level or directives (log.level)
    #[arg(long, value_name = "LEVEL", env = "PENSTOCK_LOG")]
    log: Option<String>,
}

/// `8443`, `192.0.2.10`, `192.0.2.10:8443`, `[2001:db8::1]:8443`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct MediaOption {
    address: Option<IpAddr>,
    port: Option<u16>,
}

impl FromStr for MediaOption {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(port) = text.trim_start_matches(':').parse() {
            return Ok(Self { address: None, port: Some(port) });
        }
        if let Ok(address) = text.trim_matches(['[', ']']).parse() {
            return Ok(Self { address: Some(address), port: None });
        }
        let both: SocketAddr = text
            .parse()
            .map_err(|_| format!("{text:?} is none of PORT, ADDRESS, ADDRESS:PORT (IPv6 with port: [ADDRESS]:PORT)"))?;
        Ok(Self { address: Some(both.ip()), port: Some(both.port()) })
    }
}

impl Options {
    /// The file, or the defaults, with the options of the command line on top.
    pub(super) fn config(&self) -> anyhow::Result<Config> {
        let mut config = match &self.config {
            Some(file) => Config::load(file)?,
            None => Config::from_defaults()?,
        };
        if !self.interface.is_empty() {
            config.kernel.interfaces = self.interface.clone();
        }
        if !self.http.is_empty() {
            config.http.listen = self.http.clone();
        }
        let addresses: Vec<IpAddr> = self.media.iter().filter_map(|media| media.address).collect();
        if !addresses.is_empty() {
            config.media.addresses = addresses;
        }
        let mut ports: Vec<u16> = self.media.iter().filter_map(|media| media.port).collect();
        ports.dedup();
        match ports[..] {
            [] => {}
            [port] => config.media.port = port,
            _ => anyhow::bail!("--media: all addresses have the same port, but {ports:?} are given"),
        }
        config.kernel.mode = self.mode.unwrap_or(config.kernel.mode);
        config.media.engine = self.engine.unwrap_or(config.media.engine);
        config.media.transmitter = self.transmitter.unwrap_or(config.media.transmitter);
        config.media.respect_firewall |= self.respect_firewall;
        if let Some(directory) = &self.pin_dir {
            config.kernel.pin_dir = std::path::absolute(directory)?;
        }
        if let Some(level) = &self.log {
            config.log.level = level.clone();
        }
        config.check("command line")?;
        let mut config = config.with_saved_streams()?;
        config.settle();
        Ok(config)
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        options: Options,
    }

    fn config(arguments: &[&str]) -> anyhow::Result<Config> {
        let arguments = std::iter::once("penstock").chain(arguments.iter().copied());
        Cli::try_parse_from(arguments)?.options.config()
    }

    #[test]
    fn media_option_takes_port_address_or_both() {
        let parse = |text: &str| text.parse::<MediaOption>().map(|media| (media.address, media.port));
        let v4 = Some("192.0.2.1".parse().unwrap());
        let v6 = Some("2001:db8::1".parse().unwrap());
        assert_eq!(parse("9000"), Ok((None, Some(9000))));
        assert_eq!(parse(":9000"), Ok((None, Some(9000))));
        assert_eq!(parse("192.0.2.1"), Ok((v4, None)));
        assert_eq!(parse("192.0.2.1:9000"), Ok((v4, Some(9000))));
        assert_eq!(parse("2001:db8::1"), Ok((v6, None)));
        assert_eq!(parse("[2001:db8::1]:9000"), Ok((v6, Some(9000))));
        assert!(parse("eth0").unwrap_err().contains("ADDRESS:PORT"));
    }

    #[test]
    fn options_win_over_the_file() {
        let file = tempfile("[http]\nlisten = [\"127.0.0.1:1\"]\n[media]\nport = 2\n");
        let path = file.to_str().unwrap();
        let plain = config(&["--config", path]).unwrap();
        assert_eq!((plain.http.listen[0].port(), plain.media.port), (1, 2));
        let options =
            ["--config", path, "--http", "127.0.0.1:3", "--media", "192.0.2.1:4", "-i", "eth7", "--mode", "generic"];
        let config = config(&options).unwrap();
        assert_eq!((config.http.listen[0].port(), config.media.port), (3, 4));
        assert_eq!(config.media.addresses, ["192.0.2.1".parse::<IpAddr>().unwrap()]);
        assert_eq!((config.kernel.interfaces[0].as_str(), config.kernel.mode), ("eth7", Mode::Generic));
        std::fs::remove_file(file).unwrap();
    }

    #[test]
    fn the_firewall_is_respected_by_sockets() {
        let media = config(&["--respect-firewall"]).unwrap().media;
        assert_eq!((media.engine, media.transmitter), (EngineChoice::Userspace, TransmitterChoice::Socket));
        assert!(config(&["--respect-firewall", "--engine", "kernel"]).is_err());
    }

    #[test]
    fn contradictions_are_refused() {
        assert!(config(&["--media", "1", "--media", "2"]).unwrap_err().to_string().contains("same port"));
        assert!(config(&["--media", "0"]).unwrap_err().to_string().contains("media.port"));
        assert!(config(&["--config", "/nonexistent"]).is_err());
    }

    fn tempfile(text: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("penstock-serve-{}.toml", std::process::id()));
        std::fs::write(&path, text).unwrap();
        path
    }
}
