//! Run-time detection: which kernels this CPU can run, and which of them is the fastest.

use std::sync::OnceLock;

/// The instruction-set groups the kernels need, detected once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Cpu {
    /// AVX2, with the bit counts and shifts of its time (POPCNT, BMI1, BMI2).
    pub(crate) avx2: bool,
    /// AVX-512 F, DQ, BW and VL, besides AVX2.
    pub(crate) avx512: bool,
    /// Sums of 16-bit products, besides AVX-512.
    pub(crate) vnni: bool,
    /// Byte permutations of a whole register.
    pub(crate) vbmi: bool,
    /// The registers that the block cipher and the point functions use.
    pub(crate) aes: BlockCipher,
}

/// How blocks are encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BlockCipher {
    /// Four blocks per register: VAES with AVX-512.
    #[cfg(target_arch = "x86_64")]
    Four,
    /// Two blocks per register: VAES with AVX2.
    #[cfg(target_arch = "x86_64")]
    Two,
    /// Two blocks per register of AVX2, each encrypted by AES-NI.
    #[cfg(target_arch = "x86_64")]
    AesNi,
    /// The `aes` crate.
    Portable,
}

impl BlockCipher {
    fn name(self) -> &'static str {
        match self {
            #[cfg(target_arch = "x86_64")]
            BlockCipher::Four => "VAES-512",
            #[cfg(target_arch = "x86_64")]
            BlockCipher::Two => "VAES-256",
            #[cfg(target_arch = "x86_64")]
            BlockCipher::AesNi => "AES-NI",
            BlockCipher::Portable => "portable (AES-NI where present)",
        }
    }

    #[cfg(target_arch = "x86_64")]
    fn detect(avx2: bool, avx512: bool) -> Self {
        let aes_ni = avx2 && is_x86_feature_detected!("aes") && is_x86_feature_detected!("sse4.1");
        match (aes_ni, is_x86_feature_detected!("vaes"), avx512) {
            (true, true, true) => BlockCipher::Four,
            (true, true, false) => BlockCipher::Two,
            (true, false, _) => BlockCipher::AesNi,
            (false, ..) => BlockCipher::Portable,
        }
    }
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
    let old = is_x86_feature_detected!("popcnt") && is_x86_feature_detected!("bmi1") && is_x86_feature_detected!("bmi2");
    let avx2 = old && is_x86_feature_detected!("avx2");
    let avx512 = avx2
        && is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512vl");
    Cpu {
        avx2,
        avx512,
        vnni: avx512 && is_x86_feature_detected!("avx512vnni"),
        vbmi: avx512 && is_x86_feature_detected!("avx512vbmi"),
        aes: BlockCipher::detect(avx2, avx512),
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn detect() -> Cpu {
    Cpu { avx2: false, avx512: false, vnni: false, vbmi: false, aes: BlockCipher::Portable }
}

/// Says which kernels run-time detection picked, in one line for logs and result records.
pub fn description() -> String {
    let cpu = Cpu::detected();
    let general = match cpu {
        Cpu { avx512: true, .. } => "AVX-512 vpmullq",
        Cpu { avx2: true, .. } => "AVX2 vpmuldq",
        _ => "portable",
    };
    format!(
        "aes: {}; gemm: {general}; gemm with public weights: {}; threads: {}",
        cpu.aes.name(),
        crate::gemm::public_kernel_name(),
        rayon::current_num_threads()
    )
}
