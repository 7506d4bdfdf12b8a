//! Run-time detection: which kernels this CPU can run, and which of them is the fastest.

use std::sync::OnceLock;

/// The instruction-set groups the kernels need, detected once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Cpu {
    /// AVX-512 F, DQ, BW and VL.
    pub(crate) avx512: bool,
    /// 52-bit integer multiply-add.
    pub(crate) ifma: bool,
    /// Byte permutations of a whole register.
    pub(crate) vbmi: bool,
    /// AES rounds on four blocks per instruction.
    pub(crate) vaes: bool,
    /// `vpmullq` is one micro-operation (AMD); elsewhere it is three, and two 52-bit multiply-adds beat it.
    pub(crate) fast_mul64: bool,
}

impl Cpu {
    /// The CPU this process runs on.
    pub(crate) fn detected() -> Self {
        static CPU: OnceLock<Cpu> = OnceLock::new();
        *CPU.get_or_init(detect)
    }
}

#[cfg(target_arch = "x86_64")]
fn detect() -> Cpu {
    let avx512 = is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512vl");
    let leaf = core::arch::x86_64::__cpuid(0);
    Cpu {
        avx512,
        ifma: avx512 && is_x86_feature_detected!("avx512ifma"),
        vbmi: avx512 && is_x86_feature_detected!("avx512vbmi"),
        vaes: avx512 && is_x86_feature_detected!("vaes") && is_x86_feature_detected!("aes") && is_x86_feature_detected!("sse4.1"),
        fast_mul64: (leaf.ebx, leaf.edx, leaf.ecx) == AUTHENTIC_AMD,
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn detect() -> Cpu {
    Cpu { avx512: false, ifma: false, vbmi: false, vaes: false, fast_mul64: false }
}

/// The vendor words `AuthenticAMD` in the order ebx, edx, ecx.
#[cfg(target_arch = "x86_64")]
const AUTHENTIC_AMD: (u32, u32, u32) = (u32::from_le_bytes(*b"Auth"), u32::from_le_bytes(*b"enti"), u32::from_le_bytes(*b"cAMD"));

/// Says which kernels run-time detection picked, in one line for logs and result records.
pub fn description() -> String {
    let cpu = Cpu::detected();
    let aes = if cpu.vaes { "VAES-512" } else { "portable (AES-NI where present)" };
    let general = if cpu.avx512 { "AVX-512 vpmullq" } else { "portable" };
    format!(
        "aes: {aes}; gemm: {general}; gemm with public weights: {}; threads: {}",
        crate::gemm::public_kernel_name(),
        rayon::current_num_threads()
    )
}
