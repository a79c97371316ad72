//! RTSPS: the server's certificate, and the handshake.

use std::{
    cell::{Ref, RefCell},
    fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
    pin::Pin,
    time::SystemTime,
};

use openssl::{
    error::ErrorStack,
    ssl::{Ssl, SslAcceptor, SslFiletype, SslMethod},
};
use tokio::net::TcpStream;
use tokio_openssl::SslStream;

use crate::ingest::{error::SourceError, rtsp::handshake};

/// Certificate and key, and the files that they are of.
pub(super) struct Identity {
    certificate: PathBuf,
    key: PathBuf,
    loaded: RefCell<Loaded>,
}

struct Loaded {
    acceptor: SslAcceptor,
    /// When the files were written.
    written: [Option<SystemTime>; 2],
}

impl Identity {
    /// Reads the files.
    ///
    /// # Errors
    /// One cannot be read, or they do not belong together.
    pub(super) fn load(certificate: &Path, key: &Path) -> io::Result<Self> {
        let loaded = RefCell::new(Loaded::read(certificate, key)?);
        Ok(Self { certificate: certificate.to_owned(), key: key.to_owned(), loaded })
    }

    /// Shakes hands.
    ///
    /// # Errors
    /// [`SourceError::Tls`].
    pub(super) async fn accept(
        &self,
        stream: TcpStream,
        peer: SocketAddr,
    ) -> Result<SslStream<TcpStream>, SourceError> {
        let failed = |reason: String| SourceError::Tls { host: peer.to_string(), reason };
        let ssl = Ssl::new(self.newest().acceptor.context());
        let stream = ssl.and_then(|ssl| SslStream::new(ssl, stream));
        let mut stream = stream.map_err(|error| failed(error.to_string()))?;
        handshake(Pin::new(&mut stream).accept()).await.map_err(failed)?;
        Ok(stream)
    }

    /// As the files are now, so that a renewed certificate needs no restart. One that cannot be used is said
    /// and leaves the former in its place.
    fn newest(&self) -> Ref<'_, Loaded> {
        let written = written(&self.certificate, &self.key);
        if written != self.loaded.borrow().written {
            match Loaded::read(&self.certificate, &self.key) {
                Ok(loaded) => {
                    tracing::info!("the certificate in {} was read again", self.certificate.display());
                    *self.loaded.borrow_mut() = loaded;
                }
                Err(error) => {
                    tracing::warn!("the former certificate stays in use: {error}");
                    self.loaded.borrow_mut().written = written;
                }
            }
        }
        self.loaded.borrow()
    }
}

impl Loaded {
    fn read(certificate: &Path, key: &Path) -> io::Result<Self> {
        let unusable = |name: &str, file: &Path, error: ErrorStack| {
            io::Error::new(io::ErrorKind::InvalidData, format!("{name}: {}: {error}", file.display()))
        };
        let written = written(certificate, key);
        let mut acceptor = SslAcceptor::mozilla_intermediate_v5(SslMethod::tls_server())?;
        acceptor
            .set_certificate_chain_file(certificate)
            .map_err(|error| unusable("rtsp.certificate", certificate, error))?;
        acceptor.set_private_key_file(key, SslFiletype::PEM).map_err(|error| unusable("rtsp.key", key, error))?;
        acceptor.check_private_key().map_err(|error| unusable("rtsp.key", key, error))?;
        Ok(Self { acceptor: acceptor.build(), written })
    }
}

fn written(certificate: &Path, key: &Path) -> [Option<SystemTime>; 2] {
    [certificate, key].map(|file| fs::metadata(file).and_then(|about| about.modified()).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_used_is_named() {
        let missing = Path::new("/nowhere/at-all.pem");
        let problem = Identity::load(missing, missing).err().map(|error| error.to_string()).unwrap_or_default();
        assert!(problem.starts_with("rtsp.certificate: /nowhere/at-all.pem: "), "{problem}");
    }
}
