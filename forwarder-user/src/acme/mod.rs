//! The server's certificate, got and renewed by itself (ACME, RFC 8555).
//!
//! | file | does |
//! | --- | --- |
//! | here | when, and what becomes of it |
//! | `order` | one certificate, from the account to the chain |
//! | `shown` | what the listeners show: the certificate, answers to challenges |
//! | `directory` | asks the authority by HTTPS |
//! | `files` | what outlives the process |
//! | `x509` | keys, requests, certificates |

mod directory;
mod files;
mod order;
mod shown;
mod x509;

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use anyhow::Context as _;
use rustls::sign::CertifiedKey;

pub(crate) use self::shown::Shown;
use self::{files::Files, x509::About};
use crate::config::Acme;

/// Wait after the first failure; twice as long after each further one. Authorities count failures by the hour.
const RETRY: Duration = Duration::from_secs(60);
/// Longest wait.
const LONGEST_RETRY: Duration = Duration::from_secs(6 * 3600);
/// Time between two certificates, however short their lives are.
const LEAST_LIFE: Duration = Duration::from_secs(1);
/// Longest sleep: a clock that was set is noticed within it.
const NAP: Duration = Duration::from_secs(3600);

/// Whoever gets the certificate, before it starts.
pub(crate) struct Keeper {
    config: Acme,
    files: Files,
    shown: Arc<Shown>,
    /// When another one is due. `None`: now.
    renew_at: Option<SystemTime>,
}

impl Keeper {
    /// With the certificate that was kept, if there is one for the names of the configuration.
    ///
    /// # Errors
    /// The directory of the configuration cannot be made.
    pub(crate) fn new(config: &Acme) -> anyhow::Result<Self> {
        let files = Files::in_directory(config.state_dir.clone());
        files.prepare().context("acme.state_dir")?;
        let mut keeper = Self { config: config.clone(), files, shown: Arc::default(), renew_at: None };
        match keeper.files.certificate() {
            Ok(Some(certificate)) => {
                keeper.show(certificate, "kept")?;
                // It is another authority's.
                if keeper.files.account(&config.directory).ok().flatten().is_none() {
                    keeper.renew_at = None;
                }
            }
            Ok(None) => tracing::info!("no TLS until a certificate for {} is there", keeper.names()),
            Err(error) => tracing::warn!("the certificate that was kept is not used: {error}"),
        }
        Ok(keeper)
    }

    /// What listeners show.
    pub(crate) fn shown(&self) -> Arc<Shown> {
        Arc::clone(&self.shown)
    }

    /// Gets certificates from now on. The listeners must be served: the authority comes by them.
    pub(crate) fn start(self) {
        drop(tokio::spawn(self.run()));
    }

    async fn run(mut self) {
        let mut wait = RETRY;
        loop {
            while let Some(left) = self.renew_at.and_then(|at| at.duration_since(now()).ok()) {
                tokio::time::sleep(left.min(NAP)).await;
            }
            match self.renew().await {
                Ok(()) => wait = RETRY,
                Err(error) => {
                    tracing::warn!(
                        "no certificate for {} from {}, next attempt in {wait:?}: {error:#}",
                        self.names(),
                        self.config.directory
                    );
                    tokio::time::sleep(wait).await;
                    wait = (wait * 2).min(LONGEST_RETRY);
                }
            }
        }
    }

    async fn renew(&mut self) -> anyhow::Result<()> {
        let got = order::get(&self.config, &self.files, &self.shown).await?;
        let files = self.files.clone();
        let certificate = tokio::task::spawn_blocking(move || {
            files.keep_certificate(&got.key, got.chain.as_bytes())?;
            files.certificate()
        });
        let certificate = certificate.await??.context("the certificate that was just written is gone")?;
        self.show(certificate, "new")
    }

    fn show(&mut self, certificate: CertifiedKey, which: &str) -> anyhow::Result<()> {
        let about = About::read(certificate.end_entity_cert()?)?;
        let left = about.until.duration_since(now()).unwrap_or_default();
        if about.is_for(&self.config.names) {
            // Never at once again, whatever its authority calls a life.
            self.renew_at = Some(about.renew_at().max(now() + LEAST_LIFE));
            let days = left.as_secs() / 86_400;
            tracing::info!("{which} certificate for {}, {days} days ({} s) left", self.names(), left.as_secs());
        } else {
            tracing::info!("the kept certificate is not for all of {}", self.names());
        }
        self.shown.set_certificate(certificate);
        Ok(())
    }

    fn names(&self) -> String {
        self.config.names.join(", ")
    }
}

#[expect(clippy::disallowed_methods, reason = "a certificate ends by the wall clock; looked at again every nap")]
fn now() -> SystemTime {
    SystemTime::now()
}
