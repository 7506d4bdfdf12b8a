//! Dense layers: public weights are a local product, private ones a Beaver product with a weight that was opened before the inference.

use sprint_model::{Linear, WeightPolicy};

use super::act::{Act, Divided, Normed, Parts, Term};
use super::{CompileError, Lowering, Precision, Val};
use crate::program::{Op, Recipe, Strided, Vector, View};

impl Lowering {
    /// A dense layer's output, times `gain`, less its mean over outputs if `centred`, with precision and ring enough for a consumer that
    /// wants `f` fractional bits in Z_2^ring.
    pub(crate) fn dense(
        &mut self,
        x: &Act,
        layer: &Linear,
        (gain, centred): (f64, bool),
        (f, ring): (u32, u32),
    ) -> Result<Val, CompileError> {
        if self.is_private(layer) {
            return self.private_dense(x, layer, (gain, centred), (f, ring));
        }
        let inner = layer.weight().as_str().ends_with(".lora_A");
        if let (true, Some(normed)) = (inner, x.as_normed()) {
            return Ok(self.before_norm(&normed.clone(), layer, (gain, false), Precision::LORA_BEFORE_NORM));
        }
        if let (true, Some(divided)) = (inner, x.as_divided()) {
            return Ok(self.before_division(&divided.clone(), layer, gain));
        }
        let fold = x.as_normed().map(|n| n.norm.clone());
        let whole = match x.as_normed() {
            Some(normed) => normed.scaled,
            None => self.operand(x, (f, ring))?,
        };
        // What truncation to f leaves of the operand's ring must hold `ring` bits.
        let room = (whole.ring + f).saturating_sub(ring + whole.f);
        let (least, most) = Precision::WEIGHT;
        // Of a product that the layer reads, its consumer's bits and those that truncation drops have been dealt.
        let packed = (Precision::PACKED + f).saturating_sub(ring + whole.f);
        let most = if packed >= Precision::WEIGHT_ENOUGH { most.min(packed) } else { most };
        let weight_bits = match x.as_normed() {
            // A result that does not fit its consumer's ring is extended to it beside other rounds, and only the bits between are dealt.
            Some(_) if room < Precision::WEIGHT_ENOUGH && self.lean => most,
            Some(normed) if room < Precision::WEIGHT_ENOUGH => {
                let normed = normed.clone();
                return Ok(self.before_norm(&normed, layer, (gain, centred), Precision::BEFORE_NORM));
            }
            // So is any other, in a round of its own, and may as well have the finest weights.
            _ if room < least => most,
            _ => room.min(most),
        };
        let operand = self.rescale(whole, whole.f.min(Precision::PUBLIC_OPERAND));
        Ok(self.public_product(
            operand,
            Recipe {
                layer: layer.clone(),
                gain,
                centred,
                fold,
                weight_bits,
                bias_bits: Some(operand.f + weight_bits),
                opened_bits: None,
                blocks: 1,
            },
        ))
    }

    fn public_product(&mut self, operand: Val, recipe: Recipe) -> Val {
        let rows = self.len(operand) / recipe.layer.inputs;
        let (outputs, f) = (recipe.outputs(), operand.f + recipe.weight_bits);
        let linear = self.b.public_recipe(recipe);
        Val { node: self.b.push(Op::PublicLinear { src: operand.node, linear, rows }, rows * outputs), ring: operand.ring, f }
    }

    /// `W·(γ·d·r + β) = r·(W·γ)·d + W·β`, with the narrow `(W·γ)·d` opened with `f` fractional bits of `bits` while `r` is still being computed:
    /// the weights are as fine as any, and the result keeps a wide ring, which a product with `B` or with softmax's numerators needs.
    fn before_norm(&mut self, normed: &Normed, layer: &Linear, (gain, centred): (f64, bool), (f, bits): (u32, u32)) -> Val {
        let deviation = self.lift(normed.deviation, self.deviation().0);
        let recipe = Recipe {
            layer: layer.clone(),
            gain,
            centred,
            fold: Some(normed.norm.clone()),
            weight_bits: Precision::WEIGHT.1,
            bias_bits: None,
            opened_bits: None,
            blocks: 1,
        };
        let narrow = self.public_product(deviation, recipe.clone());
        let narrow = self.rescale(narrow, f);
        let len = self.len(narrow);
        let open = self.open(narrow, bits, true, true);
        let f = f + self.inverse_deviation().0;
        let product = self.product(&[(open, View::ALL), (normed.inverse, View::rows(layer.outputs))], len, f);
        let vector = self.b.vector(Vector::Bias(recipe));
        Val { node: self.b.push(Op::AddColumns { src: product.node, vector, bits: f }, len), ..product }
    }

    /// `A·(s/Σ) = Σ_h (A_h·s_h)/Σ_h` over an attention's heads, with the narrow `A_h·s_h` opened while the inverses are still being computed: `A` is as
    /// fine as any layer, and the result keeps a wide ring for a product with `B`, at the price of one opened value for each head and output.
    fn before_division(&mut self, divided: &Divided, layer: &Linear, gain: f64) -> Val {
        let Parts { sums: (sums, sums_f, sums_ring), inverses: (inverses, inverse_f) } = divided.parts;
        let (f, bits) = (divided.parts.narrow_f(), sums_ring + Precision::LORA_BEFORE_DIVISION.1);
        let (h, r, d) = (divided.heads, layer.outputs, layer.inputs / divided.heads);
        let sums = self.lift(sums, sums_f);
        let t = self.len(sums) / (self.batch * layer.inputs);
        let sums = self.merged(sums, h, t, d);
        let narrow = self.public_product(
            sums,
            Recipe {
                layer: layer.clone(),
                gain,
                centred: false,
                fold: None,
                weight_bits: Precision::WEIGHT.1,
                bias_bits: None,
                opened_bits: None,
                blocks: h,
            },
        );
        let narrow = self.rescale(narrow, f);
        // From [batch, tokens, heads, outputs] to the order of the inverses and back.
        let by_head = Strided::new(0, &[(self.batch, t * h * r), (h, r), (t, h * r), (r, 1)]);
        let len = by_head.len();
        let narrow = Val { node: self.b.push(Op::Gather { src: narrow.node, view: by_head }, len), ..narrow };
        let open = self.open(narrow, bits, true, true);
        let product = self.product(&[(open, View::ALL), (inverses, View::rows(r))], len, f + inverse_f);
        let heads_last = Strided::new(0, &[(self.batch, h * t * r), (t, r), (r, 1), (h, t * r)]);
        let src = self.b.push(Op::Gather { src: product.node, view: heads_last }, len);
        Val { node: self.b.push(Op::SumGroups { src, group: h }, len / h), ..product }
    }

    fn private_dense(
        &mut self,
        x: &Act,
        layer: &Linear,
        (gain, centred): (f64, bool),
        (f, ring): (u32, u32),
    ) -> Result<Val, CompileError> {
        let Masked { operand, opened, ring, weight_bits } =
            if self.is_fine(layer) { self.fine_operand(x, (f, ring))? } else { self.coarse_operand(x, (f, ring))? };
        let fold = x.as_normed().map(|normed| normed.norm.clone());
        let f = operand.f + weight_bits;
        let recipe = Recipe {
            layer: layer.clone(),
            gain,
            centred,
            fold,
            weight_bits,
            bias_bits: Some(f),
            opened_bits: Some(ring),
            blocks: 1,
        };
        let has_bias = recipe.layer.bias || recipe.fold.is_some();
        let (inputs, outputs) = (layer.inputs, layer.outputs);
        let rows = self.len(operand) / inputs;
        let index = self.b.private_recipe(recipe);
        let b = self.b.push(Op::PrivateWeight(index), outputs * inputs);
        let a = self.open(operand, opened, false, true);
        let op = Op::MatMul { a, b, batch: 1, m: rows, k: inputs, n: outputs, transposed: true, bits: ring };
        let product = Val { node: self.b.push(op, rows * outputs), ring, f };
        if !has_bias {
            return Ok(product);
        }
        let bias = self.private_rows(index, rows, outputs, f);
        Ok(self.sum(product, bias))
    }

    /// The bias of a private layer under each of `rows` rows.
    pub(crate) fn private_rows(&mut self, layer: u32, rows: usize, outputs: usize, f: u32) -> Val {
        let bias = self.b.push(Op::PrivateBias(layer), outputs);
        let view = Strided::new(0, &[(rows, 0), (outputs, 1)]);
        Val { node: self.b.push(Op::Gather { src: bias, view }, rows * outputs), ring: 64, f }
    }

    /// For low-rank updates and heads, whose weights are few and whose results are small or last.
    fn coarse_operand(&mut self, x: &Act, (f, ring): (u32, u32)) -> Result<Masked, CompileError> {
        let weight_bits = self.private_bits(x, (f, ring));
        // The product's ring holds `ring` bits after truncation to f.
        let wanted = (Precision::LORA_INNER + weight_bits + ring).saturating_sub(f).clamp(ring, 64);
        let operand = match x.as_normed() {
            Some(normed) => self.rescale(normed.scaled, Precision::LORA_INNER),
            None => self.materialise(x, Precision::LORA_INNER, wanted, false)?,
        };
        let ring = operand.ring.min(wanted);
        Ok(Masked { operand, opened: ring, ring, weight_bits })
    }

    /// For layers of a private encoder: operand and weights as fine as a public layer's. A normalised state is opened once, in all of its ring, for all
    /// that read it; where that leaves less than the consumer wants, the product is extended by an opening of its own.
    fn fine_operand(&mut self, x: &Act, (f, ring): (u32, u32)) -> Result<Masked, CompileError> {
        let (operand_f, most_ring) = Precision::PRIVATE_OPERAND;
        let (least, most) = Precision::FINE_WEIGHT;
        let wanted = |weight_bits: u32| (operand_f + weight_bits + ring).saturating_sub(f).clamp(ring, 64);
        let operand = match x.as_normed() {
            Some(normed) => self.normalised(normed.scaled),
            None => self.materialise(x, operand_f, wanted(least).min(most_ring), false)?,
        };
        let held = operand.ring.min(most_ring);
        let room = (held + f).saturating_sub(ring + operand_f);
        // A product that is extended anyway may as well have the finest weights.
        let weight_bits = if room < least { most } else { room.min(most) };
        let bits = held.min(wanted(weight_bits));
        let opened = if x.as_normed().is_some() { held } else { bits };
        Ok(Masked { operand, opened, ring: bits, weight_bits })
    }

    /// A normalised state `d·r` as private products read it.
    pub(crate) fn normalised(&mut self, scaled: Val) -> Val {
        let (f, ring) = Precision::PRIVATE_OPERAND;
        let operand = self.rescale(scaled, f);
        Val { ring: operand.ring.min(ring), ..operand }
    }

    /// Fractional bits of a private weight whose product with `x` has to hold `ring` bits at precision `f`: as many as `x` leaves without an opening
    /// of its own, and the most where it needs one anyway.
    fn private_bits(&self, x: &Act, (f, ring): (u32, u32)) -> u32 {
        let (least, most) = Precision::PRIVATE_WEIGHT;
        let whole = |v: &Val| v.ring.saturating_sub(v.f);
        let left = if self.calibration.is_some() { Precision::WEIGHT.0 } else { Precision::LORA_WEIGHT };
        // Bits above the binary point of the operand once it is rescaled.
        let whole = match (x.terms.as_slice(), x.as_share()) {
            (_, Some(v)) => whole(&v),
            ([(Term::Normed(normed), 1.0)], _) => whole(&normed.scaled),
            // A layer of a normalised state is computed before the normalisation's product, one of an attention before its division.
            ([(Term::Linear { x: inner, layer }, _)], _) => match inner.as_divided() {
                _ if inner.as_normed().is_some() => 64 - Precision::LORA_BEFORE_NORM.0 - self.inverse_deviation().0,
                Some(divided) if !self.is_private(layer) => 64 - divided.parts.narrow_f() - divided.parts.inverses.1,
                _ => inner.as_share().map_or(0, |v| whole(&v).saturating_sub(left)),
            },
            _ => 0,
        };
        let room = (whole + f).saturating_sub(ring);
        if room < least { most } else { room.min(most) }
    }

    fn is_private(&self, layer: &Linear) -> bool {
        let weight = layer.weight();
        let name = weight.as_str();
        let public_a = self.policy == WeightPolicy::PublicBase { public_a: true };
        let all = self.policy == WeightPolicy::AllPrivate;
        all || is_head(name) || name.ends_with(".lora_B") || (name.ends_with(".lora_A") && !public_a)
    }

    /// Whether a private layer needs the precision of a public one: its operand is a state of a private encoder.
    fn is_fine(&self, layer: &Linear) -> bool {
        let weight = layer.weight();
        let name = weight.as_str();
        self.policy == WeightPolicy::AllPrivate && !is_head(name) && !name.ends_with(".lora_B")
    }
}

fn is_head(weight: &str) -> bool {
    weight.starts_with("classifier") || weight.starts_with("pooler")
}

/// What a private product reads: its operand, the ring that this is opened in and that of the product, and the weight's fractional bits.
struct Masked {
    operand: Val,
    opened: u32,
    ring: u32,
    weight_bits: u32,
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use sprint_model::{
        Calibration, HeadSpec, LayerRanges, ModelSpec, ParamPath, Part, Pooling, Range, ScoreRange, WeightPolicy,
    };

    use crate::program::Op;
    use crate::{Mode, Options, compile};

    fn spec(pooling: Pooling) -> ModelSpec {
        ModelSpec { head: Some(HeadSpec { outputs: 2, pooling, dense: true, dropout: 0.0 }), ..ModelSpec::bert_tiny() }
    }

    fn options(spec: &ModelSpec, mode: Mode, tokens: usize) -> Options {
        let head = ScoreRange { scores: Range { low: -2.0, high: 2.0 }, log_sums: Range { low: 1.0, high: 5.0 } };
        let layer = LayerRanges { heads: vec![head; spec.heads], activation: Range { low: -4.0, high: 4.0 } };
        let ranges = Calibration::new(spec, 1, vec![layer; spec.layers]).expect("ranges");
        Options::new(mode, WeightPolicy::AllPrivate, 2, tokens).with_calibration(Some(ranges))
    }

    #[test]
    fn no_weight_of_a_private_encoder_is_public() {
        for (mode, pooling) in [Mode::Exact, Mode::Calibrated, Mode::Lean, Mode::ThreeServer]
            .into_iter()
            .flat_map(|mode| [(mode, Pooling::First), (mode, Pooling::Mean)])
        {
            let spec = spec(pooling);
            let program = compile(&spec, &options(&spec, mode, 8)).expect("compiles");
            assert!(program.public.is_empty() && program.vectors.is_empty(), "{mode} {pooling:?}");
            let public = |op: &Op| {
                matches!(op, Op::PublicLinear { .. } | Op::MulColumns { .. } | Op::AddColumns { .. } | Op::CentreColumns { .. })
            };
            assert!(!program.nodes.iter().any(|n| public(&n.op)), "{mode} {pooling:?}");
            // And every parameter is read from the private part.
            let norms = program.private.iter().filter_map(|r| r.fold.as_ref()).flat_map(|n| [n.weight(), n.bias()]);
            let layers = program.private.iter().flat_map(|r| std::iter::once(r.layer.weight()).chain(r.layer.bias()));
            let read: BTreeSet<ParamPath> = norms.chain(layers).collect();
            let hidden = spec.parameters().into_iter().filter(|p| p.part != Part::Embeddings).map(|p| p.path);
            assert_eq!(read, hidden.collect(), "{mode} {pooling:?}");
        }
    }

    #[test]
    fn shares_of_private_weights_serve_programs_of_every_length() {
        let spec = spec(Pooling::First);
        for mode in [Mode::Exact, Mode::Calibrated, Mode::Lean, Mode::ThreeServer] {
            let [short, long] = [8, 128].map(|tokens| compile(&spec, &options(&spec, mode, tokens)).expect("compiles"));
            assert_eq!(short.weights_digest, long.weights_digest, "{mode}");
        }
    }
}
