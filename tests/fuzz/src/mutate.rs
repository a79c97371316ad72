//! Makes inputs of inputs. Everything follows from the seed.

/// xorshift64*: small, and the same everywhere.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// Seeds must differ to give different numbers; 0 is a seed like others.
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// Any number.
    pub fn number(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// Below `limit`; 0 if that is 0.
    pub fn below(&mut self, limit: usize) -> usize {
        if limit == 0 { 0 } else { (self.number() % limit as u64) as usize }
    }
}

/// Numbers at which parsers go wrong.
const NUMBERS: [u32; 10] = [0, 1, 0x7f, 0x80, 0xff, 0x7fff, 0x8000, 0xffff, 0x7fff_ffff, 0xffff_ffff];

/// Longest input.
const LONGEST: usize = 64 << 10;

/// Changes `input` in one to four places; `other` is another one to take pieces from, `words` what the format is made of.
pub fn mutate(input: &mut Vec<u8>, other: &[u8], words: &[&[u8]], random: &mut Random) {
    for _ in 0..=random.below(4) {
        once(input, other, words, random);
    }
    input.truncate(LONGEST);
}

fn once(input: &mut Vec<u8>, other: &[u8], words: &[&[u8]], random: &mut Random) {
    let at = random.below(input.len() + 1);
    match random.below(11) {
        0 if at < input.len() => input[at] ^= 1 << random.below(8),
        1 if at < input.len() => input[at] = random.number() as u8,
        2 => input.truncate(at),
        3 => {
            let piece = piece(input, random).to_vec();
            insert(input, at, &piece);
        }
        // The same many times: what is paid for each line is paid often.
        4 => {
            let piece = piece(input, random).to_vec();
            let times = 1 + random.below(64);
            insert(input, at, &piece.repeat(times));
        }
        5 => {
            let end = (at + random.below(64)).min(input.len());
            input.drain(at..end);
        }
        6 => {
            let piece = piece(other, random);
            insert(input, at, piece);
        }
        7 => {
            let number = NUMBERS[random.below(NUMBERS.len())].to_be_bytes();
            let width = 1 << random.below(3);
            for (place, byte) in input.iter_mut().skip(at).zip(&number[4 - width..]) {
                *place = *byte;
            }
        }
        8 if !words.is_empty() => insert(input, at, words[random.below(words.len())]),
        9 => {
            // The first half of one, the second of the other.
            input.truncate(at);
            input.extend_from_slice(&other[random.below(other.len() + 1).min(other.len())..]);
        }
        _ => {
            let digits = NUMBERS[random.below(NUMBERS.len())].to_string();
            insert(input, at, digits.as_bytes());
        }
    }
}

fn insert(input: &mut Vec<u8>, at: usize, piece: &[u8]) {
    if input.len() + piece.len() <= LONGEST {
        input.splice(at..at, piece.iter().copied());
    }
}

fn piece<'a>(from: &'a [u8], random: &mut Random) -> &'a [u8] {
    let start = random.below(from.len() + 1);
    let length = random.below(128).min(from.len() - start);
    &from[start..start + length]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_the_same_inputs_again() {
        let run = |seed| {
            let mut random = Random::new(seed);
            let mut input = b"one line\r\n".to_vec();
            (0..1000).for_each(|_| mutate(&mut input, b"another", &[b"word"], &mut random));
            input
        };
        assert_eq!(run(7), run(7));
        assert_ne!(run(7), run(8));
        assert!(run(7).len() <= LONGEST);
    }
}
