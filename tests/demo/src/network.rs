//! Where the demo takes place: publisher ── server ── viewers, each in a network namespace.

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::Result;

use super::Engine;
use tests_kit::{netns::{End, NetNs, veth}, server::{Server, Settings}};

const HTTP_PORT: u16 = 8080;

/// The server as publishers see it.
const TO_PUBLISHERS: &str = "10.81.0.1";

/// The server as viewers see it.
const TO_VIEWERS: &str = "10.82.0.1";

/// Namespaces and server. Dropped in this order: the server ends before its network goes.
pub struct Network {
    pub server: Server,
    pub host: NetNs,
    pub publisher: NetNs,
    pub viewers: NetNs,
}

impl Network {
    /// Makes the networks and starts `penstock serve`: with XDP on both interfaces, or as an ordinary user.
    ///
    /// # Errors
    /// Without root, or when the server does not start; with its log.
    pub fn start(engine: Engine) -> Result<Self> {
        let (host, publisher, viewers) = (NetNs::new("server")?, NetNs::new("publisher")?, NetNs::new("viewers")?);
        veth(
            End { namespace: &host, interface: "s0", addresses: &["10.81.0.1/24"] },
            End { namespace: &publisher, interface: "p0", addresses: &["10.81.0.2/24"] },
        )?;
        veth(
            End { namespace: &host, interface: "s1", addresses: &["10.82.0.1/24"] },
            End { namespace: &viewers, interface: "v0", addresses: &["10.82.0.2/24"] },
        )?;
        let settings = Settings {
            interfaces: vec!["s0".into(), "s1".into()],
            mode: "native",
            http: vec![SocketAddr::from((Ipv4Addr::UNSPECIFIED, HTTP_PORT))],
            more: match engine {
                Engine::Auto => String::new(),
                Engine::Kernel => "[media]\nengine = \"kernel\"\n".into(),
                Engine::Userspace => "[media]\nengine = \"userspace\"\n".into(),
            },
            unprivileged: engine == Engine::Userspace,
        };
        let server = Server::start(&host, &settings)?;
        Ok(Self { server, host, publisher, viewers })
    }

    /// Web origin in the publisher's network.
    pub fn publishing_origin() -> String {
        format!("http://{TO_PUBLISHERS}:{HTTP_PORT}")
    }

    /// Web origin in the viewers' network.
    pub fn viewing_origin() -> String {
        format!("http://{TO_VIEWERS}:{HTTP_PORT}")
    }
}
