//! Rules, shaping and translation that media in XDP goes past are named by `penstock doctor` and at the start.

use anyhow::{Result, ensure};
use serde_json::Value;
use tests_kit::netns::{End, NetNs, veth};
use tests_kit::peer::Kind;
use tests_kit::server::binary;
use tests_kit::stage::{Layout, Stage, synthetic};

/// Rules of iptables (which are nftables' today), and whether media goes past them.
const RULES: [(&str, bool); 7] = [
    ("-A INPUT -p udp --dport 8443 -s 10.0.0.9 -j DROP", true),
    ("-A INPUT -p udp --dport 8443 -m limit --limit 10/s -j ACCEPT", true),
    ("-t nat -A PREROUTING -p udp --dport 443 -j REDIRECT --to-ports 8443", true),
    ("-t raw -A PREROUTING -p udp --dport 8443 -j DROP", true),
    ("-A INPUT -p tcp --dport 22 -j DROP", false),
    ("-A INPUT -p udp --dport 53 -j DROP", false),
    ("-A FORWARD -p udp --dport 8443 -j DROP", false),
];

fn iptables(host: &NetNs, rule: &str) -> Result<()> {
    let output = host.command("iptables").args(rule.split(' ')).output()?;
    ensure!(output.status.success(), "iptables {rule}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

fn doctor(host: &NetNs, arguments: &[&str]) -> Result<Vec<(String, bool, String)>> {
    let directory = tempfile::tempdir()?;
    let mut command = host.command(binary()?);
    command.args(["doctor", "--json", "--pin-dir"]).arg(directory.path().join("bpf")).args(arguments);
    let output = command.output()?;
    let report: Value = serde_json::from_slice(&output.stdout)?;
    let text = |finding: &Value, key: &str| finding[key].as_str().unwrap_or_default().to_owned();
    let findings = report["findings"].as_array().into_iter().flatten();
    Ok(findings.map(|one| (text(one, "check"), one["ok"] == true, text(one, "found"))).collect())
}

#[test]
fn the_doctor_names_what_media_goes_past() -> Result<()> {
    let (host, other) = (NetNs::new("patient")?, NetNs::new("other")?);
    veth(
        End { namespace: &host, interface: "eth0", addresses: &["10.70.0.1/24"] },
        End { namespace: &other, interface: "eth0", addresses: &["10.70.0.2/24"] },
    )?;
    let about = |findings: &[(String, bool, String)]| -> Vec<String> {
        let ours =
            findings.iter().filter(|(check, ok, _)| !ok && (check.starts_with("firewall") || check.contains("tc")));
        ours.map(|(check, _, found)| format!("{check}: {found}")).collect()
    };
    let healthy = about(&doctor(&host, &[])?);
    ensure!(healthy.is_empty(), "{healthy:?}");
    RULES.iter().try_for_each(|(rule, _)| iptables(&host, rule))?;
    let shaped = host
        .command("tc")
        .args("qdisc add dev eth0 root tbf rate 1mbit burst 32kbit latency 400ms".split(' '))
        .status()?;
    ensure!(shaped.success(), "tc");
    let found = about(&doctor(&host, &[])?);
    let passed = RULES.iter().filter(|(_, past)| *past).count();
    ensure!(found.len() == passed + 1, "{found:#?}");
    for words in [
        ["ip filter INPUT", "drops (some"],
        ["ip filter INPUT", "limits the rate"],
        ["ip nat PREROUTING", "redirects"],
        ["ip raw PREROUTING", "drops (all"],
        ["interface eth0: tc", "tbf"],
    ] {
        ensure!(found.iter().any(|line| words.iter().all(|word| line.contains(word))), "{words:?}: {found:#?}");
    }
    // With sockets alone they hold.
    let respected = about(&doctor(&host, &["--respect-firewall"])?);
    ensure!(respected.is_empty(), "{respected:?}");
    Ok(())
}

/// The same rule, with and without XDP: a viewer whom a rule drops.
#[test]
fn the_firewall_is_respected_by_who_asks_for_it() -> Result<()> {
    let stage = Stage::new(Layout::OneNic, "auto", "[media]\nrespect_firewall = true\n")?;
    let source = synthetic(100);
    let _publisher = stage.publish(&source, stage.publishing())?;
    let viewers = stage.play(1, &source, stage.playing())?;
    stage.flows(&viewers, &[0], Kind::Video, 50)?;
    let carriers = [stage.carriers("publisher")?, stage.carriers("subscriber")?].concat();
    ensure!(carriers.iter().all(|carrier| carrier.starts_with("userspace socket")), "{carriers:?}");
    iptables(&stage.host, "-A INPUT -p udp --dport 8443 -j DROP")?;
    // What was on its way arrives; then nothing does, long before any consent ends.
    let mut before = 0;
    stage.until("nothing comes any more", || {
        std::thread::sleep(std::time::Duration::from_millis(500));
        let now = viewers.stats()[0].video.packets;
        Ok(std::mem::replace(&mut before, now) == now)
    })?;
    iptables(&stage.host, "-F INPUT")?;
    stage.flows(&viewers, &[0], Kind::Video, 50)
}

/// A server says the same at its start.
#[test]
fn the_start_names_them_too() -> Result<()> {
    let stage = {
        let host = NetNs::new("server")?;
        let near = NetNs::new("near")?;
        veth(
            End { namespace: &host, interface: "eth0", addresses: &["10.60.0.1/24"] },
            End { namespace: &near, interface: "eth0", addresses: &["10.60.0.2/24"] },
        )?;
        iptables(&host, "-t nat -A PREROUTING -p udp --dport 443 -j REDIRECT --to-ports 8443")?;
        let settings = tests_kit::server::Settings {
            interfaces: vec!["eth0".into()],
            mode: "native",
            http: vec!["[::]:8080".parse()?],
            more: String::new(),
            unprivileged: false,
        };
        let server = tests_kit::server::Server::start(&host, &settings)?;
        Stage { server, host, near, far: None, lines: None, settings }
    };
    ensure!(stage.server.logged("ip nat PREROUTING handle"), "{}", stage.server.log());
    Ok(())
}
