//! AMX for CPUs without it: a handler of SIGILL carries out the few instructions that [`super::amx`] uses, after the operations of Intel's manual (volume 2).

use std::cell::UnsafeCell;
use std::sync::Once;

/// Lines and bytes a line of a tile.
const LINES: usize = 16;
const LINE: usize = 64;

/// A thread's tiles.
struct Tiles {
    /// Lines and their bytes as configured; none when released.
    shape: [(usize, usize); 8],
    data: [[[u8; LINE]; LINES]; 8],
}

thread_local! {
    static TILES: UnsafeCell<Tiles> = const { UnsafeCell::new(Tiles { shape: [(0, 0); 8], data: [[[0; LINE]; LINES]; 8] }) };
}

/// Lets AMX's instructions trap where the CPU has none.
pub(super) fn install() {
    static ONCE: Once = Once::new();
    if crate::cpu::Cpu::detected().amx {
        return;
    }
    ONCE.call_once(|| {
        // SAFETY: the action is filled in whole, and its handler keeps to what handlers may do: no allocation, no lock.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction =
                handle as extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) as libc::sighandler_t;
            action.sa_flags = libc::SA_SIGINFO;
            assert_eq!(libc::sigaction(libc::SIGILL, &raw const action, std::ptr::null_mut()), 0);
        }
    });
}

extern "C" fn handle(_: libc::c_int, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the system passes the interrupted thread's registers, and the instruction that trapped lies at their instruction pointer.
    let done = unsafe {
        let registers = &mut (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs;
        let code = std::slice::from_raw_parts(registers[libc::REG_RIP as usize] as *const u8, 15);
        let length = TILES.with(|tiles| execute(code, registers, &mut *tiles.get()));
        length.inspect(|length| registers[libc::REG_RIP as usize] += *length as i64)
    };
    if done.is_none() {
        // SAFETY: aborting is always allowed.
        unsafe { libc::abort() }
    }
}

/// General registers in the order of their numbers.
const NUMBERED: [libc::c_int; 16] = [
    libc::REG_RAX,
    libc::REG_RCX,
    libc::REG_RDX,
    libc::REG_RBX,
    libc::REG_RSP,
    libc::REG_RBP,
    libc::REG_RSI,
    libc::REG_RDI,
    libc::REG_R8,
    libc::REG_R9,
    libc::REG_R10,
    libc::REG_R11,
    libc::REG_R12,
    libc::REG_R13,
    libc::REG_R14,
    libc::REG_R15,
];

/// Carries an instruction out and gives its length; none if it is no instruction of AMX-INT8's.
///
/// # Safety
/// The registers are those of a thread that was about to execute `code`.
unsafe fn execute(code: &[u8], registers: &[i64; 23], tiles: &mut Tiles) -> Option<usize> {
    // A VEX prefix of three bytes with the map 0F38, W0 and 128 bits.
    let [0xc4, first, second, opcode, modrm, ..] = *code else { return None };
    if first & 0x1f != 2 || second & 0x84 != 0 {
        return None;
    }
    let (prefix, third) = (second & 3, usize::from(!second >> 3 & 7));
    let (kind, reg, rm) = (modrm >> 6, usize::from(modrm >> 3 & 7), usize::from(modrm & 7));
    let number = |bit: u8, low: u8| registers[NUMBERED[usize::from(low | (!first >> bit & 1) << 3)] as usize] as usize;
    match (opcode, prefix, kind) {
        // tilerelease
        (0x49, 0, 3) => {
            *tiles = Tiles { shape: [(0, 0); 8], data: [[[0; LINE]; LINES]; 8] };
            Some(5)
        }
        // tilezero
        (0x49, 3, 3) => {
            tiles.data[reg] = [[0; LINE]; LINES];
            Some(5)
        }
        // ldtilecfg, of a register's address with no displacement
        (0x49, 0, 0) if rm != 4 && rm != 5 => {
            // SAFETY: the thread was about to read its 64 bytes.
            let configuration = unsafe { &*(number(5, modrm & 7) as *const [u8; 64]) };
            assert!(
                configuration[0] == 1 && configuration[1..16].iter().all(|byte| *byte == 0),
                "palette 1 from the first line on"
            );
            tiles.data = [[[0; LINE]; LINES]; 8];
            tiles.shape = std::array::from_fn(|at| (configuration[48 + at].into(), configuration[16 + 2 * at].into()));
            Some(5)
        }
        // tileloadd and tilestored, of a base and an index with or without displacement
        (0x4b, 2 | 3, 0..=2) if rm == 4 => {
            let sib = code[5];
            let (displacement, length) = match kind {
                0 if sib & 7 == 5 => return None,
                0 => (0, 6),
                1 => (isize::from(code[6] as i8), 7),
                _ => (i32::from_le_bytes([code[6], code[7], code[8], code[9]]) as isize, 10),
            };
            let start = number(5, sib & 7).wrapping_add_signed(displacement);
            let stride = number(6, sib >> 3 & 7) << (sib >> 6);
            let (lines, bytes) = tiles.shape[reg];
            for (line, data) in tiles.data[reg].iter_mut().enumerate().take(lines) {
                let memory = (start + line * stride) as *mut u8;
                // SAFETY: the thread was about to read or write the line.
                unsafe {
                    if prefix == 3 {
                        std::ptr::copy_nonoverlapping(memory, data.as_mut_ptr(), bytes);
                    } else {
                        std::ptr::copy_nonoverlapping(data.as_ptr(), memory, bytes);
                    }
                }
            }
            Some(length)
        }
        // tdpbusd
        (0x5e, 1, 3) => {
            let (lines, bytes) = tiles.shape[reg];
            for m in 0..lines {
                for k in 0..tiles.shape[rm].1 / 4 {
                    for n in 0..bytes / 4 {
                        let (x, y) = (&tiles.data[rm][m][4 * k..], &tiles.data[third][k][4 * n..]);
                        let products = (0..4).map(|at| i32::from(x[at]) * i32::from(y[at] as i8)).sum::<i32>();
                        let sum = &mut tiles.data[reg][m].as_chunks_mut::<4>().0[n];
                        *sum = i32::from_le_bytes(*sum).wrapping_add(products).to_le_bytes();
                    }
                }
            }
            Some(5)
        }
        _ => None,
    }
}
