//! The model split for two or three parties, and what is kept of that beside material made ahead.

use std::path::Path;

use serde::{Deserialize, Serialize};
use sprint_mpc::{Digest, ModelFiles, SharedModel, write_private};
use sprint_stages::{DeployedModel, model_name};

use super::failed;
use crate::cmd::served::Gates;
use crate::failure::Failure;

const VERSION: u32 = 1;

/// A model split for the parties.
pub(super) struct Sharing {
    pub(super) files: [ModelFiles; 2],
    /// The third server's, if there are three.
    pub(super) third: Option<ModelFiles>,
    pub(super) digest: Digest,
}

/// What material made ahead was first used with.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kept {
    version: u32,
    /// Names the model.
    model: String,
    digest: Digest,
}

/// A fresh sharing, its files in `folder`.
pub(super) fn fresh(model: &DeployedModel, gates: &Gates, folder: &Path) -> Result<Sharing, Failure> {
    let ranges = gates.calibration.as_ref();
    let shared = SharedModel::split(&model.checkpoint, model.policy, gates.mode, ranges).map_err(|e| failed(&e))?;
    let files = shared.write(folder).map_err(|e| failed(&e))?;
    Ok(Sharing { files, third: shared.third.is_some().then(|| ModelFiles::of_third(folder)), digest: shared.digest })
}

/// Material masks private weights once for all of its inferences, so it serves one sharing of one model: that of the first session, which is
/// kept beside it.
pub(super) fn kept(model: &DeployedModel, gates: &Gates, material: &Path) -> Result<Sharing, Failure> {
    let folder = material.join("sharing");
    let about = folder.join("sharing.json");
    let name = model_name(&model.checkpoint);
    if about.exists() {
        let json = std::fs::read(&about).map_err(|e| failed(&e))?;
        let found: Kept =
            serde_json::from_slice(&json).map_err(|e| Failure::usage(format!("--material: {}: {e}", about.display())))?;
        if found.model != name || found.version != VERSION {
            let what = format!("--material: it was first used with the model {}, this is {name}", found.model);
            return Err(Failure::usage(what).help("`sprint-flow dealer precompute` makes material for this one"));
        }
        return Ok(Sharing { files: ModelFiles::of_both(&folder), third: None, digest: found.digest });
    }
    private_folder(&folder).map_err(|e| failed(&e))?;
    let Sharing { files, third, digest } = fresh(model, gates, &folder)?;
    // Written last: without it the sharing is unfinished, and no session has used it.
    let json = serde_json::to_vec_pretty(&Kept { version: VERSION, model: name, digest }).expect("names and a digest");
    write_private(&about, &json).map_err(|e| failed(&e))?;
    Ok(Sharing { files, third, digest })
}

fn private_folder(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}
