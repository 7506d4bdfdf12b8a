//! Dense layers: public weights are a local product, private ones a Beaver product with a weight that was opened before the inference.

use sprint_model::{Linear, WeightPolicy};

use super::act::{Act, Normed};
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
            return Ok(self.inner_of_norm(&normed, layer, gain));
        }
        let fold = x.as_normed().map(|n| n.norm.clone());
        let operand = match x.as_normed() {
            Some(normed) => normed.scaled,
            None => self.operand(x, (f, ring))?,
        };
        // What truncation to f leaves of the operand's ring must hold `ring` bits.
        let room = (operand.ring + f).saturating_sub(ring + operand.f);
        let (least, most) = Precision::WEIGHT;
        let weight_bits = if room < least { least } else { room.min(most) };
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

    /// `A·(γ·d·r + β) = r·(A·γ)·d + A·β`, with the narrow `(A·γ)·d` opened while `r` is still being computed: the result keeps a wide ring,
    /// which the product with `B` needs.
    fn inner_of_norm(&mut self, normed: &Normed, layer: &Linear, gain: f64) -> Val {
        let deviation = self.lift(normed.deviation, Precision::DEVIATION.0);
        let recipe = Recipe {
            layer: layer.clone(),
            gain,
            centred: false,
            fold: Some(normed.norm.clone()),
            weight_bits: Precision::WEIGHT.1,
            bias_bits: None,
            opened_bits: None,
        };
        let narrow = self.public_product(deviation, recipe.clone());
        let narrow = self.rescale(narrow, Precision::LORA_INNER);
        let len = self.len(narrow);
        let open = self.open(narrow, 24, true, true);
        let f = Precision::LORA_INNER + Precision::INVERSE_DEVIATION.0;
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
        // The product's ring holds `ring` bits after truncation to f.
        let wanted = (Precision::LORA_INNER + Precision::PRIVATE_WEIGHT + ring).saturating_sub(f).clamp(ring, 64);
        let (fold, operand) = match x.as_normed() {
            Some(normed) => (Some(normed.norm.clone()), self.rescale(normed.scaled, Precision::LORA_INNER)),
            None => (None, self.materialise(x, Precision::LORA_INNER, wanted, false)?),
        };
        let ring = operand.ring.min(wanted);
        let f = operand.f + Precision::PRIVATE_WEIGHT;
        let recipe = Recipe {
            layer: layer.clone(),
            gain,
            centred,
            fold,
            weight_bits: Precision::PRIVATE_WEIGHT,
            bias_bits: Some(f),
            opened_bits: Some(ring),
        };
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

    fn is_private(&self, layer: &Linear) -> bool {
        let weight = layer.weight();
        let name = weight.as_str();
        let head = name.starts_with("classifier") || name.starts_with("pooler");
        let public_a = self.policy == WeightPolicy::PublicBase { public_a: true };
        head || name.ends_with(".lora_B") || (name.ends_with(".lora_A") && !public_a)
    }
}
