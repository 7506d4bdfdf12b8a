//! The stream on several blocks per register: eight registers per step.

use crate::lanes::each_width;
use core::mem::MaybeUninit;

macro_rules! streams {
    ($lanes:ident, $features:literal) => {
        use crate::lanes::{
            RoundKeys,
            $lanes::{LANES, add, encrypt, halves, schedule, set, store_all},
        };
        use core::mem::MaybeUninit;

        /// Bytes of a register.
        const WIDTH: usize = 16 * LANES;

        /// Bytes per step.
        const STEP: usize = 8 * WIDTH;

        /// Fills `out` from block `start` on, or returns false if the low half of the counter would wrap on the way (the
        /// portable path then does the carry).
        #[target_feature(enable = $features)]
        pub(crate) fn fill(keys: &RoundKeys, start: u128, out: &mut [MaybeUninit<u8>]) -> bool {
            // Whole steps are computed, so up to a step's counters past the last one needed.
            let last = (start as u64).checked_add(out.len() as u64 / 16 + STEP as u64 / 16);
            if last.is_none() {
                return false;
            }
            let schedule = schedule(keys);
            let mut counter = add(halves((start >> 64) as i64, start as i64), set(core::array::from_fn(|i| i as u128)));
            let register = halves(0, LANES as i64);
            let mut step = |to: &mut [MaybeUninit<u8>; STEP]| {
                let mut blocks = [counter; 8];
                for block in &mut blocks[1..] {
                    counter = add(counter, register);
                    *block = counter;
                }
                counter = add(counter, register);
                encrypt(&schedule, &mut blocks);
                for (to, block) in to.as_chunks_mut::<WIDTH>().0.iter_mut().zip(blocks) {
                    store_all(to, block);
                }
            };
            let (whole, rest) = out.as_chunks_mut::<STEP>();
            for to in whole {
                step(to);
            }
            if !rest.is_empty() {
                let mut last = [MaybeUninit::new(0); STEP];
                step(&mut last);
                rest.copy_from_slice(&last[..rest.len()]);
            }
            true
        }
    };
}

each_width!(streams);

/// Initialised bytes as bytes that need not be: a stream only ever writes initialised ones.
pub(super) fn as_free(bytes: &mut [u8]) -> &mut [MaybeUninit<u8>] {
    // SAFETY: the layouts are the same, the borrow is exclusive, and nothing uninitialised is written through the view.
    unsafe { core::slice::from_raw_parts_mut(bytes.as_mut_ptr().cast(), bytes.len()) }
}

/// Room for words as room for bytes.
pub(super) fn as_free_bytes(words: &mut [MaybeUninit<u64>]) -> &mut [MaybeUninit<u8>] {
    // SAFETY: both may hold anything; the length is that of the same memory and the borrow is exclusive.
    unsafe { core::slice::from_raw_parts_mut(words.as_mut_ptr().cast(), core::mem::size_of_val(words)) }
}

/// The words as bytes; on this little-endian machine they are the stream's bytes.
pub(super) fn as_bytes(words: &mut [u64]) -> &mut [u8] {
    // SAFETY: every byte pattern is a valid `u8`, and every pattern written through the view is a valid `u64`; the length is
    // that of the same memory and the borrow is exclusive.
    unsafe { core::slice::from_raw_parts_mut(words.as_mut_ptr().cast(), core::mem::size_of_val(words)) }
}
