//! A process that runs a kernel engine with one publisher session until it is killed, for the tests
//! of what a dead or stopped server leaves behind: `engine-host INTERFACE LOCAL PEER PIN_DIRECTORY`.

use std::{env, net::SocketAddr, path::PathBuf, thread, time::Duration};

use anyhow::{Context, Result};
use forwarder_common::ExtendedSeq;
use penstock_engine::{
    Engine as _, Kind, NewPublisherTrack, NewSession, Role, Transport,
    kernel::{Config, KernelEngine},
};
use tests_engine::lab::media_key;
use tests_kit::srtp::Key;

fn main() -> Result<()> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [interface, local, peer, pin_dir] = arguments.as_slice() else {
        anyhow::bail!("engine-host INTERFACE LOCAL PEER PIN_DIRECTORY");
    };
    let local: SocketAddr = local.parse().context("local address")?;
    let (events, _keep) = tokio::sync::mpsc::unbounded_channel();
    let config =
        Config { interfaces: vec![interface.clone()], pin_dir: PathBuf::from(pin_dir), ..Config::new(local.port()) };
    let engine = KernelEngine::start(config, events)?;
    let session = engine.add_session(NewSession {
        id: "0123456789abcdef".into(),
        stream: "left-behind".into(),
        role: Role::Publisher,
        key: media_key(&Key::test(16, 1)),
        transport: Transport::udp(local, peer.parse().context("peer address")?),
        of_source: false,
    })?;
    engine.add_publisher_track(
        session,
        NewPublisherTrack {
            ssrc: 0xabcd_0001,
            kind: Kind::Video,
            payload_type: 96,
            clock_rate: 90_000,
            first: ExtendedSeq(1000),
            sequence_extension: None,
        },
    )?;
    println!("ready");
    thread::sleep(Duration::from_secs(60));
    Ok(())
}
