//! Products with public weights, packed once.

#[cfg(target_arch = "x86_64")]
use super::limbs::{Instructions, Panels, add_product};
use super::portable;
#[cfg(target_arch = "x86_64")]
use super::tiles::{self, Columns, Unit};
use crate::cpu::Cpu;

/// Weights are smaller than this in absolute value: `|w| < 2^23`.
pub const MAX_WEIGHT: i32 = 1 << 23;

/// Where weights too wide for sixteen bits are cut in two.
#[cfg(target_arch = "x86_64")]
const CUT: u32 = 12;

/// Among so many weights one may be too wide for sixteen bits before all are cut in two, or for its bytes before all get one more. With so many, products for the wide ones alone cost a third
/// of the whole on Zen 3, where products for the second halves of all weights double it.
#[cfg(target_arch = "x86_64")]
const FEW: usize = 64;

/// Public weights `[outputs, inputs]`, packed once in the order in which this CPU's best kernel reads them.
#[derive(Debug, Clone)]
pub struct PackedWeights {
    outputs: usize,
    inputs: usize,
    packed: Packed,
}

#[derive(Debug, Clone)]
enum Packed {
    /// Row-major weights.
    Rows(Vec<i32>),
    /// Weights of sixteen bits and what the few others have more.
    #[cfg(target_arch = "x86_64")]
    Narrow(Panels, Vec<portable::Entry>),
    /// The low [`CUT`] bits of weights, signed, and the others.
    #[cfg(target_arch = "x86_64")]
    Wide([Panels; 2]),
    /// Weights in bytes, and what a few have more.
    #[cfg(target_arch = "x86_64")]
    Tiles(Columns, Vec<portable::Entry>),
}

/// The inner loop for which weights are packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kernel {
    /// Portable code.
    Portable,
    /// Products of 16-bit numbers.
    #[cfg(target_arch = "x86_64")]
    Limbs(Instructions),
    /// Products of bytes.
    #[cfg(target_arch = "x86_64")]
    Tiles(Unit),
}

impl Kernel {
    #[cfg(target_arch = "x86_64")]
    fn best(cpu: Cpu) -> Self {
        match cpu {
            Cpu { amx: true, .. } => Kernel::Tiles(Unit::Amx),
            Cpu { vnni: true, .. } => Kernel::Limbs(Instructions::Vnni),
            Cpu { avx512: true, .. } => Kernel::Limbs(Instructions::Avx512),
            Cpu { avx2: true, .. } => Kernel::Limbs(Instructions::Avx2),
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
            Kernel::Tiles(Unit::Amx) => cpu.amx,
            // It stands in where there is no AMX; it is slow.
            Kernel::Tiles(Unit::Plain) => !cpu.amx,
            Kernel::Limbs(Instructions::Avx2 | Instructions::Plain) => cpu.avx2,
            Kernel::Limbs(Instructions::Avx512) => cpu.avx512,
            Kernel::Limbs(Instructions::Vnni) => cpu.vnni,
        }
    }
}

pub(crate) fn public_kernel_name() -> &'static str {
    match Kernel::best(Cpu::detected()) {
        Kernel::Portable => "portable",
        #[cfg(target_arch = "x86_64")]
        Kernel::Tiles(Unit::Amx) => "AMX-INT8",
        #[cfg(target_arch = "x86_64")]
        Kernel::Limbs(Instructions::Avx2) => "AVX2 vpmaddwd",
        #[cfg(target_arch = "x86_64")]
        Kernel::Limbs(Instructions::Avx512) => "AVX-512 vpmaddwd",
        #[cfg(target_arch = "x86_64")]
        Kernel::Limbs(Instructions::Vnni) => "AVX-512 VNNI",
        #[cfg(all(test, target_arch = "x86_64"))]
        Kernel::Limbs(Instructions::Plain) | Kernel::Tiles(Unit::Plain) => "portable",
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
            Kernel::Portable => Packed::Rows(weights.to_vec()),
            #[cfg(target_arch = "x86_64")]
            Kernel::Limbs(instructions) => {
                let shape = (outputs, inputs);
                if few_exceed(weights, i16::MAX.into()) {
                    let panels = Panels::pack(instructions, weights, shape, |w| narrow(w, i16::MAX.into()) as i16);
                    Packed::Narrow(panels, excess(weights, inputs, i16::MAX.into()))
                } else {
                    let high = |w| ((w - i32::from(low(w))) >> CUT) as i16;
                    Packed::Wide([
                        Panels::pack(instructions, weights, shape, low),
                        Panels::pack(instructions, weights, shape, high),
                    ])
                }
            }
            #[cfg(target_arch = "x86_64")]
            Kernel::Tiles(unit) => {
                let bytes =
                    (1..tiles::BYTES).find(|bytes| few_exceed(weights, tiles::largest(*bytes))).expect("four hold every weight");
                let limit = tiles::largest(bytes);
                let word = |w| i64::from(narrow(w, limit)) as u64;
                Packed::Tiles(Columns::from_columns(unit, weights, outputs, inputs, bytes, word), excess(weights, inputs, limit))
            }
        };
        Self { outputs, inputs, packed }
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

/// The nearest weight of at most this absolute value.
#[cfg(target_arch = "x86_64")]
fn narrow(w: i32, limit: i32) -> i32 {
    w.clamp(-limit, limit)
}

/// Whether no more than one weight in [`FEW`] is larger.
#[cfg(target_arch = "x86_64")]
fn few_exceed(weights: &[i32], limit: i32) -> bool {
    weights.iter().filter(|w| **w != narrow(**w, limit)).count() <= weights.len() / FEW
}

/// The low [`CUT`] bits as a signed number.
#[cfg(target_arch = "x86_64")]
fn low(w: i32) -> i16 {
    (w << (i32::BITS - CUT) >> (i32::BITS - CUT)) as i16
}

/// What weights have more than [`narrow`] ones.
#[cfg(target_arch = "x86_64")]
fn excess(weights: &[i32], inputs: usize, limit: i32) -> Vec<portable::Entry> {
    let excess = weights.iter().map(|w| w - narrow(*w, limit));
    let entry = |(at, w)| portable::Entry { output: at / inputs, input: at % inputs, w };
    excess.enumerate().filter(|(_, w)| *w != 0).map(entry).collect()
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
    match &w.packed {
        Packed::Rows(packed) => portable::public(x, rows, packed, w.inputs, w.outputs, out),
        #[cfg(target_arch = "x86_64")]
        Packed::Narrow(narrow, excess) => {
            out.fill(0);
            // SAFETY: weights are packed for instructions only where they were detected.
            unsafe { add_product(x, rows, narrow, 0, bits, out) };
            portable::add_sparse(x, excess, w.inputs, w.outputs, out);
        }
        #[cfg(target_arch = "x86_64")]
        Packed::Tiles(narrow, excess) => {
            out.fill(0);
            // SAFETY: as above.
            unsafe { tiles::add_product(x, rows, narrow, bits, out) };
            portable::add_sparse(x, excess, w.inputs, w.outputs, out);
        }
        #[cfg(target_arch = "x86_64")]
        Packed::Wide([low, high]) => {
            out.fill(0);
            // SAFETY: as above.
            unsafe {
                add_product(x, rows, low, 0, bits, out);
                add_product(x, rows, high, CUT, bits, out);
            }
        }
    }
}
