//! Listeners for health alone, in a thread of their own: whoever asks waits for nobody, and hears that the control task
//! stands still, if it does.

use std::{
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::Router;
use tokio::{
    net::TcpListener,
    sync::{Semaphore, watch},
    task::JoinSet,
};

use super::Acceptor;
use penstock_engine::block::Shares;

/// Connections to one of them.
const HEALTH_CONNECTIONS: usize = 64;

/// What they have.
pub(super) struct Health {
    pub(super) router: watch::Receiver<Router>,
    pub(super) header_timeout: Duration,
    pub(super) stopped: watch::Receiver<bool>,
}

impl Health {
    /// Serves them.
    ///
    /// # Errors
    /// The system's.
    pub(super) fn serve(self, listeners: Vec<TcpListener>) -> io::Result<()> {
        if listeners.is_empty() {
            return Ok(());
        }
        let listeners = listeners.into_iter().map(TcpListener::into_std).collect::<io::Result<Vec<_>>>()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let thread = std::thread::Builder::new().name("penstock-health".into());
        thread.spawn(move || runtime.block_on(self.run(listeners))).map(drop)
    }

    async fn run(self, listeners: Vec<std::net::TcpListener>) {
        let mut accepting = JoinSet::new();
        for listener in listeners {
            let listener = match TcpListener::from_std(listener) {
                Ok(listener) => listener,
                Err(error) => return tracing::error!("http.health_listen is not served: {error}"),
            };
            let acceptor = Acceptor {
                listener,
                tls: None,
                proxy_protocol: false,
                router: self.router.clone(),
                header_timeout: self.header_timeout,
                connections: Arc::new(Semaphore::new(HEALTH_CONNECTIONS)),
                shares: Shares::of(HEALTH_CONNECTIONS, HEALTH_CONNECTIONS),
                trusted: vec![],
                media: None,
                told: Instant::now(),
                stopped: self.stopped.clone(),
            };
            accepting.spawn(acceptor.run());
        }
        while accepting.join_next().await.is_some() {}
    }
}
