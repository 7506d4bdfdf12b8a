//! Dense layers: public weights are a local product, private ones a Beaver product with a weight that was opened before the inference.

use sprint_model::{Linear, WeightPolicy};

use super::act::{Act, Normed, Term};
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
            let normed = normed.clone();
            return Ok(self.before_norm(&normed, layer, (gain, false), (Precision::LORA_INNER, 24)));
        }
        let fold = x.as_normed().map(|n| n.norm.clone());
        let operand = match x.as_normed() {
            Some(normed) => normed.scaled,
            None => self.operand(x, (f, ring))?,
        };
        // What truncation to f leaves of the operand's ring must hold `ring` bits.
        let room = (operand.ring + f).saturating_sub(ring + operand.f);
        let (least, most) = Precision::WEIGHT;
        let weight_bits = match x.as_normed() {
            // A result that does not fit its consumer's ring is extended to it beside other rounds, and only the bits between are dealt.
            Some(_) if room < Precision::WEIGHT_ENOUGH && self.lean => most,
            Some(normed) if room < Precision::WEIGHT_ENOUGH => {
                let normed = normed.clone();
                return Ok(self.before_norm(&normed, layer, (gain, centred), Precision::BEFORE_NORM));
            }
            _ if room < least => least,
            _ => room.min(most),
        };
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
            },
        ))
    }

    fn public_product(&mut self, operand: Val, recipe: Recipe) -> Val {
        let rows = self.len(operand) / recipe.layer.inputs;
        let (outputs, f) = (recipe.layer.outputs, operand.f + recipe.weight_bits);
        let linear = self.b.public_recipe(recipe);
        Val { node: self.b.push(Op::PublicLinear { src: operand.node, linear, rows }, rows * outputs), ring: operand.ring, f }
    }

    /// `W·(γ·d·r + β) = r·(W·γ)·d + W·β`, with the narrow `(W·γ)·d` opened with `f` fractional bits of `bits` while `r` is still being computed:
    /// the weights are as fine as any, and the result keeps a wide ring, which a product with `B` or with softmax's numerators needs.
    fn before_norm(&mut self, normed: &Normed, layer: &Linear, (gain, centred): (f64, bool), (f, bits): (u32, u32)) -> Val {
        let deviation = self.lift(normed.deviation, Precision::DEVIATION.0);
        let recipe = Recipe {
            layer: layer.clone(),
            gain,
            centred,
            fold: Some(normed.norm.clone()),
            weight_bits: Precision::WEIGHT.1,
            bias_bits: None,
            opened_bits: None,
        };
        let narrow = self.public_product(deviation, recipe.clone());
        let narrow = self.rescale(narrow, f);
        let len = self.len(narrow);
        let open = self.open(narrow, bits, true, true);
        let f = f + Precision::INVERSE_DEVIATION.0;
        let product = self.product(&[(open, View::ALL), (normed.inverse, View::rows(layer.outputs))], len, f);
        let vector = self.b.vector(Vector::Bias(recipe));
        Val { node: self.b.push(Op::AddColumns { src: product.node, vector, bits: f }, len), ..product }
    }

    fn private_dense(
        &mut self,
        x: &Act,
        layer: &Linear,
        (gain, centred): (f64, bool),
        (f, ring): (u32, u32),
    ) -> Result<Val, CompileError> {
        let weight_bits = self.private_bits(x, (f, ring));
        // The product's ring holds `ring` bits after truncation to f.
        let wanted = (Precision::LORA_INNER + weight_bits + ring).saturating_sub(f).clamp(ring, 64);
        let (fold, operand) = match x.as_normed() {
            Some(normed) => (Some(normed.norm.clone()), self.rescale(normed.scaled, Precision::LORA_INNER)),
            None => (None, self.materialise(x, Precision::LORA_INNER, wanted, false)?),
        };
        let ring = operand.ring.min(wanted);
        let f = operand.f + weight_bits;
        let recipe =
            Recipe { layer: layer.clone(), gain, centred, fold, weight_bits, bias_bits: Some(f), opened_bits: Some(ring) };
        let has_bias = recipe.layer.bias || recipe.fold.is_some();
        let (inputs, outputs) = (layer.inputs, layer.outputs);
        let rows = self.len(operand) / inputs;
        let index = self.b.private_recipe(recipe);
        let b = self.b.push(Op::PrivateWeight(index), outputs * inputs);
        let a = self.open(operand, ring, false, true);
        let op = Op::MatMul { a, b, batch: 1, m: rows, k: inputs, n: outputs, transposed: true, bits: ring };
        let product = Val { node: self.b.push(op, rows * outputs), ring, f };
        if !has_bias {
            return Ok(product);
        }
        let bias = self.b.push(Op::PrivateBias(index), outputs);
        let view = Strided::new(0, &[(rows, 0), (outputs, 1)]);
        let bias = self.b.push(Op::Gather { src: bias, view }, rows * outputs);
        Ok(self.sum(product, Val { node: bias, ring: 64, f }))
    }

    /// Fractional bits of a private weight whose product with `x` has to hold `ring` bits at precision `f`: as many as `x` leaves without an opening
    /// of its own.
    fn private_bits(&self, x: &Act, (f, ring): (u32, u32)) -> u32 {
        let (least, most) = Precision::PRIVATE_WEIGHT;
        let whole = |v: &Val| v.ring.saturating_sub(v.f);
        // Bits above the binary point of the operand once it is rescaled.
        let whole = match x.terms.as_slice() {
            [(Term::Linear { x: inner, .. }, _)] => match inner.terms.as_slice() {
                [(Term::Value(v), 1.0)] => whole(v).saturating_sub(Precision::WEIGHT.0),
                // A layer of a normalised state is computed before the normalisation's product.
                [(Term::Normed(_), 1.0)] => 64 - Precision::LORA_INNER - Precision::INVERSE_DEVIATION.0,
                _ => 0,
            },
            [(Term::Value(v), 1.0)] => whole(v),
            [(Term::Normed(normed), 1.0)] => whole(&normed.scaled),
            _ => 0,
        };
        (whole + f).saturating_sub(ring).clamp(least, most)
    }

    fn is_private(&self, layer: &Linear) -> bool {
        let weight = layer.weight();
        let name = weight.as_str();
        let head = name.starts_with("classifier") || name.starts_with("pooler");
        let public_a = self.policy == WeightPolicy::PublicBase { public_a: true };
        head || name.ends_with(".lora_B") || (name.ends_with(".lora_A") && !public_a)
    }
}
