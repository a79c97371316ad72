//! Another server: what the command line says of it, its process, and a run with the load of a case.

use std::{
    fs::File,
    io::Read as _,
    os::unix::process::CommandExt as _,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};
use tests_kit::{labelled::Shape, netns::Running};

use super::{
    case::Case,
    checker::Verdict,
    load,
    receivers::Histogram,
    run::{Measured, Times},
};
use crate::{
    cameras::field::{Field, Plan, Subject},
    cameras::run::{self as cameras, measure},
};

/// How media gets into another server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Feed {
    /// It plays our RTSP cameras.
    Rtsp,
    /// We publish by WHIP.
    Whip,
}

/// Another server on the command line.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Another server in the same rounds: its WHEP URL, with {} where the number of the stream stands.
    #[arg(long, value_name = "URL", requires = "peer")]
    peer_url: Option<String>,
    /// Starts that server, by a shell, for each run, in the networks of the benchmark: viewers reach it at
    /// 10.82.0.1. In its environment, STREAMS is the number of streams, and CAMERAS with a number from 0 behind
    /// it the RTSP URL of one.
    #[arg(long, value_name = "COMMAND", group = "peer", requires = "peer_url")]
    peer_command: Option<String>,
    /// Process of that server, which runs already and plays rtsp://127.0.0.1:8554/cam0, cam1, … as soon as they
    /// are there. Only the CPU time of this process is seen.
    #[arg(long, value_name = "PID", group = "peer", requires = "peer_url")]
    peer_pid: Option<i32>,
    /// How media gets into it: from our RTSP cameras, or published by WHIP.
    #[arg(long, value_enum, value_name = "WAY", default_value = "rtsp")]
    peer_feed: Feed,
    /// Where it is published by WHIP. [default: --peer-url with `whip` in place of `whep`]
    #[arg(long, value_name = "URL")]
    peer_whip_url: Option<String>,
    /// Its name in the report.
    #[arg(long, value_name = "NAME", default_value = "other server")]
    peer_name: String,
}

/// Another server.
#[derive(Clone, Debug)]
pub struct Peer {
    /// For people.
    pub name: String,
    pub how: How,
    pub feed: Feed,
    /// With `{}` in the stream's place.
    pub whep: String,
    pub whip: String,
}

/// Who runs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum How {
    /// We, in the networks of the benchmark.
    Command(String),
    /// Somebody else, on this machine.
    Process(i32),
}

impl Options {
    /// `None`: there is none.
    ///
    /// # Errors
    /// An URL in which no stream has a place.
    pub fn peer(&self) -> Result<Option<Peer>> {
        let Some(whep) = &self.peer_url else { return Ok(None) };
        let how = match (&self.peer_command, self.peer_pid) {
            (Some(command), _) => How::Command(command.clone()),
            (None, Some(id)) => {
                super::cpu::of_process(id)?;
                How::Process(id)
            }
            (None, None) => anyhow::bail!("--peer-url needs --peer-command or --peer-pid"),
        };
        let whip = self.peer_whip_url.clone().unwrap_or_else(|| whep.replace("whep", "whip"));
        for url in [whep, &whip] {
            ensure!(url.contains("{}"), "{url} has no {{}} where the number of the stream stands");
        }
        let way = match self.peer_feed {
            Feed::Rtsp => "by RTSP",
            Feed::Whip => "by WHIP",
        };
        let name = format!("{}, fed {way}", self.peer_name);
        Ok(Some(Peer { name, how, feed: self.peer_feed, whep: whep.clone(), whip }))
    }
}

impl Peer {
    /// WHEP URL of a stream.
    pub fn whep(&self, stream: u32) -> String {
        self.whep.replace("{}", &stream.to_string())
    }

    /// WHIP URL of a stream.
    pub fn whip(&self, stream: u32) -> String {
        self.whip.replace("{}", &stream.to_string())
    }
}

/// The processes of another server. If they are ours, they are killed on drop.
pub struct Processes {
    running: Option<Running>,
    id: i32,
    log: Option<File>,
}

impl Processes {
    /// Starts `command`, which runs a shell, as a group of processes of its own. `one_core`: on the second CPU.
    ///
    /// # Errors
    /// When it does not start.
    pub fn start(mut command: Command, one_core: bool) -> Result<Self> {
        let log = tempfile::tempfile()?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log.try_clone()?).process_group(0);
        if one_core {
            // SAFETY: between fork and exec, this is one system call on memory of the stack.
            unsafe {
                command.pre_exec(|| {
                    load::stay_on(1);
                    Ok(())
                });
            }
        }
        let running = Running::start(&mut command)?;
        let id = running.id() as i32;
        Ok(Self { running: Some(running), id, log: Some(log) })
    }

    /// One that runs already.
    pub fn attach(id: i32) -> Self {
        Self { running: None, id, log: None }
    }

    /// All that there are now.
    pub fn ids(&self) -> Vec<i32> {
        match self.running {
            None => vec![self.id],
            Some(_) => in_group(self.id),
        }
    }

    /// The end of what they have printed.
    pub fn log(&self) -> String {
        let mut text = vec![];
        if let Some(log) = &self.log {
            use std::io::{Seek as _, SeekFrom};
            let mut log = log;
            let length = log.metadata().map_or(0, |file| file.len());
            let _ = log.seek(SeekFrom::Start(length.saturating_sub(4000)));
            let _ = log.read_to_end(&mut text);
        }
        String::from_utf8_lossy(&text).into_owned()
    }
}

impl Drop for Processes {
    fn drop(&mut self) {
        if self.running.is_some() {
            // SAFETY: no memory; the group is that of our child, which nobody has waited for.
            unsafe { libc::kill(-self.id, libc::SIGKILL) };
        }
    }
}

/// The living processes of a group (proc_pid_stat(5)).
fn in_group(group: i32) -> Vec<i32> {
    let ids = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let ids = ids.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let is_in_it = |id: &i32| {
        let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
        // Behind the name, which may have spaces and brackets: state, parent, group.
        let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
        let fields: Vec<&str> = fields.split_whitespace().take(3).collect();
        matches!(fields[..], [state, _, its] if state != "Z" && its.parse() == Ok(group))
    };
    ids.filter(is_in_it).collect()
}

/// What part of the viewers opens what it gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opened {
    /// One of 16, as many as there are samples of the latency.
    Some,
    All,
}

/// Runs another server under the load of a case.
///
/// # Errors
/// When it refuses, when somebody does not connect, when a viewer gets nothing; with the end of its log.
pub fn run(peer: &Peer, case: &Case, times: Times, opened: Opened, one_core: bool) -> Result<Measured> {
    let shape = Shape { payload: case.payload, rate: case.rate, burst: case.burst };
    let opened = match opened {
        Opened::Some => case.all_viewers().div_ceil(16),
        Opened::All => case.all_viewers(),
    };
    let plan =
        Plan { streams: case.streams, viewers: case.viewers, shape, opened, one_core, subject: Subject::Peer(peer) };
    let mut field = Field::new(&plan, &|_| ()).with_context(|| peer.name.clone())?;
    let times = cameras::Times { warm_up: times.warm_up, measured: times.measured, tail: Times::TAIL };
    let run = measure(&mut field, times, &mut |_| ())
        .with_context(|| format!("{}; its log ends with\n{}", peer.name, field.server.log()))?;
    let mut latency = Histogram::default();
    run.delays.iter().for_each(|delay| latency.add(u64::from(*delay) * 1000));
    Ok(Measured {
        alone: Some(run.server()),
        process: run.cores.process,
        // Packets of its own are no copies of ours.
        copies: run.lost.map_or(0.0, |_| run.rate),
        expected: run.expected,
        lost: run.lost,
        latency,
        memory: run.memory,
        late: run.late,
        overflows: field.overflows()?,
        verdict: Some(Verdict { right: run.right, wrong: run.wrong, ..Verdict::default() }),
        ..Measured::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_have_their_processes() {
        let mut command = Command::new("sh");
        command.args(["-c", "sleep 20 & echo there; wait"]);
        let processes = Processes::start(command, false).unwrap();
        let give_up = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while processes.ids().len() < 2 || !processes.log().contains("there") {
            assert!(std::time::Instant::now() < give_up, "{:?}: {}", processes.ids(), processes.log());
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        let group = processes.id;
        drop(processes);
        while !in_group(group).is_empty() {
            assert!(std::time::Instant::now() < give_up);
        }
    }

    #[test]
    fn urls_have_a_place_for_the_stream() {
        let options = |url: &str| Options {
            peer_url: Some(url.into()),
            peer_command: Some("true".into()),
            peer_pid: None,
            peer_feed: Feed::Whip,
            peer_whip_url: None,
            peer_name: "x".into(),
        };
        let peer = options("http://h/cam{}/whep").peer().unwrap().unwrap();
        assert_eq!((peer.whep(7), peer.whip(7)), ("http://h/cam7/whep".into(), "http://h/cam7/whip".into()));
        assert!(options("http://h/whep").peer().is_err());
    }
}
