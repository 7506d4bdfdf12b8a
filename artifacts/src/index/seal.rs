//! The seal: a digest over every file of a closed index.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use crate::digest::{Digest, Hasher};
use crate::encode::Value;

/// The version of what the index holds; another one makes it be built again.
const VERSION: u32 = 1;

/// Whether the index in `dir` is exactly what the process that closed it left.
pub(super) fn is_intact(dir: &Path, seal: &Path) -> bool {
    let Ok(found) = fs::read_to_string(seal) else { return false };
    digest_of(dir).is_ok_and(|digest| digest.to_string() == found)
}

/// Seals a closed index.
pub(super) fn write(dir: &Path, seal: &Path) -> io::Result<()> {
    fs::write(seal, digest_of(dir)?.to_string())
}

fn digest_of(dir: &Path) -> io::Result<Digest> {
    let mut files = BTreeMap::new();
    collect(dir, dir, &mut files)?;
    Ok(Digest::of(&Value::map([("version", VERSION.into()), ("files", Value::Map(files))]).to_bytes()))
}

fn collect(root: &Path, dir: &Path, files: &mut BTreeMap<String, Value>) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let path: PathBuf = entry?.path();
        if fs::symlink_metadata(&path)?.is_dir() {
            collect(root, &path, files)?;
        } else {
            let mut hasher = Hasher::new();
            io::copy(&mut File::open(&path)?, &mut hasher)?;
            let name = path.strip_prefix(root).unwrap_or(&path).to_string_lossy().into_owned();
            files.insert(name, hasher.finish().into());
        }
    }
    Ok(())
}
