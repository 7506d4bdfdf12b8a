//! A role's programs and weights.

use std::io::{Read, Write};
use std::process::ExitCode;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sprint_mpc_core::{
    Advance, Dealer, DealerChunk, DealerMachine, Inputs, MachineError, MaterialSource, OpenedWeights, Party, PartyId,
    PartyMachine, PrivateWeights, Program, PublicWeights, WeightMasks, WeightOpening,
};
use zeroize::Zeroizing;

use super::model::{Holder, ModelFiles, Weights};
use super::setup::{Compiled, GateSetup, MATERIAL_SEED};
use crate::error::RoleError;
use crate::roles::role_main;
use crate::workload::{Dealing, Evaluation, OPENING_SEED, Opening, PartyInput, ProgramShape, Workload};
use crate::{Digest, Role};

/// A role's part of the configuration.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct GateConfig {
    pub(crate) setup: GateSetup,
    /// For parties only.
    pub(crate) files: Option<ModelFiles>,
}

/// The main function of a role's process with real programs: what the hidden command `mpc-role` calls.
pub fn gate_role_main(role: Role, stdin: impl Read + Send + 'static, stdout: impl Write + Send + 'static) -> ExitCode {
    role_main(role, stdin, stdout, load)
}

fn load(role: Role, config: &serde_json::Value) -> Result<Arc<dyn Workload>, RoleError> {
    let GateConfig { setup, files } = serde_json::from_value(config.clone()).map_err(|e| RoleError::Config(e.to_string()))?;
    let compiled = setup.compile().map_err(|e| RoleError::Config(e.to_string()))?;
    let (material, weights) = match role.party() {
        // A dealer that streams makes no files.
        None => (setup.model, None),
        Some(me) => {
            let files = files.ok_or_else(|| RoleError::Config(format!("{role} has no model files")))?;
            let weights = Weights::load(Holder::of_two(me), &setup, &compiled.programs[0], &files)?;
            (weights.material, Some((Arc::new(weights.public), Arc::new(weights.private))))
        }
    };
    Ok(Arc::new(Gates { model: setup.model, material, compiled, weights }))
}

pub(super) struct Gates {
    pub(super) model: Digest,
    pub(super) material: Digest,
    pub(super) compiled: Compiled,
    /// A party's.
    pub(super) weights: Option<(Arc<PublicWeights>, Arc<PrivateWeights>)>,
}

/// A program by its number.
fn program(programs: &[Arc<Program>], number: u32) -> Result<Arc<Program>, MachineError> {
    let program = programs.get(number as usize).cloned();
    program.ok_or_else(|| MachineError::Input(format!("program {number} does not exist")))
}

impl Workload for Gates {
    fn model(&self) -> Digest {
        self.model
    }

    fn material(&self) -> Digest {
        self.material
    }

    fn program(&self) -> Digest {
        self.compiled.digest
    }

    fn shapes(&self) -> &[ProgramShape] {
        &self.compiled.shapes
    }

    fn opening_bytes(&self) -> usize {
        self.compiled.programs[0].weight_frame_bytes()
    }

    fn opening(&self, me: PartyId, seed: &[u8; OPENING_SEED]) -> Result<Box<dyn Opening>, MachineError> {
        let (public, private) = self.weights.clone().ok_or(MachineError::OutOfStep("this role holds no weights"))?;
        // One weights digest serves all programs of a session, or the weights are refused when an inference begins.
        let weights = WeightOpening::new(&self.compiled.programs[0], private, me, seed)?;
        Ok(Box::new(GateOpening { weights, programs: self.compiled.programs.clone(), public, me }))
    }

    fn dealing(&self, seeds: [&[u8; OPENING_SEED]; 2]) -> Result<Box<dyn Dealing>, MachineError> {
        let weights = Arc::new(WeightMasks::new(&self.compiled.programs[0], seeds));
        Ok(Box::new(GateDealing { weights, programs: self.compiled.programs.clone() }))
    }
}

/// A party's private weights while they are opened.
struct GateOpening {
    weights: WeightOpening,
    programs: Vec<Arc<Program>>,
    public: Arc<PublicWeights>,
    me: PartyId,
}

impl Opening for GateOpening {
    fn frame(&self) -> Vec<u8> {
        self.weights.frame()
    }

    fn finish(self: Box<Self>, peer: &[u8]) -> Result<Box<dyn Evaluation>, MachineError> {
        let Self { weights, programs, public, me } = *self;
        Ok(Box::new(GateEvaluation { private: Arc::new(weights.finish(peer)?), programs, public, me }))
    }
}

/// A party with its private weights opened.
struct GateEvaluation {
    private: Arc<OpenedWeights>,
    programs: Vec<Arc<Program>>,
    public: Arc<PublicWeights>,
    me: PartyId,
}

impl Evaluation for GateEvaluation {
    fn party(&self, number: u32, input: PartyInput) -> Result<Box<dyn PartyMachine>, MachineError> {
        let program = program(&self.programs, number)?;
        let inputs = Inputs::from_bytes(&program, &input.share)?;
        let (public, private, me) = (Arc::clone(&self.public), Arc::clone(&self.private), self.me);
        Ok(Box::new(Seeded::Waiting(Some(Start { program, public, private, me, inputs }))))
    }
}

/// A dealer with the masks of the private weights.
struct GateDealing {
    weights: Arc<WeightMasks>,
    programs: Vec<Arc<Program>>,
}

impl Dealing for GateDealing {
    fn dealer(&self, number: u32) -> Result<Box<dyn DealerMachine>, MachineError> {
        let mut seeds = [0, 1].map(|_| Zeroizing::new([0; MATERIAL_SEED]));
        for seed in &mut seeds {
            getrandom::fill(&mut **seed).map_err(|e| MachineError::Material(e.to_string()))?;
        }
        let dealer = Dealer::new(program(&self.programs, number)?, Arc::clone(&self.weights), [&seeds[0], &seeds[1]]);
        Ok(Box::new(SeedFirst { seeds: Some(seeds), dealer }))
    }
}

/// A party's machine, which begins by taking its seed from the front of its material.
enum Seeded {
    Waiting(Option<Start>),
    Running(Box<Party>),
}

struct Start {
    program: Arc<Program>,
    public: Arc<PublicWeights>,
    private: Arc<OpenedWeights>,
    me: PartyId,
    inputs: Inputs,
}

impl PartyMachine for Seeded {
    fn advance(&mut self, material: &mut dyn MaterialSource) -> Result<Advance, MachineError> {
        if let Self::Waiting(start) = self {
            let seed = Zeroizing::new(material.take(MATERIAL_SEED)?);
            let seed: Zeroizing<[u8; MATERIAL_SEED]> =
                Zeroizing::new(seed[..].try_into().map_err(|_| MachineError::Material("a seed of another length".into()))?);
            let Start { program, public, private, me, inputs } =
                start.take().ok_or(MachineError::OutOfStep("the start failed before"))?;
            *self = Self::Running(Box::new(Party::new(program, public, private, me, &seed, inputs)));
        }
        match self {
            Self::Running(party) => party.advance(material),
            Self::Waiting(_) => Err(MachineError::OutOfStep("the start failed before")),
        }
    }

    fn absorb(&mut self, peer: &[u8]) -> Result<(), MachineError> {
        match self {
            Self::Running(party) => party.absorb(peer),
            Self::Waiting(_) => Err(MachineError::OutOfStep("no frame is due before the first round")),
        }
    }
}

/// The dealer's machine, whose first chunk is the parties' seeds.
struct SeedFirst {
    seeds: Option<[Zeroizing<[u8; MATERIAL_SEED]>; 2]>,
    dealer: Dealer,
}

impl DealerMachine for SeedFirst {
    fn next_chunk(&mut self) -> Result<Option<DealerChunk>, MachineError> {
        if let Some(seeds) = self.seeds.take() {
            return Ok(Some(DealerChunk { index: 0, to_party: seeds.map(|s| s.to_vec()) }));
        }
        let chunk = self.dealer.next_chunk()?;
        Ok(chunk.map(|c| DealerChunk { index: c.index + 1, to_party: c.to_party }))
    }
}
