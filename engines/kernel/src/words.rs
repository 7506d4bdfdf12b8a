//! Elementwise arithmetic mod 2^64 on arrays of ring words, and the sums of the periodic gate.
//!
//! Each function is one definition in plain Rust, compiled three times: for any CPU, with AVX2 and with AVX-512, where the compiler makes vectors of it. The
//! choice is made at run time and cannot change a result: integers wrap, and floating-point operations are single IEEE operations,
//! never contracted or reordered.

use crate::cpu::Cpu;

/// Defines a function by its body, compiled for any CPU, for AVX2 and for AVX-512.
macro_rules! compiled {
    ($(#[$doc:meta])* pub fn $name:ident($($arg:ident: $type:ty),* $(,)?) $body:block) => {
        $(#[$doc])*
        pub fn $name($($arg: $type),*) {
            // A call would compile it without the caller's target features.
            #[inline(always)]
            fn definition($($arg: $type),*) $body
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl,popcnt")]
                fn wide($($arg: $type),*) {
                    definition($($arg),*);
                }
                #[target_feature(enable = "avx2,popcnt,bmi1,bmi2")]
                fn narrow($($arg: $type),*) {
                    definition($($arg),*);
                }
                if Cpu::detected().avx512 {
                    // SAFETY: AVX-512 F, DQ, BW and VL were detected, and POPCNT is older than all of them.
                    return unsafe { wide($($arg),*) };
                }
                if Cpu::detected().avx2 {
                    // SAFETY: AVX2, POPCNT, BMI1 and BMI2 were detected.
                    return unsafe { narrow($($arg),*) };
                }
            }
            definition($($arg),*);
        }
    };
}

/// The low `bits` bits, 1 to 64.
#[inline(always)]
#[expect(clippy::inline_always, reason = "part of definitions that are compiled for several CPUs")]
fn low(bits: u32) -> u64 {
    u64::MAX >> (64 - bits)
}

compiled! {
    /// `a += b`.
    pub fn add(a: &mut [u64], b: &[u64]) {
        a.iter_mut().zip(b).for_each(|(a, b)| *a = a.wrapping_add(*b));
    }
}

compiled! {
    /// `a -= b`.
    pub fn subtract(a: &mut [u64], b: &[u64]) {
        a.iter_mut().zip(b).for_each(|(a, b)| *a = a.wrapping_sub(*b));
    }
}

compiled! {
    /// `a *= b`.
    pub fn multiply(a: &mut [u64], b: &[u64]) {
        a.iter_mut().zip(b).for_each(|(a, b)| *a = a.wrapping_mul(*b));
    }
}

compiled! {
    /// `out = a · b`.
    pub fn products(out: &mut [u64], a: &[u64], b: &[u64]) {
        out.iter_mut().zip(a).zip(b).for_each(|((o, a), b)| *o = a.wrapping_mul(*b));
    }
}

compiled! {
    /// `out += a · b`.
    pub fn add_products(out: &mut [u64], a: &[u64], b: &[u64]) {
        out.iter_mut().zip(a).zip(b).for_each(|((o, a), b)| *o = o.wrapping_add(a.wrapping_mul(*b)));
    }
}

compiled! {
    /// `out -= a · b`.
    pub fn subtract_products(out: &mut [u64], a: &[u64], b: &[u64]) {
        out.iter_mut().zip(a).zip(b).for_each(|((o, a), b)| *o = o.wrapping_sub(a.wrapping_mul(*b)));
    }
}

compiled! {
    /// `out = a - b`.
    pub fn differences(out: &mut [u64], a: &[u64], b: &[u64]) {
        out.iter_mut().zip(a).zip(b).for_each(|((o, a), b)| *o = a.wrapping_sub(*b));
    }
}

compiled! {
    /// `x = (x mod 2^ring) / 2^by + plus`, rounded down.
    pub fn truncate(x: &mut [u64], ring: u32, by: u32, plus: u64) {
        let mask = low(ring);
        for x in x.iter_mut() {
            *x = ((*x & mask) >> by).wrapping_add(plus);
        }
    }
}

compiled! {
    /// `x = x + mask + bias mod 2^bits`: an operand goes under its mask.
    pub fn masked(x: &mut [u64], mask: &[u64], bias: u64, bits: u32) {
        let low = low(bits);
        x.iter_mut().zip(mask).for_each(|(x, r)| *x = x.wrapping_add(*r).wrapping_add(bias) & low);
    }
}

compiled! {
    /// `a = a + b mod 2^bits`: both parties' masked words make the opened one.
    pub fn opened(a: &mut [u64], b: &[u64], bits: u32) {
        let low = low(bits);
        a.iter_mut().zip(b).for_each(|(a, b)| *a = a.wrapping_add(*b) & low);
    }
}

compiled! {
    /// `mask = (opened & public) - mask`: a mask's share becomes a share of the value; `public` is all ones at one party and 0 at the other.
    pub fn share(mask: &mut [u64], opened: &[u64], public: u64) {
        mask.iter_mut().zip(opened).for_each(|(r, h)| *r = (h & public).wrapping_sub(*r));
    }
}

compiled! {
    /// The same for a value that was opened in Z_2^bits with `2^{bits-2}` added, for use in a larger ring: takes the addend off `opened`, and adds to the
    /// share `2^bits·(carry + k·top)` with `k = 1 - msb` of the biased opening.
    pub fn lifted_share(mask: &mut [u64], opened: &mut [u64], carry: &[u64], top: &[u64], bits: u32, public: u64) {
        let (low, bias) = (low(bits), 1u64 << (bits - 2));
        for (((r, h), carry), top) in mask.iter_mut().zip(opened).zip(carry).zip(top) {
            let k = (*h >> (bits - 1)).wrapping_sub(1);
            let wraps = carry.wrapping_add(top & k) << bits;
            let unbiased = h.wrapping_sub(bias);
            *r = (unbiased & public).wrapping_sub(*r & low).wrapping_add(wraps);
            *h = unbiased & low;
        }
    }
}

compiled! {
    /// From opened words of a lifted opening, their signed values, and `-2^bits·k` with `k = 1 - msb` of the biased opening.
    pub fn lifted_terms(opened: &mut [u64], tops: &mut [u64], bits: u32) {
        let (low, bias) = (low(bits), 1u64 << (bits - 2));
        for (p, top) in opened.iter_mut().zip(tops) {
            let biased = p.wrapping_add(bias) & low;
            *top = (biased >> (bits - 1)).wrapping_sub(1) << bits;
            *p = biased.wrapping_sub(bias);
        }
    }
}

compiled! {
    /// `mask = (bit & public) + mask·(1 - 2·bit)`: a share of a masking bit becomes a share of the bit that was opened under it.
    pub fn bit_share(mask: &mut [u64], opened: &[u64], public: u64) {
        let words = mask.iter_mut().zip(opened);
        words.for_each(|(t, h)| *t = (h & public).wrapping_add(t.wrapping_mul(1u64.wrapping_sub(2 * h))));
    }
}

/// Cosines and sines, or other pairs of coordinates.
#[derive(Debug, Clone, Copy)]
pub struct Pairs<'a> {
    /// The first of each.
    pub cos: &'a [f64],
    /// The second of each.
    pub sin: &'a [f64],
}

compiled! {
    /// `(cos, sin)` turned by the angles `by`: a product of complex numbers of size 1.
    pub fn rotate(cos: &mut [f64], sin: &mut [f64], by: Pairs<'_>) {
        for (((c, s), cos), sin) in cos.iter_mut().zip(sin).zip(by.cos).zip(by.sin) {
            (*c, *s) = (*c * cos - *s * sin, *s * cos + *c * sin);
        }
    }
}

/// The nearest integer in two's complement, ties to even, for `|x| < 2^51`: adding `1.5·2^52` leaves it in the low bits of the significand.
#[inline(always)]
fn nearest(x: f64) -> u64 {
    const MAGIC: f64 = 6_755_399_441_055_744.0;
    (x + MAGIC).to_bits().wrapping_sub(MAGIC.to_bits())
}

compiled! {
    /// `out = round(x · scale)`, for `|x · scale| < 2^51`.
    pub fn rounded(out: &mut [u64], x: &[f64], scale: f64) {
        out.iter_mut().zip(x).for_each(|(o, x)| *o = nearest(x * scale));
    }
}

compiled! {
    /// `out += c·round(a·cos + b·sin) + s·round(a·sin - b·cos)`: one frequency of a series at a difference of angles, of which one is public and the
    /// other's cosine `c` and sine `s` are shares.
    pub fn add_harmonic(out: &mut [u64], public: Pairs<'_>, c: &[u64], s: &[u64], a: f64, b: f64) {
        let angles = public.cos.iter().zip(public.sin);
        for (((o, (cos, sin)), c), s) in out.iter_mut().zip(angles).zip(c).zip(s) {
            let with_cosine = c.wrapping_mul(nearest(a * cos + b * sin));
            let with_sine = s.wrapping_mul(nearest(a * sin - b * cos));
            *o = o.wrapping_add(with_cosine).wrapping_add(with_sine);
        }
    }
}

compiled! {
    /// The points `((opened / 2^drop) - bound + 1) mod 2^bits` of each opened word, `out[n, bounds]`.
    pub fn points_of(out: &mut [u64], opened: &[u64], drop: u32, bounds: &[u64], bits: u32) {
        let low = low(bits);
        let point = |h: u64, bound: u64| (h >> drop).wrapping_sub(bound).wrapping_add(1) & low;
        if let [a, b] = bounds {
            out.as_chunks_mut::<2>().0.iter_mut().zip(opened).for_each(|(to, h)| *to = [point(*h, *a), point(*h, *b)]);
            return;
        }
        for (row, h) in out.chunks_exact_mut(bounds.len()).zip(opened) {
            row.iter_mut().zip(bounds).for_each(|(to, bound)| *to = point(*h, *bound));
        }
    }
}

compiled! {
    /// The parities of a vector's bits below each of its points: `vectors[n, words]` with at most 8 words, `points[n, p]`, `out[n, p]`.
    pub fn parities_below(vectors: &[u64], words: usize, points: &[u64], p: usize, out: &mut [u8]) {
        for ((vector, points), out) in vectors.chunks_exact(words).zip(points.chunks_exact(p)).zip(out.chunks_exact_mut(p)) {
            // XORs of all words before each one, and one more for the end.
            let mut before = [0u64; 9];
            for (at, word) in vector.iter().take(8).enumerate() {
                before[at + 1] = before[at] ^ word;
            }
            for (point, to) in points.iter().zip(out) {
                let at = (point >> 6) as usize;
                let part = vector.get(at).copied().unwrap_or_default() & ((1u64 << (point & 63)) - 1);
                *to = ((before[at.min(8)] ^ part).count_ones() & 1) as u8;
            }
        }
    }
}

compiled! {
    /// `sums[j] += Σ_i byte j of coins[i] · (a[i] - b[i])`.
    pub fn add_byte_sums(sums: &mut [u64; 8], coins: &[u64], a: &[u64], b: &[u64]) {
        let mut local = *sums;
        for ((word, a), b) in coins.iter().zip(a).zip(b) {
            let difference = a.wrapping_sub(*b);
            let bytes = word.to_le_bytes();
            for j in 0..8 {
                local[j] = local[j].wrapping_add(u64::from(bytes[j]).wrapping_mul(difference));
            }
        }
        *sums = local;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn words(len: usize, seed: u8) -> Vec<u64> {
        let mut words = vec![0; len];
        crate::Prg::new([seed; 16]).fill_u64(0, &mut words);
        words
    }

    proptest! {
        /// Lengths around every vector width; each function against its equation, one element at a time.
        #[test]
        fn every_function_is_its_equation(len in 0usize..70, bits in 2u32..=62, seed: u8) {
            let [a, b, c] = [0, 1, 2].map(|i| words(len, seed.wrapping_add(i)));
            let each = |f: &dyn Fn(usize) -> u64| (0..len).map(f).collect::<Vec<_>>();
            let change = |f: &dyn Fn(&mut [u64])| {
                let mut x = a.clone();
                f(&mut x);
                x
            };
            prop_assert_eq!(change(&|x| add(x, &b)), each(&|i| a[i].wrapping_add(b[i])));
            prop_assert_eq!(change(&|x| subtract(x, &b)), each(&|i| a[i].wrapping_sub(b[i])));
            prop_assert_eq!(change(&|x| multiply(x, &b)), each(&|i| a[i].wrapping_mul(b[i])));
            prop_assert_eq!(change(&|x| products(x, &b, &c)), each(&|i| b[i].wrapping_mul(c[i])));
            prop_assert_eq!(change(&|x| differences(x, &b, &c)), each(&|i| b[i].wrapping_sub(c[i])));
            prop_assert_eq!(change(&|x| add_products(x, &b, &c)), each(&|i| a[i].wrapping_add(b[i].wrapping_mul(c[i]))));
            prop_assert_eq!(change(&|x| subtract_products(x, &b, &c)), each(&|i| a[i].wrapping_sub(b[i].wrapping_mul(c[i]))));
            let low = (1u64 << bits) - 1;
            prop_assert_eq!(change(&|x| truncate(x, bits, bits / 2, 1)), each(&|i| ((a[i] & low) >> (bits / 2)) + 1));
            prop_assert_eq!(change(&|x| masked(x, &b, 9, bits)), each(&|i| a[i].wrapping_add(b[i]).wrapping_add(9) & low));
            prop_assert_eq!(change(&|x| opened(x, &b, bits)), each(&|i| a[i].wrapping_add(b[i]) & low));
            for public in [0, u64::MAX] {
                prop_assert_eq!(change(&|x| share(x, &b, public)), each(&|i| (b[i] & public).wrapping_sub(a[i])));
                let bit = each(&|i| b[i] & 1);
                let expected = each(&|i| if bit[i] == 1 { (public & 1).wrapping_sub(a[i]) } else { a[i] });
                prop_assert_eq!(change(&|x| bit_share(x, &bit, public)), expected);
            }
        }

        /// With both parties' masks, carries and tops as the dealer makes them, shares in Z_2^64 add up to the signed value.
        #[test]
        fn lifted_shares_add_up_in_the_large_ring(len in 0usize..70, bits in 2u32..=62, seed: u8) {
            let low = (1u64 << bits) - 1;
            let [mut r0, mut r1, x, c0, t0] = [0, 1, 2, 3, 4].map(|i| words(len, seed.wrapping_add(i)));
            let limit = 1i64 << (bits - 2);
            let x: Vec<i64> = x.iter().map(|x| (*x as i64).rem_euclid(2 * limit) - limit).collect();
            let sum = |i: usize| (u128::from(r0[i] & low) + u128::from(r1[i] & low), r0[i].wrapping_add(r1[i]) & low);
            let carry: Vec<u64> = (0..len).map(|i| (sum(i).0 >> bits) as u64).collect();
            let top: Vec<u64> = (0..len).map(|i| sum(i).1 >> (bits - 1)).collect();
            let biased: Vec<u64> = (0..len).map(|i| (x[i] as u64).wrapping_add(1 << (bits - 2)).wrapping_add(sum(i).1) & low).collect();
            let other = |a: &[u64], whole: &[u64]| whole.iter().zip(a).map(|(w, a)| w.wrapping_sub(*a)).collect::<Vec<_>>();
            let (mut h0, mut h1) = (biased.clone(), biased.clone());
            lifted_share(&mut r0, &mut h0, &c0, &t0, bits, u64::MAX);
            lifted_share(&mut r1, &mut h1, &other(&c0, &carry), &other(&t0, &top), bits, 0);
            prop_assert_eq!(&h0, &h1);
            for i in 0..len {
                prop_assert_eq!(r0[i].wrapping_add(r1[i]), x[i] as u64);
            }
            let mut tops = vec![0; len];
            lifted_terms(&mut h0, &mut tops, bits);
            for i in 0..len {
                // x = P - (r + top·msb r), with P the opening as a signed number.
                let rho = (biased[i].wrapping_sub((x[i] as u64).wrapping_add(1 << (bits - 2)))) & low;
                let rho = rho.wrapping_add(tops[i].wrapping_mul(rho >> (bits - 1)));
                prop_assert_eq!(h0[i].wrapping_sub(rho), x[i] as u64);
            }
        }

        #[test]
        fn parities_and_byte_sums_are_their_definitions(n in 1usize..20, size in 0usize..4, p in 1usize..4, seed: u8) {
            let words_each = 1usize << size;
            let (vectors, coins) = (words(n * words_each, seed), words(n, !seed));
            let points: Vec<u64> = words(n * p, seed ^ 9).iter().map(|x| x % (64 * words_each as u64 + 1)).collect();
            let mut out = vec![0; n * p];
            parities_below(&vectors, words_each, &points, p, &mut out);
            for (i, (point, got)) in points.iter().zip(&out).enumerate() {
                let bit = |b: u64| vectors[i / p * words_each + (b / 64) as usize] >> (b % 64) & 1;
                prop_assert_eq!(u64::from(*got), (0..*point).map(bit).sum::<u64>() & 1);
            }
            let bounds = words(p, seed ^ 5);
            let mut found = vec![0; n * p];
            points_of(&mut found, &vectors[..n], 3, &bounds, 9);
            for (i, found) in found.iter().enumerate() {
                prop_assert_eq!(*found, (vectors[i / p] >> 3).wrapping_sub(bounds[i % p]).wrapping_add(1) % 512);
            }
            let mut sums = [seed.into(); 8];
            add_byte_sums(&mut sums, &coins, &vectors[..n], &coins);
            for (j, sum) in sums.iter().enumerate() {
                let byte = |i: usize| (coins[i] >> (8 * j) & 255).wrapping_mul(vectors[i].wrapping_sub(coins[i]));
                prop_assert_eq!(*sum, (0..n).fold(u64::from(seed), |s, i| s.wrapping_add(byte(i))));
            }
        }
    }

    #[test]
    fn harmonics_are_rounded_sums_of_products() {
        let n = 37;
        let angle = |i: usize| i as f64 * 0.37;
        let (mut cos, mut sin): (Vec<f64>, Vec<f64>) = (0..n).map(|i| (angle(i).cos(), angle(i).sin())).unzip();
        let by = (cos.clone(), sin.clone());
        rotate(&mut cos, &mut sin, Pairs { cos: &by.0, sin: &by.1 });
        let (c, s) = (words(n, 1), words(n, 2));
        let mut out = vec![5; n];
        add_harmonic(&mut out, Pairs { cos: &cos, sin: &sin }, &c, &s, 1000.0, -77.0);
        let mut whole = vec![0; n];
        rounded(&mut whole, &cos, 1e6);
        for i in 0..n {
            assert!((cos[i] - (2.0 * angle(i)).cos()).abs() < 1e-12 && (sin[i] - (2.0 * angle(i)).sin()).abs() < 1e-12);
            let integer = |x: f64| x.round_ties_even() as i64 as u64;
            let expected = c[i]
                .wrapping_mul(integer(1000.0 * cos[i] + -77.0 * sin[i]))
                .wrapping_add(s[i].wrapping_mul(integer(1000.0 * sin[i] - -77.0 * cos[i])));
            assert_eq!(out[i], expected.wrapping_add(5));
            assert_eq!(whole[i], integer(cos[i] * 1e6));
        }
    }

    #[test]
    fn nearest_rounds_both_signs() {
        for (x, expected) in [(0.0, 0i64), (1.4, 1), (-1.4, -1), (-1.6, -2), (2.5, 2), (-1e12 - 0.2, -1_000_000_000_000)] {
            assert_eq!(nearest(x), expected as u64, "{x}");
        }
    }
}
