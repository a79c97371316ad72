//! A server between two networks: publishers in one, viewers in the other, `penstock serve` with XDP on both
//! interfaces between them.

use std::net::Ipv4Addr;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::netns::{End, NetNs, veth};
use crate::server::{Server, Settings};

/// Port of pages, WHIP and WHEP.
const HTTP_PORT: u16 = 8080;

/// The server's address as publishers see it.
const TO_PUBLISHERS: Ipv4Addr = Ipv4Addr::new(10, 81, 0, 1);

/// The server's address as viewers see it.
const TO_VIEWERS: Ipv4Addr = Ipv4Addr::new(10, 82, 0, 1);

/// The networks and the server. Dropping it ends the server and removes the networks.
pub struct Stage {
    pub server: Server,
    _host: NetNs,
    /// Where publishers live.
    pub publisher: NetNs,
    /// Where viewers live.
    pub viewer: NetNs,
}

impl Stage {
    /// Makes the networks and starts the server; returns when it is ready.
    ///
    /// # Errors
    /// Without root, or when the server does not start; the message has its log.
    pub fn new() -> Result<Self> {
        Self::with("")
    }

    /// The same, with more TOML in its configuration.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn with(more: &str) -> Result<Self> {
        let (host, publisher, viewer) = (NetNs::new("server")?, NetNs::new("publisher")?, NetNs::new("viewer")?);
        for (interface, peer, namespace, network) in [("s0", "p0", &publisher, 81), ("s1", "v0", &viewer, 82)] {
            let (here, there) = (format!("10.{network}.0.1/24"), format!("10.{network}.0.2/24"));
            veth(
                End { namespace: &host, interface, addresses: &[&here] },
                End { namespace, interface: peer, addresses: &[&there] },
            )?;
        }
        let settings = Settings {
            interfaces: vec!["s0".into(), "s1".into()],
            mode: "native",
            http: [TO_PUBLISHERS, TO_VIEWERS].map(|address| (address, HTTP_PORT).into()).into(),
            more: format!("[log]\nlevel = \"info,penstock=debug\"\n{more}"),
            unprivileged: false,
        };
        let server = Server::start(&host, &settings)?;
        Ok(Self { server, _host: host, publisher, viewer })
    }

    /// The server's web origin as publishers see it.
    #[must_use]
    pub fn publishing_origin(&self) -> String {
        format!("http://{TO_PUBLISHERS}:{HTTP_PORT}")
    }

    /// The server's web origin as viewers see it.
    #[must_use]
    pub fn viewing_origin(&self) -> String {
        format!("http://{TO_VIEWERS}:{HTTP_PORT}")
    }

    /// The track with this SSRC in `penstock sessions --json`, which reads the kernel's maps and not the server.
    ///
    /// # Errors
    /// The command fails, or no session has such a track.
    pub fn track(&self, ssrc: u64) -> Result<Value> {
        let sessions = self.server.inspect(&["sessions"])?;
        find(&sessions, ssrc).cloned().with_context(|| format!("no track with SSRC {ssrc} in {sessions:#}"))
    }

    /// Adds the server's log to an error.
    ///
    /// # Errors
    /// That of `result`.
    pub fn explain<T>(&self, result: Result<T>) -> Result<T> {
        result.with_context(|| format!("server's log:\n{}", self.server.log()))
    }
}

/// The first object with this `ssrc`, at any depth.
fn find(value: &Value, ssrc: u64) -> Option<&Value> {
    match value {
        Value::Object(fields) if fields.get("ssrc").and_then(Value::as_u64) == Some(ssrc) => Some(value),
        Value::Object(fields) => fields.values().find_map(|field| find(field, ssrc)),
        Value::Array(entries) => entries.iter().find_map(|entry| find(entry, ssrc)),
        _ => None,
    }
}
