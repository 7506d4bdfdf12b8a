//! Ledgers on a remote: a charge is there before its noise can be drawn, so that it is counted whatever becomes of this machine.
//!
//! A ledger is an append-only file of lines. The remote holds the line appended at each offset, created only if absent: of two machines
//! that charge one ledger, the second is refused at its first line.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use super::{Body, Creation, Remote, RemoteError, names};
use crate::cas::{StoreError, io_error};
use crate::records::ActionKey;

/// The part of a ledger that consists of whole lines; what follows is an append that never finished.
pub(super) fn complete_lines(bytes: &[u8]) -> &[u8] {
    let end = bytes.iter().rposition(|b| *b == b'\n').map_or(0, |at| at + 1);
    &bytes[..end]
}

impl Remote {
    /// Makes a line known that was appended at `offset`. Once it returns, no crash of this machine loses the line.
    pub fn push_ledger_line(&self, key: &ActionKey, name: &str, offset: u64, line: &[u8]) -> Result<(), RemoteError> {
        match self.objects.create(&names::line(key, name, offset), Body::Bytes(line))? {
            Creation::New | Creation::Same => Ok(()),
            Creation::Other => Err(RemoteError::Diverged { name: name.to_owned(), offset }),
        }
    }

    /// Brings every ledger of an action up to date in both directions; the bytes that were new to this machine.
    pub(super) fn restore_ledgers(&self, key: &ActionKey, dir: &Path) -> Result<u64, RemoteError> {
        let mut theirs = self.remote_ledgers(key)?;
        for entry in fs::read_dir(dir).map_err(io_error("list", dir))?.flatten() {
            // Folders hold one-time material, which concerns this machine alone.
            let is_file = entry.file_type().is_ok_and(|t| t.is_file());
            if let (true, Ok(name)) = (is_file, entry.file_name().into_string())
                && is_ledger(&name)
            {
                theirs.entry(name).or_default();
            }
        }
        let mut brought = 0;
        for (name, theirs) in theirs {
            let path = dir.join(&name);
            let ours = match fs::read(&path) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => Vec::new(),
                other => other.map_err(io_error("read", &path))?,
            };
            let ours = complete_lines(&ours);
            if theirs.len() > ours.len() && theirs.starts_with(ours) {
                replace(dir, &path, &theirs)?;
                brought += (theirs.len() - ours.len()) as u64;
            } else if !ours.starts_with(&theirs) {
                let common = ours.iter().zip(&theirs).take_while(|(a, b)| a == b).count();
                return Err(RemoteError::Diverged { name, offset: common as u64 });
            } else if ours.len() > theirs.len() {
                self.push_ledger_base(key, &name, ours)?;
            }
        }
        Ok(brought)
    }

    /// The remote's ledgers: the longest base, and the lines that follow it without a gap.
    fn remote_ledgers(&self, key: &ActionKey) -> Result<BTreeMap<String, Vec<u8>>, RemoteError> {
        let folder = names::ledgers(key);
        let mut found: BTreeMap<String, (Option<u64>, Vec<u64>)> = BTreeMap::new();
        for object in self.objects.list(&folder)? {
            let Some((name, what)) = object.strip_prefix(&folder).and_then(|rest| rest.split_once('/')) else { continue };
            if !is_ledger(name) {
                continue;
            }
            let entry = found.entry(name.to_owned()).or_default();
            if let Some(length) = what.strip_prefix("base-").and_then(|n| n.parse().ok()) {
                entry.0 = entry.0.max(Some(length));
            } else if let Some(offset) = what.strip_prefix("at-").and_then(|n| n.parse().ok()) {
                entry.1.push(offset);
            }
        }
        let mut ledgers = BTreeMap::new();
        for (name, (base, offsets)) in found {
            let mut bytes = Vec::new();
            if let Some(length) = base {
                self.objects.read(&names::base(key, &name, length), &mut bytes)?;
            }
            for offset in offsets {
                if offset == bytes.len() as u64 {
                    self.objects.read(&names::line(key, &name, offset), &mut bytes)?;
                }
            }
            ledgers.insert(name, bytes);
        }
        Ok(ledgers)
    }
}

fn is_ledger(name: &str) -> bool {
    name.ends_with(".ledger") && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-'))
}

/// Replaces a ledger by a longer one that begins the same.
fn replace(dir: &Path, path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
    let fresh = path.with_extension("ledger.new");
    let write = || -> io::Result<()> {
        let mut file = File::create(&fresh)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&fresh, path)?;
        File::open(dir)?.sync_all()
    };
    write().map_err(io_error("replace", path))
}
