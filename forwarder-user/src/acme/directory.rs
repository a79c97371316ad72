//! Asking the authority by HTTPS, with bounds on size and time of its answers.

use std::{io, path::Path, pin::Pin, sync::Arc, time::Duration};

use axum::body::{Body, Bytes, to_bytes};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use instant_acme::{BodyWrapper, BytesResponse, Error, HttpClient};
use rustls::{
    ClientConfig, RootCertStore,
    crypto::aws_lc_rs::default_provider,
    pki_types::{CertificateDer, pem::PemObject as _},
};

/// Longest wait for one answer.
const PATIENCE: Duration = Duration::from_secs(30);
/// Largest answer: a chain of certificates has some kilobytes.
const ANSWER_BYTES: usize = 256 * 1024;

/// Connections to an authority.
pub(super) struct Connections(Client<HttpsConnector<HttpConnector>, BodyWrapper<Bytes>>);

impl Connections {
    /// `ca`: file of the authorities who vouch for it; empty: those of the system.
    ///
    /// # Errors
    /// They cannot be read.
    pub(super) fn new(ca: &Path) -> io::Result<Self> {
        let builder = if ca.as_os_str().is_empty() {
            HttpsConnectorBuilder::new().with_native_roots()?
        } else {
            HttpsConnectorBuilder::new().with_tls_config(trusting(ca)?)
        };
        Ok(Self(Client::builder(TokioExecutor::new()).build(builder.https_only().enable_http1().build())))
    }
}

fn trusting(ca: &Path) -> io::Result<ClientConfig> {
    let at = |error: &dyn std::fmt::Display| io::Error::other(format!("acme.directory_ca: {}: {error}", ca.display()));
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(ca).map_err(|error| at(&error))? {
        roots.add(certificate.map_err(|error| at(&error))?).map_err(|error| at(&error))?;
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(default_provider()));
    let builder = builder.with_safe_default_protocol_versions().map_err(|error| at(&error))?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

impl HttpClient for Connections {
    fn request(
        &self,
        request: axum::http::Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, Error>> + Send>> {
        let asked = self.0.request(request);
        Box::pin(async move {
            let answered = async {
                let (parts, body) = asked.await.map_err(|error| Error::Other(error.into()))?.into_parts();
                let body = to_bytes(Body::new(body), ANSWER_BYTES).await.map_err(|error| Error::Other(error.into()))?;
                Ok(BytesResponse { parts, body: Box::new(body) })
            };
            tokio::time::timeout(PATIENCE, answered).await.map_err(|_| Error::Timeout(None))?
        })
    }
}
