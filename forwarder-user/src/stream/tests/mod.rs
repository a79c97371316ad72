//! The control task with real peers on loopback and an engine that only keeps what it is told.

mod client;
mod fake_engine;
mod formats;
mod lab;
mod layers;
mod limits;
mod repair;
mod rights;
mod sessions;
mod simulator;
mod strangers;
mod tracks;

use std::sync::Arc;

use client::Client;
use fake_engine::FakeEngine;
use str0m::media::{Direction, MediaKind};

use super::{Control, MediaAddress, StreamConfig, spawn};
use penstock_engine::Role;

const BOTH: [MediaKind; 2] = [MediaKind::Audio, MediaKind::Video];

fn config() -> StreamConfig {
    StreamConfig::new(vec![MediaAddress::from(std::net::SocketAddr::from(([127, 0, 0, 1], 0)))])
}

fn start(config: StreamConfig) -> (Control, Arc<FakeEngine>) {
    let (engine, events) = FakeEngine::new();
    let (control, _task) = spawn(config, engine.clone(), events).unwrap();
    (control, engine)
}

/// A connected publisher of both kinds.
async fn publisher(control: &Control, stream: &str) -> Client {
    let mut client = Client::new(client::all_codecs(), Direction::SendOnly, &BOTH).await;
    client.signal(control, Role::Publisher, stream).await.unwrap();
    client.connect().await;
    client
}

/// A connected viewer of both kinds.
async fn viewer(control: &Control, stream: &str) -> Client {
    let mut client = Client::new(client::all_codecs(), Direction::RecvOnly, &BOTH).await;
    client.signal(control, Role::Subscriber, stream).await.unwrap();
    client.connect().await;
    client
}
