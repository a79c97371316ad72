//! What a DTLS session keeps of this process's memory once it is connected. Alone in its process, so that nobody else's
//! memory is counted.

#![expect(clippy::disallowed_methods, clippy::unwrap_used, reason = "a test")]

use std::collections::VecDeque;
use std::time::Instant;

use penstock_webrtc::dtls::{Dtls, DtlsEvent, Stack, provider};
use penstock_webrtc::sdp::{Fingerprint, Hash};

const SESSIONS: usize = 200;

/// Two sessions of ours with each other, both connected.
fn pair(stack: Stack) -> [Dtls; 2] {
    let certificate = || provider().dtls_provider.generate_certificate().unwrap();
    let certificates = [certificate(), certificate()];
    let prints = [0, 1].map(|place: usize| Fingerprint::of(&certificates[place].certificate, Hash::Sha256).unwrap());
    let [mut server, mut client] = certificates.map(|certificate| Dtls::with(stack, certificate));
    server.start(Instant::now(), false, &prints[1..]).unwrap();
    client.start(Instant::now(), true, &prints[..1]).unwrap();
    let mut connected = 0;
    while connected < 2 {
        for (from, to) in [(0, 1), (1, 0)] {
            let ends = [&mut server, &mut client];
            let mut sent = VecDeque::new();
            let event = ends.into_iter().nth(from).unwrap().poll(Instant::now(), &mut sent).unwrap();
            connected += usize::from(matches!(event, Some(DtlsEvent::Connected(_))));
            let ends = [&mut server, &mut client];
            let to = ends.into_iter().nth(to).unwrap();
            sent.into_iter().for_each(|datagram| to.receive(Instant::now(), &datagram).unwrap());
        }
    }
    [server, client]
}

fn resident() -> usize {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
    pages.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

#[test]
fn a_connected_session_is_small() {
    let each = [Stack::OpenSsl, Stack::Str0m].map(|stack| {
        let warm: Vec<_> = (0..20).map(|_| pair(stack)).collect();
        let before = resident();
        let kept: Vec<_> = (0..SESSIONS / 2).map(|_| pair(stack)).collect();
        let each = resident().saturating_sub(before) / (2 * kept.len());
        drop((warm, kept));
        each
    });
    assert!(each[0] < 8_000, "bytes a session, by OpenSSL and by str0m's stack: {each:?}");
}
