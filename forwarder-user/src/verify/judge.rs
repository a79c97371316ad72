//! Figures against limits.

use std::time::Duration;

use serde::Serialize;

use super::Outcome;

/// What must hold. `None` is not asked for.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Most packets lost, in percent.
    pub loss: f64,
    /// Most that 99 of 100 packets may take from publisher to viewer.
    pub latency: Duration,
    /// Most CPU of the whole machine, in percent.
    pub cpu: Option<f64>,
    /// Most memory of process and BPF maps, in MiB.
    pub memory: Option<f64>,
    /// A commit, or a build id of the binary or of the BPF object, or their beginning.
    pub build: Option<String>,
}

/// One line of the table.
#[derive(Clone, Debug, Serialize)]
pub struct Line {
    /// Short and stable: the first column.
    pub check: &'static str,
    /// `None`: only told.
    pub ok: Option<bool>,
    /// With its unit, or why it could not be found out.
    pub found: String,
    /// With its unit; empty where nothing was asked for.
    pub limit: String,
}

/// The table. What cannot be found out although it was asked for has failed.
pub fn judge(outcome: &Outcome, limits: &Limits) -> Vec<Line> {
    let mut lines = vec![
        Line {
            check: "sessions connect",
            ok: Some(outcome.connected == outcome.sessions),
            found: [vec![format!("{} of {}", outcome.connected, outcome.sessions)], outcome.failures.clone()]
                .concat()
                .join("; "),
            limit: "all".into(),
        },
        gcm(outcome),
        loss(outcome, limits.loss),
        latency(outcome, limits.latency),
    ];
    let cpu = outcome.after.as_ref().zip(outcome.before.as_ref()).and_then(|(after, before)| after.cpu_since(before));
    lines.push(number("CPU, whole machine", cpu.map(|share| share * 100.0), "%", limits.cpu));
    let memory = outcome.after.as_ref().and_then(super::server::Metrics::memory);
    lines.push(number("memory, process and maps", memory.map(|bytes| bytes / 1_048_576.0), "MiB", limits.memory));
    lines.push(build(outcome, limits.build.as_deref()));
    let mut engines = outcome.engines.clone();
    engines.sort();
    engines.dedup();
    let found = if engines.is_empty() { "the server does not tell".into() } else { engines.join("; ") };
    lines.push(Line { check: "carried by", ok: None, found, limit: String::new() });
    lines
}

fn gcm(outcome: &Outcome) -> Line {
    let mut profiles = outcome.profiles.clone();
    let ok = !profiles.is_empty() && profiles.iter().all(|profile| profile.starts_with("AEAD_AES_"));
    profiles.sort();
    profiles.dedup();
    let found = match profiles.is_empty() {
        true => "the server does not tell: give --api-token".into(),
        false => profiles.join(", "),
    };
    Line { check: "AES-GCM", ok: Some(ok), found, limit: "all sessions".into() }
}

fn loss(outcome: &Outcome, limit: f64) -> Line {
    let expected: u64 = outcome.viewers.iter().map(super::client::Figures::expected).sum();
    let received: u64 = outcome.viewers.iter().map(|viewer| viewer.packets).sum();
    // A viewer that got nothing at all expects nothing either.
    let silent = outcome.viewers.iter().filter(|viewer| viewer.packets == 0).count();
    let percent = 100.0 * (expected.saturating_sub(received)) as f64 / expected.max(1) as f64;
    let mut found = format!("{percent:.3} % of {expected} packets");
    if silent > 0 {
        found += &format!("; {silent} viewers got nothing");
    }
    let ok = expected > 0 && silent == 0 && percent < limit;
    Line { check: "loss", ok: Some(ok), found, limit: format!("< {limit} %") }
}

fn latency(outcome: &Outcome, limit: Duration) -> Line {
    let mut all: Vec<Duration> = outcome.viewers.iter().flat_map(|viewer| viewer.latencies.iter().copied()).collect();
    all.sort_unstable();
    let at = |percent: usize| all.get((all.len().saturating_sub(1)) * percent / 100).copied();
    let (found, ok) = match (at(50), at(99), at(100)) {
        (Some(median), Some(most), Some(worst)) => {
            (format!("{} median, {} for 99 %, {} worst", ms(median), ms(most), ms(worst)), most < limit)
        }
        _ => ("no packet came".into(), false),
    };
    Line { check: "latency", ok: Some(ok), found, limit: format!("99 % < {}", ms(limit)) }
}

fn ms(duration: Duration) -> String {
    format!("{:.1} ms", duration.as_secs_f64() * 1000.0)
}

fn number(check: &'static str, found: Option<f64>, unit: &str, limit: Option<f64>) -> Line {
    Line {
        check,
        ok: limit.map(|limit| found.is_some_and(|found| found < limit)),
        found: found.map_or("the server does not tell: give --api-token".into(), |found| format!("{found:.1} {unit}")),
        limit: limit.map_or(String::new(), |limit| format!("< {limit} {unit}")),
    }
}

fn build(outcome: &Outcome, wanted: Option<&str>) -> Line {
    let found = outcome.after.as_ref().map(|metrics| metrics.build.as_str()).unwrap_or_default();
    let named = |wanted: &str| !wanted.is_empty() && found.contains(&format!("=\"{wanted}"));
    Line {
        check: "build",
        ok: wanted.map(named),
        found: if found.is_empty() { "the server does not tell: give --api-token".into() } else { found.into() },
        limit: wanted.unwrap_or_default().into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verify::{client::Figures, server::Metrics};

    fn limits() -> Limits {
        Limits { loss: 0.1, latency: Duration::from_millis(100), cpu: None, memory: None, build: None }
    }

    fn outcome() -> Outcome {
        Outcome {
            sessions: 2,
            connected: 2,
            viewers: vec![Figures::default()],
            failures: vec![],
            profiles: vec!["AEAD_AES_256_GCM".into(); 2],
            engines: vec!["kernel native".into(); 2],
            before: None,
            after: Some(Metrics { build: "build_id=\"abcd\",commit=\"c0ffee\"".into(), ..Metrics::default() }),
        }
    }

    fn ok(outcome: &Outcome, limits: &Limits, check: &str) -> Option<bool> {
        judge(outcome, limits).iter().find(|line| line.check == check).and_then(|line| line.ok)
    }

    #[test]
    fn what_was_promised_and_not_seen_has_failed() {
        let mut outcome = outcome();
        assert_eq!(ok(&outcome, &limits(), "sessions connect"), Some(true));
        assert_eq!(ok(&outcome, &limits(), "AES-GCM"), Some(true));
        // No packet came.
        assert_eq!(ok(&outcome, &limits(), "loss"), Some(false));
        assert_eq!(ok(&outcome, &limits(), "latency"), Some(false));
        assert_eq!(ok(&outcome, &limits(), "CPU, whole machine"), None);
        assert_eq!(ok(&outcome, &Limits { cpu: Some(50.0), ..limits() }, "CPU, whole machine"), Some(false));
        for (wanted, right) in [("abc", true), ("c0ffee", true), ("bcd", false), ("", false)] {
            let limits = Limits { build: Some(wanted.into()), ..limits() };
            assert_eq!(ok(&outcome, &limits, "build"), Some(right), "{wanted}");
        }
        outcome.profiles.push("AES_CM_128_HMAC_SHA1_80".into());
        assert_eq!(ok(&outcome, &limits(), "AES-GCM"), Some(false));
        outcome.connected = 1;
        assert_eq!(ok(&outcome, &limits(), "sessions connect"), Some(false));
    }
}
