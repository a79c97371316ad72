//! What the newer texts add: WHEP, problem details (RFC 9457), ICE servers (RFC 9725 §4.6), proxies.

use super::*;

/// Opens a session by way of a proxy at this address.
async fn post_by(trusted: &str, prefix: &str) -> String {
    let mut config = Config::default();
    config.http.trusted_proxies = vec![trusted.parse().unwrap()];
    let request = Request::builder().method("POST").uri("/cam/whep").header("content-type", "application/sdp");
    let mut request = request.header("x-forwarded-prefix", prefix).body(Body::from(OFFER)).unwrap();
    let proxy = std::net::SocketAddr::from(([192, 0, 2, 1], 1));
    request.extensions_mut().insert(axum::extract::ConnectInfo(proxy));
    let response = router(&config, scripted()).oneshot(request).await.unwrap();
    response.headers()["location"].to_str().unwrap().to_owned()
}

#[tokio::test]
async fn the_prefix_of_a_trusted_proxy_stands_in_the_location() {
    assert_eq!(post_by("192.0.2.1", "/x/y").await, "/x/y/cam/whep/s1");
    assert_eq!(post_by("192.0.2.2", "/x/y").await, "/cam/whep/s1");
    assert_eq!(post_by("192.0.2.1", "//evil.example").await, "/evil.example/cam/whep/s1");
    assert_eq!(post_by("192.0.2.1", "https://evil.example").await, "/cam/whep/s1");
}

#[tokio::test]
async fn a_slash_at_the_end_changes_nothing() {
    for segment in ["whip", "whep"] {
        let reply = post(&format!("/cam/{segment}/"), "application/sdp", OFFER).await;
        assert_eq!(reply.status, StatusCode::CREATED);
        assert_eq!(reply.header("location"), format!("/cam/{segment}/s1"));
        let closed = ask(open_server(), "DELETE", &format!("/cam/{segment}/known/"), &[], "").await;
        assert_eq!(closed.status, StatusCode::OK);
    }
    // Pages know how far below the root they are.
    for path in ["/cam/", "/cam/publish/"] {
        assert_eq!(ask(open_server(), "GET", path, &[], "").await.status, StatusCode::OK);
    }
    refused(&ask(open_server(), "GET", "/.cam/", &[], "").await, 400, "dot");
}

#[tokio::test]
async fn problems_have_the_form_that_is_asked_for() {
    let problem = |reply: &Reply| {
        assert_eq!(reply.header("content-type"), "application/problem+json");
        serde_json::from_str::<serde_json::Value>(&reply.body).unwrap()
    };
    // RFC 9457 §3.1.
    for accept in ["application/problem+json", "application/sdp, application/JSON;q=0.9"] {
        let headers = [("content-type", "application/sdp"), ("accept", accept)];
        for (path, status) in [("/busy/whip", 409), ("/full/whep", 503), ("/odd/whep", 406), ("/bad/whip", 400)] {
            let reply = ask(open_server(), "POST", path, &headers, OFFER).await;
            let details = problem(&reply);
            assert_eq!((reply.status.as_u16(), &details["status"]), (status, &json!(status)), "{path}");
            assert!(details["detail"].as_str().is_some_and(|detail| !detail.is_empty()));
            assert!(details["title"].is_string() && details["type"] == "about:blank");
        }
    }
    // In WHEP a 406 that is not SDP must not look like a counter-offer; others keep their text.
    let reply = post("/odd/whep", "application/sdp", OFFER).await;
    assert_eq!((reply.status.as_u16(), &problem(&reply)["detail"]), (406, &json!("no codec in common")));
    refused(&post("/odd/whip", "application/sdp", OFFER).await, 406, "no codec");
    refused(&post("/full/whep", "application/sdp", OFFER).await, 503, "in use");
}

#[tokio::test]
async fn a_viewer_is_told_what_it_gets_not() {
    let headers = [("content-type", "application/sdp"), ("origin", "https://tv.example")];
    let reply = ask(open_server(), "POST", "/cam/whep", &headers, OFFER).await;
    assert_eq!(reply.header("penstock-note"), "no picture: ?t?");
    assert!(reply.header("access-control-expose-headers").contains("penstock-note"));
}

/// RFC 9725 §4.6.
#[tokio::test]
async fn ice_servers_are_told_to_whom_may_open_a_session() {
    let servers = "[http]\nice_servers = [{ url = \"stun:a.example\" }, { url = \"turn:a.example\", secret = \"s\" }]";
    let mut config: Config = toml::from_str(servers).unwrap();
    config.auth.play_token = Secret::new("play");
    let router = router(&config, scripted());
    for (method, token, links) in [("POST", "Bearer play", 2), ("HEAD", "Bearer play", 2), ("POST", "Bearer x", 0)] {
        let headers = [("content-type", "application/sdp"), ("authorization", token)];
        let reply = ask(router.clone(), method, "/cam/whep", &headers, OFFER).await;
        let values: Vec<_> = reply.headers.get_all("link").iter().filter_map(|value| value.to_str().ok()).collect();
        assert_eq!(values.len(), links, "{method} {token}");
        assert!(links == 0 || values[1].contains(":penstock\"; credential=\""), "{values:?}");
    }
}

#[tokio::test]
async fn head_tells_what_a_post_must_have() {
    for method in ["HEAD", "GET"] {
        let reply = ask(open_server(), method, "/cam/whep", &[], "").await;
        assert_eq!((reply.status, reply.body.as_str()), (StatusCode::OK, ""));
        assert_eq!([reply.header("content-type"), reply.header("accept-post")], ["application/sdp"; 2]);
        assert_eq!(reply.header("allow"), "GET, HEAD, POST, OPTIONS");
    }
    assert_eq!(ask(open_server(), "HEAD", "/.cam/whep", &[], "").await.status, StatusCode::BAD_REQUEST);
    let mut config = Config::default();
    config.auth.play_token = Secret::new("play");
    let reply = ask(router(&config, scripted()), "HEAD", "/cam/whep", &[], "").await;
    assert_eq!(reply.status, StatusCode::UNAUTHORIZED);
}
