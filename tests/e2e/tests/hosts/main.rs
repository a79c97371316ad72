//! Hosts as they are: what the machine around a server does to it, and what becomes of the media. The real server, real
//! peers, in network namespaces. Needs root.

use anyhow::{Result, ensure};
use tests_kit::peer::{Kind, Publisher, Stats, Viewers};
use tests_kit::stage::{BOTH, Layout, Stage, synthetic};

/// A scenario in both engines: `cargo xtask hosts` shows them side by side.
macro_rules! in_both_engines {
    ($($(#[doc = $doc:literal])* $name:ident;)+) => {$(
        $(#[doc = $doc])*
        mod $name {
            #[test]
            fn auto() -> anyhow::Result<()> {
                super::$name(crate::Engine::Auto)
            }

            #[test]
            fn userspace() -> anyhow::Result<()> {
                super::$name(crate::Engine::Userspace)
            }
        }
    )+};
}

mod goes_past;
mod limits;
mod log;
mod network;
mod path_mtu;
mod policy;
mod standstill;
mod uplinks;

/// What carries the media.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Engine {
    /// The kernel engine wherever it can, as by default.
    Auto,
    /// The userspace engine and sockets.
    Userspace,
}

impl Engine {
    /// A server with one interface; `media` and `more` are TOML, keys of `[media]` and tables.
    fn stage(self, media: &str, more: &str) -> Result<Stage> {
        self.stage_with(Layout::OneNic, media, more)
    }

    fn stage_with(self, layout: Layout, media: &str, more: &str) -> Result<Stage> {
        let engine = match self {
            Self::Auto => "",
            Self::Userspace => "engine = \"userspace\"\ntransmitter = \"socket\"\n",
        };
        Stage::new(layout, "native", &format!("[media]\n{engine}{media}\n{more}"))
    }

    /// Waits until every session of a role is carried by what begins so, where there is a choice.
    fn carried(self, stage: &Stage, role: &str, start: &str) -> Result<()> {
        let start = if self == Self::Auto { start } else { "userspace socket" };
        stage.until(&format!("every {role} is carried by {start}"), || {
            Ok(stage.carriers(role)?.iter().all(|carrier| carrier.starts_with(start)))
        })
    }
}

/// A publisher and so many viewers.
fn playing(stage: &Stage, viewers: usize) -> Result<(Publisher, Viewers)> {
    let source = synthetic(100);
    let publisher = stage.publish(&source, stage.publishing())?;
    let viewers = stage.play(viewers, &source, stage.playing())?;
    Ok((publisher, viewers))
}

/// What was on its way while a track was handed over is lost, and nothing comes twice or as something else.
fn nothing_twice(viewers: &[Stats]) -> Result<()> {
    for (number, stats) in viewers.iter().enumerate() {
        for kind in BOTH {
            let media = stats.media(kind);
            let wrong = (media.duplicates, media.mismatches);
            ensure!(wrong == (0, 0) && media.decrypted == media.packets, "viewer {number} ({kind:?}): {media:#?}");
        }
    }
    Ok(())
}

/// All viewers get so much more of the picture, and of the sound.
fn flows(stage: &Stage, viewers: &Viewers, count: usize, picture: u64, sound: u64) -> Result<()> {
    let numbers: Vec<usize> = (0..count).collect();
    stage.flows(viewers, &numbers, Kind::Video, picture)?;
    stage.flows(viewers, &numbers, Kind::Audio, sound)
}
