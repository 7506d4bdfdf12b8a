//! A file's expected digest, in either of the two spellings that people have at hand.

use std::fmt;
use std::io::{self, Read};
use std::path::Path;
use std::str::FromStr;

use sha2::{Digest as _, Sha256};
use sprint_artifacts::{Digest, Hasher};

/// `sha256:<64 hex>` (what hubs and `sha256sum` print) or `b3:<64 hex>` (what this project prints).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Checksum {
    Sha256([u8; 32]),
    Blake3(Digest),
}

/// Both digests of a file's bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FileDigests {
    pub(super) sha256: [u8; 32],
    pub(super) blake3: Digest,
    pub(super) length: u64,
}

impl FileDigests {
    /// Reads the file once.
    pub(super) fn of(path: &Path) -> io::Result<Self> {
        let mut file = std::fs::File::open(path)?;
        let (mut sha, mut b3) = (Sha256::new(), Hasher::new());
        let mut buffer = vec![0_u8; 1 << 16];
        loop {
            let n = file.read(&mut buffer)?;
            if n == 0 {
                break;
            }
            sha.update(&buffer[..n]);
            b3.update(&buffer[..n]);
        }
        Ok(Self { sha256: sha.finalize().into(), blake3: b3.finish(), length: b3.length() })
    }
}

impl Checksum {
    /// Whether the file with these digests is the expected one.
    pub(super) fn accepts(&self, found: &FileDigests) -> bool {
        match self {
            Self::Sha256(want) => *want == found.sha256,
            Self::Blake3(want) => *want == found.blake3,
        }
    }

    /// What the file has instead, in the same spelling.
    pub(super) fn counterpart(&self, found: &FileDigests) -> Self {
        match self {
            Self::Sha256(_) => Self::Sha256(found.sha256),
            Self::Blake3(_) => Self::Blake3(found.blake3),
        }
    }

    /// The SHA-256 in a hub's `X-Linked-Etag`, which large files have; other entity tags say nothing about the bytes.
    pub(super) fn of_linked_etag(value: &str) -> Option<Self> {
        let bare = value.trim().trim_start_matches("W/").trim_matches('"');
        format!("sha256:{bare}").parse().ok()
    }
}

impl FromStr for Checksum {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let form = || format!("{text:?} is not a digest: sha256:<64 hex digits> or b3:<64 hex digits>");
        match text.split_once(':') {
            // Both spellings share the digits' syntax.
            Some(("sha256", hex)) => Ok(Self::Sha256(*Digest::from_hex(hex).map_err(|_| form())?.as_bytes())),
            Some(("b3", hex)) => Ok(Self::Blake3(Digest::from_hex(hex).map_err(|_| form())?)),
            _ => Err(form()),
        }
    }
}

impl fmt::Display for Checksum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sha256(bytes) => write!(f, "sha256:{}", Digest::from_bytes(*bytes).to_hex()),
            Self::Blake3(digest) => write!(f, "{digest}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_spellings_read_back() {
        // SHA-256 of the empty string, FIPS 180-4 example; BLAKE3 of it, the specification's test vectors.
        let sha = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        let b3 = "b3:af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262";
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("empty");
        std::fs::write(&path, b"").expect("writes");
        let found = FileDigests::of(&path).expect("reads");
        for text in [sha, b3] {
            let checksum: Checksum = text.parse().expect("a digest");
            assert_eq!(checksum.to_string(), text);
            assert!(checksum.accepts(&found));
        }
        std::fs::write(&path, b"x").expect("writes");
        assert!(!sha.parse::<Checksum>().expect("a digest").accepts(&FileDigests::of(&path).expect("reads")));
    }

    #[test]
    fn other_texts_are_refused() {
        for text in ["", "sha256:", "md5:00", "sha256:zz", "b3:00", "required"] {
            assert!(text.parse::<Checksum>().is_err(), "{text:?}");
        }
        assert_eq!(Checksum::of_linked_etag("\"0123456789abcdef\""), None);
    }
}
