//! Where each trained parameter lies in the flat vector that optimisers and mechanisms work on.

use std::collections::BTreeMap;

use sprint_model::{ModelSpec, ParamPath, Parameter, Part, Tuning};

use crate::basis::Basis;

/// The trained parameters in the model's order, concatenated.
#[derive(Debug, Clone, PartialEq)]
pub struct Layout {
    parameters: Vec<Parameter>,
    offsets: Vec<usize>,
    dim: usize,
    /// Of the parameters that are trained within a subspace: the flat vector holds `R`, their value is `U·R`.
    bases: BTreeMap<ParamPath, Basis>,
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
        Ok(Self::of(all.into_iter().filter(trained).collect(), BTreeMap::new()))
    }

    fn of(parameters: Vec<Parameter>, bases: BTreeMap<ParamPath, Basis>) -> Self {
        let mut offsets = Vec::with_capacity(parameters.len());
        let mut dim = 0;
        for parameter in &parameters {
            offsets.push(dim);
            dim += parameter.len();
        }
        Self { parameters, offsets, dim, bases }
    }

    /// The same parameters, those that have a basis as `U·R` with `R[width, columns]` in the flat vector.
    pub(crate) fn within(self, bases: BTreeMap<ParamPath, Basis>) -> Self {
        let mut parameters = self.parameters;
        for parameter in &mut parameters {
            if let Some(basis) = bases.get(&parameter.path) {
                parameter.shape[0] = basis.width;
            }
        }
        Self::of(parameters, bases)
    }

    /// The subspace that a parameter is trained in, if not the whole.
    pub(crate) fn basis(&self, path: &ParamPath) -> Option<&Basis> {
        self.bases.get(path)
    }

    /// All subspaces, in the order of their parameters' names.
    pub(crate) fn bases(&self) -> &BTreeMap<ParamPath, Basis> {
        &self.bases
    }

    /// The same subspaces with the values that a snapshot holds, one after the other; another machine may have rounded them differently.
    /// `None` if there are not so many.
    pub(crate) fn with_bases(mut self, values: &[f32]) -> Option<Self> {
        let mut rest = values;
        for basis in self.bases.values_mut() {
            let (own, after) = rest.split_at_checked(basis.values.len())?;
            (basis.values, rest) = (own.into(), after);
        }
        rest.is_empty().then_some(self)
    }

    /// A parameter's shape and value, given its slice of the flat vector.
    pub(crate) fn value(&self, parameter: &Parameter, slice: &[f32]) -> (Vec<usize>, Vec<f32>) {
        match self.basis(&parameter.path) {
            Some(basis) => (vec![basis.outputs, parameter.shape[1]], basis.expand(slice)),
            None => (parameter.shape.clone(), slice.to_vec()),
        }
    }

    /// The length of the flat vector.
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// The trained parameters, in order, with the shapes that they have in the flat vector.
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
        spec.lora = Some(LoraSpec::new(4, 8.0, TargetModules::default()));
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
