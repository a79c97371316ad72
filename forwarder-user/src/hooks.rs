//! Tells others what happens: webhooks, signed as Standard Webhooks has it, and commands.
//!
//! Neither ever holds anybody up: news wait in a queue of a fixed length, one after the other, while a receiver does not
//! answer, and are dropped and counted beyond it.

use std::{
    process::Stdio,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::http::{HeaderName, HeaderValue, Method, StatusCode, header};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use ring::{
    hmac,
    rand::{SecureRandom as _, SystemRandom},
};
use tokio::{
    process::Command,
    sync::{Semaphore, broadcast, broadcast::error::RecvError, mpsc},
    time::{sleep, timeout},
};

use crate::{
    config::{Hooks, Secret},
    outbound,
    stream::{Notice, What},
};

/// First wait before the same is tried again; it doubles up to the longest.
const FIRST_WAIT: Duration = Duration::from_millis(500);
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// Longest answer that is read; nothing in it matters.
const ANSWER_BYTES: usize = 64 * 1024;
/// Commands at a time; what comes meanwhile is not run.
const COMMANDS: usize = 8;
/// Longest life of a command.
const COMMAND_LIFE: Duration = Duration::from_secs(60);
/// How often it is said that news were dropped.
const TELL_EVERY: Duration = Duration::from_secs(10);

/// Listens until the control task ends. On the current runtime.
pub(crate) fn start(hooks: &Hooks, notices: broadcast::Receiver<Notice>) {
    if !hooks.is_on() {
        return;
    }
    let hooks = Arc::new(hooks.clone());
    let (sender, waiting) = mpsc::channel(hooks.queue.max(1));
    if !hooks.url.is_empty() {
        tokio::spawn(deliver_all(Arc::clone(&hooks), waiting));
    }
    tokio::spawn(listen(hooks, notices, sender));
}

async fn listen(hooks: Arc<Hooks>, mut notices: broadcast::Receiver<Notice>, waiting: mpsc::Sender<Notice>) {
    let commands = Arc::new(Semaphore::new(COMMANDS));
    let (mut dropped, mut told) = (0u64, None::<Instant>);
    loop {
        let notice = match notices.recv().await {
            Ok(notice) => notice,
            Err(RecvError::Lagged(missed)) => {
                dropped += missed;
                continue;
            }
            Err(RecvError::Closed) => return,
        };
        run(&hooks, &notice, &commands);
        let wanted = !hooks.url.is_empty() && hooks.events.iter().any(|event| event == notice.what.name());
        if wanted && waiting.try_send(notice).is_err() {
            dropped += 1;
        }
        if dropped > 0 && told.is_none_or(|told| told.elapsed() >= TELL_EVERY) {
            tracing::warn!("{dropped} webhooks were dropped: `hooks.queue` is full, the receiver is too slow or away");
            (dropped, told) = (0, Some(Instant::now()));
        }
    }
}

async fn deliver_all(hooks: Arc<Hooks>, mut waiting: mpsc::Receiver<Notice>) {
    while let Some(notice) = waiting.recv().await {
        let Ok(body) = serde_json::to_vec(&notice) else { continue };
        if let Err(why) = deliver(&hooks, &body).await {
            tracing::warn!(event = notice.what.name(), stream = notice.stream, "a webhook was given up: {why}");
        }
    }
}

/// Tries until it is taken, refused for good, or too old. The receiver knows by `webhook-id` what it has had already.
async fn deliver(hooks: &Hooks, body: &[u8]) -> Result<(), String> {
    let id = message_id();
    let (begun, mut wait) = (Instant::now(), FIRST_WAIT);
    loop {
        let why = match attempt(hooks, &id, body).await {
            Ok(()) => return Ok(()),
            Err((true, why)) => return Err(why),
            Err((false, why)) => why,
        };
        if begun.elapsed() + wait > Duration::from_secs(hooks.give_up_s) {
            return Err(why);
        }
        tracing::debug!("hooks.url: {why}; again in {wait:?}");
        sleep(wait).await;
        wait = (wait * 2).min(LONGEST_WAIT);
    }
}

/// `Err(true, …)`: there is no point in trying again.
async fn attempt(hooks: &Hooks, id: &str, body: &[u8]) -> Result<(), (bool, String)> {
    let headers = headers(&hooks.secret, id, unix_time(), body);
    let asked = outbound::ask(Method::POST, &hooks.url, headers, body.to_vec(), ANSWER_BYTES);
    match timeout(hooks.timeout(), asked).await {
        Err(_) => Err((false, format!("no answer within {:?}", hooks.timeout()))),
        Ok(Err(why)) => Err((false, why)),
        Ok(Ok(answered)) => match answered.status {
            status if status.is_success() => Ok(()),
            // It has a right to refuse, and 410 is how it says that it wants no more.
            StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS => Err((false, answered.status.to_string())),
            status => Err((status.is_client_error(), format!("it answers {status}"))),
        },
    }
}

/// Of Standard Webhooks: whoever has the secret can tell that it is ours, new, and whole.
fn headers(secret: &Secret, id: &str, time: u64, body: &[u8]) -> Vec<(HeaderName, HeaderValue)> {
    let mut headers = vec![(header::CONTENT_TYPE, "application/json".to_owned())];
    headers.push((HeaderName::from_static("webhook-id"), id.to_owned()));
    headers.push((HeaderName::from_static("webhook-timestamp"), time.to_string()));
    if !secret.is_empty() {
        headers.push((HeaderName::from_static("webhook-signature"), signature(secret, id, time, body)));
    }
    let valid = |(name, value): (HeaderName, String)| Some((name, HeaderValue::from_str(&value).ok()?));
    headers.into_iter().filter_map(valid).collect()
}

/// `v1,` and the HMAC-SHA-256 of id, time and body in Base64. A secret `whsec_…` is written in Base64.
fn signature(secret: &Secret, id: &str, time: u64, body: &[u8]) -> String {
    let text = secret.expose();
    let decoded = text.strip_prefix("whsec_").and_then(|encoded| STANDARD.decode(encoded).ok());
    let key = hmac::Key::new(hmac::HMAC_SHA256, decoded.as_deref().unwrap_or(text.as_bytes()));
    let mut context = hmac::Context::with_key(&key);
    context.update(format!("{id}.{time}.").as_bytes());
    context.update(body);
    format!("v1,{}", STANDARD.encode(context.sign()))
}

fn message_id() -> String {
    let mut bytes = [0u8; 16];
    // An id that is not random still names the message within its retries.
    let _ = SystemRandom::new().fill(&mut bytes);
    format!("msg_{}", bytes.map(|byte| format!("{byte:02x}")).concat())
}

#[expect(clippy::disallowed_methods, reason = "the receiver compares it with its own time of day")]
fn unix_time() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// Starts the event's command, if it has one. No shell, and nothing of our environment but PATH: tokens may be in it.
fn run(hooks: &Hooks, notice: &Notice, commands: &Arc<Semaphore>) {
    let mut words = hooks.command(notice.what.name()).split_whitespace();
    let Some(program) = words.next() else { return };
    let Ok(permit) = Arc::clone(commands).try_acquire_owned() else {
        return tracing::warn!(event = notice.what.name(), "a command was not run: {COMMANDS} run already");
    };
    let mut command = Command::new(program);
    command.args(words).env_clear().envs(variables(notice));
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) => return tracing::warn!("hooks: {program} cannot be run: {error}"),
    };
    let program = program.to_owned();
    tokio::spawn(async move {
        let _permit = permit;
        match timeout(COMMAND_LIFE, child.wait()).await {
            Ok(Ok(status)) if status.success() => {}
            Ok(Ok(status)) => tracing::warn!("hooks: {program} ended with {status}"),
            Ok(Err(error)) => tracing::warn!("hooks: {program}: {error}"),
            Err(_) => tracing::warn!("hooks: {program} was killed after {COMMAND_LIFE:?}"),
        }
    });
}

fn variables(notice: &Notice) -> Vec<(&'static str, String)> {
    let path = std::env::var("PATH").unwrap_or_else(|_| "/usr/bin:/bin".into());
    let mut all = vec![
        ("PATH", path),
        ("PENSTOCK_EVENT", notice.what.name().to_owned()),
        ("PENSTOCK_STREAM", notice.stream.clone()),
        // As scripts for MediaMTX know it.
        ("MTX_PATH", notice.stream.clone()),
    ];
    match &notice.what {
        What::StreamReady | What::StreamGone => {}
        What::SessionOpened { session, .. } | What::SessionConnected { session, .. } => {
            all.push(("PENSTOCK_SESSION", session.clone()));
        }
        What::SessionClosed { session, reason, .. } => {
            all.push(("PENSTOCK_SESSION", session.clone()));
            all.push(("PENSTOCK_REASON", reason.clone()));
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
    };

    use axum::{Router, body::Bytes, http::HeaderMap, routing::post};

    use super::*;

    /// The example of the Standard Webhooks specification's reference libraries.
    #[test]
    fn signatures_are_those_of_standard_webhooks() {
        let secret = Secret::new("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw");
        let signed = signature(&secret, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, br#"{"test": 2432232314}"#);
        assert_eq!(signed, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    fn notice(number: usize) -> Notice {
        Notice { time_ms: 0, stream: number.to_string(), what: What::StreamReady }
    }

    type Had = Arc<Mutex<Vec<(String, String, bool)>>>;

    /// A receiver that has errors until it has been asked `fails` times.
    async fn receiver(fails: usize) -> (String, Had) {
        let (had, asked) = (Had::default(), AtomicUsize::new(0));
        let kept = had.clone();
        let asked = Arc::new(asked);
        let take = move |headers: HeaderMap, body: Bytes| {
            let (kept, asked) = (kept.clone(), asked.clone());
            async move {
                if asked.fetch_add(1, Relaxed) < fails {
                    return StatusCode::SERVICE_UNAVAILABLE;
                }
                let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
                let (id, time) = (text("webhook-id").to_owned(), text("webhook-timestamp").parse().unwrap());
                let right = signature(&Secret::new("secret"), &id, time, &body) == text("webhook-signature");
                let notice: serde_json::Value = serde_json::from_slice(&body).unwrap();
                kept.lock().unwrap().push((notice["stream"].as_str().unwrap().into(), id, right));
                StatusCode::NO_CONTENT
            }
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/hook", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, Router::new().route("/hook", post(take))).await });
        (url, had)
    }

    fn hooks(url: String) -> Hooks {
        Hooks { url, secret: Secret::new("secret"), queue: 4, ..Hooks::default() }
    }

    #[tokio::test]
    async fn a_receiver_that_comes_back_gets_what_waited_in_order_and_signed() {
        let (url, had) = receiver(2).await;
        let (sender, notices) = broadcast::channel(64);
        start(&hooks(url), notices);
        for number in 0..20 {
            sender.send(notice(number)).unwrap();
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        for _ in 0..200 {
            tokio::time::sleep(Duration::from_millis(50)).await;
            if had.lock().unwrap().len() >= 5 {
                break;
            }
        }
        let had = had.lock().unwrap();
        // The first one, and as many as may wait.
        let streams: Vec<&str> = had.iter().map(|(stream, ..)| stream.as_str()).collect();
        assert_eq!(streams, ["0", "1", "2", "3", "4"]);
        assert!(had.iter().all(|(_, id, right)| *right && id.starts_with("msg_")), "{had:?}");
    }

    #[tokio::test]
    async fn what_is_refused_for_good_or_too_old_is_given_up() {
        let gone = hooks(format!("{}x", receiver(0).await.0));
        assert!(deliver(&gone, b"{}").await.unwrap_err().contains("404"));
        let nowhere = Hooks { give_up_s: 1, ..hooks("http://127.0.0.1:1/".into()) };
        let begun = Instant::now();
        assert!(deliver(&nowhere, b"{}").await.is_err());
        assert!(begun.elapsed() < Duration::from_secs(10));
    }

    #[tokio::test]
    async fn commands_get_the_event_and_not_our_environment() {
        let file = std::env::temp_dir().join(format!("penstock-hook-{}", std::process::id()));
        let script = file.with_extension("sh");
        std::fs::write(&script, "env > \"$1.part\" && mv \"$1.part\" \"$1\"\n").unwrap();
        let command = format!("sh {} {}", script.display(), file.display());
        let hooks = Hooks { run_on_session_closed: command, ..Hooks::default() };
        assert!(hooks.is_on());
        let what = What::SessionClosed {
            session: "ab12".into(),
            role: penstock_engine::Role::Publisher,
            reason: "it went; $(rm)".into(),
        };
        let (sender, notices) = broadcast::channel(4);
        start(&hooks, notices);
        sender.send(Notice { time_ms: 0, stream: "cam".into(), what }).unwrap();
        let mut text = String::new();
        for _ in 0..100 {
            tokio::time::sleep(Duration::from_millis(50)).await;
            if let Ok(read) = std::fs::read_to_string(&file) {
                text = read;
                break;
            }
        }
        for line in ["PENSTOCK_STREAM=cam", "PENSTOCK_REASON=it went; $(rm)", "PENSTOCK_EVENT=session_closed"] {
            assert!(text.lines().any(|had| had == line), "{text}");
        }
        assert!(!text.contains("CARGO"), "{text}");
        [&file, &script].into_iter().for_each(|file| std::fs::remove_file(file).unwrap());
    }
}
