//! Timing tables of every kernel on this machine, one thread: `cargo run --release -p sprint-kernel --example kernels`.
//!
//! "of peak" compares with a CPU that starts one 512-bit operation of the limiting kind per cycle: 8 multiply-adds mod 2^64, or one
//! AES round on four blocks (2.5 cycles per block). Cycles come from a chain of dependent additions, so the clock cancels out.
//!
//! Where products with public weights go by 16-bit limbs in AVX2 registers, what bounds them is measured too: a loop of nothing but their multiplications
//! and additions. A product of `n` limbs a word is at best an `n`-th of that rate: three limbs for 41 bits, four or five for 57.

use std::hint::black_box;
use std::time::Instant;

use rustix::time::{ClockId, clock_gettime};
use sprint_kernel::piecewise::{self, Cells};
use sprint_kernel::{PackedWeights, Prg, dpf, gemm, gemm_nt, gemm_public, pack, packed_len, unpack};

/// Peak multiply-adds per cycle: one register of eight words.
const MACS_PER_CYCLE: f64 = 8.0;

/// Peak cycles per AES block: ten rounds, four blocks at a time.
const CYCLES_PER_BLOCK: f64 = 2.5;

/// Seconds this thread has computed; unlike wall time, it does not count other programs' turns.
fn computed() -> f64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
}

/// The best of several runs, in seconds: interference through caches only ever adds time.
fn best(mut run: impl FnMut()) -> f64 {
    let (start, mut best) = (Instant::now(), f64::INFINITY);
    let mut runs = 0;
    while runs < 5 || (start.elapsed().as_secs_f64() < 0.6 && runs < 2000) {
        let lap = computed();
        run();
        best = best.min(computed() - lap);
        runs += 1;
    }
    best
}

fn words(count: usize) -> Vec<u64> {
    let mut words = vec![0; count];
    Prg::new([7; 16]).fill_u64(0, &mut words);
    words
}

/// Weights as trained ones are: about `148 · scale` in size, but for one in 4096 of 25 times that. Scale 9 is 0.04 with fifteen bits after the point, scale 35
/// is 0.02 with the eighteen that the layers of a gate program have.
fn trained_weights(count: usize, scale: i32) -> Vec<i32> {
    let weight = |(at, w): (usize, &u64)| {
        let sum: i32 = w.to_le_bytes()[..4].iter().map(|b| i32::from(*b as i8)).sum();
        if at % 4096 == 1000 { 25 * scale * sum } else { scale * sum }
    };
    words(count).iter().enumerate().map(weight).collect()
}

fn seeds(label: u8, count: usize) -> Vec<u128> {
    let mut words = vec![0; 2 * count];
    Prg::new([label; 16]).fill_u64(0, &mut words);
    words.chunks(2).map(|w| u128::from(w[0]) | u128::from(w[1]) << 64).collect()
}

/// Cycles of the core clock per second, from a chain of dependent additions (one cycle each).
fn clock() -> f64 {
    let chain = 2_000_000u64;
    let time = best(|| {
        let mut x = 1u64;
        for i in 0..chain {
            x = black_box_register(x.wrapping_add(i));
        }
        black_box(x);
    });
    chain as f64 / time
}

/// Keeps the value in a register and hides it from the optimiser.
fn black_box_register(x: u64) -> u64 {
    #[cfg(target_arch = "x86_64")]
    {
        let mut x = x;
        // SAFETY: the assembly is empty; it only makes the compiler forget what it knows of `x`.
        unsafe { core::arch::asm!("/* {0} */", inout(reg) x, options(pure, nomem, nostack, preserves_flags)) };
        x
    }
    #[cfg(not(target_arch = "x86_64"))]
    black_box(x)
}

/// Multiply-adds of 16-bit numbers a second in a loop of nothing else: twelve sums, as the inner loop of the products has, and no load.
#[cfg(target_arch = "x86_64")]
fn limb_peak() -> Option<f64> {
    use core::arch::x86_64::{__m256i, _mm256_add_epi32, _mm256_madd_epi16, _mm256_set1_epi16};

    const SUMS: usize = 12;
    const STEPS: usize = 200_000;

    #[target_feature(enable = "avx2")]
    fn add_products(x: __m256i, w: __m256i) -> [__m256i; SUMS] {
        let mut sums = [w; SUMS];
        for _ in 0..STEPS {
            for sum in &mut sums {
                // The product is one of every step: the compiler does not see that it is always the same.
                let mut x = x;
                // SAFETY: the assembly is empty.
                unsafe { core::arch::asm!("/* {0} */", inout(ymm_reg) x, options(nomem, nostack, preserves_flags)) };
                *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(x, w));
            }
        }
        sums
    }

    if !is_x86_feature_detected!("avx2") {
        return None;
    }
    let time = best(|| {
        // SAFETY: AVX2 was detected.
        unsafe {
            black_box(add_products(black_box(_mm256_set1_epi16(3)), black_box(_mm256_set1_epi16(5))));
        }
    });
    Some((16 * SUMS * STEPS) as f64 / time)
}

#[cfg(not(target_arch = "x86_64"))]
fn limb_peak() -> Option<f64> {
    None
}

fn products(hertz: f64) {
    if let Some(rate) = limb_peak() {
        println!(
            "\n16-bit multiply-adds (vpmaddwd and vpaddd, 256 bits): at most {:.1} G/s, {:.1} a cycle",
            rate / 1e9,
            rate / hertz
        );
    }
    println!("\n{:<34}{:>10}{:>14}{:>10}", "product", "GMAC/s", "MAC/cycle", "of peak");
    let show = |name: String, macs: usize, time: f64| {
        let rate = macs as f64 / time;
        println!("{name:<34}{:>10.2}{:>14.2}{:>9.0}%", rate / 1e9, rate / hertz, 100.0 * rate / hertz / MACS_PER_CYCLE);
    };
    for (m, k, n) in [(128, 768, 768), (128, 768, 3072), (128, 3072, 768), (8, 768, 768), (1, 768, 768)] {
        let x = words(m * k);
        let w = PackedWeights::pack(&trained_weights(n * k, 9), n, k);
        let mut out = vec![0; m * n];
        for bits in [64, 57, 51, 41] {
            let time = best(|| gemm_public(black_box(&x), m, &w, bits, &mut out));
            show(format!("gemm_public {m}x{k}x{n}, {bits} bits"), m * k * n, time);
        }
    }
    let (m, k, n) = (128, 768, 768);
    let x = words(m * k);
    let w = PackedWeights::pack(&trained_weights(n * k, 35), n, k);
    let mut out = vec![0; m * n];
    for bits in [57, 54, 43, 42, 40] {
        let time = best(|| gemm_public(black_box(&x), m, &w, bits, &mut out));
        show(format!("gemm_public, 18 after the point, {bits} bits"), m * k * n, time);
    }
    for width in [16, 18, 23] {
        let (m, k, n) = (128, 768, 768);
        let x = words(m * k);
        let w: Vec<i32> = words(n * k).iter().map(|w| (*w as i32 >> (32 - width)).max(1 - (1 << (width - 1)))).collect();
        let w = PackedWeights::pack(&w, n, k);
        let mut out = vec![0; m * n];
        for bits in [64, 57, 41] {
            let time = best(|| gemm_public(black_box(&x), m, &w, bits, &mut out));
            show(format!("gemm_public, w {width} bits, {bits} bits"), m * k * n, time);
        }
    }
    for (m, k, n) in [(128, 768, 768), (128, 64, 128), (128, 128, 64), (128, 768, 16), (128, 16, 768), (1, 768, 768)] {
        let (a, b) = (words(m * k), words(k * n));
        let mut out = vec![0; m * n];
        let time = best(|| gemm(black_box(&a), &b, m, k, n, &mut out));
        show(format!("gemm {m}x{k}x{n}"), m * k * n, time);
        let time = best(|| gemm_nt(black_box(&a), &b, m, k, n, &mut out));
        show(format!("gemm_nt {m}x{k}x{n}"), m * k * n, time);
    }
}

fn trees(hertz: f64) {
    println!("\n{:<34}{:>10}{:>14}{:>10}{:>12}", "point functions", "ns/key", "cycles/AES", "of peak", "bytes/key");
    let count = 1 << 15;
    let (s0, s1) = (seeds(1, count), seeds(2, count));
    let show = |name: String, count: usize, aes: usize, bytes: usize, time: f64| {
        let per_key = time / count as f64;
        let cycles = per_key * hertz / aes as f64;
        println!("{name:<34}{:>10.1}{cycles:>14.2}{:>9.0}%{bytes:>12}", per_key * 1e9, 100.0 * CYCLES_PER_BLOCK / cycles);
    };
    for bits in [8u32, 16, 20, 32] {
        let levels = bits.saturating_sub(7) as usize;
        let alphas: Vec<u64> = words(count).iter().map(|x| x & ((1 << bits) - 1)).collect();
        let mut keys = Vec::with_capacity(count * dpf::key_len(bits));
        let time = best(|| {
            keys.clear();
            dpf::generate(bits, black_box(&alphas), &s0, &s1, &mut keys);
        });
        show(format!("dpf::generate {bits} bits"), count, 4 * levels + 2, dpf::key_len(bits), time);
        for p in [1, 2] {
            let points: Vec<u64> = words(count * p).iter().map(|x| x & ((1 << bits) - 1)).collect();
            let mut out = vec![0; count * p];
            let time = best(|| dpf::prefix(0, bits, &s0, black_box(&keys), &points, p, &mut out));
            show(format!("dpf::prefix {bits} bits, {p} points"), count, p * (2 * levels + 1), dpf::key_len(bits), time);
        }
    }
    // A look-up of eight bits, and cubics over the octaves that a softmax's sum and a layer normalisation's energy have.
    for (bits, first, octaves, degree) in [(8, 8, 1, 0), (27, 5, 11, 3), (36, 5, 20, 3)] {
        let cells = Cells { bits, first, octaves, degree };
        let count = 1 << 10;
        let (x, table) = (words(count), vec![1.0; cells.table_len()]);
        let (len, depth) = (cells.key_len(), (first + octaves - 1) as usize);
        let mut keys = Vec::with_capacity(count * len);
        let time = best(|| {
            keys.clear();
            piecewise::generate(cells, black_box(&x), &s0[..count], &s1[..count], &mut keys);
        });
        let outputs = cells.terms().div_ceil(2);
        show(format!("piecewise::generate, {octaves} octaves"), count, 4 * depth + 2 * octaves as usize * outputs, len, time);
        let mut out = vec![0; count];
        let time = best(|| piecewise::eval(0, cells, &s0[..count], black_box(&keys), &x, &table, &mut out));
        let nodes = 4 * cells.width() - 2 + 2 * cells.width() * (octaves as usize - 1);
        let leaves = cells.width() * (octaves as usize + 1);
        show(format!("piecewise::eval, {octaves} octaves"), count, nodes + leaves * outputs, len, time);
    }
}

fn streams(hertz: f64) {
    println!("\n{:<34}{:>10}{:>14}", "streams", "GB/s", "bytes/cycle");
    let show = |name: String, bytes: usize, time: f64| {
        println!("{name:<34}{:>10.2}{:>14.2}", bytes as f64 / time / 1e9, bytes as f64 / time / hertz);
    };
    let prg = Prg::new([1; 16]);
    for count in [1 << 12, 1 << 20] {
        let mut out = vec![0u64; count];
        let time = best(|| prg.fill_u64(black_box(5), &mut out));
        show(format!("Prg::fill_u64, {} KiB", count / 128), 8 * count, time);
    }
    let plain = words(1 << 14);
    for bits in [1, 8, 16, 18, 24, 32, 37, 40, 48, 60, 64] {
        let mut bytes = Vec::with_capacity(packed_len(bits, plain.len()));
        let time = best(|| {
            bytes.clear();
            pack(bits, black_box(&plain), &mut bytes);
        });
        show(format!("pack {bits} bits (of words)"), 8 * plain.len(), time);
        let mut back = Vec::with_capacity(plain.len());
        let time = best(|| {
            back.clear();
            unpack(bits, black_box(&bytes), plain.len(), &mut back).expect("packed above");
        });
        show(format!("unpack {bits} bits (of words)"), 8 * plain.len(), time);
    }
}

fn main() {
    // A pool of one thread, and everything inside it: the clock above belongs to a thread.
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().expect("a thread can be started");
    pool.install(|| {
        println!("{}", sprint_kernel::description());
        let hertz = clock();
        println!("clock {:.2} GHz", hertz / 1e9);
        streams(hertz);
        products(hertz);
        trees(hertz);
    });
}
