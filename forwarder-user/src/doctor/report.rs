//! Findings, and how they are shown.

use penstock_engine::tier::{Level, Tier};
use serde::Serialize;

use crate::config::{Config, EngineChoice, Mode};

/// Who needs what was checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Need {
    /// Any server.
    Server,
    /// The kernel engine.
    Kernel,
    /// Nobody, but it costs CPU or packets, or a convenience is missing.
    Advice,
}

/// Outcome of one check.
#[derive(Clone, Debug, Serialize)]
pub struct Finding {
    /// Short and stable, e.g. `capability CAP_BPF`, `interface eth0: native XDP`.
    pub check: String,
    /// `false`: `mend` may say what to do.
    pub ok: bool,
    /// Who misses it if it is not `ok`.
    pub need: Need,
    /// What was found, and what it means.
    pub found: String,
    /// How to mend it.
    pub mend: Option<String>,
    /// The last lines of what the kernel's verifier says, or all of them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub verifier: Vec<String>,
}

/// All findings, in the order of a start.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    /// One for each thing that was tried.
    pub findings: Vec<Finding>,
    /// Which way the media will go and what it costs. `None`: a server does not start.
    pub tier: Option<Tier>,
    /// What will carry the media, and why.
    pub outcome: String,
    /// Whether a server will serve as its configuration wants.
    pub ok: bool,
}

impl Report {
    /// A check that went well.
    pub fn good(&mut self, need: Need, check: impl Into<String>, found: impl Into<String>) {
        let (check, found) = (check.into(), found.into());
        self.findings.push(Finding { check, ok: true, need, found, mend: None, verifier: Vec::new() });
    }

    /// One that did not.
    pub fn bad(&mut self, need: Need, check: impl Into<String>, found: impl Into<String>, mend: impl Into<String>) {
        let (check, found, mend) = (check.into(), found.into(), Some(mend.into()));
        self.findings.push(Finding { check, ok: false, need, found, mend, verifier: Vec::new() });
    }

    /// Shows with the last finding what the verifier said.
    pub fn told_by_the_verifier(&mut self, lines: Vec<String>) {
        if let Some(finding) = self.findings.last_mut() {
            finding.verifier = lines;
        }
    }

    /// Either.
    pub fn add(&mut self, need: Need, check: &str, outcome: Result<String, String>, mend: &str) {
        match outcome {
            Ok(found) => self.good(need, check, found),
            Err(found) => self.bad(need, check, found, mend),
        }
    }

    /// Checks of this need that failed.
    pub fn failed(&self, need: Need) -> impl Iterator<Item = &Finding> {
        self.findings.iter().filter(move |finding| !finding.ok && finding.need == need)
    }

    /// Draws the conclusion from the findings. `short_way`: of the kernel engine, and why it lacks it. `userspace`:
    /// what the userspace engine will be, and what it sends by.
    pub fn conclude(&mut self, config: &Config, short_way: Result<(), String>, (userspace, level): (&str, Level)) {
        let server = self.failed(Need::Server).next().map(|finding| finding.check.clone());
        let refusal = self.failed(Need::Kernel).next();
        let kernel = refusal.map(|finding| finding.check.clone());
        let why = refusal.map(|finding| format!("{}: {}", finding.check, finding.found));
        self.ok = server.is_none() && kernel.is_none();
        self.tier = match (&server, config.media.engine, &kernel) {
            (Some(_), ..) | (None, EngineChoice::Kernel, Some(_)) => None,
            (None, EngineChoice::Userspace, _) => {
                Some(Tier { level, why: Some("`media.engine` is \"userspace\"".into()) })
            }
            (None, EngineChoice::Auto, Some(_)) => Some(Tier { level, why }),
            (None, _, None) => Some(match short_way {
                Ok(()) => Tier { level: Level::Full, why: None },
                Err(reason) => Tier { level: Level::WithoutShortWay, why: Some(reason) },
            }),
        };
        self.outcome = match (server, config.media.engine, kernel) {
            (Some(check), ..) => format!("a server does not start: {check}"),
            (None, EngineChoice::Userspace, _) => format!("{userspace}: `media.engine` is \"userspace\""),
            (None, EngineChoice::Kernel, Some(check)) => format!("a server does not start: {check}"),
            (None, EngineChoice::Auto, Some(check)) => {
                format!("{userspace}: {check} keeps the kernel engine away")
            }
            (None, engine, None) => {
                let mode = self.mode(config);
                match engine {
                    EngineChoice::Kernel => mode,
                    _ => format!("{mode}; {userspace} for what it cannot serve"),
                }
            }
        };
    }

    fn mode(&self, config: &Config) -> String {
        let refused = self.findings.iter().find(|finding| !finding.ok && finding.check.ends_with("native XDP"));
        match refused {
            _ if config.kernel.mode == Mode::Generic => "kernel generic, as `kernel.mode` says".into(),
            Some(finding) => format!("kernel generic, slow: not every driver has XDP ({})", finding.check),
            None => "kernel native".into(),
        }
    }

    /// For people.
    pub fn to_text(&self) -> String {
        let mut lines = Vec::new();
        for finding in &self.findings {
            let mark = if finding.ok { '✓' } else { '✗' };
            let need = match (finding.ok, finding.need) {
                (false, Need::Advice) => " (advice)",
                _ => "",
            };
            lines.push(format!("{mark} {}: {}{need}", finding.check, finding.found));
            lines.extend(finding.verifier.iter().map(|line| format!("    {line}")));
            lines.extend(finding.mend.iter().map(|mend| format!("  → {mend}")));
        }
        lines.extend(self.tier.iter().map(|tier| format!("  tier: {tier}")));
        lines.push(format!("{} {}", if self.ok { '✓' } else { '✗' }, self.outcome));
        lines.join("\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_decides_the_outcome() {
        let auto = Config::default();
        let mut only = Config::default();
        only.media.engine = EngineChoice::Kernel;
        let outcome = |need, config: &Config| {
            let mut report = Report::default();
            report.bad(need, "x", "is not", "mend it");
            report.conclude(config, Ok(()), ("userspace socket", Level::UserspaceSockets));
            (report.ok, report.outcome, report.tier.map(|tier| tier.level))
        };
        assert_eq!(
            outcome(Need::Advice, &auto),
            (true, "kernel native; userspace socket for what it cannot serve".into(), Some(Level::Full))
        );
        assert_eq!(
            outcome(Need::Kernel, &auto),
            (false, "userspace socket: x keeps the kernel engine away".into(), Some(Level::UserspaceSockets))
        );
        assert_eq!(outcome(Need::Kernel, &only), (false, "a server does not start: x".into(), None));
        assert_eq!(outcome(Need::Server, &auto), (false, "a server does not start: x".into(), None));
    }

    #[test]
    fn each_failure_says_how_to_mend_it() {
        let mut report = Report::default();
        report.good(Need::Server, "a", "fine");
        report.bad(Need::Advice, "b", "slow", "do this");
        report.told_by_the_verifier(vec!["R1 is wrong".into()]);
        report.conclude(&Config::default(), Err("too slow".into()), ("userspace socket", Level::UserspaceSockets));
        let text = report.to_text();
        assert!(
            text.starts_with("✓ a: fine\n✗ b: slow (advice)\n    R1 is wrong\n  → do this\n  tier: without"),
            "{text}"
        );
        assert!(text.contains("with 64): too slow\n✓ kernel native"), "{text}");
    }
}
