//! The server gets its certificate itself, from an authority that looks whether the name is its own.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use openssl::hash::MessageDigest;
use openssl::ssl::{SslConnector, SslMethod, SslStream};
use openssl::x509::store::X509StoreBuilder;
use tests_kit::authority::{Authority, Options};
use tests_kit::netns::{End, NetNs, veth};
use tests_kit::server::{Server, Settings};

const NAME: &str = "tv.example";
const PATIENCE: Duration = Duration::from_secs(60);
/// A life that no test ends before.
const LONG: Duration = Duration::from_secs(30 * 86_400);

/// A host for the server, and one for the authority and whoever comes. In the order in which they must be dropped.
struct Site {
    authority: Authority,
    host: NetNs,
    near: NetNs,
    files: tempfile::TempDir,
}

impl Site {
    fn new(validity: Duration, address_of_name: [u8; 4]) -> Result<Self> {
        let (host, near) = (NetNs::new("server")?, NetNs::new("near")?);
        veth(
            End { namespace: &host, interface: "eth0", addresses: &["10.60.0.1/24"] },
            End { namespace: &near, interface: "eth0", addresses: &["10.60.0.2/24"] },
        )?;
        let names = [(NAME, address_of_name)];
        let options = Options { names: &names, tls_port: 8443, http_port: 8080, validity };
        let authority = Authority::start(&near, Ipv4Addr::new(10, 60, 0, 2), &options)?;
        Ok(Self { authority, host, near, files: tempfile::tempdir()? })
    }

    fn state(&self) -> std::path::PathBuf {
        self.files.path().join("acme")
    }

    /// `more_http`: lines of `[http]`; `more`: of `[acme]` and what comes behind it.
    fn settings(&self, more_http: &str, more: &str) -> Result<Settings> {
        let more = format!(
            "[http]\nlisten_tls = [\"0.0.0.0:8443\"]\n{more_http}[media]\nengine = \"userspace\"\n\
             transmitter = \"socket\"\n[acme]\nnames = [{NAME:?}]\nterms_agreed = true\ncontact = \"a@b.example\"\n\
             directory = {:?}\ndirectory_ca = {:?}\nstate_dir = {:?}\n{more}",
            self.authority.directory(),
            self.authority.certificate(),
            self.state(),
        );
        Ok(Settings {
            interfaces: vec!["eth0".into()],
            mode: "auto",
            http: vec!["0.0.0.0:8080".parse()?],
            more,
            unprivileged: false,
        })
    }

    /// By TLS with all that a browser checks: the name, the time, and who has signed.
    fn connect(&self, port: u16) -> Result<SslStream<TcpStream>> {
        let mut roots = X509StoreBuilder::new()?;
        roots.add_cert(self.authority.root(&self.near)?)?;
        let stream = self.near.run(|| TcpStream::connect(("10.60.0.1", port)))?;
        let mut connector = SslConnector::builder(SslMethod::tls_client())?;
        connector.set_cert_store(roots.build());
        connector.build().connect(NAME, stream).map_err(|error| anyhow::anyhow!("{error}"))
    }

    fn until_connected(&self, server: &Server, port: u16) -> Result<SslStream<TcpStream>> {
        let end = Instant::now() + PATIENCE;
        loop {
            match self.connect(port) {
                Ok(connection) => return Ok(connection),
                Err(error) => ensure!(Instant::now() < end, "{error:#}\nserver's log:\n{}", server.log()),
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

fn get(connection: &mut SslStream<TcpStream>, path: &str) -> Result<String> {
    connection.write_all(format!("GET {path} HTTP/1.1\r\nHost: {NAME}\r\n\r\n").as_bytes())?;
    let mut buffer = [0; 4096];
    let len = connection.read(&mut buffer)?;
    Ok(String::from_utf8_lossy(&buffer[..len]).into_owned())
}

fn shown(connection: &SslStream<TcpStream>) -> Result<Vec<u8>> {
    let certificate = connection.ssl().peer_certificate().context("none")?;
    Ok(certificate.digest(MessageDigest::sha256())?.to_vec())
}

fn mode(path: &Path) -> Result<u32> {
    Ok(std::fs::metadata(path)?.permissions().mode() & 0o777)
}

/// By TLS-ALPN-01, for HTTPS and RTSPS; whoever is connected stays so while it is renewed.
#[test]
fn a_certificate_is_got_and_renewed_without_a_disconnect() -> Result<()> {
    let site = Site::new(Duration::from_secs(24), [10, 60, 0, 1])?;
    let server = Server::start(&site.host, &site.settings("", "[rtsp]\nlisten_tls = [\"0.0.0.0:8322\"]\n")?)?;
    let mut old = site.until_connected(&server, 8443)?;
    let first = shown(&old)?;
    ensure!(get(&mut old, "/healthz")?.starts_with("HTTP/1.1 200"));
    let files = ["account.json", "certificate.pem"].map(|file| site.state().join(file));
    ensure!((mode(&site.state())?, mode(&files[0])?, mode(&files[1])?) == (0o700, 0o600, 0o600));
    let end = Instant::now() + PATIENCE;
    while shown(&site.until_connected(&server, 8443)?)? == first {
        ensure!(Instant::now() < end, "it is not renewed:\n{}", server.log());
        // A connection on which nobody asks is closed after a while.
        ensure!(get(&mut old, "/healthz")?.starts_with("HTTP/1.1 200"));
        std::thread::sleep(Duration::from_millis(200));
    }
    ensure!(get(&mut old, "/healthz")?.starts_with("HTTP/1.1 200"), "the old connection is gone");
    site.until_connected(&server, 8322)?;
    Ok(())
}

/// A server that starts again has its account and its certificate still.
#[test]
fn a_certificate_is_kept() -> Result<()> {
    let site = Site::new(LONG, [10, 60, 0, 1])?;
    let settings = site.settings("", "")?;
    let mut server = Server::start(&site.host, &settings)?;
    let first = shown(&site.until_connected(&server, 8443)?)?;
    let account = std::fs::read(site.state().join("account.json"))?;
    server.terminate()?;
    server.start_again(&site.host, &settings)?;
    ensure!(server.logged("kept certificate for tv.example"), "{}", server.log());
    ensure!(shown(&site.connect(8443)?)? == first);
    ensure!(std::fs::read(site.state().join("account.json"))? == account);
    Ok(())
}

/// By HTTP-01, in front of the redirect to HTTPS, which there is no certificate for yet.
#[test]
fn an_authority_may_ask_by_http() -> Result<()> {
    let site = Site::new(LONG, [10, 60, 0, 1])?;
    let settings = site.settings("redirect_to_https = true\n", "challenge = \"http-01\"\n")?;
    let server = Server::start(&site.host, &settings)?;
    let mut connection = site.until_connected(&server, 8443)?;
    ensure!(get(&mut connection, "/healthz")?.starts_with("HTTP/1.1 200"));
    ensure!(get(&mut connection, "/.well-known/acme-challenge/none")?.starts_with("HTTP/1.1 404"));
    Ok(())
}

/// The name leads to another host: there is no certificate, the log says why, and everything else is served.
#[test]
fn a_name_of_another_host_gets_none() -> Result<()> {
    let site = Site::new(LONG, [10, 60, 0, 2])?;
    let server = Server::start(&site.host, &site.settings("", "")?)?;
    server.wait_log("no certificate for tv.example from https://10.60.0.2:14000/dir, next attempt in 60s", PATIENCE)?;
    ensure!(server.logged("10.60.0.2:8443 for the tls-alpn-01 challenge"), "{}", server.log());
    ensure!(site.connect(8443).is_err());
    ensure!(server.get_text("/healthz").is_ok());
    Ok(())
}
