//! TLS towards the internet (rustls): the server's certificate, for HTTPS and RTSPS alike.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::SystemTime,
};

use rustls::{
    ServerConfig,
    crypto::aws_lc_rs::default_provider,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};

/// Protocol by which an authority finds that a name is ours (RFC 8737 §4).
pub(crate) const ACME_PROTOCOL: &[u8] = b"acme-tls/1";

/// Certificate and key, and the files that they are of.
#[derive(Debug)]
pub(crate) struct Identity {
    /// Keys of the configuration, for what is said of the files.
    names: [&'static str; 2],
    certificate: PathBuf,
    key: PathBuf,
    loaded: Mutex<Loaded>,
}

#[derive(Debug)]
struct Loaded {
    key: Arc<CertifiedKey>,
    /// When the files were written.
    written: [Option<SystemTime>; 2],
}

impl Identity {
    /// Reads the files, which the configuration names by `names`.
    ///
    /// # Errors
    /// One cannot be read, or they do not belong together.
    pub(crate) fn load(names: [&'static str; 2], certificate: &Path, key: &Path) -> io::Result<Self> {
        let written = written(certificate, key);
        let read = read(names, certificate, key)?;
        let loaded = Mutex::new(Loaded { key: Arc::new(read), written });
        Ok(Self { names, certificate: certificate.to_owned(), key: key.to_owned(), loaded })
    }

    /// As the files are now, so that a renewed certificate needs no restart, and disconnects nobody. One that cannot be
    /// used is said and leaves the former in its place.
    fn newest(&self) -> Arc<CertifiedKey> {
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        let written = written(&self.certificate, &self.key);
        if written != loaded.written {
            loaded.written = written;
            match read(self.names, &self.certificate, &self.key) {
                Ok(key) => {
                    tracing::info!("the certificate in {} was read again", self.certificate.display());
                    loaded.key = Arc::new(key);
                }
                Err(error) => tracing::warn!("the former certificate stays in use: {error}"),
            }
        }
        Arc::clone(&loaded.key)
    }
}

impl ResolvesServerCert for Identity {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.newest())
    }
}

/// TLS 1.2 and 1.3 with certificates of `identity`. `protocols`: those of ALPN (RFC 7301), the better one first.
///
/// # Errors
/// None: the versions fit the provider.
pub(crate) fn config(identity: Arc<dyn ResolvesServerCert>, protocols: &[&[u8]]) -> io::Result<Arc<ServerConfig>> {
    let builder = ServerConfig::builder_with_provider(Arc::new(default_provider()));
    let builder = builder.with_safe_default_protocol_versions().map_err(io::Error::other)?;
    let mut config = builder.with_no_client_auth().with_cert_resolver(identity);
    config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
    Ok(Arc::new(config))
}

/// Certificate and key of two files, which may be the same. What cannot be used is told by `names`.
///
/// # Errors
/// As [`Identity::load`].
pub(crate) fn read(names: [&'static str; 2], certificate: &Path, key: &Path) -> io::Result<CertifiedKey> {
    let unusable = |name: &str, file: &Path, error: &dyn std::fmt::Display| {
        io::Error::new(io::ErrorKind::InvalidData, format!("{name}: {}: {error}", file.display()))
    };
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_file_iter(certificate)
        .and_then(Iterator::collect)
        .map_err(|error| unusable(names[0], certificate, &error))?;
    if chain.is_empty() {
        return Err(unusable(names[0], certificate, &"has no certificate in PEM"));
    }
    let private = PrivateKeyDer::from_pem_file(key).map_err(|error| unusable(names[1], key, &error))?;
    // Fails if the two do not belong together.
    CertifiedKey::from_der(chain, private, &default_provider()).map_err(|error| unusable(names[1], key, &error))
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
        let problem =
            Identity::load(["rtsp.certificate", "rtsp.key"], missing, missing).map(drop).unwrap_err().to_string();
        assert!(problem.starts_with("rtsp.certificate: /nowhere/at-all.pem: "), "{problem}");
    }
}
