//! What a JSON Web Token is worth (RFC 7519, RFC 8725).

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{SystemTime, UNIX_EPOCH},
};

use jsonwebtoken::{Algorithm, Validation, decode, decode_header, errors::ErrorKind};
use penstock_engine::clock::boottime_ns;
use serde_json::{Map, Value};

use super::{
    Asker, Current, Denied,
    asker::MOST_BYTES,
    keys::{Keys, Known},
};
use crate::config::{Action, Jwt, Pattern};

/// Permissions of one token that are looked at.
const MOST_PERMISSIONS: usize = 256;
/// Keys that are tried where a token names none.
const MOST_TRIED: usize = 8;
/// Used tokens that are remembered until they expire.
const MOST_USED: usize = 65_536;

/// A token that allows what was asked for.
pub(super) struct Judged {
    /// `sub`, as the signer knows whoever has it.
    pub(super) subject: String,
    /// `exp`, in ns of CLOCK_BOOTTIME.
    pub(super) ends_ns: u64,
    /// `jti`.
    id: Option<String>,
}

/// Looks at signature, times, audience, issuer and permissions, in this order.
///
/// # Errors
/// [`Denied`], in words that do not depend on what is in a token whose signature is wrong.
pub(super) async fn judge(token: &str, current: &Current, keys: &Keys, asker: &Asker) -> Result<Judged, Denied> {
    if token.len() > MOST_BYTES {
        return Err(Denied::Wrong("the token is too long"));
    }
    let header = decode_header(token).map_err(|_| Denied::Wrong("this is no token that is known here"))?;
    let jwt = &current.jwt;
    let candidates: Vec<Arc<Known>> = match header.alg {
        Algorithm::HS256 => Known::of_secret(jwt).map(Arc::new).into_iter().collect(),
        Algorithm::RS256 | Algorithm::ES256 | Algorithm::EdDSA => {
            let mut all = match jwt.jwks.is_empty() {
                true => vec![],
                false => keys.find(jwt, header.alg, header.kid.as_deref()).await?,
            };
            all.truncate(MOST_TRIED);
            let of_file = current.public_key.as_ref().filter(|key| key.algorithm == header.alg);
            let claims = of_file.and_then(|key| claims(token, key, jwt).ok());
            if let Some(claims) = claims {
                return allowed(&claims, jwt, asker);
            }
            all
        }
        _ => return Err(Denied::Wrong("the token's algorithm is none of HS256, RS256, ES256 and EdDSA")),
    };
    let mut denied = Denied::Wrong("no key that counts here has signed the token");
    for key in &candidates {
        match claims(token, key, jwt) {
            Ok(claims) => return allowed(&claims, jwt, asker),
            Err(Some(why)) => denied = Denied::Wrong(why),
            Err(None) => {}
        }
    }
    if let Some(key) = current.public_key.as_ref().filter(|key| key.algorithm == header.alg)
        && let Err(Some(why)) = claims(token, key, jwt)
    {
        denied = Denied::Wrong(why);
    }
    Err(denied)
}

/// The claims of a token that this key has signed. `Err(None)`: another one has, or nobody.
fn claims(token: &str, key: &Known, jwt: &Jwt) -> Result<Map<String, Value>, Option<&'static str>> {
    // The one algorithm that the key is for.
    let mut validation = Validation::new(key.algorithm);
    validation.leeway = jwt.leeway_s;
    validation.validate_nbf = true;
    validation.validate_aud = !jwt.audience.is_empty();
    if validation.validate_aud {
        validation.set_audience(&[&jwt.audience]);
        validation.required_spec_claims.insert("aud".into());
    }
    if !jwt.issuer.is_empty() {
        validation.set_issuer(&[&jwt.issuer]);
        validation.required_spec_claims.insert("iss".into());
    }
    decode(token, &key.key, &validation).map(|token| token.claims).map_err(|error| match error.kind() {
        ErrorKind::ExpiredSignature => Some("the token has expired"),
        ErrorKind::ImmatureSignature => Some("the token is not valid yet"),
        ErrorKind::InvalidAudience => Some("the token is for somebody else (aud)"),
        ErrorKind::InvalidIssuer => Some("the token is from somebody else (iss)"),
        ErrorKind::MissingRequiredClaim(_) => Some("the token lacks a claim that is needed here: exp, aud or iss"),
        ErrorKind::InvalidClaimFormat(_) => Some("the token has a claim of a wrong type"),
        _ => None,
    })
}

/// Does it allow this, and until when?
fn allowed(claims: &Map<String, Value>, jwt: &Jwt, asker: &Asker) -> Result<Judged, Denied> {
    let text = |name: &str| claims.get(name).and_then(Value::as_str).map(str::to_owned);
    let expires = claims.get("exp").and_then(Value::as_f64).ok_or(Denied::Wrong("the token has no usable exp"))?;
    let ends_ns = until(expires + jwt.leeway_s as f64).ok_or(Denied::Wrong("the token has expired"))?;
    let permissions = claims.get(&jwt.claim).cloned().unwrap_or_default();
    // Some signers can write texts only.
    let permissions = match &permissions {
        Value::String(text) => serde_json::from_str(text).unwrap_or_default(),
        _ => permissions,
    };
    let all = permissions.as_array().map(Vec::as_slice).unwrap_or_default();
    if !all.iter().take(MOST_PERMISSIONS).any(|permission| permits(permission, asker)) {
        return Err(Denied::NotAllowed(format!("the token's claim {:?} does not allow this", jwt.claim)));
    }
    Ok(Judged { subject: text("sub").unwrap_or_default(), ends_ns, id: text("jti") })
}

/// `{"action": "publish", "path": "cam1"}`. What cannot be read permits nothing.
fn permits(permission: &Value, asker: &Asker) -> bool {
    let text = |name: &str| permission.get(name).map(Value::as_str);
    if text("action").flatten().and_then(Action::parse) != Some(asker.action) {
        return false;
    }
    let path = match text("path").or_else(|| text("stream")) {
        None => "",
        Some(Some(path)) => path,
        Some(None) => return false,
    };
    !asker.action.is_of_a_stream() || Pattern::new(path).is_ok_and(|pattern| pattern.matches(&asker.stream))
}

/// A moment of the wall clock, in ns of CLOCK_BOOTTIME, as the two stand now. `None`: it has passed.
#[expect(clippy::disallowed_methods, reason = "`exp` is a moment of the wall clock; it is read once a token")]
pub(super) fn until(unix_s: f64) -> Option<u64> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    let left = unix_s - now;
    // A century is as good as for ever, and no sum overflows.
    (left > 0.0).then(|| boottime_ns() + (left.min(3.2e9) * 1e9) as u64)
}

/// Tokens that were good once.
#[derive(Default)]
pub(super) struct Used(Mutex<HashMap<String, u64>>);

impl Used {
    /// `opens`: the token is used up, where it is good once.
    ///
    /// # Errors
    /// It was used before, or says not which one it is.
    pub(super) fn take(&self, judged: &Judged, single_use: bool, opens: bool) -> Result<(), Denied> {
        if !single_use || !opens {
            return Ok(());
        }
        let id = judged.id.clone().filter(|id| !id.is_empty() && id.len() <= 256);
        let id = id.ok_or(Denied::Wrong("the token has no jti, which one that is good once needs"))?;
        let mut used = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if used.contains_key(&id) {
            return Err(Denied::Wrong("the token was used before"));
        }
        if used.len() >= MOST_USED {
            let now = boottime_ns();
            used.retain(|_, ends| *ends > now);
        }
        if used.len() >= MOST_USED {
            return Err(Denied::Unknown("too many tokens were used: try again later"));
        }
        used.insert(id, judged.ends_ns);
        Ok(())
    }
}
