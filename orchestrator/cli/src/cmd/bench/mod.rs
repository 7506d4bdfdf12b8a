//! `bench mpc|train`: how fast this machine is, by the product's own code on random weights.

mod clocks;
mod lengths;
pub(super) mod mpc;
mod train;

use std::path::Path;

use sprint_model::{Checkpoint, ModelSpec, Pooling, SpecError};
use sprint_train::HeadConfig;

use crate::args::BenchCommand;
use crate::failure::{Code, Failure};

pub(super) fn run(command: &BenchCommand) -> Result<Code, Failure> {
    match command {
        BenchCommand::Mpc(args) => mpc::run(args),
        BenchCommand::Train(args) => train::run(args),
    }
}

/// The head of the published encoders and of the baseline: the first token, a dense layer, then the classes.
fn published_head() -> HeadConfig {
    HeadConfig { pooling: Pooling::First, dense: true, ..HeadConfig::default() }
}

/// What `--model` names: a known shape, whose weights are random, or a folder.
enum Subject {
    Shape(Box<ModelSpec>),
    Folder(Box<Checkpoint>),
}

impl Subject {
    fn find(name: &str) -> Result<Self, Failure> {
        if let Some(spec) = ModelSpec::named(name) {
            return Ok(Self::Shape(Box::new(spec)));
        }
        let folder = Path::new(name);
        if !folder.is_dir() {
            return Err(Failure::usage(format!("--model {name}: neither a known shape nor a folder"))
                .help(format!("known shapes, with random weights: {}", ModelSpec::NAMES.join(", "))));
        }
        let checkpoint = Checkpoint::open(folder).map_err(|e| Failure::from_error(Code::USAGE, &e))?;
        Ok(Self::Folder(Box::new(checkpoint)))
    }

    fn spec(&self) -> &ModelSpec {
        match self {
            Self::Shape(spec) => spec,
            Self::Folder(checkpoint) => checkpoint.spec(),
        }
    }

    /// A complete checkpoint of `spec`: its own tensors where it has them, random ones elsewhere.
    fn completed(self, spec: ModelSpec) -> Result<Checkpoint, Failure> {
        let random = Checkpoint::random(spec, 1).map_err(|e: SpecError| Failure::from_error(Code::USAGE, &e))?;
        match self {
            Self::Shape(_) => Ok(random),
            Self::Folder(own) => {
                random.with_params("--model", own.into_parts().1).map_err(|e| Failure::from_error(Code::USAGE, &e))
            }
        }
    }
}

/// Token ids that are neither special nor all alike, the same at every run.
fn token_ids(vocab: usize, count: usize) -> Vec<u32> {
    let ordinary = vocab.saturating_sub(100).max(1);
    (0..count).map(|i| ((i * 7919 + 13) % ordinary + vocab.min(100)) as u32 % vocab as u32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn token_ids_are_in_the_vocabulary_whatever_its_size() {
        for vocab in [1, 7, 100, 101, 5_500, 50_265] {
            assert!(token_ids(vocab, 1000).iter().all(|id| (*id as usize) < vocab), "{vocab}");
        }
    }
}
