extern crate std;

use std::{boxed::Box, vec, vec::Vec};

use super::{derive::Basis, field, *};
use crate::gf128;

/// xorshift128: enough for test data.
struct Random(u128);

impl Random {
    fn number(&mut self) -> u128 {
        self.0 ^= self.0 << 23;
        self.0 ^= self.0 >> 17;
        self.0 ^= self.0 << 26;
        self.0
    }

    fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.number() as u8).collect()
    }
}

fn tables(basis: &Basis) -> Box<Tables> {
    let mut tables = Box::new(Tables::EMPTY);
    basis.fill(&mut tables);
    tables
}

#[test]
fn gathered_product_of_spread_elements_is_the_product() {
    let basis = Basis::new();
    let tables = tables(&basis);
    let mut random = Random(7);
    let mut elements = vec![0, field::ONE, field::X, 1, u128::MAX];
    elements.extend((0..40).map(|_| random.number()));
    for x in &elements {
        for y in &elements {
            let (mut a, b) = (spread(&tables, field::to_block(*x)), basis.spread(*y));
            a.iter_mut().zip(b).for_each(|(a, b)| *a &= b);
            assert_eq!(gather(&tables, &a), field::to_block(field::multiply(*x, *y)), "{x:x} {y:x}");
        }
    }
}

#[test]
fn both_ways_to_spread_agree() {
    let basis = Basis::new();
    let tables = tables(&basis);
    for bit in 0..128 {
        assert_eq!(spread(&tables, field::to_block(1 << bit)), basis.spread(1 << bit), "bit {bit}");
    }
}

/// GHASH of a 12-byte header and a payload in the way the datapath computes it, against the table of
/// [`gf128`], for each length that the rows hold.
#[test]
fn ghash_of_every_length() {
    let basis = Basis::new();
    let tables = tables(&basis);
    let mut random = Random(0x1234_5678_9abc_def0);
    let mut rows = Box::new(PacketRows([[!0; ROWS]; COLUMNS]));
    let mut key = Box::new(KeyTable::EMPTY);
    let mut table = [[[0; 2]; 16]; gf128::POSITIONS];
    for len in 0..=1248 {
        if len % 100 == 0 {
            let h = field::to_block(random.number());
            table = [[[0; 2]; 16]; gf128::POSITIONS];
            gf128::fill(&mut table, h);
            basis.derive(h, &mut key);
        }
        let (header, payload) = (random.bytes(12), random.bytes(len));
        let block = |bytes: &[u8]| {
            let mut padded = [0; 16];
            padded[..bytes.len()].copy_from_slice(bytes);
            gf128::from_bytes(padded)
        };
        let blocks: Vec<Block> = payload.chunks(16).map(block).collect();
        let lengths = gf128::lengths(12, len as u64);

        let step = |y: Block, x: Block| gf128::multiply(&table, [y[0] ^ x[0], y[1] ^ x[1]]);
        let expected = [block(&header)].iter().chain(&blocks).chain([&lengths]).fold([0, 0], |y, x| step(y, *x));

        for row in 0..groups(blocks.len()) * GROUP {
            put(&mut rows, row, &[0; COLUMNS]);
        }
        put(&mut rows, 0, &spread(&tables, lengths));
        for (i, block) in blocks.iter().enumerate() {
            put(&mut rows, blocks.len() - i, &spread(&tables, *block));
        }
        let mut total = sum(&key, &rows, groups(blocks.len()));
        add(&mut total, &spread(&tables, block(&header)), &key, blocks.len() + 1);
        assert_eq!(gather(&tables, &total), expected, "{len} bytes");
    }
}

#[test]
fn rows_outside_of_a_table_are_left_alone() {
    let mut key = Box::new(KeyTable([[!0; ROWS]; COLUMNS]));
    let mut total = [0; COLUMNS];
    add(&mut total, &[!0; COLUMNS], &key, ROWS);
    assert_eq!(total, [0; COLUMNS]);
    let mut rows = Box::new(PacketRows([[0; ROWS]; COLUMNS]));
    put(&mut rows, ROWS, &[!0; COLUMNS]);
    assert_eq!(rows.0, [[0; ROWS]; COLUMNS]);
    key.wipe();
    assert_eq!(key.0, [[0; ROWS]; COLUMNS]);
}
