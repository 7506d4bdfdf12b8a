//! Manifests: an artifact is a sorted list of named files with their digests, a kind and a secrecy label.
//!
//! The artifact's name is the digest of its manifest's canonical bytes, so it commits to every byte of every file, to the
//! kind, to the label and to the metadata (a Merkle tree of depth two). No time, owner or path of a machine occurs in it.

mod builder;
mod name;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use serde::Serialize;

pub use builder::ManifestBuilder;
pub(crate) use builder::Source;
pub use name::NameError;
use name::check_names;

use crate::digest::{Digest, digest_newtype};
use crate::encode::{DecodeError, FieldError, Fields, Value};
use crate::secrecy::Secrecy;

/// The version of the manifest's structure; part of its bytes.
const VERSION: u32 = 1;

digest_newtype! {
    /// The name of an artifact: the digest of its manifest's canonical bytes.
    ArtifactId
}

/// One file of an artifact.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FileEntry {
    pub(super) name: String,
    pub(super) size: u64,
    pub(super) executable: bool,
    pub(super) digest: Digest,
}

impl FileEntry {
    /// The file's name: a relative path with `/` between its components.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its length in bytes.
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// Whether it is a program.
    pub const fn is_executable(&self) -> bool {
        self.executable
    }

    /// The digest of its bytes.
    pub const fn digest(&self) -> &Digest {
        &self.digest
    }
}

/// What an artifact consists of.
///
/// Invariant: names are valid, distinct, and sorted bytewise; no name is a folder of another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Manifest {
    kind: String,
    secrecy: Secrecy,
    files: Vec<FileEntry>,
    meta: BTreeMap<String, Value>,
}

/// Why something is not a manifest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ManifestError {
    /// A file's name is not allowed.
    #[error("file name {name:?}: {reason}")]
    Name {
        /// The name.
        name: String,
        /// What is wrong with it.
        reason: NameError,
    },
    /// The kind is not `name@version`.
    #[error("artifact kind {kind:?} is not of the form name@version, such as \"dataset@1\"")]
    Kind {
        /// The kind.
        kind: String,
    },
    /// The files are not sorted by name.
    #[error("file {name:?} is out of order")]
    Order {
        /// The first file that is out of order.
        name: String,
    },
    /// The bytes are not a canonical encoding.
    #[error("the manifest is not canonically encoded")]
    Decode(#[from] DecodeError),
    /// The value is not a manifest.
    #[error("the manifest has the wrong structure")]
    Structure(#[from] FieldError),
    /// A later version wrote it.
    #[error("the manifest has version {found}; this program reads version {VERSION}")]
    Version {
        /// Its version.
        found: u32,
    },
}

impl Manifest {
    /// Begins a manifest of this kind and label.
    pub fn builder(kind: impl Into<String>, secrecy: Secrecy) -> ManifestBuilder {
        ManifestBuilder::new(kind.into(), secrecy)
    }

    pub(crate) fn new(
        kind: String,
        secrecy: Secrecy,
        mut files: Vec<FileEntry>,
        meta: BTreeMap<String, Value>,
    ) -> Result<Self, ManifestError> {
        files.sort_by(|a, b| a.name.as_bytes().cmp(b.name.as_bytes()));
        let manifest = Self { kind, secrecy, files, meta };
        manifest.check()?;
        Ok(manifest)
    }

    fn check(&self) -> Result<(), ManifestError> {
        if !name::is_kind(&self.kind) {
            return Err(ManifestError::Kind { kind: self.kind.clone() });
        }
        if let Some(pair) = self.files.windows(2).find(|pair| pair[0].name.as_bytes() > pair[1].name.as_bytes()) {
            return Err(ManifestError::Order { name: pair[1].name.clone() });
        }
        check_names(self.files.iter().map(FileEntry::name)).map_err(|(name, reason)| ManifestError::Name { name, reason })
    }

    /// The kind, such as `dataset@1`.
    pub fn kind(&self) -> &str {
        &self.kind
    }

    /// The label.
    pub const fn secrecy(&self) -> Secrecy {
        self.secrecy
    }

    /// The files, sorted bytewise by name.
    pub fn files(&self) -> &[FileEntry] {
        &self.files
    }

    /// The file of this name.
    pub fn file(&self, name: &str) -> Option<&FileEntry> {
        let found = self.files.binary_search_by(|f| f.name.as_bytes().cmp(name.as_bytes()));
        found.ok().map(|i| &self.files[i])
    }

    /// What the producer says about it.
    pub const fn meta(&self) -> &BTreeMap<String, Value> {
        &self.meta
    }

    /// The sum of the files' lengths.
    pub fn total_size(&self) -> u64 {
        self.files.iter().map(|f| f.size).fold(0, u64::saturating_add)
    }

    /// The artifact's name.
    pub fn id(&self) -> ArtifactId {
        ArtifactId::new(Digest::of(&self.to_bytes()))
    }

    /// The canonical bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let files = self.files.iter().map(|f| {
            Value::map([
                ("name", f.name.as_str().into()),
                ("size", f.size.into()),
                ("executable", f.executable.into()),
                ("digest", f.digest.into()),
            ])
        });
        Value::map([
            ("version", VERSION.into()),
            ("kind", self.kind.as_str().into()),
            ("secrecy", self.secrecy.to_string().into()),
            ("files", Value::Array(files.collect())),
            ("meta", Value::Map(self.meta.clone())),
        ])
        .to_bytes()
    }

    /// The manifest with these canonical bytes.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, ManifestError> {
        let mut fields = Fields::of(Value::from_bytes(bytes)?)?;
        let found = fields.int("version")?;
        if found != VERSION {
            return Err(ManifestError::Version { found });
        }
        let kind = fields.text("kind")?;
        let secrecy = fields.parsed("secrecy", "a secrecy label")?;
        let files = fields.array("files")?.into_iter().map(read_entry).collect::<Result<_, _>>()?;
        let meta = fields.map("meta")?;
        fields.finish()?;
        let manifest = Self { kind, secrecy, files, meta };
        manifest.check()?;
        Ok(manifest)
    }

    /// The artifact, if everyone may hold it.
    pub fn into_public(self) -> Result<PublicArtifact, NotPublic> {
        if self.secrecy.is_public() {
            Ok(PublicArtifact { id: self.id(), manifest: self })
        } else {
            Err(NotPublic { id: self.id(), secrecy: self.secrecy })
        }
    }
}

fn read_entry(value: Value) -> Result<FileEntry, FieldError> {
    let mut fields = Fields::of(value)?;
    let entry = FileEntry {
        name: fields.text("name")?,
        size: fields.int("size")?,
        executable: fields.boolean("executable")?,
        digest: fields.digest("digest")?,
    };
    fields.finish()?;
    Ok(entry)
}

/// An artifact that everyone may hold: the only kind that a remote accepts.
///
/// Invariant: its manifest is labelled [`Secrecy::Public`]. There is no other way to make one than
/// [`Manifest::into_public`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicArtifact {
    id: ArtifactId,
    manifest: Manifest,
}

impl PublicArtifact {
    /// The artifact's name.
    pub const fn id(&self) -> &ArtifactId {
        &self.id
    }

    /// Its manifest.
    pub const fn manifest(&self) -> &Manifest {
        &self.manifest
    }
}

/// An artifact that only its owner may hold: it leaves this machine sealed to the owner's key, or not at all.
///
/// Invariant: its manifest is labelled [`Secrecy::Secret`]. A party's share is neither this nor a [`PublicArtifact`], so that no
/// function that sends anything can be given one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretArtifact {
    id: ArtifactId,
    manifest: Manifest,
}

impl SecretArtifact {
    /// The artifact's name.
    pub const fn id(&self) -> &ArtifactId {
        &self.id
    }

    /// Its manifest.
    pub const fn manifest(&self) -> &Manifest {
        &self.manifest
    }
}

impl TryFrom<Manifest> for SecretArtifact {
    type Error = NotPublic;

    fn try_from(manifest: Manifest) -> Result<Self, Self::Error> {
        match manifest.secrecy {
            Secrecy::Secret => Ok(Self { id: manifest.id(), manifest }),
            secrecy => Err(NotPublic { id: manifest.id(), secrecy }),
        }
    }
}

impl TryFrom<Manifest> for PublicArtifact {
    type Error = NotPublic;

    fn try_from(manifest: Manifest) -> Result<Self, Self::Error> {
        manifest.into_public()
    }
}

/// An artifact that not everyone may hold was about to be shown to everyone.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("artifact {id} is labelled {secrecy}, not public; it stays on this machine")]
pub struct NotPublic {
    /// The artifact.
    pub id: ArtifactId,
    /// Its label.
    pub secrecy: Secrecy,
}
