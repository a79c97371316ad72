//! What the player's page, module and element do beside playing: parameters, embedding, words for what there is not to be
//! seen, and gestures.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::json;
use tests_kit::browser::watch::{START, pause, publish, screenshot_path, shows_a_moving_picture};
use tests_kit::browser::{Autoplay, Browser, Page, wait_until};
use tests_kit::site::Site;
use tests_kit::stage::Stage;

/// Addresses in the viewers' network.
const SITE: &str = "10.61.0.3:80";
const PROXY: &str = "10.61.0.3:81";

/// Notes every word that the header has shown, and every request.
const NOTES: &str = "
    window.words = [];
    window.requests = [];
    const ask = window.fetch;
    window.fetch = (url, options) => { requests.push(`${options?.method ?? 'GET'} ${url}`); return ask(url, options); };
    new MutationObserver(() => {
        const word = document.getElementById('status')?.textContent;
        if (word && word !== words.at(-1)) words.push(word);
    }).observe(document, { subtree: true, childList: true, characterData: true });";

struct Scene {
    publisher: Page,
    viewer: Browser,
    _publishing: Browser,
    stage: Stage,
}

impl Scene {
    fn new(autoplay: Autoplay) -> Result<Self> {
        let stage = Stage::apart("")?;
        let publishing = Browser::launch("publisher", &stage.near, Some(&stage.publishing_origin()))?;
        let viewer = Browser::launch_chromium("viewer", stage.viewers(), None, autoplay)?;
        let publisher = publish(&publishing, &stage.publishing_origin(), "show", "VP8")?;
        Ok(Self { publisher, viewer, _publishing: publishing, stage })
    }

    fn open(&self, path: &str) -> Result<Page> {
        self.viewer.open_with(&format!("{}{path}", self.stage.viewing_origin()), NOTES)
    }

    fn live(&self, path: &str) -> Result<Page> {
        let page = self.open(path)?;
        page.wait_for("penstock.state === 'live'", START)?;
        Ok(page)
    }
}

#[test]
fn the_page_by_its_parameters() -> Result<()> {
    let scene = Scene::new(Autoplay::All)?;
    scene.stage.explain((|| {
        plain(&scene)?;
        parameters(&scene)?;
        without_webrtc(&scene)?;
        through_a_proxy(&scene)?;
        on_another_site(&scene)?;
        wall(&scene)?;
        still(&scene)
    })())
}

fn plain(scene: &Scene) -> Result<()> {
    let page = scene.live("/show")?;
    shows_a_moving_picture(&page)?;
    let offer = page.evaluate("penstock.pc.localDescription.sdp")?.to_string();
    ensure!(offer.contains("stereo=1"), "{offer}");
    let words = page.evaluate("words")?;
    ensure!(!words.to_string().contains("Paused"), "{words}");
    // By keys: sound, and a rest.
    page.press("m")?;
    page.wait_for("!document.querySelector('video').muted", START)?;
    page.press("k")?;
    page.wait_for("document.getElementById('status').textContent === 'Paused'", START)?;
    page.press("k")?;
    page.wait_for("penstock.state === 'live'", START)?;
    for (name, width, height, phone, light) in
        [("player-phone", 390, 844, true, false), ("player-desktop", 1280, 800, false, true)]
    {
        page.be_like(width, height, phone, light)?;
        page.wait_for("document.documentElement.scrollWidth <= innerWidth", START)?;
        page.screenshot(&screenshot_path(name))?;
    }
    ensure!(page.console().is_empty(), "{}", page.report());
    page.close()
}

/// The video's switches, as `controls muted autoplay playsInline disablePictureInPicture`.
fn parameters(scene: &Scene) -> Result<()> {
    for (query, wanted) in [
        ("", [true, true, true, true, false]),
        ("?controls=0&muted=NO", [false, false, true, true, false]),
        ("?controls=false&autoplay=0&playsInline=no", [false, true, false, false, false]),
        ("?controls=yes&muted&disablepictureinpicture=1", [true, true, true, true, true]),
        ("?controls=perhaps&colour=green&muted=", [true, true, true, true, false]),
    ] {
        let page = scene.open(&format!("/show/{query}"))?;
        let video = page.evaluate(
            "(({ controls, muted, autoplay, playsInline, disablePictureInPicture }) =>
                [controls, muted, autoplay, playsInline, disablePictureInPicture])(document.querySelector('video'))",
        )?;
        ensure!(video == json!(wanted), "{query}: {video}");
        page.close()?;
    }
    let page = scene.open("/show?autoplay=false")?;
    ensure!(page.evaluate("penstock.state")? == "idle" && page.evaluate("requests")? == json!([]));
    page.tap("penstock-player > button")?;
    page.wait_for("penstock.state === 'live'", START)?;
    page.close()?;

    let page = scene.live("/show?embed&controls=0")?;
    let shown = page.evaluate("document.body.innerText.trim()")?;
    ensure!(shown == "", "beside the picture: {shown}");
    let whole = "(({ width, height }) => width === innerWidth && height === innerHeight)\
                 (document.querySelector('video').getBoundingClientRect())";
    page.wait_for(whole, START)?;
    page.screenshot(&screenshot_path("embed"))?;
    page.close()
}

fn without_webrtc(scene: &Scene) -> Result<()> {
    let page = scene.viewer.open_with(
        &format!("{}/show", scene.stage.viewing_origin()),
        &format!("delete window.RTCPeerConnection; {NOTES}"),
    )?;
    page.wait_for("document.body.innerText.includes('no WebRTC')", START)?;
    std::thread::sleep(Duration::from_secs(2));
    ensure!(page.evaluate("requests")? == json!([]), "it tries nevertheless");
    ensure!(page.evaluate("penstock.state")? == "error");
    page.close()
}

/// A proxy that serves us under a path, and does not say so.
fn through_a_proxy(scene: &Scene) -> Result<()> {
    let server = "10.61.0.1:8080".parse()?;
    let proxy = Site::of_proxy(scene.stage.viewers(), PROXY, "/tv/live", server)?;
    let page = scene.viewer.open_with(&format!("{}/tv/live/show/", proxy.origin), NOTES)?;
    page.wait_for("penstock.state === 'live'", START)?;
    ensure!(page.evaluate("document.getElementById('stream').textContent")? == "show");
    // The session is found again, for a restart and at the end.
    page.evaluate("penstock.restartIce()")?;
    page.wait_for("requests.some(request => /PATCH .*tv.live.show.whep/.test(request))", START)?;
    page.wait_for("penstock.state === 'live'", START)?;
    page.close()?;
    until_viewers(scene, 0)
}

/// Two elements, an iframe without any leave, and one in a sandbox, on a page of others.
fn on_another_site(scene: &Scene) -> Result<()> {
    let ours = scene.stage.viewing_origin();
    let site = Site::of_page(
        scene.stage.viewers(),
        SITE,
        format!(
            "<!doctype html><title>theirs</title>
            <script type=module src='{ours}/player.js'></script>
            <penstock-player id=one src='{ours}/show' controls=no></penstock-player>
            <penstock-player id=two src='{ours}/show/whep'><video class=theirs></video></penstock-player>
            <iframe src='{ours}/show?embed' width=320 height=180></iframe>
            <iframe src='{ours}/show?embed' width=320 height=180 sandbox=allow-scripts></iframe>"
        ),
    )?;
    let page = scene.viewer.open_with(
        &site.origin,
        "window.events = []; addEventListener('DOMContentLoaded', () => document.querySelectorAll('penstock-player')
            .forEach(one => one.addEventListener('statechange', ({ detail }) => events.push(detail.state))));",
    )?;
    page.wait_for("['one', 'two'].every(id => document.getElementById(id).state === 'live')", START)?;
    ensure!(page.evaluate("two.video.className === 'theirs' && two.querySelectorAll('video').length === 1")? == true);
    ensure!(page.evaluate("events.filter(state => state === 'live').length")? == 2);
    until_viewers(scene, 4)?;
    // One is taken away, another is told to stop, and to play again.
    page.evaluate("(one.remove(), two.stop(), two.state)")?;
    until_viewers(scene, 2)?;
    page.evaluate("void two.play()")?;
    page.wait_for("two.state === 'live'", START)?;
    page.close()?;
    until_viewers(scene, 0)
}

fn until_viewers(scene: &Scene, wanted: u64) -> Result<()> {
    wait_until(&format!("there are {wanted} viewers"), START, || {
        let state = scene.stage.server.get("/api/v1/state")?;
        Ok((state["streams"][0]["viewers"] == wanted).then_some(()))
    })
}

fn wall(scene: &Scene) -> Result<()> {
    let page = scene.open("/")?;
    page.wait_for("document.querySelector('#streams button.play')", START)?;
    until_viewers(scene, 0)?;
    page.tap("#streams button.play")?;
    page.wait_for("document.querySelector('penstock-player')?.state === 'live'", START)?;
    page.screenshot(&screenshot_path("wall"))?;
    page.close()?;
    let page = scene.open("/?wall")?;
    page.wait_for("document.querySelector('penstock-player')?.state === 'live'", START)?;
    page.tap("#wall")?;
    until_viewers(scene, 0)?;
    page.close()
}

/// A publisher that is there and sends nothing: the page does not call it live, and says what the server knows.
fn still(scene: &Scene) -> Result<()> {
    let page = scene.live("/show")?;
    pause(&scene.publisher)?;
    page.wait_for("document.body.innerText.includes('connected, but sends nothing')", START)?;
    ensure!(page.evaluate("penstock.state")? == "wait");
    page.screenshot(&screenshot_path("still"))?;
    page.close()
}

/// In a browser as its vendor ships it, on a page that its viewer has never touched.
#[test]
fn sound_waits_for_a_tap() -> Result<()> {
    let scene = Scene::new(Autoplay::Muted)?;
    scene.stage.explain((|| {
        // Muted, all goes by itself.
        scene.live("/show")?.close()?;
        let page = scene.live("/show?muted=false&controls=0")?;
        page.wait_for("document.body.innerText.includes('Tap for sound')", START)?;
        ensure!(
            page.evaluate("document.querySelector('video').muted && !document.querySelector('video').paused")? == true
        );
        page.tap("penstock-player > button")?;
        page.wait_for("!document.querySelector('video').muted && penstock.state === 'live'", START)?;
        page.close()?;
        // And where nothing plays without one.
        let strict = "let touched = false;
            addEventListener('click', () => (touched = true), true);
            const play = HTMLMediaElement.prototype.play;
            HTMLMediaElement.prototype.play = function () {
                return touched ? play.call(this) : Promise.reject(new DOMException('gesture', 'NotAllowedError'));
            };
            Object.defineProperty(HTMLMediaElement.prototype, 'autoplay', { value: false, writable: true });";
        let page = scene.viewer.open_with(&format!("{}/show", scene.stage.viewing_origin()), strict)?;
        page.wait_for("document.getElementById('status').textContent === 'Tap to play'", START)?;
        page.screenshot(&screenshot_path("tap"))?;
        page.tap("penstock-player > button")?;
        page.wait_for("penstock.state === 'live' && !document.querySelector('video').paused", START)?;
        page.close()
    })())
}

/// Where a browser gives no camera, the page says so before anybody presses anything.
#[test]
fn the_publisher_page_says_why_it_cannot() -> Result<()> {
    let stage = Stage::apart("")?;
    let browser = Browser::launch("publisher", &stage.near, None)?;
    stage.explain((|| {
        let page = browser.open(&format!("{}/show/publish", stage.publishing_origin()))?;
        page.wait_for("document.body.innerText.includes('https://')", START)?;
        ensure!(page.evaluate("document.getElementById('start').disabled")? == true);
        page.screenshot(&screenshot_path("cannot-publish"))?;
        page.close()
    })())
}

/// What a server or a proxy on the way may answer, of whatever make: content type, status, body; and what is shown of it.
const REFUSALS: &[(&str, u16, &str, &str, &str)] = &[
    (
        "application/problem+json",
        406,
        r#"{"title":"Your browser knows no H.264","detail":"42e01f"}"#,
        "error",
        "42e01f",
    ),
    ("application/problem+json", 406, r#"{"title":"Not Acceptable","detail":"try VP8"}"#, "error", "try VP8"),
    ("text/plain", 406, "no codec in common", "error", "no codec in common"),
    ("text/html", 502, "<h1>nginx</h1>", "wait", "The server answers 502"),
    ("text/plain", 404, "nobody publishes it now", "wait", "Nobody publishes this stream"),
    ("text/plain", 503, "all sessions are in use", "wait", "all sessions are in use"),
];

#[test]
fn refusals_in_the_words_of_viewers() -> Result<()> {
    let stage = Stage::apart("[auth]\nplay_token = \"open-sesame\"\n")?;
    let browser = Browser::launch("viewer", stage.viewers(), None)?;
    stage.explain((|| {
        let url = format!("{}/show", stage.viewing_origin());
        for (kind, status, body, state, shown) in REFUSALS {
            let answer = format!(
                "window.fetch = async () => new Response({body:?}, {{
                    status: {status}, headers: {{ 'Content-Type': {kind:?} }} }});"
            );
            let page = browser.open_with(&url, &answer)?;
            page.wait_for(&format!("document.body.innerText.includes({shown:?})"), START)?;
            ensure!(page.evaluate("penstock.state")? == *state, "{status}");
            ensure!(page.evaluate("/<h1>|Not Acceptable/.test(document.body.innerText)")? == false);
            page.close()?;
        }
        // A token in the address, and one that is typed. Behind it nobody publishes.
        let behind = "document.getElementById('status').textContent === 'Waiting'";
        for query in ["?token=open-sesame", "?muted&jwt=open-sesame"] {
            let page = browser.open(&format!("{url}{query}"))?;
            page.wait_for(behind, START)?;
            page.close()?;
        }
        // A name with slashes, and one more at the end.
        let page = browser.open(&format!("{}/site/floor-1/cam/?token=open-sesame", stage.viewing_origin()))?;
        page.wait_for(behind, START)?;
        ensure!(page.evaluate("document.getElementById('stream').textContent")? == "site/floor-1/cam");
        page.close()?;
        let page = browser.open(&url)?;
        page.wait_for("!document.getElementById('token-form').hidden", START)?;
        page.evaluate("document.getElementById('token').value = 'open-sesame'")?;
        page.tap("#token-form button")?;
        page.wait_for(behind, START)?;
        ensure!(page.evaluate("document.getElementById('token-form').hidden")? == true);
        page.close()
    })())
}

/// A server of an earlier draft: it names no session. Then there is none to restart, and to ask for.
#[test]
fn a_server_that_names_no_session() -> Result<()> {
    let scene = Scene::new(Autoplay::All)?;
    scene.stage.explain((|| {
        let forgets = "const ask = window.fetch;
            window.posts = 0;
            window.fetch = async (url, options) => {
                const reply = await ask(url, options);
                if (options?.method !== 'POST') return reply;
                posts += 1;
                const { status, statusText } = reply;
                return new Response(await reply.text(), { status, statusText });
            };";
        let page = scene.viewer.open_with(&format!("{}/show", scene.stage.viewing_origin()), forgets)?;
        page.wait_for("penstock.state === 'live'", START)?;
        page.evaluate("penstock.restartIce()")?;
        shows_a_moving_picture(&page)?;
        ensure!(page.evaluate("[posts, penstock.state]")? == json!([1, "live"]));
        page.close()
    })())
}
