//! Files of this machine: which they are, and one digest for all of them.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use sprint_artifacts::{Digest, Hasher};

use super::checksum::FileDigests;

/// Deeper folders are taken for a loop of links.
const MAX_DEPTH: usize = 32;
/// More files than this are taken for a mistake, such as a home folder.
const MAX_FILES: usize = 10_000;

/// A file, its name in the artifact, and its digests.
#[derive(Debug, Clone)]
pub(super) struct LocalFile {
    pub(super) name: String,
    pub(super) path: PathBuf,
    pub(super) digests: FileDigests,
}

/// The regular files at `path` (itself, or below it if it is a folder), sorted by name. Names that begin with a dot are left
/// out: they are an editor's or a version control system's.
pub(super) fn files(path: &Path) -> io::Result<Vec<LocalFile>> {
    let mut found = Vec::new();
    if fs::metadata(path)?.is_dir() {
        walk(path, "", 0, &mut found)?;
    } else {
        let name = path.file_name().and_then(|n| n.to_str());
        let name = name.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "the file's name is not UTF-8"))?;
        found.push(LocalFile { name: name.to_owned(), path: path.to_owned(), digests: FileDigests::of(path)? });
    }
    if found.is_empty() {
        return Err(io::Error::new(io::ErrorKind::NotFound, "the folder has no files"));
    }
    found.sort_by(|a, b| a.name.as_bytes().cmp(b.name.as_bytes()));
    Ok(found)
}

fn walk(folder: &Path, prefix: &str, depth: usize, found: &mut Vec<LocalFile>) -> io::Result<()> {
    if depth > MAX_DEPTH {
        return Err(io::Error::other(format!("{} is nested too deeply", folder.display())));
    }
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        let Some(name) = name.to_str() else {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{}: not UTF-8", entry.path().display())));
        };
        if name.starts_with('.') {
            continue;
        }
        let path = entry.path();
        let kind = fs::metadata(&path)?;
        let name = format!("{prefix}{name}");
        if kind.is_dir() {
            walk(&path, &format!("{name}/"), depth + 1, found)?;
        } else if kind.is_file() {
            found.push(LocalFile { name, digests: FileDigests::of(&path)?, path });
        }
        if found.len() > MAX_FILES {
            return Err(io::Error::other(format!("more than {MAX_FILES} files")));
        }
    }
    Ok(())
}

/// One digest for names and bytes of all files: `H(Σ len(name) ‖ name ‖ b3(bytes))`, independent of folder, time and mode.
pub(super) fn content_digest(files: &[LocalFile]) -> Digest {
    let mut hasher = Hasher::new();
    for file in files {
        hasher.update(&(file.name.len() as u64).to_le_bytes());
        hasher.update(file.name.as_bytes());
        hasher.update(file.digests.blake3.as_bytes());
    }
    Digest::derived("sprint-flow local source v1", hasher.finish().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder() -> tempfile::TempDir {
        let dir = tempfile::tempdir().expect("a folder");
        fs::create_dir(dir.path().join("sub")).expect("creates");
        for (name, bytes) in [("b", "1"), ("a", "2"), ("sub/c", "3"), (".hidden", "4")] {
            fs::write(dir.path().join(name), bytes).expect("writes");
        }
        dir
    }

    #[test]
    fn a_folder_is_its_visible_files_in_order() {
        let dir = folder();
        let names: Vec<_> = files(dir.path()).expect("reads").into_iter().map(|f| f.name).collect();
        assert_eq!(names, ["a", "b", "sub/c"]);
    }

    #[test]
    fn one_changed_byte_or_name_changes_the_digest_and_nothing_else_does() {
        let (one, two) = (folder(), folder());
        let digest = |dir: &tempfile::TempDir| content_digest(&files(dir.path()).expect("reads"));
        let before = digest(&one);
        assert_eq!(before, digest(&two));
        fs::write(two.path().join("sub/c"), "5").expect("writes");
        assert_ne!(before, digest(&two));
        fs::rename(one.path().join("a"), one.path().join("aa")).expect("renames");
        assert_ne!(before, digest(&one));
    }
}
