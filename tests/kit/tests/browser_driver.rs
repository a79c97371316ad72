//! The browser driver itself, without a server: Chromium's fake camera, WebRTC within one page, pictures.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use anyhow::Result;
use tests_kit::browser::{Browser, contrast, count, difference};
use tests_kit::netns::{End, NetNs, veth};

/// Sends the fake camera and microphone from one connection to another within the page.
const PAGE: &str = r#"<!doctype html><title>loop</title><video autoplay muted></video><script>
addEventListener('load', async () => {
    const media = await navigator.mediaDevices.getUserMedia({ audio: true, video: { width: 320, height: 240 } });
    const [here, there] = [new RTCPeerConnection(), new RTCPeerConnection()];
    here.onicecandidate = event => there.addIceCandidate(event.candidate);
    there.onicecandidate = event => here.addIceCandidate(event.candidate);
    there.ontrack = event => { document.querySelector('video').srcObject = event.streams[0]; };
    for (const track of media.getTracks()) here.addTrack(track, media);
    await here.setLocalDescription();
    await there.setRemoteDescription(here.localDescription);
    await there.setLocalDescription();
    await here.setRemoteDescription(there.localDescription);
    window.penstock = { pc: there };
    console.log('connected', 1);
});
</script>"#;

/// Serves `PAGE` to whoever asks, for as long as the test process lives.
fn serve(place: &NetNs, address: &str) -> Result<SocketAddr> {
    let listener = place.run(|| TcpListener::bind(address))?;
    let address = listener.local_addr()?;
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let _ = stream.read(&mut [0; 4096]);
                let _ = write!(
                    stream,
                    "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{PAGE}",
                    PAGE.len()
                );
            });
        }
    });
    Ok(address)
}

#[test]
fn fake_camera_is_sent_received_and_seen() -> Result<()> {
    let (server, home) = (NetNs::new("server")?, NetNs::new("browser")?);
    veth(
        End { namespace: &server, interface: "s0", addresses: &["10.83.0.1/24"] },
        End { namespace: &home, interface: "b0", addresses: &["10.83.0.2/24"] },
    )?;
    let origin = format!("http://{}", serve(&server, "10.83.0.1:0")?);
    let browser = Browser::launch("driver", &home, Some(&origin))?;
    let page = browser.open(&origin)?;
    let stats = page.wait_for_stats("ten frames decoded", Duration::from_secs(30), |stats| {
        count(stats.inbound("video"), "framesDecoded") >= 10
            && count(stats.inbound("audio"), "totalSamplesReceived") > 0
    })?;
    assert_eq!(stats.codec(stats.inbound("video")), "video/VP8");
    assert!(!stats.srtp_cipher().is_empty());
    assert!(count(stats.selected_pair(), "packetsReceived") > 0);
    assert!(page.console().contains(&"log: connected 1".to_owned()), "{}", page.report());

    let first = page.picture()?;
    assert!(contrast(&first) > 20.0, "blank: {first:?}");
    std::thread::sleep(Duration::from_millis(700));
    let moved = difference(&first, &page.picture()?);
    assert!(moved > 1.0, "the picture stands still");

    let error = format!("{:#}", page.evaluate("nothing.here").expect_err("throws"));
    assert!(error.contains("ReferenceError"), "{error}");
    page.close()
}
