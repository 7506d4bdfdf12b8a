//! The stream with VAES: 32 blocks per step.

use crate::vaes::{RoundKeys, encrypt, store_all};
use core::arch::x86_64::{_mm512_add_epi64, _mm512_set_epi64, _mm512_set4_epi64};
use core::mem::MaybeUninit;

/// Bytes per step: eight registers of four blocks.
const STEP: usize = 512;

/// Fills `out` from block `start` on, or returns false if the low half of the counter would wrap on the way (the
/// portable path then does the carry).
#[target_feature(enable = "avx512f,vaes,sse4.1")]
pub(super) fn fill(keys: &RoundKeys, start: u128, out: &mut [MaybeUninit<u8>]) -> bool {
    // Whole steps are computed, so up to 32 counters past the last one needed.
    let last = (start as u64).checked_add(out.len() as u64 / 16 + 32);
    if last.is_none() {
        return false;
    }
    let schedule = keys.schedule();
    let (low, high) = (start as i64, (start >> 64) as i64);
    let mut counter = _mm512_add_epi64(_mm512_set4_epi64(high, low, high, low), _mm512_set_epi64(0, 3, 0, 2, 0, 1, 0, 0));
    let four = _mm512_set4_epi64(0, 4, 0, 4);
    let mut step = |to: &mut [MaybeUninit<u8>; STEP]| {
        let mut blocks = [counter; 8];
        for block in &mut blocks[1..] {
            counter = _mm512_add_epi64(counter, four);
            *block = counter;
        }
        counter = _mm512_add_epi64(counter, four);
        encrypt(&schedule, &mut blocks);
        for (to, block) in to.as_chunks_mut::<64>().0.iter_mut().zip(blocks) {
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

/// Initialised bytes as bytes that need not be: [`fill`] only ever writes initialised ones.
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
