//! The same random sessions through every engine and transmitter: each viewer must receive the same packets, byte for
//! byte. So each engine is the other's oracle.

use anyhow::{Result, ensure};
use penstock_engine::{kernel, userspace};
use tests_engine::{
    lab::Lab,
    script::{Received, play, script},
};

const SEEDS: [u64; 2] = [1, 20_261_123];

fn kernel(seed: u64, key_len: usize) -> Result<Received> {
    kernel_with(seed, key_len, true)
}

/// `direct`: with the short way for streams with one viewer, which not every kernel takes.
fn kernel_with(seed: u64, key_len: usize, direct: bool) -> Result<Received> {
    let lab = Lab::new(2)?;
    let mut server = lab.start(kernel::Config { direct, ..lab.config() })?;
    let received = play(&lab, &mut server, &script(seed), key_len)?;
    let [sealed, alone] = ["sealed", "direct"].map(|name| server.counter(name));
    ensure!(alone < sealed && (alone > 0) == direct, "{alone} of {sealed} packets were sealed for a viewer alone");
    Ok(received)
}

fn by_sockets(seed: u64, key_len: usize, gso: bool) -> Result<Received> {
    let mut lab = Lab::new(2)?;
    let config = userspace::Config { gso, ..userspace::Config::default() };
    let (mut server, _threads) = lab.start_userspace(config, false)?;
    play(&lab, &mut server, &script(seed), key_len)
}

fn by_xdp(seed: u64, key_len: usize) -> Result<Received> {
    let mut lab = Lab::new(2)?;
    let (mut server, _threads) = lab.start_userspace(userspace::Config::default(), true)?;
    let received = play(&lab, &mut server, &script(seed), key_len)?;
    let [all, xdp] = ["transmitted", "transmitted_by_xdp"].map(|name| server.counter(name));
    ensure!(all == xdp && all > 0, "{xdp} of {all} packets were sent by XDP");
    Ok(received)
}

fn same(kernel: &Received, other: &Received, what: &str) -> Result<()> {
    for (viewer, packets) in kernel {
        let others = other.get(viewer).map_or(&[][..], Vec::as_slice);
        let first = packets.iter().zip(others).position(|(one, other)| one != other);
        let counts = (packets.len(), others.len());
        ensure!(packets == others, "{what}: viewer {viewer} differs from packet {first:?} on; counts {counts:?}");
    }
    ensure!(kernel.len() == other.len(), "{what}: other viewers");
    Ok(())
}

#[test]
fn kernel_and_userspace_by_sockets() -> Result<()> {
    for (seed, key_len, gso) in [(SEEDS[0], 16, true), (SEEDS[1], 32, false)] {
        same(&kernel(seed, key_len)?, &by_sockets(seed, key_len, gso)?, &format!("seed {seed}, GSO {gso}"))?;
    }
    Ok(())
}

#[test]
fn one_viewer_by_the_short_way_and_by_the_long_one() -> Result<()> {
    let [seed, _] = SEEDS;
    same(&kernel_with(seed, 16, true)?, &kernel_with(seed, 16, false)?, &format!("seed {seed}, no short way"))
}

#[test]
fn kernel_and_userspace_by_xdp() -> Result<()> {
    for (seed, key_len) in [(SEEDS[0], 32), (SEEDS[1], 16)] {
        same(&kernel(seed, key_len)?, &by_xdp(seed, key_len)?, &format!("seed {seed}, xdp"))?;
    }
    Ok(())
}
