//! Who asks, for what, and what he shows.

use std::{fmt, net::IpAddr, sync::Arc};

use base64::{Engine as _, engine::general_purpose::STANDARD};

use crate::config::{Action, Secret};

/// Longest token, or name and password, that is looked at.
pub(super) const MOST_BYTES: usize = 8 * 1024;

/// Somebody who wants something.
#[derive(Clone, Debug)]
pub struct Asker {
    /// What.
    pub action: Action,
    /// With which stream; empty where there is none.
    pub stream: String,
    /// Where he is, as far as trusted proxies tell.
    pub address: IpAddr,
    /// `webrtc`, `rtsp` or `http`, as `MediaMTX` names them.
    pub protocol: &'static str,
    /// Of his URL, for whoever is asked. It may hold a secret.
    pub query: Secret,
    /// What he shows.
    pub credentials: Credentials,
}

/// Checks what a client made of a password, which it keeps to itself (RTSP Digest).
pub type DigestCheck = Arc<dyn Fn(&Secret) -> bool + Send + Sync>;

/// What somebody shows.
#[derive(Clone)]
pub enum Credentials {
    /// Nothing.
    None,
    /// A bearer token, or one in the URL.
    Token(Secret),
    /// Name and password.
    Password(String, Secret),
    /// Name, and what was made of the password.
    Digest(String, DigestCheck),
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::Token(_) => "a token",
            Self::Password(..) => "a password",
            Self::Digest(..) => "a digest",
        })
    }
}

impl Credentials {
    /// Of a header `Authorization`. `None`: of a scheme that is not known here.
    pub fn of_header(value: &str) -> Option<Self> {
        let (scheme, rest) = value.trim().split_once(' ')?;
        let rest = rest.trim();
        if rest.len() > MOST_BYTES {
            return None;
        }
        match scheme.to_ascii_lowercase().as_str() {
            // As MediaMTX takes them: from clients that have a field for a token, and users with passwords.
            "bearer" => Some(match rest.split_once(':') {
                Some((user, password)) => Self::Password(user.to_owned(), Secret::new(password)),
                None => Self::Token(Secret::new(rest)),
            }),
            "basic" => {
                let given = STANDARD.decode(rest).ok().and_then(|bytes| String::from_utf8(bytes).ok())?;
                let (user, password) = given.split_once(':')?;
                Some(Self::Password(user.to_owned(), Secret::new(password)))
            }
            _ => None,
        }
    }

    /// Of the query of a URL.
    pub fn of_query(query: &str) -> Option<Self> {
        let mut pairs = url::form_urlencoded::parse(query.as_bytes());
        let (_, token) = pairs.find(|(name, _)| name == "jwt" || name == "token")?;
        (!token.is_empty() && token.len() <= MOST_BYTES).then(|| Self::Token(Secret::new(token)))
    }

    /// Is it this token? By RTSP it is the password, whatever the name.
    pub fn is_token(&self, token: &Secret) -> bool {
        match self {
            Self::None => false,
            Self::Token(given) | Self::Password(_, given) => token.matches(given.expose()),
            Self::Digest(_, check) => check(token),
        }
    }

    /// What may be a JSON Web Token: three parts.
    pub(super) fn jwt(&self) -> Option<&str> {
        let text = match self {
            Self::Token(token) | Self::Password(_, token) => token.expose(),
            _ => return None,
        };
        (text.bytes().filter(|byte| *byte == b'.').count() == 2).then_some(text)
    }

    /// The name that he gives himself.
    pub(super) fn user(&self) -> &str {
        match self {
            Self::Password(user, _) | Self::Digest(user, _) => user,
            _ => "",
        }
    }
}
