//! Where each trained parameter lies in the flat vector that optimisers and mechanisms work on.

use sprint_model::{ModelSpec, ParamPath, Parameter, Part, Tuning};

/// The trained parameters in the model's order, concatenated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    parameters: Vec<Parameter>,
    offsets: Vec<usize>,
    dim: usize,
}

impl Layout {
    /// What `tuning` trains, and the parameters under the modules or with the names in `also`.
    ///
    /// `also` is `modules_to_save`: each entry selects the parameters in whose path its dotted components occur in sequence
    /// (`classifier`, `pooler`, `LayerNorm`, `layer.1.output`). An entry that selects nothing is returned as the error.
    pub(crate) fn new(spec: &ModelSpec, tuning: Tuning, also: &[String]) -> Result<Self, String> {
        let all = spec.parameters();
        if let Some(unmatched) = also.iter().find(|name| !all.iter().any(|p| names(name, &p.path))) {
            return Err(unmatched.clone());
        }
        let trained = |p: &Parameter| tuning.trains(p) || also.iter().any(|name| names(name, &p.path));
        let parameters: Vec<Parameter> = all.into_iter().filter(trained).collect();
        let mut offsets = Vec::with_capacity(parameters.len());
        let mut dim = 0;
        for parameter in &parameters {
            offsets.push(dim);
            dim += parameter.len();
        }
        Ok(Self { parameters, offsets, dim })
    }

    /// The length of the flat vector.
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// The trained parameters, in order.
    pub fn parameters(&self) -> &[Parameter] {
        &self.parameters
    }

    /// Whether `path` is trained.
    pub(crate) fn contains(&self, path: &ParamPath) -> bool {
        self.parameters.iter().any(|p| p.path == *path)
    }

    /// Where `path` begins in the flat vector, if it is trained.
    pub(crate) fn offset(&self, path: &ParamPath) -> Option<usize> {
        self.parameters.iter().position(|p| p.path == *path).map(|at| self.offsets[at])
    }

    /// Each parameter with its slice of `theta`.
    pub(crate) fn slices<'a>(&'a self, theta: &'a [f32]) -> impl Iterator<Item = (&'a Parameter, &'a [f32])> {
        self.parameters.iter().zip(&self.offsets).map(|(p, at)| (p, &theta[*at..at + p.len()]))
    }

    /// Whether one copy an example of every trained parameter is affordable: embedding tables and whole dense layers are not.
    pub(crate) fn is_low_rank(&self) -> bool {
        self.parameters.iter().all(|p| match p.part {
            Part::LoraA | Part::LoraB | Part::Head => true,
            Part::Embeddings | Part::Encoder => p.shape.len() == 1,
        })
    }
}

/// Whether the dotted components of `name` occur in sequence in `path`.
fn names(name: &str, path: &ParamPath) -> bool {
    let path: Vec<&str> = path.as_str().split('.').collect();
    let name: Vec<&str> = name.split('.').collect();
    path.windows(name.len()).any(|window| window == name)
}

#[cfg(test)]
mod tests {
    use super::Layout;
    use sprint_model::{HeadSpec, LoraSpec, ModelSpec, Pooling, TargetModules, Tuning};

    fn spec() -> ModelSpec {
        let mut spec = ModelSpec::bert_tiny_5k();
        spec.lora = Some(LoraSpec { rank: 4, alpha: 8.0, dropout: 0.0, targets: TargetModules::default() });
        spec.head = Some(HeadSpec { outputs: 2, pooling: Pooling::First, dense: true, dropout: 0.0 });
        spec
    }

    #[test]
    fn modules_to_save_are_trained_beside_the_tuning() {
        let also = ["LayerNorm".to_owned(), "layer.1.output.dense.bias".to_owned()];
        let layout = Layout::new(&spec(), Tuning::Lora { freeze_a: true }, &also).expect("names match");
        let paths: Vec<_> = layout.parameters().iter().map(|p| p.path.as_str()).collect();
        assert!(paths.contains(&"embeddings.LayerNorm.weight") && paths.contains(&"encoder.layer.1.output.LayerNorm.bias"));
        assert!(paths.contains(&"encoder.layer.1.output.dense.bias") && !paths.contains(&"encoder.layer.0.output.dense.bias"));
        assert!(paths.contains(&"pooler.dense.weight") && !paths.iter().any(|p| p.ends_with("lora_A")));
    }

    #[test]
    fn a_module_to_save_that_matches_nothing_is_named() {
        let also = ["LayerNorm".to_owned(), "layernorm".to_owned()];
        assert_eq!(Layout::new(&spec(), Tuning::Head, &also), Err("layernorm".to_owned()));
    }

    #[test]
    fn slices_partition_the_flat_vector() {
        let layout = Layout::new(&spec(), Tuning::Full, &[]).expect("nothing is named");
        let theta: Vec<f32> = (0..layout.dim()).map(|i| i as f32).collect();
        let mut next = 0.0;
        for (parameter, slice) in layout.slices(&theta) {
            assert_eq!((slice.len(), slice[0]), (parameter.len(), next));
            next += parameter.len() as f32;
        }
        assert_eq!(next as usize, layout.dim());
    }
}
