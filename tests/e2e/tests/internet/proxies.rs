//! nginx in front: 300 viewers behind one address, an attacker beside them, and the PROXY protocol.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Instant;

use anyhow::{Result, ensure};
use socket2::{Domain, Socket, Type};
use tests_kit::netns::Running;
use tests_kit::peer::Viewers;
use tests_kit::stage::{Layout, Stage, synthetic};
use tests_kit::whip::Client;

const VIEWERS: usize = 300;

/// nginx on 10.60.0.2: HTTP at 8090, connections with the PROXY protocol at 8091.
fn nginx(stage: &Stage, folder: &tempfile::TempDir) -> Result<Running> {
    let at = folder.path().display();
    let configuration = format!(
        "load_module /usr/lib/nginx/modules/ngx_stream_module.so;\n\
         daemon off; pid {at}/pid; error_log {at}/error.log; user root; worker_processes 1;\n\
         events {{ worker_connections 4096; }}\n\
         http {{ access_log off; client_body_temp_path {at}/body; proxy_temp_path {at}/proxy;\n\
           fastcgi_temp_path {at}/f; uwsgi_temp_path {at}/u; scgi_temp_path {at}/s;\n\
           server {{ listen 10.60.0.2:8090; location / {{ proxy_pass http://10.60.0.1:8080;\n\
             proxy_set_header Host $host; proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for; }} }} }}\n\
         stream {{ server {{ listen 10.60.0.2:8091; proxy_pass 10.60.0.1:8080; proxy_protocol on; }} }}\n"
    );
    let file = folder.path().join("nginx.conf");
    std::fs::write(&file, configuration)?;
    let mut command = stage.near.command("nginx");
    command.arg("-c").arg(&file).stdin(Stdio::null()).stdout(Stdio::null());
    let running = Running::start(&mut command)?;
    stage.until("nginx listens", || Ok(stage.near.run(|| TcpStream::connect("10.60.0.2:8090")).is_ok()))?;
    Ok(running)
}

#[test]
fn three_hundred_viewers_behind_one_address_and_an_attacker_beside_them() -> Result<()> {
    let stage = Stage::new(Layout::OneNic, "native", "[http]\ntrusted_proxies = [\"10.60.0.2\"]\n")?;
    let folder = tempfile::tempdir()?;
    let _nginx = nginx(&stage, &folder)?;
    let source = synthetic(20);
    let publisher = stage.publish(&source, stage.publishing())?;
    let (over, offers) = (AtomicBool::new(false), AtomicU64::new(0));
    let connected = std::thread::scope(|scope| {
        // Offers that never become sessions, from one address behind the same proxy.
        scope.spawn(|| {
            let client = Client { namespace: Some(stage.near.name().into()), token: None };
            let offer = include_str!("../../../../forwarder-user/webrtc/src/sdp/fixtures/chromium_play.sdp");
            while !over.load(Relaxed) {
                let headers = [("X-Forwarded-For", "198.51.100.66")];
                let body = Some(("application/sdp", offer.as_bytes()));
                let sent = client.request("POST", "http://10.60.0.2:8090/e2e/whep", &headers, body);
                offers.fetch_add(u64::from(sent.is_ok_and(|reply| reply.status == 201)), Relaxed);
            }
        });
        let begun = Instant::now();
        let viewers = Viewers::start("http://10.60.0.2:8090/e2e/whep", VIEWERS, source.clone(), stage.playing());
        let connected = viewers.and_then(|viewers| {
            stage
                .until("all of them are connected", || Ok(viewers.stats().iter().all(|one| one.connected.is_some())))?;
            Ok((viewers, begun.elapsed()))
        });
        over.store(true, Relaxed);
        connected
    });
    let (viewers, took) = connected?;
    println!("{VIEWERS} viewers are connected after {took:?}, beside {} offers", offers.load(Relaxed));
    ensure!(offers.load(Relaxed) > 20, "there was no attack");
    ensure!(viewers.stats().iter().all(|one| one.failed.is_none()));
    drop(viewers);
    publisher.stop().map(drop)
}

#[test]
fn the_proxy_protocol_is_read_from_trusted_proxies_alone() -> Result<()> {
    let stage = Stage::new(
        Layout::OneNic,
        "native",
        "[http]\ntrusted_proxies = [\"10.60.0.2\"]\nproxy_protocol = true\n[auth]\nplay_token = \"right\"\n",
    )?;
    let folder = tempfile::tempdir()?;
    let _nginx = nginx(&stage, &folder)?;
    let raw = |from: &str, to: &str, text: &str| {
        stage.near.run(|| {
            let mut socket = connect_from(from, to)?;
            socket.write_all(text.as_bytes())?;
            let mut answer = String::new();
            let _ = socket.read_to_string(&mut answer);
            Ok::<_, anyhow::Error>(answer)
        })
    };
    let health = "GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    ensure!(raw("10.60.0.3", "10.60.0.2:8091", health)?.starts_with("HTTP/1.1 200"), "by nginx");
    ensure!(raw("10.60.0.3", "10.60.0.1:8080", health)?.starts_with("HTTP/1.1 200"), "a stranger needs no header");
    ensure!(raw("10.60.0.2", "10.60.0.1:8080", health)?.is_empty(), "the proxy does");
    let lie = format!("PROXY TCP4 198.51.100.1 10.60.0.1 1 2\r\n{health}");
    ensure!(raw("10.60.0.3", "10.60.0.1:8080", &lie)?.starts_with("HTTP/1.1 400"), "a stranger's is no HTTP");
    // Wrong tokens count for whom the proxy names, and not for the proxy.
    let guess =
        "GET /api/v1/streams/x/notes HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer wrong\r\nConnection: close\r\n\r\n";
    for _ in 0..20 {
        ensure!(raw("10.60.0.3", "10.60.0.2:8091", guess)?.starts_with("HTTP/1.1 401"));
    }
    ensure!(raw("10.60.0.3", "10.60.0.2:8091", guess)?.starts_with("HTTP/1.1 429"));
    ensure!(raw("10.60.0.2", "10.60.0.2:8091", guess)?.starts_with("HTTP/1.1 401"), "another client of the proxy");
    Ok(())
}

/// From one of the namespace's addresses.
fn connect_from(from: &str, to: &str) -> Result<TcpStream> {
    let from: SocketAddr = format!("{from}:0").parse()?;
    let to: SocketAddr = to.parse()?;
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.bind(&from.into())?;
    socket.connect(&to.into())?;
    Ok(socket.into())
}
