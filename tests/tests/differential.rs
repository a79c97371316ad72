//! The same random sessions through every engine and transmitter: each viewer must receive the same packets, byte for
//! byte. So each engine is the other's oracle.

use anyhow::Result;
use penstock_tests::{
    engine::Lab,
    script::{Received, play, script},
};

const SEEDS: [u64; 3] = [1, 20_261_123, 77];

fn kernel(seed: u64, key_len: usize) -> Result<Received> {
    let lab = Lab::new(2)?;
    let mut server = lab.start(lab.config())?;
    play(&lab, &mut server, &script(seed), key_len)
}

#[test]
fn the_kernel_engine_agrees_with_itself() -> Result<()> {
    for seed in SEEDS {
        assert!(kernel(seed, 16)? == kernel(seed, 16)?, "seed {seed}");
    }
    Ok(())
}
