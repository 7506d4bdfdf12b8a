//! Products with public weights, packed once.

use super::portable;
#[cfg(target_arch = "x86_64")]
use super::{avx2, avx512, fma, panel};
use crate::cpu::Cpu;

/// Weights are smaller than this in absolute value: `|w| < 2^23`.
pub const MAX_WEIGHT: i32 = 1 << 23;

/// Public weights `[outputs, inputs]`, packed once in the order in which this CPU's best kernel reads them.
#[derive(Debug, Clone)]
pub struct PackedWeights {
    outputs: usize,
    inputs: usize,
    /// All are below `2^bits` in size.
    bits: u32,
    kernel: Kernel,
    packed: Vec<i32>,
}

/// The inner loop for which weights are packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kernel {
    /// Row-major weights, portable code.
    Portable,
    /// Panels of signed weights, `vpmuldq`, or fused multiply-adds where few bits count.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// Panels of signed weights, `vpmullq`.
    #[cfg(target_arch = "x86_64")]
    Mullo,
    /// Panels of weights plus 2^23, two 52-bit multiply-adds.
    #[cfg(target_arch = "x86_64")]
    Madd52,
}

impl Kernel {
    #[cfg(target_arch = "x86_64")]
    fn best(cpu: Cpu) -> Self {
        match cpu {
            Cpu { ifma: true, fast_mul64: false, .. } => Kernel::Madd52,
            Cpu { avx512: true, .. } => Kernel::Mullo,
            Cpu { avx2: true, .. } => Kernel::Avx2,
            _ => Kernel::Portable,
        }
    }

    #[cfg(not(target_arch = "x86_64"))]
    fn best(_: Cpu) -> Self {
        Kernel::Portable
    }

    /// Whether this CPU can run the kernel.
    #[cfg(all(test, target_arch = "x86_64"))]
    pub(super) fn is_available(self, cpu: Cpu) -> bool {
        match self {
            Kernel::Portable => true,
            Kernel::Avx2 => cpu.avx2,
            Kernel::Mullo => cpu.avx512,
            Kernel::Madd52 => cpu.ifma,
        }
    }
}

pub(crate) fn public_kernel_name() -> &'static str {
    match Kernel::best(Cpu::detected()) {
        Kernel::Portable => "portable",
        #[cfg(target_arch = "x86_64")]
        Kernel::Avx2 => "AVX2 vpmuldq",
        #[cfg(target_arch = "x86_64")]
        Kernel::Mullo => "AVX-512 vpmullq",
        #[cfg(target_arch = "x86_64")]
        Kernel::Madd52 => "AVX-512 IFMA",
    }
}

impl PackedWeights {
    /// Packs row-major `weights`.
    ///
    /// # Panics
    /// If the length is not `outputs · inputs` or a weight is not below [`MAX_WEIGHT`] in absolute value.
    pub fn pack(weights: &[i32], outputs: usize, inputs: usize) -> Self {
        Self::pack_for(Kernel::best(Cpu::detected()), weights, outputs, inputs)
    }

    /// Packs for a kernel that this CPU must have.
    pub(super) fn pack_for(kernel: Kernel, weights: &[i32], outputs: usize, inputs: usize) -> Self {
        assert_eq!(weights.len(), outputs * inputs, "weights are [outputs, inputs]");
        assert!(
            weights.iter().all(|w| w.unsigned_abs() < MAX_WEIGHT.unsigned_abs()),
            "public weights have at most 23 bits and a sign"
        );
        let packed = match kernel {
            Kernel::Portable => weights.to_vec(),
            #[cfg(target_arch = "x86_64")]
            Kernel::Avx2 | Kernel::Mullo => panel::from_columns(weights, inputs, outputs, |w| w),
            #[cfg(target_arch = "x86_64")]
            Kernel::Madd52 => panel::from_columns(weights, inputs, outputs, |w| w + MAX_WEIGHT),
        };
        let bits = weights.iter().fold(0, |all, w| all | w.unsigned_abs());
        Self { outputs, inputs, bits: u32::BITS - bits.leading_zeros(), kernel, packed }
    }

    /// Rows of the weight matrix.
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// Columns of the weight matrix.
    pub fn inputs(&self) -> usize {
        self.inputs
    }
}

/// Product with public weights: `out = x · Wᵀ mod 2^bits`; higher bits of `out` mean nothing.
///
/// # Shapes
/// `x[rows, inputs]`, `out[rows, outputs]`.
///
/// # Panics
/// If a slice's length does not match.
pub fn gemm_public(x: &[u64], rows: usize, w: &PackedWeights, bits: u32, out: &mut [u64]) {
    assert_eq!(x.len(), rows * w.inputs, "x is [rows, inputs]");
    assert_eq!(out.len(), rows * w.outputs, "out is [rows, outputs]");
    match w.kernel {
        Kernel::Portable => portable::public(x, rows, &w.packed, w.inputs, w.outputs, out),
        #[cfg(target_arch = "x86_64")]
        Kernel::Avx2 => {
            let worth_while = rows >= fma::ENOUGH_ROWS && Cpu::detected().fma;
            if let Some(cut) = fma::cut(w.bits, bits).filter(|_| worth_while) {
                // SAFETY: AVX2 and FMA were detected.
                return unsafe { fma::multiply(x, &w.packed, cut, (rows, w.inputs, w.outputs), out) };
            }
            let panels = avx2::Panels::Weights(&w.packed);
            // SAFETY: weights are packed for this kernel only where AVX2 was detected.
            unsafe { avx2::multiply(x, panels, rows, w.inputs, w.outputs, out, false) }
        }
        #[cfg(target_arch = "x86_64")]
        Kernel::Mullo => {
            let panels = avx512::Panels::Weights(&w.packed);
            // SAFETY: weights are packed for this kernel only where AVX-512 F and DQ were detected.
            unsafe { avx512::multiply(x, panels, rows, w.inputs, w.outputs, out, false) }
        }
        #[cfg(target_arch = "x86_64")]
        Kernel::Madd52 => {
            let panels = avx512::Panels::Offset(&w.packed);
            // SAFETY: weights are packed for this kernel only where AVX-512 F, DQ and IFMA were detected.
            unsafe { avx512::multiply(x, panels, rows, w.inputs, w.outputs, out, false) }
        }
    }
}
