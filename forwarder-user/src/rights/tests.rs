//! Right, wrong, expired, forged, too large and used twice; keys that rotate, somebody who decides and then does not
//! answer, and rights that end.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use axum::{Router, body::Bytes, http::StatusCode, routing::any};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode, get_current_timestamp, jwk::Jwk};
use openssl::{ec, nid::Nid, pkey::PKey, rsa::Rsa};
use serde_json::{Value, json};

use super::*;
use crate::config::Config;

const SECRET: &str = "0123456789abcdef0123456789abcdef";

fn rights(text: &str) -> Rights {
    Rights::new(&Config::parse(text, "test").unwrap())
}

fn asker(action: Action, stream: &str, credentials: Credentials) -> Asker {
    Asker {
        action,
        stream: stream.into(),
        address: "192.0.2.7".parse().unwrap(),
        protocol: "webrtc",
        query: Secret::new("a=b"),
        credentials,
    }
}

fn password(user: &str, password: &str) -> Credentials {
    Credentials::Password(user.into(), Secret::new(password))
}

fn token(text: &str) -> Credentials {
    Credentials::Token(Secret::new(text))
}

async fn play(rights: &Rights, stream: &str, credentials: Credentials) -> Result<Grant, Denied> {
    rights.ask(asker(Action::Play, stream, credentials), true).await
}

#[track_caller]
fn wrong(answer: Result<Grant, Denied>, says: &str) {
    match answer {
        Err(Denied::Wrong(why)) => assert!(why.contains(says), "{why:?} does not say {says:?}"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn tokens_of_the_configuration_work_as_ever() {
    let open = Rights::default();
    assert_eq!(play(&open, "cam", Credentials::None).await.unwrap().by, By::Everybody);
    assert!(open.is_open(Action::Publish));
    let rights = rights("[auth]\nplay_token = \"p\"");
    assert_eq!(play(&rights, "cam", token("p")).await.unwrap().by, By::Token);
    assert_eq!(play(&rights, "cam", password("x", "p")).await.unwrap().by, By::Token, "as RTSP has it");
    assert_eq!(play(&rights, "cam", Credentials::None).await.unwrap_err(), Denied::Nothing);
    wrong(play(&rights, "cam", token("q")).await, "not the bearer token");
    let publish = rights.ask(asker(Action::Publish, "cam", Credentials::None), true).await;
    assert_eq!(publish.unwrap().by, By::Everybody);
}

fn argon2(password: &str) -> String {
    use argon2::password_hash::PasswordHasher as _;
    let salt = b"0123456789abcdef";
    let hasher = argon2::Argon2::new(
        argon2::Algorithm::Argon2id,
        argon2::Version::V0x13,
        argon2::Params::new(64, 1, 1, None).unwrap(),
    );
    hasher.hash_password_with_salt(password.as_bytes(), salt).unwrap().to_string()
}

#[tokio::test]
async fn users_have_what_they_are_given_and_no_more() {
    let rights = rights(&format!(
        "[auth]\npublish_token = \"old\"\n\
         [[auth.users]]\nname = \"plain\"\npassword = \"s3cret\"\naddresses = [\"192.0.2.0/24\"]\n\
         permissions = [{{ action = \"play\", stream = \"cams/*\" }}, {{ action = \"publish\" }}]\n\
         [[auth.users]]\nname = \"far\"\npassword = \"s3cret\"\naddresses = [\"10.0.0.0/8\"]\n\
         permissions = [{{ action = \"play\" }}]\n\
         [[auth.users]]\nname = \"hashed\"\npassword = \"{}\"\npermissions = [{{ action = \"play\" }}]\n\
         [[auth.users]]\nname = \"any\"\npermissions = [{{ action = \"play\", stream = \"lobby\" }}]\n",
        argon2("hunter2")
    ));
    let user = |name: &str| By::User(name.into());
    assert_eq!(play(&rights, "cams/1", password("plain", "s3cret")).await.unwrap().by, user("plain"));
    assert_eq!(play(&rights, "lobby", Credentials::None).await.unwrap().by, By::Everybody);
    assert_eq!(play(&rights, "other", Credentials::None).await.unwrap_err(), Denied::Nothing);
    assert!(matches!(play(&rights, "other", password("plain", "s3cret")).await, Err(Denied::NotAllowed(_))));
    assert!(matches!(play(&rights, "cams/1", password("far", "s3cret")).await, Err(Denied::NotAllowed(_))));
    wrong(play(&rights, "cams/1", password("plain", "s3cre")).await, "name and password");
    wrong(play(&rights, "cams/1", password("nobody", "s3cret")).await, "name and password");
    wrong(play(&rights, "cams/1", password("any", "")).await, "name and password");
    for _ in 0..2 {
        assert_eq!(play(&rights, "x", password("hashed", "hunter2")).await.unwrap().by, user("hashed"));
        wrong(play(&rights, "x", password("hashed", "hunter3")).await, "name and password");
    }
    let publish = |credentials| rights.ask(asker(Action::Publish, "x", credentials), true);
    assert_eq!(publish(token("old")).await.unwrap().by, By::Token);
    assert_eq!(publish(password("plain", "s3cret")).await.unwrap().by, user("plain"));
    let digest =
        |password: &'static str| Credentials::Digest("plain".into(), Arc::new(move |known| known.expose() == password));
    assert_eq!(publish(digest("s3cret")).await.unwrap().by, user("plain"));
    wrong(publish(digest("x")).await, "name and password");
    let api = rights.ask(asker(Action::Api, "", password("plain", "s3cret")), true).await;
    assert!(matches!(api, Err(Denied::NotAllowed(_))), "nobody has it, so it is not open: {api:?}");
    assert!(!rights.takes_digest() && !rights.is_open(Action::Publish) && !rights.is_decided(Action::Api));
}

#[tokio::test]
async fn hashes_are_checked_one_after_the_other_and_those_beyond_a_queue_not_at_all() {
    let hasher = hasher::Hasher::default();
    let hash = argon2("right");
    let guesses: Vec<Secret> = (0..200).map(|guess| Secret::new(format!("guess {guess}"))).collect();
    let checks = guesses.iter().map(|guess| hasher.check(&hash, guess));
    let answers = futures::future::join_all(checks).await;
    let refused = answers.iter().filter(|answer| matches!(answer, Err(Denied::Unknown(_)))).count();
    assert!(refused > 0 && answers.iter().all(|answer| *answer != Ok(true)), "{refused} refused");
    assert_eq!(hasher.check(&hash, &Secret::new("right")).await, Ok(true));
}

fn claims(expires_in: i64) -> Value {
    json!({
        "sub": "studio",
        "exp": get_current_timestamp() as i64 + expires_in,
        "mediamtx_permissions": [{ "action": "read", "path": "cam" }, { "action": "publish", "path": "~^up" }],
    })
}

fn shared(secret: &[u8]) -> EncodingKey {
    EncodingKey::from_secret(secret).unwrap()
}

fn sign(claims: &Value) -> String {
    encode(&Header::default(), claims, &shared(SECRET.as_bytes())).unwrap()
}

fn hs256(more: &str) -> Rights {
    rights(&format!("[jwt]\nsecret = \"{SECRET}\"\n{more}"))
}

#[tokio::test]
async fn a_token_allows_what_it_says_until_it_says() {
    let rights = hs256("");
    let grant = play(&rights, "cam", token(&sign(&claims(60)))).await.unwrap();
    assert_eq!(grant.by, By::Jwt("studio".into()));
    let left = grant.left().unwrap().as_secs_f64();
    assert!((58.0..=60.0).contains(&left), "{left}");
    assert!(play(&rights, "cam", password("x", &sign(&claims(60)))).await.is_ok(), "as password");
    assert!(matches!(play(&rights, "cam2", token(&sign(&claims(60)))).await, Err(Denied::NotAllowed(_))));
    let publish = |stream: &'static str| rights.ask(asker(Action::Publish, stream, token(&sign(&claims(60)))), true);
    assert!(publish("up1").await.is_ok());
    assert!(matches!(publish("cam").await, Err(Denied::NotAllowed(_))));
    let mut text = claims(60);
    text["mediamtx_permissions"] = json!(text["mediamtx_permissions"].to_string());
    assert!(play(&rights, "cam", token(&sign(&text))).await.is_ok(), "a text that holds JSON");
    for bad in
        [json!(null), json!("x"), json!([{ "action": "read", "path": 7 }]), json!([{ "action": "read", "path": "~(" }])]
    {
        let mut odd = claims(60);
        odd["mediamtx_permissions"] = bad;
        assert!(matches!(play(&rights, "cam", token(&sign(&odd))).await, Err(Denied::NotAllowed(_))));
    }
}

#[tokio::test]
async fn tokens_that_are_not_right_are_refused() {
    let rights = hs256("audience = \"penstock\"\nissuer = \"us\"\n");
    let mut right = claims(60);
    right["aud"] = json!(["penstock", "others"]);
    right["iss"] = json!("us");
    assert!(play(&rights, "cam", token(&sign(&right))).await.is_ok());
    let with = |name: &str, value: Value| {
        let mut claims = right.clone();
        match value {
            Value::Null => drop(claims.as_object_mut().unwrap().remove(name)),
            value => claims[name] = value,
        }
        sign(&claims)
    };
    let now = get_current_timestamp();
    for (token_text, says) in [
        (with("exp", json!(now - 1)), "expired"),
        (with("exp", json!(now)), "expired"),
        (with("exp", Value::Null), "lacks a claim"),
        (with("exp", json!("soon")), "wrong type"),
        (with("nbf", json!(now + 60)), "not valid yet"),
        (with("aud", json!("others")), "aud"),
        (with("aud", Value::Null), "lacks a claim"),
        (with("iss", json!("them")), "iss"),
        (with("iss", Value::Null), "lacks a claim"),
        (with("pad", json!("x".repeat(8192))), "too long"),
    ] {
        let answer = play(&rights, "cam", token(&token_text)).await;
        match &answer {
            // `jsonwebtoken` takes a time that is none for one that is not there.
            Err(Denied::Wrong(_)) if says == "wrong type" => {}
            _ => wrong(answer, says),
        }
    }
}

#[tokio::test]
async fn forged_tokens_are_refused() {
    let rsa = PKey::from_rsa(Rsa::generate(2048).unwrap()).unwrap();
    let public = rsa.public_key_to_pem().unwrap();
    let folder = tempfile();
    std::fs::write(&folder, &public).unwrap();
    let rights = rights(&format!("[jwt]\nsecret = \"{SECRET}\"\npublic_key = \"{}\"", folder.display()));
    std::fs::remove_file(&folder).unwrap();
    let key = EncodingKey::from_rsa_pem(&rsa.private_key_to_pem_pkcs8().unwrap()).unwrap();
    let signed = encode(&Header::new(Algorithm::RS256), &claims(60), &key).unwrap();
    assert!(play(&rights, "cam", token(&signed)).await.is_ok());

    // The public key as if it were a secret (RFC 8725 §2.1).
    let confused = encode(&Header::default(), &claims(60), &shared(&public)).unwrap();
    wrong(play(&rights, "cam", token(&confused)).await, "no key");
    // Another key, another algorithm than the key's, none at all, and what is no token.
    let other = PKey::from_rsa(Rsa::generate(2048).unwrap()).unwrap().private_key_to_pem_pkcs8().unwrap();
    let foreign = encode(&Header::new(Algorithm::RS256), &claims(60), &EncodingKey::from_rsa_pem(&other).unwrap());
    wrong(play(&rights, "cam", token(&foreign.unwrap())).await, "no key");
    let longer = encode(&Header::new(Algorithm::RS512), &claims(60), &key).unwrap();
    wrong(play(&rights, "cam", token(&longer)).await, "none of HS256");
    let part = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
    for alg in ["none", "None", "NONE", ""] {
        let none = format!("{}.{}.", part(json!({ "alg": alg, "typ": "JWT" })), part(claims(60)));
        wrong(play(&rights, "cam", token(&none)).await, "no token");
    }
    let (head, rest) = signed.split_once('.').unwrap();
    let (_, signature) = rest.split_once('.').unwrap();
    let changed = format!("{head}.{}.{signature}", part(claims(9999)));
    wrong(play(&rights, "cam", token(&changed)).await, "no key");
    let embedded = part(json!({ "alg": "HS256", "jwk": { "kty": "oct", "k": "eA" }, "kid": "../../dev/null" }));
    wrong(play(&rights, "cam", token(&format!("{embedded}.{}.{signature}", part(claims(60))))).await, "no key");
    for nonsense in ["..", "a.b.c", "a.b", "", "\u{0}.\u{0}.\u{0}"] {
        assert!(play(&rights, "cam", token(nonsense)).await.is_err());
    }
}

#[tokio::test]
async fn a_token_that_is_good_once_is_good_once() {
    let rights = hs256("single_use = true\n");
    let mut once = claims(60);
    wrong(play(&rights, "cam", token(&sign(&once))).await, "no jti");
    once["jti"] = json!("7");
    assert!(play(&rights, "cam", token(&sign(&once))).await.is_ok());
    wrong(play(&rights, "cam", token(&sign(&once))).await, "used before");
    // The session that it has opened may still be changed and ended with it.
    assert!(rights.ask(asker(Action::Play, "cam", token(&sign(&once))), false).await.is_ok());
}

/// Answers whatever it is told to, and counts.
async fn server(
    answer: impl Fn(usize, Bytes) -> (StatusCode, String, Duration) + Clone + Send + Sync + 'static,
) -> (String, Arc<AtomicUsize>) {
    let count = Arc::new(AtomicUsize::new(0));
    let counted = count.clone();
    let service = any(move |body: Bytes| {
        let (status, text, wait) = answer(counted.fetch_add(1, Relaxed), body);
        async move {
            tokio::time::sleep(wait).await;
            (status, text)
        }
    });
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/decide", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, Router::new().fallback(service)).await });
    (url, count)
}

fn tempfile() -> std::path::PathBuf {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let name = format!("penstock-rights-{}-{}.pem", std::process::id(), NEXT.fetch_add(1, Relaxed));
    std::env::temp_dir().join(name)
}

#[tokio::test]
async fn keys_that_are_published_are_read_and_rotate() {
    let curve = ec::EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).unwrap();
    let pem = |key: PKey<openssl::pkey::Private>| key.private_key_to_pem_pkcs8().unwrap();
    let p256 = pem(PKey::from_ec_key(ec::EcKey::generate(&curve).unwrap()).unwrap());
    let ed25519 = pem(PKey::generate_ed25519().unwrap());
    let rsa = pem(PKey::from_rsa(Rsa::generate(2048).unwrap()).unwrap());
    let keys = [
        (Algorithm::ES256, EncodingKey::from_ec_pem(&p256).unwrap()),
        (Algorithm::EdDSA, EncodingKey::from_ed_pem(&ed25519).unwrap()),
        (Algorithm::RS256, EncodingKey::from_rsa_pem(&rsa).unwrap()),
    ];
    let jwk = |number: usize| {
        let (algorithm, key) = &keys[number];
        let mut jwk = Jwk::from_encoding_key(key, *algorithm).unwrap();
        jwk.common.key_id = Some(number.to_string());
        serde_json::to_value(jwk).unwrap()
    };
    // A key of a kind that nobody knows, and a secret that is public: neither counts, and neither hides the others.
    let odd = json!({ "kty": "XYZ", "kid": "odd" });
    let secret = json!({ "kty": "oct", "kid": "9", "alg": "HS256", "k": URL_SAFE_NO_PAD.encode(SECRET) });
    let first = json!({ "keys": [odd, secret, jwk(0), jwk(1)] }).to_string();
    let second = json!({ "keys": [jwk(1), jwk(2)] }).to_string();
    let (url, asked) = server(move |number, _| {
        let body = if number == 0 { first.clone() } else { second.clone() };
        (StatusCode::OK, body, Duration::ZERO)
    })
    .await;
    let rights = rights(&format!("[jwt]\njwks = \"{url}\""));
    let by = |number: usize| {
        let mut header = Header::new(keys[number].0);
        header.kid = Some(number.to_string());
        let signed = encode(&header, &claims(60), &keys[number].1).unwrap();
        let rights = rights.clone();
        async move { play(&rights, "cam", token(&signed)).await }
    };
    assert!(by(0).await.is_ok() && by(1).await.is_ok() && by(0).await.is_ok());
    assert_eq!(asked.load(Relaxed), 1, "the set was kept");
    let header = Header { kid: Some("9".into()), ..Header::default() };
    let by_secret = encode(&header, &claims(60), &shared(SECRET.as_bytes())).unwrap();
    wrong(play(&rights, "cam", token(&by_secret)).await, "no key");
    // A key that is not there yet does not make it ask again and again.
    for _ in 0..20 {
        wrong(by(2).await, "no key");
    }
    assert_eq!(asked.load(Relaxed), 1);
    tokio::time::sleep(Duration::from_millis(2100)).await;
    assert!(by(2).await.is_ok(), "the new key");
    wrong(by(0).await, "no key");
    assert_eq!(asked.load(Relaxed), 2);
}

/// Whoever publishes the keys hangs, and a stranger names one that nobody has: tokens whose key is known do not wait.
#[tokio::test]
async fn a_token_with_a_known_key_does_not_wait_for_one_with_an_unknown() {
    let pem = PKey::generate_ed25519().unwrap().private_key_to_pem_pkcs8().unwrap();
    let key = EncodingKey::from_ed_pem(&pem).unwrap();
    let mut jwk = Jwk::from_encoding_key(&key, Algorithm::EdDSA).unwrap();
    jwk.common.key_id = Some("known".into());
    let set = json!({ "keys": [jwk] }).to_string();
    let (url, _) = server(move |number, _| {
        let wait = if number == 0 { Duration::ZERO } else { Duration::from_secs(600) };
        (StatusCode::OK, set.clone(), wait)
    })
    .await;
    let rights = rights(&format!("[jwt]\njwks = \"{url}\""));
    let by = |id: &str| {
        let mut header = Header::new(Algorithm::EdDSA);
        header.kid = Some(id.into());
        let signed = encode(&header, &claims(60), &key).unwrap();
        let rights = rights.clone();
        async move { play(&rights, "cam", token(&signed)).await }
    };
    assert!(by("known").await.is_ok());
    tokio::time::sleep(Duration::from_millis(2100)).await;
    tokio::select! {
        biased;
        answer = by("unknown") => panic!("nobody can know: {:?}", answer.is_ok()),
        answer = by("known") => assert!(answer.is_ok()),
    }
}

#[tokio::test]
async fn without_keys_nobody_can_tell() {
    let (url, _) = server(|_, _| (StatusCode::OK, "<html>".into(), Duration::ZERO)).await;
    let rights = rights(&format!("[jwt]\njwks = \"{url}\""));
    let header = Header::new(Algorithm::EdDSA);
    let key = PKey::generate_ed25519().unwrap().private_key_to_pem_pkcs8().unwrap();
    let signed = encode(&header, &claims(60), &EncodingKey::from_ed_pem(&key).unwrap()).unwrap();
    for _ in 0..2 {
        assert!(matches!(play(&rights, "cam", token(&signed)).await, Err(Denied::Unknown(_))));
    }
}

#[tokio::test]
async fn who_is_asked_gets_what_mediamtx_sends() {
    let (url, asked) = server(|_, body| {
        let question: Value = serde_json::from_slice(&body).unwrap();
        let wanted = json!({
            "user": "u", "password": "p", "token": "", "ip": "192.0.2.7", "action": "read", "path": "cam",
            "protocol": "webrtc", "id": null, "query": "a=b",
        });
        let status = if question == wanted { StatusCode::NO_CONTENT } else { StatusCode::UNAUTHORIZED };
        (status, String::new(), Duration::ZERO)
    })
    .await;
    let rights = rights(&format!("[auth_http]\nurl = \"{url}\"\ncache_ms = 60000\n"));
    for _ in 0..5 {
        assert_eq!(play(&rights, "cam", password("u", "p")).await.unwrap().by, By::Callback("u".into()));
    }
    assert_eq!(asked.load(Relaxed), 1, "the answer was kept");
    for _ in 0..5 {
        wrong(play(&rights, "cam", password("u", "q")).await, "says no");
        assert_eq!(play(&rights, "cam", Credentials::None).await.unwrap_err(), Denied::Nothing);
    }
    assert_eq!(asked.load(Relaxed), 3);
    // It does not decide about everything, and what nobody decides about is closed.
    let api = rights.ask(asker(Action::Api, "", password("u", "p")), true).await;
    assert!(api.is_err(), "{api:?}");
}

#[tokio::test]
async fn who_does_not_answer_allows_nothing() {
    let (url, _) = server(|_, _| (StatusCode::OK, String::new(), Duration::from_secs(60))).await;
    let rights = rights(&format!("[auth_http]\nurl = \"{url}\"\ntimeout_ms = 100\n"));
    let begun = Instant::now();
    assert!(matches!(play(&rights, "cam", token("x")).await, Err(Denied::Unknown(_))));
    assert!(begun.elapsed() < Duration::from_secs(5));
    let many = (0..100).map(|number| play(&rights, "cam", token(&number.to_string())));
    let answers = futures::future::join_all(many).await;
    assert!(answers.iter().all(|answer| matches!(answer, Err(Denied::Unknown(_)))));
    let (url, _) = server(|_, _| (StatusCode::INTERNAL_SERVER_ERROR, String::new(), Duration::ZERO)).await;
    let failing = self::rights(&format!("[auth_http]\nurl = \"{url}\"\n"));
    assert!(matches!(play(&failing, "cam", token("x")).await, Err(Denied::Unknown(_))));
    let nowhere = self::rights("[auth_http]\nurl = \"http://127.0.0.1:1/\"\n");
    assert!(matches!(play(&nowhere, "cam", token("x")).await, Err(Denied::Unknown(_))));
}

#[tokio::test]
async fn who_is_asked_may_say_how_long_and_change_his_mind() {
    let (url, _) = server(|number, _| {
        let status = if number < 2 { StatusCode::OK } else { StatusCode::FORBIDDEN };
        (status, "{\"expires_in\": 60}".into(), Duration::ZERO)
    })
    .await;
    let rights = rights(&format!("[auth_http]\nurl = \"{url}\"\nrecheck_ms = 100\n"));
    let grant = play(&rights, "cam", token("x")).await.unwrap();
    assert!(grant.left().unwrap() > Duration::from_secs(58));
    let watch = rights.watch(&grant).unwrap();
    let begun = Instant::now();
    assert!(watch.is_taken_away().await);
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_user_who_is_taken_out_loses_what_he_has_and_a_session_that_ends_its_watch() {
    let one = "[[auth.users]]\nname = \"a\"\npassword = \"1\"\npermissions = [{ action = \"play\" }]\n";
    let two = "[[auth.users]]\nname = \"b\"\npassword = \"2\"\npermissions = [{ action = \"play\" }]\n";
    let rights = rights(&format!("{one}{two}"));
    let (a, b) = (
        play(&rights, "cam", password("a", "1")).await.unwrap(),
        play(&rights, "cam", password("b", "2")).await.unwrap(),
    );
    let taken = tokio::spawn(rights.watch(&a).unwrap().is_taken_away());
    let stays = tokio::spawn(rights.watch(&b).unwrap().is_taken_away());
    tokio::task::yield_now().await;
    rights.set(&Config::parse(two, "test").unwrap());
    assert!(taken.await.unwrap());
    tokio::task::yield_now().await;
    assert!(!stays.is_finished());
    drop(b);
    assert!(!stays.await.unwrap(), "nobody has it any more");
}

#[test]
fn credentials_are_read_from_headers_and_queries() {
    let header = |text: &str| {
        Credentials::of_header(text).map(|given| (given.user().to_owned(), given.is_token(&Secret::new("s3cret"))))
    };
    assert_eq!(header("Bearer s3cret"), Some((String::new(), true)));
    assert_eq!(header("bearer  s3cret "), Some((String::new(), true)));
    assert_eq!(header("Bearer me:s3cret"), Some(("me".into(), true)));
    assert_eq!(header("Basic bWU6czNjcmV0"), Some(("me".into(), true)));
    assert_eq!(header("Basic !"), None);
    assert_eq!(header("Basic"), None);
    assert_eq!(header("Negotiate x"), None);
    assert_eq!(header(&format!("Bearer {}", "x".repeat(9000))), None);
    let query = |text: &str| Credentials::of_query(text).is_some_and(|given| given.is_token(&Secret::new("a b")));
    assert!(query("token=a%20b") && query("x=1&jwt=a+b&y") && !query("tokens=a%20b") && !query("token="));
    let shown = format!("{:?}", asker(Action::Play, "cam", token("s3cret")));
    assert!(!shown.contains("s3cret") && !shown.contains("a=b"), "{shown}");
}
