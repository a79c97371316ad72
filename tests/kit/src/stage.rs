//! A server and the hosts around it, and what tests do there: publish, play, and wait for things to become true.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use crate::clip::Clip;
use crate::line::BadLine;
use crate::netns::{End, NetNs, veth};
use crate::peer::{Kind, MediaStats, Options, Publisher, Source, Stats, Synthetic, Viewers};
use crate::server::{Outlet, Server, Settings};

/// Longest wait for anything. It only has to be reached when something is broken.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Port of pages, WHIP and WHEP.
const HTTP_PORT: u16 = 8080;

/// How the server's host is connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// One interface to publishers and viewers alike: copies leave by the one on which packets come.
    OneNic,
    /// `eth0` to the publishers, `eth1` to the viewers.
    TwoNics,
}

/// A server and the hosts around it. Fields in the order in which they must be dropped.
pub struct Stage {
    pub server: Server,
    pub host: NetNs,
    /// 10.60.0.2, 10.60.0.3, fd60::2 and fd60::3; the server is 10.60.0.1 and fd60::1.
    pub near: NetNs,
    /// With two interfaces: 10.61.0.2, 10.61.0.3, fd61::2 and fd61::3, the server being 10.61.0.1 and fd61::1.
    pub far: Option<NetNs>,
    /// Between the server and each of the two, from the server's side, if there are any.
    pub lines: Option<[BadLine; 2]>,
    pub settings: Settings,
}

impl Stage {
    /// Native mode, one interface.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn plain() -> Result<Self> {
        Self::new(Layout::OneNic, "native", "")
    }

    /// A server; `more` is TOML for its configuration. Returns when it is ready.
    ///
    /// # Errors
    /// Without root, or when the server does not start; the message has its log.
    pub fn new(layout: Layout, mode: &'static str, more: &str) -> Result<Self> {
        Self::start(layout, mode, more, false, false, Outlet::Kept)
    }

    /// As [`apart`](Self::apart), with a line to the publishers and one to the viewers that can be made bad.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn with_lines(more: &str) -> Result<Self> {
        Self::start(Layout::TwoNics, "native", more, false, true, Outlet::Kept)
    }

    /// Publishers and viewers in networks of their own, native mode, and a log that tells more: for peers that say
    /// little.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn apart(more: &str) -> Result<Self> {
        Self::new(Layout::TwoNics, "native", &format!("[log]\nlevel = \"info,penstock=debug\"\n{more}"))
    }

    /// A server that an ordinary user has started.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn unprivileged(layout: Layout, more: &str) -> Result<Self> {
        Self::start(layout, "auto", more, true, false, Outlet::Kept)
    }

    /// One interface, native mode, and a log that goes elsewhere.
    ///
    /// # Errors
    /// As [`new`](Self::new), but without the log.
    pub fn logging_to(outlet: Outlet, more: &str) -> Result<Self> {
        Self::start(Layout::OneNic, "native", more, false, false, outlet)
    }

    fn start(
        layout: Layout,
        mode: &'static str,
        more: &str,
        unprivileged: bool,
        lines: bool,
        outlet: Outlet,
    ) -> Result<Self> {
        let mut between = Vec::new();
        let mut join = |a: End<'_>, b: End<'_>| match lines {
            true => BadLine::between(a, b, between.len() as u64).map(|line| between.push(line)),
            false => veth(a, b),
        };
        let (host, near) = (NetNs::new("server")?, NetNs::new("near")?);
        let left = ["10.60.0.1/24", "fd60::1/64"];
        let right = ["10.60.0.2/24", "10.60.0.3/24", "fd60::2/64", "fd60::3/64"];
        join(
            End { namespace: &host, interface: "eth0", addresses: &left },
            End { namespace: &near, interface: "eth0", addresses: &right },
        )?;
        let mut interfaces = vec!["eth0".to_owned()];
        let far = match layout {
            Layout::OneNic => None,
            Layout::TwoNics => {
                let far = NetNs::new("far")?;
                let left = ["10.61.0.1/24", "fd61::1/64"];
                let right = ["10.61.0.2/24", "10.61.0.3/24", "fd61::2/64", "fd61::3/64"];
                join(
                    End { namespace: &host, interface: "eth1", addresses: &left },
                    End { namespace: &far, interface: "eth0", addresses: &right },
                )?;
                interfaces.push("eth1".into());
                Some(far)
            }
        };
        let any = |host: &str| format!("{host}:{HTTP_PORT}").parse();
        let http = vec![any("0.0.0.0")?, any("[fd60::1]")?];
        let settings = Settings { interfaces, mode, http, more: more.into(), unprivileged };
        let server = match outlet {
            Outlet::Kept => Server::start(&host, &settings)?,
            elsewhere => Server::start_logging_to(&host, &settings, elsewhere)?,
        };
        let lines = between.try_into().ok();
        Ok(Self { server, host, near, far, lines, settings })
    }

    /// The server's web origin as publishers see it.
    #[must_use]
    pub fn publishing_origin(&self) -> String {
        format!("http://10.60.0.1:{HTTP_PORT}")
    }

    /// The server's web origin as viewers see it.
    #[must_use]
    pub fn viewing_origin(&self) -> String {
        let address = if self.far.is_some() { "10.61.0.1" } else { "10.60.0.1" };
        format!("http://{address}:{HTTP_PORT}")
    }

    /// Where viewers live.
    #[must_use]
    pub fn viewers(&self) -> &NetNs {
        self.far.as_ref().unwrap_or(&self.near)
    }

    /// Where [`publish`](Self::publish) publishes.
    #[must_use]
    pub fn whip(&self) -> String {
        format!("{}/e2e/whip", self.publishing_origin())
    }

    /// Where [`play`](Self::play) plays.
    #[must_use]
    pub fn whep(&self) -> String {
        format!("{}/e2e/whep", self.viewing_origin())
    }

    /// The track with this SSRC in `penstock sessions --json`, which reads the kernel's maps and not the server.
    ///
    /// # Errors
    /// The command fails, or no session has such a track.
    pub fn track(&self, ssrc: u64) -> Result<Value> {
        let sessions = self.server.inspect(&["sessions"])?;
        find(&sessions, ssrc).cloned().with_context(|| format!("no track with SSRC {ssrc} in {sessions:#}"))
    }

    /// Adds the server's log to an error.
    ///
    /// # Errors
    /// That of `result`.
    pub fn explain<T>(&self, result: Result<T>) -> Result<T> {
        result.with_context(|| format!("server's log:\n{}", self.server.log()))
    }

    /// What carries the sessions of a role (`publisher`, `subscriber`), as the API tells it.
    pub fn carriers(&self, role: &str) -> Result<Vec<String>> {
        let state = self.server.get("/api/v1/state")?;
        let sessions = state["sessions"].as_array().into_iter().flatten().filter(|session| session["role"] == role);
        Ok(sessions.filter_map(|session| session["engine"].as_str().map(str::to_owned)).collect())
    }

    /// What the API says of a stream's source; null if there is none.
    pub fn source_of(&self, stream: &str) -> Result<Value> {
        let state = self.server.get("/api/v1/state")?;
        let mut streams = state["streams"].as_array().into_iter().flatten();
        Ok(streams.find(|one| one["name"] == stream).map(|one| one["source"].clone()).unwrap_or_default())
    }

    /// Options of a publisher.
    pub fn publishing(&self) -> Options {
        Options::within(self.near.name())
    }

    /// Options of viewers.
    pub fn playing(&self) -> Options {
        Options::within(self.viewers().name())
    }

    /// A publisher that is connected.
    pub fn publish(&self, source: &Source, options: Options) -> Result<Publisher> {
        let publisher = Publisher::start(&self.whip(), source.clone(), options)?;
        self.until("the publisher is connected", || Ok(connected(&publisher.stats())))?;
        Ok(publisher)
    }

    /// Viewers that are connected.
    pub fn play(&self, count: usize, expected: &Source, options: Options) -> Result<Viewers> {
        let viewers = Viewers::start(&self.whep(), count, expected.clone(), options)?;
        self.until("all viewers are connected", || Ok(viewers.stats().iter().all(connected)))?;
        Ok(viewers)
    }

    /// Waits until `condition` holds.
    pub fn until(&self, what: &str, mut condition: impl FnMut() -> Result<bool>) -> Result<()> {
        let end = Instant::now() + PATIENCE;
        while !condition()? {
            if Instant::now() > end {
                let state = self.server.get("/api/v1/state").map(|state| format!("{state:#}")).unwrap_or_default();
                let log = self.server.log();
                bail!("after {PATIENCE:?} it is still not so that {what}\n--- state\n{state}\n--- log\n{log}\n---");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Waits until every viewer of `numbers` has `more` verified frames or packets of `kind` than now.
    pub fn flows(&self, viewers: &Viewers, numbers: &[usize], kind: Kind, more: u64) -> Result<()> {
        let verified = |number: usize| viewers.stats()[number].media(kind).verified;
        let before: Vec<_> = numbers.iter().map(|number| verified(*number)).collect();
        let what = format!("viewers {numbers:?} have {more} more of {kind:?}");
        let outcome = self.until(&what, || {
            let stats = viewers.stats();
            let now = numbers.iter().map(|number| stats[*number].media(kind).verified);
            Ok(now.zip(&before).all(|(now, before)| now >= before + more))
        });
        outcome.map_err(|error| {
            let stats = viewers.stats();
            let shown: Vec<_> = numbers.iter().take(3).map(|number| &stats[*number]).collect();
            error.context(format!("{shown:#?}"))
        })
    }

    /// What viewers received is what was published, nothing twice, and something was there at all. What is missing must
    /// have been dropped by a full ring or buffer that counts it: on a machine whose processors are busy with other
    /// things that happens, and is nobody's fault here.
    ///
    /// # Errors
    /// Says which viewer got what.
    pub fn assert_exact(&self, viewers: &[Stats], kinds: &[Kind]) -> Result<()> {
        let mut lost = 0;
        for (number, stats) in viewers.iter().enumerate() {
            for kind in kinds {
                lost += lost_of_exact(&format!("viewer {number} ({kind:?})"), stats.media(*kind))?;
            }
        }
        self.assert_counted(lost, viewers.len())
    }

    /// So many packets of all these viewers together are missing, and counters say why: one packet on its way in is one
    /// for each viewer.
    ///
    /// # Errors
    /// They do not.
    pub fn assert_counted(&self, lost: u64, viewers: usize) -> Result<()> {
        if lost == 0 {
            return Ok(());
        }
        let full = self.overflows()?;
        let counted = full.values().sum::<u64>() * viewers as u64;
        ensure!(lost <= counted, "{lost} packets are missing, and rings and buffers tell of {full:?} alone");
        Ok(())
    }

    /// Packets that did not fit into a ring or a buffer, by the name of the counter.
    fn overflows(&self) -> Result<BTreeMap<String, u64>> {
        let mut full = self.server.drops()?;
        full.retain(|name, _| name.contains("drop_ring_full") || name.starts_with("penstock_tapped_total"));
        for namespace in [&self.host, &self.near].into_iter().chain(&self.far) {
            full.extend(namespace.drops()?);
        }
        Ok(full)
    }

    /// Pauses the publisher and waits until nothing moves any more.
    pub fn rest(&self, publisher: &Publisher, viewers: &Viewers) -> Result<()> {
        publisher.pause(true)?;
        let count = || -> u64 { viewers.stats().iter().map(|one| one.audio.packets + one.video.packets).sum() };
        let mut before = (count(), Instant::now());
        self.until("nothing moves", || {
            let now = count();
            if now != before.0 {
                before = (now, Instant::now());
            }
            Ok(before.1.elapsed() > Duration::from_millis(300))
        })
    }
}

/// The first object with this `ssrc`, at any depth.
fn find(value: &Value, ssrc: u64) -> Option<&Value> {
    match value {
        Value::Object(fields) if fields.get("ssrc").and_then(Value::as_u64) == Some(ssrc) => Some(value),
        Value::Object(fields) => fields.values().find_map(|field| find(field, ssrc)),
        Value::Array(entries) => entries.iter().find_map(|entry| find(entry, ssrc)),
        _ => None,
    }
}

fn connected(stats: &Stats) -> bool {
    assert_eq!(stats.failed, None, "a peer failed");
    stats.connected.is_some()
}

/// The clip of `cargo xtask setup`.
pub fn clip() -> Result<Source> {
    Ok(Source::Clip(Clip::load(&Clip::directory())?))
}

/// Packets of all sizes, `rate` a second.
pub fn synthetic(rate: u32) -> Source {
    Source::Synthetic(Synthetic { rate, ..Synthetic::default() })
}

/// What is missing of packets that are otherwise exactly what was published.
///
/// # Errors
/// They are not.
pub fn lost_of_exact(who: &str, media: &MediaStats) -> Result<u64> {
    ensure!(media.packets > 0, "{who} received nothing: {media:#?}");
    let wrong = (media.duplicates, media.mismatches);
    ensure!(wrong == (0, 0), "{who}: (duplicates, mismatches) = {wrong:?} in {media:#?}");
    ensure!(media.incomplete <= media.lost, "{who} got frames without their end: {media:#?}");
    ensure!(media.decrypted == media.packets, "{who} could not decrypt all: {media:#?}");
    Ok(media.lost)
}

/// Both kinds.
pub const BOTH: [Kind; 2] = [Kind::Audio, Kind::Video];

/// An address, in a test's source.
pub fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}
