//! The host's addresses: waited for at the start, followed afterwards.

use std::net::IpAddr;

use anyhow::Context as _;
use penstock_engine::route::Monitor;
use tokio::sync::mpsc;

use super::host::Host;
use crate::config::{Config, EngineChoice};

/// Interfaces to attach to, and addresses for media.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Chosen {
    pub interfaces: Vec<String>,
    pub addresses: Vec<IpAddr>,
}

/// Tells when the host's addresses change.
pub(super) struct Follower {
    changed: mpsc::Receiver<()>,
    _monitor: Monitor,
}

impl Follower {
    /// # Errors
    /// What the system says.
    pub(super) fn start() -> anyhow::Result<Self> {
        // One that waits says enough: whoever is told looks at everything.
        let (tell, changed) = mpsc::channel(1);
        let monitor = Monitor::start(move |changes| {
            if changes.addresses || changes.links {
                let _ = tell.try_send(());
            }
        });
        Ok(Self { changed, _monitor: monitor.context("cannot follow the network by netlink")? })
    }

    /// Waits for the next change.
    pub(super) async fn changed(&mut self) {
        if self.changed.recv().await.is_none() {
            // The thread has ended, and has said why: nothing changes any more, as far as is known.
            std::future::pending::<()>().await;
        }
    }
}

/// Are the addresses those of the moment, or those that the configuration names?
pub(super) fn is_followed(config: &Config) -> bool {
    config.media.addresses.is_empty()
}

/// What to use now.
///
/// # Errors
/// As [`Host::choose`].
pub(super) fn choose(config: &Config, host: &Host) -> anyhow::Result<Chosen> {
    let (interfaces, addresses) = match config.media.engine {
        EngineChoice::Kernel => host.choose(&config.kernel.interfaces, &config.media.addresses)?,
        _ => host.choose_any(&config.kernel.interfaces, &config.media.addresses)?,
    };
    Ok(Chosen { interfaces, addresses })
}

/// Must the start wait? The host has no address that peers could reach (yet), and none is named.
pub(super) fn is_missing(config: &Config, host: &Host) -> bool {
    is_followed(config) && !host.has_addresses(&config.kernel.interfaces)
}

/// Waits until the host has an address that peers can reach.
///
/// # Errors
/// What the kernel says.
pub(super) async fn wait(config: &Config, follower: &mut Follower) -> anyhow::Result<Host> {
    let mut told = false;
    loop {
        let host = Host::read().await?;
        if !is_missing(config, &host) {
            return Ok(host);
        }
        if !std::mem::replace(&mut told, true) {
            let where_ = if config.kernel.interfaces.is_empty() {
                "this host".to_owned()
            } else {
                config.kernel.interfaces.join(", ")
            };
            tracing::warn!(
                "{where_} has no address that peers could reach: waiting for one, and not healthy until it comes \
                 (`media.addresses` = [\"127.0.0.1\"] serves this host alone)"
            );
        }
        follower.changed().await;
    }
}
