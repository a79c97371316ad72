extern crate std;

use std::{boxed::Box, vec, vec::Vec};

use super::*;
use crate::{gf128, tower::field};

/// xorshift128: enough for test data.
fn random(state: &mut u128) -> u128 {
    *state ^= *state << 23;
    *state ^= *state >> 17;
    *state ^= *state << 26;
    *state
}

fn empty() -> Box<Sums> {
    Box::new(Sums { sums: [[[!0; SUBSETS]; 2]; GROUPS], blocks: [[!0; 2]; BLOCKS], total: [0; 2], checksum: 0 })
}

/// Horner's rule, block by block, by the table of [`gf128`].
fn by_table(h: u128, blocks: &[Block]) -> Block {
    let mut table = [[[0; 2]; 16]; gf128::POSITIONS];
    gf128::fill(&mut table, field::to_block(h));
    blocks.iter().rev().fold([0, 0], |y, block| gf128::multiply(&table, [y[0] ^ block[0], y[1] ^ block[1]]))
}

fn by_subsets<const N: usize>(sums: &mut Sums, key: &Subsets, blocks: &[Block]) -> Block {
    for place in 0..N * GROUP {
        put(sums, place, blocks.get(place).copied().unwrap_or([0, 0]));
    }
    (0..N).for_each(|group| sum_up(sums, group));
    total::<N>(sums, key)
}

#[test]
fn equals_the_table() {
    let mut state = 0x0123_4567_89ab_cdef_0f1e_2d3c_4b5a_6978;
    let (mut sums, mut key) = (empty(), Box::new(Subsets::EMPTY));
    for h in [1, 1 << 127, u128::MAX, random(&mut state), random(&mut state)] {
        derive::derive(field::to_block(h), &mut key);
        for len in 0..=BLOCKS {
            let blocks: Vec<Block> = (0..len).map(|_| field::to_block(random(&mut state))).collect();
            let expected = by_table(h, &blocks);
            if len <= 2 * GROUP {
                assert_eq!(by_subsets::<2>(&mut sums, &key, &blocks), expected, "{len} blocks");
            }
            if len <= 11 * GROUP {
                assert_eq!(by_subsets::<11>(&mut sums, &key, &blocks), expected, "{len} blocks");
            }
            assert_eq!(by_subsets::<GROUPS>(&mut sums, &key, &blocks), expected, "{len} blocks");
        }
    }
}

/// The second key's header, lengths and keystream differ from the first one's; only their groups are
/// summed up again.
#[test]
fn blocks_can_be_changed_after_the_first_key() {
    let mut state = 99;
    let (mut sums, mut key) = (empty(), Box::new(Subsets::EMPTY));
    let h = random(&mut state);
    derive::derive(field::to_block(h), &mut key);
    let mut blocks = vec![[0, 0]; BLOCKS];
    blocks.iter_mut().for_each(|block| *block = field::to_block(random(&mut state)));
    assert_eq!(by_subsets::<GROUPS>(&mut sums, &key, &blocks), by_table(h, &blocks));
    for place in [0, 1, 37] {
        let change = field::to_block(random(&mut state));
        blocks[place] = [blocks[place][0] ^ change[0], blocks[place][1] ^ change[1]];
        add(&mut sums, place, change);
        sum_up(&mut sums, place / GROUP);
        assert_eq!(total::<GROUPS>(&sums, &key), by_table(h, &blocks));
    }
}

#[test]
fn beyond_the_last_block_nothing_happens() {
    let mut sums = empty();
    put(&mut sums, BLOCKS, [1, 1]);
    add(&mut sums, BLOCKS, [1, 1]);
    sum_up(&mut sums, GROUPS);
    assert!(sums.blocks.iter().all(|block| *block == [!0; 2]));
    assert!(sums.sums.as_flattened().as_flattened().iter().all(|sum| *sum == !0));
}

#[test]
fn wiped_key_is_empty() {
    let mut key = Subsets([[7; BITS]; GROUPS]);
    key.wipe();
    assert!(key.0.as_flattened().iter().all(|byte| *byte == 0));
}
