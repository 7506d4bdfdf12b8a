//! The model, written once.

use std::ops::Range;

use crate::{EmbeddingEngine, Engine, Func, Linear, ModelSpec, Pooling, Softmax};

/// Token ids to embedding output, `[b, t, hidden]`. A client of a private inference computes this itself: all its tables are public.
pub fn embed<E: EmbeddingEngine>(e: &mut E, spec: &ModelSpec) -> Result<E::Act, E::Error> {
    e.enter("embeddings");
    let tables = spec.embedding();
    let sum = e.embedding(&tables)?;
    let normed = e.layer_norm(&sum, &spec.norm(tables.path.join("LayerNorm")))?;
    let capped = match spec.caps.embedding {
        Some(cap) => e.map(&normed, Func::SoftCap { cap })?,
        None => normed,
    };
    e.dropout(&capped, spec.hidden_dropout)
}

/// Embedding output to the last hidden state, `[b, t, hidden]`.
pub fn encode<E: Engine>(e: &mut E, spec: &ModelSpec, embedded: &E::Act) -> Result<E::Act, E::Error> {
    encode_layers(e, spec, 0..spec.layers, embedded)
}

/// The input of the first of `layers` to the output of the last, `[b, t, hidden]` both.
pub fn encode_layers<E: Engine>(e: &mut E, spec: &ModelSpec, layers: Range<usize>, input: &E::Act) -> Result<E::Act, E::Error> {
    let mut x = input.clone();
    for index in layers {
        x = encoder_layer(e, spec, index, &x, Rows::All)?;
    }
    Ok(x)
}

/// Embedding output to logits, `[b, 1, outputs]`: the function of [`encode`] and then [`classify`]. Where the head reads the first token alone,
/// the last layer computes that token alone: its keys and values come from every token, all else is `1/t` of the work.
pub fn encode_and_classify<E: Engine>(e: &mut E, spec: &ModelSpec, embedded: &E::Act) -> Result<E::Act, E::Error> {
    encode_from_and_classify(e, spec, 0, embedded)
}

/// [`encode_and_classify`] from the input of layer `from` on; `from = spec.layers` is the head alone.
pub fn encode_from_and_classify<E: Engine>(e: &mut E, spec: &ModelSpec, from: usize, input: &E::Act) -> Result<E::Act, E::Error> {
    let pooling = spec.head.as_ref().map_or(Pooling::First, |head| head.pooling);
    let (Pooling::First, Some(last)) = (pooling, spec.layers.checked_sub(1).filter(|last| from <= *last)) else {
        let hidden = encode_layers(e, spec, from..spec.layers, input)?;
        return classify(e, spec, &hidden);
    };
    let x = encode_layers(e, spec, from..last, input)?;
    let first = encoder_layer(e, spec, last, &x, Rows::First)?;
    classify_pooled(e, spec, &first)
}

/// Last hidden state to logits, `[b, 1, outputs]`. A spec without a head has no logits: the hidden state comes back pooled.
pub fn classify<E: Engine>(e: &mut E, spec: &ModelSpec, hidden: &E::Act) -> Result<E::Act, E::Error> {
    let pooling = spec.head.as_ref().map_or(Pooling::First, |head| head.pooling);
    let pooled = e.pool(hidden, pooling)?;
    classify_pooled(e, spec, &pooled)
}

fn classify_pooled<E: Engine>(e: &mut E, spec: &ModelSpec, pooled: &E::Act) -> Result<E::Act, E::Error> {
    e.enter("head");
    let Some(head) = &spec.head else { return Ok(pooled.clone()) };
    let (dense, out) = spec.head_linears(head);
    let mut x = pooled.clone();
    if let Some(dense) = dense {
        x = e.dropout(&x, head.dropout)?;
        x = e.linear(&x, &dense)?;
        x = e.map(&x, Func::Tanh)?;
    }
    x = e.dropout(&x, head.dropout)?;
    let logits = e.linear(&x, &out)?;
    match spec.caps.logits {
        Some(cap) => e.map(&logits, Func::SoftCap { cap }),
        None => Ok(logits),
    }
}

/// Token ids to logits, in the clear.
pub fn logits<E: EmbeddingEngine>(e: &mut E, spec: &ModelSpec) -> Result<E::Act, E::Error> {
    let embedded = embed(e, spec)?;
    encode_and_classify(e, spec, &embedded)
}

/// Which tokens a layer computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rows {
    All,
    First,
}

fn encoder_layer<E: Engine>(e: &mut E, spec: &ModelSpec, index: usize, x: &E::Act, rows: Rows) -> Result<E::Act, E::Error> {
    let at = spec.layer_path(index);
    let [query, key, value, attention_output, intermediate, output] = spec.layer_linears(index);

    e.enter(&format!("layer.{index}.attention"));
    let (asking, context) = match rows {
        Rows::All => (x.clone(), e.self_attention(spec, x, [&query, &key, &value])?),
        Rows::First => {
            let first = e.pool(x, Pooling::First)?;
            let q = e.dense(&first, &query)?;
            let k = e.dense(x, &key)?;
            let v = e.dense(x, &value)?;
            let context = e.attention(spec, [&q, &k, &v])?;
            (first, context)
        }
    };
    let context = e.dense(&context, &attention_output)?;
    let context = e.dropout(&context, spec.hidden_dropout)?;
    let norm = spec.norm(at.join("attention.output.LayerNorm"));
    let x = e.add_norm(&context, &asking, &norm, &format!("layer.{index}.attention.norm"))?;

    e.enter(&format!("layer.{index}.feed_forward"));
    let h = e.dense(&x, &intermediate)?;
    let h = e.map(&h, spec.activation.func())?;
    let h = e.dense(&h, &output)?;
    let h = e.dropout(&h, spec.hidden_dropout)?;
    let norm = spec.norm(at.join("output.LayerNorm"));
    e.add_norm(&h, &x, &norm, &format!("layer.{index}.feed_forward.norm"))
}

/// A dense layer with its low-rank update: `x·Wᵀ + b + scale·(x·Aᵀ)·Bᵀ`.
pub fn dense<E: Engine>(e: &mut E, x: &E::Act, layer: &Linear) -> Result<E::Act, E::Error> {
    let base = e.linear(x, layer)?;
    let Some(lora) = &layer.lora else { return Ok(base) };
    let dropped = e.dropout(x, lora.dropout)?;
    let u = e.linear(&dropped, &layer.lora_a(lora))?;
    let update = e.linear(&u, &layer.lora_b(lora))?;
    let update = e.scale(&update, lora.scale)?;
    e.add(&base, &update)
}

/// Attention whose queries, keys and values are dense layers of one input.
pub fn self_attention<E: Engine>(
    e: &mut E,
    spec: &ModelSpec,
    x: &E::Act,
    [query, key, value]: [&Linear; 3],
) -> Result<E::Act, E::Error> {
    let q = e.dense(x, query)?;
    let k = e.dense(x, key)?;
    let v = e.dense(x, value)?;
    e.attention(spec, [&q, &k, &v])
}

/// Attention of all heads, `[b, t, hidden]³` to `[b, t, hidden]`. The division by the row sum comes after the product with the values, which is
/// the same number and `t/d` times less work.
pub fn attention<E: Engine>(e: &mut E, spec: &ModelSpec, q: &E::Act, k: &E::Act, v: &E::Act) -> Result<E::Act, E::Error> {
    let q = e.split_heads(q, spec.heads)?;
    let k = e.split_heads(k, spec.heads)?;
    let v = e.split_heads(v, spec.heads)?;
    let mut factor = 1.0 / ((spec.hidden / spec.heads) as f64).sqrt();
    if let Softmax::Scaled { temperature } = spec.softmax {
        factor /= temperature;
    }
    let mut s = e.scores(&q, &k, factor)?;
    if let Some(cap) = spec.caps.attention {
        s = e.map_heads(&s, Func::SoftCap { cap })?;
    }
    let weights = numerators(e, spec.softmax, &s)?;
    let context = e.attend(&weights, &v)?;
    let context = match spec.softmax {
        Softmax::ReluOverLength | Softmax::ScoresOverLength => e.divide_by_length(&context)?,
        softmax => normalise(e, softmax, &weights, &context)?,
    };
    e.merge_heads(&context)
}

fn numerators<E: Engine>(e: &mut E, softmax: Softmax, s: &E::Heads) -> Result<E::Heads, E::Error> {
    match softmax {
        Softmax::Exact | Softmax::Scaled { .. } => {
            let s = e.mask_keys(s)?;
            let max = e.row_max(&s)?;
            let below = e.sub_rows(&s, &max)?;
            e.map_heads(&below, Func::ExpNonPositive)
        }
        Softmax::Shifted { shift } => {
            let s = e.mask_keys(s)?;
            e.map_heads(&s, Func::ExpShifted { shift })
        }
        Softmax::TwoRelu { eps } => {
            let positive = e.map_heads(s, Func::Relu)?;
            let positive = e.shift_heads(&positive, eps)?;
            e.drop_keys(&positive)
        }
        Softmax::TwoQuad { c } => {
            let squared = e.map_heads(s, Func::QuadShift { c })?;
            e.drop_keys(&squared)
        }
        Softmax::ReluOverLength => {
            let s = e.mask_keys(s)?;
            e.map_heads(&s, Func::Relu)
        }
        Softmax::ScoresOverLength => e.drop_keys(s),
    }
}

/// Divides by the row sum, with the bounds on it that follow from the numerators: a maximum's numerator is 1.
fn normalise<E: Engine>(e: &mut E, softmax: Softmax, weights: &E::Heads, context: &E::Heads) -> Result<E::Heads, E::Error> {
    let (lo, hi_per_key) = softmax.sum_bounds();
    let sum = e.row_sum(weights)?;
    let inverse = e.reciprocal_rows(&sum, lo, hi_per_key)?;
    e.mul_rows(context, &inverse)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conformance::{Reference, variants};

    #[test]
    fn a_last_layer_of_the_first_token_gives_the_logits_of_the_whole() {
        for fixture in variants() {
            let spec = fixture.checkpoint.spec();
            let mut e = Reference::new(&fixture.checkpoint, &fixture.batch);
            let embedded = embed(&mut e, spec).expect("the fixture fits");
            let short = encode_and_classify(&mut e, spec, &embedded).expect("logits");
            let hidden = encode(&mut e, spec, &embedded).expect("hidden states");
            let whole = classify(&mut e, spec, &hidden).expect("logits");
            assert_eq!(short.shape, whole.shape, "{}", fixture.name);
            let close = short.data.iter().zip(&whole.data).all(|(a, b)| (a - b).abs() <= 1e-12 * b.abs().max(1.0));
            assert!(close, "{}: {:?} for {:?}", fixture.name, short.data, whole.data);
        }
    }
}
