//! The gate program: what the parties, the dealer and the cost model all walk through in the same order.
//!
//! A program is a list of [`Node`]s in single-assignment form over flat arrays of ring words. Two kinds of node communicate, [`Op::Open`] and
//! [`Op::OpenBits`]; every other one is local, given one-time material. The rounds of a program are therefore the longest chain of openings, and
//! the schedule reaches it: each opening happens in the first round its operand is ready for, all of them in one frame.
//!
//! # Encoding
//! A value `v` with `f` fractional bits is the integer `round(v·2^f)` in Z_2^n, `n ≤ 64`, held in a `u64` whose bits above `n` mean
//! nothing. A share valid in Z_2^n is valid in every smaller ring, so narrowing costs nothing and has no node.

mod builder;
mod cost;
mod narrow;
mod private;
mod rounds;
mod schedule;
mod view;

use serde::Serialize;
use sprint_kernel::packed_len;
use sprint_kernel::piecewise::Cells;
use sprint_model::{Calibration, LayerNorm, Linear};

pub(crate) use builder::{Builder, Finish, operands};
pub use cost::{Cost, KindCost};
pub(crate) use private::{Basis, Choice, Digit, Field, Formula, Relation, Scale};
pub use rounds::RoundName;
pub(crate) use schedule::Step;
pub(crate) use view::{Strided, View};

/// A node's index in its program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub(crate) struct NodeId(pub(crate) u32);

impl NodeId {
    pub(crate) fn index(self) -> usize {
        self.0 as usize
    }
}

/// What the client shares at the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum Input {
    /// Embedding output, `[batch, tokens, hidden]`.
    Embedded,
    /// 0 for a token, a large negative number for padding, `[batch, tokens]`.
    KeyMask,
    /// 1 for a token, 0 for padding, `[batch, tokens]`.
    KeepMask,
    /// `1/length` for a token, 0 for padding, `[batch, tokens]`.
    MeanWeights,
}

/// Where a dense layer's weights come from: `gain·C·W·diag(γ)` and `gain·C·(b + W·β)`, with `C` the centring over outputs, in real numbers
/// before they are encoded. A layer normalisation whose `γ` and `β` are private is a layer of one input to each output.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Recipe {
    /// The layer; its weight is `[outputs, inputs]`.
    pub(crate) layer: Linear,
    /// A public factor.
    pub(crate) gain: f64,
    /// Whether the mean over outputs is taken off: the layer feeds a layer normalisation, which would take it off anyway.
    pub(crate) centred: bool,
    /// The layer normalisation whose `γ` and `β` are folded in: the layer reads its unscaled output.
    pub(crate) fold: Option<LayerNorm>,
    /// Fractional bits of the weight.
    pub(crate) weight_bits: u32,
    /// Fractional bits of the bias; none if it is left to a later node.
    pub(crate) bias_bits: Option<u32>,
    /// Bits of the ring that a private weight is opened in, masked, once for many inferences; none for a public one.
    pub(crate) opened_bits: Option<u32>,
    /// Equal parts of the inputs that have outputs of their own, `[blocks, outputs]`: the weight is `[blocks·outputs, inputs]`, zero but for what each
    /// part's outputs read of it. 1 for a layer as it is.
    pub(crate) blocks: usize,
}

impl Recipe {
    /// Rows of the weight.
    pub(crate) fn outputs(&self) -> usize {
        self.blocks * self.layer.outputs
    }

    /// Words of the weight.
    pub(crate) fn words(&self) -> usize {
        self.outputs() * self.layer.inputs
    }
}

/// A public vector over channels.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) enum Vector {
    /// `γ` of a layer normalisation.
    Gamma(LayerNorm),
    /// `β` of a layer normalisation.
    Beta(LayerNorm),
    /// `β` less its mean over channels.
    CentredBeta(LayerNorm),
    /// The bias of a recipe.
    Bias(Recipe),
}

/// One operand of a product: some elements of an opened value, or the negations of opened bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
pub(crate) struct Form {
    pub(crate) open: NodeId,
    pub(crate) view: View,
    /// `1 - b` in place of `b`; for bits only.
    pub(crate) negated: bool,
}

/// A bit that is 1 where `lo ≤ x < hi`, both in units of the dropped-to resolution; a missing bound is the end of the signed range.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
pub(crate) struct Interval {
    pub(crate) lo: Option<i64>,
    pub(crate) hi: Option<i64>,
}

/// A truncated Fourier series `Σ_j a_j cos(jωx) + b_j sin(jωx)`, j from 0.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Fourier {
    /// `multiplier` times the value has a period of `2^period_bits` units of its last place.
    pub(crate) period_bits: u32,
    pub(crate) multiplier: u64,
    pub(crate) cos: Vec<f64>,
    pub(crate) sin: Vec<f64>,
}

/// A function by polynomials on cells ([`sprint_kernel::piecewise`]) of a value opened in Z_2^bits, in units of the result's last place.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Pieces {
    pub(crate) bits: u32,
    pub(crate) first: u32,
    pub(crate) octaves: u32,
    pub(crate) degree: u32,
    /// `[octaves + 1, width, degree + 1]`.
    pub(crate) table: Vec<f64>,
}

impl Pieces {
    pub(crate) fn cells(&self) -> Cells {
        let Self { bits, first, octaves, degree, .. } = *self;
        Cells { bits, first, octaves, degree }
    }

    /// A table of a power of two of entries below 2^53: constants on cells of one value.
    #[cfg(test)]
    pub(crate) fn look_up(entries: &[u64]) -> Self {
        let (low, high) = entries.split_at(entries.len() / 2);
        let bits = entries.len().ilog2();
        Self { bits, first: bits, octaves: 1, degree: 0, table: high.iter().chain(low).map(|x| *x as f64).collect() }
    }
}

/// What a node computes. Shapes are in the variants; arrays are flat and row-major.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) enum Op {
    /// The client's share.
    Input(Input),
    /// The weight (outputs·inputs words) of a private layer, opened before the inference ([`crate::WeightOpening`]). For [`Op::MatMul`] and
    /// [`Op::Product`] alone.
    PrivateWeight(u32),
    /// The bias (outputs words) of a private layer.
    PrivateBias(u32),
    Add(NodeId, NodeId),
    Sub(NodeId, NodeId),
    /// Product with a public integer.
    Scale(NodeId, i64),
    /// Sum with a public integer.
    Shift(NodeId, i64),
    /// Sum with a public integer for each group of `group` elements, over and over.
    ShiftGroups {
        src: NodeId,
        group: usize,
        by: Vec<i64>,
    },
    /// Truncate and reduce (T2): from Z_2^ring by `by` bits to Z_2^{ring-by}. `floor(x/2^by)` or one more, unbiased; no wrap.
    Truncate {
        src: NodeId,
        ring: u32,
        by: u32,
    },
    /// The elements a strided view selects.
    Gather {
        src: NodeId,
        view: Strided,
    },
    /// Arrays one after another.
    Concat(Vec<NodeId>),
    /// Sums of `group` neighbours.
    SumGroups {
        src: NodeId,
        group: usize,
    },
    /// `2^shift·x - round(2^shift/width)·Σx` in each row of `width`.
    Centre {
        src: NodeId,
        width: usize,
        shift: u32,
    },
    /// Product of each row with a public vector.
    MulColumns {
        src: NodeId,
        vector: u32,
        bits: u32,
    },
    /// Each row times a public vector `γ`, less the mean over the row of that: `γ·x - mean(γ·x)`.
    CentreColumns {
        src: NodeId,
        vector: u32,
        bits: u32,
    },
    /// Sum of each row with a public vector.
    AddColumns {
        src: NodeId,
        vector: u32,
        bits: u32,
    },
    /// `x·Wᵀ + b` with public weights: `[rows, inputs]` to `[rows, outputs]`.
    PublicLinear {
        src: NodeId,
        linear: u32,
        rows: usize,
    },
    /// Opens a share of Z_2^bits under a dealer mask. `lifted`: consumers may use it in Z_2^64; then `|x| < 2^{bits-2}` is required,
    /// and `checked` by the simulation, unless a guard bit discards the result where it does not hold. The share of a lifted one is valid
    /// in Z_2^share, what its readers need.
    Open {
        src: NodeId,
        bits: u32,
        lifted: bool,
        checked: bool,
        share: u32,
    },
    /// Opens XOR-shared bits under dealer masks; arithmetic consumers use at most `bits` bits.
    OpenBits {
        src: NodeId,
        bits: u32,
    },
    /// Differences `x_a - x_b` of slices of `count` elements of an unlifted opening, `[pairs, count]`: opened already, under the differences
    /// of the masks. For [`Op::Intervals`] alone.
    Differences {
        src: NodeId,
        count: usize,
        pairs: Vec<(u32, u32)>,
    },
    /// The lifted share of an opened value.
    Lift(NodeId),
    /// Elementwise product of opened values, in Z_2^bits.
    Product {
        forms: Vec<Form>,
        bits: u32,
    },
    /// `batch` products `[m,k]·[k,n]` (`[n,k]ᵀ` if `transposed`) of values opened unlifted in Z_2^bits or a larger ring.
    MatMul {
        a: NodeId,
        b: NodeId,
        batch: usize,
        m: usize,
        k: usize,
        n: usize,
        transposed: bool,
        bits: u32,
    },
    /// XOR shares of interval bits of an opened value, `[intervals, elements]`. The lowest `drop` bits are ignored, so a bound is
    /// met up to one unit of `2^drop`.
    Intervals {
        src: NodeId,
        drop: u32,
        intervals: Vec<Interval>,
    },
    /// A word for each example that is 0, summed over the parties, if every element has exactly one set bit among `planes` XOR-shared bits
    /// `[planes, elements]`: their XORs times random words, hashed from the opening `coins`. If one has not, the word is 0 with probability 2^-64.
    Alarm {
        src: NodeId,
        coins: NodeId,
        planes: usize,
        examples: usize,
    },
    /// [`Op::LIFT_LANES`] words for each example that are 0 if the lifted opening `open` of `wide`, shared in Z_2^ring, is `wide` itself: their
    /// differences, `2^{64-ring}` times, times random bytes hashed from the opening.
    LiftCheck {
        wide: NodeId,
        open: NodeId,
        ring: u32,
        examples: usize,
    },
    /// A Fourier series of an opened value; coefficients and dealer values have `coefficient_bits` and `trig_bits` fractional bits; in Z_2^bits.
    Series {
        src: NodeId,
        fit: u32,
        coefficient_bits: u32,
        trig_bits: u32,
        bits: u32,
    },
    /// `Σ c_i x^i` of a value opened in Z_2^64, with public integers.
    Polynomial {
        src: NodeId,
        coefficients: Vec<i64>,
    },
    /// A function of a value opened unlifted, by the polynomials of its [`Pieces`].
    Piecewise {
        src: NodeId,
        pieces: u32,
    },
    /// Another sharing of `x` in Z_2^bits, `x = x̂ - r` with a dealer's mask `r` that one party knows; the other knows `x̂`. Party 0 has the mask of
    /// the first half of the elements ([`Op::half`]), party 1 that of the others. For [`Op::Digits`] and [`Op::Translate`] alone.
    Reshare {
        src: NodeId,
        bits: u32,
    },
    /// XOR-shared words whose bits compare digits of `x̂` and `r` of a reshared value: the fields and then the tops of each scale in turn.
    Digits {
        src: NodeId,
        scales: Vec<Scale>,
    },
    /// XOR-shared words whose bits are formulas of those of an XOR-shared word.
    Boolean {
        src: NodeId,
        formulas: Vec<Formula>,
    },
    /// `Σ b·x` over XOR-shared bits and values shared in Z_2^bits.
    Select {
        choices: Vec<Choice>,
        bits: u32,
    },
    /// A share in Z_2^to of a value shared in Z_2^from that is at least `-bias` and below `2^{from-1} - bias`.
    Extend {
        src: NodeId,
        from: u32,
        to: u32,
        bias: u64,
    },
    /// A function of a reshared value, in Z_2^bits.
    Translate {
        src: NodeId,
        basis: Basis,
        bits: u32,
    },
}

impl Op {
    /// Words of a lift check for each example.
    pub(crate) const LIFT_LANES: usize = 8;

    /// Whether the parties exchange something for it.
    pub(crate) fn communicates(&self) -> bool {
        matches!(self, Self::Open { .. } | Self::OpenBits { .. }) || self.is_private()
    }

    /// Whether it is a scalar product of private vectors, or the sharing that makes them.
    pub(crate) fn is_private(&self) -> bool {
        matches!(
            self,
            Self::Reshare { .. }
                | Self::Digits { .. }
                | Self::Boolean { .. }
                | Self::Select { .. }
                | Self::Extend { .. }
                | Self::Translate { .. }
        )
    }

    /// How many of `len` reshared elements have their mask with party 0: half, up to an even number.
    pub(crate) fn half(len: usize) -> usize {
        len.div_ceil(2).next_multiple_of(2).min(len)
    }
}

/// A node: what it computes, how many elements, and in which part of the model.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Node {
    pub(crate) op: Op,
    pub(crate) len: usize,
    pub(crate) label: u32,
    /// Openings before it can be computed.
    pub(crate) level: u32,
}

/// A compiled inference. Public: it holds shapes, public coefficients and recipes, no weight and no secret.
#[derive(Debug, Clone, Serialize)]
pub struct Program {
    pub(crate) version: u32,
    pub(crate) batch: usize,
    pub(crate) tokens: usize,
    pub(crate) hidden: usize,
    pub(crate) outputs: usize,
    /// Fractional bits of the inputs and of the output.
    pub(crate) input_bits: u32,
    pub(crate) output_bits: u32,
    pub(crate) output_ring: u32,
    /// How far below zero a client puts the scores of padding keys.
    pub(crate) key_mask: f64,
    /// Words after the outputs that are 0 for each example, or its outputs are refused.
    pub(crate) alarms: usize,
    /// The ranges that the program relies on.
    pub(crate) calibration: Option<Calibration>,
    pub(crate) nodes: Vec<Node>,
    pub(crate) output: NodeId,
    pub(crate) labels: Vec<String>,
    pub(crate) public: Vec<Recipe>,
    pub(crate) private: Vec<Recipe>,
    pub(crate) vectors: Vec<Vector>,
    pub(crate) fits: Vec<Fourier>,
    pub(crate) pieces: Vec<Pieces>,
    pub(crate) inputs: Vec<Input>,
    /// How many bits of each node the program reads.
    #[serde(skip)]
    pub(crate) read: Vec<u32>,
    #[serde(skip)]
    pub(crate) steps: Vec<Step>,
    #[serde(skip)]
    pub(crate) digest: [u8; 32],
    /// Over the recipes of weights alone: programs of one model for other batches and lengths share it.
    #[serde(skip)]
    pub(crate) weights_digest: [u8; 32],
}

impl Program {
    /// BLAKE3 over a canonical text of everything in the program; both parties and the dealer must have the same.
    pub fn digest(&self) -> [u8; 32] {
        self.digest
    }

    /// Narrows, schedules and digests a program whose other fields are set.
    fn sealed(mut self) -> Self {
        let ring = if self.alarms > 0 { 64 } else { self.output_ring };
        self.read = narrow::narrow(&mut self.nodes, self.output, ring);
        self.steps = schedule::schedule(&self.nodes, self.output);
        let text = serde_json::to_vec(&self).expect("a program is numbers, names and lists");
        self.digest = blake3::derive_key("sprint-flow gate program v1", &text);
        let recipes = (&self.public, &self.private, &self.vectors);
        let text = serde_json::to_vec(&recipes).expect("recipes are numbers and names");
        self.weights_digest = blake3::derive_key("sprint-flow gate program weights v1", &text);
        self
    }

    /// Examples in a batch.
    pub fn batch(&self) -> usize {
        self.batch
    }

    /// Padded tokens of each example.
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// Logits, or values of the hidden states, of each example.
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// Bytes of a party's input share.
    pub fn input_len(&self) -> usize {
        self.inputs.iter().map(|i| self.input_words(*i)).sum::<usize>() * 8
    }

    /// Bytes of a party's output share.
    pub fn output_len(&self) -> usize {
        (self.batch * self.outputs + self.alarms) * 8
    }

    pub(crate) fn input_words(&self, input: Input) -> usize {
        match input {
            Input::Embedded => self.batch * self.tokens * self.hidden,
            Input::KeyMask | Input::KeepMask | Input::MeanWeights => self.batch * self.tokens,
        }
    }

    pub(crate) fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id.index()]
    }

    /// Bits of the ring an `Open` node opens in, 1 for bits.
    pub(crate) fn open_bits(&self, id: NodeId) -> u32 {
        match self.node(id).op {
            Op::Open { bits, .. } => bits,
            Op::Differences { src, .. } => self.open_bits(src),
            _ => 1,
        }
    }

    /// Bits of the ring that the share of a lifted opening is valid in.
    pub(crate) fn share_bits(&self, id: NodeId) -> u32 {
        match self.node(id).op {
            Op::Open { share, .. } => share,
            _ => 64,
        }
    }

    /// Whether a node's value is public under a mask that is made with the inference's other material.
    pub(crate) fn is_opened(&self, id: NodeId) -> bool {
        matches!(self.node(id).op, Op::Open { .. } | Op::OpenBits { .. } | Op::Differences { .. })
    }

    /// The private layer that a node is the weight of.
    pub(crate) fn weight_of(&self, id: NodeId) -> Option<u32> {
        match self.node(id).op {
            Op::PrivateWeight(layer) => Some(layer),
            _ => None,
        }
    }

    /// Bytes of each party's frame that opens the private weights, once for many inferences.
    pub fn weight_frame_bytes(&self) -> usize {
        self.private.iter().map(|r| packed_len(r.opened_bits.unwrap_or(64), r.words())).sum()
    }

    /// Bytes of an opening in each party's frame.
    pub(crate) fn frame_bytes(&self, id: NodeId) -> usize {
        let node = self.node(id);
        if node.op.is_private() {
            let (widths, count) = crate::exec::private::lanes(self, node);
            return widths.iter().map(|bits| packed_len(*bits, count)).sum();
        }
        packed_len(self.open_bits(id), node.len)
    }
}
