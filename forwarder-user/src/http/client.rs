//! Whom a request is from: the peer of the connection, or whom a trusted proxy names. And how often he may be wrong
//! about a token.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use axum::{
    extract::{ConnectInfo, Request, State},
    http::{HeaderMap, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};

use super::{App, auth, reply::Failure};
use penstock_engine::block::Block;

use crate::config::Network;

/// Proxies in a row that are looked through.
const MAX_HOPS: usize = 16;
/// Wrong tokens of one address in [`WINDOW`]. People who mistype have some; at this rate no token is found.
const GUESSES: u32 = 20;
const WINDOW: Duration = Duration::from_secs(60);
/// Addresses that are remembered for it.
const MAX_BLOCKS: usize = 4096;

/// Whom a request is from.
#[derive(Clone, Copy, Debug)]
struct Client(Block, Option<IpAddr>);

/// Whose share a request takes.
pub(super) fn block(request: &Request) -> Block {
    block_of(request.extensions())
}

/// The same, of a request whose extensions are here.
pub(super) fn block_of(extensions: &axum::http::Extensions) -> Block {
    extensions.get::<Client>().map_or(Block::UNKNOWN, |client| client.0)
}

/// Where whoever sent a request is, as far as it is known.
pub(super) fn address_of(extensions: &axum::http::Extensions) -> Option<IpAddr> {
    extensions.get::<Client>()?.1
}

/// Finds out whom a request is from, and refuses him who guesses tokens.
pub(super) async fn identify(State(app): State<Arc<App>>, mut request: Request, next: Next) -> Response {
    let peer = request.extensions().get::<ConnectInfo<SocketAddr>>().map(|peer| peer.0.ip());
    let address = peer.map(|peer| address(peer, request.headers(), &app.trusted));
    let client = address.map_or(Block::UNKNOWN, Block::from);
    request.extensions_mut().insert(Client(client, address));
    let has_token = auth::shows_something(&request);
    if has_token && app.guesses.are_too_many(client, Instant::now()) {
        let reason = "too many wrong tokens from your address: wait a minute";
        return Failure::new(StatusCode::TOO_MANY_REQUESTS, reason).with(header::RETRY_AFTER, "60").into_response();
    }
    let response = next.run(request).await;
    if has_token && response.status() == StatusCode::UNAUTHORIZED {
        app.guesses.add(client, Instant::now());
    }
    response
}

/// The last address before the trusted proxies, of those that they name one after the other.
fn address(peer: IpAddr, headers: &HeaderMap, trusted: &[Network]) -> IpAddr {
    let is_trusted = |address: IpAddr| trusted.iter().any(|network| network.contains(address));
    let mut client = peer;
    for named in named(headers).into_iter().rev().take(MAX_HOPS) {
        if !is_trusted(client) {
            break;
        }
        match named {
            Some(address) => client = address,
            None => break,
        }
    }
    client
}

/// Whom the headers name, the nearest last; `None` where it is no address.
fn named(headers: &HeaderMap) -> Vec<Option<IpAddr>> {
    // What a client has written before its proxy need not be text.
    let values = |name: &str| -> Vec<String> {
        let values = headers.get_all(name).into_iter().map(|value| String::from_utf8_lossy(value.as_bytes()));
        values.flat_map(|value| value.split(',').map(|one| one.trim().to_owned()).collect::<Vec<_>>()).collect()
    };
    let of = |hop: &String| {
        let pairs = hop.split(';').filter_map(|pair| pair.trim().split_once('='));
        let mut named = pairs.filter(|(name, _)| name.eq_ignore_ascii_case("for"));
        named.next().and_then(|(_, value)| read(value.trim_matches('"')))
    };
    let forwarded: Vec<_> = values("forwarded").iter().map(of).collect();
    let forwarded_for: Vec<_> = values("x-forwarded-for").iter().map(|value| read(value)).collect();
    match (forwarded.last(), forwarded_for.last()) {
        // A proxy writes one of them and passes the other on, which its client may have made up.
        (Some(one), Some(other)) if one != other => vec![None],
        (_, Some(_)) => forwarded_for,
        _ => forwarded,
    }
}

/// An address with or without a port and brackets.
fn read(text: &str) -> Option<IpAddr> {
    let bare = text.trim_start_matches('[').trim_end_matches(']');
    bare.parse().ok().or_else(|| text.parse::<SocketAddr>().ok().map(|address| address.ip()))
}

/// Wrong tokens, by address.
#[derive(Debug, Default)]
pub(super) struct Guesses(Mutex<HashMap<Block, (u32, Instant)>>);

impl Guesses {
    fn are_too_many(&self, from: Block, now: Instant) -> bool {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.get(&from).is_some_and(|(count, since)| *count >= GUESSES && now.duration_since(*since) < WINDOW)
    }

    fn add(&self, from: Block, now: Instant) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= MAX_BLOCKS {
            all.retain(|_, (_, since)| now.duration_since(*since) < WINDOW);
        }
        if all.len() >= MAX_BLOCKS && !all.contains_key(&from) {
            return;
        }
        let (count, since) = all.entry(from).or_insert((0, now));
        if now.duration_since(*since) >= WINDOW {
            (*count, *since) = (0, now);
        }
        *count += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(peer: &str, headers: &[(&'static str, &'static str)], trusted: &[&str]) -> String {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, value.parse().unwrap());
        }
        let trusted: Vec<Network> = trusted.iter().map(|text| text.parse().unwrap()).collect();
        address(peer.parse().unwrap(), &map, &trusted).to_string()
    }

    #[test]
    fn only_trusted_proxies_are_believed() {
        let header = [("x-forwarded-for", "198.51.100.7, 10.0.0.2")];
        assert_eq!(of("192.0.2.1", &header, &[]), "192.0.2.1");
        assert_eq!(of("192.0.2.1", &header, &["10.0.0.0/8"]), "192.0.2.1", "a stranger says so");
        assert_eq!(of("10.0.0.1", &header, &["10.0.0.1"]), "10.0.0.2", "as far as they are trusted");
        assert_eq!(of("10.0.0.1", &header, &["10.0.0.0/8"]), "198.51.100.7");
        let lies = [("x-forwarded-for", "1.2.3.4, 198.51.100.7")];
        assert_eq!(of("10.0.0.1", &lies, &["10.0.0.1"]), "198.51.100.7", "what the client wrote itself is not read");
        let twice = [("x-forwarded-for", "198.51.100.7"), ("x-forwarded-for", "10.0.0.2")];
        assert_eq!(of("10.0.0.1", &twice, &["10.0.0.0/8"]), "198.51.100.7");
        assert_eq!(of("10.0.0.1", &[("x-forwarded-for", "unknown")], &["10.0.0.1"]), "10.0.0.1");
        assert_eq!(of("10.0.0.1", &[], &["10.0.0.1"]), "10.0.0.1");
    }

    /// What the client has made up stands beside what its proxy says, or before it.
    #[test]
    fn two_headers_that_contradict_each_other_name_nobody() {
        let both = [("x-forwarded-for", "1.2.3.4"), ("forwarded", "for=198.51.100.7")];
        assert_eq!(of("10.0.0.1", &both, &["10.0.0.1"]), "10.0.0.1");
        let same = [("x-forwarded-for", "198.51.100.7"), ("forwarded", "for=198.51.100.7")];
        assert_eq!(of("10.0.0.1", &same, &["10.0.0.1"]), "198.51.100.7");
        let mut odd = HeaderMap::new();
        odd.append("x-forwarded-for", axum::http::HeaderValue::from_bytes(b"\xff, 198.51.100.7").unwrap());
        assert_eq!(named(&odd).last(), Some(&"198.51.100.7".parse().ok()));
    }

    #[test]
    fn rfc_7239_is_understood() {
        let header = [("forwarded", "for=192.0.2.43;proto=http, For=\"[2001:db8::17]:4711\"")];
        assert_eq!(of("::1", &header, &["::1"]), "2001:db8::17");
        assert_eq!(of("::1", &header, &["::1", "2001:db8::/32"]), "192.0.2.43");
        assert_eq!(of("::1", &[("forwarded", "for=_hidden, by=x")], &["::1"]), "::1");
    }

    #[test]
    fn guesses_are_counted_by_address_for_a_minute() {
        let (guesses, now) = (Guesses::default(), Instant::now());
        let block = |last: u32| Block::from(IpAddr::from((0xc000_0200 + last).to_be_bytes()));
        for _ in 0..GUESSES {
            assert!(!guesses.are_too_many(block(1), now));
            guesses.add(block(1), now);
        }
        assert!(guesses.are_too_many(block(1), now) && !guesses.are_too_many(block(2), now));
        assert!(!guesses.are_too_many(block(1), now + WINDOW));
        guesses.add(block(1), now + WINDOW);
        assert!(!guesses.are_too_many(block(1), now + WINDOW));
        (0..10_000).for_each(|last| guesses.add(block(last), now + WINDOW));
        assert!(guesses.0.lock().unwrap().len() <= MAX_BLOCKS);
    }
}
