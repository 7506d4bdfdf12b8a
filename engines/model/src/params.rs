//! The parameters of a spec: paths, shapes, who trains them and who may see them.

use serde::{Deserialize, Serialize};

use crate::{LayerNorm, Linear, ModelSpec, ParamPath, Visibility};

/// Which part of the model a parameter belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    /// The tables and their layer normalisation.
    Embeddings,
    /// The encoder layers without low-rank updates.
    Encoder,
    /// `A` of a low-rank update.
    LoraA,
    /// `B` of a low-rank update.
    LoraB,
    /// The head, its dense layer included.
    Head,
}

/// What a parameter does in its layer; decides its initial value and weight decay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ParamKind {
    /// An embedding table, `[rows, hidden]`.
    Table,
    /// A matrix, `[outputs, inputs]`.
    Weight,
    /// A bias, `[outputs]`.
    Bias,
    /// `γ` of a layer normalisation.
    NormGain,
    /// `β` of a layer normalisation.
    NormShift,
}

/// One parameter of a spec.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parameter {
    /// Its name.
    pub path: ParamPath,
    /// Its shape: two dimensions for a matrix or table, one for a vector.
    pub shape: Vec<usize>,
    /// What it does.
    pub kind: ParamKind,
    /// Where it belongs.
    pub part: Part,
}

impl Parameter {
    /// Number of values.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// What a fine-tuning run trains.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind", deny_unknown_fields)]
pub enum Tuning {
    /// The head alone.
    Head,
    /// The head and the low-rank updates.
    Lora {
        /// Whether `A` keeps its initial value (frozen-A LoRA, Sun et al. 2024).
        freeze_a: bool,
    },
    /// Every parameter.
    Full,
}

impl Tuning {
    /// Whether a parameter is trained.
    pub fn trains(self, parameter: &Parameter) -> bool {
        match (self, parameter.part) {
            (Self::Full, _) | (_, Part::Head) | (Self::Lora { .. }, Part::LoraB) => true,
            (Self::Lora { freeze_a }, Part::LoraA) => !freeze_a,
            (Self::Head | Self::Lora { .. }, _) => false,
        }
    }
}

/// Which weights an inference hides from the parties.
///
/// The embeddings, their layer normalisation included, are public under every policy: the client looks its tokens up itself, so it must hold the
/// tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind", deny_unknown_fields)]
pub enum WeightPolicy {
    /// The pretrained encoder is public; the head, `B` and a trained `A` are private.
    PublicBase {
        /// Whether `A` is public: right only when it was frozen at an initial value that does not depend on the data.
        public_a: bool,
    },
    /// Everything after the embeddings is private.
    AllPrivate,
}

impl WeightPolicy {
    /// The policy that publishes no more than was public before training; a fully tuned model's embeddings alone are the exception.
    pub fn for_tuning(tuning: Tuning) -> Self {
        match tuning {
            Tuning::Head => Self::PublicBase { public_a: true },
            Tuning::Lora { freeze_a } => Self::PublicBase { public_a: freeze_a },
            Tuning::Full => Self::AllPrivate,
        }
    }

    /// Who may see a parameter.
    pub fn visibility(self, parameter: &Parameter) -> Visibility {
        match (self, parameter.part) {
            (_, Part::Embeddings)
            | (Self::PublicBase { .. }, Part::Encoder)
            | (Self::PublicBase { public_a: true }, Part::LoraA) => Visibility::Public,
            _ => Visibility::Private,
        }
    }
}

impl ModelSpec {
    /// Every parameter, in the order in which a forward pass meets them.
    pub fn parameters(&self) -> Vec<Parameter> {
        let mut list = List(Vec::new());
        let tables = self.embedding();
        for (path, rows) in [
            (tables.word_weight(), self.vocab),
            (tables.position_weight(), self.positions),
            (tables.token_type_weight(), self.token_types),
        ] {
            list.push(path, vec![rows, self.hidden], ParamKind::Table, Part::Embeddings);
        }
        list.norm(&self.norm(tables.path.join("LayerNorm")), Part::Embeddings);
        for index in 0..self.layers {
            let at = self.layer_path(index);
            let [query, key, value, attention_output, intermediate, output] = self.layer_linears(index);
            for layer in [query, key, value, attention_output] {
                list.linear(&layer, Part::Encoder);
            }
            list.norm(&self.norm(at.join("attention.output.LayerNorm")), Part::Encoder);
            for layer in [intermediate, output] {
                list.linear(&layer, Part::Encoder);
            }
            list.norm(&self.norm(at.join("output.LayerNorm")), Part::Encoder);
        }
        if let Some(head) = &self.head {
            let (dense, out) = self.head_linears(head);
            for layer in dense.iter().chain([&out]) {
                list.linear(layer, Part::Head);
            }
        }
        list.0
    }

    /// The parameters that `tuning` trains, in order.
    pub fn trained_parameters(&self, tuning: Tuning) -> Vec<Parameter> {
        self.parameters().into_iter().filter(|parameter| tuning.trains(parameter)).collect()
    }
}

struct List(Vec<Parameter>);

impl List {
    fn push(&mut self, path: ParamPath, shape: Vec<usize>, kind: ParamKind, part: Part) {
        self.0.push(Parameter { path, shape, kind, part });
    }

    fn linear(&mut self, layer: &Linear, part: Part) {
        self.push(layer.weight(), vec![layer.outputs, layer.inputs], ParamKind::Weight, part);
        if let Some(bias) = layer.bias() {
            self.push(bias, vec![layer.outputs], ParamKind::Bias, part);
        }
        if let Some(lora) = &layer.lora {
            self.linear(&layer.lora_a(lora), Part::LoraA);
            self.linear(&layer.lora_b(lora), Part::LoraB);
        }
    }

    fn norm(&mut self, norm: &LayerNorm, part: Part) {
        self.push(norm.weight(), vec![norm.width], ParamKind::NormGain, part);
        self.push(norm.bias(), vec![norm.width], ParamKind::NormShift, part);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::{HeadSpec, LoraSpec, Pooling, TargetModules};

    fn roberta_with_lora() -> ModelSpec {
        let lora = LoraSpec::new(16, 16.0, TargetModules::default());
        let head = HeadSpec { outputs: 2, pooling: Pooling::First, dense: true, dropout: 0.1 };
        ModelSpec { lora: Some(lora), head: Some(head), ..ModelSpec::roberta_base() }
    }

    fn count(parameters: &[Parameter]) -> usize {
        parameters.iter().map(Parameter::len).sum()
    }

    #[test]
    fn counts_are_those_of_the_published_models() {
        // roberta-base without pooler has 124,055,040 parameters; the pooler of the published 124,645,632 has 768·769.
        assert_eq!(count(&ModelSpec::roberta_base().parameters()), 124_645_632 - 768 * 769);
        assert_eq!(count(&ModelSpec::bert_base().parameters()), 109_482_240 - 768 * 769);
        let others = [("roberta-large", 355_359_744, 1024), ("bert-medium", 41_373_184, 512), ("bert-small", 28_763_648, 512)];
        for (name, published, hidden) in others {
            let spec = ModelSpec::named(name).expect("known");
            assert_eq!(count(&spec.parameters()), published - hidden * (hidden + 1), "{name}");
        }
        assert_eq!(count(&ModelSpec::tinybert().parameters()), 14_350_248 - 312 * 313);
    }

    #[test]
    fn frozen_a_lora_trains_b_and_the_head() {
        let spec = roberta_with_lora();
        // dp.md §4: 1,327,104 in the B matrices, as many in the A matrices, 592,130 in the head.
        assert_eq!(count(&spec.trained_parameters(Tuning::Lora { freeze_a: true })), 1_327_104 + 592_130);
        assert_eq!(count(&spec.trained_parameters(Tuning::Lora { freeze_a: false })), 2 * 1_327_104 + 592_130);
        assert_eq!(count(&spec.trained_parameters(Tuning::Head)), 592_130);
        assert_eq!(count(&spec.trained_parameters(Tuning::Full)), count(&spec.parameters()));
    }

    #[test]
    fn nothing_that_was_trained_is_public() {
        let spec = roberta_with_lora();
        for tuning in [Tuning::Lora { freeze_a: true }, Tuning::Lora { freeze_a: false }, Tuning::Head] {
            let policy = WeightPolicy::for_tuning(tuning);
            for parameter in spec.trained_parameters(tuning) {
                assert_eq!(policy.visibility(&parameter), Visibility::Private, "{} under {policy:?}", parameter.path);
            }
        }
        let word = &spec.parameters()[0];
        assert_eq!(word.path.as_str(), "embeddings.word_embeddings.weight");
        assert_eq!(WeightPolicy::AllPrivate.visibility(word), Visibility::Public);
    }

    #[test]
    fn updates_begin_at_their_first_layer() {
        let mut spec = roberta_with_lora();
        spec.lora = spec.lora.map(|lora| LoraSpec { targets: lora.targets.from_layer(9), ..lora });
        let layers: std::collections::BTreeSet<_> = spec
            .parameters()
            .iter()
            .filter(|p| p.part == Part::LoraB)
            .map(|p| p.path.as_str().split('.').nth(2).expect("encoder.layer.N").to_owned())
            .collect();
        assert_eq!(layers.into_iter().collect::<Vec<_>>(), ["10", "11", "9"]);
        let json = serde_json::to_string(&spec).expect("serialises");
        assert_eq!(serde_json::from_str::<ModelSpec>(&json).expect("reads"), spec);
        assert!(
            !serde_json::to_string(&roberta_with_lora()).expect("serialises").contains("first_layer"),
            "older specs read the same"
        );
    }

    #[test]
    fn paths_are_distinct_and_lora_paths_carry_no_suffix() {
        let parameters = roberta_with_lora().parameters();
        let paths: BTreeSet<_> = parameters.iter().map(|p| p.path.clone()).collect();
        assert_eq!(paths.len(), parameters.len());
        let a = ParamPath::new("encoder.layer.11.output.dense.lora_A");
        let found = parameters.iter().find(|p| p.path == a).expect("every dense layer is a target");
        assert_eq!((found.shape.as_slice(), found.part), ([16, 3072].as_slice(), Part::LoraA));
    }
}
