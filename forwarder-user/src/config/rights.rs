//! Who may do what: `[auth]`, `[jwt]`, `[auth_http]`.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{Network, Pattern, Secret};

/// Most memory that checking one password may take, in KiB: what OWASP recommends, and a little more.
const HASH_KB: u32 = 64 * 1024;
/// Most rounds of it.
const HASH_ROUNDS: u32 = 16;

/// What somebody may be allowed to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Send a stream here: WHIP, RTSP.
    Publish,
    /// Watch one: WHEP.
    #[serde(alias = "read")]
    Play,
    /// `/api/`, but the list of streams for the index page.
    Api,
    /// `/metrics`.
    Metrics,
    /// `/debug/`.
    #[serde(alias = "pprof")]
    Debug,
}

impl Action {
    /// As `MediaMTX` names it, in tokens and in what it asks others. `None`: it has none of this name.
    pub fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "publish" => Self::Publish,
            "play" | "read" => Self::Play,
            "api" => Self::Api,
            "metrics" => Self::Metrics,
            "debug" | "pprof" => Self::Debug,
            _ => return None,
        })
    }

    /// The same in the other direction.
    pub fn mediamtx_name(self) -> &'static str {
        match self {
            Self::Publish => "publish",
            Self::Play => "read",
            Self::Api => "api",
            Self::Metrics => "metrics",
            Self::Debug => "pprof",
        }
    }

    /// Whether it is about a stream.
    pub fn is_of_a_stream(self) -> bool {
        matches!(self, Self::Publish | Self::Play)
    }
}

/// Tokens and users. As long as nobody is named for an action, here, in `[jwt]` or in `[auth_http]`, an empty token lets
/// everybody do it (the server itself: this host); else who is not named is refused.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Auth {
    /// For WHIP, and the password of those who publish by RTSP.
    pub publish_token: Secret,
    /// For WHEP.
    pub play_token: Secret,
    /// For `/api/v1/state`, `/metrics` and profiles.
    pub api_token: Secret,
    /// Whether a token may come as `?token=` or `?jwt=`, for players that cannot send a header.
    pub token_in_query: bool,
    /// Who may do what by a password, or from where.
    pub users: Vec<User>,
}

/// Somebody, and what he may do.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct User {
    /// `any`: everybody, without a password.
    pub name: String,
    /// As it is, or its Argon2id hash (`$argon2id$v=19$…`).
    #[serde(default)]
    pub password: Secret,
    /// Where he must come from; empty: anywhere.
    #[serde(default)]
    pub addresses: Vec<Network>,
    /// What he may do.
    pub permissions: Vec<Permission>,
}

/// One thing that somebody may do.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Permission {
    /// What.
    pub action: Action,
    /// With which streams; without it, with all.
    #[serde(default, alias = "path")]
    pub stream: Pattern,
}

impl Permission {
    /// Does it allow this?
    pub fn allows(&self, action: Action, stream: &str) -> bool {
        self.action == action && (!action.is_of_a_stream() || self.stream.matches(stream))
    }
}

impl User {
    /// Everybody, whatever he says of himself.
    pub fn is_anybody(&self) -> bool {
        self.name == "any"
    }

    fn problem(&self) -> Option<String> {
        let name = &self.name;
        if name.is_empty() || name.contains(':') || name.chars().any(char::is_control) {
            return Some(format!("{name:?} is no name: HTTP Basic has no room for an empty one, or one with a colon"));
        }
        if self.is_anybody() {
            return (!self.password.is_empty()).then(|| "\"any\" is everybody, and has no password".into());
        }
        if self.password.is_empty() {
            return Some(format!("{name:?} needs a password; who needs none is called \"any\""));
        }
        if self.permissions.is_empty() {
            return Some(format!("{name:?} may do nothing: give permissions"));
        }
        let hash = self.password.hash()?;
        argon2_problem(hash).map(|problem| format!("{name:?}: {problem}"))
    }
}

/// A hash that would cost more than a server that others can ask may spend on it.
fn argon2_problem(hash: &str) -> Option<String> {
    let parsed = match argon2::password_hash::phc::PasswordHash::new(hash) {
        Ok(parsed) => parsed,
        Err(error) => return Some(format!("the hash of the password cannot be read: {error}")),
    };
    match argon2::Params::try_from(&parsed) {
        Err(error) => Some(format!("the hash of the password has odd parameters: {error}")),
        Ok(cost) if cost.m_cost() > HASH_KB || cost.t_cost() > HASH_ROUNDS => Some(format!(
            "the hash of the password takes {} KiB and {} rounds, more than {HASH_KB} and {HASH_ROUNDS}",
            cost.m_cost(),
            cost.t_cost()
        )),
        Ok(_) => None,
    }
}

impl Default for Auth {
    fn default() -> Self {
        Self {
            publish_token: Secret::default(),
            play_token: Secret::default(),
            api_token: Secret::default(),
            token_in_query: true,
            users: Vec::new(),
        }
    }
}

impl Auth {
    /// The first user that cannot be used.
    pub(super) fn problem(&self) -> Option<(&'static str, String)> {
        self.users.iter().find_map(User::problem).map(|problem| ("auth.users", problem))
    }
}

/// JSON Web Tokens (RFC 7519) that somebody else has signed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Jwt {
    /// URL of the keys (RFC 7517); empty: none.
    pub jwks: String,
    /// Longest time for which they are kept.
    pub jwks_refresh_s: u64,
    /// Key that signer and server share, for HS256.
    pub secret: Secret,
    /// PEM file with a public key: RSA, P-256 or Ed25519.
    pub public_key: PathBuf,
    /// Name of the claim with the permissions.
    pub claim: String,
    /// Whom tokens must be for (`aud`); empty: whoever.
    pub audience: String,
    /// Whom tokens must be from (`iss`); empty: whoever.
    pub issuer: String,
    /// How wrong the signer's clock may be.
    pub leeway_s: u64,
    /// Whether each token opens one session only (`jti`).
    pub single_use: bool,
}

impl Default for Jwt {
    fn default() -> Self {
        Self {
            jwks: String::new(),
            jwks_refresh_s: 3600,
            secret: Secret::default(),
            public_key: PathBuf::new(),
            claim: "mediamtx_permissions".into(),
            audience: String::new(),
            issuer: String::new(),
            leeway_s: 0,
            single_use: false,
        }
    }
}

impl Jwt {
    /// Whether tokens are looked at.
    pub fn is_on(&self) -> bool {
        !self.jwks.is_empty() || !self.secret.is_empty() || !self.public_key.as_os_str().is_empty()
    }

    pub(super) fn problem(&self) -> Option<(&'static str, String)> {
        if !self.jwks.is_empty()
            && let Some(problem) = url_problem(&self.jwks)
        {
            return Some(("jwt.jwks", problem));
        }
        if !self.secret.is_empty() && self.secret.expose().len() < 32 {
            return Some(("jwt.secret", "has less than the 32 bytes that HS256 needs (RFC 7518 §3.2)".into()));
        }
        self.claim.is_empty().then(|| ("jwt.claim", "must be the name of a claim".into()))
    }
}

/// Somebody who is asked by HTTP.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AuthHttp {
    /// Where; empty: nobody is asked.
    pub url: String,
    /// What he decides about.
    pub actions: Vec<Action>,
    /// Longest wait for his answer.
    pub timeout_ms: u64,
    /// How long an answer is kept.
    pub cache_ms: u64,
    /// How often he is asked again about those who are there; 0: never.
    pub recheck_ms: u64,
}

impl Default for AuthHttp {
    fn default() -> Self {
        Self {
            url: String::new(),
            actions: vec![Action::Publish, Action::Play],
            timeout_ms: 3000,
            cache_ms: 5000,
            recheck_ms: 0,
        }
    }
}

impl AuthHttp {
    /// Whether he decides about this.
    pub fn decides(&self, action: Action) -> bool {
        !self.url.is_empty() && self.actions.contains(&action)
    }

    pub(super) fn problem(&self) -> Option<(&'static str, String)> {
        if !self.url.is_empty()
            && let Some(problem) = url_problem(&self.url)
        {
            return Some(("auth_http.url", problem));
        }
        let often = self.recheck_ms != 0 && self.recheck_ms < 100;
        often.then(|| ("auth_http.recheck_ms", format!("{} is neither 0 nor at least 100", self.recheck_ms)))
    }
}

/// Why a URL cannot be asked.
pub(super) fn url_problem(text: &str) -> Option<String> {
    match url::Url::parse(text) {
        Ok(url) if matches!(url.scheme(), "http" | "https") && url.has_host() => {
            let secret = !url.username().is_empty() || url.password().is_some();
            secret.then(|| "must have no user and no password: they would be shown".into())
        }
        Ok(_) => Some("is neither http:// nor https://".into()),
        Err(error) => Some(format!("is no URL: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Config;

    #[test]
    fn users_are_checked() {
        let problem = |text: &str| {
            let config = Config::parse(&format!("[[auth.users]]\n{text}"), "t");
            config.map(drop).map_err(|error| error.to_string())
        };
        let play = "permissions = [{ action = \"play\", stream = \"cams/*\" }]";
        problem(&format!("name = \"any\"\naddresses = [\"10.0.0.0/8\"]\n{play}")).unwrap();
        problem(&format!("name = \"a\"\npassword = \"b\"\n{play}")).unwrap();
        let hash = "$argon2id$v=19$m=4096,t=3,p=1$c29tZXNhbHQxMjM0$WJXxHGBOOhVuBHUdvGCvJnC6RfsLUEqhv7dlKqHFUEw";
        problem(&format!("name = \"a\"\npassword = \"{hash}\"\n{play}")).unwrap();
        for (text, says) in [
            (format!("name = \"\"\npassword = \"b\"\n{play}"), "is no name"),
            (format!("name = \"a:b\"\npassword = \"b\"\n{play}"), "is no name"),
            (format!("name = \"a\"\n{play}"), "needs a password"),
            (format!("name = \"any\"\npassword = \"b\"\n{play}"), "has no password"),
            ("name = \"a\"\npassword = \"b\"\npermissions = []".into(), "may do nothing"),
            ("name = \"a\"\npassword = \"b\"\npermissions = [{ action = \"fly\" }]".into(), "fly"),
            (format!("name = \"a\"\npassword = \"{}\"\n{play}", hash.replace("m=4096", "m=900000")), "900000 KiB"),
            (format!("name = \"a\"\npassword = \"$argon2id$x\"\n{play}"), "cannot be read"),
        ] {
            let error = problem(&text).unwrap_err();
            assert!(error.contains("auth.users") || error.contains("unknown variant"), "{error}");
            assert!(error.contains(says), "{error}");
        }
    }

    #[test]
    fn where_others_are_asked_is_checked() {
        for (text, says) in [
            ("[jwt]\njwks = \"ftp://a/b\"", "jwt.jwks: is neither"),
            ("[jwt]\njwks = \"https://u:p@a/b\"", "must have no user"),
            ("[jwt]\nsecret = \"short\"", "jwt.secret"),
            ("[auth_http]\nurl = \"nowhere\"", "auth_http.url: is no URL"),
            ("[auth_http]\nrecheck_ms = 5", "auth_http.recheck_ms"),
        ] {
            let error = Config::parse(text, "t").unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
        Config::parse("[jwt]\njwks = \"https://id.example/keys\"\n[auth_http]\nurl = \"http://127.0.0.1:9/\"", "t")
            .unwrap();
    }
}
