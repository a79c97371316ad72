//! Whose signatures count: the shared secret, a public key in a file, a set of keys that somebody publishes (RFC 7517).
//! A key is good for one algorithm, which is its own and never the token's word: a token that says HS256 is never
//! checked with a public key, and one that says "none" with nothing.

use std::{
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use axum::http::Method;
use jsonwebtoken::{
    Algorithm, DecodingKey,
    jwk::{AlgorithmParameters, EllipticCurve, Jwk, JwkSet, KeyAlgorithm, PublicKeyUse},
};
use tokio::time::timeout;

use super::Denied;
use crate::{config::Jwt, outbound};

/// Longest wait for a set of keys.
const PATIENCE: Duration = Duration::from_secs(5);
/// Largest set.
const SET_BYTES: usize = 256 * 1024;
/// Keys of a set that are kept.
const MOST_KEYS: usize = 64;
/// A token names an unknown key, or none could be read: how soon the set is read again, at most.
const PAUSE: Duration = Duration::from_secs(2);

/// A key and what it is good for.
pub(super) struct Known {
    pub(super) algorithm: Algorithm,
    id: Option<String>,
    pub(super) key: DecodingKey,
}

impl Known {
    /// A public key in PEM.
    pub(super) fn of_file(file: &Path) -> Result<Self, String> {
        let pem = std::fs::read(file).map_err(|error| error.to_string())?;
        let known = |(algorithm, key)| Self { algorithm, id: None, key };
        let keys = [
            (Algorithm::RS256, DecodingKey::from_rsa_pem(&pem)),
            (Algorithm::ES256, DecodingKey::from_ec_pem(&pem)),
            (Algorithm::EdDSA, DecodingKey::from_ed_pem(&pem)),
        ];
        let mut keys = keys.into_iter().filter_map(|(algorithm, key)| Some((algorithm, key.ok()?)));
        keys.next().map(known).ok_or_else(|| "is no public key of RSA, P-256 or Ed25519 in PEM".into())
    }

    /// The secret that is shared.
    pub(super) fn of_secret(settings: &Jwt) -> Option<Self> {
        let key = DecodingKey::from_secret(settings.secret.expose().as_bytes()).ok()?;
        (!settings.secret.is_empty()).then_some(Self { algorithm: Algorithm::HS256, id: None, key })
    }

    /// A public key for signatures; others of a set are not for us. A secret that is published is none.
    fn of_set(key: &Jwk) -> Option<Self> {
        let algorithm = match &key.algorithm {
            AlgorithmParameters::RSA(_) => Algorithm::RS256,
            AlgorithmParameters::EllipticCurve(curve) if curve.curve == EllipticCurve::P256 => Algorithm::ES256,
            AlgorithmParameters::OctetKeyPair(pair) if pair.curve == EllipticCurve::Ed25519 => Algorithm::EdDSA,
            _ => return None,
        };
        let named = match key.common.key_algorithm {
            None => true,
            Some(KeyAlgorithm::RS256) => algorithm == Algorithm::RS256,
            Some(KeyAlgorithm::ES256) => algorithm == Algorithm::ES256,
            Some(KeyAlgorithm::EdDSA) => algorithm == Algorithm::EdDSA,
            Some(_) => false,
        };
        let signs = key.common.public_key_use.as_ref().is_none_or(|used| *used == PublicKeyUse::Signature);
        let decoding = DecodingKey::from_jwk(key).ok().filter(|_| named && signs)?;
        Some(Self { algorithm, id: key.common.key_id.clone(), key: decoding })
    }

    /// May it have signed a token that names this key?
    fn fits(&self, algorithm: Algorithm, id: Option<&str>) -> bool {
        self.algorithm == algorithm && (id.is_none() || self.id.is_none() || self.id.as_deref() == id)
    }
}

/// The set, as it was read last. Who finds his key in it never waits for one who does not: a token that names an unknown
/// key has it read again, and whoever publishes it may take his time.
#[derive(Default)]
pub(super) struct Keys {
    kept: Mutex<Option<Set>>,
    /// Held by the one who reads it.
    reading: tokio::sync::Mutex<()>,
}

struct Set {
    url: String,
    keys: Vec<Arc<Known>>,
    /// When it was read.
    read: Option<Instant>,
    /// When that was tried last.
    tried: Instant,
}

/// Keys of the set that may have signed a token.
type Found = Result<Vec<Arc<Known>>, Denied>;

impl Keys {
    /// See [`Found`].
    ///
    /// # Errors
    /// [`Denied::Unknown`]: there is none, and nobody answers who would know.
    pub(super) async fn find(&self, settings: &Jwt, algorithm: Algorithm, id: Option<&str>) -> Found {
        let fits = |set: &Set| set.keys.iter().filter(|key| key.fits(algorithm, id)).cloned().collect::<Vec<_>>();
        let (former, enough) = self.look(settings, &fits);
        if enough {
            return former;
        }
        let has_some = former.as_ref().is_ok_and(|keys| !keys.is_empty());
        let turn = match self.reading.try_lock() {
            Ok(turn) => turn,
            // What he has is old, and somebody sees to it.
            Err(_) if has_some => return former,
            Err(_) => self.reading.lock().await,
        };
        // Somebody may have read it meanwhile.
        let (former, enough) = self.look(settings, &fits);
        if enough {
            return former;
        }
        let read = read(&settings.jwks).await;
        let now = Instant::now();
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let set = match read {
            Ok(keys) => {
                tracing::info!(keys = keys.len(), "jwt.jwks was read");
                Set { url: settings.jwks.clone(), keys, read: Some(now), tried: now }
            }
            Err(why) => {
                tracing::warn!("jwt.jwks cannot be read, the former keys stay: {why}");
                let former = kept.take().filter(|set| set.url == settings.jwks);
                let (keys, read) = former.map(|set| (set.keys, set.read)).unwrap_or_default();
                Set { url: settings.jwks.clone(), keys, read, tried: now }
            }
        };
        let found = found(&set, &fits);
        *kept = Some(set);
        drop((kept, turn));
        found
    }

    /// What is known now, and whether that is enough.
    fn look(&self, settings: &Jwt, fits: &impl Fn(&Set) -> Vec<Arc<Known>>) -> (Found, bool) {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(set) = kept.as_ref().filter(|set| set.url == settings.jwks) else { return (Ok(vec![]), false) };
        let (now, found) = (Instant::now(), found(set, fits));
        let lasts = Duration::from_secs(settings.jwks_refresh_s);
        let fresh = set.read.is_some_and(|read| now.duration_since(read) < lasts);
        let is_there = found.as_ref().is_ok_and(|keys| !keys.is_empty());
        (found, (is_there && fresh) || now.duration_since(set.tried) < PAUSE)
    }
}

fn found(set: &Set, fits: &impl Fn(&Set) -> Vec<Arc<Known>>) -> Found {
    match set.read {
        None => Err(Denied::Unknown("the keys of the signer cannot be read")),
        Some(_) => Ok(fits(set)),
    }
}

async fn read(url: &str) -> Result<Vec<Arc<Known>>, String> {
    let asked = outbound::ask(Method::GET, url, vec![], vec![], SET_BYTES);
    let answered = timeout(PATIENCE, asked).await.map_err(|_| "no answer in time".to_owned())??;
    if !answered.status.is_success() {
        return Err(format!("{url} answers {}", answered.status));
    }
    // One key that cannot be read does not hide the others.
    let set: serde_json::Value = serde_json::from_slice(&answered.body).map_err(|error| error.to_string())?;
    let all = set.get("keys").and_then(serde_json::Value::as_array).ok_or("it is no JWK set (RFC 7517)")?;
    let keys = all.iter().take(MOST_KEYS).filter_map(|key| serde_json::from_value::<Jwk>(key.clone()).ok());
    let set = JwkSet { keys: keys.collect() };
    Ok(set.keys.iter().filter_map(Known::of_set).map(Arc::new).collect())
}
