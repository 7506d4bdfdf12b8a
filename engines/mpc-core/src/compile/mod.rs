//! From the one model definition to a gate program.
//!
//! # Ranges
//! Truncation is free but narrows the ring, and only an opening widens it again, so every value's ring leaves room for the fractional bits
//! of all products since its last opening. With the widths of [`Precision`]:
//!
//! | value | fractional bits | ring | range |
//! |---|---|---|---|
//! | deviation from the mean, opened | 13 | 23 | 256 |
//! | inverse deviation, opened | 12 | 18 | 16 |
//! | normalised state `d·r` | 25 | 64 | |
//! | weight of a public layer | 13 to 16, as its consumer's ring allows | | 64 |
//! | q, k, opened | 13 | 36 | scores below 512 |
//! | softmax numerators, v, opened | 13 | 38 | |
//! | numerators times v, opened | 10 | 22 | 1024 |
//! | scores in the tree of the maximum | 2 | 12 | 512 |
//! | argument of GELU, opened | 12 | 20 | 64 |
//!
//! A value that would not fit is widened by an opening of its own ([`Lowering::widen`]), at the price of a round.

mod act;
mod attention;
mod engine;
mod function;
mod linear;
mod norm;
mod smooth;

use serde::{Deserialize, Serialize};
use sprint_model::{Calibration, ModelSpec, WeightPolicy, classify, encode};

use crate::program::{Builder, Finish, Form, Fourier, Input, Interval, NodeId, Op, Program, View};

pub(crate) use act::Act;

/// How much one-time material and how much exactness an inference uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Every function on its whole range, softmax with a secret maximum.
    #[default]
    Exact,
    /// Smooth functions in one round on public ranges measured in the clear ([`Options::calibration`]); values out of range are detected.
    Calibrated,
    /// The functions of [`Mode::Exact`] with the least one-time material, in more rounds.
    Lean,
}

impl std::fmt::Display for Mode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Exact => "exact",
            Self::Calibrated => "calibrated",
            Self::Lean => "lean",
        })
    }
}

/// What a program is compiled for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Options {
    /// Gates.
    pub mode: Mode,
    /// Which weights are hidden from the parties.
    pub policy: WeightPolicy,
    /// Examples in a batch.
    pub batch: usize,
    /// Padded tokens of each example.
    pub tokens: usize,
    /// The ranges that [`Mode::Calibrated`] relies on; other modes ignore them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub calibration: Option<Calibration>,
}

impl Options {
    /// Options without calibration.
    pub fn new(mode: Mode, policy: WeightPolicy, batch: usize, tokens: usize) -> Self {
        Self { mode, policy, batch, tokens, calibration: None }
    }

    /// The same with ranges.
    #[must_use]
    pub fn with_calibration(self, calibration: Option<Calibration>) -> Self {
        Self { calibration, ..self }
    }
}

/// Why a model has no program.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CompileError {
    /// Something the gates do not offer yet.
    #[error("{what} is not offered under MPC: {fix}")]
    Unsupported {
        /// What.
        what: String,
        /// What to do instead.
        fix: String,
    },
    /// A shape the protocol cannot take.
    #[error("{0}")]
    Shape(String),
}

/// Fractional bits and ring widths; see the module's table.
pub(crate) struct Precision;

impl Precision {
    pub(crate) const INPUT: u32 = 14;
    /// Least and most fractional bits of public weights; the consumer's ring decides.
    /// Of `1/length`: with 14 bits, rounding `1/60` alone would move a mean, and with it every logit, by a part in 500.
    pub(crate) const MEAN_WEIGHT: u32 = 19;
    pub(crate) const WEIGHT: (u32, u32) = (13, 16);
    pub(crate) const DEVIATION: (u32, u32) = (13, 23);
    pub(crate) const INVERSE_DEVIATION: (u32, u32) = (12, 18);
    pub(crate) const LORA_INNER: u32 = 12;
    pub(crate) const PRIVATE_WEIGHT: u32 = 13;
    pub(crate) const SCORES: (u32, u32) = (13, 36);
    pub(crate) const ATTENTION: (u32, u32) = (13, 38);
    pub(crate) const CONTEXT: (u32, u32) = (10, 22);
    pub(crate) const INVERSE_SUM: (u32, u32) = (17, 20);
    pub(crate) const ARGUMENT: (u32, u32) = (12, 20);
    pub(crate) const EXP_ARGUMENT: (u32, u32) = (12, 22);
    pub(crate) const MAXIMUM: (u32, u32) = (2, 12);
    pub(crate) const BODY: u32 = 13;
    pub(crate) const KEY_MASK: f64 = 240.0;
}

/// A share: which node, valid in Z_2^ring, with `f` fractional bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Val {
    pub(crate) node: NodeId,
    pub(crate) ring: u32,
    pub(crate) f: u32,
}

/// Lowers model operations to nodes. It is the [`Engine`] of compilation.
pub(crate) struct Lowering {
    pub(crate) b: Builder,
    pub(crate) policy: WeightPolicy,
    pub(crate) batch: usize,
    pub(crate) tokens: usize,
}

/// Compiles the encoder and head of `spec`. Embeddings are the client's: their tables are public.
pub fn compile(spec: &ModelSpec, options: &Options) -> Result<Program, CompileError> {
    if options.batch == 0 || options.tokens == 0 || options.tokens > 512 {
        return Err(CompileError::Shape(format!(
            "batch {} × {} tokens: give 1 or more of 1 to 512 tokens",
            options.batch, options.tokens
        )));
    }
    if options.mode != Mode::Exact {
        let (what, fix) = (format!("mode {}", options.mode), "use mode exact".into());
        return Err(CompileError::Unsupported { what, fix });
    }
    let Some(head) = &spec.head else {
        return Err(CompileError::Unsupported {
            what: "a model without head".into(),
            fix: "add a head, or use the clear engines".into(),
        });
    };
    if options.policy == WeightPolicy::AllPrivate {
        let fix = "keep the pretrained encoder public (LoRA or head tuning)".into();
        return Err(CompileError::Unsupported { what: "an encoder whose weights are all private".into(), fix });
    }
    let mut lowering = Lowering { b: Builder::new(), policy: options.policy, batch: options.batch, tokens: options.tokens };
    let len = options.batch * options.tokens * spec.hidden;
    let node = lowering.b.input(Input::Embedded, len);
    let embedded = Act::value(Val { node, ring: 64, f: Precision::INPUT }, options.tokens, spec.hidden);
    let hidden = encode(&mut lowering, spec, &embedded)?;
    let logits = classify(&mut lowering, spec, &hidden)?;
    let output = lowering.materialise(&logits, 16, 28, false)?;
    let finish = Finish {
        batch: options.batch,
        tokens: options.tokens,
        hidden: spec.hidden,
        outputs: head.outputs,
        input_bits: Precision::INPUT,
        output_bits: output.f,
        output_ring: output.ring,
        output: output.node,
    };
    Ok(lowering.b.finish(finish))
}

impl Lowering {
    pub(crate) fn len(&self, v: Val) -> usize {
        self.b.len(v.node)
    }

    /// Changes the fractional bits: up is exact and widens the ring, down truncates and narrows it.
    pub(crate) fn rescale(&mut self, v: Val, f: u32) -> Val {
        let len = self.len(v);
        if f > v.f {
            let by = f - v.f;
            let node = self.b.push(Op::Scale(v.node, 1 << by), len);
            return Val { node, ring: (v.ring + by).min(64), f };
        }
        if f < v.f {
            let by = v.f - f;
            let node = self.b.push(Op::Truncate { src: v.node, ring: v.ring, by }, len);
            return Val { node, ring: v.ring - by, f };
        }
        v
    }

    /// The same value with `f` fractional bits, valid in at least `ring` bits: by truncation alone where it fits, else by an opening.
    pub(crate) fn fit(&mut self, v: Val, f: u32, ring: u32) -> Val {
        let narrowed = self.rescale(v, f);
        if narrowed.ring >= ring { narrowed } else { self.widen(narrowed) }
    }

    /// A share of the same value in Z_2^64, for one round.
    pub(crate) fn widen(&mut self, v: Val) -> Val {
        let open = self.open(v, v.ring, true, true);
        self.lift(open, v.f)
    }

    pub(crate) fn open(&mut self, v: Val, bits: u32, lifted: bool, checked: bool) -> NodeId {
        debug_assert!(v.ring >= bits, "a share in Z_2^{} cannot be opened in Z_2^{bits}", v.ring);
        let len = self.len(v);
        self.b.push(Op::Open { src: v.node, bits, lifted, checked }, len)
    }

    /// Opens bits for products in Z_2^64.
    pub(crate) fn open_bits(&mut self, bits: NodeId) -> NodeId {
        self.open_bits_in(bits, 64)
    }

    /// Opens bits for products in Z_2^ring or smaller rings.
    pub(crate) fn open_bits_in(&mut self, bits: NodeId, ring: u32) -> NodeId {
        let len = self.b.len(bits);
        self.b.push(Op::OpenBits { src: bits, bits: ring }, len)
    }

    /// The share of an opened value; of an opened bit with `f = 0`.
    pub(crate) fn lift(&mut self, open: NodeId, f: u32) -> Val {
        let len = self.b.len(open);
        Val { node: self.b.push(Op::Lift(open), len), ring: 64, f }
    }

    /// Elementwise product of opened values over `len` elements, in Z_2^64.
    pub(crate) fn product(&mut self, forms: &[(NodeId, View)], len: usize, f: u32) -> Val {
        let forms = forms.iter().map(|(open, view)| Form { open: *open, view: *view, negated: false }).collect();
        Val { node: self.b.push(Op::Product { forms, bits: 64 }, len), ring: 64, f }
    }

    pub(crate) fn sum(&mut self, a: Val, b: Val) -> Val {
        debug_assert_eq!(a.f, b.f, "summands have one scale");
        let len = self.len(a);
        Val { node: self.b.push(Op::Add(a.node, b.node), len), ring: a.ring.min(b.ring), f: a.f }
    }

    pub(crate) fn difference(&mut self, a: Val, b: Val) -> Val {
        debug_assert_eq!(a.f, b.f, "operands have one scale");
        let len = self.len(a);
        Val { node: self.b.push(Op::Sub(a.node, b.node), len), ring: a.ring.min(b.ring), f: a.f }
    }

    /// Adds a public real number.
    pub(crate) fn shift(&mut self, v: Val, by: f64) -> Val {
        let len = self.len(v);
        let by = (by * f64::from(v.f).exp2()).round() as i64;
        Val { node: self.b.push(Op::Shift(v.node, by), len), ..v }
    }

    /// Multiplies by a public real number: a power of two moves the point, any other factor is rounded to 12 significant bits or more.
    pub(crate) fn gain(&mut self, v: Val, gain: f64) -> Val {
        if gain == 1.0 {
            return v;
        }
        let exponent = gain.abs().log2().floor();
        if gain > 0.0 && gain.log2() == exponent && exponent <= f64::from(v.f) {
            return Val { f: (f64::from(v.f) - exponent) as u32, ..v };
        }
        let bits = (12.0 - exponent).clamp(0.0, 24.0) as u32;
        let by = (gain * f64::from(bits).exp2()).round() as i64;
        let len = self.len(v);
        Val { node: self.b.push(Op::Scale(v.node, by), len), ring: v.ring, f: v.f + bits }
    }

    /// XOR shares of `lo ≤ x < hi` for each interval in real units, of a value opened with `f` fractional bits; `drop` low bits are ignored.
    pub(crate) fn intervals(&mut self, open: NodeId, f: u32, drop: u32, list: &[(Option<f64>, Option<f64>)]) -> NodeId {
        let scale = f64::from(f as i32 - drop as i32).exp2();
        let bound = |b: &Option<f64>| b.map(|b| (b * scale).round() as i64);
        let intervals: Vec<Interval> = list.iter().map(|(lo, hi)| Interval { lo: bound(lo), hi: bound(hi) }).collect();
        let len = self.b.len(open) * intervals.len();
        self.b.push(Op::Intervals { src: open, drop, intervals }, len)
    }

    /// A Fourier series of an opened value with `f` fractional bits, as a share with 14 fractional bits less than its ring allows.
    pub(crate) fn series(&mut self, open: NodeId, fit: Fourier, bits: u32) -> Val {
        const COEFFICIENT: u32 = 15;
        const TRIG: u32 = 15;
        let len = self.b.len(open);
        let fit = self.b.fit(fit);
        let op = Op::Series { src: open, fit, coefficient_bits: COEFFICIENT, trig_bits: TRIG, bits };
        Val { node: self.b.push(op, len), ring: bits, f: COEFFICIENT + TRIG }
    }
}

/// How far below zero a client puts the scores of padding keys.
pub(crate) const KEY_MASK: f64 = Precision::KEY_MASK;

/// Fractional bits of the weights of a mean over tokens.
pub(crate) const MEAN_WEIGHT: u32 = Precision::MEAN_WEIGHT;
