//! What a person wants to know after start: what carries the media, and which addresses to open.

use std::net::{IpAddr, SocketAddr};

use penstock_engine::{
    Engine,
    bpf::{StartError, probe, verdict},
    tier::Level,
};

use crate::{
    config::{Action, Config},
    doctor::Report,
    rights::Rights,
};

/// Logs the start-up lines.
pub(super) fn print(
    config: &Config,
    engine: &dyn Engine,
    media: &[IpAddr],
    http: &[(SocketAddr, bool)],
    rights: &Rights,
) {
    tracing::info!("penstock {}", env!("CARGO_PKG_VERSION"));
    tracing::info!("engine: {}", engine.describe());
    if let Some(tier) = engine.tier() {
        tracing::info!("tier: {tier}");
        let untested = probe::untested().filter(|_| matches!(tier.level, Level::Full | Level::WithoutShortWay));
        untested.into_iter().for_each(|hint| tracing::info!("{hint}"));
    }
    for address in media {
        let local = SocketAddr::new(*address, config.media.port);
        match config.media.public_addresses.get(address) {
            Some(public) => tracing::info!("media: {local}/udp, which peers are told is {public}"),
            None => tracing::info!("media: {local}/udp"),
        }
        if config.media.tcp_port != 0 {
            let shared = if config.shares_tcp(*address) { ", which it shares with HTTP" } else { "" };
            tracing::info!("media: {}/tcp{shared}", SocketAddr::new(*address, config.media.tcp_port));
        }
    }
    for base in bases(http, media) {
        tracing::info!("publish: {base}/NAME/publish in a browser, {base}/NAME/whip in OBS and others");
        tracing::info!("watch:   {base}/NAME in a browser, {base}/NAME/whep in players");
    }
    for listen in &config.rtsp.listen {
        tracing::info!("publish: rtsp://{listen}/NAME, for cameras and encoders");
    }
    for listen in &config.rtsp.listen_tls {
        tracing::info!("publish: rtsps://{listen}/NAME, for cameras and encoders");
    }
    rights_of_strangers(config, http, rights);
}

/// Logs what those may do whom nobody knows, loudly where they can come from other hosts.
fn rights_of_strangers(config: &Config, http: &[(SocketAddr, bool)], rights: &Rights) {
    let rtsp = config.rtsp.listen.iter().chain(&config.rtsp.listen_tls);
    let reachable = http.iter().map(|(listen, _)| listen).chain(rtsp).any(|listen| !listen.ip().is_loopback());
    if rights.is_open(Action::Publish) && reachable {
        let ports = if config.rtsp.is_open() { "HTTP or RTSP" } else { "HTTP" };
        tracing::warn!(
            "EVERYBODY who reaches the {ports} port, from any host, may publish here: set `auth.publish_token` \
             (PENSTOCK_PUBLISH_TOKEN), or name who may in `auth.users`, [jwt] or [auth_http]"
        );
    }
    if !rights.is_decided(Action::Api) {
        match config.http.open_management {
            true => tracing::warn!(
                "/api/v1/state and /metrics show addresses of peers to everybody (`http.open_management`)"
            ),
            false => tracing::info!("/api/, /metrics and /debug/ are for this host alone (`auth.api_token` is empty)"),
        }
    }
}

/// Logs why there is no kernel engine.
pub(super) fn no_kernel_engine(error: &StartError) {
    tracing::warn!("no kernel engine, all media goes through this process: {error}");
    if let StartError::Refused(refusal) = error {
        refusal.lines().iter().for_each(|line| tracing::warn!("verifier: {line}"));
        tracing::warn!("verifier: all of it with --log info,{}=debug", verdict::TARGET);
    }
}

/// Logs what the machine could be better at; `penstock doctor` tells the whole.
pub(super) fn warn(report: &Report) {
    for finding in report.findings.iter().filter(|finding| !finding.ok) {
        let mend = finding.mend.as_deref().unwrap_or_default();
        tracing::warn!("{}: {} → {mend}", finding.check, finding.found);
    }
}

/// Base URLs that can be opened: wildcard addresses stand for the media addresses of their family.
fn bases(http: &[(SocketAddr, bool)], media: &[IpAddr]) -> Vec<String> {
    let mut bases = Vec::new();
    for (listen, encrypted) in http {
        let scheme = scheme(*encrypted);
        if !listen.ip().is_unspecified() {
            bases.push(format!("{scheme}://{listen}"));
            continue;
        }
        // The wildcard of IPv6 takes IPv4 too.
        let same_family = media.iter().filter(|address| listen.is_ipv6() || address.is_ipv4());
        bases.extend(same_family.map(|address| format!("{scheme}://{}", SocketAddr::new(*address, listen.port()))));
    }
    if bases.is_empty() {
        bases.extend(http.iter().map(|(listen, tls)| format!("{}://localhost:{}", scheme(*tls), listen.port())));
    }
    bases
}

fn scheme(encrypted: bool) -> &'static str {
    if encrypted { "https" } else { "http" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_can_be_opened() {
        let media: Vec<IpAddr> = ["192.0.2.1", "2001:db8::1"].map(|text| text.parse().unwrap()).into();
        let listen = |text: &str| vec![(text.parse::<SocketAddr>().unwrap(), false)];
        assert_eq!(bases(&listen("0.0.0.0:80"), &media), ["http://192.0.2.1:80"]);
        assert_eq!(bases(&listen("[::]:80"), &media), ["http://192.0.2.1:80", "http://[2001:db8::1]:80"]);
        assert_eq!(bases(&listen("127.0.0.1:80"), &media), ["http://127.0.0.1:80"]);
        assert_eq!(bases(&listen("0.0.0.0:80"), &media[1..]), ["http://localhost:80"]);
    }
}
