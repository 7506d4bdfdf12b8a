//! Operations between values that each party knows a part of: what they exchange is masked by its sender alone.
//!
//! All of them are scalar products of a vector that one party knows with one that the other knows ([`crate::exec::private`]): the dealer sends one word a
//! product, however long the vectors are, and the parties send the vectors. They are the other end of the trade that the gates of an opened
//! value make, where the dealer sends a word for each term and the parties one for all of them.

use serde::Serialize;

use super::NodeId;

/// A comparison of two private numbers' digits, at positions that [`Op::Digits`](super::Op::Digits) names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
pub(crate) enum Relation {
    /// `b ≥ r`.
    AtLeast,
    /// `b > r`.
    Above,
    /// `b = r`.
    Equal,
}

/// Consecutive bits of a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
pub(crate) struct Digit {
    pub(crate) offset: u32,
    pub(crate) width: u32,
}

impl Digit {
    /// Bits of its one-hot vector without the largest digit's.
    pub(crate) fn lanes(self) -> u32 {
        (1 << self.width) - 1
    }
}

/// One output bit of [`Op::Digits`](super::Op::Digits): how a digit of `x̂` compares to that of `r + shift`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
pub(crate) struct Field {
    pub(crate) digit: usize,
    pub(crate) relation: Relation,
    pub(crate) shift: i64,
}

/// One number of which digits are compared: bits `drop .. bits` of `multiplier·x̂` and `multiplier·r` in Z_2^bits.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
pub(crate) struct Scale {
    pub(crate) multiplier: u64,
    pub(crate) bits: u32,
    pub(crate) drop: u32,
    pub(crate) digits: Vec<Digit>,
    pub(crate) fields: Vec<Field>,
    /// For each of these shifts, the XOR of the top bits of `x̂` and `r + shift`: local.
    pub(crate) tops: Vec<i64>,
}

impl Scale {
    /// Bits of a digit vector.
    pub(crate) fn lanes(&self) -> u32 {
        self.digits.iter().map(|d| d.lanes()).sum()
    }
}

/// An output bit of [`Op::Boolean`](super::Op::Boolean): the XOR of `constant`, some bits of the operand, and products of up to three factors, each the
/// XOR of some bits and a constant.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
pub(crate) struct Formula {
    pub(crate) constant: bool,
    pub(crate) linear: u64,
    pub(crate) products: Vec<Vec<(u64, bool)>>,
}

impl Formula {
    /// Bits that each party sends: all but the first and the last subset of each product's factors.
    pub(crate) fn lanes(&self) -> u32 {
        self.products.iter().map(|p| (1 << p.len()) - 2).sum()
    }
}

/// A value that counts where a bit is 1: the XOR of some bits of an operand of XOR-shared bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
pub(crate) struct Choice {
    pub(crate) bits: NodeId,
    pub(crate) mask: u64,
    pub(crate) value: NodeId,
}

/// What [`Op::Translate`](super::Op::Translate) computes of `x = x̂ - r`: a short sum of products of a function of `x̂` and one of `r`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) enum Basis {
    /// A Fourier series of `multiplier·x`; coefficients and cosines have `bits` fractional bits each.
    Series { fit: u32, multiplier: u64, bits: u32 },
    /// `exp(shift + rate·(χ - ρ - 2^period))` with `2·bits` fractional bits, `χ` and `ρ` the numbers `multiplier·x̂` and `multiplier·r` mod `2^period`.
    Power { multiplier: u64, period: u32, rate: f64, shift: f64, bits: u32 },
}
