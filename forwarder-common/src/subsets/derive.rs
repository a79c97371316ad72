//! A key's side, computed by userspace when the key is installed.

use super::{BITS, GROUP, Subsets};
use crate::{gf128::Block, tower::field};

/// Fills in the subsets of a key with this H.
pub fn derive(h: Block, subsets: &mut Subsets) {
    let h = field::from_block(h);
    let mut power = h;
    for bytes in &mut subsets.0 {
        *bytes = [0; BITS];
        for block in 0..GROUP {
            for (bit, byte) in bytes.iter_mut().enumerate() {
                *byte |= ((power >> bit & 1) as u8) << (3 + block);
            }
            power = field::multiply(power, h);
        }
    }
}
