//! Packing with a byte permutation: eight words at a time.
//!
//! Eight words of `bits` bits are `bits` bytes, so every group of eight begins at a byte. A word and the at most seven bits before it in its first
//! byte fit eight bytes if `bits ≤ 57`: one permutation brings those to their word, a shift and a mask do the rest. Wider words have bits in a ninth byte, which a permutation
//! of its own brings. The way back needs two permutations, because neighbours may share a byte (words of 8 bits and more share none with the next but one), and one for ninth bytes.

use core::arch::x86_64::{
    __m512i, _mm512_and_si512, _mm512_loadu_si512, _mm512_maskz_permutexvar_epi8, _mm512_or_si512, _mm512_permutexvar_epi8,
    _mm512_set1_epi64, _mm512_sllv_epi64, _mm512_srlv_epi64, _mm512_storeu_si512,
};
use core::mem::MaybeUninit;

/// Bytes of a register.
const WIDTH: usize = 64;

/// Where the words of a group lie.
struct Layout {
    /// First byte and the bit in it.
    at: [(usize, u64); 8],
    bits: usize,
    mask: u64,
}

impl Layout {
    fn of(bits: u32) -> Self {
        let bits = bits as usize;
        Self { at: core::array::from_fn(|i| (i * bits / 8, (i * bits % 8) as u64)), bits, mask: u64::MAX >> (64 - bits) }
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    fn shifts(&self) -> __m512i {
        load(&self.at.map(|(_, bit)| bit))
    }

    /// How far what a word has in its ninth byte is from the word's lowest bit; 64 and more clears it.
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn ninths(&self) -> __m512i {
        load(&self.at.map(|(_, bit)| 64 - bit))
    }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn load<T>(from: &[T]) -> __m512i {
    assert!(core::mem::size_of_val(from) >= WIDTH, "a register is 64 bytes");
    // SAFETY: 64 bytes of initialised integers are readable, and the load needs no alignment.
    unsafe { _mm512_loadu_si512(from.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn store<T>(to: &mut [MaybeUninit<T>], x: __m512i) {
    assert!(core::mem::size_of_val(to) >= WIDTH, "a register is 64 bytes");
    // SAFETY: 64 bytes are writable; `T` is an integer, for which every byte pattern is valid; the store needs no alignment.
    unsafe { _mm512_storeu_si512(to.as_mut_ptr().cast(), x) }
}

/// Unpacks as many groups of eight words of 1 to 63 bits, or to 57 unless `WIDE`, as 64-byte loads inside `bytes` allow; the number of words written.
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
pub(super) fn unpack<const WIDE: bool>(bits: u32, bytes: &[u8], out: &mut [MaybeUninit<u64>]) -> usize {
    let layout = Layout::of(bits);
    let mut index = [0u8; WIDTH];
    for (to, (first, _)) in index.chunks_exact_mut(8).zip(layout.at) {
        to.iter_mut().zip(first..).for_each(|(to, from)| *to = from as u8);
    }
    let mut ninth = [0u8; WIDTH];
    for (to, (first, _)) in ninth.chunks_exact_mut(8).zip(layout.at) {
        // Where the group has no such byte the word has nothing in it.
        to[0] = (first + 8).min(WIDTH - 1) as u8;
    }
    let (index, shifts, mask) = (load(&index), layout.shifts(), _mm512_set1_epi64(layout.mask as i64));
    let (ninth, ninths, lowest) = (load(&ninth), layout.ninths(), _mm512_set1_epi64(0xff));
    let mut done = 0;
    for (at, to) in (0..).step_by(layout.bits).zip(out.chunks_exact_mut(8)) {
        let Some(from) = bytes.get(at..at + WIDTH) else { break };
        let mut words = _mm512_srlv_epi64(_mm512_permutexvar_epi8(index, load(from)), shifts);
        if WIDE {
            let above = _mm512_and_si512(_mm512_permutexvar_epi8(ninth, load(from)), lowest);
            words = _mm512_or_si512(words, _mm512_sllv_epi64(above, ninths));
        }
        store(to, _mm512_and_si512(words, mask));
        done += 8;
    }
    done
}

/// Packs as many groups of eight words of 8 to 63 bits, or to 57 unless `WIDE`, as 64-byte stores inside `out` allow; the number of words read. What it writes after the
/// last group's bytes means nothing.
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
pub(super) fn pack<const WIDE: bool>(bits: u32, words: &[u64], out: &mut [MaybeUninit<u8>]) -> usize {
    let layout = Layout::of(bits);
    let (mut index, mut masks) = ([[0u8; WIDTH]; 2], [0u64; 2]);
    let (mut ninth, mut has_ninth) = ([0u8; WIDTH], 0u64);
    for (i, (first, bit)) in layout.at.into_iter().enumerate() {
        let bytes = (bit as usize + layout.bits).div_ceil(8);
        for j in 0..bytes.min(8) {
            index[i % 2][first + j] = (8 * i + j) as u8;
            masks[i % 2] |= 1 << (first + j);
        }
        if bytes > 8 {
            ninth[first + 8] = 8 * i as u8;
            has_ninth |= 1 << (first + 8);
        }
    }
    let (ninth, ninths) = (load(&ninth), layout.ninths());
    let (even, odd) = (load(&index[0]), load(&index[1]));
    let (shifts, mask) = (layout.shifts(), _mm512_set1_epi64(layout.mask as i64));
    let mut done = 0;
    for (at, from) in (0..).step_by(layout.bits).zip(words.chunks_exact(8)) {
        let Some(to) = out.get_mut(at..at + WIDTH) else { break };
        let words = _mm512_and_si512(load(from), mask);
        let aligned = _mm512_sllv_epi64(words, shifts);
        let (a, b) =
            (_mm512_maskz_permutexvar_epi8(masks[0], even, aligned), _mm512_maskz_permutexvar_epi8(masks[1], odd, aligned));
        let mut bytes = _mm512_or_si512(a, b);
        if WIDE {
            let above = _mm512_srlv_epi64(words, ninths);
            bytes = _mm512_or_si512(bytes, _mm512_maskz_permutexvar_epi8(has_ninth, ninth, above));
        }
        store(to, bytes);
        done += 8;
    }
    done
}
