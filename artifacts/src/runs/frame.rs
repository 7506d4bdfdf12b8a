//! The bytes of an append-only log.
//!
//! ```text
//! file  = magic (18 bytes, "sprint-flow log 1\n")  frame*
//! frame = length u32 LE | sequence u64 LE | check 4 bytes | payload | tag 32 bytes
//! check = first 4 bytes of BLAKE3_key(length | sequence)
//! tag   = BLAKE3_key(length | sequence | payload)
//! key   = BLAKE3.derive_key("sprint-flow log v1", name of the run)
//! ```
//!
//! The check tells a damaged length from a frame that the disk never received in full: only the latter may be cut off.

/// The first bytes of a log.
pub(super) const MAGIC: &[u8] = b"sprint-flow log 1\n";
/// The longest payload: 16 MiB.
pub const MAX_PAYLOAD: usize = 16 << 20;
/// Length, sequence and check.
const HEAD: usize = 16;
const TAG: usize = 32;

/// The key of one log's frames: a frame of another run does not pass for one of this.
#[derive(Clone)]
pub(super) struct FrameKey([u8; 32]);

/// What lies at an offset of a log.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found<'a> {
    /// A whole frame: its payload, and where the next one begins.
    Frame { payload: &'a [u8], next: usize },
    /// The end of the log.
    End,
    /// The beginning of a frame that was never written in full.
    Torn,
    /// Bytes that no interrupted write explains.
    Damaged,
}

impl FrameKey {
    pub(super) fn of(name: &str) -> Self {
        Self(blake3::derive_key("sprint-flow log v1", name.as_bytes()))
    }

    /// The bytes of a frame; the payload must not exceed [`MAX_PAYLOAD`].
    pub(super) fn frame(&self, sequence: u64, payload: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEAD + payload.len() + TAG);
        bytes.extend_from_slice(&(payload.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&sequence.to_le_bytes());
        let check = blake3::keyed_hash(&self.0, &bytes);
        let tag = self.tag(&bytes, payload);
        bytes.extend_from_slice(&check.as_bytes()[..4]);
        bytes.extend_from_slice(payload);
        bytes.extend_from_slice(&tag);
        bytes
    }

    fn tag(&self, head: &[u8], payload: &[u8]) -> [u8; 32] {
        *blake3::Hasher::new_keyed(&self.0).update(head).update(payload).finalize().as_bytes()
    }

    /// What lies at `at`, where the frame numbered `sequence` should begin.
    pub(super) fn find<'a>(&self, bytes: &'a [u8], at: usize, sequence: u64) -> Found<'a> {
        let rest = &bytes[at..];
        if rest.is_empty() {
            return Found::End;
        }
        if rest.len() < HEAD {
            return Found::Torn;
        }
        let (head, check) = rest[..HEAD].split_at(12);
        let length = u32::from_le_bytes(head[..4].try_into().expect("4 bytes")) as usize;
        let found_sequence = u64::from_le_bytes(head[4..].try_into().expect("8 bytes"));
        let head_is_right = blake3::keyed_hash(&self.0, head).as_bytes()[..4] == *check;
        if !head_is_right || found_sequence != sequence || length > MAX_PAYLOAD {
            return unwritten_or_damaged(rest);
        }
        let Some(frame) = rest.get(..HEAD + length + TAG) else { return Found::Torn };
        let payload = &frame[HEAD..HEAD + length];
        if self.tag(head, payload) == frame[HEAD + length..] {
            Found::Frame { payload, next: at + frame.len() }
        } else if rest.len() == frame.len() {
            unwritten_or_damaged(rest)
        } else {
            Found::Damaged
        }
    }
}

/// A power cut can leave the length of a file ahead of its bytes; those then read as zeros up to the end.
fn unwritten_or_damaged(rest: &[u8]) -> Found<'static> {
    // A tag ends in eight zero bytes by chance once in 2^64.
    if rest.iter().rev().take(8).all(|b| *b == 0) { Found::Torn } else { Found::Damaged }
}
