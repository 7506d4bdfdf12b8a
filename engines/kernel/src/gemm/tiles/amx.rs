//! Tiles multiplied by AMX-INT8. The instructions have no stable intrinsics, so they are assembly.

use super::{Place, Sums, Tile};
use core::arch::asm;

/// What `ldtilecfg` reads: eight tiles of sixteen lines of 64 bytes.
#[repr(C, align(64))]
struct Configuration {
    palette: u8,
    reserved: [u8; 15],
    line_bytes: [u16; 16],
    lines: [u8; 16],
}

static CONFIGURATION: Configuration = Configuration {
    palette: 1,
    reserved: [0; 15],
    line_bytes: [64, 64, 64, 64, 64, 64, 64, 64, 0, 0, 0, 0, 0, 0, 0, 0],
    lines: [16, 16, 16, 16, 16, 16, 16, 16, 0, 0, 0, 0, 0, 0, 0, 0],
};

/// Sets this thread's tiles up.
///
/// # Safety
/// The CPU has AMX, and [`release`] follows on the same thread.
pub(super) unsafe fn configure() {
    // SAFETY: the configuration is 64 readable bytes; the compiler uses no tile.
    unsafe {
        asm!("ldtilecfg [{0}]", in(reg) &raw const CONFIGURATION, options(nostack, preserves_flags, readonly));
    }
}

/// Gives this thread's tiles back, which makes the next switch of threads cheaper.
///
/// # Safety
/// The CPU has AMX.
pub(super) unsafe fn release() {
    // SAFETY: the compiler uses no tile.
    unsafe { asm!("tilerelease", options(nostack, preserves_flags, nomem)) };
}

/// One place's sums.
///
/// # Safety
/// The CPU has AMX and the thread's tiles are set up.
pub(super) unsafe fn sums(place: &Place<'_>, sums: &mut Sums) {
    let Place { a, b, steps, top, pairs } = *place;
    assert!(steps > 0 && (1..=top + 1).contains(&pairs), "there are pairs");
    assert!(a.iter().all(|a| a.len() >= (top + 1) * steps) && b.iter().all(|b| b.len() >= pairs * steps), "there are tiles");
    let [a0, a1] = a.map(|a| a[top * steps..].as_ptr());
    // SAFETY: a pair of bytes reads `steps` tiles from each pointer on. The next one's begin `steps` tiles below those of `a` and follow those of `b`;
    // the assertions say that they exist. Four tiles of sums are all of `sums`.
    unsafe {
        asm!(
            "tilezero tmm0",
            "tilezero tmm1",
            "tilezero tmm2",
            "tilezero tmm3",
            "2:",
            "mov {left}, {steps}",
            "3:",
            "tileloadd tmm4, [{a0} + {line}]",
            "tileloadd tmm6, [{b0} + {line}]",
            "tdpbusd tmm0, tmm4, tmm6",
            "tileloadd tmm7, [{b1} + {line}]",
            "tdpbusd tmm1, tmm4, tmm7",
            "tileloadd tmm5, [{a1} + {line}]",
            "tdpbusd tmm2, tmm5, tmm6",
            "tdpbusd tmm3, tmm5, tmm7",
            "add {a0}, 1024",
            "add {a1}, 1024",
            "add {b0}, 1024",
            "add {b1}, 1024",
            "dec {left}",
            "jnz 3b",
            "sub {a0}, {back}",
            "sub {a1}, {back}",
            "dec {pairs}",
            "jnz 2b",
            "add {line}, {line}",
            "tilestored [{out} + {line}], tmm0",
            "tilestored [{out} + {line} + 64], tmm1",
            "tilestored [{out} + {line} + 2048], tmm2",
            "tilestored [{out} + {line} + 2112], tmm3",
            a0 = inout(reg) a0 => _,
            a1 = inout(reg) a1 => _,
            b0 = inout(reg) b[0].as_ptr() => _,
            b1 = inout(reg) b[1].as_ptr() => _,
            line = inout(reg) 64usize => _,
            left = out(reg) _,
            pairs = inout(reg) pairs => _,
            steps = in(reg) steps,
            back = in(reg) 2 * steps * size_of::<Tile>(),
            out = in(reg) &raw mut *sums,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack),
        );
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::super::{DEPTH, LINES, SIDE, plain, trap};
    use super::*;
    use crate::Prg;

    fn tiles(label: u8, count: usize) -> Vec<Tile> {
        let mut words = vec![0u64; count * LINES * DEPTH / 8];
        Prg::new([label; 16]).fill_u64(0, &mut words);
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        bytes.as_chunks().0.iter().map(|tile| Tile(*tile)).collect()
    }

    /// On a CPU without AMX its instructions trap and are carried out one by one as Intel's manual defines them.
    #[test]
    fn sums_equal_the_portable_ones() {
        if crate::cpu::has_tiles() && !crate::cpu::Cpu::detected().amx {
            // Some of its instructions would run and others trap.
            return eprintln!("skipped: the CPU has AMX, which this process may not use");
        }
        trap::install();
        for (steps, top, bytes) in [(1, 0, 1), (1, 0, 3), (3, 1, 3), (2, 2, 2), (16, 4, 8)] {
            let (a, b) = ([1, 2].map(|label| tiles(label, 5 * steps)), [3, 4].map(|label| tiles(label, bytes * steps)));
            let at = || Place { a: [&a[0], &a[1]], b: [&b[0], &b[1]], steps, top, pairs: bytes.min(top + 1) };
            let (mut sums, mut expected) = (Sums([[7; SIDE]; SIDE]), Sums([[9; SIDE]; SIDE]));
            plain::sums(&at(), &mut expected);
            // SAFETY: the CPU has AMX, or traps its instructions.
            unsafe {
                configure();
                super::sums(&at(), &mut sums);
                release();
            }
            assert!(sums.0 == expected.0, "{steps} {top} {bytes}");
        }
    }
}
