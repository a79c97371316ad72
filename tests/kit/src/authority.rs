//! An authority that gives certificates by ACME: `pebble`, as Let's Encrypt offers it for tests.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use openssl::ssl::{SslConnector, SslMethod, SslVerifyMode};
use openssl::x509::X509;
use serde_json::json;

use crate::camera::tls::Identity;
use crate::names::Names;
use crate::netns::{NetNs, Running};

/// Where its directory is.
const DIRECTORY: u16 = 14000;
/// Where it tells of itself.
const MANAGEMENT: u16 = 15000;
/// Longest wait for it to be there.
const PATIENCE: Duration = Duration::from_secs(60);

/// A running authority, with a name server that it asks.
pub struct Authority {
    _process: Running,
    _names: Names,
    address: Ipv4Addr,
    files: tempfile::TempDir,
}

/// What differs from one authority to the next.
pub struct Options<'a> {
    /// Names that it can find.
    pub names: &'a [(&'a str, [u8; 4])],
    /// Port to which it connects for TLS-ALPN-01.
    pub tls_port: u16,
    /// Port that it asks for HTTP-01.
    pub http_port: u16,
    /// Life of its certificates.
    pub validity: Duration,
}

impl Authority {
    /// Starts one at an address of a namespace, and waits until it answers.
    ///
    /// # Errors
    /// `pebble` is not there (`cargo xtask setup` gets it), or does not answer.
    pub fn start(namespace: &NetNs, address: Ipv4Addr, options: &Options<'_>) -> Result<Self> {
        let files = tempfile::tempdir()?;
        let [certificate, key, settings] =
            ["certificate.pem", "key.pem", "pebble.json"].map(|name| files.path().join(name));
        Identity::at(IpAddr::V4(address))?.write(&certificate, &key)?;
        let document = json!({ "pebble": {
            "listenAddress": format!("{address}:{DIRECTORY}"),
            "managementListenAddress": format!("{address}:{MANAGEMENT}"),
            "certificate": certificate, "privateKey": key,
            "httpPort": options.http_port, "tlsPort": options.tls_port,
            "certificateValidityPeriod": options.validity.as_secs(),
        }});
        std::fs::write(&settings, document.to_string())?;
        let resolver = SocketAddr::from((address, 8053));
        let names = Names::serve(namespace, resolver, options.names)?;
        let mut command = namespace.command("pebble");
        command.arg("-config").arg(&settings).arg("-dnsserver").arg(resolver.to_string());
        // Nonces that it refuses, and authorizations that it remembers, are left as they come: by chance.
        command.env("PEBBLE_VA_NOSLEEP", "1").stdout(Stdio::null()).stderr(Stdio::null());
        let process = Running::start(&mut command)?;
        let authority = Self { _process: process, _names: names, address, files };
        let end = Instant::now() + PATIENCE;
        while let Err(error) = authority.root(namespace) {
            ensure!(Instant::now() < end, "pebble does not answer: {error:#}");
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(authority)
    }

    /// URL of its directory.
    #[must_use]
    pub fn directory(&self) -> String {
        format!("https://{}:{DIRECTORY}/dir", self.address)
    }

    /// File with the certificate by which its directory is known.
    #[must_use]
    pub fn certificate(&self) -> PathBuf {
        Path::new(self.files.path()).join("certificate.pem")
    }

    /// The root of the certificates that it gives.
    ///
    /// # Errors
    /// It does not answer.
    pub fn root(&self, namespace: &NetNs) -> Result<X509> {
        let stream = namespace.run(|| TcpStream::connect((self.address, MANAGEMENT)))?;
        let mut connector = SslConnector::builder(SslMethod::tls_client())?;
        connector.set_verify(SslVerifyMode::NONE);
        let connector = connector.build().configure()?.verify_hostname(false);
        let mut stream = connector.connect("authority", stream).map_err(|error| anyhow::anyhow!("{error}"))?;
        stream.write_all(format!("GET /roots/0 HTTP/1.0\r\nHost: {}\r\n\r\n", self.address).as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let pem = answer.find("-----BEGIN").map(|at| &answer[at..]).context("no certificate in the answer")?;
        Ok(X509::from_pem(pem.as_bytes())?)
    }
}
