//! Another server that misbehaves as real ones do, for the tests of the benchmarks: it answers WHIP and WHEP at
//! `http://ADDRESS/live0/whip`, ….

use std::{net::SocketAddr, thread, time::Duration};

use anyhow::Result;
use clap::{Parser, ValueEnum};
use tests_kit::forwarder::{Copied, Damage, Forwarder, Manners, faithful};

#[derive(Parser)]
struct Options {
    #[arg(long)]
    http: SocketAddr,
    /// Where ICE, DTLS and media go.
    #[arg(long)]
    media: SocketAddr,
    /// Its answers have no Location and no ETag.
    #[arg(long)]
    no_headers: bool,
    #[arg(long, value_enum, default_value = "faithful")]
    forwards: Forwards,
    /// Ends after so many milliseconds.
    #[arg(long)]
    dies_after: Option<u64>,
}

/// What it does to media.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Forwards {
    Faithful,
    /// Throws away nine packets of 25, and numbers the others anew.
    Some,
    /// Sends packets of its own making, as a server that takes media apart.
    Own,
}

fn some(copy: u64, packet: Copied) -> Option<Copied> {
    let (round, place) = (copy / 25, copy % 25);
    (place >= 9).then(|| Copied { sequence: 1000 + round * 16 + place - 9, ..packet })
}

fn own(copy: u64, packet: Copied) -> Option<Copied> {
    Some(Copied { payload: vec![0x41; packet.payload.len() + copy as usize % 3], ..packet })
}

fn main() -> Result<()> {
    let options = Options::parse();
    let damage: Damage = match options.forwards {
        Forwards::Faithful => faithful,
        Forwards::Some => some,
        Forwards::Own => own,
    };
    let _forwarder = Forwarder::start(options.http, options.media, Manners { headers: !options.no_headers, damage })?;
    thread::sleep(options.dies_after.map_or(Duration::MAX, Duration::from_millis));
    eprintln!("this was all");
    std::process::exit(3);
}
