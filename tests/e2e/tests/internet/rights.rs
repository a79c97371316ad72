//! Tokens that expire while media flows: it stops at that moment, whether or not the process runs.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, ensure};
use openssl::{base64::encode_block, hash::MessageDigest, pkey::PKey, sign::Signer};
use serde_json::{Value, json};
use tests_kit::peer::{Kind, Options, Viewers};
use tests_kit::stage::{Layout, Stage, synthetic};

const SECRET: &str = "0123456789abcdef0123456789abcdef";

fn unix() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64()
}

fn base64url(bytes: &[u8]) -> String {
    encode_block(bytes).replace('+', "-").replace('/', "_").replace('=', "")
}

/// By HS256, for everything of the stream.
fn token(expires: u64) -> Result<String> {
    let claims = json!({
        "sub": "test", "exp": expires,
        "mediamtx_permissions": [{ "action": "publish", "path": "e2e" }, { "action": "read", "path": "e2e" }],
    });
    let head = base64url(br#"{"alg":"HS256","typ":"JWT"}"#);
    let signed = format!("{head}.{}", base64url(claims.to_string().as_bytes()));
    let key = PKey::hmac(SECRET.as_bytes())?;
    let mut signer = Signer::new(MessageDigest::sha256(), &key)?;
    signer.update(signed.as_bytes())?;
    Ok(format!("{signed}.{}", base64url(&signer.sign_to_vec()?)))
}

fn with(token: String, options: Options) -> Options {
    Options { token: Some(token), ..options }
}

fn packets(viewers: &Viewers) -> u64 {
    viewers.stats().iter().map(|one| one.video.packets).sum()
}

fn pass_until(unix_s: f64) {
    std::thread::sleep(Duration::from_secs_f64((unix_s - unix()).max(0.0)));
}

/// The viewer's right ends while the server stands still; the other viewer's and the publisher's do not.
fn ends_while_it_stands_still(engine: &str, carried_by: &str) -> Result<()> {
    let more = format!("[jwt]\nsecret = \"{SECRET}\"\n[media]\nengine = \"{engine}\"\n");
    let stage = Stage::new(Layout::OneNic, "native", &more)?;
    let source = synthetic(100);
    let long = || token(unix() as u64 + 600);
    let publisher = stage.publish(&source, with(long()?, stage.publishing()))?;
    let lasting = stage.play(1, &source, with(long()?, stage.playing()))?;
    let expires = unix() as u64 + 12;
    let viewers = stage.play(1, &source, with(token(expires)?, stage.playing()))?;
    stage.flows(&viewers, &[0], Kind::Video, 50)?;
    let carriers = stage.carriers("subscriber")?;
    ensure!(carriers.len() == 2 && carriers.iter().all(|by| by.starts_with(carried_by)), "{carriers:?}");
    ensure!(unix() + 3.0 < expires as f64, "this machine is too slow for the test");

    stage.server.signal(libc::SIGSTOP)?;
    // What was on its way has arrived.
    std::thread::sleep(Duration::from_millis(500));
    let (before, others_before) = (packets(&viewers), packets(&lasting));
    pass_until(expires as f64 - 0.7);
    let last = packets(&viewers);
    // Half a second for what the peer has not read yet, and for clocks.
    pass_until(expires as f64 + 0.5);
    let at_the_end = packets(&viewers);
    pass_until(expires as f64 + 3.0);
    let (after, others_after) = (packets(&viewers), packets(&lasting));
    stage.server.signal(libc::SIGCONT)?;
    let told = format!("{before} {last} {at_the_end} {after}, the other one {others_before} {others_after}");
    ensure!(after == at_the_end, "media went on after the right had ended: {told}");
    if carried_by.starts_with("kernel") {
        ensure!(last > before, "the kernel did not go on: {told}");
        ensure!(others_after > others_before + 100, "the other viewer, whose right lasts, did not go on: {told}");
    }
    stage.server.wait_log("its right to be here has ended", Duration::from_secs(20))?;
    stage.until("the session is gone", || Ok(stage.carriers("subscriber")?.len() == 1))?;
    let end = packets(&viewers);
    stage.flows(&lasting, &[0], Kind::Video, 100)?;
    ensure!(packets(&viewers) == end && end == after, "media went on: {end} {}", packets(&viewers));
    let state = stage.server.get("/api/v1/state")?;
    ensure!(state["counters"]["control"]["sessions_right_ended"] == 1, "{:#}", state["counters"]["control"]);
    publisher.stop().map(drop)
}

#[test]
fn the_kernel_stops_media_at_that_moment() -> Result<()> {
    ends_while_it_stands_still("auto", "kernel native")
}

#[test]
fn the_userspace_engine_sends_nothing_that_comes_later() -> Result<()> {
    ends_while_it_stands_still("userspace", "userspace")
}

/// A publisher's: viewers get nothing more of it.
#[test]
fn a_publishers_right_ends_too() -> Result<()> {
    let more = format!("[jwt]\nsecret = \"{SECRET}\"\n");
    let stage = Stage::new(Layout::OneNic, "native", &more)?;
    let source = synthetic(100);
    let expires = unix() as u64 + 10;
    let publisher = stage.publish(&source, with(token(expires)?, stage.publishing()))?;
    let viewers = stage.play(1, &source, with(token(unix() as u64 + 600)?, stage.playing()))?;
    stage.flows(&viewers, &[0], Kind::Video, 50)?;
    stage.server.signal(libc::SIGSTOP)?;
    pass_until(expires as f64 + 0.5);
    let at_the_end = packets(&viewers);
    pass_until(expires as f64 + 2.0);
    let after = packets(&viewers);
    stage.server.signal(libc::SIGCONT)?;
    ensure!(after == at_the_end, "media went on after the right had ended: {at_the_end} {after}");
    stage.server.wait_log("its right to be here has ended", Duration::from_secs(20))?;
    drop(publisher);
    Ok(())
}

/// A user who is taken out of the configuration is gone within a second of it.
#[test]
fn a_user_is_taken_out() -> Result<()> {
    let users = |names: &[&str]| -> String {
        let one = |name: &&str| {
            format!(
                "[[auth.users]]\nname = \"{name}\"\npassword = \"pw\"\n\
                 permissions = [{{ action = \"play\" }}, {{ action = \"publish\" }}]\n"
            )
        };
        names.iter().map(one).collect()
    };
    let stage = Stage::new(Layout::OneNic, "native", &users(&["keeper", "leaver"]))?;
    let source = synthetic(100);
    let publisher = stage.publish(&source, with("keeper:pw".into(), stage.publishing()))?;
    let _viewers = stage.play(1, &source, with("leaver:pw".into(), stage.playing()))?;
    let wrong = Viewers::start(&stage.whep(), 1, source.clone(), with("leaver:no".into(), stage.playing()));
    ensure!(wrong.is_err(), "a wrong password opened a session");
    stage.server.configure(&stage.settings, &users(&["keeper"]))?;
    stage.server.signal(libc::SIGHUP)?;
    stage.server.wait_log("read the configuration", Duration::from_secs(20))?;
    let begun = Instant::now();
    stage.until("the viewer is gone", || Ok(stage.carriers("subscriber")?.is_empty()))?;
    println!("gone after {:?}", begun.elapsed());
    ensure!(stage.server.logged("its right to be here was taken away"), "{}", stage.server.log());
    ensure!(stage.carriers("publisher")?.len() == 1);
    let sessions: Value = stage.server.get("/api/v1/sessions")?;
    ensure!(sessions["sessions"][0]["by"] == "user keeper", "{sessions:#}");
    publisher.stop().context("the publisher")?;
    ensure!(!stage.server.log().contains("pw"), "a password is in the log");
    Ok(())
}
