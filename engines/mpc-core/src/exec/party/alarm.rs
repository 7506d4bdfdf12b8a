//! What tells the client that a value left its range: sums with random public coefficients, zero if none did.

use sprint_kernel::{Prg, words as kernel};

use super::{MISSING, Party, Value};
use crate::MachineError;
use crate::exec::randomness::low;
use crate::program::{NodeId, Op};

/// Words drawn at a time.
const CHUNK: usize = 1 << 10;

/// Random public words, the same for both parties: AES in counter mode under a hash of opened values, which are uniform and independent of all
/// secrets.
pub(crate) struct Coins {
    prg: Prg,
    block: u128,
}

impl Coins {
    /// Hashes the first opened words, more than enough to be unlike those of any other inference.
    pub(crate) fn of(opened: &[u64]) -> Self {
        const WORDS: usize = 512;
        let bytes: Vec<u8> = opened.iter().take(WORDS).flat_map(|w| w.to_le_bytes()).collect();
        let key = blake3::derive_key("sprint-flow mpc alarm coefficients v1", &bytes);
        let mut aes = [0; 16];
        aes.copy_from_slice(&key[..16]);
        Self { prg: Prg::new(aes), block: 0 }
    }

    fn next(&mut self, words: &mut Vec<u64>, len: usize) {
        words.resize(len, 0);
        self.prg.fill_u64(self.block, words);
        self.block += len.div_ceil(2) as u128;
    }
}

impl Party {
    /// Both parties XOR the same words where their bits differ from one another; party 1 negates, so equal words add up to 0.
    pub(super) fn alarm(
        &self,
        src: NodeId,
        coins: NodeId,
        planes: usize,
        examples: usize,
        mut out: Vec<u64>,
    ) -> Result<Vec<u64>, MachineError> {
        let Some(Value::Bits(bits)) = &self.values[src.index()] else { return Err(MISSING) };
        let mut coins = Coins::of(self.hat(coins)?);
        let (each, mut words, mut inside) = (bits.len() / planes / examples, Vec::new(), Vec::new());
        for example in 0..examples {
            let mut sum = 0u64;
            for from in (0..each).step_by(CHUNK) {
                let len = CHUNK.min(each - from);
                coins.next(&mut words, len);
                let at = example * each + from;
                inside.clear();
                inside.resize(len, u8::from(self.first()));
                for plane in bits.chunks_exact(each * examples) {
                    inside.iter_mut().zip(&plane[at..at + len]).for_each(|(b, bit)| *b ^= bit);
                }
                sum = inside.iter().zip(&words).fold(sum, |sum, (b, word)| sum ^ (word & u64::from(*b).wrapping_neg()));
            }
            out.push(if self.first() { sum } else { sum.wrapping_neg() });
        }
        Ok(out)
    }

    /// The lifted share is one of `hat - r`, up to the multiple of `2^n` that the bias puts right for a value in range.
    pub(super) fn lift_check(
        &self,
        wide: NodeId,
        open: NodeId,
        ring: u32,
        examples: usize,
        mut out: Vec<u64>,
    ) -> Result<Vec<u64>, MachineError> {
        const LANES: usize = Op::LIFT_LANES;
        let (wide, share) = (self.words(wide)?, self.share(open)?);
        let mut coins = Coins::of(self.hat(open)?);
        let (each, mut words) = (wide.len() / examples, Vec::new());
        for example in 0..examples {
            let mut sums = [0u64; LANES];
            for from in (0..each).step_by(CHUNK) {
                let len = CHUNK.min(each - from);
                coins.next(&mut words, len);
                let at = example * each + from;
                kernel::add_byte_sums(&mut sums, &words, &wide[at..at + len], &share[at..at + len]);
            }
            out.extend(sums.map(|s| (s & low(ring)) << (64 - ring)));
        }
        Ok(out)
    }
}
