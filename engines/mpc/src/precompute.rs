//! The dealer without a network: material for inferences to come, written to files that are carried to the parties.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde::{Deserialize, Serialize};
use sprint_mpc_core::{DealerChunk, PartyId};

use crate::dealer::{declared, draw_seeds, shape_of};
use crate::error::RoleError;
use crate::material::{Label, SEED_INDEX, Seal, Sheet};
use crate::workload::{Dealing, Workload};
use crate::{BatchId, Digest};

/// What a batch of files is for; nothing here is secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MaterialBatch {
    version: u32,
    /// Its name; the ledgers count indexes within it.
    pub batch: BatchId,
    /// The model that it is bound to, the private part aside.
    pub model: Digest,
    /// The programs that it is bound to.
    pub programs: Digest,
    /// The program of each index, from 0.
    pub plan: Vec<u32>,
    /// Bytes of material for party 0 and party 1, all indexes together.
    pub bytes: [u64; 2],
}

/// A batch just made.
#[derive(Debug, Clone, PartialEq)]
pub struct Precomputed {
    /// What it is for.
    pub batch: MaterialBatch,
    /// How long it took, seconds.
    pub seconds: f64,
}

const VERSION: u32 = 2;
const ABOUT: &str = "batch.json";

impl MaterialBatch {
    /// Reads what a folder of material is for.
    pub fn read(folder: &Path) -> Result<Self, RoleError> {
        let path = folder.join(ABOUT);
        let bytes = fs::read(&path).map_err(|source| RoleError::File { path: path.clone(), source })?;
        let unfit = |why: String| RoleError::Config(format!("{}: {why}", path.display()));
        let about: Self = serde_json::from_slice(&bytes).map_err(|e| unfit(e.to_string()))?;
        if about.version != VERSION {
            return Err(unfit(format!("version {} where this program reads {VERSION}", about.version)));
        }
        Ok(about)
    }

    /// Party `me`'s part of a folder of material; in a deployment, all that its machine has of it.
    pub fn folder_of(folder: &Path, me: PartyId) -> PathBuf {
        folder.join(format!("party-{}", me.index()))
    }
}

/// Makes material for one inference with each program of `plan`, in order, into the empty or missing folder `folder`. The file that says
/// what the batch is for is written last: without it, the batch is unfinished.
pub fn precompute(folder: &Path, workload: &dyn Workload, plan: &[u32]) -> Result<Precomputed, RoleError> {
    let started = Instant::now();
    let failed = |source| RoleError::File { path: folder.to_owned(), source };
    fs::create_dir_all(folder).map_err(failed)?;
    if fs::read_dir(folder).map_err(failed)?.next().is_some() {
        return Err(RoleError::Config(format!("{}: not empty; material is never added to or written over", folder.display())));
    }
    let batch = BatchId::random().map_err(|e| RoleError::System(e.to_string()))?;
    let parties = [PartyId::P0, PartyId::P1].map(|me| MaterialBatch::folder_of(folder, me));
    for party in &parties {
        private_folder(party).map_err(failed)?;
    }
    let seals = [Seal::create(&parties[0])?, Seal::create(&parties[1])?];
    let label =
        |party, program, index| Label { party, program, index, batch, model: workload.material(), programs: workload.program() };
    let (opening, dealing) = draw_seeds(workload)?;
    for (me, seed) in [PartyId::P0, PartyId::P1].into_iter().zip(&opening) {
        let mut sheet = Sheet::create(&parties[me.index()], &seals[me.index()], label(me, 0, SEED_INDEX))?;
        sheet.write(seed.to_vec())?;
        sheet.finish()?;
    }
    let mut bytes = [0; 2];
    for (index, program) in (0..).zip(plan) {
        let sheet = |me: PartyId| Sheet::create(&parties[me.index()], &seals[me.index()], label(me, *program, index));
        let made = one((workload, &*dealing), *program, index, [sheet(PartyId::P0)?, sheet(PartyId::P1)?])?;
        bytes = [bytes[0] + made[0], bytes[1] + made[1]];
    }
    for party in &parties {
        fs::File::open(party).and_then(|dir| dir.sync_all()).map_err(failed)?;
    }
    let about = MaterialBatch {
        version: VERSION,
        batch,
        model: workload.material(),
        programs: workload.program(),
        plan: plan.to_vec(),
        bytes,
    };
    let text = serde_json::to_vec_pretty(&about).expect("a batch is numbers and digests");
    fs::write(folder.join(ABOUT), text).and_then(|()| fs::File::open(folder)?.sync_all()).map_err(failed)?;
    Ok(Precomputed { batch: about, seconds: started.elapsed().as_secs_f64() })
}

fn one(
    (workload, dealing): (&dyn Workload, &dyn Dealing),
    program: u32,
    index: u64,
    mut sheets: [Sheet<'_>; 2],
) -> Result<[u64; 2], RoleError> {
    let shape = shape_of(workload, program, index)?;
    let fault = |source| RoleError::Machine { inference: index, source };
    let mut machine = dealing.dealer(program).map_err(fault)?;
    let mut made = [0; 2];
    while let Some(DealerChunk { to_party, .. }) = machine.next_chunk().map_err(fault)? {
        for ((chunk, sheet), made) in to_party.into_iter().zip(&mut sheets).zip(&mut made) {
            *made += chunk.len() as u64;
            if !chunk.is_empty() {
                sheet.write(chunk)?;
            }
        }
    }
    declared(shape, index, made)?;
    for sheet in sheets {
        sheet.finish()?;
    }
    Ok(made)
}

fn private_folder(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    fs::DirBuilder::new().mode(0o700).create(path)
}
