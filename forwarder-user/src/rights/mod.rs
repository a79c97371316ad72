//! Who may do what: publish, play, look at the API.
//!
//! | file | knows |
//! | --- | --- |
//! | here | tokens of the configuration; whom to ask next |
//! | `asker` | who asks, for what, and what he shows |
//! | `users` | users of the configuration, by password and address |
//! | `hasher` | passwords by their hash, on a thread of its own |
//! | `token` | what a JSON Web Token is worth |
//! | `keys` | whose signatures count |
//! | `callback` | somebody who is asked by HTTP |
//! | `watch` | when a right ends that was given |
//!
//! Nothing is made before it is needed: a server without users, keys and callback pays for none of it.

mod asker;
mod callback;
mod hasher;
mod keys;
#[cfg(test)]
mod tests;
mod token;
mod users;
mod watch;

use std::{
    fmt,
    future::Future,
    sync::{Arc, PoisonError, RwLock},
};

use tokio::{runtime::Handle, sync::watch as channel};

use crate::config::{Action, Auth, AuthHttp, Config, Jwt, Secret, User};

pub use asker::{Asker, Credentials, DigestCheck};
pub use watch::Watch;

/// Rights as the configuration has them. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Rights(Arc<Inner>);

struct Inner {
    current: RwLock<Arc<Current>>,
    /// Where others are asked: a thread that has other things to do may want to know, too.
    runtime: Option<Handle>,
    hasher: hasher::Hasher,
    keys: keys::Keys,
    used: token::Used,
    callback: callback::Callback,
    /// Counts the configurations.
    changed: channel::Sender<u64>,
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Rights")
    }
}

/// The configuration's part.
struct Current {
    auth: Auth,
    jwt: Jwt,
    http: AuthHttp,
    /// PEM file of `jwt`, as it was when the configuration was read.
    public_key: Option<keys::Known>,
}

/// A right that was given.
#[derive(Clone, Debug)]
pub struct Grant {
    /// To whom.
    pub by: By,
    /// When it ends, in ns of CLOCK_BOOTTIME. `None`: as long as nobody takes it away.
    pub ends_ns: Option<u64>,
    /// Who had asked, where it may be taken away.
    asker: Option<Arc<Asker>>,
    /// Held by the session that lives of it, where it may be taken away.
    alive: Option<Arc<channel::Sender<()>>>,
}

/// To whom a right was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum By {
    /// Nobody needs one.
    Everybody,
    /// Whoever has the token of the configuration.
    Token,
    /// A user of the configuration.
    User(String),
    /// The subject of a JSON Web Token.
    Jwt(String),
    /// Whom the callback knows by this name.
    Callback(String),
}

impl fmt::Display for By {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Everybody => f.write_str("everybody"),
            Self::Token => f.write_str("token"),
            Self::User(name) => write!(f, "user {}", shown(name)),
            Self::Jwt(subject) => write!(f, "jwt {}", shown(subject)),
            Self::Callback(user) => write!(f, "callback {}", shown(user)),
        }
    }
}

/// What others have written, as a log may show it.
fn shown(text: &str) -> String {
    let shown: String = text.chars().filter(|c| !c.is_control()).take(64).collect();
    if shown.is_empty() { "-".into() } else { shown }
}

/// Why somebody may not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Denied {
    /// He has shown nothing.
    Nothing,
    /// What he has shown is not right, and why.
    Wrong(&'static str),
    /// It is right, and does not allow this.
    NotAllowed(String),
    /// Nobody can tell at the moment.
    Unknown(&'static str),
}

impl Grant {
    /// To whoever may come.
    pub fn everybody() -> Self {
        Self::new(By::Everybody, None, None)
    }

    /// To whoever has a token that ends then.
    #[cfg(test)]
    pub(crate) fn until(ends_ns: u64) -> Self {
        Self::new(By::Jwt("test".into()), Some(ends_ns), None)
    }

    fn new(by: By, ends_ns: Option<u64>, asker: Option<Asker>) -> Self {
        let alive = asker.is_some().then(|| Arc::new(channel::Sender::new(())));
        Self { by, ends_ns, asker: asker.map(Arc::new), alive }
    }
}

impl Default for Rights {
    /// Everybody may do everything.
    fn default() -> Self {
        Self::new(&Config::default())
    }
}

impl Rights {
    /// Those of a configuration. On the runtime on which others are to be asked.
    pub fn new(config: &Config) -> Self {
        Self(Arc::new(Inner {
            current: RwLock::new(Arc::new(Current::new(config))),
            runtime: Handle::try_current().ok(),
            hasher: hasher::Hasher::default(),
            keys: keys::Keys::default(),
            used: token::Used::default(),
            callback: callback::Callback::default(),
            changed: channel::Sender::new(0),
        }))
    }

    /// Takes over those of another one. Users who are not in it any more lose what they have.
    pub fn set(&self, config: &Config) {
        *self.0.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(Current::new(config));
        self.0.changed.send_modify(|count| *count += 1);
    }

    fn current(&self) -> Arc<Current> {
        Arc::clone(&self.0.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether everybody may.
    pub fn is_open(&self, action: Action) -> bool {
        let current = self.current();
        let anybody = |user: &User| {
            user.is_anybody()
                && user.addresses.is_empty()
                && user.permissions.iter().any(|permission| permission.action == action)
        };
        (!current.names_somebody(action) && current.token(action).is_empty()) || current.auth.users.iter().any(anybody)
    }

    /// Whether `[auth]`, `[jwt]` or `[auth_http]` say anything about who may do this.
    pub fn is_decided(&self, action: Action) -> bool {
        let current = self.current();
        current.names_somebody(action) || !current.token(action).is_empty()
    }

    /// Whether a client of RTSP may keep its password to itself (Digest): only where this server knows all of them.
    pub fn takes_digest(&self) -> bool {
        let current = self.current();
        let hashed = current.auth.users.iter().any(|user| user.password.hash().is_some());
        !hashed && !current.jwt.is_on() && !current.http.decides(Action::Publish)
    }

    /// Whether tokens may come in the URL.
    pub fn reads_query(&self) -> bool {
        self.current().auth.token_in_query
    }

    /// Does somebody hold the right that he asks for? `opens`: he begins something with it, for which a token that is
    /// good once is used up.
    ///
    /// # Errors
    /// [`Denied`].
    pub async fn ask(&self, asker: Asker, opens: bool) -> Result<Grant, Denied> {
        let current = self.current();
        let token = current.token(asker.action);
        let named = current.names_somebody(asker.action);
        if token.is_empty() && !named {
            let open = asker.action.is_of_a_stream();
            return if open { Ok(Grant::everybody()) } else { Err(Denied::NotAllowed("nobody may do this".into())) };
        }
        if !token.is_empty() && asker.credentials.is_token(token) {
            return Ok(Grant::new(By::Token, None, None));
        }
        if !named {
            return Err(match asker.credentials {
                Credentials::None => Denied::Nothing,
                _ => Denied::Wrong("this is not the bearer token for it"),
            });
        }
        let inner = Arc::clone(&self.0);
        self.on_runtime(async move { inner.decide(&current, asker, opens).await }).await
    }

    /// Where its connections to others live on.
    async fn on_runtime<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, Denied>> + Send + 'static,
    ) -> Result<T, Denied> {
        match &self.0.runtime {
            Some(runtime) => runtime.spawn(work).await.unwrap_or(Err(Denied::Unknown("the server is stopping"))),
            None => work.await,
        }
    }
}

impl Inner {
    /// Users first, then a token's signer, then whoever is asked by HTTP.
    async fn decide(&self, current: &Current, asker: Asker, opens: bool) -> Result<Grant, Denied> {
        let mut denied = match users::find(&current.auth.users, &asker, &self.hasher).await {
            Ok(by) => return Ok(Grant::new(by, None, Some(asker))),
            Err(denied) => denied,
        };
        if current.jwt.is_on()
            && let Some(token) = asker.credentials.jwt()
        {
            match token::judge(token, current, &self.keys, &asker).await {
                Ok(judged) => {
                    self.used.take(&judged, current.jwt.single_use, opens)?;
                    return Ok(Grant::new(By::Jwt(judged.subject), Some(judged.ends_ns), None));
                }
                Err(why) => denied = why,
            }
        }
        if current.http.decides(asker.action) {
            return match self.callback.ask(&current.http, &asker).await {
                Ok(allowed) => {
                    let by = By::Callback(asker.credentials.user().to_owned());
                    let again = current.http.recheck_ms > 0;
                    Ok(Grant::new(by, allowed.ends_ns, again.then_some(asker)))
                }
                Err(Denied::Wrong(_)) if matches!(asker.credentials, Credentials::None) => Err(Denied::Nothing),
                Err(why) => Err(why),
            };
        }
        Err(denied)
    }
}

impl Current {
    fn new(config: &Config) -> Self {
        let file = &config.jwt.public_key;
        let public_key = (!file.as_os_str().is_empty()).then(|| keys::Known::of_file(file)).and_then(|read| {
            // Whoever has only this key is refused, and the log says why.
            read.inspect_err(|error| tracing::error!("jwt.public_key: {}: {error}", file.display())).ok()
        });
        Self { auth: config.auth.clone(), jwt: config.jwt.clone(), http: config.auth_http.clone(), public_key }
    }

    /// Whether somebody may do this who has shown who he is.
    fn names_somebody(&self, action: Action) -> bool {
        let may = |user: &User| user.permissions.iter().any(|permission| permission.action == action);
        self.auth.users.iter().any(may) || self.jwt.is_on() || self.http.decides(action)
    }

    fn token(&self, action: Action) -> &Secret {
        match action {
            Action::Publish => &self.auth.publish_token,
            Action::Play => &self.auth.play_token,
            Action::Api | Action::Metrics | Action::Debug => &self.auth.api_token,
        }
    }
}
