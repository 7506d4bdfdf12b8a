//! The client's side of real programs: text batches in, logits out.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sprint_model::{Batch, CheckpointError};
use sprint_mpc_core::{CompileError, MachineError, Mode, Program, decode_answers, encode_inputs};

use super::model::ModelFiles;
use super::setup::{Compiled, GateSetup};
use super::workload::GateConfig;
use crate::error::RoleError;
use crate::local::{ClientSide, FleetError, FleetMeter, FleetOptions, LocalFleet, RolePlace};
use crate::net::LinkShape;
use crate::request::{SharedInput, bytes_of};
use crate::roles::Limits;
use crate::{BatchId, Digest, MaterialBatch, Role};

/// What a session on this machine is made of.
#[derive(Debug, Clone)]
pub struct SessionOptions {
    /// The program to run roles with; it must call [`crate::gate_role_main`].
    pub binary: PathBuf,
    /// Arguments before the role's name.
    pub args: Vec<String>,
    /// Model and programs.
    pub setup: GateSetup,
    /// Each party's files.
    pub files: [ModelFiles; 2],
    /// The third server's, for gates of mode three-server.
    pub third: Option<ModelFiles>,
    /// Folder of the parties' ledgers.
    pub ledgers: PathBuf,
    /// The link between the parties, and of the client to both.
    pub link: LinkShape,
    /// The dealer's links.
    pub dealer_link: LinkShape,
    /// Limits of all roles.
    pub limits: Limits,
    /// Program numbers of the requests to come.
    pub plan: Vec<u32>,
    /// The program of all requests after those, if that is known: material for them is made ahead, too.
    pub standing: Option<u32>,
    /// A folder of material made ahead; with one, there is no dealer.
    pub material: Option<PathBuf>,
}

/// Why a session does not answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GateError {
    /// The model has no program.
    #[error(transparent)]
    Compile(#[from] CompileError),
    /// The weights do not fit.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// Encoding or decoding.
    #[error(transparent)]
    Machine(#[from] MachineError),
    /// A role.
    #[error(transparent)]
    Fleet(#[from] FleetError),
    /// This process.
    #[error(transparent)]
    Role(#[from] RoleError),
}

/// Three processes that evaluate one model, two parties and a dealer or three servers, and their client.
pub struct GateSession {
    fleet: LocalFleet,
    programs: Vec<Arc<Program>>,
    three: bool,
}

impl GateSession {
    /// Starts the processes. Must not be called from inside an asynchronous runtime.
    pub fn launch(options: &SessionOptions) -> Result<Self, GateError> {
        Self::launch_at(options, &BTreeMap::new())
    }

    /// As [`GateSession::launch`], with some roles in other places; the paths of `files` are those that each party sees.
    pub fn launch_at(options: &SessionOptions, places: &BTreeMap<Role, RolePlace>) -> Result<Self, GateError> {
        let three = options.setup.mode == Mode::ThreeServer;
        if three != options.third.is_some() || three && options.material.is_some() {
            let what = "gates of mode three-server take three servers' files and no material, others two parties'";
            return Err(RoleError::Config(what.into()).into());
        }
        let Compiled { programs, shapes, digest, .. } = options.setup.compile()?;
        let batch = match &options.material {
            Some(folder) => batch_of(folder, digest)?,
            None => BatchId::random().map_err(|e| RoleError::System(e.to_string()))?,
        };
        let fleet = FleetOptions {
            binary: options.binary.clone(),
            args: options.args.clone(),
            workload: configs(options)?,
            batch,
            material: options.material.clone(),
            three,
            ledgers: options.ledgers.clone(),
            link: options.link,
            dealer_link: options.dealer_link,
            limits: options.limits,
            plan: options.plan.clone(),
            standing: options.standing,
        };
        let side = ClientSide { model: options.setup.model, program: digest, shapes };
        Ok(Self { fleet: LocalFleet::launch_at(&fleet, side, places)?, programs, three })
    }

    /// Has the material of the next batch fetched, so that [`GateSession::infer`] is online work only.
    pub fn prepare(&mut self, program: u32) -> Result<(), GateError> {
        Ok(self.fleet.prepare(program)?)
    }

    /// Logits `[batch][outputs]`. `batch` has the size of program number `program`; `embedded` is its clear embedding output,
    /// `[batch, tokens, hidden]`. Neither leaves this process unshared. One example that raises an alarm refuses the whole batch.
    pub fn infer(&mut self, program: u32, batch: &Batch, embedded: &[f32]) -> Result<Vec<Vec<f32>>, GateError> {
        let answers = self.answer(program, batch, embedded)?;
        let logits = answers.into_iter().enumerate().map(|(example, a)| a.ok_or(MachineError::OutOfRange { example }));
        Ok(logits.collect::<Result<_, _>>()?)
    }

    /// As [`GateSession::infer`], with nothing in place of the logits of an example that left a calibrated range.
    pub fn answer(&mut self, program: u32, batch: &Batch, embedded: &[f32]) -> Result<Vec<Option<Vec<f32>>>, GateError> {
        let compiled = self.programs.get(program as usize).ok_or_else(|| MachineError::Input(format!("no program {program}")))?;
        let input = encode_inputs(compiled, batch, embedded)?;
        let less_masks = |mask: &mut dyn FnMut(&mut [u64])| {
            let [_, rest] = input.share(mask);
            rest
        };
        let shared = if self.three { SharedInput::in_three(less_masks) } else { SharedInput::with_masks(&[], less_masks) };
        let words = self.fleet.infer(program, shared.map_err(|e| RoleError::System(e.to_string()))?)?;
        // The words are the sum already; as a share, its partner is 0.
        let words = bytes_of(&words);
        Ok(decode_answers(compiled, [&words, &vec![0; words.len()]])?)
    }

    /// The process ids of party 0, party 1 and, if there is one, the dealer.
    pub fn pids(&self) -> Vec<u32> {
        self.fleet.pids()
    }

    /// Ends the session and collects every role's account.
    pub fn finish(self) -> Result<FleetMeter, GateError> {
        Ok(self.fleet.finish()?)
    }
}

/// The batch in a folder; the parties compare everything else that it is bound to with what they hold.
fn batch_of(folder: &Path, programs: Digest) -> Result<BatchId, RoleError> {
    let about = MaterialBatch::read(folder)?;
    if about.programs != programs {
        let what = format!("{}: made for other programs: another shape, mode, batch or length", folder.display());
        return Err(RoleError::Material { inference: 0, what });
    }
    Ok(about.batch)
}

/// Each role's part: the dealer gets shapes, a party its own files.
fn configs(options: &SessionOptions) -> Result<BTreeMap<Role, serde_json::Value>, GateError> {
    let [files0, files1] = options.files.clone().map(Some);
    let third = options.third.clone();
    let roles = [(Role::Party0, files0), (Role::Party1, files1), (Role::Dealer, None), (Role::Party2, third)];
    let configs = roles.into_iter().map(|(role, files)| {
        let config = serde_json::to_value(GateConfig { setup: options.setup.clone(), files });
        Ok((role, config.map_err(|e| RoleError::Config(e.to_string()))?))
    });
    configs.collect()
}
