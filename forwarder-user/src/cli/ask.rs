//! Asking a running server over HTTP.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use anyhow::Context;
use clap::Args;

use super::output;
use crate::{
    config::Config,
    verify::{Server, Tokens},
};

/// Longest wait for an answer: a server that takes longer is not well.
const PATIENCE: Duration = Duration::from_secs(4);

/// Where the server is.
#[derive(Debug, Args)]
pub(super) struct Address {
    /// The server's HTTP address, http://ADDRESS:PORT; without it, the first of http.listen, on this host
    #[arg(long, env = "PENSTOCK_URL")]
    pub(super) url: Option<String>,

    /// The server's configuration file
    #[arg(long, short, value_name = "FILE", env = "PENSTOCK_CONFIG")]
    pub(super) config: Option<PathBuf>,
}

impl Address {
    /// The configuration, or the defaults.
    ///
    /// # Errors
    /// The file cannot be used.
    pub(super) fn config(&self) -> anyhow::Result<Config> {
        Ok(match &self.config {
            Some(file) => Config::load(file)?,
            None => Config::from_defaults()?,
        })
    }

    /// The same for questions to a server that runs: a mistake that was made in the file since its start is told on
    /// standard error, and stands in nobody's way.
    ///
    /// # Errors
    /// The environment is wrong.
    pub(super) fn config_as_far_as_it_goes(&self) -> anyhow::Result<Config> {
        let error = match (self.config(), &self.config) {
            (Err(error), Some(_)) => error,
            (other, _) => return other,
        };
        output::complain(format_args!("penstock: a server would not start with this: {error:#}"));
        let text = self.config.as_ref().and_then(|file| std::fs::read_to_string(file).ok());
        Ok(salvage(&text.unwrap_or_default()))
    }

    /// The server that `--url` or the configuration names.
    ///
    /// # Errors
    /// No such host.
    pub(super) fn server(&self, config: &Config) -> anyhow::Result<Server> {
        let url = match &self.url {
            Some(url) => url.clone(),
            None => local(*config.http.listen.first().context("http.listen is empty")?),
        };
        Server::new(&url, Tokens { api: config.auth.api_token.expose().to_owned(), ..Tokens::default() })
    }
}

/// The sections that say where a server is, as far as they can be read.
fn salvage(text: &str) -> Config {
    let table: toml::Table = text.parse().unwrap_or_default();
    let section = |name: &str| {
        let alone = toml::Table::from_iter([(name.to_owned(), table.get(name)?.clone())]);
        alone.try_into::<Config>().ok()
    };
    let http = section("http").unwrap_or_default().http;
    let kernel = section("kernel").unwrap_or_default().kernel;
    let auth = section("auth").unwrap_or_default().auth;
    Config { http, kernel, auth, ..Config::default() }
}

/// URL by which this host reaches a listening address.
fn local(listen: SocketAddr) -> String {
    let address = match listen.ip() {
        IpAddr::V4(address) if address.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        // It takes IPv4 too, and a host may have no other loopback.
        IpAddr::V6(address) if address.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        address => address,
    };
    format!("http://{}", SocketAddr::new(address, listen.port()))
}

/// Runs a question to its end, within a bounded time.
///
/// # Errors
/// That of the question, or no answer in time.
pub(super) fn within_patience<T>(question: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        tokio::time::timeout(PATIENCE, question).await.with_context(|| format!("no answer within {PATIENCE:?}"))?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_bad_section_does_not_hide_the_others() {
        let config = salvage("[http]\nlisten = [\"127.0.0.1:81\"]\n[kernel]\nmode = 3\n[auth]\napi_token = \"x\"\n");
        assert_eq!((config.http.listen[0].port(), config.auth.api_token.expose()), (81, "x"));
        assert_eq!(config.kernel.pin_dir, Config::default().kernel.pin_dir);
        assert_eq!(salvage("[http\n").http.listen, Config::default().http.listen);
    }

    #[test]
    fn addresses_that_stand_for_all_are_asked_on_loopback() {
        let url = |listen: &str| local(listen.parse().unwrap());
        assert_eq!(url("0.0.0.0:8080"), "http://127.0.0.1:8080");
        assert_eq!(url("[::]:81"), "http://127.0.0.1:81");
        assert_eq!(url("192.0.2.1:80"), "http://192.0.2.1:80");
    }
}
