//! Somebody who is asked by HTTP, in the words of MediaMTX's `authHTTPAddress`. Who does not answer allows nothing; his
//! answers are kept for a while, and only so many questions are open at a time.

use std::{
    collections::HashMap,
    sync::{Mutex, OnceLock, PoisonError},
    time::{Duration, Instant},
};

use axum::http::{HeaderValue, Method, StatusCode, header};
use penstock_engine::clock::boottime_ns;
use ring::{hmac, rand::SystemRandom};
use serde::Deserialize;
use serde_json::json;
use tokio::{sync::Semaphore, time::timeout};

use super::{Asker, Credentials, Denied};
use crate::{config::AuthHttp, outbound};

/// Questions at a time.
const AT_A_TIME: usize = 64;
/// Answers that are kept.
const MOST_KEPT: usize = 4096;
/// Longest answer that is read.
const ANSWER_BYTES: usize = 16 * 1024;
/// How long a no is kept, at most.
const NO_KEPT: Duration = Duration::from_secs(1);

/// A yes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Allowed {
    /// In ns of CLOCK_BOOTTIME.
    pub(super) ends_ns: Option<u64>,
}

/// What a yes may say.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Body {
    /// Seconds.
    expires_in: Option<u64>,
}

/// Least time between two lines of the log about one who does not answer.
const TELL_EVERY: Duration = Duration::from_secs(10);

type Answer = Result<Allowed, Denied>;

/// See the module.
pub(super) struct Callback {
    open: Semaphore,
    kept: Mutex<HashMap<[u8; 32], (Instant, Answer)>>,
    key: OnceLock<Option<hmac::Key>>,
    /// When the log was last told that he does not do his work, and how often since it was not.
    told: Mutex<(Option<Instant>, u64)>,
}

impl Default for Callback {
    fn default() -> Self {
        Self { open: Semaphore::new(AT_A_TIME), kept: Mutex::default(), key: OnceLock::new(), told: Mutex::default() }
    }
}

impl Callback {
    /// His answer, or a former one to the same question.
    ///
    /// # Errors
    /// [`Denied::Wrong`]: no. [`Denied::Unknown`]: none.
    pub(super) async fn ask(&self, settings: &AuthHttp, asker: &Asker) -> Answer {
        let question = question(asker);
        let mac = self.mac(&settings.url, &question);
        let now = Instant::now();
        if let Some(answer) = mac.and_then(|mac| self.kept(&mac, now)) {
            return answer;
        }
        let answer = self.ask_anew(settings, question).await;
        let keep = match &answer {
            Ok(_) => Duration::from_millis(settings.cache_ms),
            Err(Denied::Wrong(_)) => Duration::from_millis(settings.cache_ms).min(NO_KEPT),
            Err(_) => Duration::ZERO,
        };
        if let Some(mac) = mac.filter(|_| !keep.is_zero()) {
            self.keep(mac, Instant::now() + keep, &answer);
        }
        answer
    }

    /// Asks about somebody who is there.
    pub(super) async fn ask_again(&self, settings: &AuthHttp, asker: &Asker) -> Answer {
        self.ask_anew(settings, question(asker)).await
    }

    async fn ask_anew(&self, settings: &AuthHttp, question: Vec<u8>) -> Answer {
        let busy = Denied::Unknown("too many ask who may come in: try again soon");
        let _open = self.open.try_acquire().map_err(|_| busy)?;
        let json = vec![(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))];
        let asked = outbound::ask(Method::POST, &settings.url, json, question, ANSWER_BYTES);
        let answered = match timeout(Duration::from_millis(settings.timeout_ms), asked).await {
            Ok(Ok(answered)) => answered,
            Ok(Err(why)) => {
                self.complain(&why);
                return Err(Denied::Unknown("whoever decides who may come in cannot be reached"));
            }
            Err(_) => {
                self.complain(&format!("no answer within {} ms", settings.timeout_ms));
                return Err(Denied::Unknown("whoever decides who may come in does not answer"));
            }
        };
        match answered.status {
            status if status.is_success() => {
                let body: Body = serde_json::from_slice(&answered.body).unwrap_or_default();
                let ends =
                    body.expires_in.map(|seconds| boottime_ns().saturating_add(seconds.saturating_mul(1_000_000_000)));
                Ok(Allowed { ends_ns: ends })
            }
            // It cannot tell at the moment.
            StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT => {
                Err(Denied::Unknown("whoever decides who may come in is busy"))
            }
            status if status.is_client_error() => Err(Denied::Wrong("whoever decides who may come in says no")),
            status => {
                self.complain(&format!("it answers {status}"));
                Err(Denied::Unknown("whoever decides who may come in has an error"))
            }
        }
    }

    /// A line of the log; strangers decide how often there is one to write.
    fn complain(&self, why: &str) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if told.0.is_some_and(|at| now.duration_since(at) < TELL_EVERY) {
            told.1 += 1;
            return;
        }
        let (_, kept_back) = std::mem::replace(&mut *told, (Some(now), 0));
        tracing::warn!(kept_back, "auth_http.url: nobody is let in by it: {why}");
    }

    fn mac(&self, url: &str, question: &[u8]) -> Option<[u8; 32]> {
        let key = self.key.get_or_init(|| hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new()).ok());
        let mut context = hmac::Context::with_key(key.as_ref()?);
        [url.as_bytes(), &[0], question].into_iter().for_each(|part| context.update(part));
        context.sign().as_ref().try_into().ok()
    }

    fn kept(&self, mac: &[u8; 32], now: Instant) -> Option<Answer> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let (_, answer) = kept.get(mac).filter(|(until, _)| now < *until)?;
        // A yes that has ended meanwhile is none.
        let ended = answer.as_ref().is_ok_and(|yes| yes.ends_ns.is_some_and(|ends| ends <= boottime_ns()));
        (!ended).then(|| answer.clone())
    }

    fn keep(&self, mac: [u8; 32], until: Instant, answer: &Answer) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() >= MOST_KEPT {
            let now = Instant::now();
            kept.retain(|_, (until, _)| now < *until);
        }
        if kept.len() < MOST_KEPT {
            kept.insert(mac, (until, answer.clone()));
        }
    }
}

/// The body that MediaMTX sends. `id` is of a session that is not there yet.
fn question(asker: &Asker) -> Vec<u8> {
    let (user, password, token) = match &asker.credentials {
        Credentials::None | Credentials::Digest(..) => ("", "", ""),
        Credentials::Token(token) => ("", "", token.expose()),
        Credentials::Password(user, password) => (user.as_str(), password.expose(), ""),
    };
    let body = json!({
        "user": user,
        "password": password,
        "token": token,
        "ip": asker.address.to_string(),
        "action": asker.action.mediamtx_name(),
        "path": asker.stream,
        "protocol": asker.protocol,
        "id": null,
        "query": asker.query.expose(),
    });
    body.to_string().into_bytes()
}
