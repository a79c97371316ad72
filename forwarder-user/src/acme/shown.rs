//! What the server shows at its ports: the certificate, and answers to challenges while there are any.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, RwLock},
};

use rustls::{
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};

use crate::tls::ACME_PROTOCOL;

/// Shared by the listeners and whoever gets certificates.
#[derive(Debug, Default)]
pub(crate) struct Shown {
    certificate: RwLock<Option<Arc<CertifiedKey>>>,
    /// Of names, for TLS-ALPN-01. As many as the configuration has names, at most.
    by_tls: Mutex<HashMap<String, Arc<CertifiedKey>>>,
    /// Of tokens, for HTTP-01. As many.
    by_http: Mutex<HashMap<String, String>>,
}

impl Shown {
    /// From the next connection on.
    pub(super) fn set_certificate(&self, certificate: CertifiedKey) {
        *self.certificate.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(certificate));
    }

    pub(super) fn answer_by_tls(&self, name: &str, answer: CertifiedKey) {
        self.by_tls.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned(), Arc::new(answer));
    }

    pub(super) fn answer_by_http(&self, token: &str, answer: &str) {
        self.by_http.lock().unwrap_or_else(PoisonError::into_inner).insert(token.to_owned(), answer.to_owned());
    }

    /// There are no challenges any more.
    pub(super) fn forget_answers(&self) {
        self.by_tls.lock().unwrap_or_else(PoisonError::into_inner).clear();
        self.by_http.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// What is at `/.well-known/acme-challenge/{token}` (RFC 8555 §8.3).
    pub(crate) fn of_token(&self, token: &str) -> Option<String> {
        self.by_http.lock().unwrap_or_else(PoisonError::into_inner).get(token).cloned()
    }
}

impl ResolvesServerCert for Shown {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        // Who validates offers this protocol and no other (RFC 8737 §3).
        let mut offered = hello.alpn().into_iter().flatten();
        if offered.next() == Some(ACME_PROTOCOL) && offered.next().is_none() {
            let name = hello.server_name()?.to_ascii_lowercase();
            return self.by_tls.lock().unwrap_or_else(PoisonError::into_inner).get(&name).cloned();
        }
        self.certificate.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
