//! What all roles know of a session's programs.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sprint_model::{Calibration, ModelSpec, WeightPolicy};
use sprint_mpc_core::{CompileError, Mode, Options, Program, ReplicatedProgram, compile};

use crate::Digest;
use crate::workload::{ProgramShape, RoundShape};

/// Bytes of the seed that begins each party's material.
pub(crate) const MATERIAL_SEED: usize = 32;

/// One batch and length bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProgramSize {
    /// Examples in a batch.
    pub batch: usize,
    /// Padded tokens of each.
    pub tokens: usize,
}

/// Everything public about a session's programs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GateSetup {
    /// The model's shape.
    pub spec: ModelSpec,
    /// Which weights are hidden.
    pub policy: WeightPolicy,
    /// Which gates.
    pub mode: Mode,
    /// The public ranges that [`Mode::Calibrated`] relies on.
    #[serde(default)]
    pub calibration: Option<Calibration>,
    /// The programs, in the order of their numbers.
    pub sizes: Vec<ProgramSize>,
    /// Digest of the shared model.
    pub model: Digest,
}

/// The programs of a setup, compiled.
pub(crate) struct Compiled {
    pub(crate) programs: Vec<Arc<Program>>,
    pub(crate) shapes: Vec<ProgramShape>,
    /// The programs' forms for three servers, where that is the mode.
    pub(crate) plans: Vec<Arc<ReplicatedProgram>>,
    pub(crate) digest: Digest,
}

impl GateSetup {
    /// Compiles every program. Each role does so for itself; the handshake compares the digests.
    pub(crate) fn compile(&self) -> Result<Compiled, CompileError> {
        if self.sizes.is_empty() {
            return Err(CompileError::Shape("a session needs at least one program".into()));
        }
        let ranges = self.calibration.as_ref();
        let programs = self.sizes.iter().map(|size| compile_one(&self.spec, self.policy, self.mode, ranges, *size).map(Arc::new));
        let programs = programs.collect::<Result<Vec<_>, _>>()?;
        let three = self.mode == Mode::ThreeServer;
        let plans = programs.iter().filter(|_| three).map(|p| ReplicatedProgram::new(Arc::clone(p)).map(Arc::new));
        let plans = plans.collect::<Result<Vec<_>, _>>()?;
        let mut hasher = blake3::Hasher::new_derive_key("sprint-flow session programs v1");
        let digests = programs.iter().map(|p| p.digest()).filter(|_| !three).chain(plans.iter().map(|p| p.digest()));
        for digest in digests {
            hasher.update(&digest);
        }
        let digest = Digest::new(*hasher.finalize().as_bytes());
        let shapes = if three {
            plans.iter().map(|p| interface(p.program())).collect()
        } else {
            programs.iter().map(|p| shape(p)).collect()
        };
        Ok(Compiled { programs, shapes, plans, digest })
    }
}

pub(crate) fn compile_one(
    spec: &ModelSpec,
    policy: WeightPolicy,
    mode: Mode,
    ranges: Option<&Calibration>,
    size: ProgramSize,
) -> Result<Program, CompileError> {
    compile(spec, &Options::new(mode, policy, size.batch, size.tokens).with_calibration(ranges.cloned()))
}

/// A program's interface, without costs: those of three servers are [`ReplicatedProgram::rounds`].
fn interface(program: &Program) -> ProgramShape {
    ProgramShape {
        input_words: program.input_len() / 8,
        public_bytes: 0,
        output_words: program.output_len() / 8,
        rounds: Vec::new(),
        dealer_bytes: [0; 2],
    }
}

fn shape(program: &Program) -> ProgramShape {
    let round = |r: sprint_mpc_core::RoundName| {
        let bytes = usize::try_from(r.bytes).expect("a frame fits memory");
        RoundShape { bytes: [bytes; 2], part: r.part, gate: r.gate.to_owned() }
    };
    ProgramShape {
        rounds: program.rounds().into_iter().map(round).collect(),
        dealer_bytes: program.cost().dealer_bytes.map(|bytes| bytes + MATERIAL_SEED as u64),
        ..interface(program)
    }
}
