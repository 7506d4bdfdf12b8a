//! An append-only log: what [`append`](AppendLog::append) has returned survives a power cut.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::frame::{Found, FrameKey, MAGIC, MAX_PAYLOAD};
use crate::files::{DurableFile, Files};

/// What can go wrong with a log.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LogError {
    /// The operating system refused.
    #[error("cannot {op} {}", path.display())]
    Io {
        /// What was tried, in the infinitive.
        op: &'static str,
        /// On which file.
        path: PathBuf,
        /// The reason given.
        #[source]
        source: io::Error,
    },
    /// The disk is full.
    #[error("the disk is full: {} needs {needed} more bytes", path.display())]
    DiskFull {
        /// The log.
        path: PathBuf,
        /// The length of the frame.
        needed: u64,
    },
    /// The bytes at an offset are not what was written there. What lies before is whole.
    #[error("{} is damaged at byte {offset}, frame {sequence}; {whole} bytes of {length} are whole", path.display(), whole = offset)]
    Damaged {
        /// The log.
        path: PathBuf,
        /// Where.
        offset: u64,
        /// The number of the frame that should begin there.
        sequence: u64,
        /// How long the file is.
        length: u64,
    },
    /// The file is not a log.
    #[error("{} does not begin as a log does", path.display())]
    NotALog {
        /// The file.
        path: PathBuf,
    },
    /// An earlier append failed; what the disk holds is unknown until the log is opened again.
    #[error("an earlier append to {} failed", path.display())]
    Poisoned {
        /// The log.
        path: PathBuf,
    },
    /// The payload is longer than [`MAX_PAYLOAD`].
    #[error("a frame of {length} bytes is too long; at most {MAX_PAYLOAD} are allowed")]
    TooLong {
        /// The length of the payload.
        length: usize,
    },
}

/// A frame that was never written in full, because a crash or a power cut came first. It had not been acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Torn {
    /// Where it begins.
    pub offset: u64,
    /// How many of its bytes were there.
    pub bytes: u64,
}

/// What a log says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Replay {
    /// The payloads, oldest first; the n-th is frame n.
    pub payloads: Vec<Vec<u8>>,
    /// The incomplete frame at the end, if any.
    pub torn: Option<Torn>,
    /// The length of the whole frames, in bytes.
    whole: u64,
}

impl Replay {
    /// Reads a log, changing nothing; one that does not exist is empty.
    pub fn read(path: &Path, name: &str) -> Result<Self, LogError> {
        let bytes = match fs::read(path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            other => other.map_err(|source| LogError::Io { op: "read", path: path.to_owned(), source })?,
        };
        if bytes.len() < MAGIC.len() {
            // The power went while the file was new.
            if MAGIC.starts_with(&bytes) || bytes.iter().all(|b| *b == 0) {
                let torn = (!bytes.is_empty()).then_some(Torn { offset: 0, bytes: bytes.len() as u64 });
                return Ok(Self { torn, ..Self::default() });
            }
            return Err(LogError::NotALog { path: path.to_owned() });
        }
        if !bytes.starts_with(MAGIC) {
            return Err(LogError::NotALog { path: path.to_owned() });
        }
        Self::frames(&bytes, path, &FrameKey::of(name))
    }

    fn frames(bytes: &[u8], path: &Path, key: &FrameKey) -> Result<Self, LogError> {
        let mut replay = Self::default();
        let mut at = MAGIC.len();
        loop {
            let sequence = replay.payloads.len() as u64;
            match key.find(bytes, at, sequence) {
                Found::Frame { payload, next } => {
                    replay.payloads.push(payload.to_vec());
                    at = next;
                }
                Found::End => break,
                Found::Torn => {
                    replay.torn = Some(Torn { offset: at as u64, bytes: (bytes.len() - at) as u64 });
                    break;
                }
                Found::Damaged => {
                    let (offset, length) = (at as u64, bytes.len() as u64);
                    return Err(LogError::Damaged { path: path.to_owned(), offset, sequence, length });
                }
            }
        }
        replay.whole = at as u64;
        Ok(replay)
    }
}

/// An append-only log with one writer.
///
/// Invariant: frames are numbered 0, 1, 2, … and carry a tag keyed by the log's name. A torn last frame is cut off when the
/// log is opened; any other damage is an error, because what was acknowledged must not silently vanish.
pub struct AppendLog {
    file: Box<dyn DurableFile>,
    path: PathBuf,
    key: FrameKey,
    next: u64,
    poisoned: bool,
}

impl AppendLog {
    /// Opens the log at `path`, creating it if need be, and says what is in it. `name` binds it to its run.
    pub fn open(files: &dyn Files, path: &Path, name: &str) -> Result<(Self, Replay), LogError> {
        let io = |op| move |source| write_error(op, path, MAGIC.len(), source);
        let replay = Replay::read(path, name)?;
        let mut file = if path.exists() {
            if replay.torn.is_some() {
                files.truncate(path, replay.whole).map_err(io("cut the torn tail of"))?;
            }
            files.open_append(path).map_err(io("open"))?
        } else {
            files.create_new(path, 0o644).map_err(io("create"))?
        };
        if replay.whole == 0 {
            file.write_all(MAGIC).map_err(|e| write_error("begin", path, MAGIC.len(), e))?;
        }
        // Frames that a killed process wrote but did not force down count from now on, so they must be on the disk.
        file.sync().map_err(io("force to the disk"))?;
        if let Some(dir) = path.parent() {
            files.sync_dir(dir).map_err(io("force to the disk the folder of"))?;
        }
        let next = replay.payloads.len() as u64;
        let log = Self { file, path: path.to_owned(), key: FrameKey::of(name), next, poisoned: false };
        Ok((log, replay))
    }

    /// Appends a frame and forces it to the disk; gives its number.
    ///
    /// After a failure the log refuses everything: a second fsync may report success for bytes that the first one lost.
    pub fn append(&mut self, payload: &[u8]) -> Result<u64, LogError> {
        if self.poisoned {
            return Err(LogError::Poisoned { path: self.path.clone() });
        }
        if payload.len() > MAX_PAYLOAD {
            return Err(LogError::TooLong { length: payload.len() });
        }
        let frame = self.key.frame(self.next, payload);
        self.poisoned = true;
        self.file.write_all(&frame).map_err(|e| write_error("append to", &self.path, frame.len(), e))?;
        self.file.sync().map_err(|e| write_error("append to", &self.path, frame.len(), e))?;
        self.poisoned = false;
        self.next += 1;
        Ok(self.next - 1)
    }

    /// The number that the next frame will have.
    pub const fn next_sequence(&self) -> u64 {
        self.next
    }

    /// Where the log lies.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

fn write_error(op: &'static str, path: &Path, needed: usize, source: io::Error) -> LogError {
    let path = path.to_owned();
    match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => LogError::DiskFull { path, needed: needed as u64 },
        _ => LogError::Io { op, path, source },
    }
}

impl fmt::Debug for AppendLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AppendLog")
            .field("path", &self.path)
            .field("next", &self.next)
            .field("poisoned", &self.poisoned)
            .finish_non_exhaustive()
    }
}
