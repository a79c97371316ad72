//! Chromium publishes and plays by HTTPS, under a name that is not its own host's.

use anyhow::{Context as _, Result, ensure};
use openssl::ssl::{SslConnector, SslMethod, SslStream, SslVerifyMode};
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use tests_kit::browser::Browser;
use tests_kit::browser::watch::{plays, publish, shows_a_moving_picture};
use tests_kit::camera::tls::Identity;
use tests_kit::stage::{Layout, Stage};
use tests_kit::whip::Client;

struct Scene {
    stage: Stage,
    identity: Identity,
    files: tempfile::TempDir,
}

fn scene(more: &str) -> Result<Scene> {
    let files = tempfile::tempdir()?;
    let [certificate, key] = ["certificate.pem", "key.pem"].map(|name| files.path().join(name));
    let identity = Identity::new()?;
    identity.write(&certificate, &key)?;
    let stage = Stage::new(
        Layout::OneNic,
        "native",
        &format!("[http]\nlisten_tls = [\"0.0.0.0:8443\"]\ncertificate = {certificate:?}\nkey = {key:?}\n{more}"),
    )?;
    Ok(Scene { stage, identity, files })
}

#[test]
fn chromium_publishes_and_plays_by_https() -> Result<()> {
    let Scene { stage, identity, .. } = scene("")?;
    let launch =
        |name: &str| Browser::launch_for_https(name, &stage.near, "tv.example", "10.60.0.1", &identity.key_hash()?);
    let (publisher, viewer) = (launch("publisher")?, launch("viewer")?);
    stage.explain((|| {
        let page = publish(&publisher, "https://tv.example:8443", "show", "VP8")?;
        ensure!(page.evaluate("isSecureContext && location.protocol === 'https:'")? == true);
        let playing = viewer.open("https://tv.example:8443/show")?;
        plays(&playing)?;
        shows_a_moving_picture(&playing)?;
        let protocol = playing.evaluate("performance.getEntriesByType('navigation')[0].nextHopProtocol")?;
        ensure!(protocol == "h2", "{protocol}");
        Ok(())
    })())
}

fn connect(stage: &Stage) -> Result<SslStream<TcpStream>> {
    let stream = stage.near.run(|| TcpStream::connect("10.60.0.1:8443"))?;
    let mut connector = SslConnector::builder(SslMethod::tls_client())?;
    connector.set_verify(SslVerifyMode::NONE);
    let connector = connector.build().configure()?.verify_hostname(false);
    Ok(connector.connect("tv.example", stream)?)
}

fn get(connection: &mut SslStream<TcpStream>, path: &str) -> Result<String> {
    connection.write_all(format!("GET {path} HTTP/1.1\r\nHost: tv.example\r\n\r\n").as_bytes())?;
    let mut buffer = [0; 4096];
    let len = connection.read(&mut buffer)?;
    Ok(String::from_utf8_lossy(&buffer[..len]).into_owned())
}

fn shown(connection: &SslStream<TcpStream>) -> Result<String> {
    let certificate = connection.ssl().peer_certificate().context("none")?;
    Ok(hex::encode(&*certificate.digest(openssl::hash::MessageDigest::sha256())?))
}

/// Who is connected stays so, by the certificate that there was.
#[test]
fn a_certificate_is_renewed_without_a_disconnect() -> Result<()> {
    let Scene { stage, identity, files } = scene("")?;
    let [certificate, key] = ["certificate.pem", "key.pem"].map(|name| files.path().join(name));
    let mut old = connect(&stage)?;
    ensure!(shown(&old)? == identity.fingerprint()?);
    ensure!(get(&mut old, "/healthz")?.starts_with("HTTP/1.1 200"));
    let renewed = Identity::new()?;
    renewed.write(&certificate, &key)?;
    ensure!(shown(&connect(&stage)?)? == renewed.fingerprint()?);
    ensure!(get(&mut old, "/healthz")?.starts_with("HTTP/1.1 200"), "the old connection is gone");
    std::fs::write(&key, "no key")?;
    ensure!(shown(&connect(&stage)?)? == renewed.fingerprint()?);
    ensure!(stage.server.logged("the former certificate stays in use: http.key"), "{}", stage.server.log());
    Ok(())
}

#[test]
fn who_comes_by_http_is_sent_to_https_if_the_configuration_says_so() -> Result<()> {
    let Scene { stage, .. } = scene("redirect_to_https = true\n")?;
    let client = Client { namespace: Some(stage.near.name().into()), token: None };
    let ask = |path: &str| {
        // `ureq` follows what it is sent, so by hand.
        stage.near.run(|| {
            let mut stream = TcpStream::connect("10.60.0.1:8080")?;
            stream.write_all(
                format!("GET {path} HTTP/1.1\r\nHost: tv.example:8080\r\nConnection: close\r\n\r\n").as_bytes(),
            )?;
            let mut text = String::new();
            stream.read_to_string(&mut text)?;
            Ok::<_, anyhow::Error>(text)
        })
    };
    let answer = ask("/cam?x=1")?;
    ensure!(
        answer.starts_with("HTTP/1.1 308") && answer.contains("location: https://tv.example:8443/cam?x=1"),
        "{answer}"
    );
    ensure!(ask("/healthz")?.starts_with("HTTP/1.1 200"));
    ensure!(client.request("GET", "http://10.60.0.1:8080/healthz", &[], None)?.status == 200);
    ensure!(stage.server.get("/api/v1/state").is_ok(), "this host needs no encryption");
    Ok(())
}
