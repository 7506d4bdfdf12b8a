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
    /// Tiles of bytes (AMX-INT8), besides AVX-512, with the system's leave to use them.
    pub(crate) amx: bool,
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
        amx: avx512 && has_tiles() && may_use_tiles(),
        vbmi: avx512 && is_x86_feature_detected!("avx512vbmi"),
        aes: BlockCipher::detect(avx2, avx512),
    }
}

/// Whether the CPU has AMX-INT8 and the system saves its tiles.
#[cfg(target_arch = "x86_64")]
pub(crate) fn has_tiles() -> bool {
    use core::arch::x86_64::{__cpuid, __cpuid_count, _xgetbv};

    const OSXSAVE: u32 = 1 << 27;
    const AMX_TILE_AND_INT8: u32 = 1 << 24 | 1 << 25;
    const CONFIGURATION_AND_DATA: u64 = 1 << 17 | 1 << 18;

    #[target_feature(enable = "xsave")]
    fn saved() -> u64 {
        // SAFETY: the caller has seen OSXSAVE.
        unsafe { _xgetbv(0) }
    }

    let saves = || __cpuid(1).ecx & OSXSAVE != 0;
    let has = || __cpuid_count(7, 0).edx & AMX_TILE_AND_INT8 == AMX_TILE_AND_INT8;
    // SAFETY: with OSXSAVE `xgetbv` exists.
    __cpuid(0).eax >= 7 && saves() && has() && unsafe { saved() } & CONFIGURATION_AND_DATA == CONFIGURATION_AND_DATA
}

/// Asks Linux for leave to use tiles, which it gives to a process with all its threads (kernel 5.16 on, `Documentation/arch/x86/xstate.rst`).
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
fn may_use_tiles() -> bool {
    const ARCH_PRCTL: i64 = 158;
    const ARCH_REQ_XCOMP_PERM: u64 = 0x1023;
    const XFEATURE_XTILEDATA: u64 = 18;
    let result: i64;
    // SAFETY: the call reads its two numbers and no memory; the registers that system calls change are declared.
    unsafe {
        core::arch::asm!(
            "syscall",
            inlateout("rax") ARCH_PRCTL => result,
            in("rdi") ARCH_REQ_XCOMP_PERM,
            in("rsi") XFEATURE_XTILEDATA,
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    result == 0
}

/// No other system has been tried.
#[cfg(all(target_arch = "x86_64", not(target_os = "linux")))]
fn may_use_tiles() -> bool {
    false
}

#[cfg(not(target_arch = "x86_64"))]
fn detect() -> Cpu {
    Cpu { avx2: false, avx512: false, vnni: false, amx: false, vbmi: false, aes: BlockCipher::Portable }
}

/// Says which kernels run-time detection picked, in one line for logs and result records.
pub fn description() -> String {
    let cpu = Cpu::detected();
    let general = match cpu {
        Cpu { amx: true, .. } => "AMX-INT8, AVX-512 vpmullq",
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
