//! Laying an artifact out as ordinary files.

use std::fs::{self, DirBuilder, File, Permissions};
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use super::error::{io_error, write_error};
use super::{Store, StoreError};
use crate::digest::Hasher;
use crate::manifest::{ArtifactId, FileEntry, Manifest};
use crate::secrecy::Secrecy;

impl Store {
    /// Copies an artifact's files into `dest`, verified while copied; files of the same names are replaced.
    ///
    /// They are copies, not links, so that whatever happens to them cannot harm the store. They are read-only, and private
    /// artifacts stay readable by their owner alone. A name appears only once its file is whole.
    pub fn materialise(&self, id: &ArtifactId, dest: &Path) -> Result<Manifest, StoreError> {
        let manifest = self.read_artifact(id)?;
        for entry in manifest.files() {
            self.lay_out(&manifest, entry, dest)?;
        }
        create_dirs(dest, manifest.secrecy())?;
        Ok(manifest)
    }

    fn lay_out(&self, manifest: &Manifest, entry: &FileEntry, dest: &Path) -> Result<(), StoreError> {
        let secrecy = manifest.secrecy();
        let to = dest.join(entry.name());
        let dir = to.parent().expect("a file lies in a folder");
        create_dirs(dir, secrecy)?;
        let mut partial = to.clone().into_os_string();
        partial.push(format!(".{}.partial", std::process::id()));
        let partial = Path::new(&partial);
        let copied = self.copy_verified(secrecy, entry, partial).and_then(|()| {
            let mode = secrecy.file_mode() | if entry.is_executable() { (secrecy.file_mode() & 0o444) >> 2 } else { 0 };
            fs::set_permissions(partial, Permissions::from_mode(mode)).map_err(io_error("set the mode of", partial))?;
            fs::rename(partial, &to).map_err(io_error("name", &to))
        });
        if copied.is_err() {
            let _ = fs::remove_file(partial);
        }
        copied
    }

    fn copy_verified(&self, secrecy: Secrecy, entry: &FileEntry, to: &Path) -> Result<(), StoreError> {
        let from = self.layout.blob(secrecy, entry.digest());
        let (mut source, _) = self.open_blob(secrecy, entry.digest())?;
        let _ = fs::remove_file(to);
        let mut options = File::options();
        let mut file = options.write(true).create_new(true).mode(0o600).open(to).map_err(io_error("create", to))?;
        let mut hasher = Hasher::new();
        let mut chunk = zeroize::Zeroizing::new(vec![0_u8; 256 * 1024]);
        loop {
            let count = match source.read(&mut chunk) {
                Ok(0) => break,
                Ok(count) => count,
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(io_error("read", &from)(e)),
            };
            let needed = entry.size().saturating_sub(hasher.length());
            file.write_all(&chunk[..count]).map_err(|e| write_error("write", to, needed, e))?;
            hasher.update(&chunk[..count]);
        }
        let (actual, length) = (hasher.finish(), hasher.length());
        if actual != *entry.digest() || length != entry.size() {
            return Err(self.quarantine(secrecy, *entry.digest(), actual, Some(entry.size()), length, &from));
        }
        file.sync_all().map_err(io_error("force to the disk", to))
    }
}

fn create_dirs(dir: &Path, secrecy: Secrecy) -> Result<(), StoreError> {
    let mut builder = DirBuilder::new();
    builder.recursive(true).mode(secrecy.dir_mode()).create(dir).map_err(io_error("create the folder", dir))
}
