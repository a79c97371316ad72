//! The engine's sign of life in the `SERVER` map, and the log lines of the BPF programs.

use std::{
    sync::mpsc::{Receiver, RecvTimeoutError},
    time::Duration,
};

use aya::{
    Ebpf,
    maps::{Array, MapData},
};
use aya_log::EbpfLogger;
use forwarder_common::maps::Server;

use super::describe_interfaces;
use crate::{bpf::describe, clock::boottime_ns, route::Interfaces};

/// The inspection commands call a server silent that has not updated its entry for three of these.
pub(super) const HEARTBEAT: Duration = Duration::from_secs(1);

/// How often log lines are fetched.
const LOG_POLL: Duration = Duration::from_millis(100);

/// Runs until the sender of `stop` is dropped.
pub(super) fn run(
    (mut map, mut server, interfaces): (Array<MapData, Server>, Server, Interfaces),
    mut log: Option<ProgramLog>,
    stop: &Receiver<()>,
) {
    let period = if log.is_some() { LOG_POLL } else { HEARTBEAT };
    let mut written = 0;
    while stop.recv_timeout(period) == Err(RecvTimeoutError::Timeout) {
        let now = boottime_ns();
        if now - written >= HEARTBEAT.as_nanos() as u64 {
            written = now;
            server.heartbeat_ns = now;
            describe_interfaces(&mut server, &interfaces.get());
            if let Err(error) = map.set(0, server, 0) {
                tracing::warn!("heartbeat not written: {}", describe(&error));
            }
        }
        if let Some(log) = &mut log {
            log();
        }
    }
}

/// Fetches and prints what the programs logged since the last call.
pub(super) type ProgramLog = Box<dyn FnMut() + Send>;

/// The log of the loaded programs, if they log at all. Lines go to the `log` crate, from where the
/// server's subscriber takes them.
pub(super) fn program_log(ebpf: &mut Ebpf) -> Option<ProgramLog> {
    let mut logger = EbpfLogger::init(ebpf).ok()?;
    Some(Box::new(move || logger.flush()))
}
