//! WHIP and WHEP as their texts have them, section by section: RFC 9725, and draft-ietf-wish-whep-04. What a server MUST
//! or SHOULD do, as far as it shows from outside. Clients' part is the players' and publishers' own tests.
//!
//! Known deviation: RFC 9725 §4.4.1 wants `rtcp-mux-only` in answers, citing RFC 8858 §3, which forbids it there. It is
//! taken in offers, and answered by `rtcp-mux` alone, as RFC 8858 has it.

use anyhow::Result;
use tests_kit::peer::{Kind, Viewers};
use tests_kit::stage::{Layout, Stage, synthetic};
use tests_kit::whip::{Client, Reply, Session};

const SDP: &str = "application/sdp";
const FRAGMENT: &str = "application/trickle-ice-sdpfrag";

/// Servers and tokens that the texts say something of.
const MORE: &str = "[http]\nice_servers = [{ url = \"stun:stun.example\" }, \
    { url = \"turn:turn.example?transport=udp\", username = \"user\", credential = \"myPassword\" }]\n\
    [auth]\npublish_token = \"to-publish\"\nplay_token = \"to-play\"\n";

/// An endpoint, and what differs between the two texts.
struct Endpoint {
    client: Client,
    url: String,
    /// Of a client's offer, and of the server's answer.
    directions: [&'static str; 2],
}

impl Endpoint {
    fn whip(stage: &Stage, name: &str) -> Self {
        Self::new(stage, &format!("{name}/whip"), "to-publish", ["sendonly", "recvonly"])
    }

    fn whep(stage: &Stage) -> Self {
        Self::new(stage, "e2e/whep", "to-play", ["recvonly", "sendonly"])
    }

    fn new(stage: &Stage, path: &str, token: &str, directions: [&'static str; 2]) -> Self {
        let client = Client { namespace: Some(stage.near.name().into()), token: Some(token.into()) };
        Self { client, url: format!("{}/{path}", stage.publishing_origin()), directions }
    }

    /// As a browser writes it, of sound and picture.
    fn offer(&self) -> String {
        let transport = "c=IN IP4 0.0.0.0\r\na=ice-ufrag:abcd\r\na=ice-pwd:abcdefghijklmnopqrstuvwx\r\n\
            a=fingerprint:sha-256 00:11:22:33:44:55:66:77:88:99:AA:BB:CC:DD:EE:FF:00:11:22:33:44:55:66:77:88:99:AA:BB:\
            CC:DD:EE:FF\r\na=setup:actpass\r\na=rtcp-mux\r\na=rtcp-mux-only\r\n";
        let direction = self.directions[0];
        let msid = if direction == "sendonly" { "a=msid:stream track\r\n" } else { "" };
        let section = |kind: &str, mid: u8, codec: &str| {
            format!(
                "m={kind} 9 UDP/TLS/RTP/SAVPF {}\r\n{transport}a=mid:{mid}\r\na={direction}\r\n{msid}a=rtpmap:{codec}\r\n",
                codec.split(' ').next().unwrap_or_default()
            )
        };
        format!(
            "v=0\r\no=- 1 2 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\na=group:BUNDLE 0 1\r\na=ice-options:trickle ice2\r\n{}{}",
            section("audio", 0, "111 opus/48000/2"),
            section("video", 1, "96 VP8/90000")
        )
    }

    fn ask(&self, method: &str, url: &str, headers: &[(&str, &str)], body: Option<(&str, &str)>) -> Result<Reply> {
        self.client.request(method, url, headers, body.map(|(kind, text)| (kind, text.as_bytes())))
    }

    fn post(&self, offer: &str) -> Result<Reply> {
        self.ask("POST", &self.url, &[], Some((SDP, offer)))
    }

    fn open(&self) -> Result<(Session, String)> {
        self.client.post(&self.url, &self.offer())
    }

    fn patch(&self, session: &Session, if_match: Option<&str>, fragment: &str) -> Result<Reply> {
        self.client.patch(session, if_match, fragment)
    }
}

fn fragment(ufrag: &str, pwd: &str) -> String {
    format!(
        "a=group:BUNDLE 0 1\r\nm=audio 9 UDP/TLS/RTP/SAVPF 111\r\na=mid:0\r\na=ice-ufrag:{ufrag}\r\na=ice-pwd:{pwd}\r\n\
         a=candidate:1 1 udp 2122260223 192.0.2.1 61764 typ host\r\n\
         a=candidate:2 1 tcp 1518280447 192.0.2.1 9 typ host tcptype active\r\n\
         a=candidate:3 1 udp 1 none.invalid 9 typ host\r\na=end-of-candidates\r\n"
    )
}

#[test]
fn rfc_9725_and_whep_section_by_section() -> Result<()> {
    let stage = Stage::new(Layout::OneNic, "native", MORE)?;
    let source = synthetic(50);
    let token = |options: tests_kit::peer::Options, token: &str| tests_kit::peer::Options {
        token: Some(token.into()),
        ..options
    };
    let publisher = stage.publish(&source, token(stage.publishing(), "to-publish"))?;
    let viewers = stage.play(1, &source, token(stage.playing(), "to-play"))?;
    stage.flows(&viewers, &[0], Kind::Video, 20)?;
    for endpoint in [Endpoint::whip(&stage, "other"), Endpoint::whep(&stage)] {
        http_usage(&endpoint)?;
        set_up(&endpoint)?;
        patches(&endpoint)?;
        constraints(&endpoint)?;
        ice_servers(&endpoint)?;
        authentication(&endpoint)?;
    }
    of_whip_alone(&Endpoint::whip(&stage, "other"), &stage)?;
    of_whep_alone(&Endpoint::whep(&stage), &stage)?;
    // None of it has touched who is there.
    stage.flows(&viewers, &[0], Kind::Video, 20)?;
    termination(&stage, viewers, publisher)
}

/// RFC 9725 §4.1, WHEP §4.1.
fn http_usage(endpoint: &Endpoint) -> Result<()> {
    let (session, _) = endpoint.open()?;
    for url in [&endpoint.url, &session.url] {
        for method in ["GET", "HEAD"] {
            let reply = endpoint.ask(method, url, &[], None)?;
            assert!((200..300).contains(&reply.status), "§4.1: {method} {url} is answered {}", reply.status);
            assert_eq!(reply.body, "", "§4.1: {method} {url} has no content");
        }
    }
    // A problem details object for who asks for it, as RFC 9457.
    let problem = endpoint.ask("POST", &endpoint.url, &[("Accept", "application/problem+json")], Some((SDP, "x")))?;
    assert_eq!((problem.status, problem.header("content-type")), (400, Some("application/problem+json")), "§4.1");
    endpoint.client.delete(&session)
}

/// RFC 9725 §4.2, WHEP §4.3.
fn set_up(endpoint: &Endpoint) -> Result<()> {
    let reply = endpoint.post(&endpoint.offer())?;
    assert_eq!((reply.status, reply.header("content-type")), (201, Some(SDP)), "§4.2: {}", reply.body);
    assert!(reply.header("location").is_some(), "§4.2: 201 has a Location");
    for section in reply.body.split("m=").skip(1) {
        assert!(section.contains(&format!("\r\na={}\r\n", endpoint.directions[1])), "§4.2, WHEP §4.3.5: {section}");
    }
    let (session, _) = endpoint.open()?;
    endpoint.client.delete(&session)?;
    // A proxy may have closed the session before: an end is an end.
    endpoint.client.delete(&session)?;
    for (kind, body) in [("application/json", endpoint.offer()), ("text/plain", endpoint.offer()), (SDP, "v=0".into())]
    {
        let reply = endpoint.ask("POST", &endpoint.url, &[], Some((kind, &body)))?;
        assert!((400..500).contains(&reply.status), "§4.2: {kind} is answered {}", reply.status);
    }
    // sendrecv MAY be used, and is answered by one direction.
    let both = endpoint.offer().replace(&format!("a={}", endpoint.directions[0]), "a=sendrecv");
    let reply = endpoint.post(&both)?;
    assert_eq!(reply.status, 201, "§4.2, WHEP §4.3.5: sendrecv: {}", reply.body);
    assert!(!reply.body.contains("a=sendrecv"), "§4.2, WHEP §4.3.5: {}", reply.body);
    // CORS: a preflight asks without a token.
    let preflight = [("Origin", "https://a.example"), ("Access-Control-Request-Method", "POST")];
    let stranger = Client { token: None, ..endpoint.client.clone() };
    let reply = stranger.request("OPTIONS", &endpoint.url, &preflight, None)?;
    assert_eq!((reply.status, reply.header("accept-post")), (200, Some(SDP)), "§4.2, WHEP §4.4");
    assert!(reply.header("access-control-allow-origin").is_some(), "§4.2, WHEP §4.4");
    let allowed = reply.header("access-control-allow-methods").unwrap_or_default().to_owned();
    assert!(["POST", "PATCH", "DELETE"].iter().all(|method| allowed.contains(method)), "§4.2: {allowed}");
    let reply = endpoint.ask("POST", &endpoint.url, &preflight[..1], Some((SDP, &endpoint.offer())))?;
    let exposed = reply.header("access-control-expose-headers").unwrap_or_default().to_ascii_lowercase();
    assert!(["location", "etag", "link"].iter().all(|name| exposed.contains(name)), "§4.2: {exposed}");
    Ok(())
}

/// RFC 9725 §4.3, WHEP §4.5.
fn patches(endpoint: &Endpoint) -> Result<()> {
    let (session, answer) = endpoint.open()?;
    assert!(session.etag.starts_with('"') && session.etag.ends_with('"'), "§4.3.1: strong entity tag {}", session.etag);
    let candidates = |text: &str| text.lines().filter(|line| line.starts_with("a=candidate:")).count();
    assert!(candidates(&answer) > 0, "§4.3.2: the answer has all candidates: {answer}");
    // §4.3.1: wrong type, malformed.
    let wrong = endpoint.ask("PATCH", &session.url, &[("If-Match", "*")], Some((SDP, "v=0")))?;
    assert!((400..500).contains(&wrong.status), "§4.3.1: {}", wrong.status);
    let malformed = endpoint.patch(&session, Some("*"), "no fragment")?;
    assert!((400..500).contains(&malformed.status), "§4.3.1: {}", malformed.status);
    // §4.3.2: trickle; what cannot be resolved and what we do not connect to is passed over.
    let same = fragment("abcd", "abcdefghijklmnopqrstuvwx");
    let trickled = endpoint.patch(&session, Some(&session.etag), &same)?;
    assert_eq!((trickled.status, trickled.body.as_str()), (204, ""), "§4.3.2: {}", trickled.body);
    assert_eq!(trickled.header("etag"), None, "§4.3.2: no ETag without a restart");
    // §4.3.1: tags that are missing or outdated.
    let new = fragment("efgh", "0123456789abcdefghijklmn");
    assert_eq!(endpoint.patch(&session, Some("\"another\""), &same)?.status, 412, "§4.3.1");
    assert_eq!(endpoint.patch(&session, Some("\"another\""), &new)?.status, 412, "§4.3.1");
    assert_eq!(endpoint.patch(&session, None, &new)?.status, 428, "§4.3.1");
    // §4.3.3: a failed restart ends nothing. Then one that succeeds, in both ways of writing the wildcard.
    for (wildcard, ufrag) in [("*", "efgh"), ("\"*\"", "ijkl")] {
        let new = fragment(ufrag, "0123456789abcdefghijklmn");
        let restarted = endpoint.patch(&session, Some(wildcard), &new)?;
        assert_eq!((restarted.status, restarted.header("content-type")), (200, Some(FRAGMENT)), "§4.3.3");
        assert!(restarted.header("etag").is_some_and(|tag| tag != session.etag), "§4.3.3: a new ETag");
        let line = |text: &str, name: &str| text.lines().find(|line| line.starts_with(name)).map(str::to_owned);
        for name in ["a=ice-ufrag:", "a=ice-pwd:"] {
            let (before, now) = (line(&answer, name), line(&restarted.body, name));
            assert!(now.is_some() && now != before, "§4.3.3: {name} is new: {}", restarted.body);
        }
        for attribute in ["a=ice-options", "a=ice-pacing", "a=ice-lite"] {
            let (before, now) = (line(&answer, attribute), line(&restarted.body, attribute));
            assert_eq!(before, now, "§4.3.3: {attribute} is the same");
        }
        assert_eq!(candidates(&restarted.body), candidates(&answer), "§4.3.3");
    }
    assert_eq!(endpoint.patch(&session, Some(&session.etag), &same)?.status, 412, "§4.3.1: the tag of before");
    // §4.3.1: where no ICE session is meant, a tag says nothing.
    let reply = endpoint.ask("DELETE", &session.url, &[("If-Match", "\"another\"")], None)?;
    assert_eq!(reply.status, 200, "§4.3.1: {}", reply.body);
    Ok(())
}

/// RFC 9725 §4.4, WHEP §4.6.
fn constraints(endpoint: &Endpoint) -> Result<()> {
    let (session, answer) = endpoint.open()?;
    let line = |name: &str| answer.lines().filter(|line| line.starts_with(name)).collect::<Vec<_>>();
    assert_eq!(line("a=group:BUNDLE"), ["a=group:BUNDLE 0 1"], "§4.4.1: {answer}");
    assert_eq!(line("a=rtcp-mux").len(), 2, "§4.4.1: {answer}");
    assert!(line("a=ice-lite").len() == 1 && line("a=end-of-candidates").len() <= 1, "§4.4.5: {answer}");
    if endpoint.directions[1] == "sendonly" {
        let streams: Vec<_> = line("a=msid:").iter().filter_map(|line| line.split([':', ' ']).nth(1)).collect();
        assert!(streams.len() == 2 && streams[0] == streams[1], "WHEP §4.6.2: one MediaStream: {answer}");
    }
    endpoint.client.delete(&session)?;
    // §4.4.4: a client that is a DTLS client only.
    for (offered, answered) in [("actpass", "passive"), ("active", "passive"), ("passive", "active")] {
        let reply = endpoint.post(&endpoint.offer().replace("a=setup:actpass", &format!("a=setup:{offered}")))?;
        assert_eq!(reply.status, 201, "§4.4.4: {offered}: {}", reply.body);
        assert!(reply.body.contains(&format!("a=setup:{answered}\r\n")), "§4.4.4: {offered}: {}", reply.body);
    }
    Ok(())
}

/// RFC 9725 §4.6, WHEP §4.8.
fn ice_servers(endpoint: &Endpoint) -> Result<()> {
    let reply = endpoint.post(&endpoint.offer())?;
    let links: Vec<_> = reply.headers.get_all("link").iter().filter_map(|link| link.to_str().ok()).collect();
    let turn = "<turn:turn.example?transport=udp>; rel=\"ice-server\"; username=\"user\"; credential=\"myPassword\"; \
                credential-type=\"password\"";
    assert_eq!(links, ["<stun:stun.example>; rel=\"ice-server\"", turn], "§4.6");
    // §4.6: preflights get none.
    let preflight = [("Origin", "https://a.example"), ("Access-Control-Request-Method", "POST")];
    let reply = endpoint.ask("OPTIONS", &endpoint.url, &preflight, None)?;
    assert_eq!(reply.header("link"), None, "§4.6");
    Ok(())
}

/// RFC 9725 §4.7, WHEP §4.9.
fn authentication(endpoint: &Endpoint) -> Result<()> {
    let (session, _) = endpoint.open()?;
    for token in [None, Some("wrong".to_owned())] {
        let stranger = Client { token, ..endpoint.client.clone() };
        let offer = endpoint.offer();
        let post = stranger.request("POST", &endpoint.url, &[], Some((SDP, offer.as_bytes())))?;
        let challenge = post.header("www-authenticate").unwrap_or_default();
        assert!(post.status == 401 && challenge.contains("Bearer"), "§4.7.1: {} {challenge}", post.status);
        let new = fragment("efgh", "0123456789abcdefghijklmn");
        assert_eq!(stranger.patch(&session, Some("*"), &new)?.status, 401, "§4.7.1");
        assert_eq!(stranger.request("DELETE", &session.url, &[], None)?.status, 401, "§4.7.1");
    }
    endpoint.client.delete(&session)
}

/// What RFC 9725 says of publishers.
fn of_whip_alone(endpoint: &Endpoint, stage: &Stage) -> Result<()> {
    // §4.4.2: more tracks of a kind than are supported.
    let video = endpoint.offer().split("m=video").nth(1).unwrap_or_default().replace("a=mid:1", "a=mid:2");
    let two = format!("{}m=video{video}", endpoint.offer().replace("BUNDLE 0 1", "BUNDLE 0 1 2"));
    let reply = endpoint.post(&two)?;
    assert!(matches!(reply.status, 400 | 422), "§4.4.2: {}", reply.status);
    // §4.4.3: what cannot be carried at all is no session.
    let reply = endpoint.post(&endpoint.offer().replace("opus/48000/2", "speex/16000").replace("VP8", "THEORA"))?;
    assert!(matches!(reply.status, 400 | 422), "§4.4.3: {}", reply.status);
    for direction in ["recvonly", "inactive"] {
        let reply = endpoint.post(&endpoint.offer().replace("a=sendonly", &format!("a={direction}")))?;
        assert!((400..500).contains(&reply.status), "§4.2: {direction} is answered {}", reply.status);
    }
    // A stream that somebody publishes.
    let taken = Endpoint::whip(stage, "e2e");
    let reply = taken.post(&taken.offer())?;
    assert_eq!(reply.status, 409, "{}", reply.body);
    Ok(())
}

/// What the draft says of players.
fn of_whep_alone(endpoint: &Endpoint, stage: &Stage) -> Result<()> {
    let head = endpoint.ask("HEAD", &endpoint.url, &[], None)?;
    assert_eq!((head.status, head.header("content-type")), (200, Some(SDP)), "WHEP §4.2");
    let get = endpoint.ask("GET", &endpoint.url, &[], None)?;
    assert_eq!(get.header("content-type"), head.header("content-type"), "WHEP §4.2: HEAD is as GET");
    // §4.3.2: a 406 with SDP would be a counter-offer: ours is a problem by RFC 9457.
    let reply = endpoint.post(&endpoint.offer().replace("opus/48000/2", "speex/16000").replace("VP8", "THEORA"))?;
    assert_eq!((reply.status, reply.header("content-type")), (406, Some("application/problem+json")), "WHEP §4.3.2");
    for direction in ["sendonly", "inactive"] {
        let reply = endpoint.post(&endpoint.offer().replace("a=recvonly", &format!("a={direction}")))?;
        assert!((400..500).contains(&reply.status), "WHEP §4.3.5: {direction} is answered {}", reply.status);
    }
    // §4.3.8: nobody publishes.
    let nobody = Endpoint::new(stage, "nobody/whep", "to-play", endpoint.directions);
    let reply = nobody.post(&nobody.offer())?;
    let retry = reply.header("retry-after").and_then(|seconds| seconds.parse::<u32>().ok());
    assert!(reply.status == 409 && retry.is_some(), "WHEP §4.3.8: {} {retry:?}", reply.status);
    Ok(())
}

/// RFC 9725 §4.2, WHEP §4.4: a DELETE ends DTLS (RFC 7675 §5.2: at once), and so does the end of the server.
fn termination(stage: &Stage, viewers: Viewers, publisher: tests_kit::peer::Publisher) -> Result<()> {
    let client = Client { namespace: Some(stage.near.name().into()), token: Some("to-publish".into()) };
    client.delete(publisher.session()?)?;
    stage.until("§4.2: the publisher's DTLS is closed", || Ok(publisher.stats().closed.is_some()))?;
    let reply = client.request("GET", &publisher.session()?.url, &[], None)?;
    assert_eq!(reply.status, 404, "§4.2: the session is removed");
    viewers.stop().map(drop)
}
