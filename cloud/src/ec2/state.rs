//! The note of a lease: what is about to be launched, on the disk before the call.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::Ec2Error;

const VERSION: u32 = 2;

/// What is about to be launched.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Note {
    version: u32,
    pub(super) attempt: u32,
    /// When the machines expire: part of the call, so a repeated call must say the same.
    pub(super) expires_unix_s: u64,
    /// The image in each region, looked up once: a newer one must not change a repeated call.
    pub(super) images: BTreeMap<String, ImageNote>,
    /// What a machine costs an hour at most, as far as that is known; the bid for a spot machine.
    pub(super) usd_per_hour: Option<f64>,
    /// Each role's region, token and, once it is known, machine.
    pub(super) roles: BTreeMap<String, RoleNote>,
}

/// An image, and the name that its root volume goes by.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ImageNote {
    pub(super) id: String,
    pub(super) root: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RoleNote {
    pub(super) region: String,
    pub(super) generation: u32,
    /// When the launching call was made last; a machine may stay invisible for a while after that.
    pub(super) called_unix_ms: Option<u64>,
    pub(super) instance: Option<String>,
}

impl Note {
    pub(super) fn new(
        attempt: u32,
        expires_unix_s: u64,
        images: BTreeMap<String, ImageNote>,
        usd_per_hour: Option<f64>,
        roles: &BTreeMap<String, String>,
    ) -> Self {
        let role = |region: &String| RoleNote { region: region.clone(), generation: 0, called_unix_ms: None, instance: None };
        let roles = roles.iter().map(|(name, region)| (name.clone(), role(region))).collect();
        Self { version: VERSION, attempt, expires_unix_s, images, usd_per_hour, roles }
    }

    /// The note at `path`; `None` if there is none.
    pub(super) fn read(path: &Path) -> Result<Option<Self>, Ec2Error> {
        let failed = |source| Ec2Error::Note { path: path.to_owned(), source };
        let bytes = match fs::read(path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other.map_err(failed)?,
        };
        let note: Self = serde_json::from_slice(&bytes).map_err(|e| failed(e.into()))?;
        if note.version != VERSION {
            return Err(failed(io::Error::other(format!("version {} is not {VERSION}", note.version))));
        }
        Ok(Some(note))
    }

    /// Writes it durably.
    pub(super) fn write(&self, path: &Path) -> Result<(), Ec2Error> {
        let write = || -> io::Result<()> {
            let fresh = path.with_extension("new");
            let mut file = File::create(&fresh)?;
            file.write_all(&serde_json::to_vec_pretty(self)?)?;
            file.sync_all()?;
            fs::rename(&fresh, path)?;
            File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()
        };
        write().map_err(|source| Ec2Error::Note { path: path.to_owned(), source })
    }

    pub(super) fn remove(path: &Path) -> Result<(), Ec2Error> {
        match fs::remove_file(path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(Ec2Error::Note { path: PathBuf::from(path), source: e }),
            _ => Ok(()),
        }
    }
}
