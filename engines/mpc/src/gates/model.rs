//! A model split for two or three parties: what all may see, and a share for each.
//!
//! ```text
//! share file   "SFSHARE1"  party u8  servers u8 (0 for two)  0×6  sharing[32]  public[32]  check[32]  words …
//! ```
//!
//! `sharing` is drawn afresh by each sharing, so shares of different sharings do not pass for a pair; `public` is the digest of the public part;
//! `check` is BLAKE3 of the words. The model's digest, which the handshake compares, is over spec, policy, mode, calibrated ranges, `public` and
//! `sharing`: words are encoded for one mode's gates, and shares do not serve another's.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sprint_model::checkpoint::{params_from_safetensors, params_to_safetensors};
use sprint_model::{Calibration, Checkpoint, ModelSpec, ParamPath, Part, TensorData, Visibility, WeightPolicy};
use sprint_mpc_core::{
    MachineError, Mode, PartyId, PrivateWeights, Program, PublicWeights, ReplicatedProgram, Server, os_randomness,
    share_weights_in_three,
};
use zeroize::Zeroizing;

use super::session::GateError;
use super::setup::{GateSetup, ProgramSize, compile_one};
use crate::Digest;
use crate::error::RoleError;

const MAGIC: &[u8; 8] = b"SFSHARE1";
const HEADER: usize = 16 + 3 * 32;
/// The largest file a party reads.
const MAX_FILE: u64 = 16 << 30;

/// The result of sharing a model.
pub struct SharedModel {
    /// The public parameters that the parties need, as safetensors: no embeddings, for the client looks those up.
    pub public: Vec<u8>,
    /// Each party's share file; a secret of that party.
    pub shares: [Zeroizing<Vec<u8>>; 2],
    /// The third server's, for gates of mode three-server.
    pub third: Option<Zeroizing<Vec<u8>>>,
    /// Names this sharing of this model.
    pub digest: Digest,
}

impl std::fmt::Debug for SharedModel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SharedModel({})", self.digest)
    }
}

/// A party's two files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelFiles {
    /// The public part.
    pub public: PathBuf,
    /// This party's share.
    pub share: PathBuf,
}

impl ModelFiles {
    /// Both parties' files where [`SharedModel::write`] puts them.
    pub fn of_both(folder: &Path) -> [Self; 2] {
        let public = folder.join("public.safetensors");
        [0, 1].map(|party| Self { public: public.clone(), share: folder.join(format!("party-{party}.share")) })
    }

    /// The third server's, of a model shared among three.
    pub fn of_third(folder: &Path) -> Self {
        Self { public: folder.join("public.safetensors"), share: folder.join("party-2.share") }
    }
}

impl SharedModel {
    /// Splits `checkpoint` by `policy`; `ranges` are those of [`Mode::Calibrated`].
    pub fn split(
        checkpoint: &Checkpoint,
        policy: WeightPolicy,
        mode: Mode,
        ranges: Option<&Calibration>,
    ) -> Result<Self, GateError> {
        checkpoint.require_complete()?;
        let spec = checkpoint.spec();
        let public = params_to_safetensors(public_params(checkpoint, policy))?;
        let mut sharing = [0; 32];
        getrandom::fill(&mut sharing).map_err(|e| RoleError::System(e.to_string()))?;
        let program = compile_one(spec, policy, mode, ranges, ProgramSize { batch: 1, tokens: 8 })?;
        let shares = PrivateWeights::share(&program, checkpoint, &mut os_randomness)?;
        let public_digest = *blake3::hash(&public).as_bytes();
        let digest = model_digest((spec, policy, mode, ranges), &public_digest, &sharing);
        let file = |holder: Holder, share: &PrivateWeights| share_file(holder, &sharing, &public_digest, &share.to_bytes());
        if mode == Mode::ThreeServer {
            // Without a form of this program for three servers, its shares are of no use.
            ReplicatedProgram::new(Arc::new(program))?;
            let [a, b, c] = share_weights_in_three(shares, &mut os_randomness);
            let [a, b, c] = [(Server::S0, a), (Server::S1, b), (Server::S2, c)].map(|(s, w)| file(Holder::of_three(s), &w));
            return Ok(Self { public, shares: [a, b], third: Some(c), digest });
        }
        let [a, b] = &shares;
        let shares = [file(Holder::of_two(PartyId::P0), a), file(Holder::of_two(PartyId::P1), b)];
        Ok(Self { public, shares, third: None, digest })
    }

    /// Writes all files into `folder`, the shares for their owner's eyes only; a third server's is where [`ModelFiles::of_third`] says.
    pub fn write(&self, folder: &Path) -> io::Result<[ModelFiles; 2]> {
        let both = ModelFiles::of_both(folder);
        fs::write(&both[0].public, &self.public)?;
        for (files, bytes) in both.iter().zip(&self.shares) {
            write_private(&files.share, bytes)?;
        }
        if let Some(third) = &self.third {
            write_private(&ModelFiles::of_third(folder).share, third)?;
        }
        Ok(both)
    }
}

/// Writes a file that only its owner can read.
pub fn write_private(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// Whose a share file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Holder {
    index: u8,
    /// 0 where two hold shares.
    servers: u8,
}

impl Holder {
    pub(crate) fn of_two(me: PartyId) -> Self {
        Self { index: me.index() as u8, servers: 0 }
    }

    pub(crate) fn of_three(me: Server) -> Self {
        Self { index: me.index() as u8, servers: 3 }
    }

    fn header(self) -> [u8; 8] {
        [self.index, self.servers, 0, 0, 0, 0, 0, 0]
    }
}

/// A party's weights, ready for all programs of a session.
pub(crate) struct Weights {
    pub(crate) public: PublicWeights,
    pub(crate) private: PrivateWeights,
    /// What material made ahead is bound to.
    pub(crate) material: Digest,
}

impl Weights {
    /// Reads and checks both files against the digest that the session names.
    pub(crate) fn load(me: Holder, setup: &GateSetup, program: &Program, files: &ModelFiles) -> Result<Self, RoleError> {
        let GateSetup { spec, policy, mode, calibration, model: expected, .. } = setup;
        let (policy, expected) = (*policy, *expected);
        let share = Zeroizing::new(read(&files.share)?);
        let share =
            ShareFile::parse(&share, me).map_err(|what| RoleError::Config(format!("{}: {what}", files.share.display())))?;
        let bytes = read(&files.public)?;
        let parameters = *blake3::hash(&bytes).as_bytes();
        let material = public_digest(spec, policy, &parameters);
        let about = (spec, policy, *mode, calibration.as_ref());
        let actual = model_digest(about, &parameters, share.sharing);
        if actual != expected || &parameters != share.public {
            return Err(RoleError::Model { expected, actual });
        }
        let unfit = |e: String| RoleError::Config(format!("{}: {e}", files.public.display()));
        let name = files.public.display().to_string();
        let params = params_from_safetensors(&name, &bytes).map_err(|e| unfit(e.to_string()))?;
        drop(bytes);
        let checkpoint = Checkpoint::part(&name, spec.clone(), params).map_err(|e| unfit(e.to_string()))?;
        let machine = |e: MachineError| unfit(e.to_string());
        let public = PublicWeights::prepare(program, &checkpoint).map_err(machine)?;
        let private = PrivateWeights::from_bytes(program, share.words).map_err(machine)?;
        Ok(Self { public, private, material })
    }
}

fn read(path: &Path) -> Result<Vec<u8>, RoleError> {
    let failed = |source| RoleError::File { path: path.to_owned(), source };
    let len = fs::metadata(path).map_err(failed)?.len();
    if len > MAX_FILE {
        return Err(failed(io::ErrorKind::FileTooLarge.into()));
    }
    fs::read(path).map_err(failed)
}

fn public_params(checkpoint: &Checkpoint, policy: WeightPolicy) -> BTreeMap<&ParamPath, &TensorData> {
    let parameters = checkpoint.spec().parameters();
    let kept = parameters.iter().filter(|p| p.part != Part::Embeddings && policy.visibility(p) == Visibility::Public);
    kept.filter_map(|p| checkpoint.params().get_key_value(&p.path)).collect()
}

/// What material made ahead is bound to: everything about a model but its private part.
pub(super) fn material_digest(checkpoint: &Checkpoint, policy: WeightPolicy) -> Result<Digest, GateError> {
    let public = params_to_safetensors(public_params(checkpoint, policy))?;
    Ok(public_digest(checkpoint.spec(), policy, blake3::hash(&public).as_bytes()))
}

fn public_digest(spec: &ModelSpec, policy: WeightPolicy, public: &[u8; 32]) -> Digest {
    let text = serde_json::to_vec(&(spec, policy)).expect("a spec is numbers and names");
    let mut hasher = blake3::Hasher::new_derive_key("sprint-flow public model v1");
    hasher.update(&(text.len() as u64).to_le_bytes()).update(&text).update(public);
    Digest::new(*hasher.finalize().as_bytes())
}

/// What a sharing is of, its parameters aside.
type About<'a> = (&'a ModelSpec, WeightPolicy, Mode, Option<&'a Calibration>);

fn model_digest(about: About<'_>, public: &[u8; 32], sharing: &[u8; 32]) -> Digest {
    let text = serde_json::to_vec(&about).expect("a spec and ranges are numbers and names");
    let mut hasher = blake3::Hasher::new_derive_key("sprint-flow shared model v2");
    hasher.update(&(text.len() as u64).to_le_bytes()).update(&text).update(public).update(sharing);
    Digest::new(*hasher.finalize().as_bytes())
}

fn share_file(me: Holder, sharing: &[u8; 32], public: &[u8; 32], words: &[u8]) -> Zeroizing<Vec<u8>> {
    let mut file = Zeroizing::new(Vec::with_capacity(HEADER + words.len()));
    file.extend_from_slice(MAGIC);
    file.extend_from_slice(&me.header());
    file.extend_from_slice(sharing);
    file.extend_from_slice(public);
    file.extend_from_slice(blake3::hash(words).as_bytes());
    file.extend_from_slice(words);
    file
}

/// A share file's parts.
struct ShareFile<'a> {
    sharing: &'a [u8; 32],
    public: &'a [u8; 32],
    words: &'a [u8],
}

impl<'a> ShareFile<'a> {
    fn parse(bytes: &'a [u8], me: Holder) -> Result<Self, &'static str> {
        let (header, words) = bytes.split_at_checked(HEADER).ok_or("cut short")?;
        if header[..8] != MAGIC[..] {
            return Err("not a share file");
        }
        if header[9] != me.servers {
            return Err("a share of a model shared among another number of servers");
        }
        if header[8..16] != me.header() {
            return Err("another party's share");
        }
        let field = |at: usize| header[at..at + 32].try_into().expect("32 bytes within a header");
        if field(80) != blake3::hash(words).as_bytes() {
            return Err("damaged");
        }
        Ok(Self { sharing: field(16), public: field(48), words })
    }
}
