//! Every status and header, against a control task that follows a script.

mod newer;
mod pages;

use axum::{
    Router,
    body::{Body, to_bytes},
    http::{HeaderMap, Method, Request, StatusCode},
};
use serde_json::json;
use tokio::sync::mpsc;
use tower::ServiceExt;

use penstock_media::Role;

use crate::{
    config::{Config, Secret},
    stream::{Answer, Command, Control, Patched, Refusal},
};

fn router(config: &Config, control: Control) -> Router {
    super::router(config, super::Settings::new(config), control, changes(), None).expect("a router").all
}

/// Nobody keeps a configuration here.
fn changes() -> super::Changes {
    mpsc::channel(1).0
}

const OFFER: &str = "v=0\r\n";
const FRAGMENT: &str = "a=ice-ufrag:new\r\n";

/// Answers by what it is asked: offers for the stream `busy` conflict, and so on.
fn scripted() -> Control {
    let (sender, mut commands) = mpsc::channel(16);
    tokio::spawn(async move {
        while let Some(command) = commands.recv().await {
            match command {
                Command::Admit { reply, .. } => drop(reply.send(Ok(()))),
                Command::Offer { role, stream, reply, .. } => drop(reply.send(offer(role, &stream))),
                Command::Patch { session, if_match, reply, .. } => {
                    drop(reply.send(patched(&session, if_match)));
                }
                Command::Delete { session, reply, .. } if session == "known" => drop(reply.send(Ok(()))),
                Command::Delete { reply, .. } => drop(reply.send(Err(Refusal::NotFound("no such session".into())))),
                Command::View { session, reply } => {
                    drop(reply.send((session == "known").then(|| json!({ "state": "live", "message": "" }))));
                }
                Command::Snapshot { reply } => drop(reply.send(json!({
                    "streams": [{ "name": "cam", "viewers": 2, "publisher": { "peer": "192.0.2.1:5" } }],
                    "sessions": [{ "peer": "192.0.2.1:5" }],
                }))),
                Command::Kick { session, reply, .. } => drop(reply.send(session == "known")),
                Command::EndPublisher { stream, reply } => drop(reply.send(stream == "cam")),
                Command::Configure { reply, .. } | Command::Addresses { reply, .. } | Command::Drain { reply } => {
                    let _ = reply.send(());
                }
            }
        }
    });
    Control::new(sender)
}

fn offer(role: Role, stream: &str) -> Result<Answer, Refusal> {
    match stream {
        "busy" => Err(Refusal::Conflict("the stream has a publisher already".into())),
        "odd" => Err(Refusal::NotAcceptable("no codec in common".into())),
        "full" => Err(Refusal::Unavailable("all sessions are in use".into())),
        "bad" => Err(Refusal::Malformed("line 1 is not SDP".into())),
        _ => Ok(Answer { session: "s1".into(), sdp: format!("{role:?} {OFFER}"), etag: "e1".into(), note: note() }),
    }
}

fn note() -> Option<String> {
    Some("no picture: \u{e9}t\u{e9}".into())
}

fn patched(session: &str, if_match: Option<String>) -> Result<Patched, Refusal> {
    match (session, if_match.as_deref()) {
        ("known", Some("e1")) => Ok(Patched::Trickled),
        ("known", Some("*")) => Ok(Patched::Restarted { fragment: FRAGMENT.into(), etag: "e2".into() }),
        ("known", None) => Err(Refusal::PreconditionRequired("send If-Match".into())),
        ("known", Some(_)) => Err(Refusal::PreconditionFailed("another ICE session".into())),
        _ => Err(Refusal::NotFound("no such session".into())),
    }
}

struct Reply {
    status: StatusCode,
    headers: HeaderMap,
    body: String,
}

impl Reply {
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map(|value| value.to_str().unwrap()).unwrap_or_default()
    }
}

async fn ask(router: Router, method: &str, path: &str, headers: &[(&str, &str)], body: impl Into<Body>) -> Reply {
    let mut request = Request::builder().method(method).uri(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    // From this host, as `server` says of a connection.
    let request = request.extension(axum::extract::ConnectInfo(std::net::SocketAddr::from(([127, 0, 0, 1], 9))));
    let request = request.extension(super::server::Link { encrypted: false, local: true });
    let response = router.oneshot(request.body(body.into()).unwrap()).await.unwrap();
    let (parts, body) = response.into_parts();
    let body = to_bytes(body, 1 << 20).await.unwrap();
    Reply { status: parts.status, headers: parts.headers, body: String::from_utf8(body.into()).unwrap() }
}

fn open_server() -> Router {
    router(&Config::default(), scripted())
}

async fn post(path: &str, kind: &str, body: impl Into<Body>) -> Reply {
    ask(open_server(), "POST", path, &[("content-type", kind)], body).await
}

async fn patch(session: &str, if_match: &str, body: &'static str) -> Reply {
    let path = format!("/cam/whep/{session}");
    let mut headers = vec![("content-type", "application/trickle-ice-sdpfrag")];
    headers.extend((!if_match.is_empty()).then_some(("if-match", if_match)));
    ask(open_server(), "PATCH", &path, &headers, body).await
}

#[track_caller]
fn refused(reply: &Reply, status: u16, reason: &str) {
    assert_eq!(reply.status.as_u16(), status, "{}", reply.body);
    assert_eq!(reply.header("content-type"), "text/plain; charset=utf-8");
    assert!(reply.body.contains(reason), "{:?} does not say {reason:?}", reply.body);
}

#[tokio::test]
async fn post_opens_a_session() {
    for (segment, role) in [("whip", "Publisher"), ("whep", "Subscriber")] {
        let reply = post(&format!("/cam-1/{segment}"), "application/sdp", OFFER).await;
        assert_eq!(reply.status, StatusCode::CREATED);
        assert_eq!(reply.header("location"), format!("/cam-1/{segment}/s1"));
        assert_eq!(reply.header("etag"), "\"e1\"");
        assert_eq!(reply.header("accept-patch"), "application/trickle-ice-sdpfrag");
        assert_eq!(reply.header("content-type"), "application/sdp");
        assert_eq!(reply.body, format!("{role} {OFFER}"));
    }
    let reply = post("/cam/whip", "Application/SDP; charset=utf-8", OFFER).await;
    assert_eq!(reply.status, StatusCode::CREATED, "parameters and case of the type do not matter");
}

#[tokio::test]
async fn bad_bodies() {
    let reply = post("/cam/whip", "application/json", "{}").await;
    refused(&reply, 415, "application/sdp");
    assert_eq!(reply.header("accept-post"), "application/sdp");
    refused(&ask(open_server(), "POST", "/cam/whip", &[], OFFER).await, 415, "none");
    refused(&post("/cam/whip", "application/sdp", "").await, 400, "empty");
    refused(&post("/cam/whip", "application/sdp", vec![0xff, 0xfe]).await, 400, "UTF-8");
    refused(&post("/bad/whip", "application/sdp", "hello").await, 400, "line 1");
    refused(&post("/cam/whip", "application/sdp", vec![b'v'; 65_537]).await, 413, "65536 bytes");
    assert_eq!(post("/cam/whip", "application/sdp", vec![b'v'; 65_536]).await.status, StatusCode::CREATED);
}

#[tokio::test]
async fn oversized_bodies_are_refused_by_length_and_without() {
    for length in [Some("10485760"), None] {
        let mut headers = vec![("content-type", "application/sdp")];
        headers.extend(length.map(|length| ("content-length", length)));
        let reply = ask(open_server(), "POST", "/cam/whep", &headers, vec![b'v'; 10 << 20]).await;
        refused(&reply, 413, "http_body_bytes");
        assert_eq!(reply.header("connection"), "close");
    }
}

#[tokio::test]
async fn body_that_never_comes_times_out() {
    let mut config = Config::default();
    config.http.request_timeout_ms = 100;
    let never = Body::from_stream(futures::stream::pending::<Result<&'static [u8], std::io::Error>>());
    let headers = [("content-type", "application/sdp")];
    refused(&ask(router(&config, scripted()), "POST", "/cam/whip", &headers, never).await, 408, "in time");
}

#[tokio::test]
async fn refusals_of_the_control_task() {
    refused(&post("/busy/whip", "application/sdp", OFFER).await, 409, "publisher already");
    refused(&post("/odd/whip", "application/sdp", OFFER).await, 406, "no codec");
    let full = post("/full/whep", "application/sdp", OFFER).await;
    refused(&full, 503, "in use");
    assert_eq!(full.header("retry-after"), "2");
}

#[tokio::test]
async fn a_dead_or_stuck_control_task_is_503() {
    let (sender, commands) = mpsc::channel(1);
    let dead = router(&Config::default(), Control::new(sender));
    drop(commands);
    let headers = [("content-type", "application/sdp")];
    refused(&ask(dead.clone(), "POST", "/cam/whip", &headers, OFFER).await, 503, "stopping");
    refused(&ask(dead, "GET", "/healthz", &[], "").await, 503, "stopping");

    let (sender, _commands) = mpsc::channel(1);
    let mut config = Config::default();
    config.http.request_timeout_ms = 100;
    let stuck = router(&config, Control::new(sender));
    refused(&ask(stuck, "POST", "/cam/whip", &headers, OFFER).await, 503, "overloaded");
}

#[tokio::test]
async fn too_many_requests_at_a_time_are_503() {
    let (sender, _commands) = mpsc::channel(16);
    let mut config = Config::default();
    config.limits.http_requests = 1;
    let router = router(&config, Control::new(sender));
    let headers = &[("content-type", "application/sdp")];
    let first = tokio::spawn(ask(router.clone(), "POST", "/cam/whip", headers, OFFER));
    tokio::task::yield_now().await;
    let second = ask(router, "POST", "/cam/whip", headers, OFFER).await;
    refused(&second, 503, "http_requests");
    assert_eq!(second.header("retry-after"), "2");
    first.abort();
}

#[tokio::test]
async fn patch_trickles_and_restarts() {
    let trickled = patch("known", "\"e1\"", "a=candidate").await;
    assert_eq!((trickled.status, trickled.body.as_str()), (StatusCode::NO_CONTENT, ""));
    for wildcard in ["*", "\"*\""] {
        let restarted = patch("known", wildcard, "a=ice-ufrag").await;
        assert_eq!(restarted.status, StatusCode::OK);
        assert_eq!(restarted.header("content-type"), "application/trickle-ice-sdpfrag");
        assert_eq!(restarted.header("etag"), "\"e2\"");
        assert_eq!(restarted.body, FRAGMENT);
    }
    refused(&patch("known", "", "x").await, 428, "If-Match");
    refused(&patch("known", "\"e0\"", "x").await, 412, "another");
    refused(&patch("known", "unquoted", "x").await, 400, "quotes");
    refused(&patch("known", "W/\"e1\"", "x").await, 400, "strong");
    refused(&patch("other", "\"e1\"", "x").await, 404, "no such session");
    refused(&patch("known", "*", "").await, 400, "empty");
    let mistyped = ask(open_server(), "PATCH", "/cam/whep/known", &[("content-type", "application/sdp")], "x").await;
    refused(&mistyped, 415, "trickle-ice-sdpfrag");
    assert_eq!(mistyped.header("accept-patch"), "application/trickle-ice-sdpfrag");
}

#[tokio::test]
async fn delete_closes() {
    let closed = ask(open_server(), "DELETE", "/cam/whip/known", &[], "").await;
    assert_eq!(closed.status, StatusCode::OK);
    refused(&ask(open_server(), "DELETE", "/cam/whip/other", &[], "").await, 404, "no such session");
}

#[tokio::test]
async fn other_methods_are_405() {
    for method in ["PUT", "DELETE", "PATCH"] {
        let reply = ask(open_server(), method, "/cam/whip", &[], "").await;
        assert_eq!(reply.status, StatusCode::METHOD_NOT_ALLOWED, "{method}");
        assert_eq!(reply.header("allow"), "GET, HEAD, POST, OPTIONS", "{method}");
    }
    for method in ["POST", "PUT"] {
        let reply = ask(open_server(), method, "/cam/whep/known", &[], "").await;
        refused(&reply, 405, "DELETE");
        assert_eq!(reply.header("allow"), "GET, HEAD, PATCH, DELETE, OPTIONS");
    }
    // RFC 9725 §4.1: what has no representation is answered without content.
    for (method, path) in [("GET", "/cam/whip"), ("HEAD", "/cam/whip"), ("GET", "/cam/whep/known")] {
        let reply = ask(open_server(), method, path, &[], "").await;
        assert_eq!((reply.status, reply.body.as_str()), (StatusCode::NO_CONTENT, ""), "{method} {path}");
    }
    let reply = ask(open_server(), "POST", "/cam", &[], "").await;
    refused(&reply, 405, "method");
    assert_eq!(reply.header("allow"), "GET,HEAD");
}

#[tokio::test]
async fn options_and_cors() {
    let headers = [
        ("origin", "https://tv.example"),
        ("access-control-request-method", "POST"),
        ("access-control-request-headers", "authorization,content-type,if-match"),
    ];
    let reply = ask(open_server(), "OPTIONS", "/cam/whip", &headers, "").await;
    assert_eq!(reply.status, StatusCode::OK);
    assert_eq!(reply.header("accept-post"), "application/sdp");
    assert_eq!(reply.header("allow"), "GET, HEAD, POST, OPTIONS");
    assert_eq!(reply.header("access-control-allow-origin"), "*");
    for name in ["authorization", "content-type", "if-match"] {
        assert!(reply.header("access-control-allow-headers").contains(name), "{name}");
    }
    for method in [Method::POST, Method::PATCH, Method::DELETE] {
        assert!(reply.header("access-control-allow-methods").contains(method.as_str()), "{method}");
    }
    let resource = ask(open_server(), "OPTIONS", "/cam/whep/known", &headers, "").await;
    assert_eq!(resource.header("accept-patch"), "application/trickle-ice-sdpfrag");

    let opened = ask(
        open_server(),
        "POST",
        "/cam/whep",
        &[("origin", "https://tv.example"), ("content-type", "application/sdp")],
        OFFER,
    )
    .await;
    for name in ["location", "etag", "link", "accept-patch"] {
        assert!(opened.header("access-control-expose-headers").contains(name), "{name}");
    }
}

#[tokio::test]
async fn cors_can_be_restricted() {
    let mut config = Config::default();
    config.http.allowed_origins = vec!["https://tv.example".into()];
    let router = router(&config, scripted());
    let from = |origin: &'static str| {
        let router = router.clone();
        async move {
            let headers = [("origin", origin), ("content-type", "application/sdp")];
            ask(router, "POST", "/cam/whep", &headers, OFFER).await.header("access-control-allow-origin").to_owned()
        }
    };
    assert_eq!(from("https://tv.example").await, "https://tv.example");
    assert_eq!(from("https://evil.example").await, "");
}

#[tokio::test]
async fn tokens() {
    let mut config = Config::default();
    config.auth.publish_token = Secret::new("pub");
    config.auth.play_token = Secret::new("play");
    config.auth.api_token = Secret::new("api");
    let router = router(&config, scripted());
    let status = async |method: &str, path: &str, token: &str| {
        let given = format!("Bearer {token}");
        let mut headers = vec![("content-type", "application/sdp")];
        headers.extend((!token.is_empty()).then_some(("authorization", given.as_str())));
        ask(router.clone(), method, path, &headers, OFFER).await
    };
    assert_eq!(status("POST", "/cam/whip", "pub").await.status, StatusCode::CREATED);
    assert_eq!(status("POST", "/cam/whep", "play").await.status, StatusCode::CREATED);
    assert_eq!(status("GET", "/api/v1/state", "api").await.status, StatusCode::OK);
    assert_eq!(status("DELETE", "/cam/whip/known", "pub").await.status, StatusCode::OK);
    let missing = status("POST", "/cam/whip", "").await;
    refused(&missing, 401, "Authorization: Bearer");
    assert_eq!(missing.header("www-authenticate"), "Bearer");
    let wrong = status("POST", "/cam/whip", "play").await;
    refused(&wrong, 401, "not the bearer token");
    assert_eq!(wrong.header("www-authenticate"), "Bearer error=\"invalid_token\"");
    refused(&status("DELETE", "/cam/whep/known", "pub").await, 401, "token");
    refused(&status("PATCH", "/cam/whep/known", "").await, 401, "token");
    let api = status("GET", "/api/v1/state", "").await;
    assert_eq!((api.status, api.header("content-type")), (StatusCode::UNAUTHORIZED, "application/problem+json"));
}

#[tokio::test]
async fn stream_names() {
    refused(&post("/.x/whip", "application/sdp", OFFER).await, 400, "dot");
    refused(&post("/a%20b/whip", "application/sdp", OFFER).await, 400, "A-Z");
    refused(&post("/a%ff/whip", "application/sdp", OFFER).await, 400, "UTF-8");
    refused(&post("/metrics/whep", "application/sdp", OFFER).await, 400, "reserved");
    refused(&post(&format!("/{}/whip", "x".repeat(65)), "application/sdp", OFFER).await, 400, "64");
    refused(&ask(open_server(), "GET", "/api", &[], "").await, 400, "reserved");
    refused(&ask(open_server(), "GET", "/a/b/c/d/e", &[], "").await, 404, "/NAME/publish");
}

#[tokio::test]
async fn names_with_slashes() {
    let opened = post("/site/door/whep", "application/sdp", OFFER).await;
    assert_eq!((opened.status, opened.header("location")), (StatusCode::CREATED, "/site/door/whep/s1"));
    let closed = ask(open_server(), "DELETE", "/site/door/whep/known", &[], "").await;
    assert_eq!(closed.status, StatusCode::OK);
    for page in ["/site/door", "/site/door/", "/site/door/publish", "/site%2Fdoor", "/site/door?x=1"] {
        assert_eq!(ask(open_server(), "GET", page, &[], "").await.status, StatusCode::OK, "{page}");
    }
    assert_eq!(ask(open_server(), "GET", "/site/assets/play.js", &[], "").await.status, StatusCode::OK);
    assert_eq!(ask(open_server(), "GET", "/api/v1/streams/a/b/notes", &[], "").await.status, StatusCode::OK);
    refused(&post("/site/publish/whep", "application/sdp", OFFER).await, 400, "reserved");
    refused(&post("/site//whep", "application/sdp", OFFER).await, 400, "slashes");
}

#[tokio::test]
async fn observation() {
    assert_eq!(ask(open_server(), "GET", "/healthz", &[], "").await.body, "ok\n");
    let state = ask(open_server(), "GET", "/api/v1/state", &[], "").await;
    assert_eq!(state.header("content-type"), "application/json");
    assert!(state.body.contains("192.0.2.1:5"));
    let streams = ask(open_server(), "GET", "/api/v1/streams", &[], "").await;
    assert_eq!(streams.body, r#"{"streams":[{"live":true,"name":"cam","viewers":2}]}"#);
    let notes = ask(open_server(), "GET", "/api/v1/streams/cam/notes", &[], "").await;
    assert_eq!(notes.body, r#"{"notes":[]}"#);
    let mut config = Config::default();
    config.http.index = false;
    refused(&ask(router(&config, scripted()), "GET", "/api/v1/streams", &[], "").await, 403, "http.index");
}

#[tokio::test]
async fn a_session_is_seen_by_whoever_has_its_id() {
    let known = ask(open_server(), "GET", "/api/v1/own-session/known", &[("origin", "https://tv.example")], "").await;
    assert_eq!(known.body, r#"{"message":"","state":"live"}"#);
    assert_eq!(known.header("access-control-allow-origin"), "*");
    assert_eq!(known.header("cache-control"), "no-store");
    refused(&ask(open_server(), "GET", "/api/v1/own-session/other", &[], "").await, 404, "no such session");
}

/// Of a thousand who ask at once, and of a probe that asks all the time, the control task hears little.
#[tokio::test]
async fn health_costs_the_control_task_nothing_and_lists_little() {
    let (sender, mut commands) = mpsc::channel(2048);
    let asked = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let count = asked.clone();
    tokio::spawn(async move {
        while let Some(command) = commands.recv().await {
            if let Command::Snapshot { reply } = command {
                count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
                drop(reply.send(json!({ "streams": [], "sessions": [] })));
            }
        }
    });
    let router = router(&Config::default(), Control::new(sender));
    for _ in 0..100 {
        assert_eq!(ask(router.clone(), "GET", "/healthz", &[], "").await.status, StatusCode::OK);
    }
    assert_eq!(asked.load(std::sync::atomic::Ordering::Relaxed), 0);
    let all = (0..500).map(|_| tokio::spawn(ask(router.clone(), "GET", "/api/v1/state", &[], "")));
    for one in all.collect::<Vec<_>>() {
        assert_eq!(one.await.unwrap().status, StatusCode::OK);
    }
    assert!(asked.load(std::sync::atomic::Ordering::Relaxed) <= 10);
}

#[tokio::test]
async fn management_is_for_no_page_of_others() {
    for (path, open) in [("/api/v1/streams", true), ("/api/v1/state", false), ("/healthz", false), ("/metrics", false)]
    {
        let reply = ask(open_server(), "GET", path, &[("origin", "https://tv.example")], "").await;
        assert_eq!(!reply.header("access-control-allow-origin").is_empty(), open, "{path}");
    }
}

/// Twenty wrong tokens from one address, and it waits; others do not.
#[tokio::test]
async fn guessing_is_slowed_by_address() {
    let mut config = Config::default();
    config.auth.publish_token = Secret::new("right");
    config.http.trusted_proxies = vec!["192.0.2.0/24".parse().unwrap()];
    let router = router(&config, scripted());
    let post = |client: &'static str, token: &'static str| {
        let router = router.clone();
        async move {
            let mut request = Request::builder().method("POST").uri("/cam/whip");
            for (name, value) in [("content-type", "application/sdp"), ("authorization", token)] {
                request = request.header(name, value);
            }
            let mut request = request.header("x-forwarded-for", client).body(Body::from(OFFER)).unwrap();
            let proxy = std::net::SocketAddr::from(([192, 0, 2, 1], 1));
            request.extensions_mut().insert(axum::extract::ConnectInfo(proxy));
            router.oneshot(request).await.unwrap().status().as_u16()
        }
    };
    for _ in 0..20 {
        assert_eq!(post("198.51.100.1", "Bearer wrong").await, 401);
    }
    assert_eq!(post("198.51.100.1", "Bearer right").await, 429);
    assert_eq!(post("198.51.100.2", "Bearer right").await, 201);
}

/// The document describes what is there, no less and no more.
#[tokio::test]
async fn the_document_describes_the_router() {
    let reply = ask(open_server(), "GET", "/api/v1/openapi.json", &[], "").await;
    assert_eq!(reply.status, StatusCode::OK);
    let document: serde_json::Value = serde_json::from_str(&reply.body).unwrap();
    let paths = document["paths"].as_object().unwrap();
    let described: std::collections::BTreeSet<&str> = paths.keys().map(String::as_str).collect();
    let public = ["/api/v1/streams", "/api/v1/streams/{stream}/notes"];
    let there = super::manage::table().into_iter().map(|(path, _)| path).chain(public).collect();
    assert_eq!(described, there);
    for (path, item) in paths {
        let at = path.replace("{stream}", "cam").replace("{session}", "known");
        for method in ["GET", "PUT", "POST", "PATCH", "DELETE"] {
            if path == "/api/v1/events" && method == "GET" {
                continue;
            }
            let reply = ask(open_server(), method, &at, &[("content-type", "application/json")], "{}").await;
            let known = item.get(method.to_ascii_lowercase());
            assert_eq!(reply.status != StatusCode::METHOD_NOT_ALLOWED, known.is_some(), "{method} {path}");
            let Some(known) = known else { continue };
            let answers = known["responses"].as_object().unwrap();
            assert!(answers.contains_key(reply.status.as_str()), "{method} {path}: {} {}", reply.status, reply.body);
            if !reply.status.is_success() {
                assert_eq!(reply.header("content-type"), "application/problem+json", "{method} {path}");
            }
        }
    }
}

#[tokio::test]
async fn sessions_are_shown_and_ended() {
    let status = async |method: &str, path: &str| ask(open_server(), method, path, &[], "").await.status.as_u16();
    assert_eq!(status("DELETE", "/api/v1/sessions/known").await, 204);
    assert_eq!(status("DELETE", "/api/v1/sessions/none").await, 404);
    assert_eq!(status("GET", "/api/v1/sessions/none").await, 404);
    assert_eq!(status("DELETE", "/api/v1/streams/cam/publisher").await, 204);
    assert_eq!(status("DELETE", "/api/v1/streams/none/publisher").await, 404);
    let list = ask(open_server(), "GET", "/api/v1/sessions", &[], "").await;
    assert_eq!(list.body, r#"{"sessions":[{"peer":"192.0.2.1:5"}]}"#);
    let figures = ask(open_server(), "GET", "/api/v1/statistics", &[], "").await;
    assert!(figures.body.contains(r#""sessions":1"#) && !figures.body.contains("192.0.2.1"), "{}", figures.body);
}

#[tokio::test]
async fn a_drained_server_says_so() {
    let router = open_server();
    let json = [("content-type", "application/json")];
    let form = ask(router.clone(), "POST", "/api/v1/drain", &[("content-type", "text/plain")], "{}").await;
    assert_eq!(form.status, StatusCode::UNSUPPORTED_MEDIA_TYPE, "a page of another site could send it");
    let drained = ask(router.clone(), "POST", "/api/v1/drain", &json, "{}").await;
    assert_eq!(drained.body, r#"{"draining":true,"sessions":1}"#);
    refused(&ask(router.clone(), "GET", "/healthz", &[], "").await, 503, "drained");
    refused(
        &ask(router.clone(), "POST", "/cam/whip", &[("content-type", "application/sdp")], OFFER).await,
        503,
        "drained",
    );
    assert_eq!(ask(router.clone(), "DELETE", "/api/v1/drain", &[], "").await.status, StatusCode::NO_CONTENT);
    assert_eq!(ask(router, "GET", "/healthz", &[], "").await.body, "ok\n");
}

/// Without a token for it, it is for this host, asked by its own name, by nobody's proxy.
#[tokio::test]
async fn management_is_for_this_host_unless_somebody_has_the_right() {
    let from = async |config: &Config, peer: [u8; 4], headers: &[(&str, &str)], path: &str| {
        let mut request = Request::builder().uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let local = peer[0] == 127;
        let request = request.extension(axum::extract::ConnectInfo(std::net::SocketAddr::from((peer, 9))));
        let request = request.extension(super::server::Link { encrypted: false, local });
        let answer = router(config, scripted()).oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
        // The scripted control task has no figures to show.
        if answer.status() == StatusCode::INTERNAL_SERVER_ERROR { 200 } else { answer.status().as_u16() }
    };
    let (near, far) = ([127, 0, 0, 1], [198, 51, 100, 7]);
    let closed = Config::default();
    for path in ["/api/v1/state", "/api/v1/sessions", "/metrics", "/api/v1/openapi.json"] {
        assert_eq!(from(&closed, near, &[], path).await, 200, "{path}");
        assert_eq!(from(&closed, near, &[("host", "localhost:8080")], path).await, 200, "{path}");
        assert_eq!(from(&closed, near, &[("host", "[::1]:8080")], path).await, 200, "{path}");
        assert_eq!(from(&closed, far, &[], path).await, 403, "{path}");
        assert_eq!(from(&closed, near, &[("x-forwarded-for", "127.0.0.1")], path).await, 403, "{path}");
        assert_eq!(from(&closed, near, &[("host", "rebound.example")], path).await, 403, "{path}");
    }
    assert_eq!(from(&closed, far, &[], "/healthz").await, 200);
    let mut open = Config::default();
    open.http.open_management = true;
    assert_eq!(from(&open, far, &[], "/metrics").await, 200);
    let some =
        "[[auth.users]]\nname = \"any\"\naddresses = [\"198.51.100.0/24\"]\npermissions = [{ action = \"metrics\" }]";
    let some = Config::parse(some, "t").unwrap();
    assert_eq!(from(&some, far, &[], "/metrics").await, 200);
    assert_eq!(from(&some, far, &[], "/api/v1/state").await, 403);
    assert_eq!(from(&some, [203, 0, 113, 1], &[], "/metrics").await, 401);
    let mut token = Config::default();
    token.auth.api_token = Secret::new("t");
    assert_eq!(from(&token, near, &[], "/metrics").await, 401);
    assert_eq!(from(&token, far, &[("authorization", "Bearer t")], "/metrics").await, 200);
    assert_eq!(from(&token, far, &[("authorization", "Basic eDp0")], "/metrics").await, 200, "a browser's way");
}

#[tokio::test]
async fn tokens_may_come_in_the_url_unless_the_configuration_says_no() {
    let mut config = Config::default();
    config.auth.play_token = Secret::new("play");
    let headers = [("content-type", "application/sdp")];
    let post =
        async |config: &Config, path: &str| ask(router(config, scripted()), "POST", path, &headers, OFFER).await.status;
    assert_eq!(post(&config, "/cam/whep?token=play").await, StatusCode::CREATED);
    assert_eq!(post(&config, "/cam/whep?jwt=play").await, StatusCode::CREATED);
    assert_eq!(post(&config, "/cam/whep?token=other").await, StatusCode::UNAUTHORIZED);
    config.auth.token_in_query = false;
    assert_eq!(post(&config, "/cam/whep?token=play").await, StatusCode::UNAUTHORIZED);
}
