//! From the one model definition to a gate program.
//!
//! # Ranges
//! Truncation is free but narrows the ring, and only an opening widens it again, so every value's ring leaves room for the fractional bits
//! of all products since its last opening. With the widths of [`Precision`]:
//!
//! | value | fractional bits | ring | range |
//! |---|---|---|---|
//! | deviation from the mean, opened | 15 (calibrated 14, private encoder 13) | 25 (24, 23) | 256 |
//! | inverse deviation, opened | 16 (calibrated 14, private encoder 12) | 22 (20, 18) | 16 |
//! | normalised state `d·r` | 31 (calibrated 28, private encoder 25) | 64 | |
//! | the same and an attention's output, as public layers read them | 14 | 47 (50), 44 | |
//! | weight of a public layer | 13 to 18, as its consumer's ring allows; 18 where the result is widened | | 64 |
//! | private weight of a low-rank update or head | 13 to 16, likewise | | |
//! | low-rank layer of the deviation, before it meets the inverse deviation, opened | 10 | 22 | 1024 |
//! | a head's part of a low-rank layer of attention, before its division, opened | 15 (3 more than the numerators times v) | 28 | 2048 |
//! | private weight of the encoder | 16 to 18, likewise | | |
//! | normalised state or other operand of a private encoder's layer, opened | 14 | up to 53 | |
//! | a layer of the deviation, before it meets the inverse deviation, opened | 14 | 25 | 1024 |
//! | q, k, opened | 14 (private encoder 13, calibrated 12) | 38 (36, 32) | scores below 512 (128) |
//! | softmax numerators, opened | 16 (lean, three servers 14, private encoder one less, calibrated 13) | 44, 39 (by the sum's range) | |
//! | v, opened | 13 (calibrated 12) | the same | |
//! | numerators times v, opened | 15, 12 (9 to 20 by the sum's range) | 15, 12 more | 8192, 1024 |
//! | the sum's inverse, opened | 21, 18 | 27, 21 | 16, 2 |
//! | scores in the tree of the maximum | -1 (lean, three servers: 2) | 9 (12) | 512 |
//! | argument of GELU, opened | 12 (11) | 20 (by its range) | 64 |
//!
//! A value that would not fit is widened by an opening of its own ([`Lowering::widen`]), at the price of a round.

mod act;
mod attention;
mod calibrated;
mod engine;
mod function;
mod lean;
mod linear;
mod norm;
mod smooth;

use serde::{Deserialize, Serialize};
use sprint_model::{Calibration, ModelSpec, Softmax, WeightPolicy, encode, encode_and_classify};

use crate::program::{Builder, Finish, Form, Fourier, Input, Interval, NodeId, Op, Program, View};

pub(crate) use act::Act;
use calibrated::Ceilings;

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
    /// The functions of [`Mode::Exact`] on three servers of which one may be corrupted, without a dealer ([`crate::ReplicatedProgram`]).
    ThreeServer,
}

impl std::fmt::Display for Mode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Exact => "exact",
            Self::Calibrated => "calibrated",
            Self::Lean => "lean",
            Self::ThreeServer => "three-server",
        })
    }
}

/// What the client learns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Output {
    /// The head's logits, `[batch, outputs]`.
    #[default]
    Logits,
    /// The last hidden state of every token, `[batch, tokens · hidden]`; the model needs no head.
    Hidden,
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
    /// What the client learns.
    #[serde(default)]
    pub output: Output,
    /// The ranges that [`Mode::Calibrated`] relies on; other modes ignore them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub calibration: Option<Calibration>,
}

impl Options {
    /// Options without calibration.
    pub fn new(mode: Mode, policy: WeightPolicy, batch: usize, tokens: usize) -> Self {
        Self { mode, policy, batch, tokens, output: Output::Logits, calibration: None }
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
    /// Of `1/length`: with 14 bits, rounding `1/60` alone would move a mean, and with it every logit, by a part in 500.
    pub(crate) const MEAN_WEIGHT: u32 = 19;
    /// Least and most fractional bits of public weights; the consumer's ring decides.
    pub(crate) const WEIGHT: (u32, u32) = (13, 18);
    /// Most fractional bits of a public layer's operand. Truncation before the product is as free as after it, and leaves the product's words a limb or two less. Where the rows of
    /// weights have norm 1, what it drops has two fifths of a result's last bit of 14, root mean square: a tenth of one of a GELU's argument.
    pub(crate) const PUBLIC_OPERAND: u32 = 14;
    /// A finer public weight is not worth that a product which it reads is dealt in more bits than these; CPUs without VBMI pack words of up to 57 several times faster than wider ones.
    pub(crate) const PACKED: u32 = 59;
    /// Most fractional bits of a quotient that dense layers read as it is.
    pub(crate) const QUOTIENT: u32 = 30;
    /// With fewer, a layer of a normalised state is computed before the normalisation's product.
    pub(crate) const WEIGHT_ENOUGH: u32 = 16;
    const DEVIATION: (u32, u32) = (15, 25);
    /// A dense layer of the deviation, opened: below 1024.
    pub(crate) const BEFORE_NORM: (u32, u32) = (14, 25);
    const INVERSE_DEVIATION: (u32, u32) = (16, 22);
    /// Of calibrated softmax: with more bits, queries to values would not fit the ring that scores are opened in.
    const CALIBRATED_DEVIATION: (u32, u32) = (14, 24);
    const CALIBRATED_INVERSE_DEVIATION: (u32, u32) = (14, 20);
    /// Of a private encoder: its layers read the normalised state, whose fractional bits are those of both. With more, what they feed would have to be
    /// extended.
    const PRIVATE_DEVIATION: (u32, u32) = (13, 23);
    const PRIVATE_INVERSE_DEVIATION: (u32, u32) = (12, 18);
    pub(crate) const MEAN: (u32, u32) = (13, 38);
    /// A low-rank layer of the deviation, opened: below 1024.
    pub(crate) const LORA_BEFORE_NORM: (u32, u32) = (10, 22);
    /// Bits that a head's part of a low-rank layer of an attention, opened before its division, has beyond its weighted sums of values: of its fraction,
    /// and of its ring.
    pub(crate) const LORA_BEFORE_DIVISION: (u32, u32) = (3, 4);
    /// Operand of `B`, and of a head.
    pub(crate) const LORA_INNER: u32 = 14;
    /// Least and most fractional bits of private weights, likewise.
    pub(crate) const PRIVATE_WEIGHT: (u32, u32) = (13, 16);
    /// Fractional bits that `B` leaves to the public layer before it: where there are fewer for the two, what `B` reads is extended. In `exact` that is the
    /// first layer's queries and keys, a round in all; in `calibrated` it would be one in every layer, so `B` leaves the least there.
    pub(crate) const LORA_WEIGHT: u32 = 15;
    /// An operand of a private encoder's layers, and its ring: what truncation leaves of a normalised state's 25 fractional bits in Z_2^64.
    pub(crate) const PRIVATE_OPERAND: (u32, u32) = (14, 53);
    /// Least and most fractional bits of a private encoder's weights: those of a public one's where nothing is widened.
    pub(crate) const FINE_WEIGHT: (u32, u32) = (Self::WEIGHT_ENOUGH, Self::WEIGHT.1);
    pub(crate) const ARGUMENT: (u32, u32) = (12, 20);
    pub(crate) const EXP_ARGUMENT: (u32, u32) = (12, 22);
    pub(crate) const MAXIMUM: (u32, u32) = (2, 12);
    /// Of maxima in modes that pay for every bit of a comparison: the unit, as a power of two, and the ring of scores in such units.
    pub(crate) const COARSE_MAXIMUM: (u32, u32) = (1, 9);
    /// How far such a maximum may be from the true one: truncation is within a unit.
    pub(crate) const COARSE_ERROR: f64 = 2.0;
    pub(crate) const BODY: u32 = 14;
}

/// Widths of attention, by the sizes of a softmax's numerators and of their sum.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Attention {
    /// Queries and keys, opened for their product.
    pub(crate) scores: (u32, u32),
    /// Fractional bits of the numerators.
    pub(crate) numerators: u32,
    /// Values, opened for their product with the numerators, and its ring.
    pub(crate) operands: (u32, u32),
    /// Their product, opened to be divided by the sum.
    pub(crate) context: (u32, u32),
    /// The sum's inverse, opened.
    pub(crate) inverse: (u32, u32),
    /// The sum's bounds, in powers of two.
    pub(crate) sum: (i32, i32),
    /// How far below zero a client puts the scores of padding keys.
    pub(crate) key_mask: f64,
}

impl Attention {
    /// Scores below 512.
    const SCORES: (u32, u32) = (14, 38);
    /// Likewise, from a private encoder's layers.
    const PRIVATE_SCORES: (u32, u32) = (13, 36);
    /// Fractional bits of values: one less leaves roberta-base's logits as they are.
    const VALUES: u32 = 13;
    /// Least fractional bits of numerators whose sum is at least 1/4; those of finer scores are as fine as these.
    pub(crate) const NUMERATORS: u32 = 13;
    /// 128 keys of values up to 8, or more keys of smaller values.
    const WEIGHTED: u32 = 10;

    /// For numerators below `most` whose sum is in `sum`: a larger numerator takes ring bits, a smaller sum takes fractional bits and a larger
    /// one gives some back, so that their ratio is as exact as that of an exponential to its row's sum. The weighted sum of values is below `2^weighted`. Scales do not depend
    /// on the number of tokens, so the weights that read the result are encoded once for programs of all lengths.
    pub(crate) fn of(sum: (f64, f64), most: f64, weighted: u32, scores: (u32, u32), key_mask: f64) -> Self {
        let large = most.log2().ceil().max(0.0) as u32;
        let small = -(sum.0.log2().floor() as i32).min(3);
        let inverse = 18 + large;
        // Numerators of small sums have a few bits more.
        let fine = (small - 2).max(0) as u32;
        let values = scores.0.min(Self::VALUES);
        let numerators = scores.0.max(Self::NUMERATORS) + fine;
        // Two bits more than the ratio needs where that leaves the quotient no more than the bits that a dense layer reads.
        let context = (12 + small).min((10 + small).max(12)) as u32;
        Self {
            scores,
            numerators,
            operands: (values, values + numerators + 2 + weighted + large),
            context: (context, context + 2 + weighted + large),
            inverse: (inverse, inverse + 3 + small.max(0) as u32),
            sum: (sum.0.log2().floor() as i32, sum.1.log2().ceil() as i32),
            key_mask,
        }
    }

    fn for_softmax(softmax: Softmax, policy: WeightPolicy, tokens: usize, coarse: bool) -> Result<Self, CompileError> {
        const LEAST: f64 = 1.0 / 1024.0;
        let (least, most) = match softmax {
            Softmax::Exact | Softmax::Scaled { .. } if coarse => {
                ((-Precision::COARSE_ERROR).exp(), Precision::COARSE_ERROR.exp())
            }
            // Sums of a public shift may be smaller still, but are not exact to the logits' tolerance there.
            Softmax::Shifted { .. } => (2.0 * LEAST, 1.0),
            softmax => softmax.sum_bounds(),
        };
        if least < LEAST {
            let fix = format!("choose at least {LEAST}: the inverse of a smaller sum does not fit the protocol's rings");
            return Err(CompileError::Unsupported { what: format!("softmax: {softmax:?}"), fix });
        }
        // Relu has to see a masked score as negative, and to fit its argument's ring besides.
        let key_mask = if softmax == Softmax::ReluOverLength { 120.0 } else { 240.0 };
        let scores = if policy == WeightPolicy::AllPrivate { Self::PRIVATE_SCORES } else { Self::SCORES };
        let by_length = matches!(softmax, Softmax::ReluOverLength | Softmax::ScoresOverLength);
        let (least, most) = if by_length { (1.0, 64.0) } else { (least, most) };
        let widths = Self::of((least, most * tokens as f64 * 1.02), most, Self::WEIGHTED, scores, key_mask);
        Ok(if coarse && matches!(softmax, Softmax::Exact | Softmax::Scaled { .. }) { widths.finer() } else { widths })
    }

    /// With more bits for rows whose maximum was taken off with the largest error: a bit of the numerators, two of their product with values.
    fn finer(self) -> Self {
        let ((values, ring), (context, context_ring)) = (self.operands, self.context);
        Self { numerators: self.numerators + 1, operands: (values, ring + 1), context: (context + 2, context_ring + 2), ..self }
    }
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
    /// Whether material is spared at the price of rounds and bytes.
    pub(crate) lean: bool,
    /// Whether comparisons are signs of differences, which must not leave the ring.
    pub(crate) by_difference: bool,
    pub(crate) batch: usize,
    pub(crate) tokens: usize,
    pub(crate) attention: Attention,
    /// The ranges that functions may rely on.
    pub(crate) calibration: Option<Calibration>,
    /// Of the layer being lowered.
    pub(crate) ceilings: Option<Ceilings>,
    /// Widths of attention with secret maxima, and with ceilings where a layer has them.
    pub(crate) with_maxima: Attention,
    pub(crate) with_ceilings: Option<(Attention, Ceilings)>,
    /// The encoder layer being lowered.
    pub(crate) layer: usize,
    pub(crate) alarms: Vec<NodeId>,
    pub(crate) lift_checks: Vec<NodeId>,
}

/// Compiles the encoder and head of `spec`. Embeddings are the client's: their tables are public.
pub fn compile(spec: &ModelSpec, options: &Options) -> Result<Program, CompileError> {
    if options.batch == 0 || options.tokens == 0 || options.tokens > 512 {
        return Err(CompileError::Shape(format!(
            "batch {} × {} tokens: give 1 or more of 1 to 512 tokens",
            options.batch, options.tokens
        )));
    }
    let calibration = match (options.mode, &options.calibration) {
        (Mode::Calibrated, Some(calibration)) => {
            calibration.check(spec).map_err(|e| CompileError::Shape(e.to_string()))?;
            Some(calibration.clone())
        }
        (Mode::Calibrated, None) => {
            let fix = "calibrate the model on inputs like the ones to come, or use mode exact".into();
            return Err(CompileError::Unsupported { what: "mode calibrated without ranges".into(), fix });
        }
        _ => None,
    };
    let outputs = match (options.output, &spec.head) {
        (Output::Hidden, _) => options.tokens * spec.hidden,
        (Output::Logits, Some(head)) => head.outputs,
        (Output::Logits, None) => {
            let fix = "add a head, or ask for hidden states".into();
            return Err(CompileError::Unsupported { what: "head: none, so there are no logits, which".into(), fix });
        }
    };
    let coarse = !matches!(options.mode, Mode::Lean | Mode::ThreeServer);
    let attention = Attention::for_softmax(spec.softmax, options.policy, options.tokens, coarse)?;
    let mut lowering = Lowering {
        b: Builder::new(),
        policy: options.policy,
        lean: options.mode == Mode::Lean,
        by_difference: options.mode == Mode::ThreeServer,
        batch: options.batch,
        tokens: options.tokens,
        attention,
        calibration,
        ceilings: None,
        with_maxima: attention,
        with_ceilings: None,
        layer: 0,
        alarms: Vec::new(),
        lift_checks: Vec::new(),
    };
    if lowering.by_difference && spec.caps.attention.is_some() {
        // A score's difference with the cap's edges fits, and so does its lift.
        lowering.attention.scores.1 += 1;
    }
    lowering.calibrate_softmax(spec.softmax);
    let len = options.batch * options.tokens * spec.hidden;
    let node = lowering.b.input(Input::Embedded, len);
    let embedded = Act::value(Val { node, ring: 64, f: Precision::INPUT }, options.tokens, spec.hidden);
    let result = match options.output {
        Output::Logits => encode_and_classify(&mut lowering, spec, &embedded)?,
        Output::Hidden => encode(&mut lowering, spec, &embedded)?,
    };
    let mut output = lowering.materialise(&result, 16, 28, false)?;
    let alarms = lowering.alarms();
    let alarm_words = alarms.iter().map(|id| lowering.b.len(*id)).sum();
    if alarm_words > 0 {
        let parts = std::iter::once(output.node).chain(alarms).collect();
        output.node = lowering.b.push(Op::Concat(parts), options.batch * outputs + alarm_words);
    }
    let finish = Finish {
        batch: options.batch,
        tokens: options.tokens,
        hidden: spec.hidden,
        outputs,
        input_bits: Precision::INPUT,
        output_bits: output.f,
        output_ring: output.ring,
        output: output.node,
        key_mask: lowering.key_mask(),
        alarms: alarm_words,
        calibration: lowering.calibration,
    };
    Ok(lowering.b.finish(finish))
}

impl Lowering {
    /// A lowering of gates alone, for their tests.
    #[cfg(test)]
    pub(crate) fn bare(tokens: usize) -> Self {
        let attention = Attention::of((1.0, 1.02 * tokens as f64), 1.0, Attention::WEIGHTED, Attention::SCORES, 240.0);
        Self {
            b: Builder::new(),
            policy: WeightPolicy::PublicBase { public_a: true },
            lean: false,
            by_difference: false,
            batch: 1,
            tokens,
            attention,
            calibration: None,
            ceilings: None,
            with_maxima: attention,
            with_ceilings: None,
            layer: 0,
            alarms: Vec::new(),
            lift_checks: Vec::new(),
        }
    }

    /// Public ceilings in place of secret maxima, where the model's softmax has one and a layer's ranges allow.
    fn calibrate_softmax(&mut self, softmax: Softmax) {
        /// Scores below 128: three bits beyond the ring that their argument is opened in tell when they are not.
        const SCORES: (u32, u32) = (12, 32);
        if let (Some(calibration), Softmax::Exact | Softmax::Scaled { .. }) = (&self.calibration, softmax) {
            self.with_ceilings = Ceilings::of(calibration).map(|ceilings| {
                // Values up to 8, as without calibration.
                let weighted = ceilings.sum.1.log2().ceil() as u32 + 3;
                (Attention::of(ceilings.sum, 1.0, weighted, SCORES, ceilings.mask), ceilings)
            });
        }
    }

    /// Takes up a layer, with its kind of softmax.
    pub(crate) fn enter_layer(&mut self, layer: usize) {
        self.layer = layer;
        (self.attention, self.ceilings) = match &self.with_ceilings {
            Some((attention, ceilings)) if ceilings.serve(layer) => (*attention, Some(ceilings.clone())),
            _ => (self.with_maxima, None),
        };
    }

    /// How far below zero a client puts the scores of padding keys.
    pub(crate) fn key_mask(&self) -> f64 {
        self.with_ceilings.as_ref().map_or(self.with_maxima, |(attention, _)| *attention).key_mask
    }

    /// Fractional bits and ring of an opened deviation from the mean.
    pub(crate) fn deviation(&self) -> (u32, u32) {
        match (self.policy, &self.calibration) {
            (WeightPolicy::AllPrivate, _) => Precision::PRIVATE_DEVIATION,
            (_, Some(_)) => Precision::CALIBRATED_DEVIATION,
            _ => Precision::DEVIATION,
        }
    }

    /// Fractional bits and ring of an opened inverse deviation.
    pub(crate) fn inverse_deviation(&self) -> (u32, u32) {
        match (self.policy, &self.calibration) {
            (WeightPolicy::AllPrivate, _) => Precision::PRIVATE_INVERSE_DEVIATION,
            (_, Some(_)) => Precision::CALIBRATED_INVERSE_DEVIATION,
            _ => Precision::INVERSE_DEVIATION,
        }
    }

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

    /// A share of the same value in Z_2^64, for one round; `|v| < 2^{ring-2}`.
    pub(crate) fn widen(&mut self, v: Val) -> Val {
        if self.lean {
            return self.extend(v, 1 << (v.ring - 2));
        }
        let open = self.open(v, v.ring, true, true);
        self.lift(open, v.f)
    }

    pub(crate) fn open(&mut self, v: Val, bits: u32, lifted: bool, checked: bool) -> NodeId {
        debug_assert!(v.ring >= bits, "a share in Z_2^{} cannot be opened in Z_2^{bits}", v.ring);
        let len = self.len(v);
        self.b.push(Op::Open { src: v.node, bits, lifted, checked, share: 64 }, len)
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

    /// A Fourier series of an opened value, as a share in Z_2^bits, with so many fractional bits of the dealer's cosines.
    pub(crate) fn series(&mut self, open: NodeId, fit: Fourier, trig_bits: u32, bits: u32) -> Val {
        self.series_of(open, fit, (SERIES, trig_bits), bits)
    }

    /// The same with so many fractional bits of coefficients and cosines.
    pub(crate) fn series_of(&mut self, open: NodeId, fit: Fourier, (coefficient_bits, trig_bits): (u32, u32), bits: u32) -> Val {
        let len = self.b.len(open);
        let fit = self.b.fit(fit);
        let op = Op::Series { src: open, fit, coefficient_bits, trig_bits, bits };
        Val { node: self.b.push(op, len), ring: bits, f: coefficient_bits + trig_bits }
    }
}

/// Fractional bits of a series' coefficients and of the dealer's cosines.
pub(crate) const SERIES: u32 = 15;

/// Fractional bits of the weights of a mean over tokens.
pub(crate) const MEAN_WEIGHT: u32 = Precision::MEAN_WEIGHT;
