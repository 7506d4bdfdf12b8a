//! One operation, or one piece of the model, and the operands it is tried on.

use super::{Fixture, Noise, Reference, Values};
use crate::{Engine, Func, LayerNorm, Linear, ModelSpec, ParamPath, Pooling, attention, embed, encode, encode_and_classify};

/// A tensor of either kind.
pub(super) enum Operand<A, H> {
    /// `[batch, tokens, channels]`.
    Act(A),
    /// `[batch, heads, rows, columns]`.
    Heads(H),
}

pub(super) type Plain = Operand<Values<3>, Values<4>>;

/// An operation with its public arguments.
pub(super) enum Operation<'a> {
    Linear(Linear),
    Add,
    Scale(f64),
    Map(Func),
    LayerNorm(LayerNorm),
    Dropout,
    Pool(Pooling),
    SplitHeads(usize),
    MergeHeads,
    Scores(f64),
    MaskKeysThenExp,
    MaskKeysThenRelu,
    DropKeys,
    RowMax,
    RowSum,
    SubRows,
    MulRows,
    ShiftHeads(f64),
    MapHeads(Func),
    ReciprocalRows { lo: f64, hi_per_key: f64 },
    DivideByLength,
    Attend,
    Attention(&'a ModelSpec),
    Encode(&'a ModelSpec),
    EncodeAndClassify(&'a ModelSpec),
}

/// An operation, its operands, and the name it is reported by.
pub(super) struct Case<'a> {
    pub(super) name: String,
    pub(super) operation: Operation<'a>,
    pub(super) operands: Vec<Plain>,
}

/// Runs an operation on an engine.
pub(super) fn apply<E: Engine>(
    e: &mut E,
    operation: &Operation<'_>,
    operands: &[Operand<E::Act, E::Heads>],
) -> Result<Operand<E::Act, E::Heads>, E::Error> {
    use Operand::{Act, Heads};
    match operands {
        [Act(x)] => match operation {
            Operation::Linear(layer) => e.linear(x, layer).map(Act),
            Operation::Scale(factor) => e.scale(x, *factor).map(Act),
            Operation::Map(f) => e.map(x, *f).map(Act),
            Operation::LayerNorm(norm) => e.layer_norm(x, norm).map(Act),
            Operation::Dropout => e.dropout(x, 0.5).map(Act),
            Operation::Pool(pooling) => e.pool(x, *pooling).map(Act),
            Operation::SplitHeads(heads) => e.split_heads(x, *heads).map(Heads),
            Operation::Encode(spec) => encode(e, spec, x).map(Act),
            Operation::EncodeAndClassify(spec) => encode_and_classify(e, spec, x).map(Act),
            _ => unreachable!("the suite gives each operation its operands"),
        },
        [Act(q), Act(k), Act(v)] => match operation {
            Operation::Attention(spec) => attention(e, spec, q, k, v).map(Act),
            _ => unreachable!("the suite gives each operation its operands"),
        },
        [Act(a), Act(b)] => e.add(a, b).map(Act),
        [Heads(s)] => apply_heads(e, operation, s),
        [Heads(a), Heads(b)] => match operation {
            Operation::Scores(factor) => e.scores(a, b, *factor).map(Heads),
            Operation::SubRows => e.sub_rows(a, b).map(Heads),
            Operation::MulRows => e.mul_rows(a, b).map(Heads),
            Operation::Attend => e.attend(a, b).map(Heads),
            _ => unreachable!("the suite gives each operation its operands"),
        },
        _ => unreachable!("the suite gives each operation its operands"),
    }
}

fn apply_heads<E: Engine>(e: &mut E, operation: &Operation<'_>, s: &E::Heads) -> Result<Operand<E::Act, E::Heads>, E::Error> {
    let heads = match operation {
        Operation::MergeHeads => return e.merge_heads(s).map(Operand::Act),
        Operation::MaskKeysThenExp => {
            let masked = e.mask_keys(s)?;
            let max = e.row_max(&masked)?;
            let below = e.sub_rows(&masked, &max)?;
            e.map_heads(&below, Func::ExpNonPositive)?
        }
        Operation::MaskKeysThenRelu => {
            let masked = e.mask_keys(s)?;
            e.map_heads(&masked, Func::Relu)?
        }
        Operation::DropKeys => e.drop_keys(s)?,
        Operation::RowMax => e.row_max(s)?,
        Operation::RowSum => e.row_sum(s)?,
        Operation::ShiftHeads(c) => e.shift_heads(s, *c)?,
        Operation::MapHeads(f) => e.map_heads(s, *f)?,
        Operation::ReciprocalRows { lo, hi_per_key } => e.reciprocal_rows(s, *lo, *hi_per_key)?,
        Operation::DivideByLength => e.divide_by_length(s)?,
        _ => unreachable!("the suite gives each operation its operands"),
    };
    Ok(Operand::Heads(heads))
}

/// Every function with the interval it is tried on.
const FUNCTIONS: [(&str, Func, f64, f64); 14] = [
    ("relu", Func::Relu, -8.0, 8.0),
    ("relu6", Func::Relu6, -8.0, 8.0),
    ("gelu", Func::Gelu, -8.0, 8.0),
    ("gelu_tanh", Func::GeluTanh, -8.0, 8.0),
    ("bolt_gelu", Func::BoltGelu, -8.0, 8.0),
    ("hard_gelu", Func::HardGelu, -8.0, 8.0),
    ("hard_swish", Func::HardSwish, -8.0, 8.0),
    ("quad", Func::Quad, -8.0, 8.0),
    ("square", Func::Square, -8.0, 8.0),
    ("tanh", Func::Tanh, -8.0, 8.0),
    ("soft_cap", Func::SoftCap { cap: 5.0 }, -8.0, 8.0),
    ("exp_non_positive", Func::ExpNonPositive, -24.0, 0.0),
    ("exp_shifted", Func::ExpShifted { shift: 3.0 }, -8.0, 3.0),
    ("quad_shift", Func::QuadShift { c: 5.0 }, -8.0, 3.0),
];

/// Every operation by itself, on a fixture with a low-rank update and a head.
pub(super) fn operations(fixture: &Fixture) -> Vec<Case<'_>> {
    let spec = fixture.checkpoint.spec();
    let mut list = Vec::new();
    let mut push = |name: &str, operation, operands| list.push(Case { name: name.to_owned(), operation, operands });
    let mut noise = Noise::new(23);
    let (b, t, c) = (fixture.batch.size(), fixture.batch.tokens(), spec.hidden);
    let (h, d) = (spec.heads, spec.hidden / spec.heads);
    let mut act = |channels: usize, lo: f64, hi: f64| random_act([b, t, channels], lo, hi, &mut noise);
    let [query, _, _, _, _, output] = spec.layer_linears(0);
    let norm = spec.norm(ParamPath::new("embeddings.LayerNorm"));
    push("linear", Operation::Linear(query.clone()), vec![act(c, -2.0, 2.0)]);
    push("linear.wide", Operation::Linear(output), vec![act(spec.intermediate, -2.0, 2.0)]);
    let lora = query.lora.expect("the fixture has low-rank updates");
    push("linear.lora_a", Operation::Linear(query.lora_a(&lora)), vec![act(c, -2.0, 2.0)]);
    push("linear.lora_b", Operation::Linear(query.lora_b(&lora)), vec![act(lora.rank, -2.0, 2.0)]);
    push("add", Operation::Add, vec![act(c, -4.0, 4.0), act(c, -4.0, 4.0)]);
    push("scale", Operation::Scale(-1.375), vec![act(c, -4.0, 4.0)]);
    push("layer_norm", Operation::LayerNorm(norm.clone()), vec![act(c, -4.0, 4.0)]);
    push("layer_norm.small", Operation::LayerNorm(norm), vec![act(c, 0.9, 1.1)]);
    push("dropout", Operation::Dropout, vec![act(c, -4.0, 4.0)]);
    push("pool.first", Operation::Pool(Pooling::First), vec![act(c, -4.0, 4.0)]);
    push("pool.mean", Operation::Pool(Pooling::Mean), vec![act(c, -4.0, 4.0)]);
    push("split_heads", Operation::SplitHeads(h), vec![act(c, -4.0, 4.0)]);
    push("attention", Operation::Attention(spec), vec![act(c, -2.0, 2.0), act(c, -2.0, 2.0), act(c, -2.0, 2.0)]);
    for (name, f, lo, hi) in FUNCTIONS {
        push(&format!("map.{name}"), Operation::Map(f), vec![act(c, lo, hi)]);
    }
    let mut heads = |rows, columns, lo, hi| random_heads([b, h, rows, columns], lo, hi, &mut noise);
    push("merge_heads", Operation::MergeHeads, vec![heads(t, d, -4.0, 4.0)]);
    push("scores", Operation::Scores(0.5), vec![heads(t, d, -2.0, 2.0), heads(t, d, -2.0, 2.0)]);
    push("mask_keys.exp", Operation::MaskKeysThenExp, vec![heads(t, t, -8.0, 8.0)]);
    push("mask_keys.relu", Operation::MaskKeysThenRelu, vec![heads(t, t, -8.0, 8.0)]);
    push("drop_keys", Operation::DropKeys, vec![heads(t, t, -8.0, 8.0)]);
    push("row_max", Operation::RowMax, vec![heads(t, t, -8.0, 8.0)]);
    push("row_max.negative", Operation::RowMax, vec![heads(t, t, -8.0, -1.0)]);
    push("row_sum", Operation::RowSum, vec![heads(t, t, 0.0, 1.0)]);
    push("sub_rows", Operation::SubRows, vec![heads(t, t, -4.0, 4.0), heads(t, 1, -4.0, 4.0)]);
    push("mul_rows", Operation::MulRows, vec![heads(t, d, -4.0, 4.0), heads(t, 1, 0.1, 1.0)]);
    push("shift_heads", Operation::ShiftHeads(0.01), vec![heads(t, t, 0.0, 4.0)]);
    for (name, f, lo, hi) in FUNCTIONS {
        push(&format!("map_heads.{name}"), Operation::MapHeads(f), vec![heads(t, t, lo, hi)]);
    }
    let reciprocal = Operation::ReciprocalRows { lo: 1.0, hi_per_key: 1.0 };
    push("reciprocal_rows", reciprocal, vec![heads(t, 1, 1.0, t as f64)]);
    push("divide_by_length", Operation::DivideByLength, vec![heads(t, d, -8.0, 8.0)]);
    push("attend", Operation::Attend, vec![heads(t, t, 0.0, 1.0), heads(t, d, -2.0, 2.0)]);
    list
}

/// The encoder, and the encoder with its head, from the reference's embedding output.
pub(super) fn models(fixture: &Fixture) -> Vec<Case<'_>> {
    let spec = fixture.checkpoint.spec();
    let case = |name: &str, operation| {
        let embedded = embed(&mut Reference::new(&fixture.checkpoint, &fixture.batch), spec).expect("the fixture fits");
        Case { name: format!("{name}: {}", fixture.name), operation, operands: vec![Operand::Act(embedded)] }
    };
    vec![case("encode", Operation::Encode(spec)), case("classify", Operation::EncodeAndClassify(spec))]
}

fn random_act(shape: [usize; 3], lo: f64, hi: f64, noise: &mut Noise) -> Plain {
    Operand::Act(Values::new(shape, (0..shape.iter().product()).map(|_| noise.between(lo, hi)).collect()))
}

fn random_heads(shape: [usize; 4], lo: f64, hi: f64, noise: &mut Noise) -> Plain {
    Operand::Heads(Values::new(shape, (0..shape.iter().product()).map(|_| noise.between(lo, hi)).collect()))
}
