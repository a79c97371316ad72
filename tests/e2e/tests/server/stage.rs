//! What every test here needs: hosts, a server, peers, and waiting for things to become true.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use serde_json::Value;
use tests_kit::clip::Clip;
use tests_kit::netns::{End, NetNs, veth};
use tests_kit::peer::{Kind, MediaStats, Options, Publisher, Source, Stats, Synthetic, Viewers};
use tests_kit::server::{Server, Settings};

/// Longest wait for anything. It only has to be reached when something is broken.
pub const PATIENCE: Duration = Duration::from_secs(20);

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
    pub settings: Settings,
}

impl Stage {
    /// Native mode, one interface.
    pub fn plain() -> Result<Self> {
        Self::new(Layout::OneNic, "native", "")
    }

    /// A server; `more` is TOML for its configuration.
    pub fn new(layout: Layout, mode: &'static str, more: &str) -> Result<Self> {
        Self::start(layout, mode, more, false)
    }

    /// A server that an ordinary user has started.
    pub fn unprivileged() -> Result<Self> {
        Self::start(Layout::OneNic, "auto", "", true)
    }

    fn start(layout: Layout, mode: &'static str, more: &str, unprivileged: bool) -> Result<Self> {
        let (host, near) = (NetNs::new("server")?, NetNs::new("near")?);
        let left = ["10.60.0.1/24", "fd60::1/64"];
        let right = ["10.60.0.2/24", "10.60.0.3/24", "fd60::2/64", "fd60::3/64"];
        veth(
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
                veth(
                    End { namespace: &host, interface: "eth1", addresses: &left },
                    End { namespace: &far, interface: "eth0", addresses: &right },
                )?;
                interfaces.push("eth1".into());
                Some(far)
            }
        };
        let http = vec!["0.0.0.0:8080".parse()?, "[fd60::1]:8080".parse()?];
        let settings = Settings { interfaces, mode, http, more: more.into(), unprivileged };
        let server = Server::start(&host, &settings)?;
        Ok(Self { server, host, near, far, settings })
    }

    /// URL as publishers name the server.
    pub fn whip(&self) -> String {
        "http://10.60.0.1:8080/e2e/whip".into()
    }

    /// URL as viewers name the server.
    pub fn whep(&self) -> String {
        let address = if self.far.is_some() { "10.61.0.1" } else { "10.60.0.1" };
        format!("http://{address}:8080/e2e/whep")
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
        Options::within(self.far.as_ref().unwrap_or(&self.near).name())
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

/// Nothing lost, doubled, out of order, or changed by a bit, and something was there at all.
pub fn assert_exact(who: &str, media: &MediaStats) {
    assert!(media.packets > 0, "{who} received nothing: {media:#?}");
    let wrong = (media.lost, media.duplicates, media.mismatches, media.incomplete);
    assert_eq!(wrong, (0, 0, 0, 0), "{who}: (lost, duplicates, mismatches, incomplete) in {media:#?}");
    assert_eq!(media.decrypted, media.packets, "{who} could not decrypt all: {media:#?}");
}

/// [`assert_exact`] for every viewer and kind.
pub fn assert_all_exact(viewers: &[Stats], kinds: &[Kind]) {
    for (number, stats) in viewers.iter().enumerate() {
        for kind in kinds {
            assert_exact(&format!("viewer {number} ({kind:?})"), stats.media(*kind));
        }
    }
}

/// Both kinds.
pub const BOTH: [Kind; 2] = [Kind::Audio, Kind::Video];

/// An address, in a test's source.
pub fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}
