//! From a URL to an open connection: name, TCP, TLS.

use std::{io, net::SocketAddr, pin::Pin, time::Duration};

use openssl::{
    hash::MessageDigest,
    ssl::{SslConnector, SslMethod, SslVerifyMode},
};
use socket2::{SockRef, TcpKeepalive};
use tokio::{net::TcpStream, time::timeout};
use tokio_openssl::SslStream;

use super::{connection::Stream, handshake, redirect::Destination};
use crate::{config, ingest::error::SourceError};

/// For each of name and connection.
const PATIENCE: Duration = Duration::from_secs(5);

/// An open stream and whom it reaches.
pub(super) struct Dialled {
    pub stream: Box<dyn Stream>,
    pub local: SocketAddr,
    pub peer: SocketAddr,
}

/// Connects.
///
/// # Errors
/// [`SourceError::Dns`], [`SourceError::Unreachable`], [`SourceError::Tls`], [`SourceError::Redirect`].
pub(super) async fn dial(source: &config::Stream, to: &Destination) -> Result<Dialled, SourceError> {
    let (host, port) = (to.url.host(), to.url.port());
    let dns = |error| SourceError::Dns { host: host.to_owned(), error };
    let unreachable = |error| SourceError::Unreachable { host: format!("{host}:{port}"), error };
    let late = || io::Error::from(io::ErrorKind::TimedOut);
    let found = timeout(PATIENCE, tokio::net::lookup_host((host, port))).await;
    let addresses: Vec<SocketAddr> = found.unwrap_or_else(|_| Err(late())).map(Iterator::collect).map_err(dns)?;
    let mut connected = Err(unreachable(io::Error::from(io::ErrorKind::AddrNotAvailable)));
    for address in addresses {
        if !to.admits(address.ip()) {
            connected =
                Err(SourceError::Redirect(format!("{} is an address of this machine or of none", address.ip())));
            continue;
        }
        let tried = timeout(PATIENCE, TcpStream::connect(address)).await;
        connected = tried.unwrap_or_else(|_| Err(late())).map_err(unreachable);
        if connected.is_ok() {
            break;
        }
    }
    let tcp = connected?;
    let (local, peer) = (tcp.local_addr()?, tcp.peer_addr()?);
    tcp.set_nodelay(true)?;
    // A camera that is switched off says nothing; while it is connected on demand, nobody may watch.
    SockRef::from(&tcp).set_tcp_keepalive(&TcpKeepalive::new().with_time(Duration::from_secs(15)))?;
    let secure = to.url.is_secure();
    let stream: Box<dyn Stream> = if secure { Box::new(encrypt(source, host, tcp).await?) } else { Box::new(tcp) };
    Ok(Dialled { stream, local, peer })
}

async fn encrypt(source: &config::Stream, host: &str, tcp: TcpStream) -> Result<SslStream<TcpStream>, SourceError> {
    let failed = |reason: String| SourceError::Tls { host: host.to_owned(), reason };
    let wanted = source.certificate_hash();
    let setup = || {
        let mut connector = SslConnector::builder(SslMethod::tls_client())?;
        if wanted.is_some() {
            // Cameras sign their certificates themselves: the hash below decides instead.
            connector.set_verify(SslVerifyMode::NONE);
        }
        let ssl = connector.build().configure()?.verify_hostname(wanted.is_none()).into_ssl(host)?;
        SslStream::new(ssl, tcp)
    };
    let mut stream = setup().map_err(|error| failed(error.to_string()))?;
    handshake(Pin::new(&mut stream).connect()).await.map_err(failed)?;
    let Some(wanted) = wanted else { return Ok(stream) };
    let certificate = stream.ssl().peer_certificate();
    let hash = certificate.and_then(|certificate| certificate.digest(MessageDigest::sha256()).ok());
    match hash {
        Some(hash) if *hash == wanted => Ok(stream),
        _ => Err(failed("its certificate is not the one of `fingerprint`".into())),
    }
}
