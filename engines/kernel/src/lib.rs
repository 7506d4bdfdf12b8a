//! The arithmetic kernels of the MPC engine: pseudo-random generator, products over Z_2^64, wire packing and
//! function secret sharing.
//!
//! This is the only crate of the workspace that may use `unsafe`, and it uses it for one purpose: SIMD (and to ask Linux for leave to use AMX). Every kernel
//! exists as portable code and, but for packing, which AVX2 only undoes, as AVX2 and AVX-512 code chosen at run time by CPU
//! detection, products on AMX's tiles too, and property tests hold them equal bit for bit. The choice therefore never changes a result; [`description`] says what was chosen.
//!
//! Control flow and memory addresses depend only on public values (shapes, points, opened inputs), never on shares,
//! seeds, keys or the dealer's secret points.
//!
//! | Module | Computes |
//! |---|---|
//! | [`Prg`] | block `i` of a stream is `AES_k(start + i)` |
//! | [`gemm_public`], [`gemm`], [`gemm_nt`] | products mod 2^64 |
//! | [`pack`], [`unpack`] | words of `n` bits on the wire |
//! | [`dpf`] | XOR shares of `1[alpha < point]` |
//! | [`piecewise`] | additive shares of a polynomial, or of a table's entry, by the cell of `x_hat - alpha` |
//! | [`words`] | elementwise arithmetic |

mod cipher;
mod cpu;
pub mod dpf;
mod gemm;
#[cfg(target_arch = "x86_64")]
mod lanes;
mod packing;
pub mod piecewise;
mod prg;
pub mod words;

pub use cpu::description;
pub use gemm::{MAX_WEIGHT, PackedWeights, gemm, gemm_add, gemm_nt, gemm_nt_add, gemm_public};
pub use packing::{PackError, pack, packed_len, unpack};
pub use prg::Prg;
