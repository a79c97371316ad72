//! The control task.

use std::sync::Arc;

use tokio::sync::mpsc;

use super::{Command, Refusal, StreamConfig};
use crate::engine::{Engine, Event};

/// Owner of all sessions.
pub(super) struct Task {
    pub(super) config: StreamConfig,
    pub(super) engine: Arc<dyn Engine>,
    pub(super) commands: mpsc::Receiver<Command>,
    pub(super) events: mpsc::UnboundedReceiver<Event>,
}

impl Task {
    pub(super) async fn run(mut self) {
        tracing::info!(engine = self.engine.describe(), media = ?self.config.media, "control task started");
        loop {
            tokio::select! {
                command = self.commands.recv() => match command {
                    None => return,
                    Some(Command::Drain { reply }) => {
                        let _ = reply.send(());
                        return;
                    }
                    Some(command) => refuse(command),
                },
                Some(_) = self.events.recv() => {}
            }
        }
    }
}

fn refuse(command: Command) {
    let unavailable = || Refusal::Unavailable("sessions are not served yet".into());
    match command {
        Command::Offer { reply, .. } => drop(reply.send(Err(unavailable()))),
        Command::Patch { reply, .. } => drop(reply.send(Err(unavailable()))),
        Command::Delete { reply, .. } => drop(reply.send(Err(unavailable()))),
        Command::Snapshot { reply } => drop(reply.send(serde_json::json!({ "streams": [], "sessions": [] }))),
        Command::Drain { reply } => drop(reply.send(())),
    }
}
